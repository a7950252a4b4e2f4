"""What the audit is made of: a message as a function of its images, what is known of images, and the posterior."""
