"""How errors name what users give in lists, one for each gradient."""

from collections.abc import Sequence


def names_of(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """The user's names, hashable; raises TypeError unless they are a sequence of strings, or None."""
    if given is None:
        return None
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"expected names to be a sequence of strings, got {type(given).__name__}")
    for kind in set(map(type, given)):
        if not issubclass(kind, str):
            raise TypeError(f"expected names to be a sequence of strings, got one with a {kind.__name__}")
    return tuple(given)


def label(index: int, names: Sequence[str] | None) -> str:
    """How errors name the tensor at an index of a list: ``[3]``, or with its name ``[3] (conv1.weight)``."""
    return f"[{index}] ({names[index]})" if names and index < len(names) else f"[{index}]"


def check_length(name: str, values: Sequence[object], count: int) -> None:
    """Raises ValueError unless there are as many values as gradients."""
    if len(values) != count:
        raise ValueError(f"expected {name} of length {count}, one per gradient, got {len(values)}")
