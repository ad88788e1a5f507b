"""The checks of the exercises: they take the right answer in every form, and tell each usual mistake by its name."""

import importlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lora_from_scratch import loraplus_param_groups, nf4
from lora_from_scratch.analysis.spectra import intruder_dimensions, low_rank_factors
from lora_from_scratch.lab.codes import rounded

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def check_of(chapter: str, name: str) -> Callable[[object], str]:
    return getattr(importlib.import_module(f"lora_from_scratch.book.checks.ch{chapter}"), name)


def raises(*arguments):
    raise KeyError("a slip of the pen")


def svd(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)


def likeness(W0, W1):
    return (svd(W0).U.T @ svd(W1).U).abs()


# Chapters 00 to 03

ANSWERS: list[tuple[str, str, object, str]] = []  # chapter, check, answer, what the reader is told


def cut(left=slice(0, 3), sizes: Callable = lambda s: s, right=None) -> Callable:
    def answer(matrix, rank):
        u, s, vt = svd(matrix)
        return (u[:, left] * sizes(s[left])) @ vt[right or left]

    return answer


def numpy_cut(matrix, rank):
    u, s, vt = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def transposed_cut(matrix, rank):
    u, s, vt = torch.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ vt[:, :rank].T


def uncut_shapes(matrix, rank):
    u, s, vt = torch.linalg.svd(matrix)
    return u @ torch.diag(s) @ vt


def vector_sizes(matrix, rank):
    u, s, vt = svd(matrix)
    return u[:, :rank] @ s[:rank] @ vt[:rank]


def uncut_sizes(matrix, rank):
    u, s, vt = svd(matrix)
    return u[:, :rank] @ torch.diag(s) @ vt[:rank]


def uncut_sizes_in_numpy(matrix, rank):
    u, s, vt = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    return (u[:, :rank] * s) @ vt[:rank]


def thin_transposed_cut(matrix, rank):
    u, s, vt = svd(matrix)
    return (u[:, :rank] * s[:rank]) @ vt[:, :rank].T


ANSWERS += [
    ("00", "check_cut", cut(), "Right"),
    ("00", "check_cut", numpy_cut, "Right"),
    ("00", "check_cut", lambda m, r: None, "write your answer"),
    ("00", "check_cut", transposed_cut, "its *rows*"),
    ("00", "check_cut", lambda m, r: cut()(m.float(), r), "Right"),
    ("00", "check_cut", thin_transposed_cut, "the *rows* of Vᵀ"),
    ("00", "check_cut", uncut_shapes, "full_matrices=False"),
    ("00", "check_cut", vector_sizes, "S is a vector"),
    ("00", "check_cut", uncut_sizes, "cut to r"),
    ("00", "check_cut", uncut_sizes_in_numpy, "cut to r"),
    ("00", "check_cut", cut(sizes=lambda s: 1.0), "missing: S must be in it"),
    ("00", "check_cut", cut(sizes=lambda s: s**2), "in it twice"),
    ("00", "check_cut", cut(sizes=lambda s: s**0.5), "only their roots"),
    ("00", "check_cut", cut(slice(2, 5)), "smallest singular values"),
    ("00", "check_cut", lambda m, r: m, "nothing is cut off"),
    ("00", "check_cut", lambda m, r: m - cut()(m, r), "what is left"),
    ("00", "check_cut", cut(slice(0, 2)), "the rank is 2, not 3"),
    ("00", "check_cut", cut(right=slice(1, 4)), "must belong together"),
    ("00", "check_cut", lambda m, r: cut()(m, r).T, "the shape that came in"),
    ("00", "check_cut", raises, "KeyError"),
    ("00", "check_rank", 94, "Right"),
    ("00", "check_rank", 94.0, "Right"),
    ("00", "check_rank", np.int64(94), "Right"),
    ("00", "check_rank", torch.tensor(94), "Right"),
    ("00", "check_rank", "94", "Right"),
    ("00", "check_rank", None, "write your answer"),
    ("00", "check_rank", 93, "is rounded up"),
    ("00", "check_rank", 93.87, "round up"),
    ("00", "check_rank", 64, "square matrix"),
    ("00", "check_rank", 128, "long before"),
    ("00", "check_rank", 95, "too large"),
    ("00", "check_rank", 10, "too small"),
    ("00", "check_rank", "many", "a whole number"),
]


def forward(scale=lambda a, r: a / r, base=True, swap=False, bias=True, sign=1, scale_base=False) -> Callable:
    def answer(x, layer, A, B, alpha, rank):
        s, update = scale(alpha, rank), (x @ B) @ A if swap else (x @ A.T) @ B.T
        old = (s if scale_base else 1) * (layer(x) if bias else x @ layer.weight.T) * base
        return old + sign * s * update

    return answer


def numpy_forward(x, base, A, B, alpha, rank):
    old = x.numpy() @ base.weight.numpy().T + base.bias.numpy()
    return old + alpha / rank * (x.numpy() @ A.numpy().T) @ B.numpy().T


def first_update(lr, s, G, A):
    return -lr * s * s * G @ A.T @ A


ANSWERS += [
    ("01", "check_forward", forward(), "Right"),
    ("01", "check_forward", lambda *a: forward()(*a).detach().numpy(), "Right"),
    ("01", "check_forward", numpy_forward, "Right"),
    ("01", "check_forward", lambda *a: None, "write your answer"),
    ("01", "check_forward", forward(lambda a, r: a), "not divided by the rank"),
    ("01", "check_forward", forward(lambda a, r: r / a), "upside down"),
    ("01", "check_forward", forward(lambda a, r: a / r**0.5), "that is rsLoRA"),
    ("01", "check_forward", forward(lambda a, r: 1), "scaling is missing"),
    ("01", "check_forward", forward(lambda a, r: a * r), "multiplied by the rank"),
    ("01", "check_forward", forward(lambda a, r: 1 / r), "alpha is missing"),
    ("01", "check_forward", forward(lambda a, r: (a / r) ** 2), "stands twice"),
    ("01", "check_forward", forward(base=False), "output is missing"),
    ("01", "check_forward", forward(scale_base=True), "scaled too"),
    ("01", "check_forward", forward(bias=False), "bias is missing"),
    ("01", "check_forward", forward(swap=True), "exchanged"),
    ("01", "check_forward", forward(sign=-1), "subtracted"),
    ("01", "check_forward", lambda x, base, A, B, a, r: base(x) + B @ (A @ x), "x @ A.T"),
    ("01", "check_forward", lambda x, base, A, B, a, r: base(x) + (B @ (A @ x.permute(2, 1, 0))).T, "x @ A.T"),
    ("01", "check_forward", lambda x, base, A, B, a, r: base(x) + a / r * x @ (B @ A), "not transposed"),
    (
        "01",
        "check_forward",
        lambda x, base, A, B, a, r: forward()(x, lambda z: z @ base.weight + base.bias, A, B, a, r),
        "weight is not transposed",
    ),  # fmt: skip
    ("01", "check_forward", lambda x, base, A, B, a, r: base(x) + x.float() @ A.T @ B.T, "dtype"),
    ("01", "check_forward", lambda x, base, A, B, a, r: base(x) * 3, "order of the products"),
    ("01", "check_forward", lambda x, base, A, B, a, r: x[0], "give back the output"),
    ("01", "check_forward", raises, "KeyError"),
    ("01", "check_count", {"on the output": 512 * 4096, "in the middle": 512 * 16}, "Right"),
    ("01", "check_count", {"on the output": "2,097,152", "in the middle": np.int64(8192)}, "Right"),
    ("01", "check_count", {"on the output": None, "in the middle": None}, "write your answer"),
    ("01", "check_count", {"on the output": 4096, "in the middle": 16}, "one token"),
    ("01", "check_count", {"on the output": 8192, "in the middle": 2097152}, "exchanged"),
    ("01", "check_count", {"on the output": 2097152, "in the middle": 1}, "in the middle: only"),
    ("01", "check_count", 7, "both numbers"),
    ("01", "check_first_update", first_update, "Right"),
    ("01", "check_first_update", lambda lr, s, G, A: first_update(lr, s, G, A).numpy(), "Right"),
    ("01", "check_first_update", lambda lr, s, G, A: first_update(lr, s, G, A) / s, "one scaling is missing"),
    ("01", "check_first_update", lambda lr, s, G, A: first_update(lr, s, G, A) / s / s, "both scalings"),
    ("01", "check_first_update", lambda lr, s, G, A: -first_update(lr, s, G, A), "against the gradient"),
    ("01", "check_first_update", lambda lr, s, G, A: -first_update(lr, s, G, A) / s, "the sign, and one scaling"),
    ("01", "check_first_update", lambda lr, s, G, A: first_update(1, s, G, A), "learning rate is missing"),
    ("01", "check_first_update", lambda lr, s, G, A: -first_update(1, s, G, A), "sign, and the learning rate"),
    ("01", "check_first_update", lambda lr, s, G, A: -lr * G, "full fine-tuning's step"),
    ("01", "check_first_update", lambda lr, s, G, A: -lr * s * G, "full fine-tuning's step, scaled"),
    ("01", "check_first_update", lambda lr, s, G, A: A @ G, "shapes do not fit"),
    ("01", "check_first_update", lambda lr, s, G, A: G.T, "ΔW is (d_out, d_in)"),
    ("01", "check_first_update", lambda lr, s, G, A: 7 * G, "with the new B"),
    ("01", "check_first_update", lambda lr, s, G, A: None, "write your answer"),
    ("01", "check_first_update", raises, "KeyError"),
    ("02", "check_count", lambda shapes, r: r * sum(a + b for a, b in shapes), "Right"),
    ("02", "check_count", lambda shapes, r: np.int64(r * sum(a + b for a, b in shapes)), "Right"),
    ("02", "check_count", lambda shapes, r: r * sum(b for a, b in shapes), "A alone"),
    ("02", "check_count", lambda shapes, r: r * sum(a for a, b in shapes), "B alone"),
    ("02", "check_count", lambda shapes, r: 2 * r * sum(b for a, b in shapes), "square matrices only"),
    ("02", "check_count", lambda shapes, r: 2 * r * sum(a for a, b in shapes), "square matrices only"),
    ("02", "check_count", lambda shapes, r: r * sum(a * b for a, b in shapes), "added, not multiplied"),
    ("02", "check_count", lambda shapes, r: sum(a * b for a, b in shapes), "the full matrices"),
    ("02", "check_count", lambda shapes, r: sum(a + b for a, b in shapes), "rank is missing"),
    ("02", "check_count", lambda shapes, r: r * sum(shapes[0]), "only the first"),
    ("02", "check_count", lambda shapes, r: r * sum(shapes[-1]), "only the last"),
    ("02", "check_count", lambda shapes, r: 1, "count A and B"),
    ("02", "check_count", lambda shapes, r: "many", "one number"),
    ("02", "check_count", lambda shapes, r: None, "write your answer"),
    ("02", "check_count", raises, "KeyError"),
    ("02", "check_break_even", lambda a, b: a * b / (a + b), "Right"),
    ("02", "check_break_even", lambda a, b: 1 / (1 / a + 1 / b), "Right"),
    ("02", "check_break_even", lambda a, b: torch.tensor(a * b) / torch.tensor(a + b), "Right"),
    ("02", "check_break_even", lambda a, b: np.float32(a * b) / np.float32(a + b), "Right"),
    ("02", "check_break_even", lambda a, b: a * b // (a + b), "with /, and not //"),
    ("02", "check_break_even", lambda a, b: round(a * b / (a + b)), "do not round"),
    ("02", "check_break_even", lambda a, b: (a * b) ** 0.5 / 2, "sum of the sides"),
    ("02", "check_break_even", lambda a, b: 2048, "sum of the sides"),
    ("02", "check_break_even", lambda a, b: (a + b) / (a * b), "one over the rank"),
    ("02", "check_break_even", lambda a, b: a * b / (a + b) / 2, "half of it"),
    ("02", "check_break_even", lambda a, b: min(a, b) / 2, "sum of the sides"),
    ("02", "check_break_even", lambda a, b: a / 2, "sum of the sides"),
    ("02", "check_break_even", lambda a, b: (a + b) / 4, "sum of the sides"),
    ("02", "check_break_even", lambda a, b: a * b, "solve for r"),
    ("02", "check_break_even", lambda a, b: None, "write your answer"),
    ("02", "check_break_even", raises, "KeyError"),
    ("02", "check_slip", {"matrices": "qkvo", "rank": 4}, "Right"),
    ("02", "check_slip", {"matrices": "qkvo", "rank": np.int64(4)}, "Right"),
    ("02", "check_slip", {"matrices": "qkvo", "rank": "4"}, "Right"),
    ("02", "check_slip", {"matrices": "qkvo", "rank": 2}, "18.87 M"),
    ("02", "check_slip", {"matrices": "qv", "rank": 8}, "printed correctly"),
    ("02", "check_slip", {"matrices": "q", "rank": 8}, 'write "qv"'),
    ("02", "check_slip", {"matrices": "qv", "rank": "eight"}, "a whole number"),
    ("02", "check_slip", {"matrices": None, "rank": None}, "write your answer"),
    ("02", "check_slip", None, "give both"),
    ("02", "check_rank", 22, "Right"),
    ("02", "check_rank", np.int64(22), "Right"),
    ("02", "check_rank", torch.tensor(22), "Right"),
    ("02", "check_rank", "22", "Right"),
    ("02", "check_rank", 20, "not as wide as q"),
    ("02", "check_rank", 21, "head is counted"),
    ("02", "check_rank", 23, "may exceed it"),
    ("02", "check_rank", 22.5, "whole number"),
    ("02", "check_rank", 69, "attention alone"),
    ("02", "check_rank", 33, "MLP alone"),
    ("02", "check_rank", 138, "q and v alone"),
    ("02", "check_rank", 19, "two slips"),
    ("02", "check_rank", 47, "A alone"),
    ("02", "check_rank", 42, "B alone"),
    ("02", "check_rank", 8, "there is room"),
    ("02", "check_rank", None, "write your answer"),
    ("02", "check_rank", -1, "from 1 up"),
]


def merged(of: Callable) -> Callable:
    return lambda a, b: of(a.base.weight, a, b).detach()


ANSWERS += [
    ("03", "check_merge_of_two", merged(lambda w, a, b: w + a.delta_weight() + b.delta_weight()), "Right"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: a.weight + b.weight - w), "Right"),
    ("03", "check_merge_of_two", lambda a, b: merged(lambda w, a, b: a.weight + b.weight - w)(a, b).numpy(), "Right"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: a.weight + b.weight), "W0 is in it twice"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: a.delta_weight() + b.delta_weight()), "W0 is missing"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: w + a.B @ a.A + b.B @ b.A), "scalings are missing"),
    (
        "03",
        "check_merge_of_two",
        merged(lambda w, a, b: w + a.scaling * (a.B @ a.A + b.B @ b.A)),
        "first one's scaling",
    ),
    (
        "03",
        "check_merge_of_two",
        merged(lambda w, a, b: w + b.scaling * (a.B @ a.A + b.B @ b.A)),
        "second one's scaling",
    ),
    ("03", "check_merge_of_two", merged(lambda w, a, b: a.weight), "only the first"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: b.weight), "only the second"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: (a.weight + b.weight) / 2), "mean is not the sum"),
    *(
        (
            "03",
            "check_merge_of_two",
            merged(lambda w, a, b, s=s: w + s(a, b) * (a.B + b.B) @ (a.A + b.A)),
            "mixed terms",
        )
        for s in (lambda a, b: 1, lambda a, b: a.scaling, lambda a, b: b.scaling)
    ),
    (
        "03",
        "check_merge_of_two",
        merged(lambda w, a, b: w + (a.scaling * a.B + b.scaling * b.B) @ (a.A + b.A)),
        "mixed terms",
    ),
    ("03", "check_merge_of_two", merged(lambda w, a, b: (a.weight + b.weight - w).T), "transposed"),
    ("03", "check_merge_of_two", lambda a, b: a.merge(), "not a layer"),
    ("03", "check_merge_of_two", lambda a, b: 7, "tensor of shape (5, 6)"),
    ("03", "check_merge_of_two", merged(lambda w, a, b: 3 * w), "B1 goes with A1 alone"),
    ("03", "check_merge_of_two", lambda a, b: a.A @ b.B, "RuntimeError"),
    ("03", "check_merge_of_two", lambda a, b: None, "write your answer"),
    ("03", "check_weights", {"three merges": 1.0, "one merge": 1 + 2**-10}, "Right"),
    ("03", "check_weights", {"three merges": 1, "one merge": "1.0009765625"}, "Right"),
    ("03", "check_weights", {"three merges": torch.tensor(1.0), "one merge": np.float16(1.0012)}, "Right"),
    ("03", "check_weights", {"three merges": 1.0012, "one merge": 1.0009765625}, "rounded to float16 before"),
    ("03", "check_weights", {"three merges": 1.0009765625, "one merge": 1.0009765625}, "each is rounded away"),
    ("03", "check_weights", {"three merges": 1.0, "one merge": 1.0012}, "1.0012 is no float16"),
    ("03", "check_weights", {"three merges": 1.0, "one merge": 1.0009}, "to its last digit"),
    ("03", "check_weights", {"three merges": 1.0, "one merge": 1.00107}, "to its last digit"),
    ("03", "check_weights", {"three merges": 1.0, "one merge": 1.0}, "so it arrives"),
    ("03", "check_weights", {"three merges": 2.0, "one merge": 3.0}, "the nearest neighbour does"),
    ("03", "check_weights", {"three merges": None, "one merge": None}, "write your answer"),
    ("03", "check_weights", {"three merges": "one", "one merge": 1}, "two numbers"),
    ("03", "check_weights", 1.0, "both numbers"),
]


