"""Which attacker gets how far against which defence, and what the defence costs in accuracy (make study).

Each attacker chooses its smoothing on one photo (it can try any defence on images of its own) and is scored on the
others. Accuracy is of the same small net trained on handwritten digits with the defence in every step. A row that is
in bench/results/privacy.csv already is not run again; delete the file to start anew.
"""

import argparse
import csv
import itertools
import pathlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import matplotlib
import torch
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from tqdm import tqdm

from bench.privacy import attackers, attacks, defenses, tasks

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = pathlib.Path("bench/results")
TABLE, PICTURE = RESULTS / "privacy.csv", RESULTS / "privacy.png"
PAGE = pathlib.Path("docs/privacy.md")
TUNING, *SCORED = sorted(tasks.PHOTO_CROPS)
SMOOTHING = (0.01, 0.1, 0.3, 1.0, 3.0)
LABEL = torch.tensor([3])

Attacker = Callable[[defenses.Release], attackers.Weights | None]


class Case(NamedTuple):
    """A defence, and the attackers that know something of it besides the naive one."""

    defence: defenses.Defence
    informed: dict[str, Attacker]


class Row(NamedTuple):
    """One line of the table; PSNR in dB and SSIM over the scored photos and noise seeds, accuracy in percent."""

    defence: str
    attacker: str
    smoothing: float
    psnr_median: float
    psnr_best: float
    ssim_median: float
    accuracy: float


def cases() -> dict[str, Case]:
    """All defences by name. Noise is in units of the clipping norm."""
    knows_mask = {"oracle mask": attackers.oracle_mask, "spectral": attackers.spectral, "whitened": attackers.whitened}
    table = {
        "none": Case(defenses.none, {}),
        "DP, std 0.02": Case(defenses.gaussian(0.02), {}),
        "DP, std 0.05": Case(defenses.gaussian(0.05), {}),
        "pruning 90 %, smallest": Case(defenses.pruning(0.9, True), {"kept only": attackers.spectral}),
        "pruning 90 %, random": Case(defenses.pruning(0.9, False), {"kept only": attackers.spectral}),
    }
    for ratio in (0.1, 0.3, 0.6, 1.0):
        inferred = {"inferred mask": partial(attackers.inferred_mask, ratio=ratio)}
        table[f"TIP {ratio}, std 0.02"] = Case(defenses.targeted(ratio, 0.02), knows_mask | inferred)
    table["TIP 1.0, keep 0"] = Case(defenses.targeted(1.0, 0.02, keep=0.0), knows_mask)
    table["TIP 0.3, std 0.02, floor 0.01"] = Case(defenses.targeted(0.3, 0.02, floor_std=0.01), knows_mask)
    table["TIP 0.3, std 0.05, floor 0.02"] = Case(defenses.targeted(0.3, 0.05, floor_std=0.02), knows_mask)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=400, help="steps of one attack")
    parser.add_argument("--seeds", type=int, default=1, help="noise seeds a photo")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores, and a busy machine hurts less
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=3, size=32)
    rows = load()
    for name, case in tqdm(cases().items(), desc="defences", unit="defence"):
        if name not in {row.defence for row in rows}:
            rows += study(model, name, case, options.iterations, options.seeds)
            save(rows)
    rows.sort(key=lambda row: list(cases()).index(row.defence))
    save(rows)
    draw(rows)
    publish(markdown(rows))
    print(f"{markdown(rows)}\n\nin {TABLE}, {PICTURE} and {PAGE}")


def study(model: nn.Module, name: str, case: Case, iterations: int, seeds: int) -> list[Row]:
    """All attackers on one defence, and its accuracy."""
    accuracy = train(case.defence)
    search = attacks.Search(iterations=iterations)
    rows = []
    for attacker_name, attacker in ({"naive": attackers.naive} | case.informed).items():
        smoothing = tune(model, case.defence, attacker, search)
        scores = score(model, case.defence, attacker, SCORED, range(1, 1 + seeds), [smoothing], search)
        psnr, ssim = zip(*scores, strict=True)
        rows.append(
            Row(name, attacker_name, smoothing, statistics.median(psnr), max(psnr), statistics.median(ssim), accuracy)
        )
    return rows


