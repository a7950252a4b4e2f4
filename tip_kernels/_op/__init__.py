"""From a user's arguments to an op: checks, plans, the ops' schemas, and the choice of a backend."""
