"""TIP beside Opacus: what an attached DPOptimizer steps with, and what is refused."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("opacus")

from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager

from tip_kernels import TIP, NoiseRNG

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Opacus: its noise is not secure, a hook of torch's is old
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

KEY = bytes(range(32))
SETTINGS = {"ratio": 0.5, "std": 0.1, "floor_std": 0.01}


class Private:
    """A model, optimizer and loader from ``make_private``, without noise of its own, so that steps can be repeated."""

    def __init__(self, lr: float = 0.1) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
        data = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 5)
        self.wrapped, self.optimizer, self.loader = PrivacyEngine(accountant="rdp").make_private(
            module=self.model,
            optimizer=torch.optim.SGD(self.model.parameters(), lr=lr),
            data_loader=torch.utils.data.DataLoader(data, batch_size=4),
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            poisson_sampling=False,
        )

    def backward(self, batch) -> None:
        images, labels = batch
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.wrapped(images), labels).backward()

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


@pytest.mark.parametrize("of", ["model", "wrapped"])
def test_an_attached_optimizer_perturbs_what_opacus_has_made(of):
    """Of the model itself, or of the module around it, whose parameters have other names."""
    one, other = Private(), Private()
    defense = TIP(getattr(one, of), **SETTINGS, rng=NoiseRNG(KEY))
    defense.attach(one.optimizer)
    expected = TIP(other.model, **SETTINGS, rng=NoiseRNG(KEY))
    for batch in one.loader:
        one.backward(batch)
        one.optimizer.step()
        other.backward(batch)
        assert other.optimizer.pre_step()  # clipped samples, their mean
        grads = {name: parameter.grad.clone() for name, parameter in other.model.named_parameters()}
        expected.perturb_update(grads)
        for name, parameter in other.model.named_parameters():
            parameter.grad.copy_(grads[name])
        other.optimizer.original_optimizer.step()
        assert all(map(torch.equal, one.weights(), other.weights()))
    assert defense.rng.step == 2
    name = "0.weight" if of == "model" else "_module.0.weight"
    assert torch.equal(defense.selected()[name], expected.selected()["0.weight"])


def test_updates_by_the_names_of_the_module_around():
    private = Private()
    update = {name: torch.zeros_like(value) for name, value in private.wrapped.state_dict().items()}
    assert "_module.0.weight" in update
    with pytest.raises(ValueError, match=r"the model's parameters and buffers, got '_module\.0"):
        TIP(private.model, **SETTINGS).perturb_update(update)
    TIP(private.wrapped, **{**SETTINGS, "ratio": 1.0}).perturb_update(update)
    assert all(value.any() for value in update.values())


def test_perturbing_before_the_step_that_would_overwrite_it():
    private = Private()
    defense = TIP(private.model, **SETTINGS)
    private.backward(next(iter(private.loader)))
    with pytest.raises(RuntimeError, match=r"got those of Opacus, .*: attach\(\) the optimizer instead"):
        defense.perturb_gradients()
    assert defense.rng.step == 0


def test_a_large_batch_in_parts_is_one_step():
    private = Private()
    defense = TIP(private.model, **SETTINGS)
    defense.attach(private.optimizer)
    with BatchMemoryManager(
        data_loader=private.loader, max_physical_batch_size=2, optimizer=private.optimizer
    ) as loader:
        parts = 0
        for batch in loader:
            private.backward(batch)
            private.optimizer.step()
            parts += 1
    assert parts == 4
    assert defense.rng.step == 2


def test_a_copy_of_the_optimizer_inside_refuses_to_step():
    """A DPOptimizer itself cannot be copied."""
    private = Private()
    defense = TIP(private.model, **SETTINGS)
    defense.attach(private.optimizer)
    copied = copy.deepcopy(private.optimizer.original_optimizer)
    private.backward(next(iter(private.loader)))
    around = DPOptimizer(copied, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=4)
    for optimizer in (copied, around):
        for parameter, own in zip(copied.param_groups[0]["params"], private.model.parameters(), strict=True):
            parameter.grad, parameter.grad_sample = torch.ones_like(own), own.grad_sample.clone()
        with pytest.raises(RuntimeError, match="got a copy of one, which is not attached"):
            optimizer.step()
    private.optimizer.step()
    assert defense.rng.step == 1
