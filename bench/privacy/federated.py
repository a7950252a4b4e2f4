"""Federated training under each defence: what TIP, APG and DP cost in accuracy.

FedAvg (McMahan et al. 2017) with the settings of TIP's authors (arXiv 2602.11633) as defaults. Without --data it runs
on scikit-learn's handwritten digits. Writes bench/results/NAME.csv and NAME.png, and after each round a checkpoint
below build/federated, from which --resume goes on. Everything random, the noise too, follows from the seed, the round
and the client, so a resumed run is the run that was not interrupted (up to what a GPU does not repeat).
"""

import argparse
import csv
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import torch
from torch import nn
from tqdm import tqdm

import tip_kernels as tip
from bench.privacy import defenses, report, resnet, tasks
from bench.privacy.images import Labelled, divide, load

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CHECKPOINTS = pathlib.Path("build/federated")
PAPER = {"none": 79, "tip": 73, "apg": 59, "dp": 44}
"""Accuracy in percent after 1,000 rounds of ResNet-18 on CIFAR-10, read off the plot of arXiv 2602.11633."""


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides a curve but the data and the defence."""

    model: str = _option("resnet18", "the net", ("resnet18", "small"))
    partition: str = _option("iid", "images among clients; dirichlet: of parameter 0.5", ("iid", "dirichlet"))
    clients: int = _option(100, "clients in all")
    sampled: int = _option(10, "clients in a round")
    images_per_client: int = _option(0, "at most so many; 0: all")
    local_epochs: int = _option(2, "passes of a client over its images")
    batch: int = _option(32, "images in a step")
    lr: float = _option(1e-3, "step size of the clients' SGD")
    clip: float = _option(5.0, "norm to which the gradient of every step is clipped")
    epsilon: float = _option(5.0, "sets the noise, by the authors' formula")
    delta: float = _option(1e-5, "the same")
    ratio: float = _option(0.3, "share of the channels that TIP selects")
    augment: int = _option(0, "1: random flips and crops")
    seed: int = _option(0, "of everything random")

    def changed(self) -> Iterator[str]:
        """The options that are not the defaults."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                yield f"--{field.name.replace('_', '-')} {getattr(self, field.name)}"


Curve = list[tuple[int, float]]
"""(Round, test accuracy in percent), from round 0 on."""
Update = dict[str, torch.Tensor]
Protect = Callable[[nn.Module, Update, Labelled, float, int, Settings], None]
"""Changes an update in place; called with the client's model and images, the noise ``beta`` and a seed."""


def no_defence(model: nn.Module, update: Update, data: Labelled, beta: float, seed: int, settings: Settings) -> None:
    """Sends the update as it is."""


def targeted(model: nn.Module, update: Update, data: Labelled, beta: float, seed: int, settings: Settings) -> None:
    """TIP, as its authors run it: Grad-CAM of a batch of the client's own images, no floor."""
    kernels = {name: p for name, p in model.named_parameters() if p.dim() == 4}
    std = {name: tip.calibration.spectrum_std(beta, kernel[0, 0].numel()) for name, kernel in kernels.items()}
    with tip.TIP(model, ratio=settings.ratio, std=std, rng=tip.NoiseRNG.from_seed(seed)) as defense:
        defense.measure(normalised(data.images), data.labels)
        defense.perturb_update(update)


def attention(model: nn.Module, update: Update, data: Labelled, beta: float, seed: int, settings: Settings) -> None:
    """APG: noise on the last convolution of each residual block, the more the higher a channel's Grad-CAM score."""
    generator = torch.Generator(data.images.device).manual_seed(seed)
    for name, weight in defenses.channel_weights(model.eval(), normalised(data.images), data.labels).items():
        noise = torch.randn(update[name].shape, generator=generator, device=update[name].device)
        update[name] += beta * weight.view(-1, 1, 1, 1) * noise


def gaussian(model: nn.Module, update: Update, data: Labelled, beta: float, seed: int, settings: Settings) -> None:
    """DP: the same noise on every parameter."""
    tensors = [update[name] for name, _ in model.named_parameters()]
    unscored = [None] * len(tensors)
    tip.perturb_(tensors, unscored, ratio=0.0, std=0.0, floor_std=beta, rng=tip.NoiseRNG.from_seed(seed))


