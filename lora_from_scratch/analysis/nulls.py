"""Updates that have learnt nothing: what chance gives where a trained update is measured.

A statement about a trained ΔW ("it has directions that W0 lacks", "shrinking them brings the old back") may hold for
any matrix of its size. The null that shares everything but what was learnt has the very singular values of ΔW, so the
same rank, Frobenius norm and stable rank, and singular vectors drawn at random: ΔW = U S Vᵀ becomes P S Qᵀ with P and Q
uniform (Haar) among orthonormal frames. The QR of a Gaussian matrix gives such a frame once the signs of R's diagonal
are moved into Q (Mezzadri, arXiv math-ph/0609050, section 5).

This file imports nothing of the project: copy it and it runs.
"""

import torch
from torch import Tensor


def random_update_like(update: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A random matrix with the singular values of `update`, (d_out, d_in), in its dtype and on its device.

    The arithmetic is in float64. `generator` is one of the CPU's, so that a seed gives the same draw on every device.
    Raises ValueError for what is not a finite, floating-point matrix.
    """
    if update.dim() != 2 or not update.is_floating_point() or not torch.isfinite(update).all():
        raise ValueError(
            f"got {update.dtype} of shape {tuple(update.shape)}; give a finite, floating-point (d_out, d_in) matrix"
        )
    with torch.autocast(update.device.type, enabled=False):
        sizes = torch.linalg.svdvals(update.detach().to("cpu", torch.float64))  # (n,), n = min(d_out, d_in)
        left, right = (random_frame(d, len(sizes), generator) for d in update.shape)
        return ((left * sizes) @ right.T).to(update.device, update.dtype)


def random_frame(dimension: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` orthonormal columns of length `dimension`, uniform among all such, (dimension, count), float64."""
    q, r = torch.linalg.qr(torch.randn(dimension, count, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()