# Chapter 04


def unpack(packed, count):
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:count]


def by_slices(weight, size, of=lambda part: np.abs(part).max()):
    flat = weight.reshape(-1)
    return [of(flat[i : i + size]) for i in range(0, len(flat), size)]


def filled(value=0.0, often=lambda n, b: -n % b):
    def answer(weight, size):
        flat = np.abs(weight.reshape(-1))
        return np.pad(flat, (0, often(len(flat), size)), constant_values=value).reshape(-1, size).max(axis=1)

    return answer


def normal_float(up=5, down=4, end=0.9677083, keep=False, scale=True, zero=True, order=True):
    quantile, last = NormalDist().inv_cdf, None if keep else -1
    levels = [quantile(p) for p in np.linspace(end, 0.5, up)[:last]]
    levels += [-quantile(p) for p in np.linspace(end, 0.5, down)[:last]] + [0.0] * zero
    levels = np.sort(levels) if order else np.array(levels)
    return lambda: levels / levels.max() if scale else levels


def rows(bits=lambda w: 4 + 32 / w.shape[1], block=lambda w: w.shape[1], error=None):
    def answer(w):
        decoded = rounded(w, nf4.LEVELS, block(w))
        return bits(w), error(w, decoded) if error else np.linalg.norm(decoded - w) / np.linalg.norm(w)

    return answer


