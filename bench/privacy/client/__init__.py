"""What a client computes and sends."""
