"""What pictures show is what they were given, and bad input is refused with what was expected."""

import re

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

import tip_kernels as tip
from tip_kernels import spectrum, viz
from tip_kernels.viz import drawing
from tip_kernels.viz.noise import lines_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 4, 1), nn.Flatten(), nn.Linear(144, 3))
    return nn.Sequential(*layers)


def defense(**settings) -> tip.TIP:
    """Three fifths of the first layer's channels, and what noises them."""
    return tip.TIP(net(), **{"ratio": 0.6, "cutoff": 0.75, "std": 0.4, "max_grad_norm": 1.0, **settings})


def refuses(error, said, call, *given, **named):
    with pytest.raises(error, match=re.escape(said)):
        call(*given, **named)


# --- masks


@pytest.mark.parametrize("size", [(5,), (3, 3), (4, 5), (2, 3, 4)])
def test_a_plane_has_every_bin_where_fftshift_puts_it(size):
    kernel = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stored, full = (transform(kernel).abs() for transform in (torch.fft.rfftn, torch.fft.fftn))
    torch.testing.assert_close(drawing.plane(stored, size), torch.fft.fftshift(full))


def test_masks_show_bins_and_waves(tmp_path):
    figure = viz.plot_masks((5, 5), 0.5, path=tmp_path / "masks.png")
    assert (tmp_path / "masks.png").read_bytes().startswith(b"\x89PNG")
    plane, *waves = figure.axes
    cells = torch.from_numpy(plane.images[0].get_array().filled())
    assert (cells == 0).nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2, 3)]
    assert [label.get_text() for label in plane.get_xticklabels()] == ["-2", "-1", "0", "1", "2"]
    basis, d = spectrum.real_basis((5, 5), spectrum.radial_mask((5, 5), 0.5))
    for number, axis in enumerate(waves):
        shown = torch.from_numpy(axis.images[0].get_array().filled())
        torch.testing.assert_close(shown.flatten(), basis[:, number], check_stride=False)
    edges = [axis.spines["top"].get_edgecolor() for axis in waves]
    assert edges[:d] == edges[:1] * d
    assert edges[d:] == edges[-1:] * (25 - d)
    assert edges[0] != edges[-1]


@pytest.mark.parametrize("size", [(7,), (3, 3, 3), (9, 9)])
def test_other_kernels_have_masks_too(size, tmp_path):
    figure = viz.plot_masks(size, mask=spectrum.radial_mask(size, 0.7), path=tmp_path / "masks.png")
    assert sum(bool(axis.images) for axis in figure.axes) == 1 + torch.Size(size).numel()


def test_masks_refuse_what_cannot_be_drawn():
    refuses(ValueError, "expected either cutoff or mask, got cutoff 0.5", viz.plot_masks, (3, 3), 0.5,
            mask=spectrum.radial_mask((3, 3), 0.5))  # fmt: skip
    refuses(ValueError, "1 to 3 axes and at most 125 taps to draw, got (3, 3, 3, 3)", viz.plot_masks, (3,) * 4)
    refuses(ValueError, "at most 125 taps to draw, got (12, 12)", viz.plot_masks, (12, 12))
    refuses(ValueError, "expected cutoff in [0, 1), got 1.5", viz.plot_masks, (3, 3), 1.5)
    refuses(ValueError, "expected mask of shape (3, 2)", viz.plot_masks, (3, 3), mask=torch.ones(3, 3).bool())
    refuses(TypeError, "tuple of ints, got (3.0, 3)", viz.plot_masks, (3.0, 3))


# --- scores


def test_scores_are_those_of_the_next_call(tmp_path):
    with defense() as made:
        made.measure(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        scores = made.scores()
        figure = viz.plot_scores(made, path=tmp_path / "scores.png")
        made.perturb_update({name: torch.ones_like(p) for name, p in net().named_parameters()})
        by_hand = viz.plot_scores(scores, made.selected())
    for drawn in (figure, by_hand):
        chosen, others = drawn.axes[0].lines[:2]
        shares = scores["0.weight"].double() / scores["0.weight"].max().item()
        marked = made.selected()["0.weight"]
        assert list(chosen.get_xdata()) == shares[marked].tolist()
        assert list(others.get_xdata()) == shares[~marked].tolist()
        assert len(chosen.get_xdata()) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0.weight", "3.weight"]
    assert len(figure.axes[0].lines[2].get_xdata()) == 0  # 1x1 kernels have no high band


def test_scores_of_all_zeros_are_drawn():
    viz.plot_scores({"a": torch.zeros(3)}, {"a": torch.tensor([True, False, False])})


def test_scores_refuse_what_does_not_tell_them():
    made, chosen = defense(), torch.tensor([True, False])
    refuses(ValueError, "expected a TIP that has scores, got one without", viz.plot_scores, made)
    refuses(ValueError, "expected selected beside scores by name, got None", viz.plot_scores, {"a": torch.ones(2)})
    refuses(TypeError, "a mapping by kernel, got list", viz.plot_scores, [])
    refuses(TypeError, "real tensors [C_out], got (2, 1), torch.float32 (a)", viz.plot_scores,
            {"a": torch.ones(2, 1)}, {"a": chosen})  # fmt: skip
    refuses(ValueError, "expected finite scores, got 1 that are not (a)", viz.plot_scores,
            {"a": torch.tensor([1.0, float("nan")])}, {"a": chosen})  # fmt: skip
    refuses(ValueError, "selected of shape (2,), bool, got (3,), torch.bool (a)", viz.plot_scores,
            {"a": torch.ones(2)}, {"a": torch.ones(3).bool()})  # fmt: skip
    made.close()
    refuses(RuntimeError, "expected an open TIP", viz.plot_scores, made)


# --- one kernel's gradient


@pytest.mark.parametrize("size", [(5,), (3, 3), (3, 3, 3)])
def test_a_gradient_is_shown_in_space_and_in_frequency(size, tmp_path):
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(size, generator=generator) for _ in range(2))
    figure = viz.plot_gradient(before, after, path=tmp_path / "gradient.png")
    pictures = [torch.from_numpy(axis.images[0].get_array().filled(float("nan"))) for axis in figure.axes[:6]]
    assert len({picture.shape for picture in pictures}) == 1
    seen = [picture[~picture.isnan()] for picture in pictures]
    for shown in seen:
        assert len(shown) == before.numel()
    assert seen[2].sum().item() == pytest.approx((after.double() - before.double()).sum().item())
    for space, frequency in zip(seen[:3], seen[3:], strict=True):  # the DFT is orthonormal
        assert space.square().sum().item() == pytest.approx(frequency.square().sum().item())


