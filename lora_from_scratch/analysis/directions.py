"""How far a weight moved in size, and how far in direction (DoRA's analysis, arXiv 2402.09353, section 3.2).

    ΔM = mean over rows of | ‖w1‖ - ‖w0‖ |            the change of magnitude
    ΔD = mean over rows of  1 - cos(w1, w0)           the change of direction, from 0 (none) to 2 (reversed)

w0 and w1 are the same output row of the weight before and after. The paper writes columns, because its W is the
transpose of PyTorch's (d_out, d_in). This file imports nothing of the project: copy it and it runs.
"""

import torch
from torch import Tensor


@torch.no_grad()
def magnitude_and_direction(w0: Tensor, w1: Tensor) -> tuple[float, float]:
    """(ΔM, ΔD) between two weights of shape (d_out, d_in), computed in float64 (section 3.2, equations 3 and 4).

    ΔM is in units of the weight. Raises ValueError for shapes that differ, are not two-dimensional or have no row,
    for values that are not finite, and for a row of zeros, which has no direction.
    """
    if w0.shape != w1.shape or w0.dim() != 2 or len(w0) == 0:
        raise ValueError(f"the weights have shapes {tuple(w0.shape)} and {tuple(w1.shape)}; give two of (d_out, d_in)")
    w0, w1 = w0.double(), w1.double()
    size0, size1 = w0.norm(dim=1), w1.norm(dim=1)  # (d_out,)
    for name, sizes in (("first", size0), ("second", size1)):
        if not torch.isfinite(sizes).all():
            raise ValueError(f"the {name} weight has values that are not finite; a run may have diverged")
        if not sizes.all():
            row = int((sizes == 0).nonzero()[0])
            raise ValueError(f"row {row} of the {name} weight is zero and has no direction; leave it out of both")
    # 1 - cos is half the squared distance of the unit vectors, and written so it does not cancel for a small change.
    moved = (w1 / size1[:, None] - w0 / size0[:, None]).square().sum(dim=1) / 2  # (d_out,)
    return (size1 - size0).abs().mean().item(), moved.mean().item()
