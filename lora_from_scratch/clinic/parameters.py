"""What parameters, flags and optimizers tell without a pass: what trains, what is held, at what rate."""

from collections.abc import Sequence

import torch
from torch import nn

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.layers import Adapter, peft_configs


def of_flags(model: nn.Module, adapters: list[Adapter], training: bool) -> list[Finding]:
    """A base that trains, nothing that does, and adapters that are switched off while they train."""
    trained, found = [p for p in model.parameters() if p.requires_grad], []
    own = {id(p) for a in adapters for p in a.own}
    if open_ := open_layers(model, adapters):
        base = sum(p.numel() for p in trained if id(p) not in own)
        numbers = {"layers": len(open_), "of": len(adapters), "numbers of the base that train": base}
        numbers["numbers of the adapters"] = sum(p.numel() for p in trained) - base
        mend = "model.requires_grad_(False), then the adapters; and a new optimizer"
        found.append(Finding("the base is not frozen", numbers, mend))
    if training and not trained:
        mend = "A.requires_grad_(True), and B; in PEFT, load with is_trainable=True"
        if not adapters:
            mend = "add adapters, or model.requires_grad_(True)"
        elif any(getattr(a.layer, "disable_adapters", False) for a in adapters):
            mend = "the adapters are switched off, which froze them: model.enable_adapter_layers()"
        numbers = {"trainable": 0, "tensors": sum(1 for _ in model.parameters())}
        found.append(Finding("nothing is trainable", numbers, mend))
    if training and (merged := [a for a in adapters if a.merged and a.trained]):
        mend = "unmerge_adapter() before training: a merged layer's forward goes past A and B"
        numbers = {"adapters merged": len(merged), "of": len(adapters)}
        found.append(Finding("merged in place, and trained", numbers, mend))
    if training and (still := [a for a in adapters if a.trained and a.active and not a.scaling]):
        mend = "alpha above 0: s = 0 multiplies the update, and every gradient of A and B, by nothing"
        found.append(Finding("the scaling is zero", {"layers": len(still), "of": len(adapters)}, mend))
    return found


def open_layers(model: nn.Module, adapters: list[Adapter]) -> list[Adapter]:
    """The adapters under which a weight of the base trains."""
    own = {id(p) for a in adapters for p in a.own}
    weights = {id(p) for p in model.parameters() if p.requires_grad and p.dim() > 1} - own
    return [a for a in adapters if any(id(p) in weights for p in a.base.parameters())]


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


def of_float16(model: nn.Module, optimizers: Sequence) -> list[Finding]:
    """Numbers in float16 that torch's Adam trains, where its eps is zero in float16, so that 0 / (√0 + eps) is 0 / 0.

    Of Adam and AdamW alone: SGD divides by nothing. A fused Adam computes in float32, and is left alone.
    """
    trained, half, eps = {id(p) for p in model.parameters() if p.requires_grad}, [], 0.0
    for optimizer in optimizers:
        for group in optimizer.param_groups if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) else ():
            if not group.get("fused") and not torch.tensor(group["eps"], dtype=torch.float16):
                found = [p for p in group["params"] if p.dtype == torch.float16 and id(p) in trained]
                half, eps = half + found, max(eps, float(group["eps"]) if found else 0.0)
    if not half:
        return []
    mend = "keep what is trained in float32, over a float16 base: parameter.data = parameter.data.float()"
    numbers = {"numbers in float16": sum(p.numel() for p in half), f"Adam's eps of {eps:g} there": 0.0}
    return [Finding("trained in float16", numbers, mend)]


def of_rates(adapters: list[Adapter], optimizers: Sequence) -> list[Finding]:
    """B at zero after two steps or more with gradients, in a group of an Adam whose rate is zero and is not moved.

    A scheduler's warm-up may stand at zero for a while: where it keeps a rate to go to (`initial_lr`), nothing is said.
    """
    B, still = {id(a.B): a.B for a in adapters if a.active}, 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if float(group.get("lr", 1.0)) or float(group.get("initial_lr", 0.0)):
                continue
            states = [optimizer.state.get(p, {}) for p in group["params"] if id(p) in B and not p.any()]
            tried = [s for s in states if int(s.get("step", 0)) > 1 and "exp_avg" in s and s["exp_avg"].any()]
            still += len(tried)
    mend = 'give the group of B a rate above 0: print([group["lr"] for group in optimizer.param_groups])'
    return [Finding("the rate is zero", {"B with gradients and no step": still, "rate": 0.0}, mend)] if still else []


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
