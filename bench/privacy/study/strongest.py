"""The strongest attacker of each defense, and how sure its figures are."""

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from bench.privacy.study.jobs import Row

COVERED = 0.9
"""Of the intervals."""


class Median(NamedTuple):
    """A median in dB with its interval: what the images that happened to be scored leave open; nan for one batch."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.1f} dB"
        return f"{self.value:.1f} dB ({self.low:.1f}, {self.high:.1f})"


def strongest(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """By table and defense the attacker with the highest median on images that it is not scored on."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        best = found.setdefault((row.table, row.defense), row)
        if row.tuned > best.tuned:
            found[row.table, row.defense] = row
    return found


def median(row: Row) -> Median:
    """PSNR over all images and noise seeds; the interval by drawing batches, whose images and seeds stay together."""
    if row.batches == 1:
        return Median(statistics.median(row.psnr), math.nan, math.nan)
    by_batch = np.asarray(row.psnr).reshape(row.batches, -1)
    found = bootstrap(
        (np.arange(row.batches),),
        lambda drawn: np.median(by_batch[drawn]),
        vectorized=False,
        confidence_level=COVERED,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return Median(statistics.median(row.psnr), float(low), float(high))
