"""What parameters, flags and optimizers tell without a step: what trains, what is held, what a file would keep."""

from collections.abc import Sequence

import torch
from torch import nn

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.layers import Adapter, beside_adapters, peft_configs
from lora_from_scratch.clinic.noise import looks_drawn

FRESH_HEADS = ("score", "classifier", "qa_outputs")  # names of heads that no pretraining trains


def of_flags(model: nn.Module, adapters: list[Adapter], training: bool) -> list[Finding]:
    """A base that trains, nothing that does, and trainable numbers in float16."""
    trained, found = [p for p in model.parameters() if p.requires_grad], []
    own = {id(p) for a in adapters for p in a.own}
    weights = {id(p) for p in trained if p.dim() > 1} - own
    if open_ := [a for a in adapters if any(id(p) in weights for p in a.base.parameters())]:
        base = sum(p.numel() for p in trained if id(p) not in own)
        numbers = {"layers": len(open_), "of": len(adapters), "numbers of the base that train": base}
        numbers["numbers of the adapters"] = sum(p.numel() for p in trained) - base
        mend = "model.requires_grad_(False), then the adapters; and a new optimizer"
        found.append(Finding("the base is not frozen", numbers, mend))
    if training and not trained:
        mend = (
            "A.requires_grad_(True), and B; in PEFT, load with is_trainable=True"
            if adapters
            else "add adapters, or model.requires_grad_(True)"
        )
        numbers = {"trainable": 0, "tensors": sum(1 for _ in model.parameters())}
        found.append(Finding("nothing is trainable", numbers, mend))
    if half := [p for p in trained if p.dtype == torch.float16]:
        mend = "keep what is trained in float32, over a float16 base: parameter.data = parameter.data.float()"
        numbers = {"numbers in float16": sum(p.numel() for p in half), "Adam's eps of 1e-8 there": 0.0}
        found.append(Finding("trained in float16", numbers, mend))
    return found


def of_optimizers(model: nn.Module, optimizers: Sequence) -> list[Finding]:
    """Trainable parameters that no optimizer holds."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    missing = [p for p in trained if id(p) not in held]
    if not optimizers or not missing:
        return []
    known = {id(p) for p in trained}
    numbers = {
        "trainable tensors not in it": len(missing),
        "of": len(trained),
        "that it holds in vain": len(held - known),
    }
    mend = "build the optimizer last: after the adapters, and after moving or loading the model"
    return [Finding("the optimizer misses trainable parameters", numbers, mend)]


def of_places(model: nn.Module, adapters: list[Adapter]) -> list[Finding]:
    """Adapters on adapters, and names that PEFT was given and did not find."""
    found, adapted = [], {id(a.layer) for a in adapters}
    twice = [a for a in adapters if any(id(m) in adapted for m in a.base.modules())]
    if twice:
        mend = f"merge or unload the first ones before adding more ({some(sorted({a.name for a in twice}), 1)})"
        found.append(Finding("adapters on adapters", {"layers": len(twice)}, mend))
    names = [name for name, _ in model.named_modules()]
    for config in peft_configs(model).values():
        asked = getattr(config, "target_modules", None)
        asked = [] if asked is None or isinstance(asked, str) else sorted(asked)
        lost = [name for name in asked if not any(n == name or n.endswith(f".{name}") for n in names)]
        if lost:
            there = sorted({a.name.rpartition(".")[2] for a in adapters})
            mend = f"no layer is called {some(lost)}: print(model) shows the names; adapted are {some(there, 8)}"
            found.append(Finding("target names not found", {"names": len(lost), "of": len(asked)}, mend))
    return found


def of_saving(model: nn.Module, adapters: list[Adapter], training: bool) -> list[Finding]:
    """What would be lost on the way to disk: adapters that the state dict hides, and what trains beside them."""
    found = _hidden(model, adapters)
    if any(f for f in of_flags(model, adapters, False) if f.name == "the base is not frozen"):
        return found  # all of it trains beside the adapters, and is told already
    beside, tables = beside_adapters(model, adapters) if adapters else {}, set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            tables.add(id(module.weight))
    groups = {
        "an embedding trains and is not saved": [n for n, p in beside.items() if id(p) in tables],
        "trained beside the adapters and not saved": [n for n, p in beside.items() if id(p) not in tables],
    }
    for name, lost in groups.items():
        if lost:
            numbers = {"tensors": len(lost), "numbers": sum(beside[n].numel() for n in lost)}
            mend = f"an adapter's file holds A and B alone: keep {some(lost)} too (modules_to_save in PEFT)"
            found.append(Finding(name, numbers, mend))
    heads = {n: m for n, m in model.named_modules() if n.rpartition(".")[2] in FRESH_HEADS}
    for name, head in heads.items():
        tensors = list(head.parameters()) if training and adapters else []
        if (
            tensors
            and not any(p.requires_grad for p in tensors)
            and looks_drawn([p for p in tensors if p.dim() == 2], fewest=64)
        ):
            mend = f"{name}.requires_grad_(True), and save it beside the adapters (modules_to_save in PEFT)"
            numbers = {"numbers of the head, frozen": sum(p.numel() for p in tensors)}
            found.append(Finding("a new head is frozen", numbers, mend))
    return found


def _hidden(model: nn.Module, adapters: list[Adapter]) -> list[Finding]:
    """Adapters that model.state_dict() leaves out, as it does where somebody has put a filter of their own there."""
    if not adapters or not any("state_dict" in vars(m) for m in model.modules()):
        return []
    kept = {t.data_ptr() for t in model.state_dict().values() if isinstance(t, torch.Tensor)}
    lost = [a for a in adapters if a.A.data_ptr() not in kept or a.B.data_ptr() not in kept]
    mend = "take the filter off model.state_dict (del model.state_dict), and save by save_adapter or save_pretrained"
    numbers = {"adapters left out": len(lost), "of": len(adapters)}
    return [Finding("saving leaves the adapters out", numbers, mend)] if lost else []
