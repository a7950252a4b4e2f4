"""The division of images among clients."""

import numpy as np
import torch


def divide(labels: torch.Tensor, clients: int, partition: str, seed: int) -> list[torch.Tensor]:
    """Indices of the images of each client, in random order, so that the first few stand for all.

    Args:
        labels: int64 [N].
        clients: how many; each gets about N / clients images.
        partition: ``"iid"``: at random. ``"dirichlet"``: the clients' shares of each class are drawn from
            Dirichlet(0.5) (Hsu et al. 2019), so sizes differ too, and a client may get nothing.
        seed: of the division.
    """
    draw = np.random.default_rng(seed)
    if partition == "iid":
        parts = np.array_split(draw.permutation(len(labels)), clients)
    else:
        by_class = [_deal(draw, np.flatnonzero(labels.cpu() == label), clients) for label in labels.unique().cpu()]
        parts = [draw.permutation(np.concatenate(pieces)) for pieces in zip(*by_class, strict=True)]
    return [torch.from_numpy(part) for part in parts]


def _deal(draw: np.random.Generator, indices: np.ndarray, clients: int) -> list[np.ndarray]:
    shares = draw.dirichlet(np.full(clients, 0.5))
    ends = (shares.cumsum()[:-1] * len(indices)).astype(int)
    return np.split(draw.permutation(indices), ends)