ANSWERS += [
    ("04", "check_unpack", unpack, "Right"),
    ("04", "check_unpack", lambda p, n: [c for byte in p.tolist() for c in (byte // 16, byte % 16)][:n], "Right"),
    ("04", "check_unpack", lambda p, n: torch.from_numpy(unpack(p, n)), "Right"),
    ("04", "check_unpack", lambda p, n: np.stack([p & 15, p >> 4], axis=1).reshape(-1)[:n], "*first* code stands"),
    ("04", "check_unpack", lambda p, n: np.stack([p & 15, p >> 4], axis=1).reshape(-1), "and the filler"),
    ("04", "check_unpack", lambda p, n: unpack(p, 2 * len(p)), "cut to `count`"),
    ("04", "check_unpack", lambda p, n: np.concatenate([p >> 4, p & 15])[:n], "interleave"),
    ("04", "check_unpack", lambda p, n: np.stack([p & 240, p & 15], axis=1).reshape(-1)[:n], "not shifted"),
    ("04", "check_unpack", lambda p, n: np.stack([p >> 4, p], axis=1).reshape(-1)[:n], "`& 15` is missing"),
    ("04", "check_unpack", lambda p, n: p >> 4, "high halves alone"),
    ("04", "check_unpack", lambda p, n: p, "bytes themselves"),
    ("04", "check_unpack", lambda p, n: unpack(p, 2 * len(p) - 1), "not always by one"),
    ("04", "check_unpack", lambda p, n: unpack(p, n) if n % 2 else unpack(p, n)[::-1], "for an even one it gives"),
    ("04", "check_unpack", lambda p, n: unpack(p, n) + 1, "should come back"),
    ("04", "check_unpack", lambda p, n: "codes", "give back numbers"),
    ("04", "check_unpack", lambda p, n: None, "write your answer"),
    ("04", "check_unpack", raises, "KeyError"),
    ("04", "check_nf3", normal_float(), "Right"),
    ("04", "check_nf3", lambda: normal_float()().tolist(), "Right"),
    ("04", "check_nf3", lambda: torch.from_numpy(normal_float()()), "Right"),
    ("04", "check_nf3", normal_float(4, 4), "three each"),
    ("04", "check_nf3", normal_float(5, 5), "four each"),
    ("04", "check_nf3", normal_float(keep=True), "1/2 was kept"),
    ("04", "check_nf3", normal_float(9, 8), "that is NF4"),
    ("04", "check_nf3", normal_float(zero=False), "seven levels"),
    ("04", "check_nf3", normal_float(order=False), "sort them"),
    ("04", "check_nf3", normal_float(scale=False), "divide by it"),
    ("04", "check_nf3", normal_float(4, 5), "3 positive levels"),
    ("04", "check_nf3", normal_float(end=0.95), "is the end 0.9677083"),
    ("04", "check_nf3", normal_float(4, 4, keep=True, zero=False), "exact zeros"),
    ("04", "check_nf3", lambda: [-1, -2 / 3, -1 / 3, 0, 0.25, 0.5, 0.75, 1], "evenly spaced in the *value*"),
    ("04", "check_nf3", lambda: [math.nan] * 8, "NaN"),
    ("04", "check_nf3", lambda: [math.inf] * 8, "infinite"),
    ("04", "check_nf3", lambda: normal_float(end=1.0)(), "no probability of 0 or 1"),
    ("04", "check_nf3", lambda: None, "write your answer"),
    ("04", "check_absmax", by_slices, "Right"),
    ("04", "check_absmax", lambda w, b: np.array(by_slices(w, b)), "Right"),
    ("04", "check_absmax", lambda w, b: torch.tensor(by_slices(w, b)), "Right"),
    ("04", "check_absmax", filled(), "Right"),
    ("04", "check_absmax", lambda w, b: by_slices(w, b, np.max), "magnitudes first"),
    ("04", "check_absmax", lambda w, b: by_slices(w, b)[: w.size // b], "short block is missing"),
    ("04", "check_absmax", filled(1.0), "filled up with ones"),
    ("04", "check_absmax", lambda w, b: np.abs(np.resize(w, (-(-w.size // b), b))).max(1), "other blocks"),
    ("04", "check_absmax", lambda w, b: [np.abs(p).max() for p in np.array_split(w.reshape(-1), 3)], "nearly equal"),
    (
        "04",
        "check_absmax",
        lambda w, b: [*by_slices(w, b)[: w.size // b], np.abs(w.reshape(-1)[-b:]).max()],
        "last *four*",
    ),
    ("04", "check_absmax", lambda w, b: np.abs(w).max(axis=1), "one for each row"),
    ("04", "check_absmax", lambda w, b: [x for row in w for x in by_slices(row, b)], "within each row"),
    ("04", "check_absmax", lambda w, b: np.abs(w).max(), "whole array"),
    ("04", "check_absmax", filled(often=lambda n, b: b - n % b), "b - n % b is b"),
    ("04", "check_absmax", lambda w, b: np.abs(w.reshape(-1, b)).max(1), "fill up with zeros"),
    ("04", "check_absmax", lambda w, b: [1, 2, 3], "4, 4 and 2 values"),
    ("04", "check_absmax", lambda w, b: None, "write your answer"),
    ("04", "check_rows", rows(), "Right"),
    ("04", "check_rows", lambda w: np.array(rows()(w)), "Right"),
    ("04", "check_rows", lambda w: rows()(w)[::-1], "in the other order"),
    ("04", "check_rows", rows(lambda w: 4), "bits: the scales are not counted"),
    ("04", "check_rows", rows(lambda w: 4 + 32 / w.shape[0]), "*columns*"),
    ("04", "check_rows", rows(lambda w: 32 / w.shape[1]), "scales alone"),
    ("04", "check_rows", rows(lambda w: 4.5), "bits: these are those of blocks of 64"),
    ("04", "check_rows", rows(lambda w: 4 * w.size + 32 * w.shape[0]), "whole matrix"),
    ("04", "check_rows", rows(lambda w: (4 + 32 / w.shape[1]) / 8), "bytes"),
    ("04", "check_rows", rows(lambda w: 4 + 4 / w.shape[1]), "32 bits, not 4"),
    ("04", "check_rows", rows(block=lambda w: 64), "error: it is that of blocks of 64"),
    ("04", "check_rows", rows(block=lambda w: w.size), "one scale for all"),
    ("04", "check_rows", rows(error=lambda w, d: np.linalg.norm(d - w)), "absolute, divide"),
    ("04", "check_rows", rows(error=lambda w, d: np.abs(d - w).mean()), "mean absolute"),
    (
        "04",
        "check_rows",
        rows(error=lambda w, d: np.mean(np.linalg.norm(d - w, axis=1) / np.linalg.norm(w, axis=1))),
        "mean of the rows' errors",
    ),
    ("04", "check_rows", rows(error=lambda w, d: (np.linalg.norm(d - w) / np.linalg.norm(w)) ** 2), "the square"),
    ("04", "check_rows", lambda w: (7, 7), "rows of 200 weights"),
    ("04", "check_rows", lambda w: 7, "two numbers"),
    ("04", "check_rows", lambda w: None, "write your answer"),
    ("04", "check_rows", raises, "KeyError"),
]


# Chapter 05


def decoded(codes):
    return torch.from_numpy(nf4.dequantize(codes))


def backward(base=True, adapter=True, scale=lambda s: s, of=lambda grad, W: grad @ W):
    def answer(grad, codes, A, B, s):
        return base * of(grad, decoded(codes)) + adapter * scale(s) * (grad @ B) @ A

    return answer


def start(of=lambda W, kept: W - kept, scale=lambda s: (1, 1 / s), order=lambda A, B: (A, B)):
    def answer(W, layer):
        B, A = low_rank_factors(of(W, layer.base.weight), layer.rank)
        a, b = scale(layer.scaling)
        return order(a * A, b * B)

    return answer


def half_rank(W, layer):
    B, A = low_rank_factors(W - layer.base.weight, 4)
    return torch.cat([A, torch.zeros(4, 48)]), torch.cat([B, torch.zeros(40, 4)], dim=1) / layer.scaling


def piled_up(W, levels, rank, count):
    L, errors = torch.zeros_like(W), []
    for _ in range(count):
        Q = torch.from_numpy(rounded((W - L).numpy(), levels))
        L = L + torch.matmul(*low_rank_factors(W - Q - L, rank))
        errors.append((W - Q - L).norm())
    return errors


def norm_before(W, levels, rank, count):
    L, errors = torch.zeros_like(W), []
    for _ in range(count):
        Q = torch.from_numpy(rounded((W - L).numpy(), levels))
        errors.append((W - Q - L).norm())
        L = torch.matmul(*low_rank_factors(W - Q, rank))
    return errors


def rounds(
    of=lambda W, Q, L: W - Q, to_round=lambda W, L: W - L, error=lambda W, Q, L, rest: (W - Q - L).norm(), once=False
):
    def answer(W, levels, rank, count):
        L, Q, errors = torch.zeros_like(W), None, []
        for _ in range(count):
            if Q is None or not once:
                Q = torch.from_numpy(rounded(to_round(W, L).numpy(), levels))
            rest = (W - Q).norm()
            L = torch.matmul(*low_rank_factors(of(W, Q, L), rank))
            errors.append(error(W, Q, L, rest))
        return errors

    return answer


ANSWERS += [
    ("05", "check_backward", backward(), "Right"),
    ("05", "check_backward", lambda *a: backward()(*a).numpy(), "Right"),
    ("05", "check_backward", lambda g, c, A, B, s: (decoded(c).T @ g.T + s * A.T @ (B.T @ g.T)).T, "Right"),
    ("05", "check_backward", backward(adapter=False), "adapter's part is missing: x goes"),
    ("05", "check_backward", backward(base=False), "base's part is missing"),
    ("05", "check_backward", backward(scale=lambda s: 1), "scaling of the adapter's part is missing"),
    ("05", "check_backward", lambda g, c, A, B, s: s * backward(scale=lambda s: 1)(g, c, A, B, s), "part alone"),
    ("05", "check_backward", lambda g, c, A, B, s: g @ decoded(c) + s * (g @ A.T) @ B.T, "goes the forward way"),
    ("05", "check_backward", backward(of=lambda g, W: g @ W.T, scale=lambda s: 1), "W is transposed, and the scaling"),
    ("05", "check_backward", lambda g, c, A, B, s: decoded(c).T @ g, "RuntimeError"),
    ("05", "check_backward", lambda *a: backward()(*a).T, "transposed"),
    ("05", "check_backward", lambda g, c, A, B, s: g @ c, "Hint: the weight is"),
    ("05", "check_backward", lambda *a: backward()(*a)[:2], "its shape is"),
    ("05", "check_backward", lambda *a: "a word", "one tensor of shape"),
    ("05", "check_backward", lambda *a: None, "write your answer"),
    ("05", "check_start", start(), "Right"),
    ("05", "check_start", start(scale=lambda s: (1 / s, 1)), "Right"),
    ("05", "check_start", start(scale=lambda s: (s**-0.5, s**-0.5)), "Right"),
    ("05", "check_start", start(order=lambda A, B: [A.numpy(), B.numpy()]), "Right"),
    ("05", "check_start", start(scale=lambda s: (1, 1)), "divide by it once"),
    ("05", "check_start", start(scale=lambda s: (1, s)), "you multiply by it"),
    ("05", "check_start", start(scale=lambda s: (1 / s, 1 / s)), "divided out twice"),
    ("05", "check_start", start(of=lambda W, kept: kept - W), "the sign"),
    ("05", "check_start", start(of=lambda W, kept: W), "of W itself"),
    ("05", "check_start", start(of=lambda W, kept: kept), "of W itself"),
    ("05", "check_start", start(order=lambda A, B: (B, A)), "exchanged"),
    ("05", "check_start", lambda W, layer: (layer.A.detach()[:3], layer.B.detach()), "yours are (3, 48)"),
    ("05", "check_start", lambda W, layer: (layer.A.detach(), torch.ones(40, 8)), "best rank-8 part"),
    ("05", "check_start", lambda W, layer: layer.A, "return the pair"),
    ("05", "check_start", lambda W, layer: None, "write your answer"),
    ("05", "check_start", lambda W, layer: (layer.B.data.fill_(1), None)[1], "now return the pair"),
    ("05", "check_start", start(scale=lambda s: (1, 1 / 32)), "0.125 times as long as"),
    ("05", "check_start", half_rank, "of rank 4"),
    ("05", "check_start", raises, "KeyError"),
    ("05", "check_rounds", rounds(), "Right"),
    ("05", "check_rounds", lambda *a: np.array([float(e) for e in rounds()(*a)]), "Right"),
    ("05", "check_rounds", lambda *a: torch.stack(rounds()(*a)), "Right"),
    ("05", "check_rounds", rounds(error=lambda W, Q, L, rest: (W - Q - L).norm() ** 2), "the square"),
    ("05", "check_rounds", rounds(error=lambda W, Q, L, rest: (W - Q - L).norm() / W.norm()), "relative to"),
    ("05", "check_rounds", rounds(error=lambda W, Q, L, rest: rest), "before the low-rank part"),
    ("05", "check_rounds", rounds(of=lambda W, Q, L: W), "taken of W"),
    ("05", "check_rounds", rounds(of=lambda W, Q, L: W - L - Q), "not of W - L - Q"),
    ("05", "check_rounds", norm_before, "before the new L"),
    ("05", "check_rounds", piled_up, "take it anew"),
    ("05", "check_rounds", rounds(error=lambda W, Q, L, rest: torch.linalg.matrix_norm(W - Q - L, 2)), "Frobenius"),
    ("05", "check_rounds", rounds(once=True), "never changes"),
    ("05", "check_rounds", rounds(to_round=lambda W, L: W), "never changes"),
    ("05", "check_rounds", rounds(to_round=lambda W, L: W + L), "the first error is right"),
    ("05", "check_rounds", rounds(error=lambda W, Q, L, rest: (W - Q + L).norm()), "the first is off"),
    ("05", "check_rounds", lambda *a: rounds()(*a)[:5], "a list of 12 numbers"),
    ("05", "check_rounds", lambda *a: None, "write your answer"),
    ("05", "check_rounds", raises, "KeyError"),
]


# Chapter 06

LENGTHS = {"plain": 1088, "checkpointing": 9472}
UPPER = "|".join(map(str, range(6, 12)))
ANSWERS += [
    ("06", "check_bytes", lambda base, added: 2 * base + 12 * added, "Right"),
    ("06", "check_bytes", lambda base, added: np.float64(2 * base + 12 * added), "Right"),
    ("06", "check_bytes", lambda base, added: 2 * base + 10 * added, "own weights are missing"),
    ("06", "check_bytes", lambda base, added: 2 * base + 8 * added, "weights and gradients besides"),
    ("06", "check_bytes", lambda base, added: 2 * base + 4 * added, "two states are missing"),
    ("06", "check_bytes", lambda base, added: 2 * base + 6 * added, "4 bytes each here"),
    ("06", "check_bytes", lambda base, added: 12 * (base + added), "full fine-tuning"),
    ("06", "check_bytes", lambda base, added: 12 * added, "still in memory"),
    ("06", "check_bytes", lambda base, added: 2 * base + 16 * added, "no second copy"),
    ("06", "check_bytes", lambda base, added: 2 * base, "adapters are missing"),
    ("06", "check_bytes", lambda base, added: 4 * base + 12 * added, "4 would be float32"),
    ("06", "check_bytes", lambda base, added: 4 * base + 16 * added, "and not in float32"),
    ("06", "check_bytes", lambda base, added: base / 2 + 12 * added, "not in 4"),
    ("06", "check_bytes", lambda base, added: 2120, "2 bytes for each frozen"),
    ("06", "check_bytes", lambda base, added: 1, "2 bytes for each frozen"),
    ("06", "check_bytes", lambda base, added: None, "write your answer"),
    ("06", "check_bytes", raises, "KeyError"),
    ("06", "check_kept", lambda N, i, o, r: N * (i + r), "Right"),
    ("06", "check_kept", lambda N, i, o, r: torch.tensor(N * (i + r)), "Right"),
    ("06", "check_kept", lambda N, i, o, r: N * i, "what does B need"),
    ("06", "check_kept", lambda N, i, o, r: N * r, "what does A need"),
    ("06", "check_kept", lambda N, i, o, r: N * (i + o), "width r"),
    ("06", "check_kept", lambda N, i, o, r: N * (2 * i + r), "no x of its own"),
    ("06", "check_kept", lambda N, i, o, r: N * (i + r + o), "the output for a gradient"),
    ("06", "check_kept", lambda N, i, o, r: N * (i + 2 * r), "before the scaling"),
    ("06", "check_kept", lambda N, i, o, r: 4 * N * (i + r), "that is bytes"),
    ("06", "check_kept", lambda N, i, o, r: i + r, "one row"),
    ("06", "check_kept", lambda N, i, o, r: r * (i + o), "weights of the adapter"),
    ("06", "check_kept", lambda N, i, o, r: 1, "which two tensors"),
    ("06", "check_kept", lambda N, i, o, r: None, "write your answer"),
    ("06", "check_kept", raises, "KeyError"),
    ("06", "check_lengths", LENGTHS, "Right"),
    ("06", "check_lengths", {"plain": "1,100", "checkpointing": np.int64(9500)}, "Right"),
    ("06", "check_lengths", LENGTHS | {"plain": 1472}, "leaves nothing free"),
    ("06", "check_lengths", LENGTHS | {"plain": 1024}, "nine tenths"),
    ("06", "check_lengths", LENGTHS | {"plain": 1216}, "STATE32"),
    ("06", "check_lengths", LENGTHS | {"plain": 1152}, "the logits' term is missing: use planned"),
    ("06", "check_lengths", LENGTHS | {"checkpointing": 20160}, "the logits' term is missing, and the factor"),
    ("06", "check_lengths", LENGTHS | {"checkpointing": 10432}, "STATE32"),
    ("06", "check_lengths", LENGTHS | {"checkpointing": 9280}, "not 24 · 10⁹"),
    ("06", "check_lengths", LENGTHS | {"checkpointing": 12416}, "and 1.1 times the plan"),
    ("06", "check_lengths", LENGTHS | {"checkpointing": 11584}, "2³⁰"),
    ("06", "check_lengths", LENGTHS | {"checkpointing": 8000}, "a MiB is 2²⁰"),
    ("06", "check_lengths", LENGTHS | {"plain": 2752}, "QLoRA's"),
    ("06", "check_lengths", {"plain": 9472, "checkpointing": 1088}, "the other one's"),
    ("06", "check_lengths", LENGTHS | {"plain": 5000}, "too long; at 5,000 tokens"),
    ("06", "check_lengths", LENGTHS | {"plain": 100}, "there is room"),
    ("06", "check_lengths", LENGTHS | {"plain": 0.5}, "whole number of tokens"),
    ("06", "check_lengths", {"plain": None, "checkpointing": None}, "write your answer"),
    ("06", "check_lengths", {"plain": np.array([1, 2]), "checkpointing": None}, "write your answer"),
    ("06", "check_lengths", LENGTHS | {"plain": math.inf}, "whole number of tokens"),
    ("06", "check_lengths", 7, "both numbers"),
    ("06", "check_upper", rf".*layers\.({UPPER})\..*_proj", "Right"),
    ("06", "check_upper", r"model\.layers\.([6-9]|1[01])\.(self_attn|mlp)\.\w+", "Right"),
    ("06", "check_upper", rf"layers\.({UPPER})\.", "a part of names"),
    ("06", "check_upper", r".*layers\.[6-11]\..*_proj", "no regular expression"),
    ("06", "check_upper", r".*layers\.[6-9]\..*_proj", "two digits"),
    ("06", "check_upper", r".*_proj", "should have none"),
    ("06", "check_upper", r".*layers\.(" + UPPER + r")\..*(q|v)_proj", "12 layers match"),
    ("06", "check_upper", r".*", "the head matches too"),
    ("06", "check_upper", r"block7", "matches no layer"),
    ("06", "check_upper", rf"^layers\.({UPPER})\..*_proj$", "*whole* name"),
    ("06", "check_upper", r".*layers\.([6-9]|10|11)\..*_proj", "Right"),
    ("06", "check_upper", r"(", "no regular expression"),
    ("06", "check_upper", r"a{99999999999}", "no regular expression"),
    ("06", "check_upper", None, "write your answer"),
    ("06", "check_upper", ["q_proj"], "one string"),
]


# Chapters 07 to 09


ANSWERS += [
    ("07", "check_scaling", lambda a, r: a / math.sqrt(r), "Right"),
    ("07", "check_scaling", lambda a, r: np.float64(a) / np.sqrt(r), "Right"),
    ("07", "check_scaling", lambda a, r: torch.tensor(a / r**0.5), "Right"),
    ("07", "check_scaling", lambda a, r: a / math.isqrt(r), "which power"),
    ("07", "check_scaling", lambda a, r: a / r, "as you divide by r"),
    ("07", "check_scaling", lambda a, r: a, "as you do not divide"),
    ("07", "check_scaling", lambda a, r: math.sqrt(a / r), "to the rank alone"),
    ("07", "check_scaling", lambda a, r: math.sqrt(a) / r, "and not to alpha"),
    ("07", "check_scaling", lambda a, r: a * math.sqrt(r), "multiply by the root"),
    ("07", "check_scaling", lambda a, r: a / r**2, "square of the rank"),
    ("07", "check_scaling", lambda a, r: 1 / math.sqrt(r), "alpha is missing"),
    ("07", "check_scaling", lambda a, r: 1 / r, "alpha is missing, and"),
    ("07", "check_scaling", lambda a, r: a**2 / math.sqrt(r), "alpha comes in once"),
    ("07", "check_scaling", lambda a, r: a * r, "multiply by the rank"),
    ("07", "check_scaling", lambda a, r: a / torch.sqrt(r), "math.sqrt takes it"),
    ("07", "check_scaling", lambda a, r: a / (1 + math.log2(r)), "at rank 4 the gradient is 0.667 times"),
    ("07", "check_scaling", lambda a, r: 2 * a / math.sqrt(r), "should be alpha itself"),
    ("07", "check_scaling", lambda a, r: a / r**0.25, "which power"),
    (
        "07",
        "check_scaling",
        lambda a, r: {1: a, 4: 1.0, 8: 0.8, 16: 0.7, 64: 0.1}[r],
        "which power",
    ),  # no other rank is asked for
    ("07", "check_scaling", lambda a, r: a if r == 1 else 1e300, "a positive number"),
    ("07", "check_scaling", lambda a, r: torch.ones(3, 3), "a positive number"),
    ("07", "check_scaling", lambda a, r: -a, "a positive number"),
    ("07", "check_scaling", lambda a, r: None, "write your answer"),
    ("07", "check_scaling", raises, "KeyError"),
    ("07", "check_alpha", 32, "Right"),
    ("07", "check_alpha", 16 * 16 / math.sqrt(64), "Right"),
    ("07", "check_alpha", torch.tensor(32.0), "Right"),
    ("07", "check_alpha", "32", "Right"),
    ("07", "check_alpha", 16, "half as large"),
    ("07", "check_alpha", 2, "the scaling itself"),
    ("07", "check_alpha", 128, "you train at rank 16"),
    ("07", "check_alpha", 8, "not by √16"),
    ("07", "check_alpha", 4, "the colleague divided by √64"),
    ("07", "check_alpha", 256, "where √r was meant"),
    ("07", "check_alpha", 100, "should be 2"),
    ("07", "check_alpha", -1, "positive number"),
    ("07", "check_factors", (64, 4), "Right"),
    ("07", "check_factors", torch.tensor([64.0, 4.0]), "Right"),
    ("07", "check_factors", [np.float64(64), "4"], "Right"),
    ("07", "check_factors", (4, 64), "the other way round"),
    ("07", "check_factors", (1 / 64, 0.25), "turn both over"),
    ("07", "check_factors", (16, 1), "terms that all agree"),
    ("07", "check_factors", (16, 4), "your first number is for terms that all agree"),
    ("07", "check_factors", (256, 16), "the scaling alone"),
    ("07", "check_factors", (4, 4), "carries s twice"),
    ("07", "check_factors", (64, 64), "one s is lost"),
    ("07", "check_factors", (16, 16), "one s of the two"),
    ("07", "check_factors", (1024, 64), "you let it shrink"),
    ("07", "check_factors", (64, 3), "gradient descent is right"),
    ("07", "check_factors", (63, 4), "Adam is right"),
    ("07", "check_factors", (2, 3), "how often does each carry s"),
    ("07", "check_factors", (1, 1), "write your answer"),
    ("07", "check_factors", 64, "two positive numbers"),
    ("07", "check_factors", (64, -4), "two positive numbers"),
]


def grouped(fast: Callable, decay=lambda name: True, trained=True) -> Callable:
    def answer(model, lr, ratio, weight_decay):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad or not trained]
        return [
            {"params": [p], "lr": lr * (ratio if fast(n, p) else 1)}
            | ({"weight_decay": weight_decay} if decay(n) else {})
            for n, p in named
        ]

    return answer


def of_b(name, p):
    return name.endswith(".B")


def all_frozen(model, *rest):
    model.requires_grad_(False)
    return grouped(lambda n, p: False)(model, *rest)


def single(model, *rest):
    return [group | {"params": group["params"][0]} for group in grouped(of_b)(model, *rest)]


BREAKS = {"bias": True, "clipping": False, "falling": True, "epsilon": False}


def once_only(model, *rest):
    return (group | {"params": iter(group["params"])} for group in grouped(of_b)(model, *rest))


ANSWERS += [
    ("08", "check_groups", grouped(of_b), "Right"),
    ("08", "check_groups", lambda m, lr, ratio, decay: loraplus_param_groups(m, lr, ratio, decay), "Right"),
    ("08", "check_groups", lambda m, lr, ratio, decay: tuple(grouped(of_b)(m, lr, ratio, decay)), "Right"),
    ("08", "check_groups", single, "Right"),
    ("08", "check_groups", once_only, "Right"),
    ("08", "check_groups", all_frozen, "block.Body.A is missing"),
    ("08", "check_groups", lambda *a: np.ones(3), "a list of groups"),
    ("08", "check_groups", lambda *a: torch.ones(3), "a list of groups"),
    ("08", "check_groups", lambda m, *a: [{"params": m.parameters(), "lr": "fast"}], "lr is a number"),
    ("08", "check_groups", grouped(lambda n, p: False), "learns at 0.001, and should at 0.016"),
    ("08", "check_groups", grouped(lambda n, p: True), "is no adapter's B"),
    ("08", "check_groups", grouped(lambda n, p: "B" in n), "*ends* in .B"),
    ("08", "check_groups", grouped(lambda n, p: ".B" in n), "*ends* in .B"),
    ("08", "check_groups", grouped(lambda n, p: n.split(".")[-1] == "B"), "Right"),
    ("08", "check_groups", grouped(lambda n, p: not of_b(n, p)), "A is fast, and B is the one"),
    ("08", "check_groups", grouped(lambda n, p: of_b(n, p) or p.dim() == 1), "one-dimensional parameters"),
    ("08", "check_groups", grouped(lambda n, p: n.endswith(".A")), "A is fast, and B is the one"),
    ("08", "check_groups", grouped(of_b, decay=lambda n: n.endswith(".B")), "weight decay of None"),
    ("08", "check_groups", grouped(of_b, trained=False), "frozen, and in a group"),
    ("08", "check_groups", lambda *a: grouped(of_b)(*a)[1:], "is missing"),
    ("08", "check_groups", lambda *a: grouped(of_b)(*a) * 2, "in two groups"),
    ("08", "check_groups", lambda *a: [[1, 2]], "a list of groups"),
    ("08", "check_groups", lambda *a: None, "write your answer"),
    ("08", "check_groups", raises, "KeyError"),
    ("08", "check_alpha", 32, "Right"),
    ("08", "check_alpha", np.float32(32), "Right"),
    ("08", "check_alpha", "32", "Right"),
    ("08", "check_alpha", 2, "divided by the ratio"),
    ("08", "check_alpha", 16, "the ratio's root"),
    ("08", "check_alpha", 8, "has to go somewhere"),
    ("08", "check_alpha", 4, "that is the ratio"),
    ("08", "check_alpha", 128, "square of the ratio"),
    ("08", "check_alpha", 7, "three steps"),
    ("08", "check_alpha", None, "positive number"),
    ("08", "check_alpha", 12, "you added"),
    ("08", "check_groups", grouped(lambda n, p: n.endswith("_A") or "side" in n), "*ends* in .B"),
    ("08", "check_groups", lambda m, lr, ratio, decay: grouped(of_b)(m, lr / ratio, ratio, decay), "lr / ratio"),
    ("08", "check_breaks", BREAKS, "Right"),
    ("08", "check_breaks", {k: np.bool_(v) for k, v in BREAKS.items()}, "Right"),
    ("08", "check_breaks", {k: torch.tensor(v) for k, v in BREAKS.items()}, "Right"),
    ("08", "check_breaks", {k: int(v) for k, v in BREAKS.items()}, "Right"),
    ("08", "check_breaks", {k: not v for k, v in BREAKS.items()}, "wrong way round"),
    ("08", "check_breaks", BREAKS | {"bias": False}, "a bias learns at lr in both"),
    ("08", "check_breaks", BREAKS | {"falling": False}, "fall by the same factor"),
    ("08", "check_breaks", BREAKS | {"clipping": True}, "the norm that is clipped"),
    ("08", "check_breaks", BREAKS | {"epsilon": True}, "added to the size"),
    ("08", "check_breaks", dict.fromkeys(BREAKS), "write your answer"),
    ("08", "check_breaks", BREAKS | {"bias": None}, "bias is True or False"),
    ("08", "check_breaks", BREAKS | {"bias": torch.ones(2)}, "bias is True or False"),
    ("08", "check_breaks", BREAKS | {"bias": "yes"}, "bias is True or False"),
    ("08", "check_breaks", [True, False, True, False], "a dict with the keys"),
    ("08", "check_estimates", (1 / 16, 256), "Right"),
    ("08", "check_estimates", [0.063, "256"], "Right"),
    ("08", "check_estimates", (0.06, 256), "Right"),
    ("08", "check_estimates", (0.0625, 250), "the ratio: go through"),
    ("08", "check_estimates", torch.tensor([0.0625, 256.0]), "Right"),
    ("08", "check_estimates", np.array([0.0625, 256.0]), "Right"),
    ("08", "check_estimates", (1.0, 16), "write your answer"),
    ("08", "check_estimates", (256, 1 / 16), "the other way round"),
    ("08", "check_estimates", (1 / 256, 256), "you forgot the root"),
    ("08", "check_estimates", (16, 256), "the small one"),
    ("08", "check_estimates", (1 / 4, 256), "where is the width"),
    ("08", "check_estimates", (1 / 64, 256), "that is 1/√n"),
    ("08", "check_estimates", (1 / 16, 4096), "that is n"),
    ("08", "check_estimates", (1 / 16, 1 / 256), "it is B that has to be faster"),
    ("08", "check_estimates", (1 / 16, 16), "the paper's default"),
    ("08", "check_estimates", (1 / 16, 128), "of the text"),
    ("08", "check_estimates", (1 / 16, 250), "go through the estimate"),
    ("08", "check_estimates", (0.07, 256), "go through the estimate"),
    ("08", "check_estimates", 256, "two positive numbers"),
    ("08", "check_estimates", (1 / 16, None), "two positive numbers"),
]


def dora_weight(W0, A, B, s, m):
    V = W0 + s * B @ A
    return (m / V.norm(dim=1))[:, None] * V


def as_forward(weight: Callable) -> Callable:
    return lambda x, W0, A, B, s, m, bias: F.linear(x, weight(W0, A, B, s, m), bias)


def in_place(W0, A, B, s, m):
    W0 += s * B @ A
    return (m / W0.norm(dim=1))[:, None] * W0


WRONG_WEIGHTS = [
    (lambda W, A, B, s, m: W + s * B @ A, "it is LoRA"),
    (lambda W, A, B, s, m: m[:, None] * F.normalize(W + s * B @ A, dim=0), "wrong axis"),
    (lambda W, A, B, s, m: m * F.normalize(W + s * B @ A, dim=0), "wrong axis"),
    (lambda W, A, B, s, m: (W + s * B @ A) * m / (W + s * B @ A).norm(dim=1), "[:, None]"),
    (lambda W, A, B, s, m: (m / W.norm(dim=1))[:, None] * (W + s * B @ A), "the norm of W0"),
    (lambda W, A, B, s, m: dora_weight(W, A, B, s, W.norm(dim=1)), "magnitude is not used"),
    (lambda W, A, B, s, m: dora_weight(W, A, B, s, torch.ones_like(m)), "magnitude is missing"),
    (lambda W, A, B, s, m: W + m[:, None] * F.normalize(B @ A, dim=1), "only BA is normalized"),
    (lambda W, A, B, s, m: m[:, None] * F.normalize(W, dim=1) + s * B @ A, "belongs inside"),
    (lambda W, A, B, s, m: W + (m / (W + s * B @ A).norm(dim=1))[:, None] * s * B @ A, "the adapter alone"),
    (lambda W, A, B, s, m: dora_weight(W, A, B, 1.0, m), "scaling s is missing"),
    (lambda W, A, B, s, m: m[:, None] * (W + s * B @ A), "not divided by their norm"),
    (lambda W, A, B, s, m: m[:, None] * F.normalize(W + s * B @ A) / (W + s * B @ A).norm(dim=1)[:, None], "squared"),
    (lambda W, A, B, s, m: (W + s * B @ A) * ((W + s * B @ A).norm(dim=1) / m)[:, None], "upside down"),
    (lambda W, A, B, s, m: dora_weight(W, A, B, s, m) - W, "the change alone"),
    (lambda W, A, B, s, m: (m / (W + B @ A).norm(dim=1))[:, None] * (W + s * B @ A), "in the norm alone"),
    (lambda W, A, B, s, m: m[:, None] * (W + s * B @ A) / (W + s * B @ A).norm(), "one norm"),
    (lambda W, A, B, s, m: 3 * W, "none of the usual mistakes"),
]
ANSWERS += [("09", "check_merge", wrong, words) for wrong, words in WRONG_WEIGHTS]
ANSWERS += [("09", "check_forward", as_forward(wrong), words) for wrong, words in WRONG_WEIGHTS]
ANSWERS += [
    ("09", "check_forward", as_forward(dora_weight), "Right"),
    ("09", "check_forward", lambda *a: as_forward(dora_weight)(*a).numpy(), "Right"),
    ("09", "check_forward", lambda *a: as_forward(dora_weight)(*a).float(), "Right"),
    ("09", "check_forward", as_forward(in_place), "Right"),
    (
        "09",
        "check_forward",
        lambda x, W, A, B, s, m, b: m / (W + s * B @ A).norm(dim=1) * (F.linear(x, W) + s * (x @ A.T) @ B.T) + b,
        "Right",
    ),
    (
        "09",
        "check_forward",
        lambda x, W, A, B, s, m, b: m / (W + s * B @ A).norm(dim=1) * F.linear(x, W + s * B @ A, b),
        "bias is rescaled too",
    ),
    ("09", "check_forward", lambda x, W, A, B, s, m, b: F.linear(x, dora_weight(W, A, B, s, m)), "bias is missing"),
    (
        "09",
        "check_forward",
        lambda x, W, A, B, s, m, b: m / (W + s * B @ A).norm(dim=1) * (x @ W + s * (x @ A.T) @ B.T) + b,
        "transposed",
    ),
    (
        "09",
        "check_forward",
        lambda x, W, A, B, s, m, b: m / W.norm(dim=1) * F.linear(x, W + s * B @ A, b),
        "the bias is rescaled too",
    ),
    ("09", "check_forward", lambda *a: as_forward(dora_weight)(*a) + a[-1], "in it twice"),
    ("09", "check_forward", lambda *a: 7, "give back the output"),
    ("09", "check_forward", lambda x, W, A, B, s, m, b: x @ A @ B, "RuntimeError"),
    ("09", "check_forward", lambda *a: None, "write your answer"),
    ("09", "check_merge", dora_weight, "Right"),
    ("09", "check_merge", lambda *a: dora_weight(*a).numpy(), "Right"),
    ("09", "check_merge", lambda *a: dora_weight(*a).float(), "Right"),
    ("09", "check_merge", in_place, "Right"),
    ("09", "check_merge", lambda *a: dora_weight(*a).T, "transposed"),
    ("09", "check_merge", lambda W, A, B, s, m: (m / W.norm(dim=1))[:, None] * (W + s * B @ A), "that is the trap"),
    ("09", "check_merge", lambda *a: 7, "give back one weight"),
    ("09", "check_merge", lambda *a: None, "write your answer"),
    ("09", "check_merge", raises, "KeyError"),
    ("09", "check_count", 45_056, "Right"),
    ("09", "check_count", "45,056", "Right"),
    ("09", "check_count", np.int64(45_056), "Right"),
    ("09", "check_count", 8 * 5120, "that is LoRA"),
    ("09", "check_count", 8 * 5120 + 1024, "not for each input"),
    ("09", "check_count", 8 * 5120 + 5120, "for each output alone"),
    ("09", "check_count", 8 * 5120 + 1, "not one for the layer"),
    ("09", "check_count", 8 * 5120 + 8, "not one for each rank"),
    ("09", "check_count", 8 * 5120 + 8 * 4096, "has no rank"),
    ("09", "check_count", 4096, "magnitude alone"),
    ("09", "check_count", 36_864, "A is missing"),
    ("09", "check_count", 12_288, "B is missing"),
    ("09", "check_count", 8192, "A alone"),
    ("09", "check_count", 32_768, "B alone"),
    ("09", "check_count", 4096 * 1024, "frozen weight"),
    ("09", "check_count", 1, "count A, B and the magnitude"),
    ("09", "check_count", None, "count A, B and the magnitude"),
]


# Chapter 10


def intruders(best: Callable, below=True, form=list) -> Callable:
    def answer(W0, W1, k, epsilon):
        values = best(W0, W1, k)[:k]
        return form([j for j in range(k) if (values[j] < epsilon) == below])

    return answer


def full_svd(W0, W1, k, columns=30):
    U0, U1 = torch.linalg.svd(W0).U[:, :columns], torch.linalg.svd(W1).U
    return (U0.T @ U1[:, :k]).abs().amax(0)


def subtracting(W0, W1, k, epsilon):
    places = intruder_dimensions(W0, W1, k, epsilon)
    W1 -= W0
    return places


TALL = importlib.import_module("lora_from_scratch.book.checks.ch10").weights()[0]
U, S, Vt = svd(TALL)
ANSWERS += [
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0)), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), form=np.array), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), form=torch.tensor), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b).amax(0), form=set), "Right"),
    ("10", "check_intruders", intruders(full_svd), "Right"),
    ("10", "check_intruders", lambda *q: torch.tensor(intruder_dimensions(*q)).view(-1, 1), "Right"),
    ("10", "check_intruders", intruders(lambda a, b, k: likeness(a, b)[:, :k].amax(1)), "dim=0"),
    ("10", "check_intruders", intruders(lambda a, b, k: full_svd(a, b, k, None)), "no singular value of W0"),
    ("10", "check_intruders", intruders(lambda a, b, k: (svd(a).U @ svd(b).U.T).abs().amax(0)), "compares rows"),
    ("10", "check_intruders", subtracting, "Right"),
    ("10", "check_intruders", lambda *a: [i + 0.4 for i in intruder_dimensions(*a)], "a list of whole numbers"),
    ("10", "check_intruders", lambda *a: [math.nan], "a list of whole numbers"),
    ("10", "check_intruders", lambda *a: [math.inf], "a list of whole numbers"),
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
    ("10", "check_delta", 3 * torch.randn(40, 30, generator=torch.Generator().manual_seed(1)), "intruders at ["),
    ("10", "check_delta", (U * (2 * S[0] - S)) @ Vt, "makes singular values equal"),
    ("10", "check_delta", 0.1 * TALL, "10% of its norm only"),
    ("10", "check_delta", 2 * TALL, "a multiple of W0"),
    ("10", "check_delta", -TALL, "a multiple of W0"),
    ("10", "check_delta", torch.ones(30, 40), "the shape of W0"),
    ("10", "check_delta", TALL * math.nan, "not finite"),
    ("10", "check_delta", TALL * 1e200, "not finite"),
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


def shrink_at(find):
    def shrunk(W0, W1, c):
        u, s, vt = svd(W1)
        which = find(W0, W1)
        return W1 + (c - 1) * (u[:, which] * s[which]) @ vt[which]

    return shrunk


def shrink_in_place(W0, W1, c):
    shrunk = shrink(W0, W1, c)
    W1 -= W0
    return shrunk


ANSWERS += [
    ("11", "check_shrink", shrink, "Right"),
    ("11", "check_shrink", shrink_in_place, "Right"),
    ("11", "check_shrink", lambda *a: shrink(*a).float(), "Right"),
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
    ("11", "check_shrink", shrink_at(lambda a, b: intruder_dimensions(a, b)[:1]), "top intruder alone"),
    ("11", "check_shrink", shrink_at(lambda a, b: intruder_dimensions(a, b, k=30)), "ten leading"),
    ("11", "check_shrink", shrink_at(lambda a, b: list(range(len(intruder_dimensions(a, b))))), "other places"),
    ("11", "check_shrink", shrink_at(lambda a, b: intruder_dimensions(b, a)), "W0 comes first"),
    ("11", "check_shrink", shrink_at(lambda a, b: intruder_dimensions(a, b, side="right")), "left vectors"),
    ("11", "check_shrink", lambda a, b, c: b, "nothing has changed"),
    ("11", "check_shrink", lambda a, b, c: c * b, "off by"),
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
    ("11", "check_difference", "\u22120.1", "Right"),
    ("11", "check_difference", 3.0 + 0.6 * 1.0 - 3.5, "sign turned, or are the weights"),
    ("11", "check_difference", 0.0, "nearer to 2.2"),
    ("11", "check_difference", 3.4 - 1.4, "what the first has forgotten"),
    ("11", "check_difference", 3.5 - 1.4, "what the second has forgotten"),
    ("11", "check_difference", 3.4, "the first run's"),
    ("11", "check_difference", 7, "straight line"),
    ("11", "check_difference", None, "one number"),
]


# Chapter 03, the tied head

ANSWERS += [
    ("03", "check_tied", 131_072_000, "Right"),
    ("03", "check_tied", "131,072,000", "Right"),
    ("03", "check_tied", torch.tensor(131_072_000), "Right"),
    ("03", "check_tied", 0, "a merge in place"),
    ("03", "check_tied", 8 * 36_096, "gone after the merge"),
    ("03", "check_tied", 262_144_000, "was there before"),
    ("03", "check_tied", 131_072_000 + 8 * 36_096, "gone after the merge"),
    ("03", "check_tied", 32_000, "that is the vocabulary"),
    ("03", "check_tied", 7, "how large is the weight"),
    ("03", "check_tied", None, "write your answer"),
]


# Chapter 12


def q_rows(weight, heads):
    return weight.view(heads, len(weight) // heads // 2, 2, -1).transpose(1, 2).reshape(weight.shape)


def rows_by_slices(weight, heads):
    per_head = np.asarray(weight).reshape(heads, -1, weight.shape[1])
    return np.concatenate([np.concatenate([head[0::2], head[1::2]]) for head in per_head])


def back(weight, heads):
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def halves_exchanged(weight, heads):
    return q_rows(weight, heads).view(heads, 2, -1, weight.shape[1]).flip(1).reshape(weight.shape)


ANSWERS += [
    ("12", "check_rows", q_rows, "Right"),
    ("12", "check_rows", rows_by_slices, "Right"),
    ("12", "check_rows", lambda w, heads: q_rows(w, heads).tolist(), "Right"),
    ("12", "check_rows", lambda w, heads: w, "as the file has them"),
    ("12", "check_rows", back, "from our order to GGUF's"),
    ("12", "check_rows", lambda w, heads: q_rows(w, 1), "the heads are mixed"),
    ("12", "check_rows", halves_exchanged, "halves of each head are exchanged"),
    ("12", "check_rows", lambda w, heads: q_rows(w, heads).T, "as many rows"),
    ("12", "check_rows", lambda w, heads: q_rows(w, heads) + 1, "channels 0, 2, 4"),
    ("12", "check_rows", lambda w, heads: w.view(heads, 7, 2), "an axis of their own"),
    ("12", "check_rows", lambda w, heads: None, "write your answer"),
    ("12", "check_labels", lambda ids, start: [-100] * (start - 1) + ids[start:], "Right"),
    ("12", "check_labels", lambda ids, start: torch.tensor([-100] * (start - 1) + ids[start:]), "Right"),
    ("12", "check_labels", lambda ids, start: np.array([-100] * (start - 1) + ids[start:]), "Right"),
    ("12", "check_labels", lambda ids, start: [-100] * start + ids[start:-1], "not shifted"),
    ("12", "check_labels", lambda ids, start: [-100] * start + ids[start:], "these are n"),
    ("12", "check_labels", lambda ids, start: [-100] * start + ids[start + 1 :], "one token too few"),
    ("12", "check_labels", lambda ids, start: [-100] * (start - 2) + ids[start - 1 :], "one token too many"),
    ("12", "check_labels", lambda ids, start: ids[1:], "the question is learnt too"),
    ("12", "check_labels", lambda ids, start: [-100] * (start - 1) + ids[start:-1] + [-100], "never stops"),
    ("12", "check_labels", lambda ids, start: ids[1:start] + [-100] * (len(ids) - start), "wrong way round"),
    ("12", "check_labels", lambda ids, start: ids[start:], "7 labels, and these are 4"),
    ("12", "check_labels", lambda ids, start: [0] * (start - 1) + ids[start:], "-100 everywhere else"),
    ("12", "check_labels", lambda ids, start: "ids", "a list of numbers"),
    ("12", "check_labels", lambda ids, start: [None] * (start - 1) + ids[start:], "not None or NaN"),
    ("12", "check_labels", raises, "KeyError"),
    ("12", "check_labels", lambda ids, start: None, "write your answer"),
    ("12", "check_bytes", 14_653_440, "Right"),
    ("12", "check_bytes", "14,653,440", "Right"),
    ("12", "check_bytes", 7_326_720, "takes 2 bytes"),
    ("12", "check_bytes", 29_306_880, "float32 takes 4"),
    ("12", "check_bytes", 488_448, "one layer of 30"),
    ("12", "check_bytes", 610_560, "the rank is missing"),
    ("12", "check_bytes", 14.65, "in MB"),
    ("12", "check_bytes", 13.97, "in MB or MiB"),
    ("12", "check_bytes", 1.465e7, "rounded"),
    ("12", "check_bytes", 30 * 2 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576), "not d_out · d_in"),
    ("12", "check_bytes", 30 * 24 * 2 * (6 * 576 + 1536), "that is A alone"),
    ("12", "check_bytes", 30 * 24 * 2 * (2 * 576 + 2 * 192 + 2 * 1536 + 576), "that is B alone"),
    ("12", "check_bytes", 7, "add up"),
    ("12", "check_bytes", "many", "give a number"),
    ("12", "check_bytes", None, "write your answer"),
]


# Appendix A2

ANSWERS += [
    ("A2", "check_ratio", lambda F, S, a, n: (F + S + a * n) / (F + a * n), "Right"),
    ("A2", "check_ratio", lambda F, S, a, n: torch.tensor(1 + S / (F + a * n), dtype=torch.float64), "Right"),
    ("A2", "check_ratio", lambda F, S, a, n: np.float64(1 + S / (F + a * n)), "Right"),
    ("A2", "check_ratio", lambda F, S, a, n: (F + a * n) / (F + S + a * n), "the other way round"),
    ("A2", "check_ratio", lambda F, S, a, n: (F + S) / (F + a * n), "full fine-tuning has activations"),
    ("A2", "check_ratio", lambda F, S, a, n: (F + S + a * n) / F, "LoRA has activations"),
    ("A2", "check_ratio", lambda F, S, a, n: (F + S) / F, "both have activations"),
    ("A2", "check_ratio", lambda F, S, a, n: (S + a * n) / (a * n), "the frozen weights"),
    ("A2", "check_ratio", lambda F, S, a, n: S / (F + S + a * n), "share that is saved"),
    ("A2", "check_ratio", lambda F, S, a, n: (F + S + a) / (F + a), "those of one token"),
    ("A2", "check_ratio", lambda F, S, a, n: (F + 2 * S + a * n) / (F + S + a * n), "not in LoRA's bytes"),
    ("A2", "check_ratio", lambda F, S, a, n: 92 / 25, "what does full"),
    ("A2", "check_ratio", lambda F, S, a, n: "much", "one number"),
    ("A2", "check_ratio", lambda F, S, a, n: math.nan, "what does full"),
    ("A2", "check_ratio", lambda F, S, a, n: None, "write your answer"),
    ("A2", "check_ratio", raises, "KeyError"),
    ("A2", "check_tokens", lambda F, S, a, q: (S / (q - 1) - F) / a, "Right"),
    ("A2", "check_tokens", lambda F, S, a, q: (F + S - q * F) / ((q - 1) * a), "Right"),
    ("A2", "check_tokens", lambda F, S, a, q: S / a, "that is the crossover"),
    ("A2", "check_tokens", lambda F, S, a, q: S / (q - 1) / a, "on both sides"),
    ("A2", "check_tokens", lambda F, S, a, q: (S / (q - 1) + F) / a, "where they help LoRA"),
    ("A2", "check_tokens", lambda F, S, a, q: (S / q - F) / a, "a share of q - 1"),
    ("A2", "check_tokens", lambda F, S, a, q: S / (q - 1) - F, "divide by those of a token"),
    ("A2", "check_tokens", lambda F, S, a, q: (S * q / (q - 1) - F) / a, "a share of full fine-tuning's"),
    ("A2", "check_tokens", lambda F, S, a, q: 0, "solve for n"),
    ("A2", "check_tokens", lambda F, S, a, q: None, "write your answer"),
    ("A2", "check_tokens", 3, "without calling it"),
]


# Chapter 00, a cut of some layers


def layers(first: object, second: object) -> dict:
    return {"self_attn cut": first, "mlp cut": second}


WHOLE = {"0.self_attn.q_proj": torch.tensor([2.0, 1.0]), "0.mlp.up_proj": torch.tensor([3.0, 2.0])}
CUT = {layer: change * torch.tensor([1.0, 0.0]) for layer, change in WHOLE.items()}


def toy_loss(change: dict) -> float:
    """5 without any change, 5 - 0.1 · 3 - 0.3 · 5 = 3.2 with the whole, 3.3 and 3.8 with one part cut."""
    return 5 - 0.1 * float(change["0.self_attn.q_proj"].sum()) - 0.3 * float(change["0.mlp.up_proj"].sum())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (layers(3.3, 3.8), "Right: mlp costs more, 0.60"),
        (layers(torch.tensor(3.3), np.float64(3.8)), "Right: mlp costs more"),
        (layers("3.3", "3.80000"), "Right"),
        (layers(3.31, 3.8), "cut the *change* to rank 4"),
        (layers(3.8, 3.3), "exchanged"),
        (layers(3.2, 3.8), "nothing was cut"),
        (layers(3.3, 3.9), "every layer cut"),
        (layers(4.8, 3.8), "self_attn cut: the other part's changes are missing"),
        (layers(3.5, 3.8), "gone altogether"),
        (layers(3.3, 5.0), "the loss of the base"),
        (layers(1.7, 3.8), "that is the gain"),
        (layers(3.3, 0.6), "what the cut costs"),
        (layers(None, 3.8), "write your answer"),
        (layers("much", 3.8), "two losses"),
        ((3.3, 3.8), "give both losses"),
    ],
    ids=str,
)
def test_a_cut_of_some_layers_is_told_from_its_mistakes(answer, told):
    """`loss` is any function of a change; here one whose values can be worked out by hand."""
    said = check_of("00", "check_layers")(answer, toy_loss, whole=WHOLE, cut=CUT)
    assert told in said and said.startswith("Right") == told.startswith("Right")


# Appendix A3

ANSWERS += [
    ("A3", "check_pages", 25, "Right"),
    ("A3", "check_pages", torch.tensor(26.0), "Right"),
    ("A3", "check_pages", "25", "Right"),
    ("A3", "check_pages", 100, "least recently used"),
    ("A3", "check_pages", 75, "stays where it is"),
    ("A3", "check_pages", 0, "do not fit"),
    ("A3", "check_pages", 1, "how many times"),
    ("A3", "check_pages", 50, "only what comes in"),
    ("A3", "check_pages", 0.25, "the share"),
    ("A3", "check_pages", 74, "for a round"),
    ("A3", "check_pages", 99, "which ones stay"),
    ("A3", "check_pages", 33, "two rounds"),
    ("A3", "check_pages", None, "one number"),
]


# Chapter 13


def forgotten(task, text, target, at=None, start=True):
    i = next(i for i, loss in enumerate(task) if loss <= target)
    along = (task[i - 1] - target) / (task[i - 1] - task[i]) if at is None else at
    return text[i - 1] + along * (text[i] - text[i - 1]) - (text[0] if start else 0)


def by_numpy(task, text, target):
    return np.interp(target, task[::-1], text[::-1]) - text[0]


def ratio(rate, known, other, other_known):
    factor = known * other_known
    return rate / other / factor, rate / other * factor


ANSWERS += [
    ("13", "check_forgotten", forgotten, "Right"),
    ("13", "check_forgotten", lambda *a: torch.tensor(forgotten(*a)), "Right"),
    ("13", "check_forgotten", by_numpy, "*first* time"),
    ("13", "check_forgotten", lambda *a: forgotten(*a, start=False), "the loss itself"),
    ("13", "check_forgotten", lambda *a: forgotten(*a, at=1), "past the target"),
    ("13", "check_forgotten", lambda *a: forgotten(*a, at=0), "the look before"),
    ("13", "check_forgotten", lambda *a: forgotten(*a, at=0.5), "half way"),
    ("13", "check_forgotten", lambda *a: forgotten(*a, at=0.75), "wrong end"),
    ("13", "check_forgotten", lambda *a: -forgotten(*a), "a rise"),
    (
        "13",
        "check_forgotten",
        lambda task, text, t: forgotten([math.log(v) for v in task], text, math.log(t)),
        "logarithm",
    ),
    ("13", "check_forgotten", lambda task, text, target: 0.7 if task[1] == 1.0 else task["a"], "rises once on its way"),
    ("13", "check_forgotten", lambda *a: 0.123, "yours is 0.123"),
    ("13", "check_forgotten", lambda *a: [1, 2], "one number"),
    ("13", "check_forgotten", raises, "KeyError"),
    ("13", "check_forgotten", lambda *a: None, "write your answer"),
    ("13", "check_ratio", ratio, "Right"),
    ("13", "check_ratio", lambda *a: torch.tensor(ratio(*a), dtype=torch.float64), "Right"),
    ("13", "check_ratio", lambda *a: np.array(ratio(*a)), "Right"),
    ("13", "check_ratio", lambda *a: ratio(*a)[::-1], "largest comes second"),
    ("13", "check_ratio", lambda r, k, o, ok: ratio(r, k, o, 1), "the other rate counts as well"),
    ("13", "check_ratio", lambda r, k, o, ok: ratio(r, 1, o, ok), "the first one's counts as well"),
    ("13", "check_ratio", lambda r, k, o, ok: ratio(r, k, o, 1 / ok), "the other *low*"),
    ("13", "check_ratio", lambda r, k, o, ok: ratio(o, k, r, ok), "the other one over the first"),
    ("13", "check_ratio", lambda r, k, o, ok: ratio(r, math.hypot(k, ok), o, 1), "roots of squares"),
    ("13", "check_ratio", lambda r, k, o, ok: ratio(r, k + ok, o, 1), "multiply the factors"),
    ("13", "check_ratio", lambda r, k, o, ok: (r / o, r / o), "the ratio alone"),
    ("13", "check_ratio", lambda *a: (1.0, 2.0), "highest that one rate may be"),
    ("13", "check_ratio", lambda *a: 4.0, "two numbers"),
    ("13", "check_ratio", raises, "KeyError"),
    ("13", "check_ratio", lambda *a: None, "write your answer"),
    ("13", "check_rank", 22, "Right"),
    ("13", "check_rank", "22", "Right"),
    ("13", "check_rank", 22.125, "whole number"),
    ("13", "check_rank", 16 * 32768 / 45312, "wrong way round"),
    ("13", "check_rank", 23, "rounded up"),
    ("13", "check_rank", 16, "not the counts"),
    ("13", "check_rank", 11, "other way round"),
    ("13", "check_rank", 32, "what the matrix holds"),
    ("13", "check_rank", 44, "four matrices"),
    ("13", "check_rank", 14, "three matrices"),
    ("13", "check_rank", 7, "8,192"),
    ("13", "check_rank", "many", "give a number"),
    ("13", "check_rank", None, "write your answer"),
]


# Chapter 14


def knobs(change: Callable = lambda c, size, a, b: (size, a, b * c)) -> Callable:
    """(size of A, rate of A, rate of B), from c = alpha / new alpha and what they were."""
    return lambda alpha, size, a, b, new: change(alpha / new, size, a, b)


def both(short: object, long: object) -> dict[str, object]:
    return {"short run": short, "long run": long}


def valley(way: Callable = lambda bottom, rates: np.exp(bottom)) -> Callable:
    def answer(rates, losses):
        a, b, _ = np.polyfit(np.log(rates), losses, 2)
        return way(-b / (2 * a), rates)

    return answer


def valley_over_rates(rates, losses):
    a, b, _ = np.polyfit(rates, losses, 2)
    return -b / (2 * a)


ANSWERS += [
    ("14", "check_rates", both(1e-3, 2e-3 / math.sqrt(2)), "Right"),
    ("14", "check_rates", both("0.001", torch.tensor(1.41e-3)), "Right"),
    ("14", "check_rates", both(None, None), "write your answer"),
    ("14", "check_rates", both(1e-3, None), "a number for both"),
    ("14", "check_rates", (1e-3, 1.41e-3), "give {"),
    ("14", "check_rates", both(1.41e-3, 1e-3), "changed places"),
    ("14", "check_rates", both(2e-3, 2e-3), "a kept rate"),
    ("14", "check_rates", both(4e-3, 1.41e-3), "short run: the other way round"),
    ("14", "check_rates", both(1e-3, 2.83e-3), "long run: the other way round"),
    ("14", "check_rates", both(1e-3, 1e-3), "long run: s is"),
    ("14", "check_rates", both(5e-4, 1.41e-3), "short run: s is"),
    ("14", "check_knobs", knobs(), "Right"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: [size * c, a * c, b]), "Right"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size * c**0.5, a * c**0.5, torch.tensor(b * c**0.5))), "Right"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size, a * c, b * c)), "both rates times"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: np.array([size, a, b * c])), "Right"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size, a * c**0.5, b * c**0.5)), "the long run's rule"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size, a, b / c)), "the other way round"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size * c, a, b)), "size of A / rate of A is not"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size, a, b)), "the first steps"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: (size, a * c, b)), "two numbers must stay"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: b * c), "three positive numbers"),
    ("14", "check_knobs", knobs(lambda c, size, a, b: None), "write your answer"),
    ("14", "check_knobs", raises, "a slip of the pen"),
    ("14", "check_bottom", valley(), "Right"),
    ("14", "check_bottom", valley(lambda bottom, rates: torch.tensor(bottom).exp()), "Right"),
    ("14", "check_bottom", valley(lambda bottom, rates: bottom), "take exp"),
    ("14", "check_bottom", valley(lambda bottom, rates: bottom / math.log(10)), "go back to the rate"),
    ("14", "check_bottom", valley_over_rates, "over log(rate)"),
    ("14", "check_bottom", valley(lambda bottom, rates: rates[1]), "best rate tried"),
    ("14", "check_bottom", valley(lambda bottom, rates: math.exp(2 * math.log(rates[1]) - bottom)), "the other side"),
    ("14", "check_bottom", valley(lambda bottom, rates: math.exp(-bottom)), "the sign"),
    ("14", "check_bottom", valley(lambda bottom, rates: math.exp(2 * bottom)), "not at -b / a"),
    ("14", "check_bottom", valley(lambda bottom, rates: 0.5), "where is its slope 0"),
    ("14", "check_bottom", valley(lambda bottom, rates: "low"), "give one number"),
    ("14", "check_bottom", valley(lambda bottom, rates: None), "write your answer"),
    ("14", "check_bottom", raises, "a slip of the pen"),
]


