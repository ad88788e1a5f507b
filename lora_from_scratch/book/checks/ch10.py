"""The exercises of chapter 10: finding intruders, changing a weight without one, and the width that one needs."""

import torch
from torch import Tensor

from lora_from_scratch.analysis.spectra import intruder_dimensions
from lora_from_scratch.book.checks.common import RIGHT, call, not_yet, number, tensor


def weights() -> tuple[Tensor, Tensor]:
    """A tall W0 (40, 30) and W1 with an update of rank 2 whose vectors are new, in float64."""
    draw = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    tall = random(40, 30) @ torch.diag(torch.linspace(3, 0.2, 30, dtype=torch.float64))
    return tall, tall + random(40, 2) @ random(2, 30)


def nearly_square() -> tuple[Tensor, Tensor]:
    """W0 (31, 30) and W1 with a new vector that a whole basis of the 31 dimensions would hold, and W0's own do not."""
    draw = torch.Generator().manual_seed(8)
    tall = torch.randn(31, 30, generator=draw, dtype=torch.float64)
    outside = torch.linalg.svd(tall).U[:, -1]  # (31,), at right angles to all that W0 writes
    return tall, tall + 40 * torch.outer(outside, torch.ones(30, dtype=torch.float64) / 30**0.5)


MISTAKES = {  # the largest likeness of each leading vector, as a usual mistake computes it
    "it looks at the vectors of ΔW; intruders are vectors of W1 = W0 + ΔW": "delta",
    "the cosines need their absolute value: a vector and its opposite are one direction": "signed",
    "each vector is compared with one vector of W0; compare it with all of them": "same place",
    "it compares with the leading vectors of W0 alone; compare with all of them": "leading",
    "vectors are the columns of U: U0ᵀ U1 compares them, and U0 U1ᵀ compares rows": "transposed",
    "with full_matrices=True, U0 has columns that belong to no singular value of W0; leave them out": "full",
    "these are the right vectors; the definition takes the left ones": "right",
    "rows and columns are exchanged: take the largest cosine over the vectors of W0, not over those of W1": "axis",
    "rows and columns are exchanged: the largest cosine is over the vectors of W0, dim=0": "axis of k",
    "an intruder's likeness is *below* ε; these are the vectors that are above it": "above",
}


def wrongly(which: str, W0: Tensor, W1: Tensor, k: int, epsilon: float) -> list[int]:
    """What a function with that mistake gives."""
    U0, _, V0t = torch.linalg.svd(W0, full_matrices=which == "full")
    U1, _, V1t = torch.linalg.svd(W1 - W0 if which == "delta" else W1, full_matrices=False)
    cosines = {"right": lambda: V0t @ V1t.T, "transposed": lambda: U0 @ U1.T}.get(which, lambda: U0.T @ U1)()
    cosines = cosines if which == "signed" else cosines.abs()
    if which in ("same place", "leading", "axis", "axis of k"):
        rows = {"axis": cosines.amax(1), "axis of k": cosines[:, :k].amax(1)}
        best = ({"same place": cosines.diagonal(), "leading": cosines[:k].amax(0)} | rows)[which]
    else:
        best = cosines.amax(0)
    return [j for j in range(k) if (best[j] >= epsilon if which == "above" else best[j] < epsilon)]


def check_intruders(function) -> str:
    """The reader's function of (W0, W1, k, ε): the places of the intruders, as a list, a tensor or an array."""
    W0, W1 = weights()
    asked = [(W0, W1, 10, epsilon) for epsilon in (0.4, 0.5, 0.6)] + [(*nearly_square(), 10, 0.5)]
    got = []
    for question in asked:
        found, problem = call(function, *(t.clone() if isinstance(t, Tensor) else t for t in question))
        if problem:
            return problem
        places = None if found is None else tensor(list(found) if isinstance(found, (set, range)) else found)
        if places is not None and places.dim() == 2 and 1 in places.shape:  # as torch.nonzero gives them
            places = places.flatten()
        if places is None or places.dim() > 1 or not torch.equal(places, places.nan_to_num().round()):
            return not_yet("give back the places of the intruders, a list of whole numbers")
        if places.numel() == 10 and set(places.tolist()) <= {0, 1}:
            return not_yet("that says for each vector whether it is one; give the places where it is")
        got.append(sorted(int(place) for place in places.reshape(-1).tolist()))
    right = [intruder_dimensions(*question) for question in asked]
    if got == right:
        return RIGHT
    for words, which in MISTAKES.items():
        if got == [wrongly(which, *question) for question in asked]:
            return not_yet(words)
    at = next(i for i in range(len(asked)) if got[i] != right[i])
    shape, epsilon = tuple(asked[at][0].shape), asked[at][3]
    return not_yet(f"for ε = {epsilon} it should give {right[at]}, and gives {got[at]} (W0 is {shape})")


def check_delta(delta) -> str:
    """A change of W0 by half of its norm or more that makes no intruder and is no multiple of W0."""
    W0, _ = weights()
    delta = tensor(delta)
    if delta is None or delta.shape != W0.shape:
        return not_yet("give one matrix of the shape of W0, (40, 30)")
    if not torch.isfinite(delta.square().sum()):
        return not_yet("its entries are not finite, or too large to be squared")
    relative = (delta.norm() / W0.norm()).item()
    if relative < 0.5:
        return not_yet(f"it changes W0 by {relative:.0%} of its norm only")
    if torch.nn.functional.cosine_similarity(delta.flatten(), W0.flatten(), dim=0).abs() > 0.999:
        return not_yet("that is a multiple of W0")
    if torch.linalg.matrix_rank(W0 + delta) < 10:
        return not_yet("it takes away so much of W0 that fewer than ten directions are left to look at")
    made = intruder_dimensions(W0, W0 + delta)
    if not made:
        return RIGHT
    U, _, Vt = torch.linalg.svd(W0, full_matrices=False)
    mixed = U.T @ delta @ Vt.T  # (30, 30), diagonal if delta is made of W0's own pairs
    own = mixed.diagonal().square().sum() > 0.999 * delta.square().sum()
    sizes = torch.linalg.svdvals(W0 + delta)
    if own and (sizes[:-1] - sizes[1:]).min() < 1e-6 * sizes[0]:
        return not_yet(
            f"intruders at {made}: it makes singular values equal, and then their vectors can be any mixture"
        )  # noqa: E501
    return not_yet(f"intruders at {made}: use the vectors that W0 has, u_i with its own v_i")


def check_width(answer) -> str:
    """The smallest width of a square layer in which an intruder at ε = 0.25 can exist: 17."""
    n = number(answer)
    if n == 17:
        return "Right: 1/√16 is 0.25 itself, and the likeness has to be below it."
    hints = {
        4: "that is 1/ε; the *squares* of the cosines sum to 1",
        16: "there it is at least 0.25; it has to be below",
    }
    return not_yet(hints.get(n, "1/√n has to be below ε, and n a whole number"))
