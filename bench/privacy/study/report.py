"""The tables and the figures of docs/privacy.md and the README's table, from the study's lines."""

import pathlib
import statistics
from typing import NamedTuple

from bench.pages import publish
from bench.privacy import figures
from bench.privacy.study import by_defense, gaps, ledger, noise_costs, tradeoff, with_priors
from bench.privacy.study.cases import BY_LBFGS, EQUAL, FLOORS, PUBLISHED, WORLDS
from bench.privacy.study.fedsgd import Plan
from bench.privacy.study.jobs import Ceilings, Cost, Row
from bench.privacy.study.strongest import median, strongest

TABLES = (EQUAL, PUBLISHED, FLOORS, WORLDS)
ATTACKERS = "every attacker"
"""The mark of the table that has a line for each."""
CEILINGS = "ceilings"
"""The mark of the table that has what any attacker could get at most, beside what the strongest got."""
MET = ((EQUAL, "none"), (FLOORS, "DP 0.01"), (EQUAL, "DP"), (EQUAL, "APG"), (EQUAL, "TIP 0.3"), (EQUAL, "TIP 1.0"),
       (EQUAL, "TIP 0.3 with floor"))  # fmt: skip
"""The defenses in that table."""

THREATS = "threat model"
"""The mark in the README, of a few lines of the first table."""
SHOWN = ("none", "DP", "APG", "TIP 0.3", "TIP 1.0", "TIP 0.3 with floor")


class Study(NamedTuple):
    """All that was measured with the same effort."""

    rows: list[Row]
    costs: list[Cost]
    ceilings: list[Ceilings]


def tables(study: Study) -> dict[str, str]:
    """Those that go into docs/privacy.md, in Markdown by their marks."""
    found = {table: markdown(table, study.rows, study.costs) for table in TABLES}
    return {**found, ATTACKERS: by_attacker(study.rows), CEILINGS: gaps.markdown(study.rows, study.ceilings)}


def write(study: Study, results: pathlib.Path, page: pathlib.Path, readme: pathlib.Path) -> None:
    """Puts the tables into the page and the README, and draws the figures.

    That of accuracy on CIFAR-10 has what ``python -m bench.privacy utility`` left in the results.
    """
    for mark, text in tables(study).items():
        publish(page, mark, text)
    rows, costs, _ = study
    publish(readme, THREATS, markdown(EQUAL, [row for row in rows if row.defense in SHOWN], costs))
    figures.save(by_defense.draw(rows, costs), results / "privacy.png")
    found = points_of(rows, results)
    if found:
        figures.save(tradeoff.draw(found), results / "tradeoff.png")


def points_of(rows: list[Row], results: pathlib.Path) -> list[tradeoff.Point]:
    """Of what was attacked, with the trainings in the folder's ``utility.csv``."""
    trained = noise_costs.scored(ledger.load(noise_costs.Run, results / "utility.csv"), Plan())
    return tradeoff.points(strongest(rows), trained)


def markdown(table: str, rows: list[Row], costs: list[Cost]) -> str:
    """The strongest attacker of each defense beside the naive one."""
    naive = {row.defense: row for row in rows if (row.table, row.attacker) == (table, "naive")}
    percent = {cost.defense: cost.accuracy for cost in costs if cost.table == table}
    lines = [
        "| defense | naive attacker | strongest attacker | | clearest | SSIM |" + (" accuracy |" if percent else ""),
        "|---|---|---|---|---|---|" + ("---|" if percent else ""),
    ]
    for (_, defense), row in strongest(row for row in rows if row.table == table).items():
        lines.append(
            f"| {defense} | {statistics.median(naive[defense].psnr):.1f} dB | {median(row)} | {row.attacker} "
            f"| {max(row.psnr):.1f} dB | {statistics.median(row.ssim):.2f} |"
            + (f" {percent[defense]:.1f} % |" if percent else "")
        )
    return "\n".join(lines)


def by_attacker(rows: list[Row]) -> str:
    """Each attacker's median under some defenses; of those by cosine and by L-BFGS the strongest that knows most."""
    columns = [_by_method([row for row in rows if (row.table, row.defense) == met]) for met in MET]
    lines = [
        "| attacker | " + " | ".join(defense for _, defense in MET) + " |",
        "|---|" + "---|" * len(MET),
    ]
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [f"{statistics.median(column[name].psnr):.1f}" if name in column else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_method(rows: list[Row]) -> dict[str, Row]:
    """Under the name of a prior, or of what attackers by matching have in common, the strongest."""
    named = set(with_priors.by_name())
    groups: dict[str, list[Row]] = {"cosine + TV": [], "squared distance + TV" + BY_LBFGS: []}
    for row in rows:
        by_matching = "squared distance + TV" + BY_LBFGS if row.attacker.endswith(BY_LBFGS) else "cosine + TV"
        groups.setdefault(row.attacker if row.attacker in named else by_matching, []).append(row)
    return {name: max(group, key=lambda row: row.tuned) for name, group in groups.items() if group}
