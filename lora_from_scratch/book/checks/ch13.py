"""The exercises of chapter 13: forgetting at one loss, a ratio of two rates known roughly, and equal counts."""

import math

from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, tensor

TASK, TEXT, TARGET = [2.0, 1.0, 0.6, 0.2], [3.0, 3.1, 3.5, 4.3], 0.5


def check_forgotten(function) -> str:
    """The reader's function of (task, text, target): how much the loss on the text has risen when task is at target."""
    found, problem = call(function, list(TASK), list(TEXT), TARGET)
    if problem:
        return problem
    if found is None:
        return STUB
    risen = number(found)
    if risen is None:
        return not_yet("give one number")
    if abs(risen - 0.7) < 1e-6:
        late, problem = call(function, [2.0, 0.9, 1.1, 0.3], [3.0, 3.4, 3.2, 4.0], 1.0)
        if problem:
            return f"{problem} (It did so for a loss that rises once on its way.)"
        if number(late) is None or abs(number(late) - 0.4 * (2.0 - 1.0) / (2.0 - 0.9)) > 1e-6:
            return not_yet("the loss on the task may rise again; take the *first* time that it falls to the target")
        return RIGHT
    mistakes = {
        "that is the loss itself; subtract what it was before the first step": 3.7,
        "that is the rise at the end, past the target; go along the line between the two looks": 1.3,
        "that is the look before the target is reached; go on along the line to the next one": 0.5,
        "half way between the two looks? the target lies a quarter of the way": 0.9,
        "the line is gone along from the wrong end": 1.1,
        "forgetting is a rise, a positive number here": -0.7,
        "the line is straight in the loss here, not in its logarithm": 0.5 + 0.8 * math.log(0.6 / 0.5) / math.log(3),
    }
    for words, wrong in mistakes.items():
        if abs(risen - wrong) < 1e-6:
            return not_yet(words)
    return not_yet(
        f"at a target of {TARGET} the task is a quarter of the way from {TASK[2]} to {TASK[3]}; yours is {risen:.4g}"
    )


def check_ratio(function) -> str:
    """The reader's function of (rate, known, other, other_known): the least and the largest ratio, two numbers."""
    rate, known, other, other_known = 0.002, 2.0, 0.0005, 1.5
    found, problem = call(function, rate, known, other, other_known)
    if problem:
        return problem
    if found is None:
        return STUB
    ends = tensor(found)
    if ends is None or ends.shape != (2,):
        return not_yet("give two numbers, the least and the largest ratio")
    low, high = ends.tolist()
    right = (4 / 3, 12.0)

    def near(pair) -> bool:
        return all(abs(a - b) < 1e-6 * b for a, b in zip((low, high), pair, strict=True))

    if near(right):
        return RIGHT
    mistakes = {
        "the largest comes second": (12.0, 4 / 3),
        "the factor of the other rate counts as well": (2.0, 8.0),
        "only the other rate's factor is in it; the first one's counts as well": (4 / 1.5, 6.0),
        "the ratio is largest where the first rate is high and the other *low*": (3.0, 16 / 3),
        "that is the other one over the first": (1 / 12, 3 / 4),
        "roots of squares are for errors that know nothing of each other; both may lie at their worst": (4 / 2.5, 10.0),
        "multiply the factors; their sum is not how far two of them take you": (4 / 3.5, 14.0),
        "that is the ratio alone; it needs what the grid leaves open": (4.0, 4.0),
    }
    for words, wrong in mistakes.items():
        if near(wrong):
            return not_yet(words)
    return not_yet("divide the highest that one rate may be by the lowest that the other may be, and the reverse")


def check_rank(answer) -> str:
    """The reader's rank for attention."""
    if answer is None:
        return STUB
    rank = number(answer)
    if rank is None:
        return not_yet("give a number")
    attention, mlp = 4 * (4096 + 4096), 3 * (4096 + 11008)  # parameters a rank
    exact = 16 * mlp / attention
    if rank == 22:
        return RIGHT
    mistakes = {
        "the ranks are the same, not the counts": 16,
        "rounded up it has more parameters than the MLP's; asked is at most as many": 23,
        "a rank is a whole number": exact,
        "the counts the wrong way round, and a rank is a whole number": 16 * attention / mlp,
        "the other way round: a rank of attention takes fewer parameters than one of the MLP": 11,
        "d_out · d_in is what the matrix holds; an adapter has r (d_out + d_in)": 16 * 3 * 11008 // (4 * 4096),
        "q and v alone? attention has four matrices": 44,
        "gate and up alone? the MLP has three matrices": 14,
    }
    for words, wrong in mistakes.items():
        if abs(rank - wrong) < 1e-3:
            return not_yet(words)
    return not_yet("a rank takes 4 · 8,192 parameters in attention and 3 · 15,104 in the MLP")
