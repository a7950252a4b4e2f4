"""The classes of a client's images, read off the gradient of the last layer."""

import torch

from bench.privacy.client.release import Release

SCALES = torch.logspace(-3, 0, 301, dtype=torch.float64)
"""What clipping may have multiplied a gradient by."""
SLACK = 0.2
"""Standard deviation of a batch's mean softmax around a uniform one, in units of one by the number of classes. Measured
on untrained nets and 16 images of CIFAR-10: 0.03 to 0.3."""


def recover_labels(
    head_weight: torch.Tensor,
    head_bias: torch.Tensor | None,
    batch_size: int = 1,
    *,
    noise_std: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """The classes behind a cross-entropy gradient, read off the last linear layer.

    A sample adds softmax minus one-hot to the bias gradient, and that times its features to the rows of the weight
    gradient. So of one sample's rows all are multiples of one vector, and only its own class's points the other way
    (iDLG, Zhao et al. 2020); the first singular vector finds them under pruning and noise too. For more samples see
    :func:`counts`.

    Args:
        head_weight: gradient [classes, features] of the last layer's weight; it may be clipped.
        head_bias: gradient [classes] of its bias, clipped alike, or None.
        batch_size: B.
        noise_std: of the noise in the bias gradient, one or [classes]; infinite for what is lost.

    Returns:
        int64 [B], ascending.

    Raises:
        ValueError: no bias, and more than one sample or only two classes, whose rows do not tell which is which.
    """
    classes = len(head_weight)
    if batch_size == 1 and classes > 2:
        rows = head_weight if head_bias is None else torch.cat([head_weight, head_bias[:, None]], 1)
        shares = torch.linalg.svd(rows.double(), full_matrices=False).U[:, 0]
        # Softmax minus one-hot sums to zero: the class is the negative one and outweighs the rest in the cubes.
        return (shares * -shares.pow(3).sum().sign()).argmin().view(1)
    if head_bias is None:
        raise ValueError(f"expected a bias for {batch_size} samples of {classes} classes, got none")
    found = counts(head_bias.detach().cpu().double(), batch_size, noise_std)
    return torch.arange(classes).repeat_interleave(found).to(head_weight.device)


def counts(head_bias: torch.Tensor, batch: int, noise_std: torch.Tensor | float) -> torch.Tensor:
    """How many samples each class has: the most probable numbers, together with the factor of the clipping.

    The bias gradient is c (p - n / B) plus noise, with the mean softmax p, which of untrained nets is about uniform,
    the counts n and an unknown factor c of the clipping, whose logarithm is taken for uniform. That all counts are
    whole, none is negative and their sum is B tells c: the gradient's own sum is zero whatever it is. Labels are taken
    for uniform and independent. LLG (Wainakh et al. 2021) gives back 1/B for each label that it takes, which is right
    for c = 1 only.

    Args:
        head_bias: float64 [classes].
        batch: B.
        noise_std: of the noise, one or [classes].

    Returns:
        int64 [classes], of sum B.
    """
    softmax = 1 / len(head_bias)
    noise = torch.as_tensor(noise_std, dtype=torch.float64).expand(len(head_bias))
    c = SCALES[:, None]
    variance = (c * SLACK * softmax).square() + noise.square()  # [scales, classes]
    found = torch.zeros(len(SCALES), len(head_bias), dtype=torch.float64)

    def cost(found: torch.Tensor) -> torch.Tensor:  # negative logarithm of the probability, a class at a time
        return (head_bias - c * (softmax - found / batch)).square() / (2 * variance) + torch.lgamma(found + 1)

    for _ in range(batch):  # the cost is convex in each count: taking the best next sample B times finds the lowest
        gain = (cost(found) - cost(found + 1)).argmax(1, keepdim=True)
        found.scatter_add_(1, gain, torch.ones_like(c))
    known = noise.isfinite()
    total = cost(found).sum(1) + variance[:, known].log().sum(1) / 2
    return found[total.argmin()].long()


def known_labels(release: Release, batch_size: int) -> torch.Tensor:
    """The labels [batch_size] that the release comes with, or else what the gradient's head alone tells of them."""
    if release.labels is not None:
        return release.labels
    return recover_labels(*release.gradient[-2:], batch_size=batch_size, noise_std=release.noise_std[-1].flatten())