# Chapter 15


def bits_of(way: Callable = lambda even, paid, count: count * (even - paid)) -> Callable:
    """Bits stored, from (loss in nats, count, alphabet): of the even guess's bits, the model's, and the count."""
    return lambda loss, count, alphabet: way(math.log2(alphabet), loss / math.log(2), count)


ANSWERS += [
    ("15", "check_bits", bits_of(), "Right"),
    ("15", "check_bits", lambda *given: torch.tensor(bits_of()(*given)), "Right"),
    ("15", "check_bits", lambda *given: str(bits_of()(*given)), "Right"),
    ("15", "check_bits", lambda loss, count, size: count * (math.log2(size) - loss), "divide it by ln 2"),
    ("15", "check_bits", lambda loss, count, size: count * (math.log(size) - loss), "the answer in nats"),
    ("15", "check_bits", lambda loss, count, size: count * (math.log2(size) - loss * math.log(2)), "do not multiply"),
    ("15", "check_bits", lambda loss, count, size: count * (math.log(size) - loss / math.log(2)), "not ln"),
    ("15", "check_bits", lambda loss, count, size: count * (6 - loss / math.log(2)), "6 for 64 symbols alone"),
    ("15", "check_bits", lambda loss, count, size: count * (size - loss / math.log(2)), "not its size"),
    ("15", "check_bits", bits_of(lambda even, paid, count: even - paid), "for one symbol"),
    ("15", "check_bits", bits_of(lambda even, paid, count: count * (paid - even)), "the sign"),
    ("15", "check_bits", bits_of(lambda even, paid, count: count * paid), "still pays"),
    ("15", "check_bits", bits_of(lambda even, paid, count: max(0, count * (even - paid))), "do not cut at 0"),
    ("15", "check_bits", bits_of(lambda even, paid, count: 7.5), "what does an even guess pay"),
    ("15", "check_bits", bits_of(lambda even, paid, count: "many"), "give one number"),
    ("15", "check_bits", bits_of(lambda even, paid, count: None), "write your answer"),
    ("15", "check_bits", raises, "a slip of the pen"),
    ("15", "check_tokens", 83_886_080, "Right"),
    ("15", "check_tokens", "83,886,080", "Right"),
    ("15", "check_tokens", 8.4e7, "Right"),
    ("15", "check_tokens", 0, "write your answer"),
    ("15", "check_tokens", 41_943_040, "room for 2 bits"),
    ("15", "check_tokens", 41_943_040 / 2, "multiply by 2"),
    ("15", "check_tokens", 41_943_040 / 4, "that is bytes"),
    ("15", "check_tokens", 83_886_080 / math.log(2), "already in bits"),
    ("15", "check_tokens", 83_886_080 * math.log(2), "already in bits"),
    ("15", "check_tokens", 16 * 83_886_080, "the rank is in the count"),
    ("15", "check_tokens", 16 * 41_943_040, "bfloat16"),
    ("15", "check_tokens", 3.6 * 41_943_040, "not 3.6"),
    ("15", "check_tokens", 5, "over bits a token"),
    ("15", "check_tokens", "many", "give one number"),
    ("15", "check_step", 6, "Right"),
    ("15", "check_step", torch.tensor(6.0), "Right"),
    ("15", "check_step", 0, "write your answer"),
    ("15", "check_step", 18_000 / 2079.4, "divide it by ln 2"),
    ("15", "check_step", 4, "multiply by it"),
    ("15", "check_step", 8 / 3, "do not divide"),
    ("15", "check_step", 18_000 / (2079.4 * math.log(2)), "a nat is more than a bit"),
    ("15", "check_step", 6000, "those are characters"),
    ("15", "check_step", 18_000, "how many does a step meet"),
    ("15", "check_step", 1 / 6, "the other way round"),
    ("15", "check_step", 18, "not one bit"),
    ("15", "check_step", 7, "that a step meets"),
    ("15", "check_step", "many", "give one number"),
]


