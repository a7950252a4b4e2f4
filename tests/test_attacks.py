"""The attacks of the study: they work where nothing is defended, and knowing the defence helps them."""

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
metrics = pytest.importorskip("torchmetrics.functional.image")

import tip_kernels as tip  # noqa: E402
from bench import demo  # noqa: E402
from bench.privacy import attackers, attacks, tasks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend")


def released(model: nn.Module, image: torch.Tensor, ratio: float) -> tuple[attacks.Gradient, dict[str, torch.Tensor]]:
    """One image's gradient behind TIP, and which channels were perturbed."""
    model.zero_grad()
    with tip.TIP(model, ratio=ratio, std=0.02, max_grad_norm=1.0, rng=tip.NoiseRNG.from_seed(0)) as defense:
        nn.functional.cross_entropy(model(image[None]), torch.tensor([3])).backward()
        defense.perturb_gradients()
        return [p.grad.clone() for p in model.parameters()], defense.selected()


def psnr(images: torch.Tensor, originals: torch.Tensor) -> list[float]:
    return [
        metrics.peak_signal_noise_ratio(image, original, data_range=1.0).item()
        for image, original in zip(images, originals, strict=True)
    ]


def test_undefended_photos_are_rebuilt():
    """The positive control: without it no figure of the study means anything."""
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=3, size=32)
    photos = torch.stack([tasks.photo_crop(name) for name in tasks.PHOTO_CROPS])
    label = torch.tensor([3])
    tries = [attacks.Attack(attacks.client_gradient(model, photo[None], label), label) for photo in photos]
    found = attacks.invert(model, tries, photos.shape[1:], search=attacks.Search(iterations=300))
    assert sorted(psnr(found.images[:, 0], photos))[1] > 25  # dB, the median


def test_knowing_the_noised_channels_helps():
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=3, size=32)
    photo = tasks.photo_crop("flower")
    gradient, selected = released(model, photo, ratio=1.0)
    label = torch.tensor([3])
    known = attackers.oracle_mask(model, selected)
    # The naive attacker smooths more: with the other's little smoothing it would do worse still.
    tries = [attacks.Attack(gradient, label, None, tv=1.0), attacks.Attack(gradient, label, known)]
    found = attacks.invert(model, tries, photo.shape, search=attacks.Search(iterations=300))
    naive, informed = psnr(found.images[:, 0], [photo, photo])
    assert informed > naive + 3  # dB: less than half the gap that make demo shows


def test_oracle_leaves_out_what_was_perturbed():
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=1, size=8)
    image = torch.rand(1, 8, 8)
    clean = attacks.client_gradient(model, image[None], torch.tensor([3]))
    gradient, selected = released(model, image, ratio=0.5)
    weights = attackers.oracle_mask(model, selected)
    factor = (gradient[1] / clean[1]).mean()  # the clipping, read off an exact bias
    for sent, exact, weight in zip(gradient, clean, weights, strict=True):
        kept = sent if weight is None else sent.flatten(2) * weight
        expected = exact if weight is None else exact.flatten(2) * weight
        torch.testing.assert_close(kept, factor * expected)
    assert sum(weight is not None for weight in weights) == 2


@pytest.mark.parametrize("bias", [True, False])
def test_label_of_one_sample_is_exact(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 5, bias=bias))
    for label in range(5):
        gradient = attacks.client_gradient(model, torch.rand(1, 12), torch.tensor([label]))
        head = gradient[-2:] if bias else (gradient[-1], None)
        assert attacks.recover_labels(*head).tolist() == [label]


def test_labels_of_a_batch_at_uniform_predictions():
    """With every logit 0, the bias gradient is 1/classes minus each class's share, so nothing is lost."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    labels = torch.tensor([4, 0, 4, 2])
    gradient = attacks.client_gradient(model, torch.rand(4, 12), labels)
    assert attacks.recover_labels(*gradient, batch_size=4).tolist() == [0, 2, 4, 4]


def test_best_start_is_chosen_by_loss():
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=1, size=8, width=2)
    label = torch.tensor([1])
    attack = attacks.Attack(attacks.client_gradient(model, torch.rand(1, 1, 8, 8), label), label)
    still = attacks.Search(iterations=1, lr=0.0, restarts=4)  # does not move, so the first losses are the last
    seen: list[torch.Tensor] = []
    found = attacks.invert(model, [attack], (1, 8, 8), search=still, progress=seen.append)
    assert seen[0].shape == (1, 4)
    assert seen[0].unique().numel() == 4
    assert found.losses == seen[0].min()
    alone = attacks.invert(model, [attack], (1, 8, 8), search=still._replace(restarts=1))
    assert alone.losses == seen[0][0, 0]


def conclusion(*psnr: float, price: float = 0.01) -> tuple[str, str]:
    trained = {"no defence": demo.Trained(0.97, 1.0), "TIP with floor": demo.Trained(0.97 - price, 1.0)}
    return demo.conclusion(dict(zip("abcd", psnr, strict=True)), trained)


def test_demo_concludes_from_its_figures():
    first, second = conclusion(30, 15, 24, 12)
    assert "costs a naive attacker 15.0 dB, but" in first
    assert "9.0 dB back" in first
    assert "holds that attacker at 12.0 dB and costs 1.0 points" in second
    assert "hardly hinders" in conclusion(30, 28, 29, 12)[0]
    assert "no more than 1.0 dB back" in conclusion(30, 15, 16, 12)[0]
    assert "too small" in conclusion(30, 15, 24, 23)[1]
    assert "costs no accuracy" in conclusion(30, 15, 24, 12, price=-0.01)[1]
