"""Broken runs that are right until they are merged, put on another base, or read by another program."""

import copy
import tempfile
from dataclasses import replace

import torch
from torch import nn

from lora_from_scratch import merge_adapters, quantize_model
from lora_from_scratch.diagnose import diagnose
from lora_from_scratch.folder import report
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.broken import world
from lora_from_scratch.lab.broken.case import Case, Seen
from lora_from_scratch.peft_format import save_adapter

IDS = torch.tensor([list(e.ids[:4]) for e in world.lesson()])  # (24, 4)


def merged_into_four_bits(seed: int) -> Seen:
    """A light lesson over an NF4 base, merged, and quantized again: most of it is below half a step of the grid."""
    model, lesson = world.adapted(seed, over=quantize_model(world.base(seed))), world.lesson()
    before = world.loss_on(model, lesson)
    world.train(model, lesson, steps=20, rate=3e-4, seed=seed)
    learnt, merged = before - world.loss_on(model, lesson), merge_adapters(copy.deepcopy(model))
    left = [(before - world.loss_on(m, lesson)) / learnt for m in (quantize_model(copy.deepcopy(merged)), merged)]
    said = [diagnose(m, batch=IDS) for m in (quantize_model(copy.deepcopy(merged)), merged)]
    return Seen(left[0], left[1], said[0], said[1])


def on_another_base(seed: int) -> Seen:
    """The adapter of one base on another of the same shape: nothing refuses it."""
    file, ends, said = world.factors(world.taught(seed)), [], []
    for other in (seed + 50, seed):
        model = world.adapted(seed, over=world.base(other))
        model.load_state_dict(file, strict=False)
        said.append(diagnose(model.eval(), batch=IDS))
        ends.append(world.loss_on(model, world.lesson()))
    return Seen(ends[0], ends[1], said[0], said[1])


def merged_and_unmerged(seed: int) -> Seen:
    """The same model in bfloat16, merged and not: both round, in different places."""
    apart, said = [], []
    for dtype in (torch.bfloat16, torch.float32):
        model = copy.deepcopy(world.taught(seed)).to(dtype).eval()
        merged = merge_adapters(copy.deepcopy(model))
        with torch.no_grad():
            apart.append((merged(IDS) - model(IDS)).abs().max().item())
        said.append(diagnose(merged, batch=IDS))
    return Seen(apart[0], apart[1], said[0], said[1])


def _line(model: nn.Module, reader: str) -> str:
    """What folder.py says that a reader makes of the saved adapter."""
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, folder)
        return next(line for line in report(folder)[0] if line.startswith(reader))


def alpha_read_otherwise(seed: int) -> Seen:
    """Half of the layers have another alpha, which the file says, and an engine that reads one for all does not see."""
    model = world.taught(seed)
    layers = [m for m in model.modules() if is_adapter(m)]
    for layer in layers[: len(layers) // 2 - 1]:  # the same update, said in another way
        layer.scaling, layer.B.data = 4 * layer.scaling, layer.B.data / 4
    healthy, line = world.loss_on(model, world.lesson()), _line(model, "vLLM")
    said, engine = diagnose(model.eval(), batch=IDS), copy.deepcopy(model)
    for layer in filter(is_adapter, engine.modules()):
        layer.scaling = world.CONFIG.alpha / world.CONFIG.rank
    return Seen(world.loss_on(engine, world.lesson()), healthy, diagnose(engine, batch=IDS), said, elsewhere=line)


def refused_by_a_server(seed: int) -> Seen:
    """Rank 32, for a server that has room for 16."""
    model, healthy = world.adapted(seed, replace(world.CONFIG, rank=32)), world.taught(seed)
    world.train(model, world.lesson(), steps=2, seed=seed)
    said = [diagnose(m.eval(), batch=IDS) for m in (model, healthy)]
    ranks = [max(layer.rank for layer in filter(is_adapter, m.modules())) for m in (model, healthy)]
    return Seen(ranks[0], ranks[1], said[0], said[1], elsewhere=_line(model, "vLLM"))


PLAIN = "a merged layer is a layer like any other: what was added to it, and what was rounded off, is not in it"
GRID = "merged in place by PEFT, it is seen; a layer that was merged and then quantized has no mark of it"
CASES = (
    Case(
        name="merged into 4 bits",
        group="lost",
        asks="after the merge it has forgotten everything",
        slip="quantize_model(merge_adapters(model)) after a light lesson",
        mend="merge into 16 or 32 bits, or keep the adapter beside its base",
        number="share of the gain that is left",
        run=merged_into_four_bits,
        unseen=GRID,
        compare="one batch, before and after",
        threads=("mlx-tune#15", "peft#2321", "peft#1043"),
        chapter="05",
    ),
    Case(
        name="on another base",
        group="lost",
        asks="the adapter is fine here and nonsense there",
        slip="another model of the same shape under it",
        mend="keep the base's name, and a hash of it, beside the adapter",
        number="loss of the trained adapter",
        run=on_another_base,
        unseen="an adapter says which shapes it fits, and not which weights",
        compare="one batch, there and here",
        threads=("unsloth-zoo#810", "punica#3"),
        chapter="05",
    ),
    Case(
        name="merged and unmerged differ",
        group="lost",
        asks="merged outputs are not those of before",
        slip="compared in bfloat16",
        mend="compare in float32: it is a rounding step of the format",
        number="largest difference of the logits",
        fault=False,
        run=merged_and_unmerged,
        unseen=PLAIN,
        threads=("peft#2502", "peft#1388"),
        chapter="03",
    ),
    Case(
        name="another engine reads alpha otherwise",
        group="lost",
        asks="good here, bad in the engine",
        slip="layers of several alphas, in an engine that reads one",
        mend="make check FILE=adapter/; or merge before serving",
        number="loss as the engine computes it",
        run=alpha_read_otherwise,
        unseen="the model is right: what another program reads is asked of the folder (folder.py)",
        threads=("vllm#6909", "sglang#40835", "TensorRT-LLM#1668"),
        chapter="12",
    ),
    Case(
        name="the server refuses it",
        group="lost",
        asks="LoRA rank 32 is greater than max_lora_rank 16",
        slip="rank 32, for a server that was started with its defaults",
        mend="--max-lora-rank 32; or merge",
        number="rank (the server has room for 16)",
        run=refused_by_a_server,
        unseen="a server's limits are not the run's: they are asked of the folder (folder.py)",
        threads=("vllm#2847", "vllm#9280"),
        chapter="12",
    ),
)
