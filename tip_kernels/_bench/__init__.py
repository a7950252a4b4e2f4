"""What benchmarks are made of: the command ``bench`` measures with it, and so does bench/speed/."""
