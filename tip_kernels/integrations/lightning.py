"""Lightning: a callback that has TIP perturb the gradients of every optimizer step of a fit."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import _MockOptimizer
from lightning.pytorch.strategies import SingleDeviceStrategy

from .._tip.attachment import Attachment
from ..defense import TIP


class TIPCallback(Callback):
    """Attaches a :class:`tip_kernels.TIP` to the optimizers of a fit, from its start to its end.

    Automatic and manual optimization, several optimizers, accumulated gradients and the scaler of 16-bit precision
    work. ``gradient_clip_val`` of the trainer clips first; prefer TIP's ``max_grad_norm``, which counts for
    ``noise_multiplier()``. Checkpoints take the step of the noise along, and never the key.

    Args:
        probe: images and integer labels ``[N]`` that are not private, for :meth:`tip_kernels.TIP.measure` at the
            start of each epoch.
        settings: keyword arguments for :class:`tip_kernels.TIP`.

    Raises:
        RuntimeError: at the start of a fit, if it has more than one process or device, whose gradients would get
            different noise, or no optimizer; in a step, if it is one of an optimizer that came later.
        TypeError, ValueError: at the start of a fit, see :class:`tip_kernels.TIP`; an optimizer has parameters that
            are not the module's.

    Attributes:
        defense: the TIP of the last fit; None before the first.
    """

    def __init__(self, *, probe: tuple[torch.Tensor, torch.Tensor] | None = None, **settings: Any) -> None:
        self.defense: TIP | None = None
        self._probe = probe
        self._settings = settings
        self._attachments: list[tuple[torch.optim.Optimizer, Attachment]] = []
        self._saved: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()  # a fit that was interrupted
        _check(trainer)
        defense = TIP(pl_module, **self._settings)
        if self._saved:
            defense.load_state_dict(self._saved)
        self.defense = defense
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        for optimizer in trainer.optimizers:
            self._attachments.append((optimizer, defense.attach(optimizer, scaler=scaler)))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._probe is not None and self.defense is not None:
            images, labels = self._probe
            self.defense.measure(images.to(pl_module.device), labels.to(pl_module.device))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if not any(attached is optimizer for attached, _ in self._attachments):
            raise RuntimeError(
                "expected a step of an optimizer that the trainer had when the fit began, got another "
                f"{type(optimizer).__name__}, whose gradients TIP would not perturb"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._detach()

    def state_dict(self) -> dict[str, Any]:
        return dict(self._saved) if self.defense is None else self.defense.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def _detach(self) -> None:
        for _, attachment in self._attachments:
            attachment.remove()
        self._attachments.clear()
        if self.defense is not None:
            self.defense.close()


def _check(trainer: Trainer) -> None:
    strategy = type(trainer.strategy).__name__
    if trainer.world_size != 1 or not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise RuntimeError(
            f"expected a fit on one device, got {strategy} with {trainer.world_size} processes: their gradients would "
            "get different noise, and their weights drift apart"
        )
    if not trainer.optimizers or any(isinstance(optimizer, _MockOptimizer) for optimizer in trainer.optimizers):
        raise RuntimeError("expected optimizers to attach TIP to, got none from configure_optimizers()")
