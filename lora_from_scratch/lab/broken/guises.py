"""Faults in a guise that `diagnose` does not know, or knows by another name: each is broken, and what it says is kept.

Readers found them after the rules were made. Where a rule that is right in itself could be written, it was, and the
guise stands in the tests. These are the rest. No row rests on them: they say where not to rely on silence.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch.diagnose import Finding, diagnose
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.answers import LEFT_OUT, answer_loss
from lora_from_scratch.lab.broken import world, wrong
from lora_from_scratch.lab.llama import TinyLlama

Found = list[Finding]


def _asked(model: nn.Module, loss: world.Loss = answer_loss, rate: float = world.RATE, steps: int = 0) -> Found:
    optimizer = world.optimizer_of(model, rate)
    if steps:
        world.train(model, world.lesson(), steps=steps, optimizer=optimizer)
    return diagnose(model, optimizer, world.lesson(), loss)


def _with_b(seed: int, fill: Callable[[Tensor], Tensor], A: float | None = None, **changes: object) -> Found:
    """B filled before the first step, and A too where a number is given."""
    model = world.adapted(seed, replace(world.CONFIG, **changes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in filter(is_adapter, model.modules()):
            fill(layer.B.data)
            if A is not None:
                layer.A.data.fill_(A)
    return _asked(model)


def _not_shifted(model: nn.Module, examples: list) -> Tensor:
    """Each place is taught its own token."""
    inputs, labels = wrong.padded(examples, world.END + 1)
    labels = torch.cat([torch.full((len(labels), 1), LEFT_OUT), labels[:, :-1]], dim=1)
    return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=LEFT_OUT)


def _shifted_twice(model: nn.Module, examples: list) -> Tensor:
    inputs, labels = wrong.padded(examples, world.END + 1)
    return F.cross_entropy(model(inputs)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=LEFT_OUT)


def _first_lost_in_halves(model: nn.Module, examples: list) -> Tensor:
    return sum(wrong.loss_one_too_far(model, half) for half in (examples[:12], examples[12:])) / 2


def _end_lost_unsaid(seed: int) -> Found:
    """A pair (inputs, labels) that says nothing of its answers."""
    model, pair = world.adapted(seed), wrong.padded(world.lesson(), world.END)
    loss = lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten(), ignore_index=LEFT_OUT)  # noqa: E731
    return diagnose(model, world.optimizer_of(model), pair, loss)


def _never_loaded(seed: int) -> Found:
    """Adapters on weights as they were drawn: the base's file was not read."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _asked(world.adapted(seed, over=TinyLlama(world.SIZES)))


def _no_file_shown(seed: int) -> Found:
    """Names that fit nothing, at use; and nobody shows diagnose the file."""
    return diagnose(world.adapted(seed).eval(), batch=torch.tensor([[world.C, 0]]))


def _embedding_no_file(seed: int) -> Found:
    model = world.adapted(seed)
    model.model.embed_tokens.requires_grad_(True)
    return _asked(model)


def _uniform(B: Tensor) -> Tensor:
    return B.uniform_(-0.5, 0.5)


GUISES: dict[str, Callable[[int], Found]] = {
    "B is drawn, and A is all ones": lambda seed: _with_b(seed, _uniform, A=1.0),
    "B is 0.1 everywhere": lambda seed: _with_b(seed, lambda B: B.fill_(0.1)),
    "B is drawn, of rank 1": lambda seed: _with_b(seed, _uniform, rank=1),
    "B is drawn, in q and v alone": lambda seed: _with_b(seed, _uniform, targets=["q_proj", "v_proj"]),
    "the rate is 1, before the first step": lambda seed: _asked(world.adapted(seed), rate=1.0),
    "the rate is 1, after 20 steps": lambda seed: _asked(world.adapted(seed), rate=1.0, steps=20),
    "the labels are not shifted": lambda seed: _asked(world.adapted(seed), _not_shifted),
    "the labels are shifted twice": lambda seed: _asked(world.adapted(seed), _shifted_twice),
    "the loss is negated": lambda seed: _asked(world.adapted(seed), lambda m, e: -answer_loss(m, e)),
    "first tokens left out, a batch in halves": lambda seed: _asked(world.adapted(seed), _first_lost_in_halves),
    "ends left out, the batch tells no answers": _end_lost_unsaid,
    "the base was never loaded": _never_loaded,
    "names fit nothing, no file is shown": _no_file_shown,
    "an embedding is not saved, no file is shown": _embedding_no_file,
}


def said(seed: int) -> Iterator[tuple[str, list[str]]]:
    """(a guise, the names of what diagnose finds)."""
    for name, ask in GUISES.items():
        yield name, [finding.name for finding in ask(seed)]
