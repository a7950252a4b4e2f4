"""What the demo measures, and how its pictures and its page name it."""

from typing import NamedTuple

import torch

from bench.privacy.client.one_kernel import Kernel
from bench.privacy.study import metrics
from tip_kernels.audit import Audit


class Trained(NamedTuple):
    """Test accuracy, and the median time of a training step in milliseconds."""

    accuracy: float
    step_ms: float


class Rebuilt(NamedTuple):
    """What an attack made of the gradient [3, 32, 32], and how close that is to the original."""

    image: torch.Tensor
    psnr: float
    ssim: float


class Results(NamedTuple):
    """All of it.

    Args:
        original: the photo [3, 32, 32].
        trained: by defense.
        rebuilt: by attack, whose name begins with its defense's.
        audits: by defense.
        kernels: one kernel of the gradient by defense, of those with noise.
        conclusion: lines that follow from these.
    """

    original: torch.Tensor
    trained: dict[str, Trained]
    rebuilt: dict[str, Rebuilt]
    audits: dict[str, Audit]
    kernels: dict[str, Kernel]
    conclusion: tuple[str, str]


def defense_of(attack: str) -> str:
    return attack.partition(",")[0]


def knows_best(attack: str) -> bool:
    """Whether it is the strongest attack on its defense, beside which the audit stands."""
    return not attack.endswith("naive attacker")


def guess_psnr(found: Audit, original: torch.Tensor) -> float:
    """How close the audit's best guess comes to this photo, in dB."""
    return metrics.compare(found.guess.float(), original[None])[0].psnr
