"""The exercises of chapter 05: backward through 4 bits, the start from what was lost, and LoftQ's rounds."""

import torch
from torch import Tensor, nn

from lora_from_scratch import LoRALinear, NF4Linear, nf4
from lora_from_scratch.analysis.spectra import low_rank_factors
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, same, tensor
from lora_from_scratch.lab.codes import CODES, rounded


def gradients(grad: Tensor, W: Tensor, A: Tensor, B: Tensor, s: float) -> dict[str, Tensor]:
    """What the usual mistakes give for the gradient of x, the right one first. W is square, so each product fits."""
    base, through = grad @ W, (grad @ B) @ A
    return {
        "right": base + s * through,
        "the adapter's part is missing: x goes through B A too": base,
        "the base's part is missing: a frozen weight passes the gradient on all the same": s * through,
        "the scaling of the adapter's part is missing": base + through,
        "the scaling belongs to the adapter's part alone": s * (base + through),
        "W is transposed: that is the forward product; backward takes grad @ W": grad @ W.T + s * through,
        "that is the forward product; backward goes through each matrix the other way": grad @ W.T
        + s * (grad @ A.T) @ B.T,
        "that is the forward product, and the adapter's part is missing": grad @ W.T,
        "the adapter's part goes the forward way; backward takes (grad @ B) @ A": base + s * (grad @ A.T) @ B.T,
        "W is transposed, and the scaling of the adapter's part is missing": grad @ W.T + through,
        "the adapter's part is taken off; it is added": base - s * through,
    }


def check_backward(function) -> str:
    """The reader's function of (grad, codes, A, B, s): grad @ W + s · (grad @ B) @ A, (N, d_in)."""
    draw = torch.Generator().manual_seed(3)
    random = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    for d_in in (24, 32):  # a square weight, in which a wrong product fits too, and then one that is not
        codes, grad, A, B = nf4.quantize(random(24, d_in).numpy()), random(5, 24), random(2, d_in), random(24, 2)
        W = torch.from_numpy(nf4.dequantize(codes))
        answers = {words: tensor(each) for words, each in gradients(grad, W, A, B, 4.0).items()} if d_in == 24 else {}
        right = tensor(grad @ W + 4 * (grad @ B) @ A)
        found, problem = call(function, grad.clone(), codes, A.clone(), B.clone(), 4.0)
        if problem:
            return (
                f"{problem} Hint: the weight is torch.from_numpy(nf4.dequantize(codes)), (d_out, d_in), and grad has "
                "one row for each token: Wᵀ g for a column g is grad @ W for rows."
            )
        if found is None:
            return STUB
        got = tensor(found)
        if got is None:
            return not_yet(f"give one tensor of shape (N, d_in), and not {type(found).__name__}")
        mistakes = (words for words, wrong in answers.items() if words != "right" and same(got, wrong, 1e-4))
        if same(got, right, 1e-4):
            continue
        if same(got, right.T, 1e-4):
            return not_yet("the numbers are right, and transposed: grad has one row for each token, and so has x")
        if got.shape != right.shape:
            return not_yet(f"its shape is {tuple(got.shape)}; the gradient of x is (N, d_in) = {tuple(right.shape)}")
        return not_yet(next(mistakes, "what does the chain rule give for x in h = x @ W.T + s · (x @ A.T) @ B.T?"))
    return RIGHT


def pair_of(found: object) -> tuple[Tensor, Tensor] | str:
    """A (8, 48) and B (40, 8) from what the reader gave, or what is wrong with it."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        return "return the pair A, of shape (8, 48), and B, of shape (40, 8)"
    A, B = (tensor(each) for each in found)
    shapes = [None if each is None else tuple(each.shape) for each in (A, B)]
    if shapes == [(40, 8), (8, 48)]:
        return "the two are exchanged: low_rank_factors gives B first, and the pair is (A, B)"
    if shapes != [(8, 48), (40, 8)]:
        return f"A is of shape (8, 48) and B of (40, 8); yours are {shapes[0]} and {shapes[1]}"
    return A, B


def check_start(function) -> str:
    """The reader's function of (W, layer): A and B with s · B A the best rank-8 part of W - layer.base.weight."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        linear = nn.Linear(48, 40)
        layer = LoRALinear(NF4Linear.from_linear(linear), rank=8, alpha=32)
    W, kept = linear.weight.detach().clone(), layer.base.weight.clone()
    found, problem = call(function, W.clone(), layer)
    if problem:
        return f"{problem} Hint: low_rank_factors(M, layer.rank) gives (B, A), and M is what rounding lost."
    if found is None:
        return not_yet("the layer is set; now return the pair (A, B) too") if layer.B.any() else STUB
    pair = pair_of(found)
    if isinstance(pair, str):
        return not_yet(pair)
    product = (pair[1] @ pair[0]).float()
    return start_mistake(product, W, kept, layer.scaling)


