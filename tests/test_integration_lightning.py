"""The callback for Lightning: the steps of a fit are those of a loop by hand, and what it cannot protect stops."""

import contextlib
import functools

import pytest
import torch
from torch import nn

pytest.importorskip("lightning.pytorch")

import lightning.pytorch as pl
from lightning.pytorch.plugins import MixedPrecision

from tip_kernels import TIP, NoiseRNG
from tip_kernels.integrations.lightning import TIPCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:no Grad-CAM scores for conv.weight:RuntimeWarning"),
]

KEY = bytes(range(32))
SETTINGS = {"ratio": 0.5, "std": 0.1, "floor_std": 0.01, "max_grad_norm": 1.0}
BATCHES = 4


@functools.cache
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([0, 1])) for _ in range(BATCHES)]


def loaders() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(data(), batch_size=None)


class Module(pl.LightningModule):
    def __init__(self, **optimizer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)
        self.options = {"lr": 0.1, "momentum": 0.9, **optimizer}

    def forward(self, images):
        return self.head(self.conv(images).relu().flatten(1))

    def training_step(self, batch, _index):
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), **self.options)


class Manual(Module):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizers = self.optimizers()
        self.manual_backward(super().training_step(batch, index))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), **self.options) for part in (self.conv, self.head)]


def trainer(callback, **options) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": 2, "callbacks": [callback], **quiet, **options}
    )


def fit(module, settings=SETTINGS, **options) -> TIPCallback:
    callback = TIPCallback(**settings, rng=NoiseRNG(KEY))
    trainer(callback, **options).fit(module, loaders())
    return callback


def by_hand(module, accumulate=1, settings=SETTINGS, probe=None) -> TIP:
    """What a fit should do."""
    optimizers = module.configure_optimizers()
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    defense = TIP(module, **settings, rng=NoiseRNG(KEY))
    for optimizer in optimizers:
        defense.attach(optimizer)
    for _epoch in range(2):
        if probe is not None:
            defense.measure(*probe)
        for index, (images, labels) in enumerate(data()):
            (nn.functional.cross_entropy(module(images), labels) / accumulate).backward()
            if (index + 1) % accumulate == 0:
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
    return defense


def equal(one, other) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit(accumulate):
    module, other = Module(), Module()
    callback = fit(module, accumulate_grad_batches=accumulate)
    defense = by_hand(other, accumulate)
    assert callback.defense.rng.step == defense.rng.step == 2 * BATCHES // accumulate
    assert equal(module, other)
    assert torch.equal(callback.defense.selected()["conv.weight"], defense.selected()["conv.weight"])


def test_manual_optimization_with_two_optimizers():
    module, other = Manual(), Module()
    other.configure_optimizers = functools.partial(Manual.configure_optimizers, other)
    callback = fit(module)
    by_hand(other)
    assert callback.defense.rng.step == 4 * BATCHES
    assert equal(module, other)


@pytest.mark.parametrize("fused", [False, True])
def test_the_scaler_of_16_bit_precision(fused):
    scales = torch.amp.GradScaler("cpu", init_scale=1024.0)
    module, other = Module(fused=fused), Module(fused=fused)
    fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scales)])
    plain = fit(other, plugins=[MixedPrecision("bf16-mixed", "cpu")])
    # As far apart as the two 16-bit types let the same steps be; 1024 times weaker noise would be farther.
    assert plain.defense.rng.step == 2 * BATCHES
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0.02)


def test_probe_images():
    probe = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    settings = {**SETTINGS, "scores": "public"}
    module, other = Module(), Module()
    fit(module, {**settings, "probe": probe})
    by_hand(other, settings=settings, probe=probe)
    assert equal(module, other)


def test_after_a_fit_nothing_is_attached():
    module = Module()
    callback = fit(module)
    assert not module.conv._forward_hooks
    first, step = callback.defense, callback.defense.rng.step
    trainer(callback).fit(module, loaders())  # the second takes up the first one's key and step
    assert callback.defense is not first
    assert callback.defense.rng.step == 2 * step


class Failing(Module):
    def training_step(self, batch, index):
        if index == 1:
            raise ZeroDivisionError
        return super().training_step(batch, index)


def test_a_fit_that_fails():
    module = Failing()
    with contextlib.suppress(ZeroDivisionError):
        fit(module)
    assert not module.conv._forward_hooks


def test_a_checkpoint_has_the_step_and_no_key(tmp_path):
    callback = TIPCallback(**SETTINGS)
    fitted = trainer(callback, default_root_dir=tmp_path)
    fitted.fit(Module(), loaders())
    fitted.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=False)["callbacks"]["TIPCallback"]
    assert saved == callback.defense.state_dict()
    other = TIPCallback(**SETTINGS)
    trainer(other, max_epochs=3).fit(Module(), loaders(), ckpt_path=tmp_path / "saved.ckpt")
    assert other.defense.rng.step == 3 * BATCHES


# What it refuses


def test_strategies_that_would_diverge():
    with pytest.raises(RuntimeError, match=r"a fit on one device, got DDPStrategy with 1 processes"):
        fit(Module(), strategy="ddp")


class Bare(Module):
    def configure_optimizers(self):
        return None


def test_no_optimizer():
    with pytest.warns(match="configure_optimizers"), pytest.raises(RuntimeError, match="optimizers to attach TIP to"):
        fit(Bare())


class Replacing(Module):
    def on_train_start(self):
        self.trainer.optimizers = [self.configure_optimizers()]


def test_an_optimizer_that_comes_later():
    module = Replacing()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(RuntimeError, match="got another SGD, whose gradients TIP would not perturb"):
        fit(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Foreign(Module):
    def configure_optimizers(self):
        return torch.optim.SGD([nn.Parameter(torch.zeros(7))], lr=0.1)


def test_parameters_of_another_module():
    with pytest.raises(ValueError, match="an optimizer of the model's parameters"):
        fit(Foreign())
