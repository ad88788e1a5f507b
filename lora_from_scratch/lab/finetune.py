"""One fine-tuning run as plain data, and what carries it out.

A `Run` holds everything that decides a run's numbers beside the preset, so that it can be varied in one field
(`dataclasses.replace`), sent to another process, repeated, and cached.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lora_from_scratch import dora, inject, lora, loraplus, nf4, qlora, quantize, rslora, targets
from lora_from_scratch.analysis import spectra
from lora_from_scratch.inject import AdapterConfig, add_adapters, is_adapter
from lora_from_scratch.lab import cache, codes, tasks, train
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import base_key, pretrained
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import Batches, evaluate, fit, threads
from lora_from_scratch.loraplus import loraplus_param_groups
from lora_from_scratch.targets import find_targets


def _random_b(layer: nn.Module) -> None:
    nn.init.kaiming_uniform_(layer.B, a=math.sqrt(5))


def _swap_zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.A)
    _random_b(layer)


STARTS: dict[str, Callable[[nn.Module], object]] = {
    "B zero": lambda layer: None,  # as LoRALinear leaves it: A random, B zero
    "A zero": _swap_zero,
    "both random": _random_b,
    "both zero": lambda layer: nn.init.zeros_(layer.A),
}
LOFTQ = "what quantization lost"  # the start of LoftQ, which needs the weight as it was


@torch.no_grad()
def start_from_lost(layer: nn.Module, weight: Tensor) -> None:
    """Let s · B A be the best rank-r part of weight - base (LoftQ's first step, arXiv 2310.08659, algorithm 1)."""
    B, A = spectra.low_rank_factors(weight - layer.base.weight, layer.rank)
    layer.A.copy_(A)
    layer.B.copy_(B / layer.scaling)
    if hasattr(layer, "magnitude"):  # a DoRA layer: the sizes too are those of the weight as it was
        layer.magnitude.copy_(layer.row_norms())


HERE = sys.modules[__name__]


@dataclass(frozen=True)
class Run:
    """One fine-tuning run. `adapter` None trains the weights themselves; `start` names how A and B begin (STARTS).

    `base` names what the frozen weights are rounded to first (codes.BASES), None leaves them alone. `ratio` is LoRA+'s:
    B learns at lr · ratio. `snapshots` asks for the weights at that many evenly spaced steps, the last one included.
    Raises ValueError for an unknown task, scope, split, base or start, for a rounded base, a ratio or the start LOFTQ
    without what it needs, for a learning rate or a ratio that is not positive and finite, and for negative snapshots.
    """

    task: str = "rot13"
    adapter: AdapterConfig | None = None
    scope: str = "all"  # without an adapter: "all" weights, or those of the "linear" layers that "all-linear" means
    lr: float = 1e-3
    seed: int = 0
    weight_decay: float = 0.0
    start: str = "B zero"
    base: str | None = None
    split: str = "task"  # the part of the corpus that is trained on; "train" is what the base has read already
    ratio: float = 1.0
    snapshots: int = 0
    keep: bool = False  # whether the result holds the tuned weights

    def __post_init__(self) -> None:
        if self.task not in tasks.TASKS:
            raise ValueError(f"unknown task {self.task!r}; there are {', '.join(tasks.TASKS)}")
        if self.split not in ("train", "task"):
            raise ValueError(f"unknown split {self.split!r}; there are train, task (held_out is for measuring)")
        if self.scope not in ("all", "linear"):
            raise ValueError(f"unknown scope {self.scope!r}; there are all, linear")
        if self.start not in (*STARTS, LOFTQ):
            raise ValueError(f"unknown start {self.start!r}; there are {', '.join((*STARTS, LOFTQ))}")
        if self.base is not None and self.base not in codes.BASES:
            raise ValueError(f"unknown base {self.base!r}; there are {', '.join(codes.BASES)}")
        if self.base is not None and self.adapter is None:
            raise ValueError(f"base is {self.base!r} without an adapter; rounded weights are frozen, so add one")
        if self.start == LOFTQ and self.base is None:
            raise ValueError(f"start is {LOFTQ!r}, but nothing is quantized; give a base")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; it must be a positive, finite number")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio is {self.ratio!r}; it must be a positive, finite number")
        if self.ratio != 1 and self.adapter is None:
            raise ValueError(f"ratio is {self.ratio!r} without an adapter; there is no B to learn faster, so add one")
        if self.snapshots < 0:
            raise ValueError(f"snapshots is {self.snapshots!r}; it is how many to take, so 0 or more")


