"""One epoch of a large text: every window once, at a constant rate, and the loss of each step as it was met.

As no window is met twice, each step's loss is that of text not seen before, and there is nothing to overfit. Summed, in
bits, the losses are the length to which a coder compresses the text that learns on the way ("prequential"): an upper
bound for what a model must store to know it by heart.

Runs of one seed and task meet the same windows in the same order, whatever they train: their differences are paired.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_from_scratch.inject import count_parameters, trainable_parameters
from lora_from_scratch.lab import cache
from lora_from_scratch.lab.finetune import Run, measure, prepare, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import task_ids
from lora_from_scratch.lab.train import loss_of, threads

HERE = cache.imported(__name__)


@dataclass(frozen=True)
class Epoch(Run):
    """A run that meets each window of `split` once at most, for `times` the preset's steps, at a constant rate.

    The default is the largest split. `order` picks the order of the windows, and `draw` the random A, beside the seed.
    Raises ValueError for a `times` that is not positive, and for what `Run` refuses.
    """

    split: str = "train"
    times: float = 2
    order: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.times < math.inf:
            raise ValueError(f"times is {self.times!r}; give how many times the preset's steps, above 0")


def once(ids: Tensor, batch: int, length: int, seed: int) -> Iterator[Tensor]:
    """Windows of `length` + 1 characters, each target once, in a random order: (batch, length + 1) until they end."""
    count = (len(ids) - 1) // length
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for some in order[: count - count % batch].split(batch):
        yield ids[some[:, None] * length + torch.arange(length + 1)]


def learn_once(run: Epoch, preset: Preset) -> dict:
    """Carry out `run`; from the cache where nothing that decides its result has changed.

    Gives the `losses` of the steps (nats a character, before the step learns from them), how many `characters` a step
    has, the text's `share` that was met, what finetune.measure gives, `trained` and `seconds`. Raises ValueError where
    the text is shorter than the steps.
    """
    key = {**run_key(run, preset), "epoch": cache.code_version(HERE)}
    return cache.cached("epoch", key, lambda: _learn_once(run, preset))


def _learn_once(run: Epoch, preset: Preset) -> dict:
    started, model = time.perf_counter(), pretrained(preset, run.seed)
    length, steps, ids = preset.model.max_position_embeddings, steps_of(run, preset), task_ids(run.task, run.split)
    characters = preset.batch * length
    if steps * characters > len(ids) - 1:
        most = (len(ids) - 1) // characters
        raise ValueError(f"{steps} steps need more windows than {run.split!r} has; it has enough for {most} steps")
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(run.seed + 1000 * run.draw)
        prepare(model, run)
        windows = once(ids, preset.batch, length, seed=run.seed + 1000 * run.order)
        losses = follow(model, windows, steps, run.lr, preset.device)
        result = {"losses": losses, "characters": characters, "share": steps * characters / len(ids)}
        result |= measure(model, run.task, preset)
    return result | {"trained": count_parameters(model)[0], "seconds": time.perf_counter() - started}


def follow(model: nn.Module, windows: Iterator[Tensor], steps: int, lr: float, device: str) -> list[float]:
    """AdamW without decay at a constant rate; each step's loss before it learns from it. Ends early with `windows`."""
    optimizer, losses = torch.optim.AdamW(trainable_parameters(model), lr=lr, weight_decay=0.0), []
    model.train()
    for _, ids in zip(range(steps), windows, strict=False):
        optimizer.zero_grad()
        loss = loss_of(model, ids.to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def steps_of(run: Epoch, preset: Preset) -> int:
    """How many steps `run` takes at `preset`, at least one."""
    return max(1, round(run.times * preset.steps))
