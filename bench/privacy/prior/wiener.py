"""The best linear denoiser: what a Gaussian with the images' mean and covariance makes of noisy ones (Wiener 1949)."""

import torch


class Wiener:
    """Fitted to images.

    Args:
        images: [N, channels, height, width] in [0, 1], or uint8 in [0, 255].
    """

    def __init__(self, images: torch.Tensor) -> None:
        total, products = 0.0, 0.0
        for part in images.flatten(1).split(1000):
            rows = _in_unit_range(part)
            total, products = total + rows.sum(0), products + rows.T @ rows
        self.mean = total / len(images)
        covariance = products / len(images) - torch.outer(self.mean, self.mean)
        self.variances, self.vectors = torch.linalg.eigh(covariance)
        self.variances.clamp_(min=0)

    def denoise(self, images: torch.Tensor, std: float) -> torch.Tensor:
        """The mean of the images behind noisy ones [N, channels, height, width], of noise with that std."""
        gain = self.variances / (self.variances + std**2)
        coefficients = (images.flatten(1) - self.mean) @ self.vectors
        return (self.mean + (coefficients * gain) @ self.vectors.T).view_as(images)


def _in_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
