"""How loud the noise of a defense is, so that different ones compare.

A *maker* gives a defense for the noise's standard deviation, which the functions here choose.
"""

import math
from collections.abc import Callable

from bench.privacy.client.defenses import CLIP
from bench.privacy.client.release import Defense
from tip_kernels import calibration

EPSILON, DELTA = 5.0, 1e-5
"""Of the paper's experiments (arXiv 2602.11633, section 5)."""

Maker = Callable[[float], Defense]


def at_energy(make: Maker, rms: float) -> Defense:
    """The defense whose noise has the expected squared norm of noise of std ``rms`` on every coordinate of the model.

    The noise of every maker here is proportional to its std, so one release with std 1 tells the factor.
    """

    def defense(model, images, labels, seed):
        unit = make(1.0)(model, images, labels, seed).noise_energy
        std = rms * math.sqrt(sum(p.numel() for p in model.parameters()) / unit)
        return make(std)(model, images, labels, seed)

    return defense


def as_published(make: Maker) -> Defense:
    """The defense with the paper's std for one gradient of a batch (arXiv 2602.11633, section 4).

    Its formula for an update of several local steps, divided by their number and the learning rate.
    """

    def defense(model, images, labels, seed):
        sensitivity = calibration.local_update_sensitivity(1, 1.0, CLIP, len(images))
        beta = calibration.classical_gaussian_std(EPSILON, DELTA, sensitivity)
        return make(beta)(model, images, labels, seed)

    return defense
