"""The attacks of the study: they work where nothing is defended, and knowing the defence helps them."""

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
metrics = pytest.importorskip("torchmetrics.functional.image")

from bench import demo  # noqa: E402
from bench.privacy import attackers, attacks, defenses, tasks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend")


@pytest.fixture(autouse=True)
def one_thread():
    """Nets this small are attacked as well by one thread, and a busy machine then hurts less."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    label = torch.tensor([3])
    release = defenses.targeted(ratio=1.0, std=0.02)(model, photo[None], label, seed=0)
    # The naive attacker smooths more: with the other's little smoothing it would do worse still.
    tries = [
        attacks.Attack(release.gradient, label, attackers.naive(release), tv=1.0),
        attacks.Attack(release.gradient, label, attackers.oracle_mask(release)),
    ]
    found = attacks.invert(model, tries, photo.shape, search=attacks.Search(iterations=300))
    naive, informed = psnr(found.images[:, 0], [photo, photo])
    assert informed > naive + 3  # dB: less than half the gap that make demo shows


def digit_release(defence: defenses.Defence) -> tuple[defenses.Release, defenses.Release]:
    """What the defence and what clipping alone sends for the same image of 8x8 pixels."""
    torch.manual_seed(0)
    model, image, label = tasks.small_conv_net(channels=1, size=8), torch.rand(1, 1, 8, 8), torch.tensor([3])
    return defence(model, image, label, 0), defenses.none(model, image, label, 0)


@pytest.mark.parametrize("attacker", [attackers.oracle_mask, attackers.spectral])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_informed_attackers_keep_only_what_is_exact(attacker, ratio):
    release, clean = digit_release(defenses.targeted(ratio=ratio, std=0.02))
    kept = 0
    for sent, exact, basis, weight in zip(
        release.gradient, clean.gradient, release.bases, attacker(release), strict=True
    ):
        as_kernels = [t.flatten(2) @ basis if basis is not None else t.view(len(t), -1, 1) for t in (sent, exact)]
        # The low band went through one float32 round trip of 25 taps below 1: 25 * 2^-24 < 2e-6.
        torch.testing.assert_close(as_kernels[0] * weight, as_kernels[1] * weight, rtol=0, atol=2e-6)
        kept += weight.expand_as(as_kernels[0]).count_nonzero().item() if basis is not None else 0
    low_band, taps = 9, 25  # of a 5x5 kernel at cutoff 0.5
    kernels = 16 + 16 * 16
    spared = round(kernels * (1 - ratio))
    expected = {attackers.oracle_mask: taps * spared, attackers.spectral: taps * spared + low_band * (kernels - spared)}
    assert kept == expected[attacker]


def test_channels_are_inferred_from_the_noise_alone():
    release, _ = digit_release(defenses.targeted(ratio=0.5, std=0.05))
    inferred, known = attackers.inferred_mask(release, ratio=0.5), attackers.oracle_mask(release)
    for guess, truth, basis in zip(inferred, known, release.bases, strict=True):
        assert guess is None if basis is None else guess.equal(truth)


def test_whitening_prefers_the_quiet():
    release, _ = digit_release(defenses.targeted(ratio=0.5, std=0.05, floor_std=0.01))
    for weight, std in zip(attackers.whitened(release), release.noise_std, strict=True):
        assert weight.isfinite().all()
        assert weight[std == std.min()].min() >= weight[std == std.max()].max()


@pytest.mark.parametrize("by_magnitude", [True, False])
def test_pruning_removes_its_share(by_magnitude):
    release, clean = digit_release(defenses.pruning(0.9, by_magnitude))
    for sent, exact, std in zip(release.gradient, clean.gradient, release.noise_std, strict=True):
        gone = std.isinf().view_as(sent)
        assert gone.sum() == round(0.9 * sent.numel())
        assert (sent[gone] == 0).all()
        assert sent[~gone].equal(exact[~gone])
        if by_magnitude:
            assert exact[gone].abs().max() <= exact[~gone].abs().min()


@pytest.mark.parametrize("bias", [True, False])
def test_label_of_one_sample_is_exact(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 5, bias=bias))
    for label in range(5):
        gradient = attacks.client_gradient(model, torch.rand(1, 12), torch.tensor([label]))
        head = gradient[-2:] if bias else (gradient[-1], None)
        assert attacks.recover_labels(*head).tolist() == [label]


@pytest.mark.parametrize(
    "defence", [defenses.pruning(0.9, False), defenses.gaussian(0.05), defenses.targeted(1.0, 0.05, floor_std=0.05)]
)
def test_label_is_recovered_from_what_a_defence_leaves(defence):
    for seed, name in enumerate(tasks.PHOTO_CROPS):
        torch.manual_seed(seed)
        model, image, label = tasks.small_conv_net(channels=3, size=32), tasks.photo_crop(name), torch.tensor([seed])
        assert attacks.recover_labels(*defence(model, image[None], label, seed).gradient[-2:]) == label


def test_label_of_a_sample_that_is_taken_for_another():
    """Softmax is 0.999 at a wrong class: two rows are nearly as large, and only signs tell."""
    shares = torch.full((10,), 1e-4)
    shares[4], shares[7] = 0.999, -0.999 - 8e-4
    assert attacks.recover_labels(shares[:, None] * torch.randn(20), None) == 7


def test_label_of_two_classes_needs_the_bias():
    model, label = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.tensor([1])
    weight, bias = attacks.client_gradient(model, torch.rand(1, 12), label)
    assert attacks.recover_labels(weight, bias) == label
    with pytest.raises(ValueError, match="expected a bias for 1 samples of 2 classes, got none"):
        attacks.recover_labels(weight, None)


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
