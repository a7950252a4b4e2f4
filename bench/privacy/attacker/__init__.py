"""What an attacker makes of what a client sent: its knowledge, the labels, the search for the images."""