DEFENCES: dict[str, Protect] = {"none": no_defence, "tip": targeted, "apg": attention, "dp": gaussian}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--rounds", type=int, default=1000, help="default 1000")
    parser.add_argument("--defences", default=",".join(DEFENCES), help="some of %(default)s")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--name", help="of the results; default: federated-DATA-MODEL-PARTITION")
    parser.add_argument("--page", type=pathlib.Path, help="Markdown file with marks of that name for the table")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints")
    for field in dataclasses.fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            choices=field.metadata["choices"],
            help=f"{field.metadata['help']}; default {field.default}",
        )


def run(options: argparse.Namespace) -> None:
    names = options.defences.split(",")
    unknown = set(names) - set(DEFENCES)
    if unknown:
        raise SystemExit(f"expected --defences from {', '.join(DEFENCES)}, got {', '.join(sorted(unknown))}")
    settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
    data = "cifar10" if options.data else "digits"
    name = options.name or f"federated-{data}-{settings.model}-{settings.partition}"
    command = " ".join(_command(options, settings))
    if settings.model == "small":
        torch.set_num_threads(1)  # more are no faster for so small a net, and the figures do not depend on them
    train, test = load(options.data, options.device)
    curves: dict[str, Curve] = {}
    for defence in names:
        checkpoint = CHECKPOINTS / f"{name}-{defence}.pt"
        if not options.resume:
            checkpoint.unlink(missing_ok=True)
        for curve in training(defence, train, test, options.rounds, settings, checkpoint):
            curves[defence] = curve
            save(curves, report.RESULTS / f"{name}.csv", command)
        draw(curves, report.RESULTS / f"{name}.png", command)
    if options.page:
        report.publish(options.page, name, table(curves))
    print(f"{table(curves)}\n\nin {report.RESULTS / name}.csv and .png")


def _command(options: argparse.Namespace, settings: Settings) -> Iterator[str]:
    """What was run, in words; without the machine's paths and device."""
    yield "python -m bench.privacy federate"
    if options.data:
        yield "--data FOLDER"
    yield f"--rounds {options.rounds}"
    if options.defences != ",".join(DEFENCES):
        yield f"--defences {options.defences}"
    if options.name:
        yield f"--name {options.name}"
    yield from settings.changed()


