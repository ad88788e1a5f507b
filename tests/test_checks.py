"""The checks of the exercises: they take the right answer in every form, and tell each usual mistake by its name."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lora_from_scratch.analysis.spectra import intruder_dimensions

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def check_of(chapter: str, name: str) -> Callable[[object], str]:
    return getattr(importlib.import_module(f"lora_from_scratch.book.checks.ch{chapter}"), name)


def raises(*arguments):
    raise KeyError("a slip of the pen")


def svd(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)


def likeness(W0, W1):
    return (svd(W0).U.T @ svd(W1).U).abs()


# Chapter 10


def intruders(best: Callable, below=True, form=list) -> Callable:
    def answer(W0, W1, k, epsilon):
        values = best(W0, W1, k)[:k]
        return form([j for j in range(k) if (values[j] < epsilon) == below])

    return answer


def full_svd(W0, W1, k):
    U0, U1 = torch.linalg.svd(W0).U[:, :30], torch.linalg.svd(W1).U
    return (U0.T @ U1[:, :k]).abs().amax(0)


TALL = importlib.import_module("lora_from_scratch.book.checks.ch10").weights()[0]
U, S, Vt = svd(TALL)
ANSWERS: list[tuple[str, str, object, str]] = [  # chapter, check, answer, what the reader is told
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0)), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), form=np.array), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), form=torch.tensor), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), form=set), "Right"),
    ("10", "check_intruders", intruders(full_svd), "Right"),
    ("10", "check_intruders", intruder_dimensions, "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b - a).amax(0)), "vectors of ΔW"),
    ("10", "check_intruders", intruders(lambda a, b, k: (svd(a).U.T @ svd(b).U).amax(0)), "absolute value"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).diagonal()), "compare it with all"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b)[:k].amax(0)), "leading vectors of W0 alone"),
    ("10", "check_intruders", intruders(lambda a, b, k: (svd(a).Vh @ svd(b).Vh.T).abs().amax(0)), "right vectors"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(1)), "rows and columns"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), below=False), "*below* ε"),
    ("10", "check_intruders", lambda a, b, k, e: likeness(a, b).amax(0)[:k] < e, "the places where it is"),
    ("10", "check_intruders", lambda a, b, k, e: None, "a list of whole numbers"),
    ("10", "check_intruders", lambda a, b, k, e: [0], "for ε = 0.5 it should give"),
    ("10", "check_intruders", raises, "KeyError: 'a slip of the pen'"),
    ("10", "check_delta", 2 * S[0] * torch.outer(U[:, 0], Vt[0]), "Right"),
    ("10", "check_delta", (2 * S[0] * torch.outer(U[:, 0], Vt[0])).numpy(), "Right"),
    ("10", "check_delta", 3 * torch.randn(40, 30, generator=torch.Generator().manual_seed(1)), "intruders: use"),
    ("10", "check_delta", 0.1 * TALL, "10% of its norm only"),
    ("10", "check_delta", 2 * TALL, "a multiple of W0"),
    ("10", "check_delta", -TALL, "a multiple of W0"),
    ("10", "check_delta", torch.ones(30, 40), "the shape of W0"),
    ("10", "check_delta", None, "the shape of W0"),
    ("10", "check_width", 17, "Right"),
    ("10", "check_width", np.int64(17), "Right"),
    ("10", "check_width", torch.tensor(17), "Right"),
    ("10", "check_width", "17", "Right"),
    ("10", "check_width", 4, "*squares*"),
    ("10", "check_width", 16, "has to be below"),
    ("10", "check_width", None, "below ε"),
]

# Chapter 11


def shrink(W0: Tensor, W1: Tensor, c: float) -> Tensor:
    u, s, vt = svd(W1)
    which = intruder_dimensions(W0, W1)
    return W1 + (c - 1) * (u[:, which] * s[which]) @ vt[which]


def piece(W1: Tensor, W0: Tensor, sizes=True, rest=False) -> Tensor:
    u, s, vt = svd(W1)
    which = intruder_dimensions(W0, W1)
    which = [i for i in range(len(s)) if i not in which] if rest else which
    return (u[:, which] * (s[which] if sizes else 1)) @ vt[which]


def of_delta(W0, W1, c):
    u, s, vt = svd(W1 - W0)
    which = intruder_dimensions(W0, W1)
    return W1 + (c - 1) * (u[:, which] * s[which]) @ vt[which]


def along_u(W0, W1, c):
    u = svd(W1).U[:, intruder_dimensions(W0, W1)]
    return W1 + (c - 1) * u @ (u.T @ (W1 - W0))


ANSWERS += [
    ("11", "check_shrink", shrink, "Right"),
    ("11", "check_shrink", lambda a, b, c: shrink(a, b, c).numpy(), "Right"),
    ("11", "check_shrink", lambda a, b, c: a + c * (b - a), "shrinks all of ΔW"),
    ("11", "check_shrink", lambda a, b, c: a + (c - 1) * piece(b, a), "taken from W0"),
    ("11", "check_shrink", lambda a, b, c: b - c * piece(b, a), "instead of 1 - c"),
    ("11", "check_shrink", lambda a, b, c: b - piece(b, a), "gone altogether"),
    ("11", "check_shrink", lambda a, b, c: c * piece(b, a), "only the intruders are left"),
    ("11", "check_shrink", lambda a, b, c: b + (c - 1) * piece(b, a, sizes=False), "singular values are missing"),
    ("11", "check_shrink", along_u, "part of ΔW along u"),
    ("11", "check_shrink", of_delta, "directions are those of ΔW"),
    ("11", "check_shrink", lambda a, b, c: b + (c - 1) * piece(b, a, rest=True), "everything but the intruders"),
    ("11", "check_shrink", lambda a, b, c: b, "off by"),
    ("11", "check_shrink", lambda a, b, c: b[:5], "one weight of the shape"),
    ("11", "check_shrink", lambda a, b, c: None, "one weight of the shape"),
    ("11", "check_shrink", raises, "KeyError"),
    ("11", "check_shrink", "a string", "give the function itself"),
    ("11", "check_difference", -0.1, "Right"),
    ("11", "check_difference", 3.4 - 3.5, "Right"),
    ("11", "check_difference", np.float32(-0.1), "Right"),
    ("11", "check_difference", torch.tensor(-0.1), "Right"),
    ("11", "check_difference", "-0.1", "Right"),
    ("11", "check_difference", 4.0 - 3.8, "compares the ends"),
    ("11", "check_difference", 3.0 - 3.2, "points before"),
    ("11", "check_difference", 0.1, "which of the two"),
    ("11", "check_difference", 3.4, "the first run's"),
    ("11", "check_difference", 7, "straight line"),
    ("11", "check_difference", None, "one number"),
]


def label(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("chapter", "name", "answer", "told"), ANSWERS, ids=label)
def test_the_reader_is_told_what_is_right_and_which_mistake_was_made(chapter, name, answer, told):
    """A right answer, in any form, begins with Right; any other with Not yet, and its mistake. Nothing is raised."""
    state = torch.get_rng_state()
    said = check_of(chapter, name)(answer)
    assert torch.equal(torch.get_rng_state(), state), "a check leaves the random numbers alone"
    assert said.startswith("Right") == (told == "Right"), said
    assert told in said and "\n" not in said
    assert said.startswith(("Right", "Not yet: "))


def solutions() -> list[tuple[str, str, str]]:
    """(chapter, check, code) of every folded solution that is code, with the check that its exercise calls."""
    found = []
    for path in sorted(NOTEBOOKS.glob("[01]*.py")):
        parts = re.split(r"(?m)^# \*\*\d\. ", path.read_text(encoding="utf-8").partition("# ## Exercises")[2])[1:]
        for part in parts:
            called = re.search(r"check\.(check_\w+)\((\w+)\)", part)
            code = re.search(
                r"(?ms)^# ```python\n(.*?)^# ```$", part.partition("<summary>Solution")[2].partition("</details>")[0]
            )
            if called and code:
                found.append((path.name[:2], part, re.sub(r"(?m)^# ?", "", code[1])))
    return found


@pytest.mark.parametrize(("chapter", "part", "code"), solutions(), ids=lambda value: value[:2])
def test_the_folded_solution_is_accepted(chapter, part, code):
    """Pasted over the stub of its exercise, below the chapter's imports, it is right."""
    text = next(NOTEBOOKS.glob(f"{chapter}_*.py")).read_text(encoding="utf-8")
    imports = re.findall(r"(?m)^(?:from|import) [^\n(]*(?:\([^)]*\))?", text)
    space: dict = {}
    exec("\n".join(imports), space)
    stub = part[part.index("# %%\n") : part.index("# %% [markdown]")]
    exec(stub.rpartition("print(")[0], space)
    exec(code, space)
    name, argument = re.search(r"check\.(check_\w+)\((\w+)\)", stub).groups()
    assert getattr(space["check"], name)(space[argument]).startswith("Right")


def test_a_chapter_whose_exercises_are_checked_says_so_by_calling_its_own_checks():
    """The number in the import is the chapter's."""
    for path in NOTEBOOKS.glob("[01]*.py"):
        for number in re.findall(r"checks import ch(\d\d)", path.read_text(encoding="utf-8")):
            assert number == path.name[:2]
