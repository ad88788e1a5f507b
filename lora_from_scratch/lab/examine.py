"""A lesson of the real model, watched on its way and taken apart at its end, beside what chance gives.

`adapt` says where a lesson ends. The questions of chapters 00, 03, 10 and 11 need more: what was learnt and lost at
points on the way (to compare at the same loss), the spectrum of each update, how much of it a low rank keeps, how many
directions are new, and what of it arrives in a bfloat16 weight. Matrices are those of a few blocks (a full set of 210
takes minutes); a loss is that of the whole model, with all of its linear layers changed.

Two nulls of intruders: a random update of the same singular values (nulls.py), and the rounding of the base. A GGUF
file keeps weights on a few levels a block, so the true weight may lie anywhere within half a level of what we have.
"""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_from_scratch.analysis import nulls, spectra
from lora_from_scratch.analysis.nulls import random_update_like
from lora_from_scratch.analysis.spectra import low_rank_factors, singular_values
from lora_from_scratch.inject import count_parameters
from lora_from_scratch.lab import adapt, cache, generate, train
from lora_from_scratch.lab.adapt import LENGTH, THREADS, Lesson, prepared
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.workers import SECONDS
from lora_from_scratch.targets import find_targets

BLOCK, LEVELS = 32, 16  # of GGUF's Q4_1: weights that share a scale, and the levels they may have
HERE = cache.imported(__name__)


def examine(
    lesson: Lesson,
    checkpoint: Checkpoint,
    looks: int = 10,
    cuts: Sequence[int] = (),
    blocks: int = 6,
    merges: bool = True,
) -> dict:
    """Carry out a lesson on a copy of the model and look at it `looks` times on its way, before the first step too.

    Gives what `adapt` gives without `judged`, the loss for choosing a rate left out, and
        path: {"steps", "task_loss", "text_loss", "own_loss"}, a list each; text is documentation, own is what the model
            wrote by itself before (`own_text`), losses in nats a token.
        matrices: {name: what `taken_apart` gives} of the linear layers in `blocks` evenly spaced blocks.
        kept: {label: task loss with other linear weights}. "rank 8", for each of `cuts`: every update cut to that rank;
            "entries 8": to as many of its largest entries as the two factors hold numbers. "half", "half, beside" and
            "half, merged", if `merges`: a base in bfloat16; the update beside it; merged into it.

    From the cache where nothing that decides it has changed. Raises ValueError for fewer than 1 look, or for more than
    there are steps.
    """
    if not 1 <= looks <= lesson.steps:
        raise ValueError(f"looks is {looks!r}; with {lesson.steps} steps it runs from 1 to {lesson.steps}")
    asked = {"looks": looks, "cuts": list(cuts), "blocks": blocks, "merges": merges}
    key = {**adapt.lesson_key(lesson, checkpoint), **asked}
    key["examine"] = cache.code_version(HERE, nulls, spectra)
    result = cache.cached("examined", key, lambda: _examine(lesson, checkpoint, **asked))
    SECONDS.append(result["seconds"])
    return result


def _examine(
    lesson: Lesson, checkpoint: Checkpoint, looks: int, cuts: Sequence[int], blocks: int, merges: bool
) -> dict:
    started = time.perf_counter()
    with train.threads(THREADS), torch.random.fork_rng():
        torch.manual_seed(lesson.seed)
        model = prepared(copy.deepcopy(checkpoint.model), lesson)
        watcher = Watcher(model, lesson, checkpoint, looks)
        losses, step_seconds = adapt.fit(model, lesson, checkpoint, watcher)
        result = {"losses": losses, "path": watcher.path, "step_seconds": step_seconds}
        result |= {name: watcher.path[name][-1] for name in ("task_loss", "text_loss")}
        layers = list(find_targets(checkpoint.model, "all-linear"))
        before, after = ({n: m.get_submodule(n).weight.detach() for n in layers} for m in (checkpoint.model, model))
        chosen = {round(i * (len(model.model.layers) - 1) / max(1, blocks - 1)) for i in range(blocks)}
        names = [name for name in before if int(name.split(".")[2]) in chosen]
        draw = torch.Generator().manual_seed(lesson.seed)
        result["matrices"] = {name: taken_apart(before[name], after[name], draw) for name in names}
        result["kept"] = {
            label: with_weights(weight, lesson, checkpoint)
            for label, weight in versions(before, after, cuts, merges).items()
        }
    return result | {"trained": count_parameters(model)[0], "seconds": time.perf_counter() - started}


