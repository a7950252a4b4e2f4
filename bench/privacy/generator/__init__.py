"""A decoder of images whose features attackers move: its net, its training, its weights."""
