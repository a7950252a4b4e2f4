"""What attackers got, image by image, beside the ceiling of the linearized problem."""

import statistics
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from bench.privacy.study.cases import WORLDS
from bench.privacy.study.jobs import Ceilings, Row
from bench.privacy.study.strongest import strongest

MARGIN = 0.5
"""In dB: an attacker that gets more above a ceiling counts as above it."""


class Gap(NamedTuple):
    """A defense's ceilings beside its attackers, over the images that both have; medians in dB.

    Args:
        ceiling: what the best estimate gets on average over images of the Gaussian prior.
        guess: what the same estimate gets of these images.
        attack: what the strongest attacker got; its name is ``attacker``.
        between: ceiling minus attack, image by image.
        above: the highest median over images that any attacker got above their ceilings, and whose it is.
    """

    table: str
    defense: str
    ceiling: float
    guess: float
    attack: float
    attacker: str
    between: float
    above: float
    above_by: str


def gaps(rows: Iterable[Row], ceilings: Iterable[Ceilings]) -> list[Gap]:
    """Of every defense that has ceilings and attackers."""
    rows = list(rows)
    chosen = strongest(rows)
    return [
        gap(found, chosen[found.table, found.defense], [row for row in rows if row[:2] == found[:2]])
        for found in ceilings
        if (found.table, found.defense) in chosen
    ]


def gap(found: Ceilings, best: Row, all_attackers: list[Row]) -> Gap:
    """One of them."""
    attack = by_image(best, len(found.ceiling))
    above = {row.attacker: _above(row, found) for row in all_attackers}
    highest = max(above, key=above.__getitem__)
    middle = [statistics.median(values) for values in (found.ceiling, found.guess, attack)]
    return Gap(found.table, found.defense, *middle, best.attacker, -_above(best, found), above[highest], highest)


def by_image(row: Row, count: int) -> list[float]:
    """Of the first images, in dB: the mean over the noise seeds."""
    return np.reshape(row.psnr, (row.batches, row.seeds, -1)).mean(1).flatten()[:count].tolist()


def rank_correlation(found: list[Gap]) -> float:
    """Spearman's, of the ceilings and the strongest attacks over all defenses."""
    return float(spearmanr([one.ceiling for one in found], [one.attack for one in found]).statistic)


def markdown(rows: list[Row], ceilings: list[Ceilings]) -> str:
    """The table, and under it what it comes to."""
    found = gaps(rows, ceilings)
    lines = [
        "| table | defense | ceiling | guess | strongest attack | | ceiling less attack | most above |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        above = f"{one.above:+.1f} dB, {one.above_by}" if one.above > MARGIN else ""
        lines.append(
            f"| {one.table} | {one.defense} | {one.ceiling:.1f} dB | {one.guess:.1f} dB | {one.attack:.1f} dB "
            f"| {one.attacker} | {one.between:+.1f} dB | {above} |"
        )
    if len(found) > 1:
        lines += ["", _summary(found, rows, ceilings)]
    return "\n".join(lines)


def _summary(found: list[Gap], rows: list[Row], ceilings: list[Ceilings]) -> str:
    audited = {one[:2] for one in found}
    attacks = sum(row.seconds for row in rows if row[:2] in audited) / len(audited)
    audits = sum(one.seconds for one in ceilings if one[:2] in audited) / len(audited)
    above = sum(one.above > MARGIN for one in found)
    first = [one for one in found if one.table != WORLDS]
    inner = f", {rank_correlation(first):.2f} without other worlds" if 1 < len(first) < len(found) else ""
    pairs = _by_image(rows, ceilings)
    higher = [image for image, excess in pairs if excess > MARGIN]
    most = max(set(higher), key=higher.count, default=0)
    return textwrap.fill(
        f"Rank correlation (Spearman) of ceilings and strongest attacks over these {len(found)} settings: "
        f"{rank_correlation(found):.2f}{inner}. Under {above} of them some attacker's median is more than "
        f"{MARGIN:g} dB above the ceilings. Image by image {len(higher)} of {len(pairs)} attacks are, "
        f"{higher.count(most)} of these on image {most}. A setting's ceilings take {audits:.0f} s of CPU time, its "
        f"attacks {attacks:.0f} s.",
        width=120,
    )


def _by_image(rows: list[Row], ceilings: list[Ceilings]) -> list[tuple[int, float]]:
    """Of every attacker under every defense that has ceilings: the image, and by how much it got more."""
    return [
        (image, got - most)
        for one in ceilings
        for row in rows
        if row[:2] == one[:2]
        for image, (got, most) in enumerate(zip(by_image(row, len(one.ceiling)), one.ceiling, strict=False))
    ]


def _above(row: Row, found: Ceilings) -> float:
    attack = by_image(row, len(found.ceiling))
    return statistics.median(got - most for got, most in zip(attack, found.ceiling, strict=False))
