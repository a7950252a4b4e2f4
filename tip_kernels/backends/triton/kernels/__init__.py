"""The kernels in Triton's language: the noise contract and the whole list of tensors in one launch (docs/design.md).

A lane draws groups of 16 words, so that words and normals stay in the registers of the thread that uses them. On the
path SMALL_KERNELS it owns four kernels, whose taps it reads and writes as vectors of four elements; on ANY_KERNEL it
owns one, of any size, and the product with the basis is a dot; on ELEMENTS it owns 16 elements. Programs are one warp
wide: then a program rarely spans a selected and an unselected channel, reductions need no barrier, and an unselected
channel costs one warp a rank and nothing more.

``perturb.py`` has the launch, and each path a file. They share ``words.py``, ``normals.py``, ``selection.py``,
``shape.py``, ``grid.py``, ``tile.py``, ``vectors.py`` and what ``table.py`` and ``inputs.py`` say of a launch;
``ticket.py`` takes the step. ``saliency.py`` is of the other op. Functions and constants come from other modules by
name: Triton compiles a kernel anew when a global of its functions has changed, but does not know the attributes of a
module.
"""

from .perturb import perturb_portions
from .saliency import column_sums, row_sums
from .words import write_words

__all__ = ["column_sums", "perturb_portions", "row_sums", "write_words"]
