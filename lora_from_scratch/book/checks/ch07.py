"""The exercises of chapter 07: a scaling that keeps the first gradient, and an alpha for another scaling."""

import math

import numpy as np
import torch
from torch import nn

from lora_from_scratch import LoRALinear, lora_scaling
from lora_from_scratch.book.checks.common import STUB, call, not_yet, number


def slope_of(scaling, ranks: tuple[int, ...] = (1, 4, 16, 64)) -> float:
    """The exponent of the first gradient of B over the rank, under a scaling of (alpha, rank)."""
    norms = []
    for rank in ranks:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            layer = LoRALinear(nn.Linear(256, 64), rank, 8, scaling=scaling)
            layer(torch.randn(512, 256)).square().sum().backward()
            norms.append(layer.B.grad.norm().item())
    return float(np.polyfit(np.log(ranks), np.log(norms), 1)[0])


def check_scaling(function) -> str:
    """The reader's function of (alpha, rank): alpha / √rank."""
    got = {}
    for alpha, rank in ((8, 1), (3, 1), (8, 4), (8, 8), (8, 16), (3, 16), (8, 64)):
        found, problem = call(function, alpha, rank)
        if "must be Tensor" in problem:
            return not_yet("the rank is a plain number, and torch's functions want a tensor; math.sqrt takes it")
        if problem or found is None:
            return problem or STUB
        value = number(found)
        if value is None or not 1e-9 < value < 1e9:
            shown = " ".join(repr(found).split())[:40]
            return not_yet(f"at alpha {alpha} and rank {rank} it gives {shown}; a scaling is a positive number")
        got[alpha, rank] = value
    close = lambda rule: all(math.isclose(value, rule(*at), rel_tol=1e-6) for at, value in got.items())  # noqa: E731
    if close(lambda a, r: a / math.sqrt(r)):
        return f"Right: the gradient goes like the rank to the {slope_of(lambda a, r: got[a, r]):+.2f}."
    mistakes = [
        (lambda a, r: a / r, "the gradient still shrinks like 1/√r, as you divide by r"),
        (lambda a, r: a, "the gradient grows like √r, as you do not divide"),
        (lambda a, r: math.sqrt(a / r), "the root belongs to the rank alone, and not to alpha"),
        (lambda a, r: math.sqrt(a) / r, "the root belongs to the rank, and not to alpha"),
        (lambda a, r: a * math.sqrt(r), "you multiply by the root: the gradient grows like r"),
        (lambda a, r: a * r, "you multiply by the rank, and the gradient grows with it as it is"),
        (lambda a, r: a / r**2, "you divide by the square of the rank; which power undoes √r?"),
        (lambda a, r: 1 / math.sqrt(r), "alpha is missing: at rank 1 the scaling is alpha itself"),
        (lambda a, r: 1 / r, "alpha is missing, and 1/r is not what undoes √r"),
        (lambda a, r: a**2 / math.sqrt(r), "alpha comes in once, without a square"),
    ]
    for rule, words in mistakes:
        if close(rule):
            return not_yet(words)
    for alpha in (8, 3):
        if abs(got[alpha, 1] - alpha) > 1e-9:
            return not_yet(f"at rank 1 and alpha {alpha} it is {got[alpha, 1]:g}, and should be alpha itself")
    slope, wrong = slope_of(lambda a, r: got[a, r]), {r: got[8, r] * math.sqrt(r) / 8 for r in (4, 8, 16, 64)}
    worst = max(wrong, key=lambda r: abs(math.log(wrong[r])))
    off = f"at rank {worst} the gradient is {wrong[worst]:.3g} times as large as at rank 1"
    return not_yet(f"{off}, and over all it goes like the rank to the {slope:+.2f}; which power of the rank undoes √r?")


def check_alpha(answer) -> str:
    """The alpha of LoRA at rank 16 with the scaling of rsLoRA at rank 64 and alpha 16: 32."""
    alpha = number(answer)
    if alpha is None or not 0 < alpha < math.inf:
        return not_yet("give a positive number")
    if math.isclose(alpha, 32, rel_tol=1e-9):
        return "Right: the scaling is 2 in both."
    mistakes = {
        16: "that is the colleague's alpha; it would come out half as large",
        2: "that is the scaling itself, 16 / √64; your software will divide your alpha by 16",
        128: "that is the alpha for plain LoRA at rank 64; you train at rank 16",
        8: "that is for rsLoRA at rank 16; plain LoRA divides by 16, not by √16",
        64: "that is the rank, or alpha times √16; what is the scaling, and what makes it with alpha / 16?",
        4: "that keeps alpha / r; the colleague divided by √64",
        256: "you multiplied by r where √r was meant",
    }
    hint = f"the scaling comes out as {lora_scaling(alpha, 16):g}, and should be {16 / math.sqrt(64):g}"
    return not_yet(mistakes.get(alpha, hint))


def check_factors(answer) -> str:
    """By how much the first change of the outputs shrinks from rank 4 to 64 under alpha / r: 64 and 4."""
    values = [number(v) for v in answer] if hasattr(answer, "__len__") and len(answer) == 2 else [None]
    if None in values or not all(0 < v < math.inf for v in values):
        return not_yet("give two positive numbers: for gradient descent, and for Adam")
    if all(math.isclose(v, 1, rel_tol=1e-9) for v in values):
        return STUB
    mistakes = {
        (64, 4): "",
        (4, 64): "the other way round: which of the two divides the gradient by its size?",
        (1 / 64, 1 / 4): "by which factor does it shrink? turn both over",
        (16, 1): "that is for terms that all agree; a sum of unrelated ones grows like √r",
        (16, 4): "your first number is for terms that all agree, s² r; a sum of unrelated ones grows like √r",
        (256, 16): "that is the scaling alone; the sum of r terms grows as well",
        (4, 4): "gradient descent carries s twice: once in the gradient and once in the layer",
        (16, 16): "Adam carries one s of the two, so the factors differ; start from s alone",
        (64, 64): "Adam divides the gradient by its size, so one s is lost",
        (1024, 64): "the sum grows with the rank; you let it shrink",
    }
    for pair, words in mistakes.items():
        if all(math.isclose(v, wanted, rel_tol=1e-6) for v, wanted in zip(values, pair, strict=True)):
            return not_yet(words) if words else "Right: plain gradient descent makes you regret alpha / r most."
    for i, (wanted, name) in enumerate(zip((64, 4), ("gradient descent", "Adam"), strict=True)):
        if math.isclose(values[i], wanted, rel_tol=1e-6):
            return not_yet(f"{name} is right; look at the other one")
    return not_yet("how often does each carry s, which shrinks 16 times, and how does a sum of unrelated terms grow?")
