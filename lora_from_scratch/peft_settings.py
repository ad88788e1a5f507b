"""What adapter_config.json says: written for adapters of ours, and read by PEFT's rules.

The scaling s is not in it. A reader computes it: alpha / r, or alpha / sqrt(r) where `use_rslora` is true. One r and
one alpha stand for all layers; `rank_pattern` and `alpha_pattern` name those that differ, by regular expressions for
the end of a dotted name. A name may be the end of another ("proj" of "block.proj"), so what is written here is
"^block\\.proj", which is one layer and no other. Names, settings and defaults are those of PEFT 0.21.
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from torch import nn

from lora_from_scratch.adapter_files import read_settings
from lora_from_scratch.dora import DoRALinear
from lora_from_scratch.lora import LoRALinear, lora_scaling
from lora_from_scratch.rslora import rslora_scaling
from lora_from_scratch.targets import check_targets, named_layers

KNOWN = set(  # settings of PEFT that are read below, or that say nothing unless another one does
    "peft_type bias init_lora_weights r lora_alpha lora_dropout use_rslora use_dora rank_pattern alpha_pattern "
    "target_modules exclude_modules layers_to_transform layers_pattern task_type auto_mapping peft_version "
    "base_model_name_or_path revision inference_mode megatron_core loftq_config eva_config corda_config "
    "lora_ga_config qalora_group_size".split()
)
INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")  # the others change the base, as PiSSA does


def settings_of(model: nn.Module, adapters: dict[str, LoRALinear]) -> dict:
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
    listed = not any(means(adapters, name) for name in others)  # else PEFT would adapt those others too
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


def means(targets: str | Collection[str], name: str) -> bool:
    """Whether PEFT's `target_modules` mean the layer `name`: by an expression, or a list of names or last parts."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, name) is not None
    parts = name.split(".")
    return any(".".join(parts[i:]) in targets for i in range(len(parts)))


def read_config(folder: Path) -> dict:
    """The settings in `folder`, with the two patterns compiled. Raises ValueError for what cannot be computed here."""
    config = read_settings(folder)
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
