"""What three readers make of an adapter's folder, in words: this project, PEFT and vLLM.

    python -m lora_from_scratch.folder adapter/          (or: make check FILE=adapter/)

A folder that one of them loads another may refuse, or load and compute something else from, without a word. The base
model is not needed: the tensors' names and shapes say what its layers are. So what is wrong with the base (another
model, a layer that has no tensor here) is not seen.

What is said of PEFT holds for 0.21 (tests/parity/test_folder_parity.py loads such folders). Of vLLM it is what its
source says (vllm/lora/peft_helper.py and lora_model.py, in 2026): it reads r, lora_alpha, target_modules, use_rslora,
use_dora and modules_to_save, and nothing else; one scaling stands for all layers. No vLLM was run.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_from_scratch.adapter_files import CONFIG, TENSORS, read_tensors
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lora import LoRALinear, lora_scaling
from lora_from_scratch.peft_format import PARTS, PREFIX, load_adapter
from lora_from_scratch.rslora import rslora_scaling

ROOM = 16  # vLLM's default of --max-lora-rank


def report(folder: str | Path) -> tuple[list[str], bool]:
    """(a line for what the folder holds and for each reader, whether all three compute the same of it).

    Raises ValueError where there is no folder, or no adapter_config.json that is a JSON object in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give the one that an adapter was saved to")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: {CONFIG} cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder}: {CONFIG} holds no settings by name but {type(config).__name__}")
    ours, layers = _ours(folder)
    lines = [f"holds:        {_held(folder, config, layers)}", f"this project: {ours or 'loads it'}"]
    others = {"PEFT:        ": _peft(folder, config), "vLLM:        ": _vllm(folder, config, layers)}
    lines += [f"{name} {said}" for name, (said, _) in others.items()]
    return lines, not ours and all(fine for _, fine in others.values())


def _ours(folder: Path) -> tuple[str, dict[str, LoRALinear]]:
    """(why this project refuses the folder, or "", and its adapters by name)."""
    try:
        model = load_adapter(_skeleton(read_tensors(folder)), folder)
    except ValueError as error:
        return f"refuses it: {str(error).removeprefix(f'{folder}: ')}", {}
    return "", {name: module for name, module in model.named_modules() if is_adapter(module)}


def _skeleton(tensors: dict[str, Tensor]) -> nn.Module:
    """A model with the linear layers that these tensors are of. All weights of a layer are one zero, so it is small."""
    shapes: dict[str, dict[str, int]] = {}
    for key, tensor in tensors.items():
        for part, axis, name in (("A", 1, "d_in"), ("B", 0, "d_out")):
            if key.startswith(PREFIX) and key.endswith(end := f".{PARTS[part]}") and tensor.dim() == 2:
                shapes.setdefault(key[len(PREFIX) : -len(end)], {})[name] = tensor.shape[axis]
    model = nn.Module()
    for layer, found in shapes.items():
        *path, last = layer.split(".")
        place = model
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        d_in, d_out = found.get("d_in", 1), found.get("d_out", 1)
        linear = nn.Linear(1, 1, bias=False)
        linear.in_features, linear.out_features = d_in, d_out
        linear.weight = nn.Parameter(torch.zeros(1, 1).expand(d_out, d_in), requires_grad=False)
        place.add_module(last, linear)
    return model


def _held(folder: Path, config: dict, layers: dict[str, LoRALinear]) -> str:
    kind = "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else "LoRA"
    if not layers:
        return f"{config.get('peft_type')!r} by its settings, r {config.get('r')!r}, alpha {config.get('lora_alpha')!r}"
    many = lambda values: ", ".join(f"{v:g} ({n} ×)" for v, n in Counter(values).most_common(3))  # noqa: E731
    count = sum(p.numel() for layer in layers.values() for p in layer.parameters() if p.requires_grad)
    size = (folder / TENSORS).stat().st_size
    ranks, scalings = many(m.rank for m in layers.values()), many(m.scaling for m in layers.values())
    return f"{kind} of rank {ranks}, scaling {scalings}; {count:,} numbers in {size:,} bytes"


def _peft(folder: Path, config: dict) -> tuple[str, bool]:
    """What PEFT makes of it, and whether that is what the folder says."""
    if not isinstance(config.get("peft_type"), str):
        return "refuses it: the settings name no peft_type", False
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        return "loads the pickle adapter_model.bin, by torch.load with weights_only", True
    try:
        tensors = read_tensors(folder)
    except ValueError as error:
        return f"refuses it: {error}", False
    if config["peft_type"] != "LORA":
        return f"loads it, as {config['peft_type']}", True
    names, odd = Counter(), []
    for key in tensors:
        part = next((p for p in PARTS.values() if key.endswith(f".{p}")), None)
        if key.startswith(PREFIX) and part:
            names[key.removesuffix(f".{part}")] += 1
        elif not config.get("modules_to_save") and config.get("bias", "none") == "none":
            odd.append(key)
    parts = 3 if config.get("use_dora") else 2
    halves = [name.removeprefix(PREFIX) for name, count in names.items() if count < parts]
    if halves:
        return f"loads it with a warning, and keeps its fresh start where a tensor is missing: {halves[0]}", False
    rank, axes = config.get("r"), {PARTS["A"]: 0, PARTS["B"]: 1}
    wrong = [k for k, t in tensors.items() for end, i in axes.items() if k.endswith(end) and t.shape[i] != rank]
    if wrong and not config.get("rank_pattern"):
        return f"refuses it: {wrong[0]} is {tuple(tensors[wrong[0]].shape)}, and r is {rank}", False
    if odd:
        return f"loads it, and leaves out what it cannot place, such as {odd[0]}", False
    if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        return "loads it, and computes NaN: there are numbers that are not finite", False
    return "loads it", True


def _vllm(folder: Path, config: dict, layers: dict[str, LoRALinear]) -> tuple[str, bool]:
    """What vLLM makes of it, and whether that is what the folder says."""
    missing = [key for key in ("r", "lora_alpha", "target_modules") if key not in config]
    if missing:
        return f"refuses it: {CONFIG} lacks {', '.join(missing)}", False
    for key, words in (("use_dora", "it has no DoRA"), ("modules_to_save", "it takes no modules_to_save")):
        if config.get(key):
            return f"refuses it: {words}; merge it into the base first", False
    if not any((folder / name).exists() for name in (TENSORS, "adapter_model.bin", "adapter_model.pt")):
        return "refuses it: there are no tensors", False
    if not layers:
        return "not told: see above", False
    rule = rslora_scaling if config.get("use_rslora") else lora_scaling
    whole, patterns = rule(config["lora_alpha"], config["r"]), ("rank_pattern", "alpha_pattern")
    other = [name for name, layer in layers.items() if abs(layer.scaling - whole) > 1e-6 * whole]
    if other:
        unread = " and ".join(key for key in patterns if config.get(key))
        others = f"{other[0]} and {len(other) - 1} more" if len(other) > 1 else other[0]
        return f"loads it and computes something else: it reads no {unread}, so scaling is {whole:g} in {others}", False
    rank = max(layer.rank for layer in layers.values())
    room = "" if rank <= ROOM else f", if it is started with --max-lora-rank of at least {rank}; the default is {ROOM}"
    return f"loads it{room}, where the base serves adapters on these layers", True


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 where all three make the same of the folder, 1 where not, 2 where there is nothing to check."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("Which folder? make check FILE=adapter/", file=sys.stderr)
        return 2
    try:
        lines, same = report(arguments[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