# Chapter 16


def centred(way: Callable) -> Callable:
    return lambda rewards: way(rewards, rewards.mean(dim=1, keepdim=True))


quarter = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)
none_of = (1 - 1 / 5000) ** 3200
ANSWERS += [
    ("16", "check_advantages", centred(lambda r, m: r - m), "Right"),
    ("16", "check_advantages", lambda r: (r - r.mean(-1)[:, None]).numpy(), "Right"),
    ("16", "check_advantages", lambda r: [[x - sum(row) / 4 for x in row] for row in r.tolist()], "Right"),
    ("16", "check_advantages", lambda r: None, "write your answer"),
    ("16", "check_advantages", raises, "KeyError"),
    ("16", "check_advantages", 3, "without calling it"),
    ("16", "check_advantages", lambda r: r - r.mean(1), "keepdim=True"),
    ("16", "check_advantages", lambda r: "centred", "give a tensor"),
    ("16", "check_advantages", lambda r: r.mean(dim=1), "the shape is (3,)"),
    ("16", "check_advantages", lambda r: r - r.mean(), "over all groups"),
    ("16", "check_advantages", lambda r: r - r.mean(dim=0), "a group is a row"),
    ("16", "check_advantages", centred(lambda r, m: m - r), "the sign"),
    ("16", "check_advantages", lambda r: r, "those are the rewards"),
    ("16", "check_advantages", lambda r: r - r.sum(dim=1, keepdim=True), "the sum is taken off"),
    ("16", "check_advantages", centred(lambda r, m: (r - m) * 4 / 3), "own reward out of the mean"),
    ("16", "check_advantages", centred(lambda r, m: m.expand_as(r)), "those are the means"),
    ("16", "check_advantages", centred(lambda r, m: (r - m) / r.std(dim=1, keepdim=True)), "divides by the spread"),
    (
        "16",
        "check_advantages",
        centred(lambda r, m: (r - m) / r.std(dim=1, keepdim=True, correction=0)),
        "divides by the spread",
    ),
    ("16", "check_advantages", centred(lambda r, m: (r - m) * 7), "mean of each row off"),
    ("16", "check_bits", 51.9, "Right"),
    ("16", "check_bits", torch.tensor(64 * quarter), "Right"),
    ("16", "check_bits", "51.92", "Right"),
    ("16", "check_bits", 0, "write your answer"),
    ("16", "check_bits", "many", "give a number"),
    ("16", "check_bits", quarter, "there are 64"),
    ("16", "check_bits", 64 * quarter * math.log(2), "in nats"),
    ("16", "check_bits", 64, "a chance of one half"),
    ("16", "check_bits", 128, "counts every episode as a success"),
    ("16", "check_bits", 32, "the failures tell something too"),
    ("16", "check_bits", 64 * 0.75 * math.log2(4 / 3), "the successes tell something too"),
    ("16", "check_bits", 16, "the number of successes"),
    ("16", "check_bits", 64 * -math.log2(0.75), "every episode as a failure"),
    ("16", "check_bits", -64 * quarter, "the sign"),
    ("16", "check_bits", 7, "64 times H"),
    ("16", "check_luck", 1 - none_of, "Right"),
    ("16", "check_luck", np.float64(0.473), "Right"),
    ("16", "check_luck", "0.473", "Right"),
    ("16", "check_luck", 0, "write your answer"),
    ("16", "check_luck", None, "between 0 and 1"),
    ("16", "check_luck", math.nan, "between 0 and 1"),
    ("16", "check_luck", none_of, "the chance of none"),
    ("16", "check_luck", 0.64, "that many are expected"),
    ("16", "check_luck", 1 / 5000, "one episode"),
    ("16", "check_luck", 0.64 * (1 - 1 / 5000) ** 3199, "just one"),
    ("16", "check_luck", 1.0, "not all are right"),
    ("16", "check_luck", "47.3 %", "Right"),
    ("16", "check_luck", 0.47, "Right"),
    ("16", "check_luck", 0.48, "Right"),
    ("16", "check_luck", 0.49, "none of the 3,200"),
    ("16", "check_luck", 47.3, "in percent"),
    ("16", "check_luck", 0.2, "none of the 3,200"),
]