def start_mistake(product: Tensor, W: Tensor, kept: Tensor, s: float) -> str:
    """What to say of B A, where W was lost to `kept` and the layer multiplies by s."""
    best, of_W, of_kept = (torch.matmul(*low_rank_factors(M, 8)) for M in (W - kept, W, kept))
    cosine, other, rounded_one = (
        torch.nn.functional.cosine_similarity(product.flatten(), M.flatten(), dim=0).item()
        for M in (best, of_W, of_kept)
    )
    length = float(product.norm() / best.norm()) * s
    if abs(cosine) > 0.999:
        sign = "the sign: the adapter must add W - layer.base.weight" if cosine < 0 else ""
        if abs(length / s - 1) < 1e-3:
            size = "s · B A is s times too long: the layer multiplies by layer.scaling, so divide by it once"
        elif abs(length / s**2 - 1) < 1e-3:
            size = "divide by layer.scaling; you multiply by it"
        elif abs(length * s - 1) < 1e-3:
            size = "layer.scaling is divided out twice: of A or of B, not of both"
        else:
            size = (
                ""
                if abs(length - 1) < 1e-3
                else f"s · B A points the right way, and is {length:.3g} times as long as it should be"
            )
        return not_yet("; and ".join(filter(None, (sign, size)))) if sign or size else RIGHT
    if max(abs(other), abs(rounded_one)) > 0.99:
        return not_yet("that is the best part of W itself; take it of what was lost, W - layer.base.weight")
    for rank in range(1, 8):
        if same(s * product, torch.matmul(*low_rank_factors(W - kept, rank)), 1e-5):
            return not_yet(f"that is the best part of rank {rank}; the layer has room for layer.rank = 8")
    return not_yet("s · B A should be the best rank-8 part of W - layer.base.weight")


def errors_of(W: Tensor, levels, rank: int, rounds: int, slip: str = "") -> list[float]:
    """The errors |W - Q - L| of LoftQ's rounds, or what a usual slip gives."""
    L, Q, errors = torch.zeros_like(W), torch.zeros_like(W), []
    for i in range(rounds):
        if slip != "rounded once" or i == 0:
            Q = torch.from_numpy(rounded((W - L).numpy(), levels))
        lost = {"of W": W, "less L": W - L - Q, "piled up": W - L - Q}.get(slip, W - Q)
        before, old = (W - Q).norm().item(), (W - Q - L).norm().item()
        L = torch.matmul(*low_rank_factors(lost, rank)) + (L if slip == "piled up" else 0)
        error = (W - Q - L).norm().item()
        kinds = {"squared": error**2, "relative": error / W.norm().item(), "before": before, "mean": error / W.numel()}
        kinds |= {"old L": old, "spectral": torch.linalg.matrix_norm(W - Q - L, 2).item()}
        errors.append(kinds.get(slip, error))
    return errors


SLIPS = {
    "squared": "that is the square of the norm; take its root",
    "relative": "that is relative to |W|; give the norm of W - Q - L itself",
    "mean": "that is divided by the number of weights; give the norm itself",
    "before": "that is |W - Q|, before the low-rank part; take L off too",
    "old L": "that is the error before the new L: take the SVD first, then the norm of W - Q - L",
    "spectral": "that is the largest singular value; take the Frobenius norm, torch.Tensor.norm()",
    "piled up": "L grows by rank 8 in every round; take it anew each time, the best part of W - Q",
    "of W": "the low-rank part is taken of W; take it of what rounding lost, W - Q",
    "less L": "from the second round on, take L of W - Q, and not of W - L - Q",
    "rounded once": "Q never changes after the first round: each rounds W - L, with the L of the one before",
}


def check_rounds(function) -> str:
    """The reader's function of (W, levels, rank, rounds): the error after each round, from L = 0."""
    W = torch.randn(48, 64, generator=torch.Generator().manual_seed(2)) / 8
    arguments = (CODES["NF2"], 8, 12)
    found, problem = call(function, W.clone(), *arguments)
    if problem or found is None:
        return problem or STUB
    got = tensor([float(error) for error in found] if isinstance(found, (list, tuple)) else found)
    if got is None or got.shape != (12,):
        return not_yet("give a list of 12 numbers: the Frobenius norm of W - Q - L after each round")
    right = tensor(errors_of(W, *arguments))
    if same(got, right, 1e-4):
        least = int(right.argmin()) + 1
        return (
            f"Right: from {right[0]:.3f} to {right[-1]:.3f}; the least, {right.min():.3f}, is in round {least} of 12."
        )
    for slip, words in SLIPS.items():
        if same(got, tensor(errors_of(W, *arguments, slip)), 1e-4):
            return not_yet(words)
    if same(got[1:], right[:-1], 1e-4):
        return not_yet("the first error is that before any round; the list has one after each of the twelve")
    if same(got[:1], right[:1], 1e-4):
        return not_yet("the first error is right; in the second round Q must round W - L, and L be taken of W - Q")
    return not_yet("the first is off: Q rounds W itself, then L is the best part of W - Q, and the error |W - Q - L|")
