"""The exercise of appendix A6: two ways to say how much of two adapters a merge has."""

from lora_from_scratch.book.checks.common import RIGHT, not_yet, number

BASE, OWN, MERGED = 60, 90, 84


def check_kept(answer) -> str:
    """The ratio of accuracies and the share of the gain, in percent: 93.3 and 80."""
    values = [number(v) for v in answer] if hasattr(answer, "__len__") and len(answer) == 2 else [None]
    if None in values or not any(values):
        return not_yet("give two numbers, the ratio and the share of the gain, in percent")
    right = (100 * MERGED / OWN, 100 * (MERGED - BASE) / (OWN - BASE))
    if all(abs(v - r) < 0.5 for v, r in zip(values, right, strict=True)):
        return RIGHT
    if all(abs(100 * v - r) < 0.5 for v, r in zip(values, right, strict=True)):
        return not_yet("in percent, please")
    if all(abs(v - r) < 0.5 for v, r in zip(values[::-1], right, strict=True)):
        return not_yet("the other way round: first the ratio of accuracies, then the share of the gain")
    ratio, share = values
    if abs(ratio - right[0]) >= 0.5:
        return not_yet("the ratio: the merge's accuracy over that of the adapter alone")
    ways = {
        "the share of the gain: that is what is lost; what is left?": 100 * (OWN - MERGED) / (OWN - BASE),
        "the share of the gain: divide by what the adapter has gained, not by the base": 100 * (MERGED - BASE) / BASE,
        "the share of the gain: divide by what the adapter has gained, not by its accuracy": 100
        * (MERGED - BASE)
        / OWN,
        "the share of the gain: that is the ratio once more": 100 * MERGED / OWN,
        "the share of the gain: those are points; divide them by the points that were gained": MERGED - BASE,
    }
    for words, way in ways.items():
        if abs(share - way) < 0.5:
            return not_yet(words)
    return not_yet("the share of the gain: from the base, how far has the merge come of the adapter's way?")
