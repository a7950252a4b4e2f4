"""Federated training under each defense: what it costs in accuracy."""
