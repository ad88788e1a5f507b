"""Tasks learnt one after the other: each run begins with the merged weights that the one before it left.

An adapter that is merged before the next one starts cannot be taken out again. So what a later task overwrites is
gone, and how much of it is gone is what a chain of runs measures.
"""

from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor, nn

from lora_from_scratch.analysis.spectra import intruders_by_layer
from lora_from_scratch.inject import is_adapter, merge_adapters
from lora_from_scratch.lab import cache
from lora_from_scratch.lab.finetune import Run, fine_tune, measure, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.targets import find_targets

HERE = cache.imported(__name__)


def learn_in_turn(runs: Sequence[Run], preset: Preset) -> dict:
    """Carry out `runs` one after the other on the base of the first one's seed, merging adapters in between.

    Gives `losses`: a dict before the first run and one after each, {task: loss of the held-out text, in nats a
    character} for every task of the chain and "text"; `intruders`, a list as long: how many intruder dimensions the
    linear layers have against the base's; and `seconds`. From the cache where nothing that decides it has changed.
    Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("a chain needs at least one run")
    key = {**run_key(runs[0], preset), "then": [asdict(run) for run in runs[1:]], "chain": cache.code_version(HERE)}
    return cache.cached("chain", key, lambda: _learn(runs, preset))


def _learn(runs: Sequence[Run], preset: Preset) -> dict:
    model, tasks, seconds = pretrained(preset, runs[0].seed), sorted({run.task for run in runs}), 0.0
    base = _weights(model)
    losses, intruders = [_losses(model, tasks, preset)], [0]
    for run in runs:
        model.requires_grad_(True)
        seconds += fine_tune(run, model, preset)["seconds"]
        if any(is_adapter(module) for module in model.modules()):
            model = merge_adapters(model)
        losses.append(_losses(model, tasks, preset))
        intruders.append(sum(map(len, intruders_by_layer(base, _weights(model)).values())))
    return {"losses": losses, "intruders": intruders, "seconds": seconds}


def _losses(model: nn.Module, tasks: list[str], preset: Preset) -> dict[str, float]:
    found = {task: measure(model, task, preset) for task in tasks}
    return {**{task: losses["task_loss"] for task, losses in found.items()}, "text": found[tasks[0]]["text_loss"]}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach().cpu().clone() for name, layer in find_targets(model, "all-linear").items()}
