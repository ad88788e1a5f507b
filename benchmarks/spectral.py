"""What the spectra cost: the SVD of an update without its product, and a whole model's intruder dimensions."""

import torch

from benchmarks.steps import Step
from lora_from_scratch.analysis.spectra import intruders_by_layer
from lora_from_scratch.analysis.subspaces import product_svd
from lora_from_scratch.lab.llama import TinyLlama
from lora_from_scratch.targets import find_targets

SIDE, RANK = 1024, 16


def product_svd_steps() -> tuple[Step, Step]:
    """The SVD of B A from its factors, and from the product, which has to be built."""
    B, A = torch.randn(SIDE, RANK), torch.randn(RANK, SIDE)
    return lambda: product_svd(B, A), lambda: torch.linalg.svd(B @ A, full_matrices=False)


def intruder_step() -> Step:
    """Count the intruder dimensions of all 28 matrices of the tiny Llama."""
    before = {name: layer.weight.detach() for name, layer in find_targets(TinyLlama(), "all-linear").items()}
    after = {name: weight + 0.02 * torch.randn_like(weight) for name, weight in before.items()}
    return lambda: intruders_by_layer(before, after)
