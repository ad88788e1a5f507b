"""Chapter 18's questions on a real model: two lessons learnt apart and merged, learnt together, or one after the other.

adding.py and merging.py do it for the tiny Llama, where a run costs seconds. Here lessons are those of adapt.py, one at
a time and kept on disk each. The tasks are "records", of which the answers count, and "documents", windows of text.
Losses are in nats a token.

A merge is measured without a token being generated: a field of an answer is right if, after the question and the right
answer so far, every one of its tokens is the likeliest. That is kinder than what a model would say: an early error does
not spoil what follows.
"""

import copy
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch import arithmetic
from lora_from_scratch.arithmetic import Adapter, compress
from lora_from_scratch.inject import trainable_parameters
from lora_from_scratch.lab import adapt, adding, cache, merging, records, tasks, train
from lora_from_scratch.lab.adapt import Lesson
from lora_from_scratch.lab.adding import changed, factors
from lora_from_scratch.lab.answers import LEFT_OUT, as_batch
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

    A step's loss is the mean of the two tasks' losses. So each task has as many records, or windows, as it has in its
    own lesson. From the cache where nothing that decides it has changed.
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
    """The adapters of two lessons in turn: the first one's is merged, and the second learns on the result.

    Their updates, added at weight 1, are the model that comes out.
    """
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


@torch.no_grad()
def marks(
    model: nn.Module,
    checkpoint: Checkpoint,
    half: str,
    count: int,
    windows: int,
    only: Sequence[str] = ("records", "documents"),
) -> dict[str, float]:
    """{"records", "documents": losses; "exact", "fields": shares right} of held-out data, no token generated.

    `half`: "tune" for choosing a weight, "judge" for judging it: other records, other windows. `count` records of new
    values in shapes that were seen, `windows` of 128 tokens of documentation; `only` one of the tasks, or both.
    Raises ValueError for another half, or for numbers below 1.
    """
    if half not in ("tune", "judge"):
        raise ValueError(f"half is {half!r}; it is 'tune' or 'judge'")
    if min(count, windows) < 1:
        raise ValueError(f"count is {count!r} and windows {windows!r}; give at least 1 of each")
    offset, found = {"tune": 0, "judge": 1}[half], {}
    if "documents" in only:
        chosen = tasks.fixed_windows(adapt.document_ids(checkpoint, "held_out"), 2 * windows, adapt.LENGTH)
        found["documents"] = train.evaluate(model, chosen[offset::2], batch=8)
    if "records" in only:
        found |= answers_of(model, records.records("new values", count, seed=offset + 1), checkpoint)
    return found


@torch.no_grad()
def answers_of(model: nn.Module, drawn: Sequence[records.Record], checkpoint: Checkpoint, batch: int = 16) -> dict:
    """Of records: the loss of the answers' tokens, and the shares of exact answers and of right fields."""
    examples, total, tokens, exact, fields = adapt.as_examples(drawn, checkpoint), 0.0, 0, [], []
    for first in range(0, len(examples), batch):
        part = examples[first : first + batch]
        inputs, labels = (p.to(next(model.parameters()).device) for p in as_batch(part))
        logits = model(inputs).float()
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=LEFT_OUT, reduction="sum").item()
        tokens += int((labels != LEFT_OUT).sum())
        right = logits.argmax(dim=-1) == labels
        for e, row, record in zip(part, right, drawn[first : first + batch], strict=True):
            own = row[e.start - 1 : len(e.ids) - 1].tolist()
            exact.append(all(own))
            wrong = {
                f for f, ok in zip(field_of(record.answer, e.ids[e.start :], checkpoint), own, strict=True) if not ok
            }
            fields += [field not in wrong for field in records.FIELDS]
    return {"records": total / tokens, "exact": sum(exact) / len(exact), "fields": sum(fields) / len(fields)}


def field_of(answer: str, ids: Sequence[int], checkpoint: Checkpoint) -> list[str]:
    """The field that each token of an answer belongs to, by where it begins; the bracket before the first is its."""
    starts = [answer.index(f'"{field}": ') for field in records.FIELDS]
    lengths = (len(checkpoint.tokenizer.decode([i])) for i in ids)
    places = functools.reduce(lambda found, n: [*found, found[-1] + n], lengths, [0])[:-1]
    return [records.FIELDS[max(0, sum(start <= place for start in starts) - 1)] for place in places]
