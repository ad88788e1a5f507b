"""The exercises of chapter 11: shrinking intruders, and comparing two runs at one loss."""

import torch
from torch import Tensor

from lora_from_scratch.analysis.mitigation import scale_directions
from lora_from_scratch.analysis.spectra import intruder_dimensions
from lora_from_scratch.book.checks.common import RIGHT, call, not_yet, number, same, tensor

FIRST = {"task": [5.0, 2.2, 1.7], "english": [1.4, 3.0, 4.0]}
SECOND = {"task": [5.0, 2.5, 1.5], "english": [1.4, 3.2, 3.8]}


def weights() -> tuple[Tensor, Tensor]:
    """W0 (40, 30) and a tuned W1 that has intruders, in float64."""
    draw = torch.Generator().manual_seed(30)
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    small = random(40, 30) @ torch.diag(torch.linspace(3, 0.2, 30, dtype=torch.float64))
    return small, small + 0.6 * random(40, 6) @ random(6, 30)


def wrongly(which: str, W0: Tensor, W1: Tensor, c: float) -> Tensor:
    """What a function with that mistake gives."""
    U, s, Vt = torch.linalg.svd(W1 - W0 if which == "of ΔW" else W1, full_matrices=False)
    places = intruder_dimensions(W0, W1, k=len(s) if which == "all places" else 10)
    other_places = {
        "the rest": [i for i in range(len(s)) if i not in places],
        "top": places[:1],
        "the first": list(range(len(places))),
        "swapped": intruder_dimensions(W1, W0),
        "right": intruder_dimensions(W0, W1, side="right"),
    }
    places = other_places.get(which, places)
    piece = (U[:, places] * s[places]) @ Vt[places]
    results = {
        "all of ΔW": W0 + c * (W1 - W0),
        "added to W0": W0 + (c - 1) * piece,
        "c subtracted": W1 - c * piece,
        "gone": W1 - piece,
        "only these": c * piece,
        "σ forgotten": W1 + (c - 1) * U[:, places] @ Vt[places],
        "untouched": W1,
        "along u": W0 + (W1 - W0) + (c - 1) * U[:, places] @ (U[:, places].T @ (W1 - W0)),
    }
    return results.get(which, W1 + (c - 1) * piece)


MISTAKES = {
    "that shrinks all of ΔW; shrink the intruders alone": "all of ΔW",
    "the shrunk directions are taken from W0; they are directions of W1, so start from W1": "added to W0",
    "it subtracts c of the intruders instead of 1 - c: with c = 1 nothing should change": "c subtracted",
    "the intruders are gone altogether; c of each should stay": "gone",
    "only the intruders are left; the rest of W1 belongs to the weight too": "only these",
    "the singular values are missing: a piece of W1 is σ_i u_i v_iᵀ": "σ forgotten",
    "it shrinks only the part of ΔW along u; the piece of W1 holds a part of W0 too": "along u",
    "the directions are those of ΔW; intruders are directions of W1": "of ΔW",
    "it shrinks everything but the intruders": "the rest",
    "that shrinks the top intruder alone; shrink all of them": "top",
    "only the ten leading vectors are asked whether they are intruders; leave k as it is": "all places",
    "that shrinks the leading vectors, as many as there are intruders; these stand at other places": "the first",
    "W0 comes first in intruder_dimensions, W1 second": "swapped",
    "the intruders are told by their left vectors, as in the paper": "right",
    "nothing has changed; the function gives back W1": "untouched",
}


def check_shrink(function) -> str:
    """The reader's function of (W0, W1, c): W1 with the singular values of its intruders times c."""
    W0, W1 = weights()
    factors, mine = (0.75, 0.3), []
    for c in factors:
        found, problem = call(function, W0.clone(), W1.clone(), c)  # it may change them in place
        if problem:
            return problem
        mine.append(tensor(found))
    if any(found is None or found.shape != W1.shape for found in mine):
        return not_yet("give back one weight of the shape of W1")

    def all_equal(others: list[Tensor]) -> bool:
        return all(same(a, b, tolerance=1e-5) for a, b in zip(mine, others, strict=True))

    places = intruder_dimensions(W0, W1)
    if all_equal([scale_directions(W1, places, c) for c in factors]):
        return RIGHT
    for words, which in MISTAKES.items():
        if all_equal([wrongly(which, W0, W1, c) for c in factors]):
            return not_yet(words)
    return not_yet(f"off by {(mine[0] - scale_directions(W1, places, 0.75)).abs().max():.2g} at c = 0.75")


def check_difference(answer) -> str:
    """How much more the first run has forgotten than the second, both at a loss of 2.0: -0.1."""
    got = number(answer.replace("\u2212", "-") if isinstance(answer, str) else answer)  # a typeset minus sign
    if got is None:
        return not_yet("give one number")
    if abs(got + 0.1) < 0.005:
        return "Right: at the same loss the first has forgotten less, although its end lies higher."
    hints = {
        0.2: "that compares the ends",
        -0.2: "that compares the points before",
        0.1: "the size is right: is the sign turned, or are the weights of the first run's two points swapped?",
        0.0: "2.0 is not half way between the first run's points: it lies nearer to 2.2",
        2.0: "that is what the first has forgotten; take off what the second has",
        2.1: "that is what the second has forgotten; take it off what the first has",
        3.4: "that is the first run's; take off the second's",
        3.5: "that is the second run's; take it off the first's",
    }
    hint = next((words for value, words in hints.items() if abs(value - got) < 0.005), None)
    return not_yet(hint or "read each run off on a straight line between its points around 2.0")
