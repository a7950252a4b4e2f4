"""What is measured: how fast the package is (bench.speed), and what it protects and costs (bench.privacy)."""
