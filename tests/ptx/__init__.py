"""Executes PTX on the CPU, so that what nvcc and Triton make of the kernels is tested where there is no GPU.

``parse.py`` reads PTX, ``arithmetic.py``, ``floats.py`` and ``convert.py`` say what instructions compute,
``memory.py``, ``shared.py`` and ``races.py`` what they may touch, ``synchronize.py`` what threads wait for, and
``launch.py`` runs all threads of a launch. An instruction, modifier or form that is not known is refused when a module
is read. ``cuda.py`` makes launches of the CUDA sources.

What is read where nothing was written, what is accessed out of bounds, unaligned or without a barrier between two
threads is an error with the line of PTX, the block and the thread.
"""
