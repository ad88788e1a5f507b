"""The exercises of chapter 00: the closest matrix of a rank, where factors stop paying, and a cut of some layers."""

import torch
from torch import Tensor

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor


def _matrix() -> Tensor:
    return torch.randn(5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def check_cut(function) -> str:
    """The reader's function of (matrix, rank): the closest matrix of that rank, as a tensor or an array."""
    matrix, rank = _matrix(), 3
    found, problem = call(function, matrix, rank)
    if "full_matrices" not in problem and any(word in problem for word in ("RuntimeError", "matmul", "broadcast")):
        return not_yet(
            "the shapes do not fit. S is a vector: torch.diag(S[:r]) or U[:, :r] * S[:r]. And all three are cut to r, "
            "with or without full_matrices=False: columns of U, S, rows of Vᵀ"
        )
    if problem or found is None:
        return problem or STUB
    got = tensor(found)
    if got is not None and got.shape == (5, 5):
        return not_yet(
            "(5, 5) came back for (5, 9): the right vectors are the *rows* of Vᵀ, so take Vt[:r], untransposed"
        )
    if got is not None and got.shape == (3, 9):
        return not_yet("(3, 9) came back: the left vectors are the *columns* of U, so take U[:, :r]")
    if got is None or got.shape != matrix.shape:
        return not_yet("give back one matrix of the shape that came in, (5, 9)")
    U, S, Vt = torch.linalg.svd(matrix, full_matrices=False)
    pieces = lambda places, sizes: (U[:, places] * sizes) @ Vt[places]  # noqa: E731
    first = list(range(rank))
    right = pieces(first, S[:rank])
    near = lambda wanted: same(got, wanted, 1e-5)  # float32 will do  # noqa: E731
    if near(right):
        return RIGHT
    inside = (U[:, :rank].T @ got)[:, :5] / S[:rank, None]  # signs, and what lies beyond, differ between libraries
    if same(inside.abs(), Vt[:, :rank].T.abs(), 1e-5):
        return not_yet("svd gives Vᵀ, not V: its *rows* are the right vectors, so take Vt[:r], and no transpose")
    last = list(range(5 - rank, 5))
    mistakes = {
        "the singular values are missing: S must be in it, once": pieces(first, 1.0),
        "the singular values are in it twice": pieces(first, S[:rank].square()),
        "only their roots are in it: each factor holds a root, and the product both": pieces(first, S[:rank].sqrt()),
        "these are the smallest singular values; keep the largest": pieces(last, S[last]),
        "nothing is cut off: keep the first r": matrix,
        "that is what the cut takes away; give what is left": matrix - right,
    }
    for words, wrong in mistakes.items():
        if near(wrong):
            return not_yet(words)
    kept = int(torch.linalg.matrix_rank(got, rtol=1e-5))
    if kept != rank:
        return not_yet(f"the rank is {kept}, not {rank}: how many singular values did you keep?")
    return not_yet("the rank is right, and another matrix of that rank is closer: U, S and Vᵀ must belong together")


def check_rank(answer) -> str:
    """The rank from which on the factors of a 128 × 352 matrix hold more numbers than it: 94."""
    if answer is None:
        return STUB
    rank = number(answer)
    if rank is None or rank < 1:
        return not_yet("give a rank, a whole number from 1 up")
    if rank == 94:
        return "Right: 94 · 480 is 45,120, and the matrix has 45,056."
    if rank != int(rank):
        return not_yet("a rank is a whole number: round up to the first that holds *more*")
    hints = {
        93: "93 · 480 is 44,640, still fewer than 45,056: the limit, 93.87, is rounded up",
        64: "half the width is the limit of a square matrix; this one is 128 × 352",
        176: "half the width is the limit of a square matrix; this one is 128 × 352",
        128: "that is the largest rank the matrix can have; the factors hold more long before",
    }
    side = "too small" if rank < 94 else "too large: a smaller rank holds more already"
    return not_yet(hints.get(int(rank), side))


PARTS = ("self_attn cut", "mlp cut")


def check_layers(answer, loss, whole: dict[str, Tensor], cut: dict[str, Tensor]) -> str:
    """{"self_attn cut": …, "mlp cut": …}: the losses where one part's changes are cut, and the other's are whole.

    `loss` gives the loss of a change {layer: ΔW}; `whole` is all of it, `cut` the same with every layer cut.
    """
    if not isinstance(answer, dict) or set(answer) != set(PARTS):
        return not_yet('give both losses: {"self_attn cut": …, "mlp cut": …}')
    if None in answer.values():
        return STUB
    got = {part: number(value) for part, value in answer.items()}
    if None in got.values():
        return not_yet("the answers are two losses")
    near = lambda a, b: abs(a - b) < 1e-4  # noqa: E731
    right = {part: loss(_mixed(part, cut, whole)) for part in PARTS}
    if all(near(got[part], right[part]) for part in PARTS):
        more = max(PARTS, key=right.get)
        ends = right[more] - loss(whole)
        return f"Right: {more.removesuffix(' cut')} costs more, {ends:.2f} nats above the whole change."
    if all(near(got[part], right[other]) for part, other in zip(PARTS, PARTS[::-1], strict=True)):
        return not_yet("the two are exchanged: 'self_attn cut' is where the attention layers are the ones that are cut")
    nothing = {layer: torch.zeros_like(change) for layer, change in whole.items()}
    all_whole, all_cut, start = loss(whole), loss(cut), loss(nothing)
    for part in (p for p in PARTS if not near(got[p], right[p])):
        mistakes = {
            "that is the loss of the whole change; nothing was cut (is the part in the layer's name?)": all_whole,
            "that is the loss with every layer cut; leave the other part's changes whole": all_cut,
            "the other part's changes are missing: they stay whole": loss(_mixed(part, cut, nothing)),
            "the part's changes are gone altogether: cut them to the rank": loss(_mixed(part, nothing, whole)),
            "that is the loss of the base: the changes are added to W0": start,
            "that is the gain; give the loss": start - right[part],
            "that is what the cut costs; give the loss": right[part] - all_whole,
        }
        for words, wrong in mistakes.items():
            if near(got[part], wrong):
                return not_yet(f"{part}: {words}")
    return not_yet(
        "cut the *change* to rank 4, then add W0: W0[1] + cut for the layers of the part, W0[1] + whole change for the "
        "others, of base 1 on rot13"
    )


def _mixed(part: str, inside: dict[str, Tensor], outside: dict[str, Tensor]) -> dict[str, Tensor]:
    """The change `inside` for the layers of a part, and `outside` for the others."""
    name = part.removesuffix(" cut")
    return {layer: inside[layer] if name in layer else change for layer, change in outside.items()}
