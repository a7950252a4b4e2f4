"""Noise with an amount of its own for every frequency of every parameter: what it is, where it is kept."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import spectrum
from ._op.plan import Masks
from ._runtime.tracing import real_tensors

if TYPE_CHECKING:
    from ._audit.channels import Loss
    from ._audit.prior import ImagePrior

__all__ = ["Spectrum"]

FORMAT = 1
"""Of the files; to be raised with every change of what they hold."""


class Spectrum:
    """The noise of every coefficient of a message, in units of the clipping norm.

    A conv kernel has a std for each bin of its DFT, in selected channels and in others; any other parameter has one.
    Conjugate bins of a kernel have one amount, since a real kernel's are conjugates. Build one by hand, or by
    :meth:`fit`; the same for all clients and the server, who compare :meth:`fingerprint`.

    Args:
        stds: by the names of the parameters. Of a conv kernel floating ``[2, *kernel_size[:-1], kernel_size[-1] // 2 +
            1]``, the ``rfftn`` layout of :func:`tip_kernels.spectrum.radial_mask`: first of channels that are not
            selected, then of those that are. Of any other parameter a number or a tensor ``[]``. Finite and above 0.

    Raises:
        TypeError, ValueError: something else.
    """

    def __init__(self, stds: Mapping[str, torch.Tensor | float]) -> None:
        if not isinstance(stds, Mapping) or not stds:
            raise TypeError(f"expected stds to be a mapping by parameter name, got {stds!r}")
        with real_tensors():
            self._stds = {name: _checked(name, std) for name, std in stds.items()}
        self._columns: dict[tuple[str, tuple[int, ...], tuple[bool, ...]], torch.Tensor] = {}

    @property
    def stds(self) -> dict[str, torch.Tensor]:
        """Copies of what it was made of, float64 on the CPU."""
        return {name: std.clone() for name, std in self._stds.items()}

    def least(self) -> float:
        """The least std of all: that of the Gaussian mechanism which a message is at least as private as."""
        return min(std.min().item() for std in self._stds.values())

    def scaled(self, factor: float) -> "Spectrum":
        """The same shape, louder or quieter."""
        return Spectrum({name: factor * std for name, std in self._stds.items()})

    def columns(self, name: str, kernel_size: tuple[int, ...], mask: torch.Tensor) -> torch.Tensor:
        """The amounts of a conv kernel in the order of :func:`tip_kernels.spectrum.real_basis`, float64 [2, K].

        Raises:
            KeyError, ValueError: there is no such parameter, it is no kernel of this size, or conjugate bins differ.
        """
        asked = (name, kernel_size, tuple(mask.flatten().tolist()))
        if asked not in self._columns:  # a client may build a TIP for every message
            self._columns[asked] = self._find_columns(name, kernel_size, mask)
        return self._columns[asked].clone()

    def _find_columns(self, name: str, kernel_size: tuple[int, ...], mask: torch.Tensor) -> torch.Tensor:
        std, shape = self._stds[name], (2, *kernel_size[:-1], kernel_size[-1] // 2 + 1)
        if std.shape != shape:
            raise ValueError(f"expected a spectrum of {shape} for {kernel_size} taps, got {tuple(std.shape)} ({name})")
        for row in std:
            spectrum.check_conjugates(f"a spectrum ({name})", row, kernel_size)
        basis, _ = spectrum.real_basis(kernel_size, mask)
        return std.flatten(1)[:, spectrum.column_bins(basis, kernel_size)]

    def fingerprint(self) -> str:
        """16 hexadecimal digits, the same for the same amounts: what clients and server compare."""
        return hashlib.sha256(_text(self._stds).encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file of JSON, whole or not at all."""
        path = pathlib.Path(path)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            draft.write_text(_text(self._stds))
            draft.replace(path)
        except BaseException:  # a full disk, say
            draft.unlink(missing_ok=True)
            raise

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: "Loss",
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        psnr: float | None = None,
        noise_multiplier: float | None = None,
        ratio: float = 0.3,
        cutoff: float = 0.5,
        masks: Masks | None = None,
        max_grad_norm: float = 1.0,
        clip_by: str = "norm",
        prior: "ImagePrior | None" = None,
        per_message: int = 1,
        method: str | None = None,
        probes: int = 8,
        seed: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> "Spectrum":
        """The shape that costs a model least for what it hides of pictures, by audits of public images.

        At the plain noise that reaches the target, the variance for each band of each parameter becomes the root of
        what noise there hides by what it costs, :attr:`tip_kernels.audit.Row.reveals` and ``harm``; then all of it is
        scaled to the target. docs/audit.md derives it, and says what it gains over the same noise everywhere: little.

        Args:
            model: as in :func:`tip_kernels.audit.audit`; it stays as it is.
            loss: of outputs and labels, one number.
            images: ``[N, channels, height, width]`` in [0, 1] that are nobody's secret.
            labels: ``[N]``.
            psnr: target: the mean of the images' ceilings in dB. Either this or ``noise_multiplier``.
            noise_multiplier: target: the least noise of all, by the clipping norm.
            ratio: of the TIP that the spectrum is for.
            cutoff: likewise.
            masks: likewise.
            max_grad_norm: likewise.
            clip_by: likewise.
            prior: of images, for the audits.
            per_message: images in one message.
            method: of the audits.
            probes: of each audit.
            seed: of the audits.
            progress: told, now and then, a share of the work from 0 to 1.

        Returns:
            One with all the model's parameters and floating buffers; what tells nothing here has the mean amount.

        Raises:
            TypeError, ValueError, RuntimeError: both targets or none, one that cannot be reached, or see
                :func:`tip_kernels.audit.audit` and :class:`tip_kernels.TIP`.
        """
        from ._audit.fitting import Target, fitted  # which is made of TIP, and TIP takes a spectrum

        of_norm = {"max_grad_norm": max_grad_norm, "clip_by": clip_by}
        settings = {"ratio": ratio, "cutoff": cutoff, "masks": masks, **of_norm}
        asked = {"prior": prior, "per_message": per_message, "method": method, "probes": probes, "seed": seed}
        target = Target.checked(psnr, noise_multiplier)
        return fitted(model, loss, images, labels, target, settings, asked, progress)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Spectrum":
        """What :meth:`save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no spectrum, or one that was changed into something else.
        """
        try:
            held = json.loads(pathlib.Path(path).read_text(), object_pairs_hook=_once_each)
            if held["format"] != FORMAT:
                raise ValueError(f"format {held['format']}, expected {FORMAT}")
            if held.keys() != {"format", "stds"}:
                raise ValueError(f"expected format and stds, got {', '.join(sorted(held))}")
            return cls(dict(held["stds"].items()))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"expected a spectrum in {path}, got something else: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spectrum) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        loudest = max(std.max().item() for std in self._stds.values())
        return f"Spectrum({len(self._stds)} parameters, {self.least():.3g} to {loudest:.3g}, {self.fingerprint()})"


