"""Several ranks that hold one message: parts of gradients, and what the ranks agree on before anything changes."""
