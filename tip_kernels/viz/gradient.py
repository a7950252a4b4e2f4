"""The picture of one kernel's gradient: before and after a call, in space and in frequency."""

from typing import TYPE_CHECKING, Any

import torch

from .drawing import HIGH, Path, flat, high_band, label_frequencies, new_figure, outline, plane, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_gradient(
    before: torch.Tensor,
    after: torch.Tensor,
    cutoff: float | None = None,
    *,
    mask: torch.Tensor | None = None,
    path: Path = None,
) -> "Figure":
    """What a perturb call does to one kernel: before, after and the difference, in space and in frequency.

    The frequencies are the amplitudes of the orthonormal DFT, the mean of the kernel in the middle; an orange line
    parts the high band from the low. Where gradients are clipped, the difference is clipping and noise, unless
    ``before`` has been clipped.

    Args:
        before: floating ``[*kernel_size]``, the taps of one output and input channel, such as ``grad[3, 0]``.
        after: the same.
        cutoff: of the high band, see :func:`tip_kernels.spectrum.radial_mask`; 0.5 if neither it nor a mask is given.
        mask: instead of it, bool in ``rfftn`` layout ``[*kernel_size[:-1], kernel_size[-1] // 2 + 1]``.
        path: where to save it, in the format of its ending; None does not.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: not floating tensors of one shape with finite numbers, a shape that is no kernel's, both
            cutoff and mask, or what is no mask.
    """
    figure = new_figure(8, 5)
    draw_gradient(figure, before, after, cutoff, mask=mask)
    return saved(figure, path)


def draw_gradient(
    area: Any,
    before: torch.Tensor,
    after: torch.Tensor,
    cutoff: float | None = None,
    *,
    mask: torch.Tensor | None = None,
) -> None:
    """The picture of :func:`plot_gradient` in a figure of matplotlib, or a part of one."""
    taps = [_checked(name, kernel) for name, kernel in (("before", before), ("after", after))]
    if taps[0].shape != taps[1].shape:
        raise ValueError(f"expected after of shape {tuple(before.shape)} as before, got {tuple(after.shape)}")
    size = tuple(before.shape)
    high = high_band(size, cutoff, mask)
    taps.append(taps[1] - taps[0])
    waves = [torch.fft.fftshift(torch.fft.fftn(kernel, norm="ortho").abs()) for kernel in taps]
    axes = area.subplots(2, 3, squeeze=False)
    _draw_row(axes[0], taps, {"cmap": "RdBu_r", "vmin": -_largest(taps), "vmax": _largest(taps)})
    _draw_row(axes[1], waves, {"cmap": "Greys", "vmin": 0, "vmax": _largest(waves)})
    for axis, title in zip(axes[0], ("before", "after", "difference"), strict=True):
        axis.set_title(title, fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[1]:
        label_frequencies(axis, size)
        axis.set_xlabel(axis.get_xlabel() if axis is axes[1][1] else "")
        outline(axis, flat(plane(high, size)), HIGH)
    axes[0][0].set_ylabel("in space", fontsize=9)
    axes[1][0].set_ylabel("in frequency\n(orange: high band's edge)", fontsize=9)


def _draw_row(axes: Any, pictures: list[torch.Tensor], colors: dict[str, Any]) -> None:
    for axis, picture in zip(axes, pictures, strict=True):
        image = axis.imshow(flat(picture).numpy(), **colors)
    axes[0].figure.colorbar(image, ax=list(axes), shrink=0.9, aspect=14)


def _largest(pictures: list[torch.Tensor]) -> float:
    return max(picture.abs().max().item() for picture in pictures) or 1.0


def _checked(name: str, kernel: torch.Tensor) -> torch.Tensor:
    """As float64 on the CPU."""
    if not isinstance(kernel, torch.Tensor) or not kernel.is_floating_point():
        got = kernel.dtype if isinstance(kernel, torch.Tensor) else type(kernel).__name__
        raise TypeError(f"expected {name} to be a floating tensor, got {got}")
    if not 1 <= kernel.dim() <= 3:
        raise ValueError(
            f"expected {name} to be one kernel [*kernel_size] of 1 to 3 axes, such as grad[0, 0], got shape "
            f"{tuple(kernel.shape)}"
        )
    kernel = kernel.detach().cpu().double()
    if not kernel.isfinite().all():
        raise ValueError(f"expected {name} to be finite, got {int((~kernel.isfinite()).sum())} numbers that are not")
    return kernel
