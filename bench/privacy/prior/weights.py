"""The trained net of a prior."""

from bench.privacy.prior.network import Velocity
from bench.privacy.prior.settings import Settings
from bench.privacy.prior.training import build
from bench.privacy.trained import weights


def load(settings: Settings) -> Velocity:
    """Ready for use; raises as :func:`bench.privacy.trained.weights.averaged`."""
    return weights.averaged(build(settings), settings)
