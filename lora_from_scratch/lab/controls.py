"""A start that knows nothing: the control for an adapter that starts at what quantization lost (arXiv 2310.08659).

LoftQ's start does two things at once. Its factors are not zero, so A and B both learn from the first step; and their
product is the best low-rank part of what was lost. Here the factors are as large, with the very singular values of
LoftQ's product, and their directions are random. The frozen weight is lowered by that product, so that the sum, and the
loss at the start, are those of the rounded base with an adapter at zero.
"""

import torch
from torch import nn

from lora_from_scratch.analysis import nulls
from lora_from_scratch.analysis.spectra import low_rank_factors
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab import cache, tasks, train
from lora_from_scratch.lab.finetune import Run, measure, prepare, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained

HERE = cache.imported(__name__)


def from_random_factors(run: Run, preset: Preset) -> dict:
    """The losses of `run`, whose start is LOFTQ, carried out from random factors of that size instead.

    Gives `tune_loss`, `task_loss` and `text_loss` as `fine_tune` does, `before`, the loss on the task at the start, and
    `seconds`. From the cache where nothing that decides it has changed. The rounded base must stay an nn.Linear, so not
    "NF4" (ValueError).
    """
    if run.base == "NF4":
        raise ValueError("base is 'NF4', whose weights are packed; take another code, such as 'NF2'")
    key = {**run_key(run, preset), "control": cache.code_version(HERE, nulls)}
    return cache.cached("control", key, lambda: _carry_out(run, preset))


def _carry_out(run: Run, preset: Preset) -> dict:
    model, length = pretrained(preset, run.seed), preset.model.max_position_embeddings
    with train.threads(1), torch.random.fork_rng():
        torch.manual_seed(run.seed)
        prepare(model, run)
        draw = torch.Generator().manual_seed(run.seed)
        for layer in filter(is_adapter, model.modules()):
            randomize(layer, draw)
        before = measure(model, run.task, preset)["task_loss"]
        batches = train.Batches(tasks.task_ids(run.task, run.split), preset.batch, length, seed=run.seed)
        train.fit(model, batches, preset.steps, run.lr, run.weight_decay)
        return {**measure(model, run.task, preset), "before": before, "seconds": 0.0}


@torch.no_grad()
def randomize(layer: nn.Module, draw: torch.Generator) -> None:
    """Give a LoRALinear factors with random directions and the sizes that it has; take their product off its base.

    base + s · B A is then what the base alone was.
    """
    update = nulls.random_update_like(layer.delta_weight(), draw)
    B, A = low_rank_factors(update, layer.rank)
    layer.A.copy_(A)
    layer.B.copy_(B / layer.scaling)
    layer.base.weight -= layer.delta_weight()