class Watcher:
    """Looks at `model` now and, called after every step, at `looks` evenly spaced ones, the last among them."""

    def __init__(self, model: nn.Module, lesson: Lesson, checkpoint: Checkpoint, looks: int) -> None:
        self.model, self.lesson, self.checkpoint, self.step = model, lesson, checkpoint, 0
        self.due = {lesson.steps * (i + 1) // looks for i in range(looks)}
        self.path: dict[str, list] = {"steps": [], "task_loss": [], "text_loss": [], "own_loss": []}
        whole = not lesson.four_bits  # then it begins as the checkpoint: B is zero
        self.note(losses_before(checkpoint, lesson.task, lesson.held, lesson.windows) if whole else self.look())

    def __call__(self) -> None:
        self.step += 1
        if self.step in self.due:
            self.note(self.look())

    def look(self) -> dict[str, float]:
        return losses_of(adapt.in_one(self.model), self.lesson, self.checkpoint)

    def note(self, found: dict[str, float]) -> None:
        for name, value in {"steps": self.step, **found}.items():
            self.path[name].append(value)


def losses_of(model: nn.Module, lesson: Lesson, checkpoint: Checkpoint) -> dict[str, float]:
    """The three losses of a look."""
    found = adapt.measure(model, replace(lesson, judged=False), checkpoint, tuning=False)
    return found | {"own_loss": train.evaluate(model, own_text(checkpoint), batch=8)}


@functools.lru_cache(maxsize=4)
def losses_before(checkpoint: Checkpoint, task: str, held: int, windows: int) -> dict[str, float]:
    """The three losses of the checkpoint itself, with which all lessons begin that leave it in full precision."""
    return losses_of(checkpoint.model, Lesson(task, held=held, windows=windows), checkpoint)


@functools.lru_cache(maxsize=1)
def own_text(checkpoint: Checkpoint, count: int = 16) -> Tensor:
    """What the model writes by itself after the token that ends a text, one draw a token, (count, LENGTH + 1).

    No text is better known to a model. A loss on it that rises means that the model would now write something else.
    """
    start = [checkpoint.tokenizer.eos]
    draw = torch.Generator(checkpoint.model.lm_head.weight.device).manual_seed(0)
    written = generate.generate(checkpoint.model, [start] * count, LENGTH, temperature=1.0, generator=draw)
    return torch.tensor([start + ids for ids in written])


def taken_apart(W0: Tensor, W1: Tensor, draw: torch.Generator) -> dict:
    """What one weight's update is made of, (d_out, d_in) both.

    size: of ΔW beside W0, in the Frobenius norm. sizes: of ΔW, its singular values. intruders, null, rounding: how
    many of the 10 leading left vectors are new in W1, in W0 with a random update of the same singular values, and in W0
    with noise as large as its rounding. arrived: what is left of ΔW after a merge in bfloat16, as a projection on it
    (1: all).
    """
    delta, old = W1 - W0, torch.linalg.svd(W0, full_matrices=False).U
    half = W0.bfloat16()
    arrived = (half.float() + delta).bfloat16().float() - half.float()
    return {
        "size": (delta.norm() / W0.norm()).item(),
        "sizes": singular_values(delta),
        "intruders": intruders(old, W1),
        "null": intruders(old, W0 + random_update_like(delta, draw)),
        "rounding": intruders(old, W0 + rounding_noise(W0, draw)),
        "arrived": ((arrived * delta).sum() / delta.square().sum()).item(),
    }


def intruders(old: Tensor, W1: Tensor) -> int:
    """How many of W1's 10 leading left vectors are like none of `old`: `intruder_dimensions`, with W0's taken once."""
    new = torch.linalg.svd(W1, full_matrices=False).U[:, :10]
    return int(((old.T @ new).abs().amax(dim=0) < 0.5).sum())


def rounding_noise(weight: Tensor, draw: torch.Generator) -> Tensor:
    """Uniform noise within half a level, if each BLOCK weights of a row lie on LEVELS levels between their extremes."""
    blocks = weight.reshape(-1, BLOCK)  # (n, BLOCK)
    step = (blocks.amax(dim=1, keepdim=True) - blocks.amin(dim=1, keepdim=True)) / (LEVELS - 1)
    noise = torch.rand(blocks.shape, generator=draw).to(weight.device, weight.dtype) - 0.5
    return (noise * step).reshape(weight.shape)


def versions(
    before: dict[str, Tensor], after: dict[str, Tensor], cuts: Sequence[int], merge: bool
) -> dict[str, Callable[[str], Tensor]]:
    """{label: the weight that a layer has in that version, a function of its name}; the labels as in `examine`."""
    parts = {n: low_rank_factors(after[n] - W0, min(max(cuts), *W0.shape)) for n, W0 in before.items()} if cuts else {}

    def cut(name: str, rank: int) -> Tensor:
        B, A = parts[name]
        return before[name] + B[:, :rank] @ A[:rank]

    def entries(name: str, rank: int) -> Tensor:
        delta = after[name] - before[name]
        count = min(rank * sum(delta.shape), delta.numel())
        places = delta.flatten().abs().topk(count).indices
        largest = torch.zeros_like(delta).flatten().index_copy_(0, places, delta.flatten()[places])
        return before[name] + largest.view_as(delta)

    found = {f"rank {r}": functools.partial(cut, rank=r) for r in cuts}
    found |= {f"entries {r}": functools.partial(entries, rank=r) for r in cuts}
    if merge:
        found["half"] = lambda name: before[name].bfloat16().float()
        found["half, beside"] = lambda name: before[name].bfloat16().float() + after[name] - before[name]
        found["half, merged"] = lambda name: found["half, beside"](name).bfloat16().float()
    return found


def with_weights(weight: Callable[[str], Tensor], lesson: Lesson, checkpoint: Checkpoint) -> float:
    """The loss on the task with `weight(name)` in every linear layer, everything else as in the checkpoint."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for name, layer in find_targets(model, "all-linear").items():
            layer.weight.copy_(weight(name))
    return adapt.measure(model, replace(lesson, judged=False), checkpoint, tuning=False)["task_loss"]
