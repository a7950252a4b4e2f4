"""make demo: a small conv net trained without and with TIP, attacked through its gradient, and audited.

Saves demo.png, and demo.html that explains it. Everything that is said here is measured in this run, within three
minutes on an ordinary CPU.
"""

import copy
import pathlib
import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn
from tqdm import tqdm

import tip_kernels as tip
from bench.privacy import images, nets
from bench.privacy.attacker import knowledge, public_images
from bench.privacy.attacker.inversion import Search, invert, progress_bar
from bench.privacy.attacker.posterior import invert_posterior
from bench.privacy.attacker.problem import posed_by
from bench.privacy.attacker.sampling import HAMILTONIAN, LEAPFROGS
from bench.privacy.client import defenses
from bench.privacy.client.one_kernel import Kernel, one_kernel
from bench.privacy.client.release import Defense, Release
from bench.privacy.study import metrics
from bench.privacy.study.metrics import SAFE
from examples import demo_page, demo_pictures
from examples.demo_results import Rebuilt, Results, Trained, defense_of, guess_psnr
from tip_kernels.audit import Audit, ImagePrior, audit

SETTINGS = {"ratio": 1.0, "cutoff": 0.5, "std": 0.02, "max_grad_norm": 1.0}
"""The strongest TIP: every channel of every layer. Noise is in units of the clipping norm."""
FLOOR = {**SETTINGS, "floor_std": 0.02}
DEFENSES = {"no defense": None, "TIP": SETTINGS, "TIP with floor": FLOOR}

EPOCHS, BATCH, LR = 20, 64, 0.5
PICTURE = "flower"
# How much an attacker smooths, by the noise in what it matches. Exact: from trials on this very photo, as was the net.
# Noisy: from trials on the other crops of bench/privacy/images.py.
SMOOTHING = {"exact": 0.01, "noisy": 1.0}
PATIENT = Search(iterations=600, lr=0.1)
STRIDE = 16
"""Of the crops of photos that the audit's prior is fitted to. Crops as dense as the attacker's take longer and lower
ceilings by at most a dB."""
KERNELS = "2.weight"
"""Name of the second conv layer's kernels."""
OUTPUT, PAGE = "demo.png", "demo.html"


def main() -> None:
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores, and a busy machine hurts less
    print(f"Noise in every step: {_settings_text(FLOOR)} (floor_std only where it says floor)\n")
    trained = train_all()
    print_training(trained)
    original = images.photo_crop(PICTURE)
    rebuilt = attack_all(original)
    audits = audit_all(original)
    print_attacks(original, rebuilt, audits)
    found = conclusion({name: one.psnr for name, one in rebuilt.items()}, trained)
    save(Results(original, trained, rebuilt, audits, perturb_all(original), found))
    print("\n".join(found))


def train_all() -> dict[str, Trained]:
    """Trains the same net under every defense, step by step in turn, so that their times compare."""
    pixels, labels, test_pixels, test_labels = images.digits()
    torch.manual_seed(0)
    net = nets.small_conv_net(channels=1, size=8)
    clients = {name: _Client(copy.deepcopy(net), settings) for name, settings in DEFENSES.items()}
    shuffle = torch.Generator().manual_seed(0)
    for _ in tqdm(range(EPOCHS), desc="train on digits", unit="epoch"):
        for batch in torch.randperm(len(labels), generator=shuffle).split(BATCH):
            for client in clients.values():
                client.step(pixels[batch], labels[batch])
    return {name: client.result(test_pixels, test_labels) for name, client in clients.items()}


class _Client:
    """A model in training, with or without TIP attached to its optimizer."""

    def __init__(self, model: nn.Module, settings: Mapping[str, float] | None) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        self.seconds: list[float] = []
        if settings is not None:
            self.defense = tip.TIP(model, **settings, rng=tip.NoiseRNG.from_seed(0))
            self.defense.attach(self.optimizer)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)

    def result(self, images: torch.Tensor, labels: torch.Tensor) -> Trained:
        with torch.no_grad():
            accuracy = (self.model(images).argmax(1) == labels).float().mean().item()
        return Trained(accuracy, 1e3 * statistics.median(self.seconds))


def attack_all(original: torch.Tensor) -> dict[str, Rebuilt]:
    """Attacks the gradient of one image under every defense, all at once."""
    model, label = _target()
    plain, tipped, floored = (
        defense(model, original[None], label, seed=0)
        for defense in (defenses.none, _targeted(SETTINGS), _targeted(FLOOR))
    )
    problems = {
        "no defense": posed_by(plain, knowledge.naive, SMOOTHING["exact"]),
        "TIP, naive attacker": posed_by(tipped, knowledge.naive, SMOOTHING["noisy"]),
        "TIP, informed attacker": posed_by(tipped, knowledge.oracle_mask, SMOOTHING["exact"]),
    }
    search = Search(iterations=600)
    with progress_bar(search, "rebuild one image", leave=True) as progress:
        found = invert(model, list(problems.values()), original.shape, search=search, progress=progress)
    images = dict(zip(problems, found.images, strict=True))
    images["TIP with floor, knowing photos"] = _posterior_mean(model, floored)
    return {name: Rebuilt(rebuilt[0], *metrics.compare(rebuilt, original[None])[0]) for name, rebuilt in images.items()}


def _target() -> tuple[nn.Module, torch.Tensor]:
    """The net whose gradient is sent, and the label of the image."""
    torch.manual_seed(0)
    return nets.small_conv_net(channels=3, size=32), torch.tensor([3])


