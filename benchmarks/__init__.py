"""Time and memory as ratios to the reference libraries and plain torch: `python -m benchmarks.run`, or `make bench`."""
