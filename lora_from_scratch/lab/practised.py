"""What rewarded runs (rewarded.py) leave: their weights, and comparisons of methods at rates of their own."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.rewarded import Rewarded, practise, prepared
from lora_from_scratch.lab.sweep import Tuned, judged, search
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.targets import find_targets


def weights(run: Rewarded, preset: Preset, trained: bool = True) -> dict[str, Tensor]:
    """{name: weight (out, in)} of the adapted layers, after `run` or before it, an adapter's update within."""
    model = pretrained(preset, run.seed)
    names = list(find_targets(model, "all-linear"))
    if trained:
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            model = prepared(model, run)
        state = model.state_dict() | practise(run, preset)["state"]
        model.load_state_dict(state)
    return {name: model.get_submodule(name).weight.detach().cpu() for name in names}


@torch.no_grad()
def with_weights(preset: Preset, seed: int, new: dict[str, Tensor]) -> nn.Module:
    """The base of a seed, with these weights in place of its own."""
    model = pretrained(preset, seed)
    for name, weight in new.items():
        model.get_submodule(name).weight.copy_(weight)
    return model


def compare_rewarded(
    methods: dict[str, Rewarded],
    preset: Preset,
    grids: dict[str, tuple[float, ...]],
    known: dict[str, float] | None = None,
) -> dict[str, Tuned]:
    """As sweep.compare, for rewarded runs and a grid of rates for each: the best has the highest mean `curve`."""

    def results_of(runs: list[Rewarded]) -> list[dict]:
        return carry_out_all(runs, preset, work=practise)

    def losses_of(jobs: list[tuple[str, float]]) -> list[float]:
        return [r["tune_loss"] for r in results_of([replace(methods[label], lr=rate, seed=0) for label, rate in jobs])]

    if preset.budget == 0 and known and set(methods) <= set(known):
        tried = {label: {} for label in methods}
    else:
        tried = search({label: grids[label] for label in methods}, max(4, preset.budget), losses_of)
    return judged(methods, tried, known, preset.seeds, results_of)
