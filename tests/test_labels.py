"""Labels of batches: counted although clipping has scaled the gradient by a factor that nobody tells."""

import pytest
import torch

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import nets
from bench.privacy.attacker import knowledge
from bench.privacy.attacker.labels import recover_labels
from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.problem import posed_by
from bench.privacy.client import defenses
from bench.privacy.client.gradients import client_gradient, clipped, norm

pytestmark = pytest.mark.usefixtures("one_thread")


def batch_of(labels: list[int], size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(len(labels), 3, size, size), torch.tensor(labels)


@pytest.mark.parametrize("factor", [1.0, 0.3, 0.01])
@pytest.mark.parametrize(
    "labels", [[3, 3, 3, 3], [0, 2, 4, 4], [*range(10), *range(6)], [1, 1, 1, 1, 2, 2, 4, 4, 4, 5, 7, 7, 7, 7, 9, 9]]
)
def test_duplicate_classes_of_a_clipped_batch_are_counted(factor, labels):
    torch.manual_seed(0)
    model = nets.small_conv_net(3, 16)
    gradient = client_gradient(model, *batch_of(labels))
    sent = clipped(gradient, to=factor * norm(gradient).item())
    assert recover_labels(*sent[-2:], batch_size=len(labels)).tolist() == sorted(labels)


def test_noise_of_a_known_std_is_allowed_for():
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 4, 4, 7, 7])
    clean = 0.3 * (0.1 - torch.nn.functional.one_hot(labels, 10).float().mean(0))
    right = 0
    for _ in range(20):
        noised = clean + 0.01 * torch.randn(10)  # a sample has 0.3 / 8
        right += recover_labels(torch.zeros(10, 1), noised, 8, noise_std=0.01).tolist() == labels.tolist()
    assert right >= 12  # half a sample is two deviations: all ten are within them in 0.95^10, about 60 %


def test_lost_coefficients_are_no_evidence():
    labels = torch.tensor([1, 1, 3, 4])
    bias = 0.5 * (0.2 - torch.nn.functional.one_hot(labels, 5).float().mean(0))
    bias[0], noise = -7.0, torch.tensor([torch.inf, 0.0, 0.0, 0.0, 0.0])
    assert recover_labels(torch.zeros(5, 1), bias, 4, noise_std=noise).tolist() == labels.tolist()


def test_labels_that_are_given_are_not_read():
    torch.manual_seed(0)
    model, given = nets.small_conv_net(3, 16), torch.tensor([7, 7])
    release = defenses.none(model, *batch_of([1, 2]), 0)
    assert Likelihood(model, [release], batch_size=2).labels.tolist() == [[1, 2]]
    assert posed_by(release, knowledge.naive, batch_size=2).labels.tolist() == [1, 2]
    told = release._replace(labels=given)
    assert Likelihood(model, [told], restarts=2, batch_size=2).labels.tolist() == [[7, 7]] * 2
    assert posed_by(told, knowledge.naive, batch_size=2).labels.tolist() == [7, 7]