# Chapter 17


def begun_at(
    which=slice(0, 3), split: Callable = lambda s, by: ((s / by).sqrt(),) * 2, taken: Callable = lambda p, by: by * p
):
    """PiSSA's (A, B, base) of (W, rank, scaling): with other pieces, sizes of A and B, or what is taken off W."""

    def answer(matrix, rank, scaling):
        u, s, vt = svd(matrix)
        of_A, of_B = split(s[which], scaling)
        A, B = of_A[:, None] * vt[which], u[:, which] * of_B
        return A, B, matrix - taken(B @ A, scaling)

    return answer


def turned_by_q(matrix, rank, scaling):
    """PiSSA's product and base, with Q A and B Qᵀ for A and B."""
    A, B, base = begun_at()(matrix, rank, scaling)
    Q = torch.linalg.qr(torch.randn(rank, rank, dtype=A.dtype))[0]
    return Q @ A, B @ Q.T, base


def of_v_instead_of_vt(matrix, rank, scaling):
    """A as (d_in, rank), from V: B A has no shape."""
    u, s, vt = svd(matrix)
    root = (s[:rank] / scaling).sqrt()
    A, B = vt.T[:, :rank] * root, u[:, :rank] * root
    return A, B, matrix - scaling * B @ A


def of_rows_of_u(matrix, rank, scaling):
    """B from the first rows of U, turned to fit."""
    u, s, vt = svd(matrix)
    root = (s[:rank] / scaling).sqrt()
    A, B = root[:, None] * vt[:rank], u[:rank].T * root
    return A, B, matrix - scaling * B @ A


def of_columns_of_vt(matrix, rank, scaling):
    """Vᵀ taken for V: with full matrices the shapes fit."""
    u, s, vt = torch.linalg.svd(matrix)
    root = (s[:rank] / scaling).sqrt()
    A, B = root[:, None] * vt[:, :rank].T, u[:, :rank] * root
    return A, B, matrix - scaling * B @ A


