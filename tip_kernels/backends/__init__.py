"""Implementations of the ops in ``tip_kernels/_ops.py``, a file or a folder each; ``_dispatch.py`` chooses."""
