"""A model as TIP sees it: the index of every parameter and buffer, and which of them are conv kernels."""

import dataclasses
import itertools
import operator
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .._distributed.dtensor import is_dtensor, local
from .ties import Tie

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """Where a parameter is found at every call, since loading with ``assign=True`` replaces it."""

    index: int
    holder: dict[str, nn.Parameter]
    key: str


class Owned(NamedTuple):
    """The parameters that one call perturbs, and the indices of the conv kernels among them."""

    slots: list[Slot]
    convs: list[int]


class Layout:
    """Indices: the parameters in ``named_parameters`` order, then the buffers in ``named_buffers`` order.

    Attributes:
        names: by index; ``parameter_names`` are the first of them.
        kernel_sizes: kernel size by index, of the conv kernels only; ``channels`` are their output channels.
        transposed: indices of the kernels that lie as ``[C_in, C_out, *kernel_size]``.
        layers: the conv modules with the slots of their kernels.
        all: every parameter.
        sizes: numbers in each parameter and floating buffer, by name.
        all_parameter_names, floating_names: with all names of tied ones, parameters, and also floating buffers.
        variances: names of the buffers that cannot be negative.

    Raises:
        ValueError: a parameter is not materialized, on meta or flattened, or there is no conv kernel.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        refuse_flattened(parameters.values())
        for name, parameter in parameters.items():
            if parameter.is_meta and not is_lazy(parameter):
                raise ValueError(f"expected a model that holds data, got one on meta: to_empty() it first ({name})")
        tensors = {**parameters, **dict(model.named_buffers())}
        self.parameter_names = tuple(parameters)
        self.names = tuple(tensors)
        self.kernel_sizes: dict[int, tuple[int, ...]] = {}
        self.channels: dict[int, int] = {}
        self.transposed: set[int] = set()
        self.layers: list[tuple[nn.Module, list[Slot]]] = []
        self._indices = _indices(model, tensors)
        self._find_kernels(model)
        self.all = Owned([self._slot(model, name) for name in parameters], sorted(self.kernel_sizes))
        self.sizes = {name: tensor.numel() if tensor.is_floating_point() else 0 for name, tensor in tensors.items()}
        self._is_floating = [tensor.is_floating_point() for tensor in tensors.values()]
        self.all_parameter_names = frozenset(name for name, _ in _all_named(model))
        self.floating_names = frozenset(name for name, index in self._indices.items() if self._is_floating[index])
        self.variances = _variances(model)
        self._shapes = [tensor.shape for tensor in tensors.values()]
        self._model = model
        self._remember_structure()
        self._by_optimizer: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[list[nn.Parameter], Owned]] = (
            weakref.WeakKeyDictionary()
        )

    def check_gradients(self) -> None:
        """Raises RuntimeError if a parameter with a gradient has come to the model since, or changed its shape.

        Such a parameter has no index here, and would be sent as it is. New layers without parameters, and parameters
        in place of old ones (loading with ``assign=True``), are fine.
        """
        if self._is_as_remembered():
            return
        refuse_flattened(self._model.parameters())
        self._by_optimizer.clear()
        known = {id(self._at(slot)) for slot in self.all.slots}
        unknown = [(name, parameter) for name, parameter in _all_named(self._model) if id(parameter) not in known]
        for name, parameter in unknown:
            if parameter.grad is not None:
                raise _unknown(name)
        for slot in self.all.slots:
            if slot.holder.get(slot.key) is None:
                raise _unknown(self.names[slot.index])
        if not unknown:
            self._remember_structure()

    def check_names(self, names: Iterable[str]) -> None:
        """Raises RuntimeError if one of these names means another parameter of the model now than it did."""
        if self._is_as_remembered():
            return
        now = dict(_all_named(self._model))
        for name in names:
            index = self._indices.get(name, len(self.parameter_names))
            is_known = index < len(self.parameter_names) and self._at(self.all.slots[index]) is now.get(name)
            if name in now and not is_known:
                raise _unknown(name)

    def owned_by(self, optimizer: torch.optim.Optimizer) -> Owned:
        """The parameters of one optimizer, found again whenever it has others.

        Raises:
            ValueError: the optimizer has a parameter that is not the model's.
        """
        parameters = list(itertools.chain(*(group["params"] for group in optimizer.param_groups)))
        known = self._by_optimizer.get(optimizer)
        if known is None or len(known[0]) != len(parameters) or not all(map(operator.is_, known[0], parameters)):
            known = self._by_optimizer[optimizer] = (parameters, self._find_owned(parameters))
        return known[1]

    def by_index(self, update: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor | None], list[Tie]]:
        """Puts the tensors of an update at their indices, without the buffers that are not floating in the model.

        Returns:
            (tensors by index, the tensors under other names of tied parameters).

        Raises:
            TypeError, ValueError: not a tensor, a name that the model does not have, or another shape.
        """
        tensors: list[torch.Tensor | None] = [None] * len(self.names)
        ties = []
        for name, tensor in update.items():
            index = self._checked_index(name, tensor)
            if index >= len(self.parameter_names) and not self._is_floating[index]:
                continue
            if tensors[index] is None:
                tensors[index] = tensor
            else:
                ties.append(Tie(name, tensor, index))
        return tensors, ties

    def take_buffers(
        self, update: Mapping[str, torch.Tensor], tensors: list[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """All buffers of an update; those among ``tensors``, by index, are taken out."""
        first = len(self.parameter_names)
        tensors[first:] = [None] * (len(tensors) - first)
        return [tensor for name, tensor in update.items() if name not in self.all_parameter_names]

    def scores_by_index(self, scores: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Puts scores of conv kernels at their indices.

        Raises:
            TypeError, ValueError: not a float32 tensor [C_out], or no conv kernel has the name.
        """
        found = {}
        for name, score in scores.items():
            index = self._indices.get(name, -1)
            if index not in self.channels:
                raise ValueError(f"expected scores by the names of the model's conv kernels, got {name!r}")
            if not isinstance(score, torch.Tensor) or score.dtype is not torch.float32:
                got = score.dtype if isinstance(score, torch.Tensor) else type(score).__name__
                raise TypeError(f"expected scores[{name!r}] to be a float32 tensor, got {got}")
            if tuple(score.shape) != (self.channels[index],):
                raise ValueError(
                    f"expected scores[{name!r}] of shape ({self.channels[index]},), got {tuple(score.shape)}"
                )
            found[index] = score
        return found

    def first_of_the_models(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """The name of one that shares its memory with the model's parameter of that name, None if there is none."""
        for name, tensor in tensors.items():
            index = self._indices[name]
            own = self._at(self.all.slots[index]) if index < len(self.parameter_names) else None
            part = None if own is None else local(own)
            if part is not None and part.numel() > 0 and part.data_ptr() == local(tensor).data_ptr():
                return name
        return None

    def refuse_weights(self, update: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError if all that is given are the model's own values, a conv kernel above 0 among them.

        Of DTensors, by what lies on this rank.
        """
        kernels = [local(tensor) for name, tensor in update.items() if self._indices[name] in self.channels]
        if not any(kernel.any() for kernel in kernels):
            return
        for name, tensor in update.items():
            index = self._indices[name]
            if index >= len(self.parameter_names):
                continue
            slot = self.all.slots[index]
            own = slot.holder.get(slot.key)
            if own is None or is_dtensor(own) != is_dtensor(tensor):
                return
            own_part, part = local(own), local(tensor)
            if (own_part.device, own_part.dtype) != (part.device, part.dtype) or not torch.equal(own_part, part):
                return
        raise ValueError(
            "expected an update, new weights minus received ones, got the model's weights: subtract those that were "
            "received, or use perturb_weights()"
        )

    def changed_since(self, versions: Mapping[int, int]) -> Iterator[str]:
        """Names of the parameters at these indices that have other versions now."""
        for index, version in versions.items():
            slot = self.all.slots[index]
            parameter = slot.holder.get(slot.key)
            if parameter is None or parameter.is_inference() or is_dtensor(parameter):  # that one is another in a pass
                continue
            if parameter._version != version:
                yield self.names[index]

    def _remember_structure(self) -> None:
        modules = list(self._model.modules())
        self._members: list[dict[str, Any]] = [d for module in modules for d in (module._modules, module._parameters)]
        # The objects and not their addresses, which a new layer can inherit from one that is gone.
        self._structure = self._find_structure()

    def _find_structure(self) -> list[object]:
        """What changes when a layer or parameter of the model is added, removed or replaced."""
        return list(itertools.chain.from_iterable(map(dict.values, self._members)))

    def _is_as_remembered(self) -> bool:
        structure = self._find_structure()
        return len(structure) == len(self._structure) and all(map(operator.is_, structure, self._structure))

    def _at(self, slot: Slot) -> nn.Parameter | None:
        """The parameter in a slot now, if it has the shape of the one that was there."""
        parameter = slot.holder.get(slot.key)
        return parameter if parameter is not None and parameter.shape == self._shapes[slot.index] else None

    def _checked_index(self, name: str, tensor: torch.Tensor) -> int:
        if name not in self._indices:
            raise ValueError(f"expected update to hold the model's parameters and buffers, got {name!r}")
        index = self._indices[name]
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"expected update[{name!r}] to be a tensor, got {type(tensor).__name__}")
        if tensor.shape != self._shapes[index]:
            raise ValueError(
                f"expected update[{name!r}] of shape {tuple(self._shapes[index])}, got {tuple(tensor.shape)}"
            )
        if self._is_floating[index] and not tensor.is_floating_point():
            raise TypeError(f"expected update[{name!r}] of a floating dtype as in the model, got {tensor.dtype}")
        return index

    def _slot(self, model: nn.Module, name: str) -> Slot:
        module, _, key = name.rpartition(".")
        return Slot(self._indices[name], model.get_submodule(module)._parameters, key)  # type: ignore[arg-type]

    def _find_kernels(self, model: nn.Module) -> None:
        for layer, module in model.named_modules():
            if not _is_conv(module):
                continue
            transposed = isinstance(module, _TRANSPOSED)
            slots = [self._slot(model, f"{layer}.{name}".lstrip(".")) for name in _kernels(module, layer, transposed)]
            # A kernel tied to both kinds of layer has the channels of the first: the other's scores are no use.
            slots = [s for s in slots if s.index not in self.channels or (s.index in self.transposed) == transposed]
            if slots:
                self.layers.append((module, slots))
            indices = [slot.index for slot in slots]
            self.kernel_sizes.update(dict.fromkeys(indices, module.kernel_size))
            self.channels.update(dict.fromkeys(indices, module.out_channels))
            if transposed:
                self.transposed.update(indices)
        if not self.kernel_sizes:
            raise ValueError(f"expected a model with conv layers, got {type(model).__name__} without")

    def _find_owned(self, parameters: Iterable[nn.Parameter]) -> Owned:
        parameters = list(parameters)
        refuse_flattened(parameters)
        by_id = {id(slot.holder.get(slot.key)): slot for slot in self.all.slots}
        slots = []
        for parameter in parameters:
            if id(parameter) not in by_id:
                raise ValueError(
                    f"expected an optimizer of the model's parameters, got one of shape {tuple(parameter.shape)} "
                    "that the model does not have"
                )
            slots.append(by_id[id(parameter)])
        indices = {slot.index for slot in slots}
        return Owned(slots, [index for index in self.all.convs if index in indices])


def refuse_flattened(parameters: Iterable[torch.Tensor]) -> None:
    """Raises ValueError for those of FSDP1, parts of which have neither the shapes of kernels nor a place in them."""
    if any(getattr(parameter, "_fsdp_flattened", False) for parameter in parameters):
        raise ValueError(
            "expected parameters in their own shapes, got those of FullyShardedDataParallel (FSDP1), which flattens "
            "them: use fully_shard (FSDP2)"
        )


def has_kernels(model: nn.Module) -> bool:
    """Whether it has a conv layer of the kinds that a TIP protects."""
    return any(_is_conv(module) for module in model.modules())


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, _CONVS) or (isinstance(module, _TRANSPOSED) and module.groups == 1)


def _variances(model: nn.Module) -> frozenset[str]:
    """The running variances of batch norms."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase))
    found = {id(module.running_var) for module in norms if module.running_var is not None}
    return frozenset(name for name, buffer in model.named_buffers(remove_duplicate=False) if id(buffer) in found)


def _indices(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Place by name, for all names of tied tensors."""
    indices = {id(tensor): index for index, tensor in enumerate(tensors.values())}
    every = itertools.chain(_all_named(model), model.named_buffers(remove_duplicate=False))
    return {name: indices[id(tensor)] for name, tensor in every}


def _unknown(name: str) -> RuntimeError:
    return RuntimeError(
        "expected the parameters that the model had when TIP was built, got a new or replaced layer: build a new "
        f"TIP(model) ({name})"
    )


def _all_named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters by all names of tied ones."""
    return model.named_parameters(remove_duplicate=False)


def _kernels(module: nn.Module, layer: str, transposed: bool) -> list[str]:
    """Names of the parameters of kernel shape: ``weight``, or what it is made from (weight norm, pruning)."""
    channels = (module.in_channels, module.out_channels) if transposed else (module.out_channels, module.in_channels)
    shape = (channels[0], channels[1] // module.groups, *module.kernel_size)  # type: ignore[operator, misc]
    names = []
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"expected materialized layers, got a lazy one: run a forward pass first ({layer})")
        if tuple(parameter.shape) == shape:
            names.append(name)
    if not names:
        warnings.warn(f"no parameter of conv layer {layer} has the shape of its kernels {shape}", stacklevel=2)
    return names
