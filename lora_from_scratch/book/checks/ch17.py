"""The exercises of chapter 17: PiSSA's start, the plain adapter's configuration, a rate from a curvature."""

import math

import torch

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor

RANK, ALPHA = 16, 24
RATE, PLAIN, OTHER, LONGER = 0.012, 0.6, 4.8, 3


def check_begin(function) -> str:
    """A (3, 7), B (5, 3) and the base (5, 7) at scaling 4."""
    W = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rank, scaling = 3, 4.0
    found, problem = call(function, W.clone(), rank, scaling)
    if problem or found is None:
        return _shapes_clash(problem) or STUB
    three = [tensor(one) for one in found] if isinstance(found, (tuple, list)) and len(found) == 3 else [None]
    if any(one is None for one in three):
        return not_yet("give three tensors: A, B and the base")
    A, B, base = three
    if [tuple(one.shape) for one in three] != [(rank, 7), (5, rank), (5, 7)]:
        if A.shape == (5, rank) and B.shape == (rank, 7):
            return not_yet("A and B have changed places: A is (rank, d_in), from Vᵀ; B is (d_out, rank), from U")
        shapes = ", ".join(str(tuple(one.shape)) for one in three)
        return not_yet(f"the shapes are {shapes}; here A is (3, 7), B (5, 3) and the base (5, 7)")
    return _named(W, rank, scaling, A, B, base)


def _shapes_clash(problem: str) -> str:
    """What a call that raised has to tell; shapes that do not fit are most often V in the place of Vᵀ."""
    if "RuntimeError" in problem and ("size" in problem or "shape" in problem):
        return problem + " (torch's svd gives Vᵀ: its first *rows* are A's directions, U's first *columns* are B's)"
    return problem


def _named(W, rank: int, scaling: float, A, B, base) -> str:
    u, s, vt = torch.linalg.svd(W, full_matrices=False)
    top = (u[:, :rank] * s[:rank]) @ vt[:rank]
    low = (u[:, -rank:] * s[-rank:]) @ vt[-rank:]
    product = B @ A
    products = {
        "those are the smallest pieces, MiLoRA's; take the largest": low / scaling,
        "the scaling is left out of A and B: s B A is then s times too large; divide S by it": top,
        "A and B are multiplied by the scaling; divide": top * scaling,
        "S is divided by the scaling only once its root was taken; take the root of S / s": top / scaling**2,
        "S must be in B A once: its root in A and its root in B": (u[:, :rank] * s[:rank] ** 2) @ vt[:rank] / scaling,
        "take the root of S / s in A and in B: S / s must be in B A once": (
            (u[:, :rank] * s[:rank] ** 2) @ vt[:rank] / scaling**2
        ),
        "S is missing": u[:, :rank] @ vt[:rank],
    }
    for words, way in products.items():
        if same(product, way, 1e-5):
            return not_yet(words)
    if not same(product, top / scaling, 1e-5):
        if _along(B, u[:rank].T):
            return not_yet("B has U's first rows, turned; its directions are U's first columns, U[:, :rank]")
        if _along(A.T, torch.linalg.svd(W)[2][:, :rank]):
            return not_yet(
                "A has Vᵀ's first columns, turned; torch gives Vᵀ, and A's directions are its first rows, Vt[:rank]"
            )
        return not_yet("s B A is not the sum of the 3 largest pieces of W")
    bases = {
        "the base is W itself; take s B A off it, or the pieces are in the sum twice": W,
        "the base lacks B A, without the scaling; take s B A off": W - product,
        "that adds the pieces once more; take them off": W + scaling * product,
    }
    for words, way in bases.items():
        if same(base, way, 1e-5):
            return not_yet(words)
    if not same(base + scaling * product, W, 1e-5):
        return not_yet("base + s B A is not W")
    return _split(A, B, (s[:rank] / scaling).sqrt())


def _along(columns, directions) -> bool:
    """Whether each column has the direction of the one at its place."""
    return same(torch.nn.functional.normalize(columns, dim=0), torch.nn.functional.normalize(directions, dim=0), 1e-5)


