"""A server that alters the model reads images in closed form, until noise on everything hides them."""

import pytest
import torch
from torch import nn

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import __main__ as entry
from bench.privacy.attacker import active, public_images
from bench.privacy.attacker.active import Altered
from bench.privacy.attacker.spectral import Spectral
from bench.privacy.client import defenses
from bench.privacy.commands import active as command

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend"),
]

SIZE, ROWS = 8, 128


def smooth(count: int) -> torch.Tensor:
    """Images of different brightness."""
    rough = torch.rand(count, 3, 2, 2) * torch.rand(count, 1, 1, 1)
    return nn.functional.interpolate(rough, size=(SIZE, SIZE), mode="bilinear")


@pytest.fixture
def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Public images, and a batch of 16 with labels."""
    torch.manual_seed(0)
    return smooth(500), smooth(16), torch.arange(16) % 10


def alter(name: str, public: torch.Tensor) -> Altered:
    return active.ALTERATIONS[name](active.net(3, SIZE, ROWS, width=4), public)


def read(altered: Altered, defense, shown, labels, prior=None) -> int:
    """How many of the images are found to 1 % of the range."""
    found = active.read(altered, defense(altered.model, shown, labels, 1), prior)
    errors = torch.cdist(shown.flatten(1), found.flatten(1)) / shown[0].numel() ** 0.5
    return int((errors < 0.01).any(1).sum())


def test_altered_convolutions_pass_the_picture_on(world):
    public, shown, _ = world
    for name in active.ALTERATIONS:
        passed = alter(name, public).model[: active.PASSED_ON](shown)
        assert passed[:, :3].equal(shown)
        assert not passed[:, 3:].any()


@pytest.mark.parametrize("defense", [defenses.none, defenses.targeted(0.3, 0.5), defenses.targeted(1.0, 0.5)])
def test_without_a_floor_images_lie_open(world, defense):
    """TIP leaves linear layers exact."""
    public, shown, labels = world
    # Of 16 brightnesses in 128 bins that are as likely, two share one in 1 of 9 pairings with neighbors.
    assert read(alter("bins", public), defense, shown, labels) >= 11
    assert read(alter("traps", public), defense, shown, labels) >= 4


def test_an_image_alone_is_read_by_either_and_noise_on_everything_hides_it(world):
    public, shown, labels = world
    prior = Spectral.fitted(public)
    bright = shown[shown.flatten(1).mean(1).argmax()][None]
    for name in active.ALTERATIONS:
        altered = alter(name, public)
        assert read(altered, defenses.none, bright, labels[:1]) == 1
        for defense in (defenses.gaussian(0.3), defenses.targeted(0.3, 0.6, floor_std=0.3)):
            assert read(altered, defense, bright, labels[:1], prior) == 0


def test_rows_with_the_same_image_are_averaged(world):
    """One image: half of the rows or more hold it, and their mean has less noise than any of them."""
    public, shown, labels = world
    altered = alter("bins", public)
    bright = shown[shown.flatten(1).mean(1).argmax()][None]
    (image,) = active.read(altered, defenses.gaussian(2e-3)(altered.model, bright, labels[:1], 1))
    # The rows have norm 1 together: averaged, noise is about 2e-3 of the image's root mean square times its pixels'
    # root; a single row would leave ten times that.
    assert (image - bright[0]).square().mean().sqrt() < 0.05
    holding = int((altered.thresholds < bright.mean()).sum())
    assert holding > 20


def test_noise_alone_is_no_image(world):
    public, shown, labels = world
    for name in active.ALTERATIONS:
        altered = alter(name, public)
        release = defenses.gaussian(1.0)(altered.model, shown, labels, 1)
        assert len(active.read(altered, release, Spectral.fitted(public))) == 0


def test_changes_are_found_where_they_are():
    torch.manual_seed(0)
    clean = torch.zeros(60, 200, dtype=torch.float64)
    clean[:20] += torch.rand(200)
    clean[:50] += torch.rand(200)
    assert active._changes(clean, 0.0, 0, 60) == [20, 50]
    # A row's step of squared norm 200 / 3 is below the noise of a difference, 2 * 200 / 4; that of 20 rows is not.
    assert active._changes(clean + 0.5 * torch.randn(60, 200), 0.5, 0, 60) == [20, 50]
    assert active._changes(0.5 * torch.randn(60, 200).double(), 0.5, 0, 60) == []


def test_command_prints_and_publishes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(public_images, "public", lambda data: torch.rand(200, 3, 32, 32) * torch.rand(200, 1, 1, 1))
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {command.TABLE}: begins -->\n<!-- {command.TABLE}: ends -->\n")
    entry.main(["active", "--batch", "2", "--rows", "16", "--floors", "0.1", "--page", str(page)])
    out = capsys.readouterr().out
    assert "| none | " in out
    assert "| TIP 0.3, floor 0.1 | 0 of 2 | " in out
    assert "| (public mean, without a message) | | " in out
    assert out.strip() in page.read_text()
    with pytest.raises(SystemExit, match="expected --batch of at most 32, got 33"):
        command.clients(None, 33)