def training(
    defence: str, train: Labelled, test: Labelled, rounds: int, settings: Settings, checkpoint: pathlib.Path
) -> Iterator[Curve]:
    """Trains on from the checkpoint, if there is one; yields the curve whenever it has grown, a hundred times at most.

    Raises:
        ValueError: the checkpoint is of other settings.
    """
    model = build(settings, train).to(train.images.device)
    done, curve = restore(model, checkpoint, settings)
    parts = divide(train.labels, settings.clients, settings.partition, settings.seed)
    clients = [train[part[: settings.images_per_client or None]] for part in parts if len(part)]
    every = max(1, rounds // 100)
    if not curve:
        curve = [(0, accuracy(model, test))]
    yield curve
    with tqdm(total=rounds, initial=done, desc=f"{defence:>4}", unit="round") as bar:
        bar.set_postfix_str(f"accuracy {curve[-1][1]:.1f} %")
        for number in range(done + 1, rounds + 1):
            play_round(model, clients, number, DEFENCES[defence], settings)
            grown = number % every == 0 or number == rounds
            if grown:
                curve = [*curve, (number, accuracy(model, test))]
                bar.set_postfix_str(f"accuracy {curve[-1][1]:.1f} %", refresh=False)
            keep(model, checkpoint, settings, number, curve)
            bar.update()
            if grown:
                yield curve


def build(settings: Settings, data: Labelled) -> nn.Module:
    """The untrained model; the same for every defence."""
    torch.manual_seed(settings.seed)
    channels, size = data.images.shape[1:3]
    return resnet.resnet18(channels) if settings.model == "resnet18" else tasks.small_conv_net(channels, size)


def play_round(model: nn.Module, clients: list[Labelled], number: int, protect: Protect, settings: Settings) -> None:
    """One round of FedAvg: clients train, protect and send, and the model moves by the mean of their updates."""
    before = copied(state(model))
    drawn = torch.randperm(len(clients), generator=generator(settings, number, 0))[: settings.sampled].tolist()
    images = sum(len(clients[i].labels) for i in drawn)
    mean = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for i in drawn:
        assign(model, before)
        shuffle = generator(settings, number, 1 + i)
        steps = train_locally(model, clients[i], shuffle, settings)
        update = {name: tensor - before[name] for name, tensor in copied(state(model)).items()}
        seed = shuffle.initial_seed()
        protect(model, update, clients[i][: settings.batch], noise(steps, settings), seed, settings)
        for name, tensor in update.items():
            mean[name] += tensor * (len(clients[i].labels) / images)
    assign(model, {name: before[name] + mean[name] for name in before})


def train_locally(model: nn.Module, data: Labelled, shuffle: torch.Generator, settings: Settings) -> int:
    """A client's work: SGD on its images with clipped gradients. Returns the number of steps."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    steps = 0
    for _ in range(settings.local_epochs):
        for chosen in torch.randperm(len(data.labels), generator=shuffle).split(settings.batch):
            batch = data[chosen.to(data.labels.device)]
            images = augmented(batch.images, shuffle) if settings.augment else batch.images
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(normalised(images)), batch.labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            steps += 1
    return steps


def noise(steps: int, settings: Settings) -> float:
    """The authors' ``beta`` (arXiv 2602.11633, section 4): the classical Gaussian mechanism on a local update.

    They clip the gradient of a batch, for which the sensitivity of the formula does not hold: it is no guarantee.
    """
    moved = tip.calibration.local_update_sensitivity(steps, settings.lr, settings.clip, settings.batch)
    return tip.calibration.classical_gaussian_std(settings.epsilon, settings.delta, moved)


@torch.no_grad()
def accuracy(model: nn.Module, data: Labelled) -> float:
    """In percent."""
    model.eval()
    batches = zip(data.images.split(500), data.labels.split(500), strict=True)
    right = sum((model(normalised(images)).argmax(1) == labels).sum().item() for images, labels in batches)
    return 100 * right / len(data.labels)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 of mean about 0 and variance about 1."""
    return (images.float() / 255 - 0.5) / 0.25


def augmented(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Each image mirrored or not, and moved by up to four pixels, with black where nothing was."""
    count, _, height, width = images.shape
    flip, top, left = (torch.randint(high, (count,), generator=draw).to(images.device) for high in (2, 9, 9))
    images = torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(3), images)
    padded = nn.functional.pad(images, (4, 4, 4, 4)).movedim(1, 3)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    row = top.view(-1, 1, 1) + torch.arange(height, device=images.device).view(1, -1, 1)
    column = left.view(-1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, -1)
    return padded[image, row, column].movedim(3, 1)


def generator(settings: Settings, number: int, who: int) -> torch.Generator:
    """Of a round and a client (from 1), or of the server (0)."""
    return torch.Generator().manual_seed((settings.seed * 10**6 + number) * 10**6 + who)


def state(model: nn.Module) -> Update:
    """Parameters and floating buffers: what FedAvg averages. No defence here touches batch-norm statistics."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def copied(tensors: Update) -> Update:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assign(model: nn.Module, tensors: Update) -> None:
    model.load_state_dict(tensors, strict=False)


def keep(model: nn.Module, checkpoint: pathlib.Path, settings: Settings, done: int, curve: Curve) -> None:
    """Saves where the training stands; an interruption leaves the old file or the new one."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    new = checkpoint.with_suffix(".new")
    saved = {"settings": dataclasses.asdict(settings), "model": model.state_dict(), "done": done, "curve": curve}
    torch.save(saved, new)
    new.replace(checkpoint)


def restore(model: nn.Module, checkpoint: pathlib.Path, settings: Settings) -> tuple[int, Curve]:
    """Rounds done and the curve so far, with the model as it was then."""
    if not checkpoint.exists():
        return 0, []
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["settings"] != dataclasses.asdict(settings):
        raise ValueError(f"expected {checkpoint} to be of these settings, got others: run without --resume")
    model.load_state_dict(saved["model"])
    return saved["done"], saved["curve"]


def save(curves: dict[str, Curve], path: pathlib.Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(f"# {command}\n")
        writer = csv.writer(file)
        writer.writerow(("defence", "round", "accuracy"))
        writer.writerows((name, number, f"{value:.2f}") for name, curve in curves.items() for number, value in curve)


def draw(curves: dict[str, Curve], path: pathlib.Path, command: str) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, curve in curves.items():
        axis.plot(*zip(*curve, strict=True), label=name)
    axis.set_xlabel("round")
    axis.set_ylabel("test accuracy in %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=150, metadata={"Description": command})
    plt.close(figure)


def table(curves: dict[str, Curve]) -> str:
    """The last accuracies beside the paper's."""
    lines = ["| defence | rounds | accuracy | the paper: ResNet-18, CIFAR-10, 1,000 rounds |", "|---|---|---|---|"]
    for name, curve in curves.items():
        lines.append(f"| {name} | {curve[-1][0]} | {curve[-1][1]:.1f} % | {PAPER[name]} % |")
    return "\n".join(lines)
