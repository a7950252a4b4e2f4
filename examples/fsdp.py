"""FSDP2 (``fully_shard``) on scikit-learn's digits: parameters and gradients are split over two ranks.

    python -m examples.fsdp              # starts two processes on this machine
    torchrun --nproc-per-node 2 -m examples.fsdp

Expect the test accuracy after each epoch, well above the 10 % of guessing after the last, and then how the channels of
the first convolution lie on the ranks, which have five each of its ten:

    rank 0 holds (5, 1, 3, 3) of (10, 1, 3, 3)

TIP takes the place of each part from its placement and gives it the noise that the whole gradient would get there.
"""

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import tip_kernels as tip
from examples import digits
from tip_kernels.integrations.distributed import share_key


def train() -> None:
    """What each rank does."""
    model = digits.net()
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    defense = tip.TIP(model, ratio=0.3, std=0.005, floor_std=0.005, max_grad_norm=1.0)
    share_key(defense)
    defense.attach(optimizer)
    images, labels = digits.share_of_rank()
    for epoch in range(digits.EPOCHS):
        for batch in digits.batches(len(labels), epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        digits.say(f"epoch {epoch + 1}: test accuracy {100 * digits.accuracy(model):.1f} %")
    kernels = model[0].weight
    digits.say(f"rank 0 holds {tuple(kernels.to_local().shape)} of {tuple(kernels.shape)}")


if __name__ == "__main__":
    digits.on_ranks(train)