def _split(A, B, root) -> str:
    """How a right product is shared out: an A and a B of PiSSA's have the pieces' roots on a diagonal."""
    even, diagonal = (A.norm(dim=1) - B.norm(dim=0)).abs().max() < 1e-4 * A.norm(), torch.diag(root**2)
    if same(A @ A.T, diagonal, 1e-5) and same(B.T @ B, diagonal, 1e-5):
        return RIGHT
    if same(torch.linalg.svdvals(A), root, 1e-5) and same(torch.linalg.svdvals(B), root, 1e-5):
        if same((A @ A.T).diag().sort(descending=True).values, root**2, 1e-5):
            return not_yet("the pieces are right; put the largest first")
        return not_yet("the product is right, but A and B are turned by a matrix Q: PiSSA's rows are one piece each")
    uneven = "the product is right; PiSSA gives the root of S / s to either factor, evenly"
    return not_yet(uneven if not even else "the product is right, but A's rows and B's columns are not one piece each")


def check_config(answer) -> str:
    """Rank 32 and alpha 48: the scaling, 1.5, stays."""
    values = _pair(answer)
    if values is None:
        return not_yet("give two numbers: the rank and alpha")
    rank, alpha = values
    if values == [RANK, ALPHA]:
        return STUB
    if rank != 2 * RANK:
        return not_yet("the rank: B and -B_0 stand side by side, so it doubles")
    known = {
        2 * ALPHA: "",
        ALPHA: "with alpha 24 at rank 32 the scaling is halved; it has to stay 1.5",
        ALPHA / RANK: "that is the scaling; your software divides alpha by the rank",
        ALPHA / 2: "alpha / r would be a quarter of what it was; it has to stay",
        4 * ALPHA: "the scaling would double; it has to stay 1.5",
    }
    for value, words in known.items():
        if math.isclose(alpha, value, rel_tol=1e-6):
            return not_yet(words) if words else RIGHT
    if math.isclose(alpha, ALPHA / RANK * math.sqrt(2 * RANK), rel_tol=1e-3):
        return not_yet("that is for rsLoRA, which divides by the root of the rank")
    return not_yet("which alpha gives 24 / 16 when it is divided by 32?")


def check_rates(answer) -> str:
    """0.0015 by the curvature, 0.004 by the first step."""
    values = _pair(answer)
    if values is None:
        return not_yet("give two rates: by the curvature, and by the first step")
    if all(math.isclose(value, RATE) for value in values):
        return STUB
    times = OTHER / PLAIN
    wanted = [RATE / times, RATE / LONGER]
    close = lambda value, way: math.isclose(value, way, rel_tol=0.01)  # noqa: E731
    if all(map(close, values, wanted)):
        return RIGHT
    if all(map(close, values, wanted[::-1])):
        return not_yet("the other way round: first by the curvature")
    ratios = [1 / times, 1 / LONGER]
    if all(map(close, values, ratios)):
        return not_yet("those are the ratios to the plain start's rate; multiply each by it, 0.012")
    curved = {
        RATE * times: "more curvature, smaller rate: divide",
        RATE / math.sqrt(times): "the bound is 2 / λ, not its root",
        2 / OTHER: "2 / λ is where gradient descent grows; what is asked is a ratio to the plain start's rate",
        RATE / OTHER: "divide by how many times as large λ is, not by λ",
    }
    stepped = {
        RATE * LONGER: "a longer step needs a smaller rate: divide",
        RATE / math.sqrt(LONGER): "how far ΔW moves is proportional to the rate; no root",
        RATE / LONGER**2: "how far ΔW moves is proportional to the rate; no square",
    }
    curved[ratios[0]] = stepped[ratios[1]] = "that is the ratio; multiply it by the plain start's rate, 0.012"
    for value, right, ways, name in zip(values, wanted, (curved, stepped), ("curvature", "first step"), strict=True):
        if not close(value, right):
            words = next((words for way, words in ways.items() if close(value, way)), "what is the ratio to the plain?")
            return not_yet(f"the {name}: {words}")
    return RIGHT


def _pair(answer) -> list[float] | None:
    values = [number(value) for value in answer] if hasattr(answer, "__len__") and len(answer) == 2 else [None]
    return None if None in values or not all(0 < value < math.inf for value in values) else values
