"""The exercise of appendix A4: what is left of a task."""

from lora_from_scratch.book.checks.common import RIGHT, not_yet, number

BEFORE, AFTER, ENDS = 3.5, 1.7, (2.15, 3.8)


def check_shares(answer) -> str:
    """The shares of what was learnt that are left, in percent: 75 and -16.7."""
    values = [number(v) for v in answer] if hasattr(answer, "__len__") and len(answer) == 2 else [None]
    if None in values:
        return not_yet("give two numbers, the first share and the second, in percent")
    ways = {
        "": lambda end: (BEFORE - end) / (BEFORE - AFTER),
        "that is the share that is lost; what is left of it?": lambda end: (end - AFTER) / (BEFORE - AFTER),
        "that divides by the loss before; divide by what was learnt": lambda end: (BEFORE - end) / BEFORE,
        "that divides by the loss just after; divide by what was learnt": lambda end: (BEFORE - end) / AFTER,
        "the sign: a loss above the one before leaves less than nothing": lambda end: (
            abs(BEFORE - end) / (BEFORE - AFTER)
        ),
        "less than nothing can be left: do not cut it off at 0": lambda end: max(BEFORE - end, 0) / (BEFORE - AFTER),
    }
    for words, way in ways.items():
        if all(abs(100 * way(end) - v) < 0.5 for end, v in zip(ENDS, values, strict=True)):
            return not_yet(words) if words else RIGHT
        if all(abs(way(end) - v) < 0.005 for end, v in zip(ENDS, values, strict=True)):
            return not_yet("in percent, please" if not words else words)
    return not_yet("what was learnt is the loss before minus the loss just after; which part of it is left at the end?")
