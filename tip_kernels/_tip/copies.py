"""Copies of a TIP. One that its own model holds is copied while that model is: it is built at its first use."""

import copyreg
import weakref
from typing import Any

from torch import nn


class RebuiltWithModel:
    """Copies and pickles take ``model`` and ``_settings`` along, of which ``__init__`` makes the rest anew."""

    model: nn.Module
    _settings: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self),), (self.model, self._settings)  # type: ignore[attr-defined]

    def __setstate__(self, saved: tuple[nn.Module, dict[str, Any]]) -> None:
        self.model, self._settings = saved
        if _is_complete(self.model):
            self._build()
        else:  # it holds this object, and is itself being copied
            _WAITING.add(self)

    def __getattr__(self, name: str) -> Any:
        """Asked only for what ``__init__`` would have set."""
        if name.startswith("__") or not self._waits():
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._build()
        return getattr(self, name)

    def _waits(self) -> bool:
        return vars(self).keys() == {"model", "_settings"}

    def _build(self) -> None:
        _WAITING.discard(self)
        self.__init__(self.model, **self._settings)  # type: ignore[misc]


_WAITING: "weakref.WeakSet[RebuiltWithModel]" = weakref.WeakSet()


def build_waiting(module: nn.Module) -> bool:
    """Builds what waits for a model with this module; returns whether anything did."""
    waiting = [copy for copy in list(_WAITING) if any(module is part for part in copy.model.modules())]
    for copy in waiting:
        copy._build()
    return bool(waiting)


def _is_complete(model: nn.Module) -> bool:
    """Whether a model that is being copied or unpickled has all of its modules."""
    try:
        return all("_forward_hooks" in vars(module) for module in model.modules())
    except AttributeError:
        return False
