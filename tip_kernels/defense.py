"""TIP, the drop-in class: Grad-CAM by hooks, then one call over all gradients or updates of a model."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ._budget.spending import Spending, load_state, state_of
from ._distributed.sharing import Sharing, on_all_ranks, unwrapped
from ._op.plan import Masks
from ._runtime.tracing import is_dry_run, is_unheard
from ._tip.attachment import Attachment
from ._tip.call_checks import CallChecks, mark_perturbed
from ._tip.copies import RebuiltWithModel
from ._tip.layout import Layout, Owned
from ._tip.mechanism import Mechanism
from ._tip.selection import Choice, Selection
from ._tip.settings import checked_settings, shown, warn_of_default_std
from ._tip.ties import check_ties, copy_to_ties
from ._tip.weights import check_weights, difference, put, sum_of
from .budget import PrivacyBudget
from .rng import NoiseRNG
from .saliency import GradCAM, remove_all
from .shaping import Spectrum


class TIP(RebuiltWithModel):
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
            names to floats that names every conv kernel; 0.01 if absent, with a warning unless gradients are clipped.
        floor_std: noise on every other coordinate: a float, or a mapping that names every parameter.
        spectrum: all the noise, by coefficient in units of ``max_grad_norm``; instead of ``std`` and ``floor_std``.
        scores: ``"private"``, from the backward passes of the training, or ``"public"``, from :meth:`measure` or
            :meth:`set_scores` only.
        buffers: ``"send"``, perturbed like parameters if they are floating, or ``"withhold"``: updates have zeros
            there, so that the server keeps its own running statistics.
        max_grad_norm: clips the L2 norm of all tensors of a call together, as
            ``torch.nn.utils.clip_grad_norm_`` does, in the same pass; None does not clip.
        clip_by: ``"norm"``, the L2 norm, or ``"noise"``, in which louder noise lets more through: every coefficient
            counts by the least noise of all over its own (of unselected channels, if less). The guarantee is the same.
        shares: with secure aggregation, the messages in each sum that the server sees; each gets ``std`` and
            ``floor_std`` divided by ``sqrt(shares)``, so that a whole sum has ``std`` and ``floor_std``.
        honest: how many of the ``shares`` surely add their noise to every sum, this client too: those that neither
            drop out nor tell their noise. :meth:`noise_multiplier` rests on it.
        budget: counts a message in each perturb call before anything changes; what would exceed it raises
            :class:`tip_kernels.BudgetExceeded`.
        rng: key and step; a new key if absent.
        backend: see :func:`tip_kernels.perturb_`.

    Raises:
        TypeError, ValueError, RuntimeError: no conv layer, a lazy layer, a model on meta, or an argument that
            :func:`tip_kernels.perturb_` refuses; a budget, and settings that guarantee nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ratio: float = 0.3,
        cutoff: float = 0.5,
        masks: Masks | None = None,
        std: float | Mapping[str, float] | None = None,
        keep: float = 1.0,
        floor_std: float | Mapping[str, float] = 0.0,
        spectrum: Spectrum | None = None,
        scores: str = "private",
        buffers: str = "send",
        max_grad_norm: float | None = None,
        clip_by: str = "norm",
        shares: int = 1,
        honest: int | None = None,
        budget: PrivacyBudget | None = None,
        rng: NoiseRNG | None = None,
        backend: str | None = None,
    ) -> None:
        warns_of_std = std is None and max_grad_norm is None
        self.model = model
        self._settings: dict[str, Any] = checked_settings(
            ratio=ratio, std=std, floor_std=floor_std, spectrum=spectrum, scores=scores, buffers=buffers,
            max_grad_norm=max_grad_norm, clip_by=clip_by, shares=shares, honest=honest, budget=budget, cutoff=cutoff,
            masks=masks, keep=keep, rng=rng, backend=backend,
        )  # fmt: skip
        is_public = scores == "public"
        self._sends_buffers = buffers == "send"
        self._layout = layout = Layout(model)
        self._mechanism = Mechanism(layout, self._settings)
        self._spending = None if budget is None else Spending(budget, self.noise_multiplier(), self.elements)
        self._checks = CallChecks(self._mechanism)
        self._cam = GradCAM(backend, only_measured=is_public)
        self._sharing = Sharing(layout, self._cam, self._mechanism)
        self._selection = Selection(layout, self._sharing, self._mechanism.bands, ratio, only_measured=is_public)
        self._last = Choice([], [], ratio)
        handles = [self._cam.watch(module, slots) for module, slots in layout.layers]
        self._remove_hooks = weakref.finalize(self, remove_all, handles)
        self._remove_hooks.atexit = False
        self._is_open = True  # and not the finalizer's word for it, which torch.compile cannot trace
        if warns_of_std:
            warn_of_default_std()

    @on_all_ranks
    def perturb_gradients(self) -> None:
        """Clips and perturbs ``.grad`` of all the model's parameters, in place, by one call of the op.

        Call it between ``loss.backward()`` and ``optimizer.step()`` (with a ``GradScaler``, after
        ``scaler.unscale_(optimizer)``), or let :meth:`attach` do it. Parameters without a gradient are skipped.

        Raises:
            TypeError, ValueError, RuntimeError: see :func:`tip_kernels.perturb_`; there are no gradients, they have
                their noise already, or other ranks would add other noise to them (:mod:`.integrations.distributed`); a
                parameter has one that the model did not have when this was built; nothing of them would get noise; or
                the TIP is closed. Nothing has changed then.
        """
        self._check_open()
        self._layout.check_gradients()
        if not is_unheard():
            changed = self._layout.changed_since(self._cam.versions)
            self._checks.before_by_hand([slot.holder[slot.key] for slot in self._layout.all.slots], changed)
        self._perturb_gradients(self._layout.all)

    @on_all_ranks
    def perturb_update(self, update: Mapping[str, torch.Tensor]) -> None:
        """Clips and perturbs a FedAvg update, in place, by one call of the op.

        Args:
            update: tensors by the names of the model's parameters and buffers, in their shapes; not all need be
                there, and they need not be on the model's device. Floating buffers, such as the running statistics
                of a batch norm, count as ordinary tensors (and in the norm) and integer ones are left alone, or with
                ``buffers="withhold"`` all become zero. Of tied parameters the first given is perturbed and copied to
                the others; nothing of an update may be sent after a call that did not return.

        Raises:
            TypeError, ValueError, RuntimeError: a name that the model does not have or did not have when this was
                built, another shape, the model's weights in place of an update, an update that has its noise already,
                the TIP is closed, or see :func:`tip_kernels.perturb_`; nothing has changed then.
        """
        self._check_open()
        self._layout.check_names(update)
        names = self._layout.names
        tensors, ties = self._layout.by_index(update)
        if not any(tensor is not None for tensor in tensors):
            raise ValueError("expected an update with parameters of the model, got none")
        if not is_unheard():
            self._layout.refuse_weights(update)
        buffers = [] if self._sends_buffers else self._layout.take_buffers(update, tensors)
        self._mechanism.floor_std.require(names[i] for i, tensor in enumerate(tensors) if tensor is not None)
        check_ties(tensors, ties, names)
        self._perturb(list(tensors), self._layout.all.convs, names)
        copy_to_ties(tensors, ties)
        for buffer in buffers:
            with torch.inference_mode(buffer.is_inference()):
                buffer.detach().zero_()

    @on_all_ranks
    def perturb_weights(self, weights: Mapping[str, torch.Tensor], received: Mapping[str, torch.Tensor]) -> None:
        """Makes new weights, in place, what a client may send of them: ``received`` and a perturbed update.

        The update is ``weights - received``, in float32 or wider, as :meth:`perturb_update` perturbs it. Integer
        buffers, and with ``buffers="withhold"`` all, become what was received; variances (``running_var``) stay at
        least 0. A dry run leaves the weights as they are.

        Args:
            weights: after the training, by the names of the model's parameters and buffers, in their shapes.
            received: the same before the training, as the server knows them. Not the model's own tensors, which the
                training has changed.

        Raises:
            TypeError, ValueError, RuntimeError: other names than received, numbers that are not finite, also after
                the noise, received weights that are no copies, weights that have their noise already, or see
                :meth:`perturb_update`; no weight has changed then.
        """
        check_weights(weights, received, self._layout)
        named = list(weights)
        if not is_unheard():
            self._checks.refuse_perturbed([weights[name] for name in named], named)
        update = difference(
            weights, received, self._layout.floating_names if self._sends_buffers else self._layout.all_parameter_names
        )
        self.perturb_update(update)
        with self._sharing.together():
            sums = sum_of(received, update, weights, self._layout)
        put(weights, sums)
        mark_perturbed(weights.values())

    def scores(self) -> dict[str, torch.Tensor]:
        """The scores that the next call would use: float32 ``[C_out]`` by the names of the conv kernels, copies."""
        self._check_open()
        self._cam.collect()
        return {self._layout.names[index]: score.clone() for index, score in sorted(self._cam.scores.items())}

    def set_scores(self, scores: Mapping[str, torch.Tensor]) -> None:
        """Gives the scores that :meth:`scores` gave elsewhere, in place of :meth:`measure`.

        They serve as measured ones do. They tell of the images they come from: keep them on the client, unless those
        are public.

        Args:
            scores: float32 ``[C_out]`` by the names of conv kernels, as many as are known.

        Raises:
            TypeError, ValueError: not a tensor of this shape and dtype, or no conv kernel of the model has the name.
            RuntimeError: the TIP is closed.
        """
        self._check_open()
        self._cam.set_scores(self._layout.scores_by_index(scores))

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
        self._cam.measure(unwrapped(self.model), images, labels)

    def attach(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> Attachment:
        """Perturbs the gradients of this optimizer's parameters in each of its steps, before it uses them.

        Each optimizer's parameters are clipped and perturbed on their own. With a closure (LBFGS) the gradients are
        perturbed after each evaluation. Of Opacus's ``DPOptimizer`` the optimizer in it is attached, which steps with
        what Opacus has made. A step that a ``GradScaler`` skips leaves its scores to be added to the next step's;
        :meth:`reset` forgets them. A copy of the optimizer is not attached, and refuses to step until it is.

        Args:
            optimizer: its parameters are all the model's.
            scaler: unscales the gradients before they are perturbed, where it has not yet: for fused optimizers, which
                do it in their step, and for steps that are not made by ``scaler.step(optimizer)``.

        Returns:
            A handle; ``handle.remove()`` undoes it.

        Raises:
            ValueError: the optimizer has a parameter that is not the model's.
            RuntimeError: the TIP is closed, or the optimizer has a TIP attached already. In a step: the TIP has been
                closed and the handle not removed, the gradients are still scaled, or a parameter has a gradient that
                the model did not have when this was built.
        """
        self._check_open()
        self._layout.check_gradients()
        optimizer = getattr(optimizer, "original_optimizer", optimizer)
        self._layout.owned_by(optimizer)
        return Attachment(optimizer, self._perturb_gradients_of, scaler)

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

        With ``shares`` it is that of a sum: one message under the noise of the ``honest`` clients. It holds if nobody
        sees more than sums of as many messages of equal weights: docs/design.md, section 5.

        Raises:
            ValueError: nothing of the kind holds, because the scores come from private data, nothing is clipped,
                some tensor has no floor or some high band no ``std``, or there are ``shares`` and no ``honest``.
        """
        return self._mechanism.noise_multiplier()

    @property
    def rng(self) -> NoiseRNG:
        """Key and step of the noise."""
        return self._mechanism.options.rng

    @property
    def budget(self) -> PrivacyBudget | None:
        """What counts the messages."""
        budget: PrivacyBudget | None = self._settings["budget"]
        return budget

    @property
    def elements(self) -> int:
        """How many numbers a message of the whole model has, of parameters and, if they are sent, floating buffers."""
        return sum(self._layout.sizes[name] for name in self._mechanism.sent_names)

    def state_dict(self) -> dict[str, object]:
        """Step and generator of the noise, and what the budget has counted. Never the key, and no scores."""
        return state_of(self.rng, self.budget)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved step (:class:`tip_kernels.NoiseRNG`) and count (:class:`tip_kernels.PrivacyBudget`).

        Raises:
            ValueError: a state of another generator or target, or one with a budget and the other without.
        """
        load_state(self.rng, self.budget, state_dict)

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
        return f"TIP({type(self.model).__name__}, {shown(self._settings)})"

    @on_all_ranks
    def _perturb_gradients_of(self, optimizer: torch.optim.Optimizer) -> None:
        self._check_open()
        self._layout.check_gradients()
        self._perturb_gradients(self._layout.owned_by(optimizer))

    def _perturb_gradients(self, owned: Owned) -> None:
        grads: list[torch.Tensor | None] = [None] * len(self._layout.parameter_names)
        for slot in owned.slots:
            grads[slot.index] = slot.holder[slot.key].grad
        if all(grad is None for grad in grads):  # a step that uses none takes no step of the noise either
            return
        self._sharing.check_gradients()
        self._perturb(grads, owned.convs, self._layout.parameter_names)

    def _perturb(self, tensors: list[torch.Tensor | None], convs: list[int], names: tuple[str, ...]) -> None:
        """Clips and perturbs ``tensors``, given by index; the scores of ``convs`` are used then."""
        self._check_open()
        given = list(tensors)
        if not is_unheard():
            self._checks.before(given, names)
        self._cam.collect()
        choice = self._selection.choose(tensors, convs)
        for index in self._layout.transposed.intersection(choice.indices):
            tensors[index] = tensors[index].transpose(0, 1)  # type: ignore[union-attr]
        with_data = (tensor for tensor in tensors if tensor is not None and not tensor.is_meta)
        device = next((tensor.device for tensor in with_data), self.rng.device)
        call = self._mechanism.prepare(tensors, choice.scores, choice.ratio, device, names)
        self._sharing.spend(self._spending, device)
        call.run()
        if is_dry_run():
            return
        self._cam.consume(convs)
        self._last = choice
        if not is_unheard():
            self._checks.after(given, names)

    def _check_open(self) -> None:
        if not self._is_open:
            advice = "build a new one, or remove() the handle that attach() returned to train without protection"
            raise RuntimeError(f"expected an open TIP, got a closed one: {advice}")
