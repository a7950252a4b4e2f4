"""Pictures, as figures of matplotlib (extra ``cli``), one a file: of masks, scores, noise, and one kernel's gradient.

Every function returns the figure, and saves it where a ``path`` is given, in the format of its ending. Without
matplotlib each raises ImportError.
"""

from .gradient import plot_gradient
from .masks import plot_masks
from .noise import plot_noise
from .scores import plot_scores
from .shaped import plot_spectrum

__all__ = ["plot_gradient", "plot_masks", "plot_noise", "plot_scores", "plot_spectrum"]
