"""The highest posterior density by Adam."""

import torch

from bench.privacy.attacker.inversion import Progress, Search, best_start
from bench.privacy.attacker.posterior import Method, Posterior


def climb(posterior: Posterior, z: torch.Tensor, search: Search, progress: Progress) -> torch.Tensor:
    """The latents reached from z by a step size that falls as half a cosine from ``search.lr``, in their units."""
    z = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=search.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, search.iterations)
    for step in range(search.iterations):
        share = step / search.iterations
        losses = posterior.loss(z, posterior.level(share))
        (z.grad,) = torch.autograd.grad(losses.sum(), z)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            z.copy_(posterior.refine(z, share))
        progress(losses.detach())
    return z.detach()


def adam(
    posterior: Posterior, z: torch.Tensor, search: Search, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of :func:`climb` and their losses."""
    z = climb(posterior, z, search, progress)
    with torch.no_grad():
        return posterior.prior.images(z), posterior.loss(z)


ADAM = Method(adam, best_start)
