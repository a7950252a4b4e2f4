"""What is measured: how fast the package is (bench.speed), what it protects and costs (bench.privacy), and the demo."""
