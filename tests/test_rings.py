"""What ``python -m bench.privacy rounding`` counts on: where the normals of 32-bit words can be."""

import numpy as np
import torch

from bench.privacy import rounding
from tip_kernels.backends.reference.normals import normals


def test_rings_are_where_the_normals_are():
    """Pairs made from the contract's words lie on rings; between the two outermost ones there is nothing."""
    words = torch.randint(2**32, (4000,), generator=torch.Generator().manual_seed(0))
    words[::2] %= 2**13  # far out
    pairs = normals(words).reshape(-1, 2).T.double().numpy()
    assert rounding.some_ring_crosses(pairs - 1e-6, pairs + 1e-6).all()
    gap = rounding.radius(np.arange(2)).mean() * np.stack([np.cos(np.arange(9.0)), np.sin(np.arange(9.0))])
    assert not rounding.some_ring_crosses(gap - 1e-3, gap + 1e-3).any()
