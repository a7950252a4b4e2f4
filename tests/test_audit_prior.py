"""Gaussian priors of images: their covariances, and what is fitted."""

import math

import pytest
import torch

from tip_kernels._audit.prior import Dense
from tip_kernels.audit import ImagePrior

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

SHAPE = (3, 6, 4)


def factor(prior: ImagePrior) -> torch.Tensor:
    """L, [d, latents]."""
    return prior.spread(torch.eye(prior.latents, dtype=torch.float64)).flatten(1).T


def drawn(prior: ImagePrior, count: int) -> torch.Tensor:
    return prior.mean + prior.spread(torch.randn(count, prior.latents, dtype=torch.float64))


def priors() -> list[ImagePrior]:
    natural = ImagePrior.natural(SHAPE)
    images = drawn(natural, 50)
    return [natural, ImagePrior.fit(images), ImagePrior.fit(images, stationary=True)]


@pytest.mark.parametrize("index", range(3))
def test_gather_is_the_transpose_and_variance_the_diagonal(index):
    prior = priors()[index]
    left = factor(prior)
    gathered = prior.gather(torch.eye(72, dtype=torch.float64).view(2, 36, *SHAPE)).reshape(72, -1)
    torch.testing.assert_close(gathered, left)
    torch.testing.assert_close(left.square().sum(1), prior.variance.flatten())
    assert prior.psnr() == pytest.approx(-10 * math.log10(left.square().sum().item() / 72))
    assert prior.gather(torch.zeros(2, *SHAPE)).dtype is torch.float32


def test_natural_images_have_power_by_the_square_of_frequency():
    prior = ImagePrior.natural((3, 16, 16), mean=0.4, std=0.2, color_correlation=0.5)
    covariance = factor(prior) @ factor(prior).T
    assert prior.variance.mean().item() == pytest.approx(0.04)
    assert prior.mean.unique().tolist() == [0.4]
    places = torch.arange(16, dtype=torch.float64) + 0.5

    def power(down: int, across: int, first: int = 0, second: int = 0) -> float:
        wave = torch.cos(math.pi * down * places / 16)[:, None] * torch.cos(math.pi * across * places / 16)
        a, b = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
        a[first], b[second] = wave, wave
        return (a.flatten() @ covariance @ b.flatten() / (wave.square().sum())).item()

    assert power(2, 0) / power(6, 0) == pytest.approx(9)
    assert power(3, 4) / power(0, 5) == pytest.approx(1)
    assert power(0, 0) / power(0, 1) == pytest.approx(4)
    assert power(3, 1, 0, 2) / power(3, 1) == pytest.approx(0.5)


def test_fit_finds_the_covariance_of_many_images():
    """Each entry's standard error is below sqrt(2 / N) of the variances; a hundredth is drawn to the stationary one."""
    root = torch.randn(72, 72, dtype=torch.float64) / 72**0.5
    images = (0.3 + torch.randn(8000, 72, dtype=torch.float64) @ root.T).view(-1, *SHAPE)
    fitted = ImagePrior.fit(images)
    found = factor(fitted) @ factor(fitted).T
    scale = (root @ root.T).diagonal().max()
    assert (found - root @ root.T).abs().max() < (5 * math.sqrt(2 / 8000) + 0.02) * scale
    assert (fitted.mean - 0.3).abs().max() < 5 * (scale / 8000).sqrt()


def test_stationary_fit_finds_the_spectrum():
    natural = ImagePrior.natural(SHAPE)
    fitted = ImagePrior.fit(drawn(natural, 4000), stationary=True)
    true, found = factor(natural) @ factor(natural).T, factor(fitted) @ factor(fitted).T
    assert (found - true).abs().max() < 0.1 * true.max()
    assert ImagePrior.fit(torch.rand(2, 3, 40, 40)).latents == 4800


def test_few_images_leave_nothing_impossible():
    fitted = ImagePrior.fit(drawn(ImagePrior.natural(SHAPE), 3))
    least = torch.linalg.eigvalsh(factor(fitted) @ factor(fitted).T).min()
    assert least > 1e-9


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ImagePrior.fit(torch.ones(3, 1, 2, 2).int()), TypeError, "expected images to be a floating tensor"),
        (lambda: ImagePrior.fit(torch.rand(1, 1, 2, 2)), ValueError, "expected at least two images"),
        (lambda: ImagePrior.fit(torch.ones(3, 1, 2, 2)), ValueError, "expected finite images that differ"),
        (lambda: ImagePrior.natural((3, 4)), ValueError, r"expected a shape \(channels"),
        (lambda: ImagePrior.natural(SHAPE, std=0.0), ValueError, "expected std"),
        (lambda: ImagePrior.natural(SHAPE, color_correlation=1.0), ValueError, "expected color_correlation"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_factor_that_is_no_triangle_is_refused():
    with pytest.raises(ValueError, match="expected a lower triangular factor, got one with numbers above its diagonal"):
        Dense(torch.ones(2, 2, dtype=torch.float64))
