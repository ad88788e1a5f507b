"""The exercises of chapter 08: parameter groups by hand, and an alpha for a trainer without groups."""

import math

import torch
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

LR, RATIO, DECAY = 1e-3, 16, 0.1


class _Model(nn.Module):
    """DoRA on one layer, a trained norm and a trained bias, and names that hold a B without being one."""

    def __init__(self) -> None:
        super().__init__()
        self.Body, self.norm, self.B_side = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.B_side(self.norm(self.Body(x)))


def model() -> nn.Module:
    """A model with adapters on `Body`, and `norm` and `B_side` trained as they are."""
    with torch.random.fork_rng():
        made = add_adapters(_Model(), AdapterConfig(rank=2, alpha=2, dora=True, targets=["Body"]))
    made.norm.requires_grad_(True)
    made.B_side.requires_grad_(True)
    return made


def members(params) -> list:
    """The parameters of a group: torch takes a single one, too."""
    return [params] if isinstance(params, torch.Tensor) else list(params)


def check_groups(function) -> str:
    """The reader's groups for (model, lr, ratio, weight_decay): every adapter's B at lr · ratio, the rest at lr."""
    trained = model()
    learns = {name for name, p in trained.named_parameters() if p.requires_grad}  # before the reader's function runs
    groups, problem = call(function, trained, LR, RATIO, DECAY)
    if problem or groups is None:
        return problem or STUB
    try:
        told = [(id(p), number(g["lr"]), g.get("weight_decay")) for g in groups for p in members(g["params"])]
        if any(lr is None for _, lr, _ in told):
            return not_yet("a group's lr is a number")
    except Exception:  # whatever it is, an optimizer cannot read it either
        return not_yet('give a list of groups, each {"params": a list, "lr": …, "weight_decay": …}')
    rate = {key: (lr, decay) for key, lr, decay in told}
    rates = {name: rate.get(id(p), (None, None)) for name, p in trained.named_parameters()}
    for name, p in trained.named_parameters():
        if (name in learns) != (id(p) in rate):
            return not_yet(f"{name} is {'missing' if name in learns else 'frozen, and in a group'}")
    if len(told) != len(rate):
        return not_yet("a parameter is in two groups")
    fast = {name for name, (lr, _) in rates.items() if lr is not None and math.isclose(lr, LR * RATIO)}
    wanted = {name for name in rates if name.endswith(".B")}
    if fast - wanted and all(trained.get_parameter(name).dim() == 1 for name in fast - wanted) and wanted <= fast:
        return not_yet("one-dimensional parameters are fast too, as in the authors' code; here B alone is")
    if fast - wanted:
        return not_yet(f"{min(fast - wanted)} is fast, and is no adapter's B: ask for a name that *ends* in .B")
    for name, (lr, decay) in rates.items():
        right = LR * (RATIO if name in wanted else 1)
        if lr is not None and not math.isclose(lr, right):
            return not_yet(f"{name} learns at {lr:g}, and should at {right:g}")
        if lr is not None and number(decay) != DECAY:
            return not_yet(f"{name} has a weight decay of {decay}; the one that was asked for belongs in every group")
    return RIGHT


def check_alpha(answer) -> str:
    """The alpha that does what alpha 8 does with LoRA+ at ratio 4, under Adam without weight decay: 32."""
    alpha = number(answer)
    if alpha is None or not 0 < alpha < math.inf:
        return not_yet("give a positive number")
    if math.isclose(alpha, 32, rel_tol=1e-9):
        return "Right: the ratio times the alpha, at the same learning rate."
    mistakes = {
        2: "you divided by the ratio",
        16: "you took the ratio's root",
        8: "the ratio has to go somewhere",
        4: "that is the ratio; it multiplies the old alpha",
        128: "you took the square of the ratio: that is what plain gradient descent would need, and Adam does not",
    }
    return not_yet(mistakes.get(alpha, "go through the three steps of the proof"))
