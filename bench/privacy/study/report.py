"""The tables and the figure of docs/privacy.md and the README's table, from the study's lines."""

import itertools
import pathlib

from bench.pages import publish
from bench.privacy import figures
from bench.privacy.study.cases import EQUAL, HARDER, PUBLISHED
from bench.privacy.study.jobs import Cost, Row

THREATS = "threat model"
"""The mark in the README, of a few lines of the first table."""
SHOWN = ("none", "DP", "APG", "TIP 0.3", "TIP 1.0", "TIP 0.3 with floor")


def write(rows: list[Row], costs: list[Cost], results: pathlib.Path, page: pathlib.Path, readme: pathlib.Path) -> None:
    """Puts the tables into the page and the README, and draws the figure."""
    for table in (EQUAL, PUBLISHED, HARDER):
        publish(page, table, markdown(table, rows, costs))
    publish(readme, THREATS, markdown(EQUAL, [row for row in rows if row.defense in SHOWN], costs))
    draw(rows, costs, results / "privacy.png")


def worst(rows: list[Row], table: str) -> list[Row]:
    """The strongest attacker of each defense of a table."""
    mine = [row for row in rows if row.table == table]
    return [
        max((row for row in mine if row.defense == name), key=lambda row: row.psnr_median)
        for name in dict.fromkeys(row.defense for row in mine)
    ]


def markdown(table: str, rows: list[Row], costs: list[Cost]) -> str:
    """The worst attacker of each defense beside the naive one."""
    naive = {row.defense: row for row in rows if (row.table, row.attacker) == (table, "naive")}
    percent = {cost.defense: cost.accuracy for cost in costs if cost.table == table}
    lines = [
        "| defense | naive attacker | worst attacker | | best picture | SSIM |" + (" accuracy |" if percent else ""),
        "|---|---|---|---|---|---|" + ("---|" if percent else ""),
    ]
    for row in worst(rows, table):
        lines.append(
            f"| {row.defense} | {naive[row.defense].psnr_median:.1f} dB | {row.psnr_median:.1f} dB | {row.attacker} "
            f"| {row.psnr_best:.1f} dB | {row.ssim_median:.2f} |"
            + (f" {percent[row.defense]:.1f} % |" if percent else "")
        )
    return "\n".join(lines)


def draw(rows: list[Row], costs: list[Cost], path: pathlib.Path) -> None:
    """Accuracy over what the worst attacker gets, at equal energy."""
    percent = {cost.defense: cost.accuracy for cost in costs if cost.table == EQUAL}
    figure, axis = figures.chart(
        (8.5, 4.5), "PSNR of the worst attacker's picture in dB (less is more private)", "accuracy on digits in %"
    )
    for row, marker in zip(worst(rows, EQUAL), itertools.cycle("osDv^P")):
        axis.plot(row.psnr_median, percent[row.defense], marker, label=row.defense)
    figure.legend(loc="outside right center", fontsize=8)
    figures.save(figure, path)
