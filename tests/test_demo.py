"""What the demo says follows from its figures, and each attack is beside the audit of its own defense."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from matplotlib.image import imread

from bench.privacy.study import metrics
from examples import demo, demo_page, demo_pictures
from examples.demo_results import Rebuilt, Results, Trained
from tip_kernels.audit import Audit


def conclusion(*psnr: float, price: float = 0.01) -> tuple[str, str]:
    trained = {"no defense": Trained(0.97, 1.0), "TIP with floor": Trained(0.97 - price, 1.0)}
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


NAMES = ("no defense", "TIP, naive attacker", "TIP, informed attacker", "TIP with floor, knowing photos")


@pytest.fixture
def results(audits) -> Results:
    """Attacks that end 10, 16, 19 and 25 dB from a photo of noise."""
    original = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    rebuilt = {name: Rebuilt(original, psnr, 0.5) for name, psnr in zip(NAMES, (10.0, 16.0, 19.0, 25.0), strict=True)}
    trained = {name: Trained(0.97, 1.0) for name in demo.DEFENSES}
    kernels = {"TIP": demo.Kernel(torch.zeros(5, 5), torch.ones(5, 5))}
    kernels["TIP with floor"] = demo.Kernel(torch.zeros(5, 5), torch.zeros(5, 5))
    return Results(original, trained, rebuilt, audits, kernels, ("It <costs> this & that.", "So be it."))


def test_attacks_are_beside_the_audits_of_their_defenses(results, audits, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo.print_attacks(results.original, results.rebuilt, audits)
    lines = capsys.readouterr().out.splitlines()[2:6]
    for name, line, defense in zip(NAMES, lines, ("no defense", "TIP", "TIP", "TIP with floor"), strict=True):
        found = audits[defense]
        guess = metrics.compare(found.guess.float(), results.original[None])[0].psnr
        psnr = f"{results.rebuilt[name].psnr:.1f}"
        assert line.startswith(name)
        assert line.split()[-4:] == [psnr, "0.50", f"{found.psnr.item():.1f}", f"{guess:.1f}"]
    demo.save(results)
    assert (tmp_path / "demo.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "demo.html").read_text().startswith("<!DOCTYPE html>")


def test_the_picture_has_attacks_audits_and_kernels(results):
    figure = demo_pictures.picture(results, 0.5)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[:2] == ["original", "no defense\n10.0 dB, SSIM 0.50"]
    assert sum("ceiling" in title for title in titles) == 3
    assert titles[-6:] == ["before", "after", "difference"] * 2


class Page(HTMLParser):
    """Tags that are open, and what images and text a page has; a tag that is closed out of turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.tags, self.text = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " " + data


def test_the_page_stands_alone_and_says_what_the_numbers_mean(results):
    text = demo_page.page(results, "std=0.02 & more", 0.5)
    page = Page(text)
    assert not page.open
    assert not page.tags & {"script", "link", "iframe"}
    assert not re.search(r"https?:|url\(|@import", text)
    for figures in ("10.0 dB, SSIM 0.50. No more than one could guess", "16.0 dB, SSIM 0.50. Often still a shape",
                    "19.0 dB, SSIM 0.50. One knows", "25.0 dB, SSIM 0.50. The picture is there"):  # fmt: skip
        assert figures in page.text
    for found in results.audits.values():
        assert f"Ceiling {found.psnr.item():.1f} dB" in page.text
    assert "It <costs> this & that." in page.text  # and not as a tag
    assert "std=0.02 & more" in page.text


def test_the_page_has_every_picture_in_it(results):
    page = Page(demo_page.page(results, "", 0.5))
    pixels = []
    for image in page.images:
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert image["alt"]
        pixels.append(torch.from_numpy(imread(io.BytesIO(base64.b64decode(data)))))
    assert len(pixels) == 5 + 2 * 3 + 2  # original and attacks, guess and map of each defense, kernels
    torch.testing.assert_close(pixels[0][..., :3].permute(2, 0, 1), results.original, rtol=0, atol=1 / 255)


@pytest.mark.parametrize(("settings", "is_exact"), [(demo.SETTINGS, True), (demo.FLOOR, False)], ids=("TIP", "floor"))
def test_a_kernels_low_band_is_exact_without_a_floor(settings, is_exact):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(256, 3))
    kernel = demo.one_kernel(net, torch.rand(1, 3, 12, 12), torch.tensor([1]), settings, "0.weight")
    change = torch.fft.fftshift(torch.fft.fftn(kernel.after - kernel.before, norm="ortho")).abs()
    high = torch.ones(5, 5, dtype=torch.bool)
    high[1:4, 1:4] = False
    assert change[high].min() > 1e-4
    assert (change[~high].max() < 1e-6) == is_exact


def test_exposure_is_bright_where_nothing_is_left_unknown(audits):
    found, left = audits["TIP"], torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    left[..., 6:] = 10 ** (-found.prior_psnr / 20)
    colors = demo_pictures.exposure(dataclasses.replace(found, uncertainty=left))
    assert colors[:, :, :6].mean(dim=(1, 2)).min() > 0.6  # yellowish white
    assert colors[:, :, 6:].max() < 0.02
