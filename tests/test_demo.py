"""What the demo says follows from its figures, and each attack is beside the audit of its own defense."""

import dataclasses

import pytest
import torch
from torch import nn

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy.study import metrics
from examples import demo
from tip_kernels.audit import Audit


def conclusion(*psnr: float, price: float = 0.01) -> tuple[str, str]:
    trained = {"no defense": demo.Trained(0.97, 1.0), "TIP with floor": demo.Trained(0.97 - price, 1.0)}
    return demo.conclusion(dict(zip("abcd", psnr, strict=True)), trained)


def test_demo_concludes_from_its_figures():
    first, second = conclusion(30, 15, 24, 12)
    assert "costs a naive attacker 15.0 dB, but" in first
    assert "9.0 dB back" in first
    assert "leaves one who knows photos 12.0 dB and costs 1.0 points" in second
    assert "a louder one: one who knows photos still gets 14.0 dB" in conclusion(30, 15, 24, 14)[1]
    assert "hardly hinders" in conclusion(30, 28, 29, 12)[0]
    assert "no more than 1.0 dB back" in conclusion(30, 15, 16, 12)[0]
    assert "too small" in conclusion(30, 15, 24, 23)[1]
    assert "costs no accuracy" in conclusion(30, 15, 24, 12, price=-0.01)[1]


@pytest.fixture
def audits(monkeypatch, one_thread) -> dict[str, Audit]:
    """Of a small net and noise for photos."""
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(31, 3, 12, 12, generator=generator)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(100, 10))
    monkeypatch.setattr(demo, "_target", lambda: (net, torch.tensor([3])))
    monkeypatch.setattr(demo.public_images, "photo_crops", lambda stride: photos[1:])
    return demo.audit_all(photos[0])


def test_noise_lowers_the_ceiling_of_each_defense(audits):
    assert list(audits) == list(demo.DEFENSES)
    none, tip, floor = (found.psnr.item() for found in audits.values())
    assert none > tip > floor > audits["TIP"].prior_psnr
    assert [found.exact_std > 0 for found in audits.values()] == [True, True, False]


def test_attacks_are_beside_the_audits_of_their_defenses(audits, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    names = ("no defense", "TIP, naive attacker", "TIP, informed attacker", "TIP with floor, knowing photos")
    rebuilt = {name: demo.Rebuilt(original, 10.0 + number, 0.5) for number, name in enumerate(names)}
    demo.print_attacks(original, rebuilt, audits)
    lines = capsys.readouterr().out.splitlines()[2:6]
    for name, line, defense in zip(names, lines, ("no defense", "TIP", "TIP", "TIP with floor"), strict=True):
        found = audits[defense]
        guess = metrics.compare(found.guess.float(), original[None])[0].psnr
        assert line.startswith(name)
        assert line.split()[-4:] == [f"{rebuilt[name].psnr:.1f}", "0.50", f"{found.psnr.item():.1f}", f"{guess:.1f}"]
    demo.save_pictures(original, rebuilt, audits)
    assert (tmp_path / "demo.png").read_bytes()[:4] == b"\x89PNG"


def test_exposure_is_bright_where_nothing_is_left_unknown(audits):
    found, left = audits["TIP"], torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    left[..., 6:] = 10 ** (-found.prior_psnr / 20)
    colors = demo._exposure(dataclasses.replace(found, uncertainty=left))
    assert colors[:, :, :6].mean(dim=(1, 2)).min() > 0.6  # yellowish white
    assert colors[:, :, 6:].max() < 0.02
