"""How much of a GPU's memory bandwidth the kernels use on large tensors."""

from collections.abc import Callable

import torch

import tip_kernels as tip
from bench.speed import timing

STD = 1e-3


def bandwidth(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """GB/s of large tensors on a GPU, and the share of what a device copy of the same bytes reaches.

    1 GiB of 3x3 kernels, every channel selected, in place; channel saliency of [64, 256, 56, 56]; an empty list,
    which is one launch and no memory.
    """
    kernels = torch.randn(2**18, 114, 3, 3, device=device)  # 1.00 GiB
    activation_grad = torch.randn(64, 256, 56, 56, device=device)
    room = torch.empty_like(kernels)

    def ours(grad: torch.Tensor, generator: str = "chacha12") -> Callable[[], None]:
        rng, scores = tip.NoiseRNG(generator=generator), [torch.zeros(len(grad), device=device)]
        return lambda: tip.perturb_([grad], scores, ratio=1.0, cutoff=0.5, std=STD, rng=rng)

    rng = tip.NoiseRNG()
    tip.perturb_([kernels[:1]], [None], ratio=1.0, std=STD, floor_std=STD, rng=rng)  # brings the state to the device
    launches = {
        "device copy": (lambda: room.copy_(kernels), 2 * kernels.nbytes),
        **{name: (ours(kernels, name), 2 * kernels.nbytes) for name in ("philox", "chacha8", "chacha12", "chacha20")},
        "chacha12, bfloat16": (ours(kernels.bfloat16()), kernels.nbytes),
        "chacha12, channels_last": (ours(kernels.to(memory_format=torch.channels_last)), 2 * kernels.nbytes),
        "channel_saliency": (lambda: tip.channel_saliency(activation_grad), activation_grad.nbytes),
        "empty list": (lambda: tip.perturb_([], [], ratio=1.0, std=STD, rng=rng), 0),
    }
    replays = {name: timing.as_graph(function) for name, (function, _) in launches.items()}
    times = timing.interleaved(replays, device, repeats, calls=3)
    rates = {name: moved / times[name].median / 1e6 for name, (_, moved) in launches.items()}
    return {
        name: {**times[name]._asdict(), "GB/s": rate, "of a copy": rate / rates["device copy"]}
        for name, rate in rates.items()
    }


def print_bandwidth(rows: dict[str, dict[str, float]]) -> None:
    """A line for each kind of call."""
    print(f"\n1 GiB of selected 3x3 kernels\n  {'':24}{'ms':>10}{'GB/s':>8}{'of a copy':>11}")
    for name, row in rows.items():
        print(f"  {name:24}{row['median']:10.4f}{row['GB/s']:8.0f}{row['of a copy']:11.2f}")
