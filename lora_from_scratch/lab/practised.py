"""What rewarded runs (rewarded.py) leave: their weights, controls of the same size, and comparisons of methods.

Weights are {name: (out, in)} of the adapted layers. A control takes those before and after a run and gives others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_from_scratch.analysis.nulls import random_update_like
from lora_from_scratch.analysis.spectra import low_rank_factors
from lora_from_scratch.lab import words
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.rewarded import Rewarded, asked, practise, prepared
from lora_from_scratch.lab.sweep import Tuned, judged, search
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.targets import find_targets

Weights = dict[str, Tensor]
CUTS = ("cut", "cut and rescaled")  # the update's first direction as it is, and as large as the whole


def weights(run: Rewarded, preset: Preset, trained: bool = True) -> Weights:
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


def update(run: Rewarded, preset: Preset, seed: int) -> tuple[Weights, Weights]:
    """The weights before and after the run of this seed."""
    mine = replace(run, seed=seed)
    return weights(mine, preset, trained=False), weights(mine, preset)


def random_like(before: Weights, after: Weights, seed: int) -> Weights:
    """`before` with updates that have learnt nothing, of the very singular values of those to `after`."""
    draws = torch.Generator().manual_seed(seed)
    return {name: w + random_update_like(after[name] - w, draws) for name, w in before.items()}


def noise_like(before: Weights, after: Weights, seed: int) -> Weights:
    """`before` with Gaussian noise that is as large as the update to `after` (Frobenius, layer by layer)."""
    draws = torch.Generator().manual_seed(seed)
    drawn = {name: w + torch.randn(w.shape, generator=draws) for name, w in before.items()}
    return scaled_like(before, drawn, after)


def scaled_like(before: Weights, other: Weights, after: Weights) -> Weights:
    """`before` with the update to `other`, made as large as the update to `after`. An update of 0 stays 0."""
    sizes = {name: (after[name] - w).norm() / (other[name] - w).norm().clamp_min(1e-12) for name, w in before.items()}
    return {name: w + sizes[name] * (other[name] - w) for name, w in before.items()}


def part_of(before: Weights, after: Weights, part: float) -> Weights:
    """`before` with `part` times the update to `after`."""
    return {name: w + part * (after[name] - w) for name, w in before.items()}


def cut(before: Weights, after: Weights, rank: int = 1) -> Weights:
    """`before` with the best rank-`rank` part of each update to `after`."""
    factors = {name: low_rank_factors(after[name] - w, rank) for name, w in before.items()}
    return {name: w + factors[name][0] @ factors[name][1] for name, w in before.items()}


def with_numbers(run: Rewarded, preset: Preset, v: Tensor, seed: int) -> nn.Module:
    """TinyLoRA on the base of the run's seed, with the numbers `v`, its factors P drawn from `seed`."""
    model = prepared(pretrained(preset, run.seed), replace(run, seed=seed))
    (own,) = (p for p in model.parameters() if p.requires_grad)
    own.data.copy_(v)
    return model


def judged_on_asked(model: nn.Module, run: Rewarded, preset: Preset) -> Tensor:
    """The success of `model`, as it is, on every prompt that `run` asks, (prompts,)."""
    return words.success(model, torch.cat(asked(run, preset)), run.words, run.by_letter)


def held_out(model: nn.Module, run: Rewarded, preset: Preset) -> Tensor:
    """The success of `model` on each of the held-out prompts that judge, evenly spaced, (prompts,)."""
    prompts = words.word_prompts("held_out")
    chosen = prompts[torch.linspace(0, len(prompts) - 1, preset.eval_windows).long()]
    return words.success(model, chosen, run.words, run.by_letter)


def one_habit(preset: Preset) -> float:
    """The share of the held-out prompts behind which the rule wants its second word: what writing it always gets."""
    prompts = words.word_prompts("held_out")
    chosen = prompts[torch.linspace(0, len(prompts) - 1, preset.eval_windows).long()]
    return (chosen[:, -2] > words.LAST_EARLY).double().mean().item()


def pass_at(p: Tensor, ks: Sequence[int]) -> list[float]:
    """pass@k for every k: how likely one of k answers is right, the mean over prompts with chances p, (prompts,)."""
    return [(1 - (1 - p).clamp(0, 1) ** k).mean().item() for k in ks]


def started(run: Rewarded, preset: Preset) -> tuple[nn.Module, Weights]:
    """The model as `run` begins with it, and {name: value} of what it trains."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = prepared(pretrained(preset, run.seed), run)
    return model, {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def with_weights(preset: Preset, seed: int, new: Weights) -> nn.Module:
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


def cut_shares(run: Rewarded, judge: Rewarded, preset: Preset, start: Mapping[int, float]) -> dict[str, list[float]]:
    """Of the gain of `run`, what the first directions of its updates keep, {CUTS: one value a base}.

    `start` is {seed: the base's success}; success is that at the reward of `judge`, on the held-out prompts.
    """
    found: dict[str, list[float]] = {how: [] for how in CUTS}
    for seed, at in start.items():
        before, after = update(run, preset, seed)
        short = cut(before, after)
        gain = [
            held_out(with_weights(preset, seed, new), judge, preset).mean().item() - at
            for new in (after, short, scaled_like(before, short, after))
        ]
        for how, kept in zip(CUTS, gain[1:], strict=True):
            found[how].append(kept / gain[0] if gain[0] else float("inf"))
    return found
