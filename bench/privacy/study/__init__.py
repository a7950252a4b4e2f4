"""Attackers against defenses: on what, how they are judged, and the tables and figures that come of it."""
