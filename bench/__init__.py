"""Speed, privacy and utility: what is measured, and the demo."""
