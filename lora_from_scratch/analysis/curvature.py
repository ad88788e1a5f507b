"""How curved a loss is in what is trained: the two ends of its Hessian's spectrum, without the Hessian.

    H = ∂²L / ∂θ²,      θ the n numbers of A and B, or of any list of parameters

An n × n matrix is far too large, but H v costs about two backward passes: it is the gradient of the number <∇L, v>, v
being held fixed. The Lanczos method needs nothing else. From a random unit vector q_1 it goes

    w = H q_j,      α_j = <q_j, w>,      w ← w less its part along q_1 … q_j,      β_j = |w|,      q_{j+1} = w / β_j

so that in the basis of the q's H is the tridiagonal T with α on its diagonal and β beside it. The ends of T's spectrum
reach those of H first, the largest from below and the smallest from above. With T s = θ s and y = Σ s_j q_j,

    |H y - θ y| = β_k |s_k|       (k the last step)

is known without another product, and an eigenvalue of H lies that close to θ. It need not be the largest one: a q_1
that all but misses the largest one's direction finds the second, and for some steps looks finished. So the search ends
only when |H y - θ y| has been small for five steps running (in 2,000 nets of 34 parameters one step missed the largest
8 times, three missed it twice, five never). Rounding makes the q's lose their
orthogonality just when an end has converged, and then it turns up again and again; so each w is cleared of *all*
earlier q's, twice.

What for: gradient descent on a bowl of curvature λ grows instead of shrinking once its rate is above 2 / λ. So
2602.04998 v2 explains that starts of other curvature have other best rates. A minimum is where both ends are positive;
LoRA at B = 0 is a saddle, where they need not be, so the end that is largest in size may be the negative one.

This file imports nothing of the project: copy it and it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

HOLDS = 5  # steps running


@dataclass(frozen=True)
class Ends:
    """The ends of a Hessian's spectrum. `largest` is the most positive eigenvalue, never the largest in size.

    `residual` is |H y - largest · y| for the unit vector y = `direction` (n,), in the order of the parameters: an
    eigenvalue lies that close, and how far the largest of all is above is for the seed to say. `smallest` comes with a
    residual of its own, which the search did not wait for. `products` is how many H v it took.
    """

    largest: float
    smallest: float
    residual: float
    smallest_residual: float
    products: int
    direction: Tensor


def hessian_ends(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    parameters: Sequence[Tensor] | None = None,
    tolerance: float = 1e-2,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> Ends:
    """The largest and the smallest eigenvalue of the Hessian of `loss(model)`, in float32 at least.

    Args:
        loss: gives a scalar; it is called once, the model in eval mode, without autocast, gradients enabled.
        parameters: what the Hessian is over; None is all that is trainable.
        tolerance: the search ends when the residual of the largest has been at most this share of it for five products
            running, or after `steps` of them, or when H v brings nothing new.
        generator: of the first direction; None is one of the CPU's, seeded with 0.

    Gradients, modes and torch's random state are as before afterwards. The graph of one backward pass is kept, and n
    numbers for each product. Attention runs unfused, since fused kernels have no second derivative.
    Raises ValueError for parameters that are none, frozen, below float32 or not reached by the loss; a loss that is no
    finite scalar; a tolerance or steps out of range.
    """
    found = [p for p in model.parameters() if p.requires_grad] if parameters is None else list(parameters)
    _check(found, tolerance, steps)
    generator = generator or torch.Generator().manual_seed(0)
    n, like = sum(p.numel() for p in found), found[0]
    first = torch.randn(n, dtype=torch.float64, generator=generator, device=generator.device).to(like)
    with _as_it_was(model), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        with torch.autocast(like.device.type, enabled=False):
            return _lanczos(hessian_product(loss(model), found), first, tolerance, min(int(steps), n))


def hessian_product(loss: Tensor, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The function v -> H v, (n,) -> (n,), of a loss whose graph reaches all `parameters`; no `.grad` changes."""
    if loss.numel() != 1 or not torch.isfinite(loss).all():
        raise ValueError(f"the loss is {loss.detach()}; a Hessian is of one finite number")
    if not loss.requires_grad:
        raise ValueError("the loss depends on none of the parameters; was it detached, or taken under no_grad?")
    gradients = torch.autograd.grad(loss.sum(), parameters, create_graph=True, allow_unused=True)
    if None in gradients:
        unreached = [i for i, gradient in enumerate(gradients) if gradient is None]
        raise ValueError(f"the loss does not depend on the parameters at {unreached[:6]}; leave them out")
    curved = [gradient for gradient in gradients if gradient.requires_grad]  # others are constant: their H v is zero

    def product(v: Tensor) -> Tensor:
        pieces = v.split([p.numel() for p in parameters])
        along = [x.view_as(g) for x, g in zip(pieces, gradients, strict=True) if g.requires_grad]
        options = {"grad_outputs": along, "retain_graph": True, "materialize_grads": True}
        rows = torch.autograd.grad(curved, parameters, **options, allow_unused=True)
        return torch.cat([row.reshape(-1) for row in rows]).detach()

    return product


def _lanczos(product: Callable[[Tensor], Tensor], first: Tensor, tolerance: float, steps: int) -> Ends:
    """The ends, from at most `steps` products."""
    basis, alphas, betas, held = first.new_empty(steps, len(first)), [], [], 0  # rows q_1, q_2, …
    basis[0] = first / first.norm()
    for k in range(1, steps + 1):
        q = basis[:k]  # (k, n)
        w = product(q[-1])
        alphas.append((q[-1] @ w).item())
        for _ in range(2):
            w = w - q.T @ (q @ w)
        beta = w.norm().item()
        T = torch.diag(torch.tensor(alphas, dtype=torch.float64))  # (k, k)
        T.diagonal(-1).copy_(torch.tensor(betas, dtype=torch.float64))
        values, vectors = torch.linalg.eigh(T)  # (k,) rising, (k, k); it reads the lower half alone
        residuals = beta * vectors[-1].abs()  # (k,)
        exhausted = beta <= 10 * len(first) ** 0.5 * torch.finfo(first.dtype).eps * values.abs().max()
        held = held + 1 if residuals[-1] <= tolerance * values[-1].abs() else 0
        if exhausted or k == steps or held == HOLDS:
            direction = vectors[:, -1].to(q) @ q
            ends = values[-1].item(), values[0].item(), residuals[-1].item(), residuals[0].item()
            return Ends(*ends, products=k, direction=direction)
        betas.append(beta)
        basis[k] = w / beta
    raise AssertionError("the last step returns")


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """The block runs in eval mode; afterwards, interrupted too, all modes and the random state are as before."""
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng():
        try:
            yield model.eval()
        finally:
            for module, mode in modes.items():
                module.training = mode


def _check(parameters: list[Tensor], tolerance: float, steps: int) -> None:
    if not parameters:
        raise ValueError("there are no parameters to differentiate by; make some trainable, or name them")
    if frozen := [i for i, p in enumerate(parameters) if not p.requires_grad]:
        raise ValueError(f"the parameters at {frozen[:6]} are frozen; a Hessian is over what is trained")
    if low := {str(p.dtype) for p in parameters if p.dtype not in (torch.float32, torch.float64)}:
        raise ValueError(f"the parameters are {', '.join(sorted(low))}; second derivatives need float32: model.float()")
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        raise ValueError("the parameters are of several dtypes or devices; bring them together first")
    if not 0 < tolerance < inf:
        raise ValueError(f"tolerance is {tolerance!r}; it is a share of the eigenvalue, such as 0.01")
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it is how many products may be taken, so at least 1")
