"""Adapters on disk, in PEFT's own format: two files in a folder, which PEFT reads too, and vLLM but for DoRA.

    adapter_config.json          rank, alpha, the kind of adapter, and the dotted names of its layers
    adapter_model.safetensors    base_model.model.<name>.lora_A.weight            A          (r, d_in)
                                 base_model.model.<name>.lora_B.weight            B          (d_out, r)
                                 base_model.model.<name>.lora_magnitude_vector    magnitude  (d_out,)    of DoRA alone

The scaling s is in neither file. A reader computes it: alpha / r, or alpha / sqrt(r) where `use_rslora` is true. One r
and one alpha stand for all layers; `rank_pattern` and `alpha_pattern` name those that differ, by regular expressions
for the end of a dotted name. A name may be the end of another ("proj" of "block.proj"), so what is written here is
"^block\\.proj", which is one layer and no other.

    save_adapter(model, "folder")
    model = load_adapter(fresh_base, "folder")

Names, settings and defaults are those of PEFT 0.21. Nothing is pickled, so a foreign folder cannot run code.
"""

import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lora import PLAIN, LoRALinear, check_hyperparameters, lora_scaling, weight_like
from lora_from_scratch.rslora import rslora_scaling
from lora_from_scratch.targets import WRAPPERS, check_targets, find_targets, named_layers, replace_modules, unwrapped

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}  # {ours: PEFT's}
KNOWN = set(  # settings of PEFT that are read below, or that say nothing unless another one does
    "peft_type bias init_lora_weights r lora_alpha lora_dropout use_rslora use_dora rank_pattern alpha_pattern "
    "target_modules exclude_modules layers_to_transform layers_pattern task_type auto_mapping peft_version "
    "base_model_name_or_path revision inference_mode megatron_core loftq_config eva_config corda_config "
    "lora_ga_config qalora_group_size".split()
)
INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")  # the others change the base, as PiSSA does


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
    settings, tensors = _settings(model, adapters), {}
    for name, layer in adapters.items():
        for part, shape in _shapes(layer, layer.rank, settings["use_dora"]).items():
            key, tensor = f"{PREFIX}{name}.{PARTS[part]}", getattr(layer, part).detach()
            _check_tensor(key, tensor, shape, tensor.dtype)
            tensors[key] = tensor.to("cpu", copy=True).contiguous()  # a copy: safetensors takes no shared memory
    if all(map(_does_nothing, adapters.values())):
        warnings.warn(f"this adapter does nothing: every B is zero, as before training ({folder})", stacklevel=2)
    # As bytes, because safetensors' own save_file makes a file that no other user can read.
    _write(Path(folder), json.dumps(settings, indent=2).encode(), safetensors.torch.save(tensors, {"format": "pt"}))


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
        config = _read_config(Path(folder))
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


def _settings(model: nn.Module, adapters: dict[str, LoRALinear]) -> dict:
    """What adapter_config.json says of `adapters`: the commonest rank and alpha for all, patterns for the others."""
    for what, of in (("kind", lambda layer: type(layer).__name__), ("dropout", lambda layer: layer.dropout)):
        found = {of(layer): name for name, layer in adapters.items()}
        if len(found) > 1:
            each = ", ".join(f"{value} at {name}" for value, name in found.items())
            raise ValueError(f"one folder has one {what} in PEFT, and here are {each}; make all of one {what}")
    first = next(iter(adapters.values()))
    if type(first) not in (LoRALinear, DoRALinear):
        raise ValueError(f"{type(first).__name__} may compute what PEFT does not; save model.state_dict() instead")
    ranks, (rslora, alphas) = {name: layer.rank for name, layer in adapters.items()}, _alphas(adapters)
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    others = (name for name in named_layers(model) if name not in adapters)
    listed = not any(_means(adapters, name) for name in others)  # else PEFT would adapt those others too
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": first.dropout,
        "use_rslora": rslora,
        "use_dora": isinstance(first, DoRALinear),
        "rank_pattern": {f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(name)}": a for name, a in alphas.items() if a != alpha},
        "target_modules": list(adapters) if listed else "|".join(map(re.escape, adapters)),
        "bias": "none",
        "inference_mode": True,
    }


