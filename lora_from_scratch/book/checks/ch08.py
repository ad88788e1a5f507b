"""The exercises of chapter 08: groups by hand, an alpha for a trainer without them, what breaks the proof, sizes."""

import math

import torch
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number

LR, RATIO, DECAY = 1e-3, 16, 0.1


class _Model(nn.Module):
    """DoRA on one layer, a trained norm and a trained bias, and names that hold a B, or a .B, without being one."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"Body": nn.Linear(6, 8), "norm": nn.LayerNorm(8), "B_side": nn.Linear(8, 4)})

    def forward(self, x):
        return self.block["B_side"](self.block["norm"](self.block["Body"](x)))


def model() -> nn.Module:
    """A model with adapters on `block.Body`, and `block.norm` and `block.B_side` trained as they are."""
    with torch.random.fork_rng():
        made = add_adapters(_Model(), AdapterConfig(rank=2, alpha=2, dora=True, targets=["Body"]))
    made.block["norm"].requires_grad_(True)
    made.block["B_side"].requires_grad_(True)
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
    if not fast & wanted and any(name.endswith(".A") for name in fast):
        return not_yet("A is fast, and B is the one to be: is no adapter's B in the group at lr · ratio?")
    if "block.B_side.weight" in fast:
        return not_yet("block.B_side.weight is fast, and is no adapter's B: ask for a name that *ends* in .B")
    if any(lr is not None and math.isclose(lr, LR / RATIO) for lr, _ in rates.values()):
        return not_yet("a rate is lr / ratio: A learns at lr, and B at lr · ratio")
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
        2: "you divided by the ratio; B' = B / λ is the smaller one, so its alpha is the larger one",
        12: "you added; alpha' B' = alpha B asks for a factor",
        16: "you took the ratio's root",
        8: "the ratio has to go somewhere",
        4: "that is the ratio; it multiplies the old alpha",
        128: "you took the square of the ratio: that is what plain gradient descent would need, and Adam does not",
    }
    return not_yet(mistakes.get(alpha, "go through the three steps of the proof"))


KEEPS = {"bias": True, "falling": True, "clipping": False, "epsilon": False}
WHY = {
    "bias": "a bias learns at lr in both, and has the same gradient in both",
    "falling": "both rates of LoRA+ fall by the same factor, and so does the one of LoRA",
    "clipping": "the gradient of B' is λ times as large, so what is the norm that is clipped?",
    "epsilon": "ε is added to the size of a gradient, and B' has a larger gradient than B",
}


def check_breaks(answer) -> str:
    """Which of four things keep LoRA+ and LoRA at a larger alpha the same: a trained bias and a falling rate."""
    if not isinstance(answer, dict) or set(answer) != set(KEEPS):
        return not_yet(f"give a dict with the keys {', '.join(KEEPS)}, each True or False")
    if all(value is None for value in answer.values()):
        return STUB
    given = {name: _yes_or_no(value) for name, value in answer.items()}
    if None in given.values():
        return not_yet(f"{next(n for n, v in given.items() if v is None)} is True or False")
    wrong = [name for name in KEEPS if given[name] is not KEEPS[name]]
    if len(wrong) == len(KEEPS):
        return not_yet("all four are the wrong way round: True where the two stay the same")
    return not_yet(f"{wrong[0]}: {WHY[wrong[0]]}") if wrong else RIGHT


def _yes_or_no(value: object) -> bool | None:
    """A truth value from Python's, NumPy's, torch's, or 0 and 1."""
    try:
        value = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # more than one entry
        return None
    return bool(value) if isinstance(value, (bool, int)) and value in (0, 1) else None


def check_estimates(answer) -> str:
    """At width 4096 and rank 16: the part of B on A's first features, 1/16, and the ratio of equal parts, 256."""
    try:
        values = [number(v) for v in answer]
    except TypeError:
        values = []
    if len(values) != 2 or not all(v is not None and 0 < v < math.inf for v in values):
        return not_yet("give two positive numbers: the part, and the ratio")
    part, ratio = values
    if math.isclose(part, 256, rel_tol=1e-6) and math.isclose(ratio, 1 / 16, rel_tol=1e-6):
        return not_yet("the other way round: first the part, then the ratio")
    if (part, ratio) == (1, 16):
        return STUB
    parts = {
        1 / 256: "you forgot the root: ηT is 1/√(rn), and the part r ηT",
        16: "that is √(n/r); the part is the small one",
        1 / 4: "that is 1/√r; where is the width?",
        1 / 64: "that is 1/√n; r of them are added, at ηT = 1/√(rn)",
        1 / 4096: "that is 1/n, A's rate with a ratio",
        4: "that is √r",
        1: "one is the other part; at one rate this one is smaller",
    }
    ratios = {
        16: "that is √(n/r), or the rank, or the paper's default; by the estimate it is larger",
        4096: "that is n; the output sums over r, so B needs less",
        1 / 256: "that is r/n: it is B that has to be faster",
        64: "that is √n; at equal parts ηT is 1/n, and r λ ηT is 1",
        65536: "you multiplied by r; the output sums over r, so B needs less",
        128: "that is for the width and the rank of the text",
    }
    for value, wanted, mistakes, name in ((part, 1 / 16, parts, "the part"), (ratio, 256, ratios, "the ratio")):
        if not math.isclose(value, wanted, rel_tol=0.05 if value is part else 0.01):  # 0.0625, 0.063 or 0.06
            near = (words for wrong, words in mistakes.items() if math.isclose(value, wrong, rel_tol=0.01))
            return not_yet(f"{name}: {next(near, 'go through the estimate, with n = 4096 and r = 16')}")
    return "Right: the wider the layer, the less B does with one rate."