ANSWERS += [
    ("17", "check_begin", begun_at(), "Right"),
    ("17", "check_begin", lambda *given: [part.numpy() for part in begun_at()(*given)], "Right"),
    (
        "17",
        "check_begin",
        lambda *given: tuple(-part for part in begun_at()(*given)[:2]) + begun_at()(*given)[2:],
        "Right",
    ),
    ("17", "check_begin", begun_at(slice(-3, None)), "MiLoRA's"),
    ("17", "check_begin", begun_at(split=lambda s, by: (s.sqrt(),) * 2), "the scaling is left out"),
    ("17", "check_begin", begun_at(split=lambda s, by: ((s * by).sqrt(),) * 2), "multiplied by the scaling"),
    ("17", "check_begin", begun_at(split=lambda s, by: (s.sqrt() / by,) * 2), "once its root was taken"),
    ("17", "check_begin", begun_at(split=lambda s, by: (s / by**0.5,) * 2), "S must be in B A once"),
    ("17", "check_begin", begun_at(split=lambda s, by: (s / by,) * 2), "take the root of S / s in A and in B"),
    ("17", "check_begin", begun_at(split=lambda s, by: (torch.ones_like(s),) * 2), "S is missing"),
    ("17", "check_begin", begun_at(taken=lambda p, by: 0), "the base is W itself"),
    ("17", "check_begin", begun_at(taken=lambda p, by: p), "the base lacks B A, without the scaling"),
    ("17", "check_begin", begun_at(taken=lambda p, by: -by * p), "once more"),
    ("17", "check_begin", begun_at(taken=lambda p, by: 9 * p), "base + s B A is not W"),
    ("17", "check_begin", begun_at(split=lambda s, by: (torch.ones_like(s), s / by)), "evenly"),
    ("17", "check_begin", begun_at(slice(1, 4)), "not the sum of the 3 largest"),
    ("17", "check_begin", begun_at([2, 1, 0]), "the largest first"),
    ("17", "check_begin", turned_by_q, "turned by a matrix Q"),
    ("17", "check_begin", of_v_instead_of_vt, "gives Vᵀ"),
    ("17", "check_begin", of_rows_of_u, "U's first rows"),
    ("17", "check_begin", of_columns_of_vt, "Vᵀ's first columns"),
    ("17", "check_begin", lambda *given: (begun_at()(*given)[1], begun_at()(*given)[0], given[0]), "changed places"),
    ("17", "check_begin", lambda *given: begun_at(slice(0, 2))(*given), "the shapes are"),
    ("17", "check_begin", lambda *given: begun_at()(*given)[:2], "three tensors"),
    ("17", "check_begin", lambda *given: None, "write your answer"),
    ("17", "check_begin", raises, "a slip of the pen"),
    ("17", "check_config", (32, 48), "Right"),
    ("17", "check_config", ("32", torch.tensor(48.0)), "Right"),
    ("17", "check_config", (16, 24), "write your answer"),
    ("17", "check_config", (16, 48), "the rank"),
    ("17", "check_config", (32, 24), "is halved"),
    ("17", "check_config", (32, 1.5), "that is the scaling"),
    ("17", "check_config", (32, 12), "a quarter"),
    ("17", "check_config", (32, 96), "would double"),
    ("17", "check_config", (32, 1.5 * math.sqrt(32)), "for rsLoRA"),
    ("17", "check_config", (32, 40), "divided by 32"),
    ("17", "check_config", 48, "two numbers"),
    ("17", "check_rates", (0.0015, 0.004), "Right"),
    ("17", "check_rates", ("0.0015", torch.tensor(0.004)), "Right"),
    ("17", "check_rates", (0.012, 0.012), "write your answer"),
    ("17", "check_rates", (0.004, 0.0015), "the other way round"),
    ("17", "check_rates", (1 / 8, 1 / 3), "those are the ratios"),
    ("17", "check_rates", (1 / 8, 0.004), "the curvature: that is the ratio"),
    ("17", "check_rates", (0.0015, 1 / 3), "the first step: that is the ratio"),
    ("17", "check_rates", (0.096, 0.004), "more curvature, smaller rate"),
    ("17", "check_rates", (0.012 / math.sqrt(8), 0.004), "not its root"),
    ("17", "check_rates", (2 / 4.8, 0.004), "where gradient descent grows"),
    ("17", "check_rates", (0.0025, 0.004), "not by λ"),
    ("17", "check_rates", (0.0015, 0.036), "a longer step"),
    ("17", "check_rates", (0.0015, 0.012 / math.sqrt(3)), "no root"),
    ("17", "check_rates", (0.0015, 0.012 / 9), "no square"),
    ("17", "check_rates", (0.0015, 0.1), "the first step: what is the ratio"),
    ("17", "check_rates", (0.1, 0.004), "the curvature: what is the ratio"),
    ("17", "check_rates", 0.0015, "two rates"),
]


# Chapter 18


def stacked(a, b, s1=None, s2=None):
    """A and B of one adapter, with other scalings than the adapters' own if they are given."""
    return torch.cat([a[0], b[0]]), torch.cat([(s1 or a[2]) * a[1], (s2 or b[2]) * b[1]], dim=1)


ANSWERS += [
    ("18", "check_add", stacked, "Right"),
    ("18", "check_add", lambda a, b: [x.numpy() for x in stacked(a, b)], "Right"),
    ("18", "check_add", lambda a, b: stacked(b, a), "Right"),
    ("18", "check_add", lambda a, b: (torch.cat([a[2] * a[0], b[2] * b[0]]), torch.cat([a[1], b[1]], 1)), "Right"),
    ("18", "check_add", lambda a, b: stacked(a, b, 1, 1), "the scalings are gone"),
    ("18", "check_add", lambda a, b: stacked(a, b, a[2] ** 2, b[2] ** 2), "in twice"),
    ("18", "check_add", lambda a, b: stacked(a, b, a[2] ** 0.5, b[2] ** 0.5), "the root of each scaling"),
    ("18", "check_add", lambda a, b: stacked(a, b, a[2], a[2]), "one scaling is on both"),
    ("18", "check_add", lambda a, b: stacked(a, b, a[2] / 2, b[2] / 2), "the mean of both"),
    ("18", "check_add", lambda a, b: stacked(a, b, b[2], a[2]), "the other scaling"),
    ("18", "check_add", lambda a, b: (stacked(a, b)[0], stacked(b, a)[1]), "in the order"),
    ("18", "check_add", lambda a, b: stacked(a, b)[::-1], "so stacked"),
    ("18", "check_add", lambda a, b: stacked(a, b)[0], "a pair of tensors"),
    ("18", "check_add", lambda a, b: (a[0] + b[0], a[2] * a[1] + b[2] * b[1]), "that adds the factors"),
    ("18", "check_add", lambda a, b: stacked(a, b) if len(a[0]) == len(b[0]) else (a[0], a[1]), "B A is not"),
    ("18", "check_add", lambda a, b: None, "write your answer"),
    ("18", "check_add", raises, "a slip of the pen"),
    ("18", "check_lost", math.sqrt(5 / 30), "Right"),
    ("18", "check_lost", "0.408", "Right"),
    ("18", "check_lost", torch.tensor(40.8), "Right"),
    ("18", "check_lost", 5 / 30, "the norm is their root"),
    ("18", "check_lost", math.sqrt(25 / 30), "what is kept, and what is lost"),
    ("18", "check_lost", 25 / 30, "the squares that is kept"),
    ("18", "check_lost", 0.3, "not the sum"),
    ("18", "check_lost", 1 - math.sqrt(25 / 30), "do not add up"),
    ("18", "check_lost", math.sqrt(5 / 25), "divide by the norm of all of it"),
    ("18", "check_lost", 5**0.5, "divide it by the norm of all"),
    ("18", "check_lost", 0.9999, "which values are cut off"),
    ("18", "check_lost", 0, "between 0 and 1"),
    ("18", "check_dare", (0.2, 0.06), "Right"),
    ("18", "check_dare", ("0.2", torch.tensor(0.06)), "Right"),
    ("18", "check_dare", (0.02, 0.06), "it is scaled up"),
    ("18", "check_dare", (0.2, 0.02), "that is the mean"),
    ("18", "check_dare", (0.02 / 0.9, 0.06), "divide by what is kept"),
    ("18", "check_dare", (0.002, 0.06), "scaled up, not down"),
    ("18", "check_dare", (0.7, 0.06), "what keeps the mean"),
    ("18", "check_dare", (0.2, 0.0036), "that is the variance"),
    ("18", "check_dare", (0.2, math.sqrt(0.004)), "the root of the mean square"),
    ("18", "check_dare", (0.2, 0.3), "of whether it stays"),
    ("18", "check_dare", (0.2, 0.006), "as it was"),
    ("18", "check_dare", (0.2, 1), "the mean square less"),
    ("18", "check_dare", (0, 0), "two numbers"),
]


# Appendix A4

ANSWERS += [
    ("A4", "check_shares", (75, -16.7), "Right"),
    ("A4", "check_shares", torch.tensor([75.0, -50 / 3]), "Right"),
    ("A4", "check_shares", ["75", "-16.67"], "Right"),
    ("A4", "check_shares", (0.75, -0.167), "in percent"),
    ("A4", "check_shares", (25, 116.7), "the share that is lost"),
    ("A4", "check_shares", (38.6, -8.6), "divides by the loss before"),
    ("A4", "check_shares", (79.4, -17.6), "divides by the loss just after"),
    ("A4", "check_shares", (75, 16.7), "less than nothing"),
    ("A4", "check_shares", (75, 0), "do not cut it off"),
    ("A4", "check_shares", (1, 2), "what was learnt is"),
    ("A4", "check_shares", 75, "two numbers"),
]


# Appendix A5

ANSWERS += [
    ("A5", "check_megabytes", (60, 9030), "Right"),
    ("A5", "check_megabytes", ["60", torch.tensor(9030.0)], "Right"),
    ("A5", "check_megabytes", (30, 9030), "there and back"),
    ("A5", "check_megabytes", (80, 9030), "DDP: each sends"),
    ("A5", "check_megabytes", (9060, 9030), "has no gradients"),
    ("A5", "check_megabytes", (15, 9030), "are 40 MB"),
    ("A5", "check_megabytes", (7, 9030), "DDP: look at the formula"),
    ("A5", "check_megabytes", (60, 4530), "gathered twice"),
    ("A5", "check_megabytes", (60, 12040), "FSDP2: each sends"),
    ("A5", "check_megabytes", (60, 9000), "reduced and scattered"),
    ("A5", "check_megabytes", (60, 90), "the frozen weights travel too"),
    ("A5", "check_megabytes", (60, 9060), "not gathered again"),
    ("A5", "check_megabytes", (0, 0), "two numbers"),
    ("A5", "check_megabytes", 60, "two numbers"),
]


# Appendix A6

ANSWERS += [
    ("A6", "check_kept", (93.33, 80), "Right"),
    ("A6", "check_kept", ["93.3", torch.tensor(80.0)], "Right"),
    ("A6", "check_kept", (0.933, 0.8), "in percent"),
    ("A6", "check_kept", (80, 93.3), "other way round"),
    ("A6", "check_kept", (93.3, 20), "that is what is lost"),
    ("A6", "check_kept", (93.3, 40), "not by the base"),
    ("A6", "check_kept", (93.3, 26.7), "not by its accuracy"),
    ("A6", "check_kept", (93.3, 24), "divide them by the points"),
    ("A6", "check_kept", (93.3, 93.3), "the ratio once more"),
    ("A6", "check_kept", (93.3, 50), "from the base, how far"),
    ("A6", "check_kept", (107.1, 80), "over that of the adapter alone"),
    ("A6", "check_kept", (0, 0), "two numbers"),
    ("A6", "check_kept", 80, "two numbers"),
]


# Appendix A1


def zeros(low=float(nf4.LEVELS[6]) / 2, high=float(nf4.LEVELS[8]) / 2):
    return lambda s: NormalDist().cdf(s * high) - NormalDist().cdf(s * low)


def calm(top=lambda w: np.abs(w).max(axis=0), wrong=False):
    return lambda w, g: (w / top(w), g / top(w) if wrong else g * top(w))


ANSWERS += [
    ("A1", "check_zeros", zeros(), "Right"),
    ("A1", "check_zeros", lambda s: torch.tensor(zeros()(s)), "Right"),
    ("A1", "check_zeros", lambda s: [zeros()(s)], "Right"),
    ("A1", "check_zeros", zeros(float(nf4.LEVELS[6]), float(nf4.LEVELS[8])), "*half way*"),
    ("A1", "check_zeros", lambda s: 100 * zeros()(s), "in percent"),
    ("A1", "check_zeros", lambda s: 1 - zeros()(s), "*not* zero"),
    ("A1", "check_zeros", zeros(low=0), "above zero alone"),
    ("A1", "check_zeros", zeros(high=0), "below zero alone"),
    ("A1", "check_zeros", zeros(low=-float(nf4.LEVELS[8]) / 2), "the positive one twice"),
    ("A1", "check_zeros", zeros(high=-float(nf4.LEVELS[6]) / 2), "the negative one twice"),
    ("A1", "check_zeros", lambda s: zeros()(1 / s), "do not divide"),
    ("A1", "check_zeros", lambda s: zeros()(1), "which is the strength here"),
    ("A1", "check_zeros", zeros(low=-99.0), "below the upper half way"),
    ("A1", "check_zeros", lambda s: s * float(nf4.LEVELS[8] - nf4.LEVELS[6]) / 2, "interval's width"),
    ("A1", "check_zeros", lambda s: 0.32, "and yours is 0.32"),
    ("A1", "check_zeros", lambda s: [1, 2], "one number"),
    ("A1", "check_zeros", lambda s: None, "write your answer"),
    ("A1", "check_zeros", raises, "KeyError"),
    ("A1", "check_calm", calm(), "Right"),
    ("A1", "check_calm", calm(lambda w: 3 * np.abs(w).max(axis=0)), "Right"),
    ("A1", "check_calm", lambda w, g: tuple(map(torch.tensor, calm()(w, g))), "Right"),
    ("A1", "check_calm", lambda w, g: [part.tolist() for part in calm()(w, g)], "Right"),
    ("A1", "check_calm", calm(wrong=True), "the same way as the column"),
    ("A1", "check_calm", lambda w, g: (w / np.abs(w).max(axis=0), g), "the gain is as it was"),
    ("A1", "check_calm", lambda w, g: (w / np.abs(w).max(axis=1)[:, None], g), "the *rows*"),
    ("A1", "check_calm", calm(lambda w: np.linalg.norm(w, axis=0)), "equal norms"),
    ("A1", "check_calm", calm(lambda w: w.max(axis=0)), "largest *value*"),
    ("A1", "check_calm", calm(lambda w: w.std(axis=0)), "standard deviations"),
    ("A1", "check_calm", calm(lambda w: np.array([1, 2, 1])), "computes the same, but"),
    ("A1", "check_calm", lambda w, g: (2 * w, g), "something else"),
    ("A1", "check_calm", lambda w, g: (w, g), "nothing has changed"),
    ("A1", "check_calm", lambda w, g: calm()(w, g)[::-1], "the other way round"),
    ("A1", "check_calm", lambda w, g: w, "two things"),
    ("A1", "check_calm", lambda w, g: (w[:2], g), "the weight is (4, 3)"),
    ("A1", "check_calm", calm(lambda w: np.array([1, np.nan, 1])), "NaN"),
    ("A1", "check_calm", lambda w, g: ("w", "g"), "give back numbers"),
    ("A1", "check_calm", lambda w, g: None, "write your answer"),
    ("A1", "check_calm", raises, "KeyError"),
]


# Chapter 19


def scattered(answers, order):
    out = torch.empty_like(answers)
    out[order] = answers
    return out


def in_a_list(answers, order):
    out = [None] * len(order)
    for row, answer in zip(order.tolist(), answers, strict=True):
        out[row] = answer
    return torch.stack(out)


def swap(rule: Callable) -> Callable:
    return lambda d_out, d_in, old, new: rule(d_out * d_in, d_out + d_in, old, new)


