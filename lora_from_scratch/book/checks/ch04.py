"""The exercises of chapter 04: unpacking codes, deriving NF3, the last block, and one scale for each row."""

import math

import numpy as np

from lora_from_scratch import nf4
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, tensor
from lora_from_scratch.lab.codes import CODES, rounded


def _array(function, *arguments: object) -> tuple[np.ndarray | None, str]:
    """What the reader's function gives, as a float64 array, or what to tell."""
    found, problem = call(function, *arguments)
    if problem or found is None:
        return None, problem or STUB
    got = tensor(found)
    return (got.numpy(), "") if got is not None else (None, not_yet("give back numbers, as an array or a list"))


def check_unpack(function) -> str:
    """The reader's function of (packed, count): the codes, the first in the high half of its byte."""
    padded = np.array([3, 15, 0, 8, 12, 1, 7, 7], np.uint8)  # seven codes and a filler
    packed = padded[0::2] << 4 | padded[1::2]
    got, problem = _array(function, packed.copy(), 7)
    if problem:
        return problem
    other, high, low = padded.reshape(-1, 2)[:, ::-1].reshape(-1), packed >> 4, packed & 15
    mistakes = {
        "the *first* code stands in the high four bits; and the filler at the end is to be cut off": other,
        "the last byte holds one code and a filler: cut to `count`": padded,
        "the *first* code stands in the high four bits": other[:7],
        "all high halves came first: interleave the two": np.concatenate([high, low])[:7],
        "the high half was not shifted down by 4 bits": np.stack([packed & 240, low], 1).reshape(-1)[:7],
        "the high half is still in the low one: `& 15` is missing": np.stack([high, packed], 1).reshape(-1)[:7],
        "these are the high halves alone": high,
        "these are the bytes themselves": packed,
    }
    got = got.reshape(-1)
    if not np.array_equal(got, padded[:7]):
        found = next((words for words, wrong in mistakes.items() if np.array_equal(got, wrong)), None)
        return not_yet(found or f"{padded[:7].tolist()} should come back, and {got.astype(int).tolist()} did")
    even, problem = _array(function, packed[:3].copy(), 6)
    if problem:
        return problem.replace("Not yet: ", "Not yet: right for an odd count, but for an even one ")
    if even.size == 5:
        return not_yet("right for an odd count; with an even one there is no filler: cut to `count`, not always by one")
    right = np.array_equal(even.reshape(-1), padded[:6])
    return RIGHT if right else not_yet(f"right for an odd count; for an even one it gives {even.reshape(-1).tolist()}")


def check_nf3(function) -> str:
    """The reader's eight levels of a 3-bit NormalFloat, rising, the largest 1."""
    levels, problem = _array(function)
    if "StatisticsError" in problem:
        return problem + " (a quantile takes no probability of 0 or 1: is the end 0.9677083?)"
    if problem:
        return problem
    levels = levels.reshape(-1)
    if np.isnan(levels).any():
        return not_yet("a level is NaN: that comes of 0 / 0, or of infinity / infinity; print your steps")
    if not np.isfinite(levels).all():
        return not_yet("a level is infinite: the end must not be at probability 0 or 1")
    counts = {
        7: "seven levels: the two sides have three each; the positive one needs four, from 5 points",
        9: "nine levels: the two sides have four each; the negative one needs three, from 4 points",
        10: "ten levels: 1/2 was kept on both sides; leave it out, and add one zero",
        16: "sixteen levels: that is NF4; NF3 has eight",
    }
    if levels.size != 8:
        return not_yet(counts.get(levels.size, f"{levels.size} levels, where 3 bits have eight"))
    if np.any(np.diff(levels) < 0):
        return not_yet("sort them, so that codes rise with the weights")
    if np.allclose(levels, CODES["NF3"], atol=1e-6):
        return RIGHT
    if (levels == 0).sum() != 1:
        return not_yet(f"{(levels == 0).sum()} exact zeros: 1/2 is left out on both sides, then one zero is added")
    if levels.max() != 1:
        return not_yet(f"the largest is {levels.max():.3f}: divide by it")
    if (levels > 0).sum() != 4:
        return not_yet(f"{(levels > 0).sum()} positive levels: the side with one level more, four, is the positive one")
    if np.allclose(levels, [-1, -2 / 3, -1 / 3, 0, 0.25, 0.5, 0.75, 1], atol=0.05):
        return not_yet("evenly spaced in the *value*: they must be so in probability, and then become quantiles")
    return not_yet("is the end 0.9677083? 5 points from it to 0.5 for one side, 4 for the other, the last left out")


