"""The classes of a client's images, read off the gradient of the last layer."""

import torch


def recover_labels(head_weight: torch.Tensor, head_bias: torch.Tensor | None, batch_size: int = 1) -> torch.Tensor:
    """The classes behind a cross-entropy gradient, read off the last linear layer.

    A sample adds softmax minus one-hot to the bias gradient, and that times its features to the rows of the weight
    gradient. So of one sample's rows all are multiples of one vector, and only its own class's points the other way
    (iDLG, Zhao et al. 2020); the first singular vector finds them under pruning and noise too. For more samples
    classes are taken one by one, the most negative bias first, each giving back the 1/B it explains (LLG, Wainakh et
    al. 2021): a guess.

    Args:
        head_weight: gradient [classes, features] of the last layer's weight.
        head_bias: gradient [classes] of its bias, or None.
        batch_size: B.

    Returns:
        int64 [B], ascending.

    Raises:
        ValueError: no bias, and more than one sample or only two classes, whose rows do not tell which is which.
    """
    if batch_size == 1 and len(head_weight) > 2:
        rows = head_weight if head_bias is None else torch.cat([head_weight, head_bias[:, None]], 1)
        shares = torch.linalg.svd(rows.double(), full_matrices=False).U[:, 0]
        # Softmax minus one-hot sums to zero: the class is the negative one and outweighs the rest in the cubes.
        return (shares * -shares.pow(3).sum().sign()).argmin().view(1)
    if head_bias is None:
        raise ValueError(f"expected a bias for {batch_size} samples of {len(head_weight)} classes, got none")
    evidence = head_bias.detach().clone()
    labels = []
    for _ in range(batch_size):
        label = int(evidence.argmin())
        evidence[label] += 1 / batch_size
        labels.append(label)
    return torch.tensor(sorted(labels), device=head_weight.device)
