"""One attack on one photo: prints how close the rebuilt image comes and saves it beside the original."""

import argparse
import pathlib

import matplotlib
import torch
from tqdm import tqdm

from bench.privacy import attackers, attacks, evaluate, metrics, study, tasks
from bench.privacy.report import EQUAL

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases = study.cases()[EQUAL]
    names = sorted({name for case in cases.values() for name in ("naive", *case.informed)})
    parser.add_argument("--defence", choices=list(cases), default="TIP 0.3", help="as in the study's first table")
    parser.add_argument("--attacker", choices=names, default="naive", help="some know one kind of defence only")
    parser.add_argument("--photo", choices=list(tasks.PHOTO_CROPS | tasks.MORE_CROPS), default="flower")
    parser.add_argument("--smoothing", type=float, default=attacks.Attack._field_defaults["tv"])
    parser.add_argument("--iterations", type=int, default=250, help="steps of signed Adam")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("attack.png"))


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.control
    case = study.cases()[EQUAL][options.defence]
    known = {"naive": attackers.naive} | case.informed
    if options.attacker not in known:
        raise SystemExit(f"expected --attacker from {', '.join(known)} for {options.defence}, got {options.attacker}")
    scene, original = evaluate.one_image(), tasks.photo_crop(options.photo)[None]
    release = case.defence(scene.model, original, scene.labels, 1)
    seen = known[options.attacker](release)
    problem = attacks.Attack(
        seen.gradient, attacks.recover_labels(*seen.gradient[-2:]), seen.weights, options.smoothing
    )
    with tqdm(total=options.iterations, desc="attack", unit="step", leave=False) as bar:
        found = attacks.invert(
            scene.model,
            [problem],
            original.shape[1:],
            search=attacks.Search(iterations=options.iterations),
            bases=release.bases,
            progress=lambda _: bar.update(),
        )
    (score,) = metrics.compare(found.images[0], original)
    save(torch.cat([original, found.images[0]]), options.output)
    print(f"{options.defence}, {options.attacker}: {score.psnr:.1f} dB, SSIM {score.ssim:.2f}; see {options.output}")


def save(images: torch.Tensor, path: pathlib.Path) -> None:
    """The original and the rebuilt image side by side."""
    figure, axes = plt.subplots(1, len(images), figsize=(5.2, 2.9), layout="constrained")
    for axis, title, image in zip(axes, ("original", "rebuilt"), images, strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)
