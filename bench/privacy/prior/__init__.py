"""What an attacker knows of images before it sees a message: a denoiser by flow matching, and a Gaussian beside it."""
