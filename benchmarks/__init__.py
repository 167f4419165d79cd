"""Measures what Kasbah promises: `python -m benchmarks --help`."""
