"""DistributedDataParallel on scikit-learn's digits: one client on two devices, or a client on each rank.

    python -m examples.ddp                  # starts two processes on this machine
    python -m examples.ddp --local-privacy  # each rank perturbs what it sends to the other
    torchrun --nproc-per-node 2 -m examples.ddp

Expect the test accuracy after each epoch, well above the 10 % of guessing after the last, and then

    ranks have equal parameters: True

With ``--local-privacy`` each rank clips and perturbs its own gradient before the all-reduce. Without it the ranks share
a key and perturb the sum. In both ways the parameters stay equal to the last bit.
"""

import argparse

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tip_kernels as tip
from examples import digits
from tip_kernels.integrations.distributed import LocalPrivacy, local_privacy_hook, share_key

SETTINGS = {"ratio": 0.3, "std": 0.005, "floor_std": 0.005, "max_grad_norm": 1.0}


def train(local: bool) -> None:
    """What each rank does."""
    model = digits.net()
    wrapper = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    defense = tip.TIP(model, **SETTINGS)
    if local:
        wrapper.register_comm_hook(LocalPrivacy(defense), local_privacy_hook)
    else:
        share_key(defense)
        defense.attach(optimizer)
    images, labels = digits.share_of_rank()
    for epoch in range(digits.EPOCHS):
        for batch in digits.batches(len(labels), epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapper(images[batch]), labels[batch]).backward()
            optimizer.step()
        digits.say(f"epoch {epoch + 1}: test accuracy {100 * digits.accuracy(model):.1f} %")
    digits.say(f"ranks have equal parameters: {digits.are_equal(model.parameters())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local-privacy", action="store_true", help="noise before the all-reduce, a key for each rank")
    digits.on_ranks(train, parser.parse_args().local_privacy)


if __name__ == "__main__":
    main()
