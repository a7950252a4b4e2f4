"""The package in use."""
