"""The exercises of appendix A1: which neighbours become zero, and how an outlier moves from a column to its channel."""

from statistics import NormalDist

import numpy as np

from lora_from_scratch import nf4
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, tensor

BELL = NormalDist()


def check_zeros(function) -> str:
    """The reader's function of a strength: the share of normal neighbours that NF4 rounds to zero beside it."""
    below, above = float(nf4.LEVELS[6]), float(nf4.LEVELS[8])  # the two levels next to zero
    share = lambda a, b: BELL.cdf(b) - BELL.cdf(a)  # noqa: E731
    ways = {
        "": lambda s: share(s * below / 2, s * above / 2),
        "a weight becomes zero up to *half way* to the next level, not up to that level": lambda s: share(
            s * below, s * above
        ),
        "in percent; give a share from 0 to 1": lambda s: 100 * share(s * below / 2, s * above / 2),
        "that is the share that is *not* zero": lambda s: 1 - share(s * below / 2, s * above / 2),
        "those above zero alone; the ones below become zero too": lambda s: share(0, s * above / 2),
        "those below zero alone; the ones above become zero too": lambda s: share(s * below / 2, 0),
        "NF4 is not symmetric: its two levels next to zero differ; you took the positive one twice": lambda s: share(
            -s * above / 2, s * above / 2
        ),
        "NF4 is not symmetric: its two levels next to zero differ; you took the negative one twice": lambda s: share(
            s * below / 2, -s * below / 2
        ),
        "the levels are parts of absmax: multiply by it, do not divide": lambda s: share(below / 2 / s, above / 2 / s),
        "the levels are parts of absmax, which is the strength here: multiply by it": lambda s: share(
            below / 2, above / 2
        ),
        "that is every weight below the upper half way; take off those below the lower one": lambda s: BELL.cdf(
            s * above / 2
        ),
        "that is the interval's width, not the share of a bell curve within it: use `cdf`": lambda s: (
            s * (above - below) / 2
        ),
    }
    strengths, got = (10.0, 4.0, 30.0), []
    for strength in strengths:
        found, problem = call(function, strength)
        if problem or found is None:
            return problem or STUB
        found = tensor(found)
        value = number(found) if found is None or found.numel() != 1 else found.item()
        if value is None:
            return not_yet("give back one number, the share")
        got.append(value)
    for words, way in ways.items():
        if np.allclose(got, [way(s) for s in strengths], rtol=0, atol=1e-4 * (100 if "percent" in words else 1)):
            return not_yet(words) if words else RIGHT
    right = ways[""](10.0)
    return not_yet(f"beside a weight of 10 it is {right:.1%}, and yours is {got[0]:.4g}")


def check_calm(function) -> str:
    """The reader's function of (weight, gain): both changed so that all columns have the same largest magnitude."""
    weight = np.array([[0.5, -8.0, 1.0], [-0.25, 4.0, 2.0], [0.125, 1.0, -0.5], [0.25, 2.0, 1.0]])
    gain = np.array([1.0, 0.5, 2.0])
    found, problem = call(function, weight.copy(), gain.copy())
    if problem or found is None:
        return problem or STUB
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return not_yet("give back two things: the new weight, then the new gain")
    new, changed = (tensor(part) for part in found)
    if new is None or changed is None:
        return not_yet("give back numbers: the new weight, then the new gain")
    new, changed = new.numpy(), changed.numpy()
    if new.shape == gain.shape and changed.shape == weight.shape:
        return not_yet("the other way round: first the weight, then the gain")
    if new.shape != weight.shape or changed.shape != gain.shape:
        return not_yet(f"the weight is (4, 3) and the gain (3,); yours are {new.shape} and {changed.shape}")
    if not (np.isfinite(new).all() and np.isfinite(changed).all()):
        return not_yet("a number is NaN or infinite: print your factors")
    tops, rows = np.abs(new).max(axis=0), np.abs(new).max(axis=1)
    same, calm = np.allclose(new * changed, weight * gain, rtol=1e-5), np.allclose(tops, tops[0], rtol=1e-5)
    if same and calm:
        return RIGHT
    if np.allclose(new, weight) and np.allclose(changed, gain):
        return not_yet("nothing has changed")
    if calm and np.allclose(changed, gain):
        return not_yet("the columns are alike, but the gain is as it was: what a column loses, its channel must gain")
    if calm and np.allclose(new / weight, (changed / gain)[None]):
        return not_yet("the gain went the same way as the column: where the column is divided, multiply the gain")
    if np.allclose(np.abs(rows), rows[0]) and not calm:
        return not_yet("the *rows* are alike: a channel is read by a column")
    if same and np.allclose((new**2).sum(axis=0), (new**2).sum(axis=0)[0]):
        return not_yet("the columns have equal norms; their largest magnitudes are to be equal")
    if same and np.allclose(new.max(axis=0), new.max(axis=0)[0]):
        return not_yet("you took the largest *value* of a column, where the largest magnitude may be negative")
    if same and np.allclose(new.std(axis=0), new.std(axis=0)[0]):
        return not_yet("the columns have equal standard deviations; their largest magnitudes are to be equal")
    if same:
        return not_yet(f"the layer computes the same, but the columns' largest magnitudes are {np.round(tops, 3)}")
    return not_yet("the layer computes something else now: weight · gain, column by column, must stay as it was")
