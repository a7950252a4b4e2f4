"""What ``torch.compile``, dry runs and recorders of graphs have to know of this package's Python."""

import functools
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
Number = TypeVar("Number", int, float)


def constant_when_traced(function: Function) -> Function:
    """Has Dynamo call the function while it traces, and take the result for a constant of its arguments.

    ``torch.compiler.assume_constant_result`` does the same, but it imports all of ``torch._dynamo``, which takes
    seconds, whether or not anything is ever compiled. Not for a function that is itself wrapped by
    ``functools.lru_cache``: Dynamo looks through that.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def untraced(function: Function) -> Function:
    """Has Dynamo break its graph and run the function as it is, at each call.

    For checks of what no guard of a compiled graph watches; ``torch.compiler.disable`` without its import.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


def call_untraced(function: Callable[[], None]) -> None:
    """Calls a function that Dynamo shall not trace, nor what it calls, where it has broken its graph.

    Call it from a function that is :func:`untraced`.
    """
    if "torch._dynamo" in sys.modules:  # else nothing traces, and the import would take seconds
        function = torch.compiler.disable(function)
    function()


def specialize(number: Number) -> Number:
    """The number at hand, where Dynamo may have made it a symbol: what is traced then holds for this number only."""
    if not torch.compiler.is_compiling():
        return number
    return operator.index(number) if isinstance(number, int) else float.fromhex(number.hex())


def cached(maxsize: int | None) -> Callable[[Function], Function]:
    """``functools.lru_cache`` for functions that make tensors: real ones, whatever mode is in force.

    Under a dispatch mode (``FakeTensorMode``, say) tensors may be fake; kept, they would meet real ones later.
    """

    def decorate(function: Function) -> Function:
        keep = functools.lru_cache(maxsize=maxsize)(function)

        @untraced  # where Dynamo has broken its graph and goes on with the functions that are called
        @functools.wraps(function)
        def look_up(*args: Any) -> Any:
            if not torch._C._len_torch_dispatch_stack():
                return keep(*args)
            with torch.utils._python_dispatch._disable_current_modes():
                return keep(*args)

        return look_up  # type: ignore[return-value]

    return decorate


@contextmanager
def real_tensors() -> Iterator[None]:
    """Tensors that are made here are real, whatever mode is in force."""
    if not torch._C._len_torch_dispatch_stack():
        yield
        return
    with torch.utils._python_dispatch._disable_current_modes():
        yield


def is_dry_run() -> bool:
    """Whether a ``FakeTensorMode`` is in force, under which tensors have shapes and no data."""
    if torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack():  # the quick ways out
        return False
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def is_unheard() -> bool:
    """Whether a call is only traced or tried: then there is no memory to look at, and nobody to speak to."""
    return torch.compiler.is_compiling() or is_dry_run()


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def refuse_recorders() -> None:
    """Raises RuntimeError where the key would become a constant of a graph, and be saved with it.

    ``torch.compile`` is fine: the state is an input of its graphs.
    """
    recorder = _recorder_at_work()
    if recorder is not None:
        raise RuntimeError(f"expected no {recorder} around tip_kernels: the graph that it makes would hold the key")


def _recorder_at_work() -> str | None:
    if _is_exporting():
        return "torch.export"
    if torch.compiler.is_compiling():
        return None
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "torch.jit.trace"
    if not torch._C._len_torch_dispatch_stack():
        return None
    is_proxied = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    return "make_fx" if is_proxied else None


def _is_exporting() -> bool:
    """Whether ``torch.export`` is at work. By the flag itself: for Dynamo of torch 2.10 the function is always true."""
    flag: bool | None = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else flag
