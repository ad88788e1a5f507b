"""Time and memory as ratios to PEFT, transformers and plain torch: `python -m benchmarks.run`, or `make bench`."""
