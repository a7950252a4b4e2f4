"""python -m bench.speed.sanitize: every path of the GPU kernels on small shapes, for compute-sanitizer to watch."""

import itertools

import torch

import tip_kernels as tip

SHAPES = [(3000, 8, 3, 3), (40, 24, 3, 3), (33, 5, 3, 3), (6, 4, 5, 5), (3, 1, 31, 31), (70,), (9, 31)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
OPTIONS = [{}, {"floor_std": 0.1, "max_grad_norm": 1.0}, {"floor_std": 0.1, "keep": 0.5, "grad_scale": 0.5}]


def main() -> None:
    """Calls each op with each dtype, memory format and generator."""
    draw = torch.Generator("cuda").manual_seed(0)
    for last, dtype, given in itertools.product((False, True), DTYPES, OPTIONS):
        grads = [torch.randn(shape, generator=draw, device="cuda").to(dtype) for shape in SHAPES]
        if last:
            grads = [g.contiguous(memory_format=torch.channels_last) if g.dim() == 4 else g for g in grads]
        scores = [torch.rand(len(g), generator=draw, device="cuda") if g.dim() == 4 else None for g in grads]
        for generator in ("chacha12", "philox"):
            tip.perturb_(grads, scores, ratio=0.4, std=1.0, rng=tip.NoiseRNG(generator=generator), **given)
        tip.channel_saliency(grads[0])
        tip.channel_saliency(grads[1].transpose(2, 3))
    torch.cuda.synchronize()
    print("done, on backend", tip.available_backends("cuda")[0])


if __name__ == "__main__":
    main()
