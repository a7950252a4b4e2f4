"""The demo's pictures: demo.png, and the parts that its page shows one by one."""

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from bench.privacy.client.one_kernel import Kernel
from examples.demo_results import Results, defense_of, guess_psnr, knows_best
from tip_kernels.audit import Audit
from tip_kernels.viz.gradient import draw_gradient


def picture(results: Results, cutoff: float) -> Figure:
    """Three rows of images, and below them one kernel of the gradient under every defense with noise."""
    figure = Figure(figsize=(13, 14.5), layout="constrained")
    images, kernels = figure.subfigures(2, 1, height_ratios=(9.3, 5.2))
    _draw_images(images, results)
    for area, (name, kernel) in zip(kernels.subfigures(1, len(results.kernels)), results.kernels.items(), strict=True):
        area.suptitle(f"one kernel of the gradient under {name}", fontsize=12)
        draw_gradient(area, kernel.before, kernel.after, cutoff)
    return figure


def _draw_images(area: SubFigure, results: Results) -> None:
    """The attacks; below the attackers who know the defense, the audit's best guesses and exposure maps."""
    rows = area.subplots(3, 1 + len(results.rebuilt))
    _show(rows[0][0], results.original, "original")
    _say(rows[1][0], "the audit's best guess\nfrom one message")
    _say(rows[2][0], "the audit's exposure map\n\nbright: seen\nblack: hidden as\nwithout a message")
    for column, (name, one) in enumerate(results.rebuilt.items(), start=1):
        _show(rows[0][column], one.image, f"{name.replace(', ', chr(10))}\n{one.psnr:.1f} dB, SSIM {one.ssim:.2f}")
        if not knows_best(name):
            _say(rows[1][column], "")
            _say(rows[2][column], "")
            continue
        found = results.audits[defense_of(name)]
        guess = guess_psnr(found, results.original)
        _show(rows[1][column], found.guess[0].float(), f"{guess:.1f} dB for this photo")
        _show(rows[2][column], exposure(found), f"ceiling {found.psnr.item():.1f} dB on average")


def _show(axis: Axes, image: torch.Tensor, caption: str) -> None:
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axis.set_title(caption, fontsize=11)
    axis.set_axis_off()


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, horizontalalignment="center", verticalalignment="center", fontsize=12)
    axis.set_axis_off()


def exposure(found: Audit) -> torch.Tensor:
    """The error that is left at each place, in colors [3, 32, 32]: from none, bright, to all that the prior has."""
    error = found.uncertainty[0].square().mean(0).sqrt() * 10 ** (found.prior_psnr / 20)
    return torch.from_numpy(colormaps["inferno_r"](error.clamp(0, 1).numpy())[..., :3]).permute(2, 0, 1)


def kernel_figure(kernel: Kernel, cutoff: float) -> Figure:
    """Of one kernel, with letters that are legible as wide as a phone."""
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    draw_gradient(figure, kernel.before, kernel.after, cutoff)
    return figure