ANSWERS += [
    ("19", "check_rows", lambda a, o: a[o.argsort()], "Right"),
    ("19", "check_rows", scattered, "Right"),
    ("19", "check_rows", in_a_list, "Right"),
    ("19", "check_rows", lambda a, o: a.numpy()[np.argsort(o.numpy())], "Right"),
    ("19", "check_rows", lambda a, o: torch.stack([a[(o == i).nonzero().item()] for i in range(len(o))]), "Right"),
    ("19", "check_rows", lambda a, o: a[o], "a second time"),
    ("19", "check_rows", lambda a, o: a, "as they were"),
    ("19", "check_rows", lambda a, o: a.flip(0), "backwards"),
    ("19", "check_rows", lambda a, o: a[o.argsort()][o.argsort()], "twice"),
    ("19", "check_rows", lambda a, o: a[o.sort().values.flip(0)].roll(1, 0), "out[order[j]] = answers[j]"),
    ("19", "check_rows", lambda a, o: o.argsort(), "a tensor of shape (5, 2, 3)"),
    ("19", "check_rows", lambda a, o: "sorted", "yours is str"),
    ("19", "check_rows", lambda a, o: None, "write your answer"),
    ("19", "check_rows", raises, "answers[j] belongs to row order[j]"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (old + new) * area / (new * sides)), "Right"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (1 + old / new) * area / sides), "Right"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: -(-(old + new) * area // (new * sides))), "Right"),
    (
        "19",
        "check_tokens",
        swap(lambda area, sides, old, new: torch.tensor((old + new) * area / (new * sides), dtype=torch.float64)),
        "Right",
    ),
    ("19", "check_tokens", swap(lambda area, sides, old, new: area / sides), "subtracted too"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: 2 * area / sides), "two ranks"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (old + new) * area / (2 * new * sides)), "half of it"),
    (
        "19",
        "check_tokens",
        swap(lambda area, sides, old, new: 2 * (old + new) * area / (new * sides)),
        "twice too much",
    ),
    ("19", "check_tokens", swap(lambda area, sides, old, new: old * area / (new * sides)), "subtraction alone"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (old + new) * area / (old * sides)), "*new* adapter's"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (old + new) * area), "divide by what the path"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: new * sides / ((old + new) * area)), "upside down"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (old + new) / new), "d_out + d_in, not their product"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: (old + new) * area / sides), "divide by its rank, new"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: 7), "a merge takes"),
    ("19", "check_tokens", swap(lambda area, sides, old, new: "many"), "one number"),
    ("19", "check_tokens", lambda *sizes: None, "write your answer"),
    ("19", "check_tokens", raises, "over what the path takes a token"),
    ("19", "check_times", 32 * 64 / (31 * 8 + 64), "Right"),
    ("19", "check_times", 6.56, "Right"),
    ("19", "check_times", "6.6", "Right"),
    ("19", "check_times", 6.5, "Right"),
    ("19", "check_times", np.float32(6.5641), "Right"),
    ("19", "check_times", torch.tensor(6.5641), "Right"),
    ("19", "check_times", 8, "as if every adapter had rank 8"),
    ("19", "check_times", 0.152, "upside down"),
    ("19", "check_times", 6.4, "31 adapters have rank 8"),
    ("19", "check_times", 6.36, "32 slots"),
    ("19", "check_times", 2048, "divide by what"),
    ("19", "check_times", 312, "what do the slots take"),
    ("19", "check_times", 1, "zeros take memory"),
    ("19", "check_times", 3, "the sum of their own"),
    ("19", "check_times", "many", "one number"),
    ("19", "check_times", None, "write your answer"),
]


# Chapter 20


def missing(
    pick: Callable = lambda held, name, p: p.requires_grad and id(p) not in held, give=list, first=False, last=False
) -> Callable:
    """The names that `pick` picks, given what all groups hold, or the first, or the last."""

    def answer(model, optimizer):
        groups = optimizer.param_groups[: 1 if first else None][-1 if last else None :]
        held = {id(p) for group in groups for p in group["params"]}
        return give(n for n, p in model.named_parameters() if pick(held, n, p))

    return answer


def labelled(prompt: int = 0, end: int = 0, rest: int = -100, early: int = 1, whole: bool = False) -> Callable:
    """The labels, with the mask `prompt` tokens further, the end `end` tokens further, and another label behind it."""

    def answer(ids, start, token):
        last = ids.index(token, start) + end
        kept = [i if start + prompt <= place <= last else rest if place > last else -100 for place, i in enumerate(ids)]
        return kept if whole else kept[1:] if early else kept[:-1]

    return answer


FOUR = {
    "first": "trained in float16",
    "second": "an adapter does nothing",
    "third": "the end of an answer is not learnt",
    "fourth": "the base is not frozen",
}
ANSWERS += [
    ("20", "check_missing", missing(), "Right"),
    ("20", "check_missing", missing(give=set), "Right"),
    ("20", "check_missing", missing(give=tuple), "Right"),
    ("20", "check_missing", lambda m, o: None, "write your answer"),
    ("20", "check_missing", missing(lambda held, n, p: p.requires_grad), "these are all that train"),
    ("20", "check_missing", missing(lambda held, n, p: p.requires_grad and id(p) in held), "what the optimizer holds"),
    ("20", "check_missing", missing(lambda held, n, p: id(p) in held), "the frozen ones too"),
    ("20", "check_missing", missing(lambda held, n, p: id(p) not in held), "ask for requires_grad"),
    ("20", "check_missing", missing(lambda held, n, p: n not in ("0.B", "2.B")), "whether it holds them or not"),
    ("20", "check_missing", missing(first=True), "only the first group"),
    ("20", "check_missing", missing(last=True), "only the last group"),
    (
        "20",
        "check_missing",
        lambda m, o: [
            n
            for n, p in m.named_parameters()
            if p.requires_grad and not any(torch.equal(p, q) for g in o.param_groups for q in g["params"])
        ],
        "the same numbers",
    ),
    ("20", "check_missing", missing(lambda held, n, p: False), "nothing is missing, you say"),
    ("20", "check_missing", missing(lambda held, n, p: n == "1.A"), "that no group"),
    ("20", "check_missing", missing(give=lambda names: 2 * list(names)), "stands there twice"),
    ("20", "check_missing", lambda m, o: "0.A", "a list of names"),
    ("20", "check_missing", lambda m, o: [p for p in m.parameters() if p.requires_grad], "give the names"),
    (
        "20",
        "check_missing",
        lambda m, o: [n for n, p in m.named_parameters() if p not in o.param_groups[0]["params"]],
        "by `is` or by id",
    ),
    ("20", "check_missing", raises, "KeyError"),
    ("20", "check_labels", labelled(), "Right"),
    ("20", "check_labels", lambda *a: torch.tensor(labelled()(*a)), "Right"),
    ("20", "check_labels", lambda *a: np.array(labelled()(*a)), "Right"),
    ("20", "check_labels", lambda *a: None, "write your answer"),
    ("20", "check_labels", lambda *a: [-100, -100, -100, 4, 2, 2, -100], "shifted, then masked"),
    ("20", "check_labels", lambda *a: [-1, -1, 3, 4, 2, -1, -1], "another negative label"),
    ("20", "check_labels", labelled(end=-1), "never stops"),
    ("20", "check_labels", labelled(rest=2), "the padding is learnt too"),
    ("20", "check_labels", labelled(early=0), "not shifted"),
    ("20", "check_labels", labelled(whole=True), "n - 1 places"),
    ("20", "check_labels", labelled(prompt=1), "first token of the answer is left out"),
    ("20", "check_labels", labelled(prompt=-1), "one token too many"),
    ("20", "check_labels", labelled(prompt=-9), "the prompt is learnt too"),
    ("20", "check_labels", labelled(end=1), "padding is learnt too"),
    ("20", "check_labels", lambda *a: [0 if i == -100 else i for i in labelled()(*a)], "0 is the id of a token"),
    ("20", "check_labels", labelled(prompt=1, end=-1), "the end is not learnt"),
    ("20", "check_labels", labelled(prompt=1, rest=2), "padding is learnt too"),
    ("20", "check_labels", lambda ids, s, e: labelled()(ids, s, e)[:-1], "there are 7 labels"),
    (
        "20",
        "check_labels",
        lambda ids, s, e: [i if s <= at <= ids.index(e) else -100 for at, i in enumerate(ids)][1:],
        "a prompt may hold an end too",
    ),
    ("20", "check_labels", lambda *a: [None] * 7, "a list of numbers"),
    ("20", "check_labels", raises, "KeyError"),
    ("20", "check_runs", FOUR, "Right"),
    ("20", "check_runs", {key: name.upper() for key, name in FOUR.items()}, "Right"),
    ("20", "check_runs", dict.fromkeys(FOUR), "write your answer"),
    ("20", "check_runs", FOUR | {"third": None}, "the third run has no name yet"),
    ("20", "check_runs", FOUR | {"first": "it is broken"}, "not in the list above"),
    ("20", "check_runs", FOUR | {"first": "A or B holds NaN"}, "that is what is left"),
    ("20", "check_runs", FOUR | {"first": "the loss is not finite"}, "what is zero in 16 bits"),
    ("20", "check_runs", FOUR | {"second": "saving leaves the adapters out"}, "B A is zero there"),
    ("20", "check_runs", FOUR | {"third": "the loss counts the prompt"}, "no answer stops"),
    ("20", "check_runs", FOUR | {"third": "the loss counts nothing"}, "no answer stops"),
    ("20", "check_runs", FOUR | {"fourth": "an adapter does nothing"}, "stayed behind"),
    ("20", "check_runs", "float16", "give a dict"),
]


# Chapter 21


def stale(keep: Callable) -> Callable:
    """A function of (says, rows) from a condition on (verdict said, row or None)."""
    return lambda says, rows: [name for name, said in says.items() if keep(said, rows.get(name))]


def all_rows_gone_through(says, rows):
    return [name for name, row in rows.items() if says.get(name) != row["verdict"]]


def the_first_alone(says, rows):
    return stale(lambda said, row: row is None or row["verdict"] != said)(says, rows)[:1]


SETTLED = ("reproduced", "not reproduced", "holds", "does not hold")

ANSWERS += [
    ("21", "check_row", ("05.keep_together", "open"), "Right"),
    ("21", "check_row", ["`05.keep_together`", "Not settled"], "Right"),
    ("21", "check_row", ("05.keep_together", "settled"), "chance passes too"),
    ("21", "check_row", ("03.exact", "settled"), "in float64"),
    ("21", "check_row", ("13.hazard", "settled"), "into bfloat16"),
    ("21", "check_row", ("12.merges", "settled"), "not in NF4"),
    ("21", "check_row", ("05.as_good", "open"), "learnt over NF4"),
    ("21", "check_row", ("18.keeps", "settled"), "Merge or not?"),
    ("21", "check_row", "05.keep_together", "give two things"),
    ("21", "check_row", None, "write your answer"),
    ("21", "check_stale", stale(lambda said, row: row is None or row["verdict"] != said), "Right"),
    (
        "21",
        "check_stale",
        lambda says, rows: {n for n, v in says.items() if rows.get(n, {}).get("verdict") != v},
        "Right",
    ),
    ("21", "check_stale", lambda says, rows: [n for n in says if rows[n]["verdict"] != says[n]], "raised KeyError"),
    ("21", "check_stale", stale(lambda said, row: row and row["verdict"] != said), "09.safer is missing"),
    (
        "21",
        "check_stale",
        stale(lambda said, row: row is None or row["verdict"] == said),
        "these are the rows that agree",
    ),
    (
        "21",
        "check_stale",
        stale(lambda said, row: row and row["verdict"] in SETTLED and row["verdict"] != said),
        "open",
    ),
    (
        "21",
        "check_stale",
        stale(lambda said, row: row is None or (row["verdict"] != said and row["verdict"] != "reproduced")),
        "for the better",
    ),
    ("21", "check_stale", the_first_alone, "both rows"),
    ("21", "check_stale", all_rows_gone_through, "under no advice"),
    ("21", "check_stale", lambda says, rows: list(says), 'compare with rows[name]["verdict"]'),
    (
        "21",
        "check_stale",
        lambda says, rows: [n for n, v in says.items() if rows.get(n) != v],
        'compare with rows[name]["verdict"]',
    ),
    ("21", "check_gb", float("nan"), "one number"),
    ("21", "check_gb", 14, "2 bytes for a frozen weight"),
    ("21", "check_stale", lambda says, rows: ["09.safer"], "nothing has changed"),
    ("21", "check_stale", lambda says, rows: "13.placement", "as a list"),
    ("21", "check_stale", lambda says, rows: None, "write your answer"),
    ("21", "check_gb", 14.12, "Right"),
    ("21", "check_gb", "14.1", "Right"),
    ("21", "check_gb", 14.116462592, "Right"),
    ("21", "check_gb", 13.477, "frozen base alone"),
    ("21", "check_gb", 13.637, "gradients and AdamW"),
    ("21", "check_gb", 13.956, "one of four"),
    ("21", "check_gb", 13.797, "in float32: 16 bytes"),
    ("21", "check_gb", 107.8, "in float32; the base is frozen"),
    ("21", "check_gb", 53.9, "in bfloat16; the base is frozen"),
    ("21", "check_gb", 27.59, "2 bytes a weight"),
    ("21", "check_gb", 4.009, "a base in 4 bits"),
    ("21", "check_gb", 0.64, "adapters alone"),
    ("21", "check_gb", 13.147, "in GiB"),
    ("21", "check_gb", 14_116_462_592, "in bytes"),
    ("21", "check_gb", 80, "2 bytes for a frozen weight"),
    ("21", "check_gb", "a lot", "one number"),
    ("21", "check_gb", None, "write your answer"),
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


GIVEN = {  # what the text of an exercise says is there
    "04": {
        "quantile": NormalDist().inv_cdf,
        "listed": nf4.LEVELS,
        "lost": importlib.import_module("lora_from_scratch.book.checks.ch04").lost,
    }
}


def solutions() -> list[tuple[str, str, str]]:
    """(chapter, check, code) of every folded solution that is code, with the check that its exercise calls."""
    found = []
    for path in sorted(NOTEBOOKS.glob("[0-9A]*.py")):
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
    space |= GIVEN.get(chapter, {})
    stub = part[part.index("# %%\n") : part.index("# %% [markdown]")]
    exec(stub.rpartition("print(")[0], space)
    exec(code, space)
    name, argument = re.search(r"check\.(check_\w+)\((\w+)\)", stub).groups()
    assert getattr(space["check"], name)(space[argument]).startswith("Right")


def test_the_hint_on_keepdim_is_for_shapes_that_do_not_fit_alone():
    said = {who: check_of("16", "check_advantages")(who) for who in (raises, 3, lambda r: r - r.mean(1))}
    assert [("keepdim" in words) for words in said.values()] == [False, False, True]


def test_a_chapter_whose_exercises_are_checked_says_so_by_calling_its_own_checks():
    """The number in the import is the chapter's."""
    for path in NOTEBOOKS.glob("[0-9A]*.py"):
        for number in re.findall(r"checks import ch(\d\d)", path.read_text(encoding="utf-8")):
            assert number == path.name[:2]