def _alphas(adapters: dict[str, LoRALinear]) -> tuple[bool, dict[str, float]]:
    """(use_rslora, each layer's alpha), by the rule that most layers follow: so most alphas are as they were given."""
    rules, given = (lora_scaling, rslora_scaling), [(layer, float(layer.scaling)) for layer in adapters.values()]
    plain, root = (sum(rule(layer.alpha, layer.rank) == scaling for layer, scaling in given) for rule in rules)
    rslora, alphas = root > plain, {}
    for name, (layer, scaling) in zip(adapters, given, strict=True):
        alpha = layer.alpha
        if rules[rslora](alpha, layer.rank) != scaling:  # it was changed, or follows the other rule
            alpha = scaling * (math.sqrt(layer.rank) if rslora else layer.rank)
        if not 0 < alpha < math.inf:
            raise ValueError(f"{name}: scaling is {scaling}; it must be positive and finite to be an alpha")
        alphas[name] = int(alpha) if float(alpha).is_integer() else float(alpha)
    return rslora, alphas


def _means(targets: str | Collection[str], name: str) -> bool:
    """Whether PEFT's `target_modules` mean the layer `name`: by an expression, or a list of names or last parts."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, name) is not None
    parts = name.split(".")
    return any(".".join(parts[i:]) in targets for i in range(len(parts)))


def _write(folder: Path, settings: bytes, numbers: bytes) -> None:
    """Move a new pair over an old one. While the tensors and the settings differ in age, there are no settings."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = folder / CONFIG, folder / TENSORS
    old, new_config, new_tensors = (folder / f".{name}-{os.getpid()}" for name in ("old", CONFIG, TENSORS))
    try:
        new_tensors.write_bytes(numbers), new_config.write_bytes(settings)
        if config.exists() and config.read_bytes() != settings:
            os.replace(config, old)
        os.replace(new_tensors, tensors)
        os.replace(new_config, config)
    finally:
        # After an interruption. New settings are written after new tensors, so if they are alone those have moved.
        fitting = old if new_tensors.exists() else new_config
        if fitting.exists() and not config.exists():
            os.replace(fitting, config)
        for path in (old, new_config, new_tensors):
            path.unlink(missing_ok=True)


def _read_config(folder: Path) -> dict:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{CONFIG} cannot be read ({error}); give the folder that an adapter was saved to") from None
    except ValueError as error:
        raise ValueError(f"{CONFIG} is no JSON ({error}); is it cut off?") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f'{CONFIG} does not say "peft_type": "LORA"; other kinds of adapters cannot be loaded here')
    if str(init := config.get("init_lora_weights")).lower() not in INITS:
        advice = "save the adapter with PEFT's path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        raise ValueError(f"init_lora_weights is {init!r}, so training began by changing the base; {advice}")
    for key, value in config.items():
        if value and (key not in KNOWN or (key == "bias" and value != "none")):
            raise ValueError(
                f"{key} is {value!r}: this is not LoRA on linear layers alone, or not as known here; train without it, "
                "or let PEFT merge it into the base"
            )
        if key in ("use_rslora", "use_dora") and value not in (None, True, False):
            raise ValueError(f"{key} is {value!r}; it must be true or false")
        if key in ("rank_pattern", "alpha_pattern"):
            config[key] = _endings(key, value or {})
    if config.get("target_modules"):
        check_targets(config["target_modules"])
    return config


def _endings(key: str, patterns: dict[str, object]) -> list[tuple[re.Pattern, object]]:
    """PEFT's rule for `rank_pattern`: the first expression for the end of a name decides, else the very name does."""
    if not isinstance(patterns, dict):
        raise ValueError(f"{key} is {patterns!r}; it must give a number for each expression")
    try:
        endings = [(re.compile(rf"(.*\.)?({pattern})$"), number) for pattern, number in patterns.items()]
    except re.error as error:
        raise ValueError(f"{key} has {error.pattern!r}, which is no regular expression: {error}") from error
    return endings + [(re.compile(rf"{re.escape(name)}$"), number) for name, number in patterns.items()]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in `folder`, by PEFT's names. Raises ValueError for a file that is missing, cut off or pickled."""
    path, pickled = folder / TENSORS, folder / "adapter_model.bin"
    if not path.exists():
        advice = f"{pickled.name} is a pickle, which may run code: load it in PEFT, and save it again as safetensors"
        raise ValueError(f"there is no {TENSORS}" + (f"; {advice}" if pickled.exists() else ""))
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))  # they come in any order
    except Exception as error:  # whatever is wrong with it, it cannot be used
        raise ValueError(f"{TENSORS} cannot be read ({error}); it may be cut off: fetch or save it again") from None


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
    if foreign := [name for name in found if not _means(targets, name)]:
        raise ValueError(
            f"there are tensors of {foreign[0]}, which target_modules do not mean: {config['target_modules']!r}"
        )
    if targets == "all-linear" or config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return  # not all that are meant: which of them, the tensors say
    for name, layer in named_layers(model).items():
        if hasattr(layer, "in_features") and name not in found and _means(targets, name):
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
