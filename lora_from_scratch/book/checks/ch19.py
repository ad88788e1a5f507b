"""The exercises of chapter 19: rows put back in order, a swap that has to be repaid, and one large tenant."""

import torch
from torch import Tensor

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor

ORDER = torch.tensor([3, 0, 4, 1, 2])  # no permutation that is its own inverse


def sorted_answers() -> tuple[Tensor, Tensor]:
    """(answers (5, 2, 3) of rows in the order ORDER, the same in the order in which the rows came)."""
    came = torch.arange(30, dtype=torch.float64).view(5, 2, 3)
    return came[ORDER], came


def check_rows(function) -> str:
    """The reader's function of (answers, order): the answers in the order in which the rows came."""
    answers, came = sorted_answers()
    found, problem = call(function, answers, ORDER)
    if problem:
        return f"{problem} Hint: answers[j] belongs to row order[j]."
    if found is None:
        return STUB
    got = tensor(found)
    if got is None or got.shape != came.shape:
        shape = type(found).__name__ if got is None else tuple(got.shape)
        return not_yet(f"give all answers, a tensor of shape {tuple(came.shape)}; yours is {shape}")
    mistakes = {
        "they are as they were: answers[0] belongs to row 3": answers,
        "that sorts them a second time: answers[order] takes row order[j] *of the answers*": answers[ORDER],
        "backwards is right for a reversed batch only": answers.flip(0),
        "that undoes the sorting twice": answers[ORDER.argsort()][ORDER.argsort()],
    }
    if same(got, came):
        return RIGHT
    return not_yet(next((words for words, wrong in mistakes.items() if same(got, wrong)),
                        "answers[j] belongs to row order[j]: so out[order[j]] = answers[j]"))  # fmt: skip


SWAPS = ((48, 32, 16, 4), (64, 64, 8, 8), (40, 90, 2, 64))  # (d_out, d_in, old, new)


def check_tokens(function) -> str:
    """The reader's function of (d_out, d_in, old, new): (old + new) d_out d_in / (new (d_out + d_in))."""
    found = []
    for sizes in SWAPS:
        value, problem = call(function, *sizes)
        if problem:
            return f"{problem} Hint: what the subtraction and the addition take, over what the path takes a token."
        if value is None:
            return STUB
        found.append(number(value))
    if None in found:
        return not_yet("give one number: tokens")
    rules = {
        "right": lambda o, i, old, new: (old + new) * o * i / (new * (o + i)),
        "that is one merge; the old update is subtracted too": lambda o, i, old, new: o * i / (o + i),
        "the two updates have two ranks: the subtraction costs by `old`": lambda o, i, old, new: 2 * o * i / (o + i),
        "half of it is missing: the 2 stands in a merge and in the path": lambda o, i, old, new: (
            (old + new) * o * i / (2 * new * (o + i))
        ),
        "twice too much: the 2 stands in a merge and in the path": lambda o, i, old, new: (
            2 * (old + new) * o * i / (new * (o + i))
        ),
        "that is the subtraction alone": lambda o, i, old, new: old * o * i / (new * (o + i)),
        "it is the *new* adapter's path that is spared": lambda o, i, old, new: (old + new) * o * i / (old * (o + i)),
        "divide by what the path takes a token, new · (d_out + d_in)": lambda o, i, old, new: (old + new) * o * i,
        "upside down": lambda o, i, old, new: new * (o + i) / ((old + new) * o * i),
        "the path is two products: d_out + d_in, not their product": lambda o, i, old, new: (old + new) / new,
        "the path has a rank too: divide by its rank, new": lambda o, i, old, new: (old + new) * o * i / (o + i),
    }
    for words, rule in rules.items():
        wanted = [rule(*sizes) for sizes in SWAPS]
        if all(abs(a - b) <= 1e-6 * abs(b) for a, b in zip(found, wanted, strict=True)):
            return RIGHT if words == "right" else not_yet(words)
        if words == "right" and all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True)):
            return "Right, in whole tokens."
    return not_yet("a merge takes 2 · r · d_out · d_in operations, the path 2 · r · (d_out + d_in) a token")


def check_times(answer) -> str:
    """32 slots of rank 64 over 31 adapters of rank 8 and one of 64: 2048 / 312 = 6.56."""
    if answer is None:
        return STUB
    got = number(answer)
    if got is None:
        return not_yet("give one number")
    if abs(got - 2048 / 312) < 0.07:
        return RIGHT
    mistakes = {
        8.0: "that is as if every adapter had rank 8; the large one needs its 64",
        312 / 2048: "upside down: what is taken over what is needed",
        64 * 32 / (32 * 8 + 64): "31 adapters have rank 8, and not 32",
        31 * 64 / 312: "the large adapter has a slot too: 32 slots",
        2048.0: "that is what the slots take; divide by what the adapters need",
        312.0: "that is what the adapters need; what do the slots take?",
        1.0: "the slots are filled up with zeros, and zeros take memory",
    }
    near = (words for value, words in mistakes.items() if abs(got - value) < 0.005 * max(1, value))
    return not_yet(next(near, "all 32 slots have the largest rank; the adapters need the sum of their own"))
