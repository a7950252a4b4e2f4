"""Accuracy over rounds: the file, the figure and the table."""

import csv
import pathlib

from bench.privacy import figures

Curve = list[tuple[int, float]]
"""(Round, test accuracy in percent), from round 0 on."""
COLORS = {"none": "0.75", "tip": figures.ORANGE, "apg": figures.GREEN, "dp": figures.BLUE}
PAPER = {"none": 79, "tip": 73, "apg": 59, "dp": 44}
"""Accuracy in percent after 1,000 rounds of ResNet-18 on CIFAR-10, read off the plot of arXiv 2602.11633."""


def save(curves: dict[str, Curve], path: pathlib.Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(f"# {command}\n")
        writer = csv.writer(file)
        writer.writerow(("defense", "round", "accuracy"))
        writer.writerows((name, number, f"{value:.2f}") for name, curve in curves.items() for number, value in curve)


def draw(curves: dict[str, Curve], path: pathlib.Path, command: str) -> None:
    """Each curve with its name and its last accuracy at its end. The undefended one is wide, since others hide it."""
    figure, axis = figures.chart((7, 4.2), "round", "test accuracy in %")
    for name, curve in curves.items():
        axis.plot(*zip(*curve, strict=True), color=COLORS.get(name, "black"), linewidth=5 if name == "none" else 1.5)
    lowest, highest = axis.get_ylim()
    places = figures.spread([curve[-1][1] for curve in curves.values()], 0.055 * (highest - lowest))
    for (name, curve), place in zip(curves.items(), places, strict=True):
        number, accuracy = curve[-1]
        text, color = f"{name}  {accuracy:.1f} %", "0.35" if name == "none" else COLORS.get(name, "black")
        axis.annotate(text, (number, place), (10, 0), textcoords="offset points", color=color, fontsize=10,
                      verticalalignment="center", annotation_clip=False)  # fmt: skip
    axis.set_xlim(0, max(curve[-1][0] for curve in curves.values()))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figures.save(figure, path, command)


def load(path: pathlib.Path) -> tuple[dict[str, Curve], str]:
    """What :func:`save` wrote: the curves and the command."""
    first, *lines = path.read_text().splitlines()
    curves: dict[str, Curve] = {}
    for row in csv.DictReader(lines):
        curves.setdefault(row["defense"], []).append((int(row["round"]), float(row["accuracy"])))
    return curves, first.removeprefix("# ")


def table(curves: dict[str, Curve]) -> str:
    """The last accuracies beside the paper's."""
    lines = ["| defense | rounds | accuracy | the paper: ResNet-18, CIFAR-10, 1,000 rounds |", "|---|---|---|---|"]
    for name, curve in curves.items():
        paper = f"{PAPER[name]} %" if name in PAPER else ""
        lines.append(f"| {name} | {curve[-1][0]} | {curve[-1][1]:.1f} % | {paper} |")
    return "\n".join(lines)
