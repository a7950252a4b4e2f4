"""TIP, the drop-in class: Grad-CAM by hooks, then one call over all gradients or updates of a model."""

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ._amount import Amount
from ._attachment import Attachment
from ._bands import HighBands
from ._call import Options, PreparedCall, prepare
from ._layout import Layout, Owned
from ._numbers import check_max_grad_norm, check_range
from ._plan import Masks, Tensors
from ._selection import Choice, Selection
from ._ties import check_ties, copy_to_ties
from ._tracing import is_dry_run
from .rng import NoiseRNG
from .saliency import GradCAM


class TIP:
    """Protects what a federated client sends of a model: Grad-CAM-targeted noise in the conv kernels' high band.

    TIP (arXiv 2602.11633). Hooks score the output channels of every conv layer during the ordinary backward pass
    (training loss) or in :meth:`measure` (class logits, the paper's way); :meth:`perturb_gradients` or
    :meth:`perturb_update` then noises the whole model in one op, see :func:`tip_kernels.perturb_`, and starts the
    scores anew. Scores of several forward passes, backward passes and uses of a layer add up. A conv layer with a
    gradient but no scores has all its channels selected (unless ``ratio`` is 0), with one warning: what is unknown
    is protected.

    Conv layers are ``nn.Conv1d/2d/3d``, their subclasses, and ``nn.ConvTranspose1d/2d/3d`` with ``groups=1``. Their
    kernels are their parameters of kernel shape, so the direction of a weight norm counts too. All other parameters
    (biases, norms, linear layers, transposed convs with groups) get clipping and ``floor_std`` only.

    With ``scores="public"`` the selection never depends on the training data: only :meth:`measure`, with images that
    are not private, gives scores, and they serve every call until images are measured again. Measure once for each
    global model. A perturb call before the first measurement is an error, since it would noise other channels than
    were asked for; where all or none are selected (``ratio`` 1 or 0) none is needed.

    A copied or unpickled ``TIP`` has hooks on its own model, a new key and no scores; the hooks in a model copied
    without it do nothing. Build it when the layers are final: a parameter with a gradient that the model did not have
    then is an error. Scores are captured in ``torch.compile`` too, from torch
    2.13 on and with the model on its device first; they are not under ``torch.func`` transforms.

    Args:
        model: the model, with at least one conv layer.
        ratio, cutoff, masks, keep: see :func:`tip_kernels.perturb_`.
        std: noise of one coefficient of the high band, in gradient units: a float, or a mapping from parameter
            names to floats that names every conv kernel.
        floor_std: noise on every other coordinate: a float, or a mapping that names every parameter.
        scores: ``"private"``, from the backward passes of the training, or ``"public"``, from :meth:`measure` only.
        max_grad_norm: clips the L2 norm of all tensors of a call together, as
            ``torch.nn.utils.clip_grad_norm_`` does, in the same pass; None does not clip.
        rng: key and step; a new key if absent.
        backend: see :func:`tip_kernels.perturb_`.

    Raises:
        TypeError, ValueError, RuntimeError: no conv layer, a lazy layer, a model on meta, or an argument that
            :func:`tip_kernels.perturb_` refuses.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ratio: float = 0.3,
        cutoff: float = 0.5,
        masks: Masks | None = None,
        std: float | Mapping[str, float] = 0.01,
        keep: float = 1.0,
        floor_std: float | Mapping[str, float] = 0.0,
        scores: str = "private",
        max_grad_norm: float | None = None,
        rng: NoiseRNG | None = None,
        backend: str | None = None,
    ) -> None:
        if scores not in ("private", "public"):
            raise ValueError(f"expected scores to be 'private' or 'public', got {scores!r}")
        check_range("ratio", ratio, 0.0, 1.0)
        # Copies, which nobody else can change under way.
        std, floor_std = (dict(amount) if isinstance(amount, Mapping) else amount for amount in (std, floor_std))
        masks = _copied(masks)
        max_grad_norm = None if max_grad_norm is None else float(max_grad_norm)
        check_max_grad_norm(max_grad_norm)
        rng = NoiseRNG() if rng is None else rng
        self.model = model
        self._settings: dict[str, object] = {
            "ratio": ratio,
            "std": std,
            "floor_std": floor_std,
            "scores": scores,
            "max_grad_norm": max_grad_norm,
            "cutoff": cutoff,
            "masks": masks,
            "keep": keep,
            "rng": rng,
            "backend": backend,
        }
        self._ratio = ratio
        self._public = scores == "public"
        self._layout = layout = Layout(model)
        self._std = Amount("std", std, layout.names, [layout.names[index] for index in layout.all.convs])
        self._floor_std = Amount("floor_std", floor_std, layout.names, layout.parameter_names)
        self._options = Options(
            ratio=ratio,
            std=0.0,  # these two by the device of a call
            floor_std=0.0,
            rng=rng,
            cutoff=cutoff,
            masks=masks,
            keep=keep,
            max_grad_norm=max_grad_norm,
            backend=backend,
        )
        self._check_settings()
        self._bands = HighBands(cutoff, masks, float(keep))
        self._cam = GradCAM(backend, only_measured=self._public)
        self._selection = Selection(layout, self._cam, self._bands, ratio, only_measured=self._public)
        self._last = Choice([], [], ratio)
        handles = [self._cam.watch(module, slots) for module, slots in layout.layers]
        self._remove_hooks = weakref.finalize(self, _remove, handles)
        self._remove_hooks.atexit = False
        self._is_open = True  # and not the finalizer's word for it, which torch.compile cannot trace

    def perturb_gradients(self) -> None:
        """Clips and perturbs ``.grad`` of all the model's parameters, in place, by one call of the op.

        Call it between ``loss.backward()`` and ``optimizer.step()`` (with a ``GradScaler``, after
        ``scaler.unscale_(optimizer)``), or let :meth:`attach` do it. Parameters without a gradient are skipped.

        Raises:
            TypeError, ValueError, RuntimeError: see :func:`tip_kernels.perturb_`, a parameter with a gradient that the
                model did not have when this was built, or the TIP is closed; nothing has changed then.
        """
        self._check_open()
        self._check_gradients()
        self._perturb_gradients(self._layout.all)

    def perturb_update(self, update: Mapping[str, torch.Tensor]) -> None:
        """Clips and perturbs a FedAvg update, in place, by one call of the op.

        Args:
            update: tensors by the names of the model's parameters and buffers, in their shapes; not all need be
                there, and they need not be on the model's device. Floating buffers, such as the running statistics
                of a batch norm, count as ordinary tensors (and in the norm); others are left alone. Of tied
                parameters the first given is perturbed and copied to the others; nothing of an update may be sent
                after a call that did not return.

        Raises:
            TypeError, ValueError, RuntimeError: a name that the model does not have or did not have when this was
                built, another shape, the TIP is closed, or see :func:`tip_kernels.perturb_`; nothing has changed then.
        """
        self._check_open()
        self._layout.check_names(update)
        names = self._layout.names
        tensors, ties = self._layout.by_index(update)
        self._floor_std.require(names[i] for i, tensor in enumerate(tensors) if tensor is not None)
        check_ties(tensors, ties, names)
        self._perturb(list(tensors), self._layout.all.convs, names)
        copy_to_ties(tensors, ties)

    def measure(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Scores the channels by the sum of the class logits at ``labels``, as the paper does.

        TIP (arXiv 2602.11633, section 4). The model runs in evaluation mode; modes, random states, buffers and
        ``.grad`` are left as they were, and frozen weights are scored too. The next perturb call uses these scores
        in place of those of the backward passes, and with ``scores="public"`` every call does. Batches measured
        without a perturb call between them add up; the first one after it starts anew.

        Args:
            images: what the model takes, on its device.
            labels: class numbers, integer ``[N]``.

        Raises:
            ValueError: the model's output is not ``[N, classes]``, or the labels are not integers ``[N]``.
            RuntimeError: the model ran no conv layer, or the TIP is closed.
        """
        self._check_open()
        self._cam.measure(self.model, images, labels)

    def attach(self, optimizer: torch.optim.Optimizer) -> Attachment:
        """Perturbs the gradients of this optimizer's parameters in each of its steps, before it uses them.

        Each optimizer's parameters are clipped and perturbed on their own. With a closure (LBFGS) the gradients are
        perturbed after each evaluation. A ``GradScaler`` has unscaled them by then, but not for fused optimizers:
        there call ``scaler.unscale_(optimizer)`` first. A step that the scaler skips leaves its scores to be added
        to the next step's; :meth:`reset` forgets them. A copy of the optimizer is not attached, and refuses to step
        until it is.

        Returns:
            A handle; ``handle.remove()`` undoes it.

        Raises:
            ValueError: the optimizer has a parameter that is not the model's.
            RuntimeError: the TIP is closed, or the optimizer has a TIP attached already. In a step: the TIP has been
                closed and the handle not removed, the gradients are still scaled, or a parameter has a gradient that
                the model did not have when this was built.
        """
        self._check_open()
        self._check_gradients()
        self._layout.owned_by(optimizer)
        return Attachment(optimizer, self._perturb_gradients_of)

    def selected(self) -> dict[str, torch.Tensor]:
        """Which channels the last call selected: bool ``[C_out]`` by the names of its conv kernels.

        Kernels with an empty high band (1x1) have none selected.
        """
        return self._selection.selected(self._last)

    def reset(self) -> None:
        """Forgets all scores, captured or measured."""
        self._cam.drop(self._layout.all.convs)

    def noise_multiplier(self) -> float:
        """The least noise in any direction of a message, by ``max_grad_norm``: what an accountant needs.

        A message clipped to ``max_grad_norm`` is sent at least as privately as by the Gaussian mechanism with noise
        of ``noise_multiplier() * max_grad_norm`` on every coordinate: the frequency basis is orthonormal, so the
        noise of a kernel is ``std`` or ``floor_std`` in every direction, and ``keep`` only weakens the signal under
        it. That holds for messages of finite numbers, noise as exact as its floats, and for what a perturb call has
        changed: integer buffers of an update, such as a batch norm's counter, pass it as they are. Even ``keep=0``
        leaves what float32 rounding does not take away, so that the high band needs a ``std`` there too.

        Raises:
            ValueError: nothing of the kind holds, because the scores come from private data, nothing is clipped,
                or some tensor has no floor or some high band no ``std``.
        """
        if not self._public:
            raise ValueError("expected scores='public', got 'private': the choice of channels tells of private data")
        max_grad_norm = self._options.max_grad_norm
        if max_grad_norm is None:
            raise ValueError("expected max_grad_norm to be a number, got None: nothing bounds what one message tells")
        least = math.inf
        for name, amount in self._floor_std.named().items():
            if amount == 0:
                raise ValueError(f"expected a floor_std above 0 for all that is sent, got 0 ({name})")
            least = min(least, amount)
        amounts = self._std.named()
        for index in self._layout.all.convs if self._ratio != 0 else ():
            name, kernel_size = self._layout.names[index], self._layout.kernel_sizes[index]
            if not self._bands.is_empty(kernel_size):
                if amounts[name] == 0:
                    raise ValueError(f"expected a std above 0 for every high band, got 0 ({name})")
                least = min(least, amounts[name] / self._bands.left(kernel_size))
        return least / max_grad_norm

    @property
    def rng(self) -> NoiseRNG:
        """Key and step of the noise."""
        return self._options.rng

    @property
    def elements(self) -> int:
        """Numbers in a message of the whole model: those of its parameters and floating buffers."""
        return self._layout.elements

    def state_dict(self) -> dict[str, object]:
        """Step and generator of the noise. Never the key, and no scores."""
        return {"rng": self.rng.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved step; see :meth:`tip_kernels.NoiseRNG.load_state_dict`."""
        self.rng.load_state_dict(state_dict["rng"])

    def close(self) -> None:
        """Removes the hooks in the model; no perturb call is possible afterwards.

        An optimizer that is still attached raises in its next step, so that no step is unprotected by mistake:
        ``remove()`` its handle first to go on without protection.
        """
        self._is_open = False
        self._remove_hooks()

    def __enter__(self) -> "TIP":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._settings.items() if value is not None)
        return f"TIP({type(self.model).__name__}, {shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.model, self._settings)

    def _check_gradients(self) -> None:
        self._layout.check_gradients()

    def _perturb_gradients_of(self, optimizer: torch.optim.Optimizer) -> None:
        self._check_open()
        self._check_gradients()
        self._perturb_gradients(self._layout.owned_by(optimizer))

    def _perturb_gradients(self, owned: Owned) -> None:
        grads: list[torch.Tensor | None] = [None] * len(self._layout.parameter_names)
        for slot in owned.slots:
            grads[slot.index] = slot.holder[slot.key].grad
        self._perturb(grads, owned.convs, self._layout.parameter_names)

    def _perturb(self, tensors: list[torch.Tensor | None], convs: list[int], names: tuple[str, ...]) -> None:
        """Clips and perturbs ``tensors``, given by index; the scores of ``convs`` are used then."""
        self._check_open()
        self._cam.collect()
        choice = self._selection.choose(tensors, convs)
        for index in self._layout.transposed.intersection(choice.indices):
            tensors[index] = tensors[index].transpose(0, 1)  # type: ignore[union-attr]
        with_data = (tensor for tensor in tensors if tensor is not None and not tensor.is_meta)
        device = next((tensor.device for tensor in with_data), self.rng.device)
        self._prepare(tensors, choice.scores, choice.ratio, device, names).run()
        if is_dry_run():
            return
        self._cam.consume(convs)
        self._last = choice

    def _check_settings(self) -> None:
        """Has ``perturb_`` check every setting on a call for the kernels themselves, which is not made."""
        layout = self._layout
        kernels: list[torch.Tensor | None] = [None] * len(layout.parameter_names)
        scores: list[torch.Tensor | None] = [None] * len(layout.parameter_names)
        for slot in layout.all.slots:
            if slot.index in layout.kernel_sizes:
                kernel = slot.holder[slot.key]
                device = kernel.device
                kernels[slot.index] = kernel.transpose(0, 1) if slot.index in layout.transposed else kernel
                scores[slot.index] = torch.empty(layout.channels[slot.index], dtype=torch.float32, device=device)
        self._prepare(kernels, scores, self._ratio, device, layout.parameter_names)

    def _prepare(
        self,
        tensors: Tensors,
        scores: Tensors,
        ratio: float | list[float],
        device: torch.device,
        names: tuple[str, ...],
    ) -> PreparedCall:
        std, floor_std = self._std.on(device, len(names)), self._floor_std.on(device, len(names))
        options = self._options._replace(ratio=ratio, std=std, floor_std=floor_std, names=names)
        return prepare(tensors, scores, options)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError(
                "expected an open TIP, got a closed one: build a new one, or remove() the handle that attach() "
                "returned to train without protection"
            )


def _copied(masks: Masks | None) -> Masks | None:
    """What is no mapping of masks stays as it is, for the checks to say so."""
    if not isinstance(masks, Mapping):
        return masks
    keys = [tuple(key) if isinstance(key, Sequence) else key for key in masks]
    values = [mask.clone() if isinstance(mask, torch.Tensor) else mask for mask in masks.values()]
    return dict(zip(keys, values, strict=True))


def _rebuild(model: nn.Module, settings: dict[str, Any]) -> TIP:
    return TIP(model, **settings)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