def tune(model: nn.Module, defence: defenses.Defence, attacker: Attacker, search: attacks.Search) -> float:
    """The smoothing that serves this attacker best on an image of its own."""
    scores = score(model, defence, attacker, [TUNING], [0], SMOOTHING, search)
    return max(zip(scores, SMOOTHING, strict=True))[1]


def score(model, defence, attacker, photos, seeds, smoothings, search) -> list[tuple[float, float]]:
    """(PSNR, SSIM) of every photo, noise seed and smoothing; all attacked at once."""
    originals, tries = [], []
    for photo in photos:
        for seed in seeds:
            original = tasks.photo_crop(photo)[None]
            release = defence(model, original, LABEL, seed)
            label = attacks.recover_labels(*release.gradient[-2:])
            weights = attacker(release)
            tries += [attacks.Attack(release.gradient, label, weights, tv) for tv in smoothings]
            originals += [original] * len(smoothings)
    with tqdm(total=search.iterations, desc="attack", unit="step", leave=False) as bar:
        found = attacks.invert(
            model, tries, originals[0].shape[1:], search=search, bases=release.bases, progress=lambda _: bar.update()
        )
    return [
        (
            peak_signal_noise_ratio(images, original, data_range=1.0).item(),
            structural_similarity_index_measure(images, original, data_range=1.0).item(),
        )
        for images, original in zip(found.images, originals, strict=True)
    ]


def train(defence: defenses.Defence, epochs: int = 20, batch_size: int = 64, lr: float = 0.5) -> float:
    """Test accuracy in percent of a net trained on digits by what the defence releases."""
    images, labels, test_images, test_labels = tasks.digits()
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=1, size=8)
    shuffle = torch.Generator().manual_seed(0)
    step = 0
    for _ in tqdm(range(epochs), desc="train", unit="epoch", leave=False):
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            release = defence(model, images[batch], labels[batch], step)
            step += 1
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), release.gradient, strict=True):
                    parameter -= lr * gradient
    with torch.no_grad():
        return 100 * (model(test_images).argmax(1) == test_labels).float().mean().item()


def load() -> list[Row]:
    """The rows of earlier runs."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return [
            Row(line["defence"], line["attacker"], *(float(line[field]) for field in Row._fields[2:]))
            for line in csv.DictReader(file)
        ]


def save(rows: list[Row]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows([*row[:2], row.smoothing, *(round(value, 3) for value in row[3:])] for row in rows)


def worst(rows: list[Row]) -> list[Row]:
    """The strongest attacker of each defence."""
    return [
        max((row for row in rows if row.defence == name), key=lambda row: row.psnr_median)
        for name in dict.fromkeys(row.defence for row in rows)
    ]


def markdown(rows: list[Row]) -> str:
    """The worst attacker of each defence beside the naive one, as a table."""
    naive = {row.defence: row for row in rows if row.attacker == "naive"}
    lines = [
        "| defence | naive attacker | worst attacker | | best picture | SSIM | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in worst(rows):
        lines.append(
            f"| {row.defence} | {naive[row.defence].psnr_median:.1f} dB | {row.psnr_median:.1f} dB | {row.attacker} "
            f"| {row.psnr_best:.1f} dB | {row.ssim_median:.2f} | {row.accuracy:.1f} % |"
        )
    return "\n".join(lines)


def publish(table: str) -> None:
    """Replaces the table between the two marks in ``docs/privacy.md``."""
    before, begin, rest = PAGE.read_text().partition("<!-- study begins -->\n")
    _, end, after = rest.partition("<!-- study ends -->")
    PAGE.write_text(f"{before}{begin}{table}\n{end}{after}")


def draw(rows: list[Row]) -> None:
    """Accuracy over what the worst attacker gets."""
    figure, axis = plt.subplots(figsize=(8.5, 4.5), layout="constrained")
    for row, marker in zip(worst(rows), itertools.cycle("osDv^P")):
        axis.plot(row.psnr_median, row.accuracy, marker, label=row.defence)
    axis.set_xlabel("PSNR of the worst attacker's picture in dB (less is more private)")
    axis.set_ylabel("accuracy on digits in %")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(PICTURE, dpi=150)
    plt.close(figure)
