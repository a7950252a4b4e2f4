"""The commands of ``python -m tip_kernels``, one a file, and what they are made of."""
