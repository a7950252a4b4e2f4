"""What a defense leaves of a net's accuracy."""

import torch

from bench.privacy.client.garbage import old_objects_set_aside
from bench.privacy.client.release import Defense
from bench.privacy.images import digits
from bench.privacy.nets import small_conv_net


def accuracy(defense: Defense, epochs: int = 20, batch_size: int = 64, lr: float = 0.5) -> float:
    """Test accuracy in percent of a small net trained on digits by what the defense releases of each batch."""
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(0)
    model = small_conv_net(channels=1, size=8)
    shuffle = torch.Generator().manual_seed(0)
    step = 0
    with old_objects_set_aside():
        for _ in range(epochs):
            for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
                release = defense(model, images[batch], labels[batch], step)
                step += 1
                with torch.no_grad():
                    for parameter, gradient in zip(model.parameters(), release.gradient, strict=True):
                        parameter -= lr * gradient
    with torch.no_grad():
        return 100 * (model(test_images).argmax(1) == test_labels).float().mean().item()
