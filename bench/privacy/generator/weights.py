"""The trained decoder."""

from bench.privacy.generator.network import Decoder
from bench.privacy.generator.settings import Settings
from bench.privacy.generator.training import Ladder
from bench.privacy.trained import weights


def load(settings: Settings) -> Decoder:
    """Ready for use; raises as :func:`bench.privacy.trained.weights.averaged`."""
    return weights.averaged(Ladder(settings), settings).decoder
