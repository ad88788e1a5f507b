"""Runs whose A and B begin at an SVD (starts.py), how curved their loss is there, and what 4 bits have lost by then.

A `Started` is a `Run` with one field more, so everything that takes a run takes it. Its start is made after the
adapters are added and before the first step; from there on training and measuring are those of finetune.py.

Over NF4 the frozen weights hold the very values that NF4Linear decodes, in an nn.Linear, so that a step does not decode
them anew: for numbers, not for memory.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lora_from_scratch import starts
from lora_from_scratch.analysis import curvature
from lora_from_scratch.inject import count_parameters, is_adapter
from lora_from_scratch.lab import cache
from lora_from_scratch.lab.finetune import Run, measure, prepare, run_key
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.sweep import GRID, Tuned, judged, search
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import Batches, fit, loss_of, threads
from lora_from_scratch.lab.workers import carry_out_all
from lora_from_scratch.qlora import NF4Linear

HERE = cache.imported(__name__)


def _nf4(linear: nn.Linear) -> nn.Linear:
    """A frozen linear layer with the weight that NF4 leaves of this one's."""
    made = nn.utils.skip_init(nn.Linear, linear.in_features, linear.out_features, bias=False)
    made.weight, made.bias = nn.Parameter(NF4Linear.from_linear(linear).weight.detach(), False), linear.bias
    return made


def _begin_nf4(layer: nn.Module) -> None:
    layer.base = _nf4(layer.base)


def _begin_qpissa(layer: nn.Module) -> None:
    starts.pissa(layer)
    layer.base = _nf4(layer.base)


def _begin_random_over_nf4(layer: nn.Module, draw: torch.Generator) -> None:
    starts.random_start(layer, draw)
    layer.base = _nf4(layer.base)


BEGINNINGS: dict[str, Callable[[nn.Module, torch.Generator], object]] = {
    "plain": lambda layer, draw: None,
    "PiSSA": lambda layer, draw: starts.pissa(layer),
    "MiLoRA": lambda layer, draw: starts.milora(layer),
    "random, large": lambda layer, draw: starts.random_start(layer, draw),
    "random, small": lambda layer, draw: starts.random_start(layer, draw, minor=True),
    "QLoRA": lambda layer, draw: _begin_nf4(layer),
    "LoftQ": lambda layer, draw: starts.loftq(layer, layer.base.weight.detach().clone(), 5, _nf4),
    "QPiSSA": lambda layer, draw: _begin_qpissa(layer),
    "random over NF4": _begin_random_over_nf4,
}


@dataclass(frozen=True)
class Started(Run):
    """A run whose adapters begin as BEGINNINGS says. Raises ValueError for another name, or without an adapter."""

    begin: str = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin not in BEGINNINGS:
            raise ValueError(f"unknown beginning {self.begin!r}; there are {', '.join(BEGINNINGS)}")
        if self.adapter is None or self.base is not None or self.start != "B zero":
            raise ValueError("a beginning sets A, B and the base: give an adapter, and neither `base` nor `start`")


def begun(model: nn.Module, run: Started) -> nn.Module:
    """`model` with the adapters of `run`, begun, in place. Random directions hang on the run's seed alone."""
    prepare(model, run)
    draw = torch.Generator().manual_seed(run.seed)
    for layer in [module for module in model.modules() if is_adapter(module)]:
        BEGINNINGS[run.begin](layer, draw)
    return model


def learn(run: Started, preset: Preset) -> dict:
    """What `finetune.carry_out` gives, for a run that begins at its `begin`. From the cache where nothing changed."""
    return cache.cached("started", _key(run, preset), lambda: _learn(run, preset))


def _key(run: Started, preset: Preset) -> dict:
    return {**run_key(run, preset), "starting": cache.code_version(starts, curvature, HERE)}


def _learn(run: Started, preset: Preset) -> dict:
    started, length = time.perf_counter(), preset.model.max_position_embeddings
    model = pretrained(preset, run.seed)
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(run.seed)
        begun(model, run)
        batches = Batches(task_ids(run.task, run.split), preset.batch, length, seed=run.seed)
        result = {"losses": fit(model, batches, preset.steps, run.lr, run.weight_decay)}
        result |= measure(model, run.task, preset)
    return result | {"trained": count_parameters(model)[0], "seconds": time.perf_counter() - started}


def compare_starts(
    methods: dict[str, Started],
    preset: Preset,
    known: dict[str, float] | None = None,
    grid: tuple[float, ...] = GRID,
) -> dict[str, Tuned]:
    """As sweep.compare: every start at its own best rate, from equally many tries, over the preset's seeds."""

    def results_of(runs: list[Started]) -> list[dict]:
        return carry_out_all(runs, preset, work=learn)

    def losses_of(jobs: list[tuple[str, float]]) -> list[float]:
        return [r["tune_loss"] for r in results_of([replace(methods[label], lr=rate, seed=0) for label, rate in jobs])]

    if preset.budget == 0 and known and set(methods) <= set(known):
        tried = {label: {} for label in methods}
    else:
        tried = search(dict.fromkeys(methods, grid), max(len(grid), preset.budget), losses_of)
    return judged(methods, tried, known, preset.seeds, results_of)


def look(run: Started, preset: Preset, windows: int = 16) -> dict[str, float]:
    """How the loss lies round a run's start, on the first `windows` of its task: nothing is trained.

    `curvature` and `smallest`, the ends of the Hessian's spectrum over A and B, with the `residual` of the first;
    `step`, how far ΔW moves (Frobenius, all layers) in a first step of Adam at rate 1, to first order:
    s · (sign(∂L/∂B) A + B sign(∂L/∂A)). Cached.
    """
    key = {**_key(run, preset), "windows": windows}
    return cache.cached("look", key, lambda: _look(run, preset, windows))


def _look(run: Started, preset: Preset, windows: int) -> dict[str, float]:
    started = time.perf_counter()
    ids = fixed_windows(task_ids(run.task, run.split), windows, preset.model.max_position_embeddings)
    ids = ids.to(preset.device)
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = begun(pretrained(preset, run.seed), run)
        ends = curvature.hessian_ends(model, lambda m: loss_of(m, ids))
        loss_of(model, ids).backward()
        moved = [_first_move(layer).square().sum() for layer in model.modules() if is_adapter(layer)]
    return {
        "curvature": ends.largest,
        "smallest": ends.smallest,
        "residual": ends.residual,
        "products": ends.products,
        "step": math.sqrt(float(sum(moved))),
        "seconds": time.perf_counter() - started,
    }


@torch.no_grad()
def _first_move(layer: nn.Module) -> Tensor:
    return layer.scaling * (layer.B.grad.sign() @ layer.A + layer.B @ layer.A.grad.sign())  # (d_out, d_in)


@torch.no_grad()
def lost(run: Started, preset: Preset) -> float:
    """||W - (base + s · B A)|| / ||W|| over all adapted layers (Frobenius): what the start of `run` has lost of W."""
    with torch.random.fork_rng():
        before, after = pretrained(preset, run.seed), begun(pretrained(preset, run.seed), run)
    pairs = [(before.get_submodule(n).weight, m.base.weight + m.delta_weight()) for n, m in after.named_modules()
             if is_adapter(m)]  # fmt: skip
    return math.sqrt(sum(float((W - now).square().sum()) for W, now in pairs)
                     / sum(float(W.square().sum()) for W, _ in pairs))  # fmt: skip
