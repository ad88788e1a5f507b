"""A fine-tuning run, watched on its way: what it has learnt and forgotten at each point, and which directions are new.

`fine_tune` says where a run ends. Two methods that end at different losses cannot be compared in how much they
forgot, so here the losses and the spectra are recorded along the way, and read off where both have learnt the same.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lora_from_scratch.lab import cache
from lora_from_scratch.lab.finetune import Run, fine_tune, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import evaluate, threads
from lora_from_scratch.targets import find_targets

LEADING = 20  # how many of a weight's leading left vectors are compared
WINDOWS = 64  # of each text, at each point
HERE = cache.imported(__name__)


def watch(run: Run, preset: Preset, points: int = 20, target: float = 0.0) -> dict:
    """Carry out `run` at `preset`, and look at the model at `points` evenly spaced steps, and before the first one.

    Lists with an entry for each look, the first one at the base:
        steps: how many were taken.
        task_loss, text_loss: on WINDOWS windows of held-out text, in nats a character.
        likeness: {layer: (points + 1, LEADING)}, of each leading left vector of W1 the largest |cosine| with any of W0.

    And `at_target` and `end`: {layer: weight (out, in)} of the linear layers, an adapter's update within it, at the
    first look with a task loss of at most `target` (None if there is none), and after the last step; `run`: what
    `fine_tune` gives. From the cache where nothing that decides it has changed. Raises ValueError for fewer than 1
    point, or more than there are steps.
    """
    if not 1 <= points <= preset.steps:
        raise ValueError(f"points is {points!r}; with {preset.steps} steps it runs from 1 to {preset.steps}")
    key = {**run_key(run, preset), "points": points, "target": target, "watch": cache.code_version(HERE)}
    return cache.cached("watch", key, lambda: _watch(run, preset, points, target))


def at_loss(losses: Sequence[float], values: Sequence[float], target: float) -> float:
    """`values` where `losses` first fall to `target`, on a straight line between two looks. NaN if they never do."""
    for i, loss in enumerate(losses):
        if loss <= target:
            if i == 0:
                return values[0]
            along = (losses[i - 1] - target) / (losses[i - 1] - loss)
            return values[i - 1] + along * (values[i] - values[i - 1])
    return math.nan


def intruder_counts(watched: dict, k: int = 10, epsilon: float = 0.5) -> list[int]:
    """How many intruder dimensions the whole model has at each look (see `analysis.spectra.intruder_dimensions`).

    Raises ValueError for a k above LEADING.
    """
    if not 1 <= k <= LEADING:
        raise ValueError(f"k is {k!r}; {LEADING} leading vectors were compared, so it runs from 1 to {LEADING}")
    found = sum((rows[:, :k] < epsilon).sum(dim=1) for rows in watched["likeness"].values())  # (points + 1,)
    return found.tolist()


def _watch(run: Run, preset: Preset, points: int, target: float) -> dict:
    model = pretrained(preset, run.seed)
    with threads(1):
        watcher = Watcher(model, run.task, preset, points, target)
        watcher.look()
        result = fine_tune(run, model, preset, on_step=watcher)
    likeness = {name: torch.stack(rows) for name, rows in watcher.likeness.items()}
    return {
        **watcher.seen,
        "likeness": likeness,
        "at_target": watcher.at_target,
        "end": watcher.weights(),
        "run": result,
        "seconds": result["seconds"],
    }


class Watcher:
    """Called after every step, it looks at the linear layers and at the losses of `model` at the steps that are due."""

    def __init__(self, model: nn.Module, task: str, preset: Preset, points: int, target: float) -> None:
        self.model, self.task, self.target, self.step = model, task, target, 0
        self.due = {preset.steps * (i + 1) // points for i in range(points)}
        length = preset.model.max_position_embeddings
        self.windows = {name: fixed_windows(task_ids(name, "held_out"), WINDOWS, length) for name in (task, "text")}
        self.names = list(find_targets(model, "all-linear"))
        self.old = {name: _left(weight) for name, weight in self.weights().items()}
        self.seen: dict[str, list] = {"steps": [], "task_loss": [], "text_loss": []}
        self.likeness: dict[str, list[Tensor]] = {name: [] for name in self.names}
        self.at_target: dict[str, Tensor] | None = None

    def __call__(self) -> None:
        self.step += 1
        if self.step in self.due:
            self.look()

    def look(self) -> None:
        weights = self.weights()
        self.seen["steps"].append(self.step)
        self.seen["task_loss"].append(evaluate(self.model, self.windows[self.task]))
        self.seen["text_loss"].append(evaluate(self.model, self.windows["text"]))
        for name, weight in weights.items():
            best = (self.old[name].T @ _left(weight)[:, :LEADING]).abs().amax(dim=0)  # (LEADING,)
            self.likeness[name].append(best)
        if self.at_target is None and self.seen["task_loss"][-1] <= self.target:
            self.at_target = weights

    def weights(self) -> dict[str, Tensor]:
        return {name: self.model.get_submodule(name).weight.detach().cpu().clone() for name in self.names}


def _left(weight: Tensor) -> Tensor:
    """The left singular vectors of a weight, as columns, the largest first."""
    return torch.linalg.svd(weight, full_matrices=False).U