def check_absmax(function) -> str:
    """The reader's function of (weight, block_size): the largest magnitude of each block, the last one short."""
    weight = np.array([[1.0, -4.0, 2.0, 0.5, 3.0], [-1.0, 0.875, 0.75, -0.5, -0.125]], np.float32)
    got, problem = _array(function, weight.copy(), 4)
    if problem and problem != STUB:
        return problem + " (ten values don't fit into blocks of four: fill up with zeros, or loop over slices)"
    if problem:
        return problem
    mistakes = [
        ([2, 3, -0.125], "take magnitudes first: the largest value of a block is not its largest magnitude"),
        ([4, 3], "the last, short block is missing"),
        ([4, 3, 4], "the short block was filled up with values of other blocks"),
        ([4, 3, 1], "the short block was filled up with ones: fill with what cannot be the largest"),
        ([4, 3, 0.75], "these are three nearly equal parts: blocks of four start at 0, 4 and 8"),
        ([4, 3, 0.875], "the last block took the last *four* values: it holds only the two that are left"),
        ([4, 1], "one for each row: blocks run on through the rows"),
        ([4, 3, 1, 0.125], "blocks within each row: they run on from one row into the next"),
        ([4], "one for the whole array"),
        ([4, 3, 0.125], "the last block starts where the one before it ended, and holds two values"),
    ]
    found = got.reshape(-1).tolist()
    if found != [4, 3, 0.5]:
        words = next((words for wrong, words in mistakes if found == wrong), None)
        return not_yet(words or f"the blocks hold 4, 4 and 2 values, and you gave {found}")
    whole, problem = _array(function, weight[:, 1:].copy(), 4)  # two whole blocks
    if problem:
        return problem.replace("Not yet: ", "Not yet: right with a short last block; with whole ones ")
    whole = whole.reshape(-1).tolist()
    if whole == [4, 0.875, 0]:
        return not_yet("right with a short last block; whole ones need no filling: -n % b is 0 there, b - n % b is b")
    return RIGHT if whole == [4, 0.875] else not_yet(f"right with a short block; two whole ones give {whole}")


def lost(weight: np.ndarray, decoded: np.ndarray) -> float:
    """The relative error, |decoded - weight| / |weight|."""
    return float(np.linalg.norm(decoded - weight) / np.linalg.norm(weight))


def check_rows(function) -> str:
    """The reader's function of a matrix: (bits a weight, relative error) of NF4 with one float32 scale a row."""
    w = np.random.default_rng(0).standard_normal((24, 200)).astype(np.float32)
    w *= np.linspace(0.5, 2, 24, dtype=np.float32)[:, None]
    got, problem = _array(function, w.copy())
    if problem:
        return problem
    if got.reshape(-1).shape != (2,):
        return not_yet("return two numbers: first the bits a weight, then the error")
    (bits, error), levels = got.reshape(-1).tolist(), nf4.LEVELS
    decoded = rounded(w, levels, 200)
    right = (4 + 32 / 200, lost(w, decoded))
    near = lambda a, b: math.isclose(a, b, rel_tol=1e-5)  # noqa: E731
    if near(bits, right[0]) and near(error, right[1]):
        return RIGHT
    if near(error, right[0]) and near(bits, right[1]):
        return not_yet("both numbers are right, but in the other order: first the bits, then the error")
    costs = {
        4: "the scales are not counted",
        4 + 32 / 24: "a row has as many weights as the matrix has *columns*",
        32 / 200: "these are the scales alone, add the codes",
        4.5: "these are those of blocks of 64",
        4 * w.size + 32 * 24: "these are the bits of the whole matrix, divide by the number of weights",
        right[0] / 8: "these are bytes, a bit is an eighth of one",
        4 + 4 / 200: "a float32 has 32 bits, not 4",
        4 + 16 / 200: "a float32 has 32 bits, not 16",
    }
    errors = {
        lost(w, rounded(w, levels)): "it is that of blocks of 64",
        lost(w, rounded(w, levels, w.size)): "it is that of one scale for all",
        lost(w.T, rounded(np.ascontiguousarray(w.T), levels, 24)): "it is that of one scale a column",
        float(np.linalg.norm(decoded - w)): "it is absolute, divide by the norm of the weights",
        float(np.abs(decoded - w).mean()): "it is the mean absolute one, use `lost`",
        float(
            np.mean([lost(a, b) for a, b in zip(w, decoded, strict=True)])
        ): "it is the mean of the rows' errors; take the norm of the whole matrix",
        right[1] ** 2: "it is the square, take the root",
    }
    notes = [f"bits: {words}" for value, words in costs.items() if near(bits, value)]
    notes += [f"error: {words}" for value, words in errors.items() if near(error, value)]
    hint = f"there are rows of 200 weights, and you gave {bits:.4f} bits and an error of {error:.4f}"
    return not_yet("; ".join(notes) or hint)
