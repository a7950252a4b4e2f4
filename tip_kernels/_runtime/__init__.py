"""What torch and the operating system ask of this package: tracing, forks, streams."""
