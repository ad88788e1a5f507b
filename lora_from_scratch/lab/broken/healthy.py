"""Runs that are well, of every kind: on none of them may `diagnose` say a word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from lora_from_scratch import PagedAdamW, loraplus_param_groups, merge_adapters, quantize_model
from lora_from_scratch.diagnose import Finding, diagnose
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.answers import answer_loss
from lora_from_scratch.lab.begin import start_from_lost
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.nothing import checkpointed
from lora_from_scratch.lab.llama import TinyLlama

IDS = torch.tensor([list(e.ids[:4]) for e in world.lesson()])  # (24, 4): a batch at use


@dataclass(frozen=True)
class Run:
    """A model to train, and its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer


def _run(model: nn.Module, rate: float = world.RATE) -> Run:
    return Run(model, world.optimizer_of(model, rate))


def _other_base(seed: int, **sizes: object) -> TinyLlama:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyLlama(replace(world.SIZES, **sizes))


def _loraplus(seed: int) -> Run:
    model = world.adapted(seed)
    return Run(model, torch.optim.AdamW(loraplus_param_groups(model, lr=1e-3, ratio=16)))


def _paged(seed: int) -> Run:
    model = world.adapted(seed)
    return Run(model, PagedAdamW([p for p in model.parameters() if p.requires_grad], lr=world.RATE))


def _warmed_up(seed: int) -> Run:
    """A rate that begins at zero: nothing moves in the first step."""
    run = _run(world.adapted(seed))
    torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: step / 50)
    return run


def _embedding_lets_through(seed: int) -> Run:
    """The reentrant checkpoint as it works: the embedding's output asks for a gradient."""
    model = checkpointed(world.adapted(seed), reentrant=True)
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: out.requires_grad_(True))
    return _run(model)


def _loftq(seed: int) -> Run:
    """B not zero at the start, and rightly so: s B A is what quantization lost."""
    whole, model = world.base(seed), world.adapted(seed, over=quantize_model(world.base(seed)))
    for name, layer in [(n, m) for n, m in model.named_modules() if is_adapter(m)]:
        start_from_lost(layer, whole.get_submodule(name).weight.detach())
    return _run(model)


def _a_zero(seed: int) -> Run:
    """A zero and B drawn at random: the update starts at zero all the same."""
    model = world.adapted(seed)
    draw = torch.Generator().manual_seed(seed)
    for layer in filter(is_adapter, model.modules()):
        nn.init.zeros_(layer.A), nn.init.normal_(layer.B, std=0.5, generator=draw)
    return _run(model)


def _with(**changes: object) -> Callable[[int], Run]:
    return lambda seed: _run(world.adapted(seed, replace(world.CONFIG, **changes)))


TRAINING: dict[str, Callable[[int], Run]] = {
    "LoRA": lambda seed: _run(world.adapted(seed)),
    "rank 1": _with(rank=1),
    "rank 64": _with(rank=64),
    "rsLoRA": _with(rslora=True),
    "DoRA": _with(dora=True),
    "with dropout": _with(dropout=0.1),
    "q and v alone": _with(targets=["q_proj", "v_proj"]),
    "LoRA+": _loraplus,
    "paged optimizer": _paged,
    "over NF4": lambda seed: _run(world.adapted(seed, over=quantize_model(world.base(seed)))),
    "DoRA over NF4": lambda seed: _run(
        world.adapted(seed, replace(world.CONFIG, dora=True), quantize_model(world.base(seed), double=False))
    ),
    "over bfloat16": lambda seed: _run(world.adapted(seed, over=world.base(seed).bfloat16())),
    "over float16": lambda seed: _run(world.adapted(seed, over=world.base(seed).half())),
    "tied embeddings": lambda seed: _run(world.adapted(seed, over=_other_base(seed, tie_word_embeddings=True))),
    "grouped heads": lambda seed: _run(world.adapted(seed, over=_other_base(seed, num_key_value_heads=1))),
    "checkpointed": lambda seed: _run(checkpointed(world.adapted(seed), reentrant=False)),
    "checkpointed, reentrant": _embedding_lets_through,
    "a rate warmed up": _warmed_up,
    "a start from what was lost": _loftq,
    "A zero, B random": _a_zero,
    "all weights, a low rate": lambda seed: _run(world.base(seed), 1e-5),
    "merged, all weights trained on": lambda seed: _run(merge_adapters(world.taught(seed)).requires_grad_(True), 1e-5),
}
AT_USE: dict[str, Callable[[int], nn.Module]] = {
    "the base": lambda seed: world.base(seed).eval(),
    "trained": lambda seed: world.taught(seed).eval(),
    "trained, frozen": lambda seed: world.taught(seed).eval().requires_grad_(False),
    "trained, without dropout, in train mode": lambda seed: world.taught(seed).train(),
    "merged": lambda seed: merge_adapters(world.taught(seed)).eval(),
    "in 4 bits": lambda seed: quantize_model(world.base(seed)).eval(),
}


def said(seed: int = 0) -> Iterator[tuple[str, list[Finding]]]:
    """(which run, and when; what diagnose says of it): each before a step, after one, after five, and without an
    optimizer; trained ones taken up again; and models at use."""
    lesson = world.lesson()
    for name, make in TRAINING.items():
        run = make(seed)
        yield f"{name}, as it is", diagnose(run.model)
        for steps in (0, 1, 4):
            if steps:
                world.train(run.model, lesson, steps=steps, seed=seed, optimizer=run.optimizer)
            yield f"{name}, {steps} more steps", diagnose(run.model, run.optimizer, lesson, answer_loss)
        yield f"{name}, taken up again", diagnose(run.model, world.optimizer_of(run.model), lesson, answer_loss)
        yield f"{name}, measured", diagnose(run.model.eval(), batch=lesson, loss=answer_loss)
    for name, make in AT_USE.items():
        model = make(seed)
        yield f"{name}, as it is", diagnose(model)
        yield f"{name}, at use", diagnose(model, batch=IDS)
