"""The exercises of chapter 18: adapters added, what a cut takes, what DARE does to an entry."""

import math

import torch

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, tensor

SINGULAR, KEPT = (4, 3, 2, 1), 2
ENTRY, DROP = 0.02, 0.9


def check_add(function) -> str:
    """One adapter of scaling 1 for two, of equal ranks and then of ranks 2 and 3: 5 inputs, 4 outputs."""
    said = _added(function, 3, 3)
    return said if said != RIGHT else _added(function, 2, 3)


def _added(function, *ranks: int) -> str:
    draw = torch.Generator().manual_seed(3)
    (A1, B1, s1), (A2, B2, s2) = (
        (torch.randn(r, 5, generator=draw).double(), torch.randn(4, r, generator=draw).double(), s)
        for r, s in zip(ranks, (4.0, 0.5), strict=True)
    )
    found, problem = call(function, (A1.clone(), B1.clone(), s1), (A2.clone(), B2.clone(), s2))
    if problem or found is None:
        return problem or STUB
    pair = [tensor(one) for one in found] if isinstance(found, (tuple, list)) and len(found) == 2 else [None]
    if any(one is None for one in pair):
        return not_yet("give a pair of tensors, A and B")
    A, B = pair
    if ranks[0] == ranks[1] and torch.equal(A, A1 + A2):
        return not_yet("that adds the factors, and B A holds B1 A2 and B2 A1 too; set them side by side")
    if A.dim() != 2 or B.dim() != 2 or (A.shape[1], B.shape[0]) != (5, 4) or A.shape[0] != B.shape[1]:
        shapes = f"A is {tuple(A.shape)} and B {tuple(B.shape)}"
        return not_yet(f"{shapes}; here A is (r1 + r2, 5), so stacked, and B (4, r1 + r2), side by side")
    return _known(B @ A, s1, s2, B1 @ A1, B2 @ A2)


def _known(product, s1: float, s2: float, one, two) -> str:
    ways = {
        "": s1 * one + s2 * two,
        "the scalings are gone; put each into its own part of B": one + two,
        "each scaling is in twice, in A and in B": s1**2 * one + s2**2 * two,
        "the root of each scaling is in; if it is shared, both A and B need it": s1**0.5 * one + s2**0.5 * two,
        "one scaling is on both adapters; each has its own": s1 * (one + two),
        "that is the mean of both, not the sum": (s1 * one + s2 * two) / 2,
        "the other scaling is on each": s2 * one + s1 * two,
    }
    for words, way in ways.items():
        if torch.allclose(product, way, rtol=1e-4, atol=1e-5):
            return not_yet(words) if words else RIGHT
    return not_yet("B A is not s1 B1 A1 + s2 B2 A2; do the parts of B stand in the order of those of A?")


def check_lost(answer) -> str:
    """sqrt(5 / 30) = 0.408."""
    value = number(answer)
    if value is None or value == 0:
        return not_yet("give a number between 0 and 1")
    kept, cut = SINGULAR[:KEPT], SINGULAR[KEPT:]
    squares = [sum(v * v for v in values) for values in (SINGULAR, kept, cut)]
    ways = {
        "": math.sqrt(squares[2] / squares[0]),
        "that is the share of the squares; the norm is their root": squares[2] / squares[0],
        "that is what is kept, and what is lost?": math.sqrt(squares[1] / squares[0]),
        "that is the share of the squares that is kept": squares[1] / squares[0],
        "the Frobenius norm is the root of the sum of squares, not the sum": sum(cut) / sum(SINGULAR),
        "the norm of what is kept and of what is cut do not add up to the whole: their squares do": (
            1 - math.sqrt(squares[1] / squares[0])
        ),
        "divide by the norm of all of it, not by what is kept": math.sqrt(squares[2] / squares[1]),
        "that is the norm of what is cut; divide it by the norm of all": math.sqrt(squares[2]),
    }
    for words, way in ways.items():
        if abs(value - way) < 0.002 or abs(value - 100 * way) < 0.2:
            return not_yet(words) if words else RIGHT
    return not_yet("which values are cut off, and what is the root of the sum of their squares?")


def check_dare(answer) -> str:
    """0.2, and sqrt(0.9 / 0.1) * 0.02 = 0.06."""
    values = [number(v) for v in answer] if hasattr(answer, "__len__") and len(answer) == 2 else [None]
    if None in values or not any(values):
        return not_yet("give two numbers, the entry that stays and the standard deviation")
    value, spread = values
    if abs(value - ENTRY / (1 - DROP)) > 1e-3:
        known = {ENTRY: "it is scaled up, so that the mean stays", ENTRY / DROP: "divide by what is kept, 1 - 0.9",
                 ENTRY * (1 - DROP): "scaled up, not down"}  # fmt: skip
        words = next(
            (words for near, words in known.items() if abs(value - near) < 1e-4), "what keeps the mean at 0.02?"
        )
        return not_yet(f"the entry: {words}")
    known = {
        "": ENTRY * math.sqrt(DROP / (1 - DROP)),
        "that is the mean; how far do draws lie from it?": ENTRY,
        "that is the variance; take its root": ENTRY**2 * DROP / (1 - DROP),
        "that is the root of the mean square; subtract the square of the mean first": ENTRY / math.sqrt(1 - DROP),
        "that is the spread of whether it stays, not of what it becomes": math.sqrt(DROP * (1 - DROP)),
        "that is of the entry as it was; what stays is ten times as large": ENTRY * math.sqrt(DROP * (1 - DROP)),
    }
    for words, way in known.items():
        if abs(spread - way) < 2e-4:
            return not_yet(words) if words else RIGHT
    return not_yet(
        "the deviation: it is 0.2 with probability 0.1 and 0 with 0.9; the mean square less the mean's square"
    )
