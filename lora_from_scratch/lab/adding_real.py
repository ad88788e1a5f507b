"""Chapter 18's questions on a real model: two lessons learnt apart and merged, learnt together, or one after the other.

adding.py and merging.py do it for the tiny Llama, where a run costs seconds. Here lessons are those of adapt.py, one at
a time and kept on disk each. The tasks are "records", of which the answers count, and "documents", windows of text.
Losses are in nats a token.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_from_scratch import arithmetic
from lora_from_scratch.arithmetic import Adapter, compress
from lora_from_scratch.inject import trainable_parameters
from lora_from_scratch.lab import adapt, adding, cache, merging, train
from lora_from_scratch.lab.adapt import Lesson
from lora_from_scratch.lab.adding import changed, factors
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.merging import Trained
from lora_from_scratch.lab.workers import SECONDS
from lora_from_scratch.lora import lora_scaling
from lora_from_scratch.rslora import rslora_scaling

HERE = cache.imported(__name__)


def learnt(lesson: Lesson, checkpoint: Checkpoint) -> Trained:
    """{layer: (A, B, scaling)} of the LoRA that a lesson trains, from the cache where nothing deciding it has changed.

    Raises ValueError for a lesson without plain LoRA: only s · B A can be added.
    """
    if lesson.adapter is None or lesson.adapter.dora:
        raise ValueError(f"the lesson's adapter is {lesson.adapter!r}; only a plain LoRA adapter can be added")
    (result,) = adapt.carry_out([replace(lesson, keep=True, judged=False)], checkpoint)
    return as_trained(result["state"], lesson)


def as_trained(state: dict[str, Tensor], lesson: Lesson) -> Trained:
    """A lesson's kept tensors as {layer: (A, B, scaling)}."""
    config = lesson.adapter
    return factors(state, (rslora_scaling if config.rslora else lora_scaling)(config.alpha, config.rank))


def learnt_together(lessons: Sequence[Lesson], checkpoint: Checkpoint) -> Trained:
    """One adapter trained on the tasks of both lessons: the steps of both, and in every step half of each batch.

    A step's loss is the mean of both. So each task has as many records, or windows, as in its own lesson. Cached.
    Raises ValueError for lessons that differ in more than task and batch, and for a batch that is odd.
    """
    if len(lessons) != 2 or replace(lessons[0], task="records", batch=2) != replace(
        lessons[1], task="records", batch=2
    ):
        raise ValueError("give two lessons that differ in nothing but their task and batch")
    if odd := [lesson.batch for lesson in lessons if lesson.batch % 2]:
        raise ValueError(f"a batch of {odd[0]} cannot be halved; give an even one")
    key = {"lessons": [_key(lesson, checkpoint) for lesson in lessons]}
    result = cache.cached("both", key, lambda: _together(lessons, checkpoint))
    SECONDS.append(result["seconds"])
    return as_trained(result["state"], lessons[0])


def _key(lesson: Lesson, checkpoint: Checkpoint) -> dict:
    own = cache.code_version(HERE, adding, merging, arithmetic)
    return {**adapt.lesson_key(lesson, checkpoint), "adding_real": own}


def _together(lessons: Sequence[Lesson], checkpoint: Checkpoint) -> dict:
    started, first = time.perf_counter(), lessons[0]
    with train.threads(adapt.THREADS), torch.random.fork_rng():
        torch.manual_seed(first.seed)
        model = adapt.prepared(copy.deepcopy(checkpoint.model), first)
        losses = fit(model, halves(lessons, checkpoint), 2 * first.steps, first.lr)
    return {"losses": losses, "state": _state(model), "seconds": time.perf_counter() - started}


