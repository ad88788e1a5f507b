"""What is lost on the way to disk or back, which no model tells alone: its tensors are held against those of the file.

What a run saves stands in its script. So without `saved`, the tensors of the file, nothing is said of what trains
beside adapters, nor of a B of zeros at use: a fresh adapter's is zero too. PEFT is the exception. Its save_pretrained
keeps adapters and what it was told to keep, and its settings tell whether an adapter came from a file.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.layers import Adapter, beside_adapters, peft_configs
from lora_from_scratch.clinic.noise import looks_drawn
from lora_from_scratch.clinic.parameters import open_layers

FRESH_HEADS = ("score", "classifier", "qa_outputs")  # names of heads that no pretraining trains
KINDS_OF_B = (".B", ".lora_B.weight")  # how a file calls it: as PEFT keeps it, and as a state dict has it
Saved = Mapping[str, Tensor]


def of_saving(model: nn.Module, adapters: list[Adapter], training: bool, saved: Saved | None) -> list[Finding]:
    """What would be lost: adapters that the state dict hides, what trains beside them, a head that is frozen as drawn.

    `saved` is what the file holds or will hold, {name: tensor}; None where it is not known.
    """
    found = _hidden(model, adapters)
    if not adapters or open_layers(model, adapters):
        return found  # all of it trains beside the adapters, and is told already
    kept, known = {plain(name) for name in saved or ()}, bool(peft_configs(model)) or saved is not None
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    beside = beside_adapters(model, adapters) if known else {}
    beside = {name: p for name, p in beside.items() if plain(name) not in kept}
    groups = {
        "an embedding trains and is not saved": [n for n, p in beside.items() if id(p) in tables],
        "trained beside the adapters and not saved": [n for n, p in beside.items() if id(p) not in tables],
    }
    for name, lost in groups.items():
        if lost:
            numbers = {"tensors": len(lost), "numbers": sum(beside[n].numel() for n in lost)}
            mend = f"an adapter's file holds A and B alone: keep {some(lost)} too (modules_to_save in PEFT)"
            found.append(Finding(name, numbers, mend))
    return found + (_frozen_heads(model, kept) if training and known else [])


def _frozen_heads(model: nn.Module, kept: set[str]) -> list[Finding]:
    """A new head that is frozen as it was drawn: adapters learn to suit it, and at loading another is drawn."""
    found = []
    for name, head in model.named_modules():
        tensors = dict(head.named_parameters()) if name.rpartition(".")[2] in FRESH_HEADS else {}
        if not tensors or any(p.requires_grad for p in tensors.values()):
            continue
        if all(plain(f"{name}.{part}") in kept for part in tensors):
            continue
        if looks_drawn([p for p in tensors.values() if p.dim() == 2], fewest=64):
            mend = f"{name}.requires_grad_(True), and save it beside the adapters (modules_to_save in PEFT)"
            numbers = {"numbers of the head, frozen": sum(p.numel() for p in tensors.values())}
            found.append(Finding("a new head is frozen", numbers, mend))
    return found


def arrived(model: nn.Module, zero: list[Adapter], active: list[Adapter], saved: Saved | None) -> list[Adapter]:
    """Those of the adapters with B A = 0 for which the file holds something else, as far as a file is known."""
    if saved is None:
        loaded = [getattr(config, "inference_mode", False) for config in peft_configs(model).values()]
        return zero if len(zero) == len(active) and any(loaded) else []
    names = [name for name in saved if plain(name).endswith(KINDS_OF_B)] or list(saved)
    full = [f".{plain(name)}" for name in names if saved[name].any()]
    ends = [(a, tuple(f".{plain(a.name)}{kind}" for kind in KINDS_OF_B)) for a in zero]
    lost = [a for a, end in ends if any(name.endswith(end) for name in full)]
    return zero if full and len(zero) == len(active) else lost  # names that fit nothing fit no end either


def plain(name: str) -> str:
    """A tensor's name without what PEFT puts into it: base_model.model, an adapter's name, modules_to_save."""
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.", ".").replace(".original_module.", ".")
    return name.replace(".default.", ".").removesuffix(".default")


def _hidden(model: nn.Module, adapters: list[Adapter]) -> list[Finding]:
    """Adapters that model.state_dict() leaves out, as it does where somebody has put a filter of their own there."""
    if not adapters or not any("state_dict" in vars(m) for m in model.modules()):
        return []
    kept = {t.data_ptr() for t in model.state_dict().values() if isinstance(t, torch.Tensor)}
    lost = [a for a in adapters if a.A.data_ptr() not in kept or a.B.data_ptr() not in kept]
    mend = "take the filter off model.state_dict (del model.state_dict), and save by save_adapter or save_pretrained"
    numbers = {"adapters left out": len(lost), "of": len(adapters)}
    return [Finding("saving leaves the adapters out", numbers, mend)] if lost else []
