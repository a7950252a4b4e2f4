"""What a Gaussian prior and the message tell at most where the gradient is linear in the image.

At the true image, which no attacker has: the posterior of the linearized problem. Its error is what the best estimator
leaves on average over images of the prior; the nonlinear problem, and a prior that knows more, may do otherwise.
"""

import math

import torch
from torch import nn

from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.priors import Gaussian
from bench.privacy.client.release import Release


def ceiling(model: nn.Module, release: Release, prior: Gaussian, image: torch.Tensor, chunk: int = 64) -> float:
    """PSNR in dB of the mean squared error, trace of (F + S^-1)^-1 by the pixels, for one image [1, channels, h, w].

    F is the Fisher information of the message, J'J with the whitened residuals' Jacobian J, and S the prior's
    covariance; ``release`` is what a client sent of this image alone, and ``chunk`` says how many of J's columns are
    computed at once.
    """
    flat = prior.factor.T  # [latents, pixels]
    jacobian = []
    for directions in flat.split(chunk):
        count = len(directions)
        many = Likelihood(model, [release], restarts=count)
        images = image.repeat(count, 1, 1, 1, 1)
        at, transposed = torch.func.vjp(many.residuals, images)
        _, forward = torch.func.vjp(lambda u, transposed=transposed: transposed(u)[0], torch.zeros_like(at))
        jacobian.append(forward(directions.view_as(images))[0])
    sensitivity = torch.cat(jacobian)  # [latents, D], J L transposed
    precision = (sensitivity @ sensitivity.T).double()
    precision.diagonal().add_(1.0)
    # tr(L P L'), with the latents' covariance P, the precision's inverse, by its Cholesky factor.
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(precision), flat.double(), upper=False)
    return -10 * math.log10(half.square().sum().item() / flat.shape[1])
