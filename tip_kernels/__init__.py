"""tip_kernels: targeted frequency-domain gradient noise (TIP, arXiv 2602.11633), a whole model in one pass."""

from . import audit, calibration, spectrum
from ._op.dispatch import available_backends
from .budget import BudgetExceeded, PrivacyBudget
from .defense import TIP
from .functional import Amplitudes, Shard, channel_saliency, perturb, perturb_
from .protection import Protection, protect
from .rng import NoiseRNG

__version__ = "0.1.0"

__all__ = [
    "TIP",
    "Amplitudes",
    "BudgetExceeded",
    "NoiseRNG",
    "PrivacyBudget",
    "Protection",
    "Shard",
    "audit",
    "available_backends",
    "calibration",
    "channel_saliency",
    "perturb",
    "perturb_",
    "protect",
    "spectrum",
]
