"""Grad-CAM capture: channel scores of conv layers, from the ordinary backward or from class logits."""

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ._distributed.dtensor import is_dtensor
from ._op import dispatch
from ._runtime.tracing import is_dry_run
from ._tip.copies import build_waiting
from ._tip.layout import Slot
from .functional import check_activation_grad

_HOOKS_IN_GRAPHS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
"""Whether Dynamo traces tensor hooks into the graph; tried on no older torch."""


class GradCAM:
    """Channel scores by index, added up over samples, backward passes and uses of a layer.

    An *index* is the caller's number for a weight; layers that share a weight share its index and its score. The
    hooks see an activation's gradient when the backward pass has it anyway, reduce it to ``[C_out]`` float32 on
    its device and keep nothing else alive: no activation, no graph, no module.

    In a compiled graph they become part of it and add to buffers, which :meth:`collect` empties into the scores.

    Args:
        backend: of the reductions.
        only_measured: whether the hooks leave all backward passes but those of :meth:`measure` alone.
    """

    def __init__(self, backend: str | None = None, only_measured: bool = False) -> None:
        self.scores: dict[int, torch.Tensor] = {}
        self.versions: dict[int, int] = {}  # of the kernels in their last eager forward pass, since the last call
        self.wrapper: weakref.ref[nn.parallel.DistributedDataParallel] | None = None  # around the last forward pass
        self._backend = backend
        self._ops: dict[torch.device, Callable[[torch.Tensor], torch.Tensor]] = {}
        self._only_measured = only_measured
        self._measured = False
        self._buffers: list[_Buffer] = []
        self._traced = False  # whether a compiled graph has run since the last collect()
        self._edges: Edges | None = None

    def watch(self, module: nn.Module, kernels: Sequence[Slot]) -> RemovableHandle:
        """Scores the output channels of a conv layer for these kernels of it; undone by the handle."""
        weight = kernels[0].holder[kernels[0].key]
        sums = torch.zeros(module.out_channels, dtype=torch.float32, device=weight.device)  # type: ignore[call-overload]
        buffer = _Buffer(kernels, sums)
        self._buffers.append(buffer)
        return module.register_forward_hook(_Layer(self, buffer, len(module.kernel_size)))  # type: ignore[arg-type]

    def collect(self) -> None:
        """Adds to the scores what compiled graphs have added up since the last call."""
        if not self._traced:
            return
        self._traced = False
        for buffer in self._buffers:
            if buffer.traced and not self._measured:
                self._add(buffer.kernels, buffer.sums.detach().clone())
            buffer.traced = False
            buffer.sums.data.zero_()  # of .data: a graph between forward and backward must not see a new version

    def set_scores(self, scores: dict[int, torch.Tensor]) -> None:
        """Takes these for measured ones."""
        if not self._measured:
            self.scores.clear()
        self._measured = True
        self.scores.update({index: score.clone() for index, score in scores.items()})

    def consume(self, indices: Iterable[int]) -> None:
        """A call has used these scores: forgets them, or lets the next measurement replace them."""
        self.versions.clear()
        if self._only_measured:
            self._measured = False
        else:
            self.drop(indices)

    def drop(self, indices: Iterable[int]) -> None:
        """Forgets the scores of these indices and goes back from measured scores to those of the backward pass."""
        self.collect()
        self._measured = False
        for index in indices:
            self.scores.pop(index, None)

    def measure(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Scores from the sum of the class logits at ``labels``; see :meth:`tip_kernels.TIP.measure`."""
        with undisturbed(model):
            model.eval()
            edges = self._forward(model, images, labels)
        if not self._measured:
            self.scores.clear()
        self._measured = True
        for (layer, _), grad in zip(*edges, strict=True):
            if grad is not None:
                self._add(layer.kernels, self._score(layer, grad))

    def _forward(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple["Edges", tuple[torch.Tensor | None, ...]]:
        """The outputs of the conv layers, and the gradients of the class logits by them."""
        self._edges = []
        try:
            logits = model(images)
        finally:
            edges, self._edges = self._edges, None
        if not edges:
            raise RuntimeError("expected model(images) to run a conv layer with gradients enabled, got none")
        total = class_logits(logits, labels).sum()
        return edges, torch.autograd.grad(total, [edge for _, edge in edges], allow_unused=True)

    def _on_traced_output(self, layer: "_Layer", output: torch.Tensor) -> None:
        if self._only_measured:
            return
        # The graph saves `sums` for its backward pass. Inductor writes to it without a new version, so that several
        # forward passes may wait for theirs; the debugging backend aot_eager refuses that.
        sums = layer.buffer.sums
        if _HOOKS_IN_GRAPHS and output.requires_grad and layer.learns() and output.device == sums.device:
            self._traced = layer.buffer.traced = True  # at every run of the graph
            op = dispatch.saliency_op(self._backend, output.device)
            output.register_hook(functools.partial(_add_in_graph, op, sums, output.dim() == layer.axes + 1))

    def _on_output(self, layer: "_Layer", output: torch.Tensor) -> torch.Tensor | None:
        measuring = self._edges is not None
        kernels = layer.present()
        if not measuring:
            self.versions.update({i: kernel._version for i, kernel in kernels.items() if not kernel.is_inference()})
            if (wrapper := nn.parallel.DistributedDataParallel._active_ddp_module) is not None:
                self.wrapper = weakref.ref(wrapper)
        learns = not self._only_measured and output.requires_grad and any(k.requires_grad for k in kernels.values())
        if not (measuring or learns):
            return None
        if is_dtensor(output):
            raise RuntimeError(
                "expected conv layers that give plain tensors, got a DTensor: tensor parallelism of conv layers is not "
                "supported, use FSDP2 (fully_shard) or DistributedDataParallel"
            )
        if output._is_view():  # an activation in place would cut a view's node out of the graph, and its hook with it
            output = output.clone()
        if not measuring:
            output.register_hook(functools.partial(self._on_grad, layer))
            return output
        if not output.requires_grad:  # frozen so far: the graph starts here; a copy, since a leaf cannot be written to
            output = output.detach().requires_grad_().clone()
        # The edge, unlike the tensor, still means this output after an activation in place.
        self._edges.append((layer, torch.autograd.graph.get_gradient_edge(output)))  # type: ignore[union-attr]
        return output

    def _on_grad(self, layer: "_Layer", grad: torch.Tensor) -> None:
        if not self._measured:
            self._add(layer.kernels, self._score(layer, grad))

    def _score(self, layer: "_Layer", grad: torch.Tensor) -> torch.Tensor:
        """As ``channel_saliency``, without finding its op anew for each layer of each step."""
        check_activation_grad(grad)
        if grad.device not in self._ops:
            self._ops[grad.device] = dispatch.saliency_op(self._backend, grad.device)
        with torch.no_grad():
            return self._ops[grad.device](grad if grad.dim() > layer.axes + 1 else grad.unsqueeze(0))

    def _add(self, kernels: Sequence[Slot], score: torch.Tensor) -> None:
        if is_dry_run():
            return
        score = _finite(score)
        for kernel in kernels:
            before = self.scores.get(kernel.index)
            self.scores[kernel.index] = score if before is None else before + score.to(before.device)


class _Buffer:
    """Where compiled graphs add up the score of one layer."""

    def __init__(self, kernels: Sequence[Slot], sums: torch.Tensor) -> None:
        self.kernels = kernels
        self.sums = sums
        self.traced = False


def _add_in_graph(
    op: Callable[..., torch.Tensor], sums: torch.Tensor, lacks_batch: bool, grad: torch.Tensor
) -> torch.Tensor:
    """A hook that leaves the gradient as it is. It returns it, since compiled autograd takes None for no gradient."""
    sums.add_(_finite(op(grad.unsqueeze(0) if lacks_batch else grad)))
    return grad


def _finite(score: torch.Tensor) -> torch.Tensor:
    """A loss scale that overflows must not spoil the scores that follow: its step is skipped, its scores would stay."""
    return score.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


class _Layer:
    """The forward hook of one conv layer. Its copies do nothing in a model that is copied without its TIP."""

    def __init__(self, cam: GradCAM, buffer: _Buffer, axes: int) -> None:
        self.kernels = buffer.kernels
        self.buffer = buffer
        self.axes = axes
        self._cam = cam

    def learns(self) -> bool:
        """Whether the layer's kernels will have a gradient."""
        return any(kernel.requires_grad for kernel in self.present().values())

    def present(self) -> dict[int, nn.Parameter]:
        """Its kernels by index, without those that something has taken out of the layer."""
        found = {slot.index: slot.holder.get(slot.key) for slot in self.kernels}
        return {index: kernel for index, kernel in found.items() if kernel is not None}

    def __call__(self, module: nn.Module, _args: object, output: object) -> torch.Tensor | None:
        if not isinstance(output, torch.Tensor):
            return None
        if torch.compiler.is_compiling():
            self._cam._on_traced_output(self, output)
            return None
        if torch._C._functorch.is_functorch_wrapped_tensor(output):  # its gradients would outlive their transform
            return None
        return self._cam._on_output(self, output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_copied_hook, ()


def _copied_hook(module: nn.Module, args: object, output: object) -> torch.Tensor | None:
    """Does nothing, unless the model was copied with a TIP in it: that one is built now, and its hook called."""
    if torch.compiler.is_compiling() or not build_waiting(module):
        return None
    for hook in list(module._forward_hooks.values()):
        if isinstance(hook, _Layer):
            return hook(module, args, output)
    return None


def _make_copied_hook() -> Callable[..., torch.Tensor | None]:
    return _copied_hook


Edges = list[tuple[_Layer, torch.autograd.graph.GradientEdge]]


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """With gradients; modes, buffers and random states are put back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [_Buffers(module) for module in model.modules()]
    cuda = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=cuda), torch.enable_grad(), _eager():
        try:
            yield
        finally:
            for module, training in modes:  # parents first: by train(), whose work some layers have of their own
                if module.training != training:
                    module.train(training)
            for module, training in modes:
                module.training = training
            for saved in buffers:
                saved.put_back()


class _Buffers:
    """The buffers of one module, since some layers update theirs in evaluation mode too."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._buffers = dict(module._buffers)
        self._values = {name: buffer.clone() for name, buffer in self._buffers.items() if buffer is not None}

    def put_back(self) -> None:
        self._module._buffers.update(self._buffers)
        for name in self._module._buffers.keys() - self._buffers.keys():
            del self._module._buffers[name]
        with torch.no_grad():
            for name, value in self._values.items():
                buffer = self._buffers[name]
                if not torch.equal(buffer, value):  # type: ignore[arg-type]
                    buffer.copy_(value)  # type: ignore[union-attr]


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Runs what is compiled as if it were not. Without an import of Dynamo, which takes seconds, for its own sake."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    eager: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


def class_logits(logits: object, labels: torch.Tensor) -> torch.Tensor:
    """The logit of each sample's label, [N]."""
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"expected model(images) to be class logits of shape [N, classes], got {got}")
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or tuple(labels.shape) != (len(logits),):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise ValueError(f"expected labels to be class numbers of shape ({len(logits)},), got {got}")
    return logits.gather(1, labels.long().unsqueeze(1))


def remove_all(handles: Iterable[RemovableHandle]) -> None:
    """Ends what :meth:`GradCAM.watch` began."""
    for handle in handles:
        handle.remove()
