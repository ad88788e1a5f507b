"""rsLoRA: the rank-stabilized scaling (arXiv 2312.03732, section 3).

    h = W0 x + s · B A x,        s = alpha / sqrt(r)   instead of   alpha / r

Under alpha / r the first gradient of B shrinks as the rank grows; with the square root it keeps its size. That one
factor is the whole method: hand this function to a LoRA layer as its `scaling`.

    LoRALinear(base, rank=64, alpha=16, scaling=rslora_scaling)

This file imports nothing of the project: copy it and it runs.
"""

import math
from numbers import Integral, Real


def rslora_scaling(alpha: float, rank: int) -> float:
    """The factor s = alpha / sqrt(rank). Raises ValueError for a rank below 1 or an alpha that is not positive."""
    if not isinstance(rank, Integral) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"rank is {rank!r}; it must be an integer of at least 1")
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha!r}; it must be a positive, finite number")
    return alpha / math.sqrt(rank)
