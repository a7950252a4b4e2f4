"""What TIP and its rivals protect and what they cost: attacks, defences, the study."""
