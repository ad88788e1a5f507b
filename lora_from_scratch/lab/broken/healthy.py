"""Runs that are well, each name a kind: what `diagnose` says of one is a false alarm.

Among them stand the mended twins of broken runs, and every false alarm that a reader has found, whether or not a rule
could be mended for it. How they are built stands in well.py.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_from_scratch import merge_adapters, quantize_model
from lora_from_scratch.diagnose import Finding, diagnose
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.broken import lost, well, world
from lora_from_scratch.lab.broken.nothing import checkpointed

IDS = torch.tensor([list(e.ids[:4]) for e in world.lesson()])  # (24, 4): a batch at use

TRAINING: dict[str, Callable[[int], well.Run]] = {
    "LoRA": lambda seed: well.run(world.adapted(seed)),
    "rank 1": well.changed(rank=1),
    "rank 64": well.changed(rank=64),
    "rsLoRA": well.changed(rslora=True),
    "DoRA": well.changed(dora=True),
    "with dropout": well.changed(dropout=0.1),
    "q and v alone": well.changed(targets=["q_proj", "v_proj"]),
    "LoRA+": well.loraplus,
    "paged optimizer": well.paged,
    "over NF4": lambda seed: well.run(world.adapted(seed, over=quantize_model(world.base(seed)))),
    "DoRA over NF4": lambda seed: well.run(
        world.adapted(seed, replace(world.CONFIG, dora=True), quantize_model(world.base(seed), double=False))
    ),
    "over bfloat16": lambda seed: well.run(world.adapted(seed, over=world.base(seed).bfloat16())),
    "over float16": lambda seed: well.run(world.adapted(seed, over=world.base(seed).half())),
    "tied embeddings": lambda seed: well.run(world.adapted(seed, over=well.other_base(seed, tie_word_embeddings=True))),
    "grouped heads": lambda seed: well.run(world.adapted(seed, over=well.other_base(seed, num_key_value_heads=1))),
    "checkpointed": lambda seed: well.run(checkpointed(world.adapted(seed), reentrant=False)),
    "checkpointed, reentrant": well.embedding_lets_through,
    "a rate warmed up": well.scheduled(lambda step: step / 50),
    "ten steps of rate zero first": well.scheduled(lambda step: float(step >= 10)),
    "a low rate, many steps to come": lambda seed: well.run(world.adapted(seed), 1e-4),
    "a start from what was lost": well.loftq,
    "A zero, B random": well.a_zero,
    "all weights, a low rate": lambda seed: well.run(world.base(seed), 1e-5),
    "merged, all weights trained on": lambda seed: well.run(
        merge_adapters(world.taught(seed)).requires_grad_(True), 1e-5
    ),
    "an embedding trained and saved": well.trained_beside("model.embed_tokens.weight"),
    "a norm trained and saved": well.trained_beside("model.norm.weight"),
    "a head trained and saved": well.with_head(True),
    "a head frozen, and saved": well.with_head(False),
    "layers added later": well.more_layers,
    "an expert that no token reaches": lambda seed: well.run(well.unreached(world.adapted(seed))),
    "in float16, SGD": well.in_float16(lambda numbers: torch.optim.SGD(numbers, 0.05)),
    "in float16, Adam's eps 1e-4": well.in_float16(lambda numbers: torch.optim.AdamW(numbers, 1e-2, eps=1e-4)),
    "in float16, a fused Adam": well.in_float16(lambda numbers: torch.optim.AdamW(numbers, 1e-2, fused=True)),
    "A frozen": well.a_frozen,
    "a loss of two passes": lambda seed: well.run(world.adapted(seed), loss=well.preferred),
    "two halves of a batch": lambda seed: well.run(world.adapted(seed), loss=well.in_halves),
}
AT_USE: dict[str, Callable[[int], nn.Module]] = {
    "the base": lambda seed: world.base(seed).eval(),
    "trained": lambda seed: world.taught(seed).eval(),
    "trained, frozen": lambda seed: world.taught(seed).eval().requires_grad_(False),
    "trained, without dropout, in train mode": lambda seed: world.taught(seed).train(),
    "merged": lambda seed: merge_adapters(world.taught(seed)).eval(),
    "in 4 bits": lambda seed: quantize_model(world.base(seed)).eval(),
    "the base in float16": lambda seed: world.base(seed).half().eval(),
    "trained, in float16": lambda seed: world.taught(seed).half().eval(),
    "fresh, as a baseline": lambda seed: world.adapted(seed).eval(),
    "fresh and frozen, as a baseline": lambda seed: world.adapted(seed).eval().requires_grad_(False),
    "switched off, as a baseline": well.switched_off,
    "with an expert that no token reached": lambda seed: well.unreached(world.taught(seed)).eval(),
}


def said(
    seed: int = 0, training: Mapping[str, Callable] = TRAINING, at_use: Mapping[str, Callable] = AT_USE
) -> Iterator[tuple[str, str, list[Finding]]]:
    """(which kind, when, what diagnose says of it): each before a step, after one, after five, and without an
    optimizer; trained ones taken up again; and models at use. Each is asked with what it saves, and without.
    """
    for name, make in training.items():
        run = make(seed)
        yield name, "as it is", diagnose(run.model)
        for steps in (0, 1, 4):
            for _ in range(steps):
                run.step()
            for saved in (None, _file(run.model, run.beside)):
                found = diagnose(run.model, run.optimizer, run.batch, run.loss, saved)
                yield name, f"{steps} more steps, a file: {saved is not None}", found
        yield name, "taken up again", diagnose(run.model, run.anew(run.model), run.batch, run.loss)
        yield name, "measured", diagnose(run.model.eval(), batch=run.batch, loss=run.loss)
    for name, make in at_use.items():
        model = make(seed)
        yield name, "as it is", diagnose(model)
        for saved in (None, _file(model)):
            yield name, f"at use, a file: {saved is not None}", diagnose(model, batch=IDS, saved=saved)


def _file(model: nn.Module, beside: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """What the run saves: A and B, and what it keeps beside; of a model without adapters, all of it."""
    return lost.file_of(model, beside) if any(map(is_adapter, model.modules())) else model.state_dict()
