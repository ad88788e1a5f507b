"""What the checks of all chapters share: an answer in any form that makes sense, and a reader's function that may fail.

A check takes the reader's answer and gives one line: "Right …", or "Not yet: …" with the mistake by its name. It never
raises, and leaves the random state as it was.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

RIGHT = "Right."
STUB = "Not yet: write your answer, then run the cell again."


def number(answer: object) -> float | None:
    """A number from an int, a float, a scalar of NumPy's or torch's, or a string of one; None for anything else."""
    if isinstance(answer, bool):
        return None
    try:
        return float(answer.replace("_", "").replace(",", "") if isinstance(answer, str) else answer)
    except (TypeError, ValueError):
        return None


def tensor(answer: object) -> Tensor | None:
    """A float64 tensor from a tensor, an array or nested lists of numbers; None for anything else."""
    try:
        plain = answer.detach().cpu().numpy() if isinstance(answer, Tensor) else answer
        array = np.array(plain, dtype=np.float64)  # a copy, also of an array that runs backwards
        return torch.from_numpy(array)
    except (TypeError, ValueError, RuntimeError):
        return None


def call(function: Callable, *arguments: object) -> tuple[object, str]:
    """(what the reader's function gives, "") or, if it raises, (None, what to tell)."""
    if not callable(function):
        return None, "Not yet: give the function itself, without calling it."
    try:
        with torch.random.fork_rng():
            own = [
                copy.copy(a) if isinstance(a, np.ndarray) else a.clone() if isinstance(a, Tensor) else a
                for a in arguments
            ]
            return function(*own), ""  # on copies, which it may change in place
    except Exception as error:  # whatever the reader wrote: it is told, not raised
        return (
            None,
            f"Not yet: your function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        )


def not_yet(mistake: str) -> str:
    """A wrong answer, with its mistake."""
    return f"Not yet: {mistake}" + ("" if mistake.endswith(("?", "!", ".")) else ".")


def same(first: Tensor, second: Tensor, tolerance: float = 1e-8) -> bool:
    """Whether two tensors agree in shape and numbers."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=tolerance, atol=tolerance)
