"""What the README claims, measured again beside the peers: `python -m benchmarks`."""
