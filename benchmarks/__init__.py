"""Measures the numbers that the README claims: `python -m benchmarks`."""
