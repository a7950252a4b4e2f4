"""The parts of :class:`tip_kernels.PrivacyBudget`, and the accountant that it asks."""
