"""Broken runs: what people ask about LoRA, each as a run of a second that the reader sees fail."""
