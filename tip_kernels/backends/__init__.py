"""Implementations of the ops in ``_op/schemas.py``, a file or a folder each; ``_op/dispatch.py`` chooses."""
