"""What a client runs: ordinary training by NVFlare's client API. It knows nothing of TIP, which is in the job."""

import argparse

import nvflare.client as flare
import torch
from digits_net import Net, channels, private
from torch import nn

BATCH, LR, EPOCHS = 32, 0.05, 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--batch-norm", action="store_true")
    parser.add_argument("--data", default="digits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flare.init()
    site = int(flare.get_site_name().removeprefix("site-")) - 1
    images, labels = private(options.data, site, options.clients)
    model = Net(options.batch_norm, channels(options.data))
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict(received.params)
        steps = train(model, images, labels)
        flare.send(flare.FLModel(params=model.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": steps}))


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Trains in place; returns the number of steps."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    steps = 0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            steps += 1
    return steps


if __name__ == "__main__":
    main()
