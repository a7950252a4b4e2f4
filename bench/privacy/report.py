"""The tables and the figure of docs/privacy.md and the README's table, from the study's lines."""

import itertools
import pathlib
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = pathlib.Path("bench/results")
PAGE, README = pathlib.Path("docs/privacy.md"), pathlib.Path("README.md")
EQUAL, PUBLISHED, HARDER = "equal noise energy", "the paper's noise", "other attacks"
"""The tables, and the marks of their places in the page."""
THREATS = "threat model"
"""The mark in the README, of a few lines of the first table."""
SHOWN = ("none", "DP", "APG", "TIP 0.3", "TIP 1.0", "TIP 0.3 with floor")


class Row(NamedTuple):
    """An attacker against a defence, with the fields of ``evaluate.Outcome``; seconds are CPU time."""

    table: str
    defence: str
    attacker: str
    smoothing: float
    psnr_median: float
    psnr_best: float
    ssim_median: float
    seconds: float


class Cost(NamedTuple):
    """What a defence leaves of the accuracy, in percent; seconds are CPU time."""

    table: str
    defence: str
    accuracy: float
    seconds: float


def write(rows: list[Row], costs: list[Cost], results: pathlib.Path, page: pathlib.Path, readme: pathlib.Path) -> None:
    """Puts the tables into the page and the README, and draws the figure."""
    for table in (EQUAL, PUBLISHED, HARDER):
        publish(page, table, markdown(table, rows, costs))
    publish(readme, THREATS, markdown(EQUAL, [row for row in rows if row.defence in SHOWN], costs))
    draw(rows, costs, results / "privacy.png")


def worst(rows: list[Row], table: str) -> list[Row]:
    """The strongest attacker of each defence of a table."""
    mine = [row for row in rows if row.table == table]
    return [
        max((row for row in mine if row.defence == name), key=lambda row: row.psnr_median)
        for name in dict.fromkeys(row.defence for row in mine)
    ]


def markdown(table: str, rows: list[Row], costs: list[Cost]) -> str:
    """The worst attacker of each defence beside the naive one."""
    naive = {row.defence: row for row in rows if (row.table, row.attacker) == (table, "naive")}
    percent = {cost.defence: cost.accuracy for cost in costs if cost.table == table}
    lines = [
        "| defence | naive attacker | worst attacker | | best picture | SSIM |" + (" accuracy |" if percent else ""),
        "|---|---|---|---|---|---|" + ("---|" if percent else ""),
    ]
    for row in worst(rows, table):
        lines.append(
            f"| {row.defence} | {naive[row.defence].psnr_median:.1f} dB | {row.psnr_median:.1f} dB | {row.attacker} "
            f"| {row.psnr_best:.1f} dB | {row.ssim_median:.2f} |"
            + (f" {percent[row.defence]:.1f} % |" if percent else "")
        )
    return "\n".join(lines)


def publish(page: pathlib.Path, table: str, text: str) -> None:
    """Replaces what is between the table's two marks in the page.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {table}: begins -->\n", f"<!-- {table}: ends -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"expected {begin.strip()} and {end} in {page}, got none")
    page.write_text(f"{before}{begin}{text}\n{end}{after}")


def draw(rows: list[Row], costs: list[Cost], path: pathlib.Path) -> None:
    """Accuracy over what the worst attacker gets, at equal energy."""
    percent = {cost.defence: cost.accuracy for cost in costs if cost.table == EQUAL}
    figure, axis = plt.subplots(figsize=(8.5, 4.5), layout="constrained")
    for row, marker in zip(worst(rows, EQUAL), itertools.cycle("osDv^P")):
        axis.plot(row.psnr_median, percent[row.defence], marker, label=row.defence)
    axis.set_xlabel("PSNR of the worst attacker's picture in dB (less is more private)")
    axis.set_ylabel("accuracy on digits in %")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
