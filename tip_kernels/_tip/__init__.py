"""The parts of :class:`tip_kernels.TIP`, one idea each; ``defense.py`` puts them together."""
