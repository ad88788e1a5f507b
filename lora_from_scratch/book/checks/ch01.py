"""The exercises of chapter 01: the forward pass, where to multiply by s, and the first step."""

import torch
from torch import nn

from lora_from_scratch import LoRALinear
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number, same, tensor


def _layer(d_in: int, d_out: int, rank: int, alpha: float, seed: int) -> tuple[LoRALinear, torch.Tensor]:
    """A layer in float64 with B ≠ 0, and inputs (2, 3, d_in)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = LoRALinear(nn.Linear(d_in, d_out).double(), rank, alpha)
        nn.init.normal_(layer.B)
        return layer, torch.randn(2, 3, d_in, dtype=torch.float64)


def _of_shapes(problem: str) -> bool:
    """Whether what a reader's function raised speaks of shapes."""
    return any(word in problem for word in ("shape", "size", "mismatch", "same dimension"))


def check_forward(function) -> str:
    """The reader's forward of (x, base, A, B, alpha, rank), on a square layer, where a wrong transpose still fits."""
    layer, x = _layer(6, 6, rank=2, alpha=6, seed=5)
    layer.requires_grad_(False)  # so that NumPy takes A and B as they are
    found, problem = call(function, x, layer.base, layer.A, layer.B, layer.alpha, layer.rank)
    if _of_shapes(problem):
        return not_yet("the shapes do not fit: x has batch dimensions in front, so x @ A.T, not A @ x")
    if problem or found is None:
        return problem or STUB
    got = tensor(found)
    old, update = layer.base(x), layer(x) - layer.base(x)
    if got is None or got.shape != old.shape:
        return not_yet(f"give back the output, of shape {tuple(old.shape)}")
    A, B, W, s = layer.A, layer.B, layer.base.weight, layer.scaling
    if same(got, old + update):
        return RIGHT
    mistakes = {
        "alpha is not divided by the rank": old + layer.rank * update,
        "the scaling is upside down: alpha / rank, not rank / alpha": old + update / s / s,
        "alpha is divided by the root of the rank: that is rsLoRA": old + layer.rank**0.5 * update,
        "alpha is multiplied by the rank, and should be divided by it": old + layer.rank**2 * update,
        "the scaling is missing": old + update / s,
        "alpha is missing: the scaling is alpha / rank": old + update / layer.alpha,
        "the scaling stands twice": old + s * update,
        "the base's output is missing": update,
        "the base's output is scaled too": s * old + update,
        "the base's bias is missing": old - layer.bias + update,
        "A and B are exchanged, or not transposed: x @ A.T first, then @ B.T": old + s * (x @ B) @ A,
        "the base's weight is not transposed: base(x) does it": old - x @ (W.T - W) + update,
        "the update is subtracted": old - update,
    }
    for words, wrong in mistakes.items():
        if same(got, wrong):
            return not_yet(words)
    return not_yet("check the order of the products and the transposes")


def check_count(answer) -> str:
    """{"on the output": …, "in the middle": …}: multiplications by s for d_out 4096, rank 16 and 512 tokens."""
    right = {"on the output": 512 * 4096, "in the middle": 512 * 16}
    if not isinstance(answer, dict) or set(answer) != set(right):
        return not_yet('give both numbers: {"on the output": …, "in the middle": …}')
    if None in answer.values():
        return STUB
    got = {place: number(value) for place, value in answer.items()}
    if got == right:
        return "Right: 256 times fewer, as d_out / r is 256."
    if got == {"on the output": 4096, "in the middle": 16}:
        return not_yet("that is for one token; there are 512")
    if got == {place: right[other] for place, other in zip(right, reversed(right), strict=True)}:
        return not_yet("the two are exchanged")
    wrong = " and ".join(place for place in right if got[place] != right[place])
    return not_yet(f"{wrong}: only the multiplications by s count, one for each number that is scaled")


def check_first_update(function) -> str:
    """The reader's ΔW of (lr, s, G, A) after one step of gradient descent from B = 0."""
    layer, x = _layer(7, 5, rank=3, alpha=6, seed=6)
    x = x.flatten(0, 1)
    nn.init.zeros_(layer.B)
    y = layer(x)
    y.square().sum().backward()
    G, A = (2 * y).T.detach() @ x, layer.A.detach().clone()  # G: the gradient that a full weight would get
    torch.optim.SGD(layer.parameters(), lr=0.01).step()
    found, problem = call(function, 0.01, layer.scaling, G, A)
    if _of_shapes(problem):
        return not_yet("the shapes do not fit: ΔW is (d_out, d_in), the new B (d_out, r) times A")
    if problem or found is None:
        return problem or STUB
    got, right, s = tensor(found), layer.delta_weight().detach(), layer.scaling
    if got is None or got.shape != right.shape:
        return not_yet(f"ΔW is (d_out, d_in), {tuple(right.shape)}")
    if same(got, right):
        return RIGHT
    mistakes = {
        "one scaling is missing: s stands in the gradient of B, and again in ΔW": right / s,
        "both scalings are missing: s stands in the gradient of B, and again in ΔW": right / s**2,
        "the sign: a step goes against the gradient": -right,
        "the sign, and one scaling: s stands in the gradient of B, and again in ΔW": -right / s,
        "the sign, and both scalings": -right / s**2,
        "the learning rate is missing": right / 0.01,
        "the sign, and the learning rate": -right / 0.01,
        "that is full fine-tuning's step; here A stands in between": -0.01 * G,
        "that is full fine-tuning's step, scaled; here A stands in between": -0.01 * s * G,
    }
    for words, wrong in mistakes.items():
        if same(got, wrong):
            return not_yet(words)
    return not_yet("ΔW is s · B A with the new B")
