"""Broken runs: what people ask most about LoRA, each as a run of a second that the reader sees fail."""
