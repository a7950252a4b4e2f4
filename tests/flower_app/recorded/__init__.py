"""A Flower app for tests: both sides write down what they send and receive, and clients die in the middle."""
