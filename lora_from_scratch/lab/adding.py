"""Two tasks in one model: adapters that were trained apart and are added, or one adapter that was trained on both.

A sum of adapters has seen as many windows as its parts together. So its control, one adapter on both tasks, gets as
many too: the steps of all, and in every batch as many windows of one task as of the other.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from lora_from_scratch.inject import count_parameters
from lora_from_scratch.lab import cache
from lora_from_scratch.lab.finetune import Run, prepare, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import GRID, Tuned, judged, search
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import Batches, evaluate, fit, threads
from lora_from_scratch.lab.workers import carry_out_all

HERE = cache.imported(__name__)


def learn_together(runs: Sequence[Run], preset: Preset) -> dict:
    """Train one adapter on the tasks of all `runs`, which differ in nothing else: `preset.steps` steps for each.

    Gives `task_losses`, {task or "text": loss}, held out, and `tune_losses` on other windows (nats a character);
    `task_loss` and `tune_loss`, their means over the tasks, and `text_loss`; `trained`, `seconds`, and with `keep` the
    `state`. From the cache where nothing that decides it has changed.
    Raises ValueError for runs that differ in more than their task, or a batch that they cannot share equally.
    """
    if not runs or any(replace(run, task=runs[0].task) != runs[0] for run in runs):
        raise ValueError("the runs of one adapter may differ in their task alone; give the same run for every task")
    if preset.batch % len(runs):
        raise ValueError(f"a batch of {preset.batch} cannot be shared equally by {len(runs)} tasks")
    key = {**run_key(runs[0], preset), "with": [asdict(run) for run in runs[1:]], "adding": cache.code_version(HERE)}
    return cache.cached("together", key, lambda: _learn(runs, preset))


def _learn(runs: Sequence[Run], preset: Preset) -> dict:
    started, first = time.perf_counter(), runs[0]
    length, share = preset.model.max_position_embeddings, preset.batch // len(runs)
    model, tasks = pretrained(preset, first.seed), [run.task for run in runs]
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(first.seed)
        prepare(model, first)
        streams = [Batches(task_ids(run.task, run.split), share, length, seed=run.seed) for run in runs]
        batches = (torch.cat(parts) for parts in zip(*streams, strict=True))
        fit(model, batches, len(runs) * preset.steps, first.lr, first.weight_decay)
        tune, judge = (losses_on(model, tasks, preset, half) for half in ("tune", "judge"))
    result = {"task_losses": judge, "tune_losses": tune, "text_loss": judge["text"]}
    for name, losses in (("task_loss", judge), ("tune_loss", tune)):
        result[name] = sum(losses[task] for task in tasks) / len(tasks)
    if first.keep:
        result["state"] = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return result | {"trained": count_parameters(model)[0], "seconds": time.perf_counter() - started}


def compare_together(
    methods: dict[str, Run], tasks: Sequence[str], preset: Preset, known: dict[str, float] | None = None
) -> dict[str, Tuned]:
    """As sweep.compare: every method at its own best rate, over the preset's seeds, but trained on all `tasks`."""

    def results_of(runs: list[Run]) -> list[dict]:
        together = [tuple(replace(run, task=task) for task in tasks) for run in runs]
        return carry_out_all(together, preset, work=learn_together)

    def losses_of(jobs: list[tuple[str, float]]) -> list[float]:
        runs = [replace(methods[label], lr=rate, seed=0, keep=False) for label, rate in jobs]
        return [result["tune_loss"] for result in results_of(runs)]

    if preset.budget == 0 and known and set(methods) <= set(known):
        tried = {label: {} for label in methods}
    else:
        tried = search(dict.fromkeys(methods, GRID), max(len(GRID), preset.budget), losses_of)
    return judged(methods, tried, known, preset.seeds, results_of)


def losses_on(model: nn.Module, tasks: Sequence[str], preset: Preset, half: str = "judge") -> dict[str, float]:
    """{task: loss} of every task and of "text", held out: on one half of the windows to tune, on the other to judge."""
    length, found = preset.model.max_position_embeddings, {}
    for task in dict.fromkeys((*tasks, "text")):
        windows = fixed_windows(task_ids(task, "held_out"), 2 * preset.eval_windows, length)
        found[task] = evaluate(model, windows[{"tune": 0, "judge": 1}[half] :: 2])
    return found


def factors(state: dict[str, Tensor], scaling: float) -> dict[str, tuple[Tensor, Tensor, float]]:
    """{layer: (A, B, scaling)} of the LoRA layers whose tensors a state dict holds."""
    names = [name.removesuffix(".A") for name in state if name.endswith(".A")]
    return {name: (state[f"{name}.A"], state[f"{name}.B"], scaling) for name in names}


@torch.no_grad()
def changed(model: nn.Module, deltas: dict[str, Tensor]) -> nn.Module:
    """A copy of `model` with ΔW (d_out, d_in) added to the weight of each layer that is named."""
    model = copy.deepcopy(model)
    for name, delta in deltas.items():
        weight = model.get_submodule(name).weight
        weight += delta.to(weight)
    return model
