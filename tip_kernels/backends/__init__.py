"""Implementations of the ops in ``tip_kernels/_ops.py``, one file each; ``_dispatch.py`` chooses."""