def _posterior_mean(model: nn.Module, release: Release) -> torch.Tensor:
    """Of one release: the attack that gets most through noise on everything without a trained net."""
    print("again, through the floor, by one who knows photos: fits a prior first")
    prior, turns = public_images.gaussian(None), PATIENT._replace(iterations=PATIENT.iterations // LEAPFROGS)
    with progress_bar(turns, "samples", leave=True) as progress:
        found = invert_posterior(
            model,
            [release],
            prior=prior,
            method=HAMILTONIAN,
            hot=30.0,
            search=PATIENT,
            progress=progress,
        )
    return found.images[0]


def audit_all(original: torch.Tensor) -> dict[str, Audit]:
    """What any attacker who knows such photos could see of the image, by the names of ``DEFENSES``."""
    print("what any attacker could see: fits a prior first")
    prior = ImagePrior.fit(public_images.photo_crops(stride=STRIDE))
    model, label = _target()
    found = {}
    with tqdm(total=len(DEFENSES), desc="audit", unit="defense", bar_format="{l_bar}{bar}| {elapsed}") as bar:
        for done, (name, settings) in enumerate(DEFENSES.items()):
            defense = 0.0 if settings is None else tip.TIP(model, **settings)
            found[name] = audit(
                model,
                nn.functional.cross_entropy,
                original[None],
                label,
                defense,
                prior=prior,
                max_grad_norm=SETTINGS["max_grad_norm"] if settings is None else None,
                progress=lambda share, done=done: bar.update(done + share - bar.n),
            )
    return found


def perturb_all(original: torch.Tensor) -> dict[str, Kernel]:
    """One kernel of the image's gradient before and after, under every defense with noise."""
    model, label = _target()
    return {
        name: one_kernel(model, original[None], label, settings, KERNELS)
        for name, settings in DEFENSES.items()
        if settings is not None
    }


def _targeted(settings: Mapping[str, float]) -> Defense:
    assert settings["max_grad_norm"] == defenses.CLIP
    return defenses.targeted(**{name: value for name, value in settings.items() if name != "max_grad_norm"})


def conclusion(psnr: Mapping[str, float], trained: Mapping[str, Trained]) -> tuple[str, str]:
    """Two lines that follow from the figures.

    Args:
        psnr: dB by attack, the names of :func:`attack_all`.
        trained: by defense, the names of ``DEFENSES``.
    """
    none, naive, informed, floor = psnr.values()
    lost, regained = none - naive, informed - naive
    first = f"TIP costs a naive attacker {lost:.1f} dB, "
    if lost < 3:
        first = f"TIP hardly hinders even a naive attacker, who reaches {naive:.1f} dB ({none:.1f} dB undefended)."
    elif regained > lost / 4:
        first += f"but one that leaves the noised channels out wins {regained:.1f} dB back: a server may well know TIP."
    else:
        first += f"and one that leaves the noised channels out wins no more than {max(regained, 0):.1f} dB back."
    price = 100 * (trained["no defense"].accuracy - trained["TIP with floor"].accuracy)
    cost = f"costs {price:.1f} points of accuracy" if price > 0 else "costs no accuracy here"
    if floor <= SAFE:
        second = (
            f"If it may, use a floor: noise on all that is sent leaves one who knows photos {floor:.1f} dB and {cost}."
        )
    elif floor < informed - 3:
        second = (
            f"If it may, use a floor, but a louder one: one who knows photos still gets {floor:.1f} dB through this, "
        )
        second += f"where {SAFE:.0f} is safe (docs/privacy.md); it {cost}."
    else:
        second = f"This floor is too small to help: one who knows photos still gets {floor:.1f} dB, and it {cost}."
    return first, second


def print_training(trained: Mapping[str, Trained]) -> None:
    plain = trained["no defense"].step_ms
    print(f"\n{'training on digits':34}  accuracy  ms a step   cost of TIP")
    for name, one in trained.items():
        extra = one.step_ms - plain
        cost = "" if name == "no defense" else f"{extra:+.2f} ms ({100 * extra / plain:+.0f} %)"
        print(f"{name:34}  {100 * one.accuracy:6.1f} %  {one.step_ms:9.2f}   {cost}")
    print(f"backend: {tip.available_backends()[0]}\n")


def print_attacks(original: torch.Tensor, rebuilt: Mapping[str, Rebuilt], audits: Mapping[str, Audit]) -> None:
    """Each attack beside the audit of its defense."""
    print(
        f"\n{'image rebuilt from one gradient':34}  PSNR (dB)   SSIM   audit: ceiling  guess   (higher: it leaks more)"
    )
    for name, one in rebuilt.items():
        found = audits[defense_of(name)]
        psnr, guess = found.psnr.item(), guess_psnr(found, original)
        print(f"{name:34}  {one.psnr:9.1f}  {one.ssim:5.2f}   {psnr:14.1f}  {guess:5.1f}")
    print(
        "ceiling: of the best estimate, on average over images of a Gaussian prior of such photos, with the gradient "
        "linear in them;\nguess: that estimate for this photo, which is worse for photos unlike those\n"
    )


def save(results: Results) -> None:
    """The picture and the page."""
    demo_pictures.picture(results, SETTINGS["cutoff"]).savefig(OUTPUT, dpi=110, bbox_inches="tight")
    pathlib.Path(PAGE).write_text(demo_page.page(results, _settings_text(FLOOR), SETTINGS["cutoff"]), encoding="utf-8")
    print(f"All pictures are in {OUTPUT}; open {PAGE} to read what they mean.\n")


def _settings_text(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


if __name__ == "__main__":
    main()
