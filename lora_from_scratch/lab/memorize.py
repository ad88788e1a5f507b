"""Runs that store random pairs (pairs.py) in an adapter, or in a whole model, and how many bits each has stored.

A `Memory` is a `Run` with a few fields more, so everything that takes a run takes it. What is asked is how much
training can store, so its rate is chosen by the loss on the very pairs that are trained on, and there are others, never
trained on, as the null. Over NF4 the frozen weights hold the values that NF4Linear decodes, as in starting.py.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_from_scratch.inject import count_parameters, trainable_parameters
from lora_from_scratch.lab import cache, pairs
from lora_from_scratch.lab.finetune import Run, prepare, run_key
from lora_from_scratch.lab.pairs import BITS, random_pairs, recall, stored, value_loss
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import evaluate, threads
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.qlora import NF4Linear
from lora_from_scratch.targets import find_targets

HERE = cache.imported(__name__)


@dataclass(frozen=True)
class Memory(Run):
    """A run that stores `pairs` random pairs, with `key` and `value` symbols, in `times` the preset's steps.

    A batch holds `crowd` pairs for each window of the preset's. `nf4` rounds the frozen weights. Raises ValueError for
    sizes out of range, too few keys for twice the pairs, or a base rounded in two ways, and for what `Run` refuses.
    """

    pairs: int = 256
    key: int = 3
    value: int = 5
    times: float = 2
    crowd: int = 4
    nf4: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        random_pairs(2 * self.pairs, self.key, self.value, 0)  # refuses sizes out of range
        if not 0 < self.times < math.inf or self.crowd < 1:
            raise ValueError(f"times is {self.times!r} and crowd {self.crowd!r}; give more than 0 times the preset's "
                             "steps, and at least one pair a window")  # fmt: skip
        if self.base is not None or (self.nf4 and self.adapter is None):
            raise ValueError("a rounded base is frozen and rounded once: give an adapter and `nf4`, and no `base`")


def drawn(run: Memory) -> tuple[Tensor, Tensor]:
    """(the pairs to store, as many that are never trained on), each (pairs, key + value), by the run's seed alone."""
    own, other = random_pairs(2 * run.pairs, run.key, run.value, run.seed).split(run.pairs)
    return own, other


def fill(model: nn.Module, pairs: Tensor, key: int, steps: int, batch: int, lr: float, seed: int) -> list[float]:
    """Train on the pairs, a new order each time round; the loss of every step, in nats a symbol.

    AdamW without decay; the rate rises over the first 5 % of the steps and falls to zero, as in train.fit.
    """
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=lr, weight_decay=0.0)
    warm, draw, order, losses = max(1, steps // 20), torch.Generator().manual_seed(seed), torch.empty(0).long(), []
    model.train()
    for step in range(steps):
        if len(order) < min(batch, len(pairs)):
            order = torch.cat((order, torch.randperm(len(pairs), generator=draw)))
        now, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / warm, (steps - step) / (steps - warm + 1))
        optimizer.zero_grad()
        loss = value_loss(model, pairs[now], key)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def memorize(run: Memory, preset: Preset) -> dict:
    """Carry out `run`; from the cache where nothing that decides its result has changed.

    Gives `stored` and `other`, the bits of its own pairs and of pairs never trained on, `before` any training; the
    `data`'s bits; `recall`'s shares; `tune_loss` and `task_loss`, both the nats a symbol on its own pairs, as what is
    asked is how much training can store; `text_loss` on English, the `losses` of the steps, `trained`, `seconds`.
    """
    key = {**run_key(run, preset), "memorize": cache.code_version(pairs, HERE)}
    return cache.cached("memory", key, lambda: _memorize(run, preset))


def _memorize(run: Memory, preset: Preset) -> dict:
    started, model = time.perf_counter(), pretrained(preset, run.seed)
    own, other = (pairs.to(preset.device) for pairs in drawn(run))
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(run.seed)
        if run.nf4:
            round_to_nf4(model)
        prepare(model, run)
        model.eval()
        before = stored(model, own, run.key)
        steps, batch = max(1, round(run.times * preset.steps)), run.crowd * preset.batch
        losses = fill(model, own, run.key, steps, batch, run.lr, run.seed)
        model.eval()
        kept, data = stored(model, own, run.key), BITS * run.value * run.pairs
        result = {"stored": kept, "other": stored(model, other, run.key), "before": before, "data": data}
        result |= recall(model, own, run.key)
        windows = fixed_windows(task_ids("text", "held_out"), 64, preset.model.max_position_embeddings)
        result["text_loss"] = evaluate(model, windows)
    loss = (data - kept) / data * BITS * math.log(2)
    loss = loss if math.isfinite(loss) else math.inf
    result |= {"tune_loss": loss, "task_loss": loss, "losses": losses, "trained": count_parameters(model)[0]}
    return result | {"seconds": time.perf_counter() - started}


def round_to_nf4(model: nn.Module) -> None:
    """Give the linear layers the weights that NF4 leaves of them, in place, as plain float weights."""
    for layer in find_targets(model, "all-linear").values():
        layer.weight.data = NF4Linear.from_linear(layer).weight.detach()


def memorize_all(runs: Sequence[Memory], preset: Preset) -> list[dict]:
    """The results of `runs`, in their order; the longest are begun first, so that no core waits for the last one."""
    order = sorted(range(len(runs)), key=lambda i: runs[i].times * runs[i].crowd, reverse=True)
    found = dict(zip(order, carry_out_all([runs[i] for i in order], preset, work=memorize), strict=True))
    return [found[i] for i in range(len(runs))]
