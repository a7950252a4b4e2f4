"""Spectra: amounts by frequency, in the order in which the op takes them, and the same after a file."""

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tip_kernels import spectrum
from tip_kernels.shaping import Spectrum

pytestmark = pytest.mark.usefixtures("seeded")


def bins(*kernel_size: int) -> torch.Tensor:
    """A std for each bin of a real kernel, [2, *bins]: the same at conjugate ones, others apart."""
    power = torch.rand(2, *kernel_size, dtype=torch.float64) + 0.5
    axes = tuple(range(1, power.dim()))
    even = torch.fft.fftn(torch.fft.ifftn(power, dim=axes).real, dim=axes).real  # of a real kernel's autocorrelation
    return even[..., : kernel_size[-1] // 2 + 1].round(decimals=9)


@pytest.mark.parametrize("kernel_size", [(3,), (4,), (3, 3), (4, 3), (2, 4), (5, 5), (3, 2, 4)])
@pytest.mark.parametrize("cutoff", [0.0, 0.5])
def test_noise_of_the_columns_has_the_spectrum(kernel_size, cutoff):
    """The covariance of Q diag(std) xi, transformed: on its diagonal is the variance of each bin of the DFT."""
    mask = spectrum.radial_mask(kernel_size, cutoff)
    given = bins(*kernel_size)
    columns = Spectrum({"conv": given}).columns("conv", kernel_size, mask)
    basis, _ = spectrum.real_basis(kernel_size, mask)
    taps = len(basis)
    for std, wanted in zip(columns, given, strict=True):
        covariance = basis * std.square() @ basis.T
        waves = torch.eye(taps, dtype=torch.complex128).view(taps, *kernel_size)
        dft = torch.fft.fftn(waves, dim=tuple(range(1, waves.dim())), norm="ortho").flatten(1).T
        variance = (dft @ covariance.to(dft) @ dft.conj().T).diagonal().real.view(kernel_size)
        torch.testing.assert_close(variance[..., : kernel_size[-1] // 2 + 1], wanted.square(), rtol=1e-6, atol=0)


def some() -> Spectrum:
    return Spectrum({"conv.weight": bins(3, 3), "conv.bias": 0.2, "fc.weight": torch.tensor(0.3)})


def test_a_file_keeps_it(tmp_path):
    kept = some()
    kept.save(tmp_path / "spectrum.json")
    assert [path.name for path in tmp_path.iterdir()] == ["spectrum.json"]
    loaded = Spectrum.load(tmp_path / "spectrum.json")
    assert loaded == kept
    assert hash(loaded) == hash(kept)
    assert all(torch.equal(std, kept.stds[name]) for name, std in loaded.stds.items())


def test_a_fingerprint_tells_every_amount_and_name_but_no_order():
    stds = some().stds
    reordered = Spectrum(dict(reversed(stds.items())))
    assert reordered.fingerprint() == Spectrum(stds).fingerprint()
    changed = stds["conv.weight"].clone()
    changed[1, 0, 0] *= 1 + 1e-12
    others = [{**stds, "conv.weight": changed}, {**stds, "conv.bias": 0.3}, {"other": stds["conv.weight"], **stds}]
    found = {Spectrum(other).fingerprint() for other in others} | {reordered.fingerprint()}
    assert len(found) == 4
    assert Spectrum(others[0]) != reordered


def test_nobody_changes_it():
    given = torch.tensor(0.5)
    kept = Spectrum({"bias": given})
    given.fill_(0.0)
    kept.stds["bias"].fill_(0.0)
    assert kept.least() == 0.5


def test_least_and_scaled():
    kept = Spectrum({"weight": torch.tensor([[0.5, 0.2], [0.4, 3.0]]), "bias": 0.3})
    assert kept.least() == pytest.approx(0.2)
    assert kept.scaled(2.0).stds["weight"].flatten().tolist() == pytest.approx([1.0, 0.4, 0.8, 6.0])
    assert "2 parameters, 0.2 to 3" in repr(kept)


@pytest.mark.parametrize(
    ("stds", "error", "text"),
    [
        ({}, TypeError, r"expected stds to be a mapping by parameter name, got \{\}"),
        ([0.1], TypeError, "expected stds to be a mapping"),
        ({1: 0.1}, TypeError, "named by strings, got 1"),
        ({"a": "loud"}, TypeError, "expected numbers as the std of 'a', got str"),
        ({"a": 0.0}, ValueError, r"finite and above 0, got 0 \(a\)"),
        ({"a": -1}, ValueError, r"got -1 \(a\)"),
        ({"a": 10**400}, TypeError, "expected numbers as the std of 'a', got int"),
        ({"a": 1j}, TypeError, "expected numbers as the std of 'a', got complex"),
        ({"a": True}, TypeError, "expected numbers as the std of 'a', got true or false"),
        ({"a": [[1.0, 2.0], [1.0, True]]}, TypeError, "expected numbers as the std of 'a', got true or false"),
        ({"a": float("nan")}, ValueError, r"got nan \(a\)"),
        ({"a": [[1.0, float("inf")], [1.0, 1.0]]}, ValueError, r"got inf \(a\)"),
        ({"a": [1.0, 2.0]}, ValueError, r"by bin \[2, \*bins\], got shape \(2,\) \(a\)"),
        ({"a": [[1.0, 2.0]]}, ValueError, r"got shape \(1, 2\) \(a\)"),
    ],
)
def test_what_is_no_spectrum_is_refused(stds, error, text):
    with pytest.raises(error, match=text):
        Spectrum(stds)


@pytest.mark.parametrize(
    ("change", "text"), [("cfloat", "got torch.complex64"), ("to_sparse", "got torch.float32, torch.sparse_coo")]
)
def test_tensors_of_other_kinds_are_refused(change, text):
    std = getattr(torch.ones(2, 3, 2), change)()
    with pytest.raises(TypeError, match=f"expected real numbers as the std of 'a', {text}"):
        Spectrum({"a": std})


def test_a_file_that_says_two_things_is_refused(tmp_path):
    """JSON would take the last, which may be less noise than the one that somebody has read."""
    path = tmp_path / "spectrum.json"
    for text, said in (
        ('{"format": 1, "stds": {"a": 0.5, "b": 1.0, "a": 0.001}}', "every name once, got 'a' twice"),
        ('{"format": 1, "stds": {"a": 0.5}, "std": {"a": 1}}', "expected format and stds, got format, std, stds"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"got something else: .*{said}"):
            Spectrum.load(path)


def test_a_failed_save_leaves_neither_a_draft_nor_another_file(tmp_path, monkeypatch):
    path = tmp_path / "spectrum.json"
    kept = some()
    kept.save(path)

    def full(self, text):
        self.write_bytes(text.encode()[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="no space"):
        kept.scaled(2.0).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert Spectrum.load(path) == kept


def test_amounts_are_real_and_on_the_cpu_whatever_is_in_force(tmp_path):
    given = {"conv": torch.ones(2, 3, 2), "bias": 0.5}
    Spectrum(given).save(tmp_path / "spectrum.json")
    for mode in (torch.device("meta"), FakeTensorMode()):
        with mode:
            made, loaded = Spectrum(given), Spectrum.load(tmp_path / "spectrum.json")
        assert made == loaded == Spectrum(given)
        assert made.least() == 0.5


def test_columns_are_of_the_kernels_that_it_was_made_for():
    kept, mask = some(), spectrum.radial_mask((5, 5), 0.5)
    with pytest.raises(ValueError, match=r"of \(2, 5, 3\) for \(5, 5\) taps, got \(2, 3, 2\) \(conv.weight\)"):
        kept.columns("conv.weight", (5, 5), mask)
    uneven = torch.ones(2, 3, 2)
    uneven[1, 1, 0] = 2.0
    with pytest.raises(ValueError, match=r"spectrum \(conv.weight\) equal at the conjugate bins \(1, 0\) and \(2, 0\)"):
        Spectrum({"conv.weight": uneven}).columns("conv.weight", (3, 3), spectrum.radial_mask((3, 3), 0.5))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        f'{{"format": 1, "stds": {{"a": 1{"0" * 400}}}}}',
        '{"format": 2, "stds": {"a": 1.0}}',
        '{"format": 1, "stds": {"a": -1}}',
        '{"format": 1}',
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "spectrum.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"expected a spectrum in .*spectrum.json, got something else"):
        Spectrum.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Spectrum.load(path)


def test_a_file_says_what_it_holds(tmp_path):
    some().save(tmp_path / "spectrum.json")
    assert json.loads((tmp_path / "spectrum.json").read_text())["stds"]["conv.bias"] == 0.2


def test_a_picture_has_every_amount(tmp_path):
    pytest.importorskip("matplotlib")
    from tip_kernels.viz import plot_spectrum

    kept = some()
    figure = plot_spectrum(kept, str(tmp_path / "spectrum.png"))
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    axis = figure.axes[0]
    drawn = [point for points in axis.collections for point in points.get_offsets()[:, 1].tolist()]
    assert sorted(drawn) == pytest.approx(sorted(kept.stds["conv.weight"].flatten().tolist()))
    assert sorted(line.get_ydata()[0] for line in axis.lines) == pytest.approx([0.2, 0.3])
    assert [label.get_text() for label in axis.get_xticklabels()] == list(kept.stds)
    # By frequency: DC is the lowest, and the corner of 3x3 bins the highest.
    assert axis.collections[0].get_array().reshape(3, 2)[[0, 1], [0, 1]].tolist() == pytest.approx([0.0, 1.0])