def carry_out(run: Run, preset: Preset) -> dict:
    """The result of `run` at `preset` (see `fine_tune`), from the cache where nothing that decides it has changed."""
    return cache.cached("run", run_key(run, preset), lambda: fine_tune(run, pretrained(preset), preset))


def run_key(run: Run, preset: Preset) -> dict:
    """Everything that decides the result of `run` at `preset`."""
    return {
        "run": asdict(run),
        "preset": {"steps": preset.steps, "batch": preset.batch, "eval_windows": preset.eval_windows},
        "base": base_key(preset),
        "code": cache.code_version(
            lora, rslora, dora, loraplus, nf4, qlora, quantize, inject, targets, codes, spectra, tasks, train, HERE
        ),
    }


def fine_tune(run: Run, model: nn.Module, preset: Preset, on_step: Callable[[], object] = lambda: None) -> dict:
    """Carry out `run` on `model`, a fresh copy of the pretrained base, on one thread; call `on_step` after every step.

    Gives `task_loss` and `text_loss` (the task and plain English, held out), `tune_loss` (the task on other
    windows of the held-out text: for choosing learning rates), the `losses` of the steps, the number of `trained`
    parameters, `seconds`, and, if `run.keep`, the tuned `state`, as a state dict on the CPU. With `run.snapshots`, also
    `snapshots`: for each, {name: weight (out, in)} of the linear layers, an adapter's update within it.
    """
    started = time.perf_counter()
    length = preset.model.max_position_embeddings
    with threads(1):
        torch.manual_seed(run.seed)
        names = list(find_targets(model, "all-linear"))
        prepare(model, run)
        batches = Batches(task_ids(run.task, run.split), preset.batch, length, seed=run.seed)
        groups = None if run.ratio == 1 else loraplus_param_groups(model, run.lr, run.ratio, run.weight_decay)
        recorder = Recorder(model, names, preset.steps, run.snapshots)
        both = lambda: (recorder(), on_step())  # noqa: E731
        losses = fit(model, batches, preset.steps, run.lr, run.weight_decay, on_step=both, groups=groups)
        result = {"losses": losses, **measure(model, run.task, preset)}
    result["trained"] = inject.count_parameters(model)[0]
    result["seconds"] = time.perf_counter() - started
    if run.keep:
        result["state"] = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if run.snapshots:
        result["snapshots"] = recorder.snapshots
    return result


class Recorder:
    """Called after every step, copies the weights of the layers called `names` at `count` evenly spaced steps."""

    def __init__(self, model: nn.Module, names: list[str], steps: int, count: int) -> None:
        self.model, self.names, self.step = model, names, 0
        self.due = {steps * (i + 1) // count for i in range(count)}
        self.snapshots: list[dict[str, Tensor]] = []

    def __call__(self) -> None:
        self.step += 1
        if self.step in self.due:
            weights = {name: self.model.get_submodule(name).weight for name in self.names}
            self.snapshots.append({name: weight.detach().cpu().clone() for name, weight in weights.items()})


def prepare(model: nn.Module, run: Run) -> None:
    """Round the base, then make trainable what `run` trains: adapters, the linear layers alone, or everything."""
    before = {}
    if run.base is not None:
        before = {n: m.weight.detach().clone() for n, m in find_targets(model, "all-linear").items()}
        codes.quantize_base(model, run.base)
    if run.adapter is not None:
        add_adapters(model, run.adapter)
        for name, layer in [(n, m) for n, m in model.named_modules() if is_adapter(m)]:
            if run.start == LOFTQ:
                start_from_lost(layer, before[name])
            else:
                STARTS[run.start](layer)
    elif run.scope == "linear":
        model.requires_grad_(False)
        for layer in find_targets(model, "all-linear").values():
            layer.requires_grad_(True)


def measure(model: nn.Module, task: str, preset: Preset) -> dict[str, float]:
    """`tune_loss`, `task_loss` and `text_loss` of a model, on fixed windows of the held-out text."""
    length, count = preset.model.max_position_embeddings, 2 * preset.eval_windows
    windows = {name: fixed_windows(task_ids(name, "held_out"), count, length) for name in (task, "text")}
    return {
        "tune_loss": evaluate(model, windows[task][0::2]),
        "task_loss": evaluate(model, windows[task][1::2]),
        "text_loss": evaluate(model, windows["text"][1::2]),
    }
