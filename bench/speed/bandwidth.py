"""How much of a GPU's memory bandwidth the kernels use on large tensors."""

from collections.abc import Callable

import torch

import tip_kernels as tip
from bench.speed import timing
from tip_kernels._op import dispatch

STD = 1e-3


def bandwidth(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """GB/s of large tensors on a GPU, and the share of what a device copy of the same bytes reaches.

    1 GiB of 3x3 kernels, every channel selected, in place, without a floor and with one; 1 GiB of a linear layer with
    one; clipping, which reads once; channel saliency of [64, 256, 56, 56], and of few large channels; an empty list,
    which is one launch and no memory.
    """
    kernels = torch.randn(2**18, 114, 3, 3, device=device)  # 1.00 GiB
    activation_grad = torch.randn(64, 256, 56, 56, device=device)
    linear = torch.randn(2**14, 2**14, device=device)  # 1.00 GiB
    few = torch.randn(32, 64, 112, 112, device=device, dtype=torch.bfloat16)
    room = torch.empty_like(kernels)

    def ours(
        grad: torch.Tensor, generator: str = "chacha12", floor: float = 0.0, ratio: float = 1.0
    ) -> Callable[[], None]:
        rng = tip.NoiseRNG(generator=generator)
        scores = [torch.rand(len(grad), device=device) if grad.dim() == 4 else None]
        return lambda: tip.perturb_([grad], scores, ratio=ratio, cutoff=0.5, std=STD, floor_std=floor, rng=rng)

    rng = tip.NoiseRNG()
    tip.perturb_([kernels[:1]], [None], ratio=1.0, std=STD, floor_std=STD, rng=rng)  # brings the state to the device
    launches = {
        "device copy": (lambda: room.copy_(kernels), 2 * kernels.nbytes),
        **{name: (ours(kernels, name), 2 * kernels.nbytes) for name in ("philox", "chacha8", "chacha12", "chacha20")},
        "chacha12, bfloat16": (ours(kernels.bfloat16()), kernels.nbytes),
        "chacha12, channels_last": (ours(kernels.to(memory_format=torch.channels_last)), 2 * kernels.nbytes),
        "floor": (ours(kernels, floor=STD), 2 * kernels.nbytes),
        "floor, a third selected": (ours(kernels, floor=STD, ratio=0.3), 2 * kernels.nbytes),
        "floor, bfloat16": (ours(kernels.bfloat16(), floor=STD), kernels.nbytes),
        "floor, channels_last": (ours(kernels.to(memory_format=torch.channels_last), floor=STD), 2 * kernels.nbytes),
        "floor, linear layer": (ours(linear, floor=STD), 2 * linear.nbytes),
        "floor, linear, philox": (ours(linear, "philox", floor=STD), 2 * linear.nbytes),
        "clipping alone": (clipping(linear, device), linear.nbytes),
        "channel_saliency": (saliency(activation_grad), activation_grad.nbytes),
        "saliency, few channels": (saliency(few), few.nbytes),
        "saliency, channels_last": (saliency(few.to(memory_format=torch.channels_last)), few.nbytes),
        "empty list": (lambda: tip.perturb_([], [], ratio=1.0, std=STD, rng=rng), 0),
    }
    replays = {name: timing.as_graph(function) for name, (function, _) in launches.items()}
    times = timing.interleaved(replays, device, repeats, calls=3)
    rates = {name: moved / times[name].median / 1e6 for name, (_, moved) in launches.items()}
    return {
        name: {**times[name]._asdict(), "GB/s": rate, "of a copy": rate / rates["device copy"]}
        for name, rate in rates.items()
    }


def clipping(grad: torch.Tensor, device: torch.device) -> Callable[[], object]:
    """The factor that clips to a norm, by the op."""
    state, clip_scale = tip.NoiseRNG().state(device), dispatch.clip_op(None, device)
    return lambda: clip_scale([grad], None, state, 1.0, [], None)


def saliency(activation_grad: torch.Tensor) -> Callable[[], object]:
    """The score of every channel."""
    return lambda: tip.channel_saliency(activation_grad)


def print_bandwidth(rows: dict[str, dict[str, float]]) -> None:
    """A line for each kind of call."""
    print("\nLarge tensors; 1 GiB of selected 3x3 kernels unless said otherwise")
    print(f"  {'':24}{'ms':>10}{'GB/s':>8}{'of a copy':>11}")
    for name, row in rows.items():
        print(f"  {name:24}{row['median']:10.4f}{row['GB/s']:8.0f}{row['of a copy']:11.2f}")
