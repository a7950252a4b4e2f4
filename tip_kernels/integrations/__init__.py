"""Where TIP meets training and federated-learning frameworks, a module for each.

A module here imports its framework and this package; the package imports nothing from here, so that it needs none of
the frameworks.
"""