def halves(lessons: Sequence[Lesson], checkpoint: Checkpoint) -> Iterator[Callable[[nn.Module], None]]:
    """Steps of half a batch of either lesson: each, called with a model, gives the loss and leaves its gradients."""
    half = [replace(lesson, steps=2 * lesson.steps, batch=lesson.batch // 2) for lesson in lessons]
    for losses_of in zip(*(adapt.batches(lesson, checkpoint) for lesson in half), strict=False):

        def backward(model: nn.Module, losses_of: tuple = losses_of) -> float:
            total = 0.0
            for loss_of in losses_of:  # one after the other: the memory of one
                loss = loss_of(model) / len(losses_of)
                loss.backward()
                total += loss.item()
            return total

        yield backward


def fit(model: nn.Module, steps_of: Iterator[Callable], steps: int, lr: float) -> list[float]:
    """adapt.fit for steps that make their own gradients: AdamW, a short rise of the rate and a straight fall."""
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=lr, weight_decay=0.0)
    warmup, losses = max(1, steps // 20), []
    model.train()
    for t, backward in zip(range(steps), steps_of, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((t + 1) / warmup, (steps - t) / (steps - warmup + 1))
        optimizer.zero_grad()
        losses.append(backward(model))
        optimizer.step()
    model.eval()
    if len(losses) < steps:
        raise ValueError(f"the batches ended after {len(losses)} of {steps} steps; give more, or ask for fewer steps")
    return losses


def learnt_after(first: Lesson, then: Lesson, checkpoint: Checkpoint) -> list[Trained]:
    """The adapters of two lessons in turn, the first one's merged before the second: added, they are what comes out."""
    before = learnt(first, checkpoint)
    key = {"first": _key(replace(first, keep=True, judged=False), checkpoint), "then": _key(then, checkpoint)}
    result = cache.cached("after", key, lambda: _after(before, then, checkpoint))
    SECONDS.append(result["seconds"])
    return [before, as_trained(result["state"], then)]


def _after(before: Trained, then: Lesson, checkpoint: Checkpoint) -> dict:
    started = time.perf_counter()
    with train.threads(adapt.THREADS), torch.random.fork_rng():
        torch.manual_seed(then.seed)
        model = adapt.prepared(merging.with_one(checkpoint.model, before), then)
        losses, _ = adapt.fit(model, then, checkpoint, lambda: None)
    return {"losses": losses, "state": _state(model), "seconds": time.perf_counter() - started}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def updates(two: Sequence[Trained], way: merging.Way) -> dict[str, Tensor]:
    """{layer: ΔW (d_out, d_in)} of two adapters made one by `way`, at weight 1. All ways are proportional to it."""
    first, second = two
    return {layer: way(first[layer], second[layer], 1.0) for layer in first}


def weighted(base: nn.Module, deltas: dict[str, Tensor], w: float) -> nn.Module:
    """A copy of `base` with w times these updates."""
    return changed(base, {layer: w * delta for layer, delta in deltas.items()})


def by_ties(first: Adapter, second: Adapter, w: float, keep: float = 0.2) -> Tensor:
    """merging.by_ties, the same update, by a quicker selection: a real model has 210 matrices."""

    def trimmed(delta: Tensor) -> Tensor:
        sizes = delta.abs()
        last = delta.numel() - max(1, round(keep * delta.numel())) + 1  # the smallest that stays, counted from below
        return torch.where(sizes >= sizes.flatten().kthvalue(last).values, delta, 0)

    a, b = (trimmed(merging.delta(adapter)) for adapter in (first, second))
    apart = torch.where(a.abs() > b.abs(), a, torch.where(b.abs() > a.abs(), b, 0))  # the greater, if signs differ
    return w * torch.where(a * b > 0, (a + b) / 2, torch.where(a * b < 0, apart, a + b))


def eight_at_random(seed: int) -> merging.Way:
    """The sum, left with half of its directions, drawn at random: what a cut by size has to beat."""
    draw = torch.Generator().manual_seed(seed)

    def way(first: Adapter, second: Adapter, w: float) -> Tensor:
        A, B = arithmetic.concatenate([first, second], [w, w])
        A, B, _ = compress(A, B, len(A))
        some = torch.randperm(len(A), generator=draw)[: len(A) // 2]
        return B[:, some] @ A[some]

    return way


def twin(trained: Trained, seed: int) -> Trained:
    """A random update for each layer, with the singular values of the trained one, in factors: no large SVD."""
    draw, found = torch.Generator().manual_seed(seed), {}
    for layer, (A, B, scaling) in trained.items():
        a, b, _ = compress(A, scaling * B, len(A))
        sizes = b.norm(dim=0) * a.norm(dim=1)  # compress shares each singular value equally
        (q_b, _), (q_a, _) = (torch.linalg.qr(torch.randn(n, len(A), generator=draw)) for n in (len(B), A.shape[1]))
        found[layer] = (q_a.T.contiguous(), q_b * sizes, 1.0)
    return found
