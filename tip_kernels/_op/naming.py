"""How errors name what users give in lists, one for each gradient."""

from collections.abc import Iterable, Sequence


def names_of(given: Iterable[str] | None) -> tuple[str, ...] | None:
    """The user's names, hashable; raises TypeError unless they are strings in some order, or None."""
    if given is None:
        return None
    if not isinstance(given, Iterable) or isinstance(given, (str, dict, set, frozenset)):
        raise TypeError(f"expected names to be a sequence of strings, got {type(given).__name__}")
    names = tuple(given)
    for kind in set(map(type, names)):
        if not issubclass(kind, str):
            raise TypeError(f"expected names to be strings, got {kind.__name__} among them")
    return names


def label(index: int, names: Sequence[str] | None) -> str:
    """How errors name the tensor at an index of a list: ``[3]``, or with its name ``[3] (conv1.weight)``."""
    return f"[{index}] ({names[index]})" if names and index < len(names) else f"[{index}]"


def check_length(name: str, values: Sequence[object], count: int) -> None:
    """Raises ValueError unless there are as many values as gradients."""
    if len(values) != count:
        raise ValueError(f"expected {name} of length {count}, one per gradient, got {len(values)}")
