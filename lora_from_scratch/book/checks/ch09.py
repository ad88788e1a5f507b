"""The exercises of chapter 09: DoRA's forward, its merge, and its parameters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_from_scratch.book.checks import common
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, tensor


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree, also where the reader's is float32."""
    return common.same(first, second, tolerance=1e-5)


def state(trained: bool = True) -> tuple[Tensor, ...]:
    """x, W0, A, B, s, m, bias of a square layer in float64: after training, or at B = 0 with m the norms of W0."""
    draw = torch.Generator().manual_seed(7)
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    x, W0, A, B, bias, moved = random(5, 6), random(6, 6), random(2, 6), random(6, 2), random(6), random(6).abs() + 0.5
    norms = W0.norm(dim=1)
    return (x, W0, A, B, 1.5, norms * moved, bias) if trained else (x, W0, A, 0 * B, 1.5, norms, bias)


def weight(W0: Tensor, A: Tensor, B: Tensor, s: float, m: Tensor) -> Tensor:
    """DoRA's weight: each output row of W0 + s B A at the length m says."""
    V = W0 + s * B @ A
    return (m / V.norm(dim=1))[:, None] * V


def wrong_weights(W0: Tensor, A: Tensor, B: Tensor, s: float, m: Tensor) -> dict[str, Tensor]:
    """What the usual mistakes make of the weight."""
    BA, old = B @ A, W0.norm(dim=1)
    V = W0 + s * BA
    n, g = V.norm(dim=1), (m / V.norm(dim=1))[:, None]
    axis = "the norm runs along the wrong axis: one for each input, where each output needs one"
    return {
        "it is LoRA: nothing is normalized, and the magnitude is not used": V,
        axis: m[:, None] * V / V.norm(dim=0),
        axis + ", and the magnitude goes with it": m * V / V.norm(dim=0),
        "the factor multiplies columns instead of rows: it needs [:, None]": V * m / n,
        "you divide by the norm of W0, which is the norm at the start only": (m / old)[:, None] * V,
        "the magnitude is not used: the rows keep their lengths in W0": (old / n)[:, None] * V,
        "the rows are not divided by their norm: m multiplies the whole row": m[:, None] * V,
        "the magnitude multiplies columns instead of rows: it needs [:, None]": m * V / n[:, None],
        "the rescaling is on the path of the adapter alone, and the scaling s is missing": W0 + g * BA,
        "the norm is squared: take its root": g / n[:, None] * V,
        "the factor stands upside down: it is m over the norm": V / g,
        "that is the change alone: W0 is still to be added": g * V - W0,
        "the scaling s is missing in the norm alone": (m / (W0 + BA).norm(dim=1))[:, None] * V,
        "the magnitude is missing: each row has length 1": V / n[:, None],
        "only BA is normalized: the direction is that of the whole W0 + s BA": W0 + m[:, None] * F.normalize(BA, dim=1),
        "the update is added after the rescaling: it belongs inside": m[:, None] * F.normalize(W0, dim=1) + s * BA,
        "the rescaling is on the path of the adapter alone": W0 + g * s * BA,
        "the scaling s is missing: the update is s BA": weight(W0, A, B, 1.0, m),
        "the scaling is in front of the update only after the rescaling": g * W0 + s * BA,
        "the whole matrix has one norm; each output row has its own": m[:, None] * V / V.norm(),
        "A and B are exchanged: the update is s B A": weight(W0, B.T, A.T, s, m) if A.shape == B.T.shape else V,
    }


def check_forward(function) -> str:
    """The reader's forward of (x, W0, A, B, s, m, bias), after training."""
    arguments = state()
    x, *parts, bias = arguments
    found, problem = call(function, *state())  # its own tensors: it may change them in place
    if problem or found is None:
        return problem or STUB
    got, right = tensor(found), F.linear(x, weight(*parts), bias)
    if got is None or got.shape != right.shape:
        return not_yet(f"give back the output, a tensor of shape {tuple(right.shape)}")
    if same(got, right):
        return RIGHT
    g = right - bias
    V = F.linear(x, parts[0] + parts[3] * parts[2] @ parts[1], bias)
    factor = parts[4] / (parts[0] + parts[3] * parts[2] @ parts[1]).norm(dim=1)
    if same(got, factor * V):
        return not_yet("the bias is rescaled too: add it after the rescaling")
    if same(got, (parts[4] / parts[0].norm(dim=1)) * V):
        return not_yet("the norm is that of W0, which is the norm at the start only, and the bias is rescaled too")
    if same(got, factor * (x @ (parts[0] + parts[3] * (parts[2] @ parts[1]).T)) + bias):
        return not_yet("W0 has to be transposed: x @ W0.T")
    if same(got, g):
        return not_yet("the bias is missing")
    if same(got, right + bias):
        return not_yet("the bias is in it twice")
    for words, wrong in wrong_weights(*parts).items():
        if same(got, F.linear(x, wrong, bias)) or same(got, F.linear(x, wrong)):
            return not_yet(words)
    return not_yet(f"off by {(got - right).abs().max():.2g}, and it is none of the usual mistakes")


def check_merge(function) -> str:
    """The reader's merged weight of (W0, A, B, s, m): tried at B = 0 first, where wrong ones pass, then trained."""
    at_start, after = state(trained=False)[1:-1], state()[1:-1]
    got = []
    for arguments in (at_start, after):
        found, problem = call(function, *(t.clone() if isinstance(t, Tensor) else t for t in arguments))
        if problem or found is None:
            return problem or STUB
        got.append(tensor(found))
    if any(one is None or one.shape != after[0].shape for one in got):
        return not_yet(f"give back one weight, of shape {tuple(after[0].shape)}")
    if same(got[1], weight(*after)):
        return RIGHT
    passed = " (at B = 0, before training, it passes: that is the trap)" if same(got[0], weight(*at_start)) else ""
    for words, wrong in wrong_weights(*after).items():
        if same(got[1], wrong):
            return not_yet(words + passed)
    if same(got[1], weight(*after).T):
        return not_yet("it is transposed: a weight is (d_out, d_in)")
    return not_yet(f"off by {(got[1] - weight(*after)).abs().max():.2g}, and none of the usual mistakes{passed}")


def check_count(answer) -> str:
    """What DoRA adds to a layer of 4096 outputs and 1024 inputs at rank 8: 45,056."""
    got, lora = number(answer), 8 * (4096 + 1024)
    if got == lora + 4096:
        return RIGHT
    mistakes = {
        lora: "that is LoRA; DoRA has a magnitude besides",
        lora + 1024: "there is a magnitude for each output, and not for each input",
        lora + 4096 + 1024: "there is a magnitude for each output alone",
        lora + 1: "the magnitude is one number for each output, and not one for the layer",
        lora + 8: "the magnitude is one number for each output, and not one for each rank",
        lora + 8 * 4096: "the magnitude has no rank: one number for each output",
        4096: "that is the magnitude alone; A and B come on top",
        8 * 4096 + 4096: "A is missing: it has 8 numbers for each input",
        8 * 1024 + 4096: "B is missing: it has 8 numbers for each output",
        8 * 1024: "that is A alone",
        8 * 4096: "that is B alone",
        4096 * 1024: "that is the frozen weight",
    }
    return not_yet(mistakes.get(got, "count A, B and the magnitude"))