def _checked(name: str, std: torch.Tensor | float) -> torch.Tensor:
    if not isinstance(name, str):
        raise TypeError(f"expected stds to be named by strings, got {name!r}")
    if isinstance(std, torch.Tensor) and (std.is_complex() or std.layout is not torch.strided):
        raise TypeError(f"expected real numbers as the std of {name!r}, got {std.dtype}, {std.layout}")
    if _has_truth(std):
        raise TypeError(f"expected numbers as the std of {name!r}, got true or false")
    try:
        kept = torch.as_tensor(std, dtype=torch.float64, device="cpu").detach().clone()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"expected numbers as the std of {name!r}, got {type(std).__name__}") from error
    if not (kept.isfinite() & (kept > 0)).all():
        worst = kept[~(kept.isfinite() & (kept > 0))][0].item()
        raise ValueError(f"expected every std to be finite and above 0, got {worst:g} ({name})")
    if kept.dim() and (kept.dim() < 2 or len(kept) != 2 or kept.numel() == 0):
        raise ValueError(
            f"expected a number, or the std of others and of selected channels by bin [2, *bins], got shape "
            f"{tuple(kept.shape)} ({name})"
        )
    return kept


def _has_truth(value: object) -> bool:
    """Whether there is a truth value among these numbers, which would be taken for 1 or 0."""
    if isinstance(value, torch.Tensor):
        return value.dtype is torch.bool
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(map(_has_truth, value)))


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which takes the last of several values: it could be less noise than the one that is read."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"expected every name once, got {max(names, key=names.count)!r} twice")
    return found


def _text(stds: Mapping[str, torch.Tensor]) -> str:
    held: dict[str, Any] = {"format": FORMAT, "stds": {name: stds[name].tolist() for name in sorted(stds)}}
    return json.dumps(held, indent=1, allow_nan=False)
