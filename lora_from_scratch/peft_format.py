"""Adapters on disk, in PEFT's own format: two files in a folder, which PEFT reads too, and vLLM but for DoRA.

    adapter_config.json          rank, alpha, the kind of adapter, and the dotted names of its layers
    adapter_model.safetensors    base_model.model.<name>.lora_A.weight            A          (r, d_in)
                                 base_model.model.<name>.lora_B.weight            B          (d_out, r)
                                 base_model.model.<name>.lora_magnitude_vector    magnitude  (d_out,)    of DoRA alone

    save_adapter(model, "folder")
    model = load_adapter(fresh_base, "folder")

Names, settings and defaults are those of PEFT 0.21. Nothing is pickled, so a foreign folder cannot run code.
"""

import json
import re
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from lora_from_scratch.adapter_files import CONFIG, TENSORS, read_tensors, write_pair
from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lora import PLAIN, LoRALinear, check_hyperparameters, lora_scaling, weight_like
from lora_from_scratch.peft_settings import means, read_config, settings_of
from lora_from_scratch.rslora import rslora_scaling
from lora_from_scratch.targets import WRAPPERS, find_targets, named_layers, replace_modules, unwrapped

PREFIX = "base_model.model."
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}  # {ours: PEFT's}


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write the adapters of `model`, and nothing of its base, to `folder`; `PeftModel.from_pretrained` takes it too.

    A, B and magnitude keep their dtype. A `layer.scaling` that was changed becomes the alpha that gives it, exact but
    for the last bit. A layer that stands at several places is written once, under its first name.
    (PEFT 0.21 adapts the first place alone, unless the places share the block around the layer.)

    The files are written under other names, then moved into place; other files in the folder stay. However the save
    ends, the folder never holds two files that do not belong together. After an exception, Ctrl-C included, it is the
    old pair or the new one. A process that is killed between two moves may leave a folder without adapter_config.json,
    which every reader refuses, and only where the settings have changed.

    Raises ValueError, before anything is written, for a model without adapters or with PEFT's, for what one folder
    cannot say (LoRA beside DoRA, two dropouts, a class of your own, a scaling that is not positive), and for numbers
    that are not finite. Warns if the adapters do nothing.
    """
    adapters = {name: unwrapped(m) for name, m in named_layers(model).items() if is_adapter(unwrapped(m))}
    if _is_peft(model):
        raise ValueError("these adapters are PEFT's own; save them with model.save_pretrained(folder)")
    if not adapters:
        raise ValueError("no layer in this model has an adapter; add_adapters puts them in (a lone layer has no name)")
    settings, tensors = settings_of(model, adapters), {}
    for name, layer in adapters.items():
        for part, shape in _shapes(layer, layer.rank, settings["use_dora"]).items():
            key, tensor = f"{PREFIX}{name}.{PARTS[part]}", getattr(layer, part).detach()
            _check_tensor(key, tensor, shape, tensor.dtype)
            tensors[key] = tensor.to("cpu", copy=True).contiguous()  # a copy: safetensors takes no shared memory
    if all(map(_does_nothing, adapters.values())):
        warnings.warn(f"this adapter does nothing: every B is zero, as before training ({folder})", stacklevel=2)
    # As bytes, because safetensors' own save_file makes a file that no other user can read.
    write_pair(Path(folder), json.dumps(settings, indent=2).encode(), safetensors.torch.save(tensors, {"format": "pt"}))


def load_adapter(model: nn.Module, folder: str | Path) -> nn.Module:
    """Put the adapters in `folder`, ours or PEFT's, on `model` in place, as `add_adapters` would, and return it.

    The model has no adapters yet. It is frozen, and the adapters are trainable. A, B and magnitude are on the base's
    device and in the dtype that new adapters have there. The tensors' names say which layers get one, and
    `target_modules` must agree.

    Raises ValueError, and the model is as it was, for whatever is broken or cannot be computed as PEFT computes it:
    a file that is missing, cut off or pickled; a setting that is not known here, unless it says nothing (null, false,
    empty); a tensor that is missing, left over, misshapen, no floats, or not finite; a layer that is not there.
    """
    present = [name or "its root" for name, module in model.named_modules() if is_adapter(module)]
    if present or _is_peft(model):
        first = f"the first at {present[0]}" if present else "PEFT's own"
        raise ValueError(f"the model has adapters already, {first}; load into a fresh base, or merge them first")
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        config = read_config(Path(folder))
        found = _by_layer(model, read_tensors(Path(folder)))
        _check_agreement(model, config, found)
        layers = find_targets(model, "|".join(map(re.escape, found)))
        swap = {layer: _adapter(layer, name, config, found[name]) for name, layer in layers.items()}
        model.requires_grad_(False)
        replace_modules(model, swap)
    except BaseException as error:  # a failure or an interruption half way
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        if isinstance(error, ValueError):
            raise ValueError(f"{folder}: {error}") from error
        raise
    return model


def _is_peft(model: nn.Module) -> bool:
    return any(hasattr(module, "lora_A") or hasattr(module, "peft_config") for module in model.modules())


def _shapes(layer: nn.Module, rank: int, dora: bool) -> dict[str, tuple[int, ...]]:
    shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
    return shapes | {"magnitude": (layer.out_features,)} if dora else shapes


def _check_tensor(key: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise ValueError unless `tensor` has this shape, and numbers that are finite in `dtype`."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{key} is {tuple(tensor.shape)}, and its layer and rank make it {shape}")
    if tensor.is_meta or tensor.dtype not in PLAIN:
        kind = "on the meta device, without numbers" if tensor.is_meta else tensor.dtype
        raise ValueError(f"{key} is {kind}; it must be float16, bfloat16, float32 or float64, with numbers in it")
    if not torch.isfinite(tensor.to(dtype)).all():
        raise ValueError(f"{key} has numbers that are NaN or infinite in {dtype}; go back to an earlier checkpoint")


def _does_nothing(layer: LoRALinear) -> bool:
    if layer.B.any():
        return False
    return not isinstance(layer, DoRALinear) or torch.equal(
        layer.magnitude, layer.row_norms().to(layer.magnitude.dtype)
    )


def _by_layer(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{name in the model: {part: tensor}}. A layer at several places may come under each of its names, the same."""
    places, first, found = {}, {module: name for name, module in named_layers(model).items()}, {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(".".join(part for part in name.split(".") if part not in WRAPPERS), module)
    parts = {theirs: ours for ours, theirs in PARTS.items()}
    pattern = re.compile(rf"{re.escape(PREFIX)}(.+)\.({'|'.join(map(re.escape, parts))})")
    for key, tensor in tensors.items():
        if not (match := pattern.fullmatch(key)):
            raise ValueError(f"{key} is no tensor of LoRA: those are {PREFIX}<layer>. and one of {', '.join(parts)}")
        if (layer := places.get(match[1])) not in first:
            raise ValueError(f"no layer of this model is called {match[1]}; the adapter is for another model")
        same = found.setdefault(first[layer], {}).setdefault(parts[match[2]], tensor)
        if same is not tensor and not torch.equal(same.double(), tensor.double()):
            raise ValueError(f"{key} is of a layer with two names, and has other numbers under the other one")
    if not found:
        raise ValueError(f"{TENSORS} holds no tensors; this adapter would do nothing")
    return found


def _check_agreement(model: nn.Module, config: dict, found: dict[str, dict[str, Tensor]]) -> None:
    """Raise ValueError where the layers that have tensors are not those that `target_modules` mean."""
    targets = config.get("target_modules")
    if not targets:
        return
    targets = targets if isinstance(targets, str) else set(targets)
    if foreign := [name for name in found if not means(targets, name)]:
        raise ValueError(
            f"there are tensors of {foreign[0]}, which target_modules do not mean: {config['target_modules']!r}"
        )
    if targets == "all-linear" or config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return  # not all that are meant: which of them, the tensors say
    for name, layer in named_layers(model).items():
        if hasattr(layer, "in_features") and name not in found and means(targets, name):
            raise ValueError(f"target_modules mean {name}, and {TENSORS} has no tensor of it; a part is missing")


@torch.no_grad()
def _adapter(layer: nn.Module, name: str, config: dict, given: dict[str, Tensor]) -> LoRALinear:
    """`layer` under the adapter that `given` and `config` make, after all of it was checked."""
    rank, alpha = (
        next((number for ending, number in config.get(patterns, ()) if ending.match(name)), config.get(common))
        for patterns, common in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    dropout, dora, like = config.get("lora_dropout") or 0.0, bool(config.get("use_dora")), weight_like(layer)
    try:
        check_hyperparameters(rank, alpha, dropout)
    except ValueError as error:
        raise ValueError(f"{CONFIG}, for {name}: {error}") from error
    shapes = _shapes(layer, rank, dora)
    if shapes.keys() != given.keys():
        wanted, there = (", ".join(PARTS[part] for part in parts) or "none" for parts in (shapes, given))
        raise ValueError(f"{name} has {there}; with use_dora {dora} it must have {wanted}")
    if like.is_meta:
        raise ValueError(f"{name} is on the meta device, where nothing can be kept; give the base its weights first")
    for part, shape in shapes.items():
        dtype = torch.promote_types(like.dtype, torch.float32)  # of A and B, as in LoRALinear
        _check_tensor(f"{name}.{PARTS[part]}", given[part], shape, dtype)
    scaling, kind = rslora_scaling if config.get("use_rslora") else lora_scaling, DoRALinear if dora else LoRALinear
    adapter = kind(layer, rank, alpha, dropout, scaling)
    for part in shapes:
        getattr(adapter, part).copy_(given[part])
    return adapter
