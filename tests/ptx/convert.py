"""The instruction cvt."""

from collections.abc import Callable

import numpy as np

from . import floats
from .parse import PtxError, width_of

Array = np.ndarray
Conversion = tuple[tuple[str, ...], Callable[..., Array]]
_FLOATS = ("f16", "bf16", "f32", "f64")
_TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def conversion(target: str, source: str, rounding: str | None, ftz: bool, saturate: bool) -> Conversion:
    """Operand types and the function of cvt.rounding.target.source."""
    if saturate:
        raise PtxError("unknown .sat")
    if target in ("f16x2", "bf16x2"):
        return ("f32", "f32"), _packed(_narrowing(target.removesuffix("x2"), source, rounding, ftz))
    if source in _FLOATS and target in _FLOATS:
        return (source,), _between_floats(target, source, rounding, ftz)
    if source in _FLOATS:
        return (source,), _to_integer(target, source, rounding, ftz)
    if ftz:
        raise PtxError("unknown .ftz")
    if target in _FLOATS:
        return (source,), _from_integer(target, rounding)
    if rounding:
        raise PtxError(f"unknown .{rounding} between integers")
    narrow = np.dtype(f"{'i' if target[0] == 's' else 'u'}{width_of(target) // 8}")
    return (source,), lambda a: a.astype(narrow)


def _packed(narrow: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """The first operand becomes the upper half."""
    return lambda a, b: narrow(a).astype(np.uint32) << np.uint32(16) | narrow(b)


def _narrowing(target: str, source: str, rounding: str | None, ftz: bool) -> Callable[[Array], Array]:
    """float32 numbers to bits of a 16-bit type."""
    if (source, rounding, ftz) != ("f32", "rn", False):
        raise PtxError(f"unknown conversion from .{source} to .{target}")
    if target == "bf16":
        return floats.to_bf16
    return lambda a: np.where(np.isnan(a), floats.NAN16, a.astype(np.float16).view(np.uint16))


def _between_floats(target: str, source: str, rounding: str | None, ftz: bool) -> Callable[[Array], Array]:
    if target in ("f16", "bf16"):
        return _narrowing(target, source, rounding, ftz)
    if source in ("f16", "bf16"):
        if rounding or target != "f32":
            raise PtxError(f"unknown conversion from .{source}")
        widen = floats.from_bf16 if source == "bf16" else lambda a: a.view(np.float16).astype(np.float32)
        return lambda a: floats.one_nan(widen(a))
    if target == source and rounding in _TO_INTEGRAL:
        integral = _TO_INTEGRAL[rounding]
        return lambda a: floats.one_nan(integral(floats.flush(a) if ftz else a))
    if ftz or rounding != ("rn" if (target, source) == ("f32", "f64") else None) or target == source:
        raise PtxError(f"unknown rounding from .{source} to .{target}")
    wide = np.float32 if target == "f32" else np.float64
    return lambda a: floats.one_nan(a.astype(wide))


def _to_integer(target: str, source: str, rounding: str | None, ftz: bool) -> Callable[[Array], Array]:
    """Out of range goes to the nearest integer that there is; NaN to 0, or to the highest bit alone with 64 bits."""
    if rounding not in _TO_INTEGRAL or source not in ("f32", "f64") or width_of(target) < 32:
        raise PtxError(f"unknown conversion from .{source} to .{target}")
    integral, width = _TO_INTEGRAL[rounding], width_of(target)
    integer = np.dtype(f"{'i' if target[0] == 's' else 'u'}{width // 8}")
    info = np.iinfo(integer)
    has_64 = source == "f64" or width == 64
    nan = np.array(1 << (width - 1) if has_64 else 0, f"u{width // 8}").view(integer)

    def convert(a: Array) -> Array:
        x = integral((floats.flush(a) if ftz else a).astype(np.float64))
        low, high = x < float(info.min), x >= float(info.max) + (width < 64)
        inside = np.where(low | high | np.isnan(x), 0.0, x).astype(integer)
        result = np.where(low, info.min, np.where(high, info.max, inside)).astype(integer)
        return np.where(np.isnan(x), nan, result)

    return convert


def _from_integer(target: str, rounding: str | None) -> Callable[[Array], Array]:
    if rounding != "rn" or target not in ("f32", "f64"):
        raise PtxError(f"unknown conversion to .{target}")
    wide = np.float32 if target == "f32" else np.float64
    return lambda a: a.astype(wide)
