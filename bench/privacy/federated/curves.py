"""Accuracy over rounds: the file, the figure and the table."""

import csv
import pathlib

from bench.privacy import figures

Curve = list[tuple[int, float]]
"""(Round, test accuracy in percent), from round 0 on."""
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
    figure, axis = figures.chart((7, 4.2), "round", "test accuracy in %")
    for name, curve in curves.items():
        axis.plot(*zip(*curve, strict=True), label=name)
    axis.legend()
    figures.save(figure, path, command)


def table(curves: dict[str, Curve]) -> str:
    """The last accuracies beside the paper's."""
    lines = ["| defense | rounds | accuracy | the paper: ResNet-18, CIFAR-10, 1,000 rounds |", "|---|---|---|---|"]
    for name, curve in curves.items():
        paper = f"{PAPER[name]} %" if name in PAPER else ""
        lines.append(f"| {name} | {curve[-1][0]} | {curve[-1][1]:.1f} % | {paper} |")
    return "\n".join(lines)
