"""What pools cost, side by side: ``python -m benchmarks``."""