def test_a_line_is_around_the_high_band():
    figure = viz.plot_gradient(torch.zeros(5, 5), torch.zeros(5, 5), 0.5)
    corners = {(x, y) for line in figure.axes[3].lines for x, y in line.get_xydata().tolist()}
    assert {value for corner in corners for value in corner} == {0.5, 1.5, 2.5, 3.5}
    assert len(figure.axes[3].lines) == 12  # three cells at each side
    assert not figure.axes[0].lines


def test_a_gradient_that_is_none_is_refused():
    kernel = torch.zeros(3, 3)
    refuses(ValueError, "after of shape (3, 3) as before, got (5, 5)", viz.plot_gradient, kernel, torch.zeros(5, 5))
    refuses(ValueError, "one kernel [*kernel_size] of 1 to 3 axes, such as grad[0, 0], got shape (1, 1, 3, 3)",
            viz.plot_gradient, kernel[None, None], kernel[None, None])  # fmt: skip
    refuses(
        TypeError, "expected after to be a floating tensor, got torch.int64", viz.plot_gradient, kernel, kernel.long()
    )
    refuses(TypeError, "expected before to be a floating tensor, got NoneType", viz.plot_gradient, None, kernel)
    refuses(ValueError, "expected after to be finite, got 9 numbers", viz.plot_gradient, kernel, kernel / 0)


# --- noise


def test_noise_is_as_loud_as_set_and_exact_where_there_is_none(tmp_path):
    with defense() as made:
        lines = {line.name: line for line in lines_of(made)}
        figure = viz.plot_noise(made, tmp_path / "noise.png")
    assert lines["0.weight"].high.tolist() == [0.4] * 4  # the corners of 3x3
    assert lines["0.weight"].exact == pytest.approx(1 - 0.6 * 4 / 9)
    assert {name for name, line in lines.items() if line.exact == 1} == set(lines) - {"0.weight"}
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == list(lines)
    assert "1.num_batches_tracked" in labels
    exact = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "X"]
    assert exact == list(range(len(lines)))  # of the first kernel a part


def test_a_floor_leaves_integers_exact_only():
    with defense(floor_std=0.1) as made:
        lines = list(lines_of(made))
    assert [line.name for line in lines if line.exact] == ["1.num_batches_tracked"]
    assert all(set(line.elsewhere.tolist()) == {0.1} for line in lines if not line.exact)
    with defense(floor_std=0.1, buffers="withhold") as made:
        assert not any(line.exact for line in lines_of(made))


@pytest.mark.parametrize(("ratio", "high"), [(0.0, 0), (1.0, 4)])
def test_noise_follows_the_ratio(ratio, high):
    with defense(ratio=ratio, floor_std=0.1) as made:
        first = next(iter(lines_of(made)))
    assert len(first.high) == high
    assert set(first.elsewhere.tolist()) == {0.1}


def test_noise_of_shares_and_of_a_spectrum_is_what_one_client_adds():
    with defense(floor_std=0.1, shares=4) as made:
        assert set(next(iter(lines_of(made))).high.tolist()) == {0.2}
    stds = {name: 0.5 for name, _ in net().named_parameters()}
    stds["0.weight"] = torch.tensor([[[0.3] * 2] * 3, [[0.7] * 2] * 3])
    with defense(std=None, spectrum=tip.Spectrum(stds), max_grad_norm=2.0, buffers="withhold") as made:
        first, second = list(lines_of(made))[:2]
        viz.plot_noise(made)
    assert first.high.tolist() == pytest.approx([1.4] * 4)
    assert sorted(set(first.elsewhere.tolist())) == pytest.approx([0.6, 1.4])
    assert second.elsewhere.tolist() == [1.0]


def test_noise_of_no_tip_is_refused():
    refuses(TypeError, "expected tip to be a tip_kernels.TIP, got Sequential", viz.plot_noise, net())
    refuses(TypeError, "expected spectrum to be a tip_kernels.Spectrum, got Sequential", viz.plot_spectrum, net())
