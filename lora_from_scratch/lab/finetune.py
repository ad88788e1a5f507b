"""What carries out a fine-tuning run (run.py), measures it, and keeps its result."""

import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from lora_from_scratch import (
    dora,
    frozen_product,
    inject,
    lora,
    loraplus,
    nf4,
    nf4_tables,
    qlora,
    quantize,
    rslora,
    targets,
)
from lora_from_scratch.analysis import spectra
from lora_from_scratch.inject import add_adapters, is_adapter
from lora_from_scratch.lab import begin, cache, codes, tasks, train
from lora_from_scratch.lab import run as run_module
from lora_from_scratch.lab.begin import LOFTQ, STARTS, start_from_lost
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import base_key, pretrained
from lora_from_scratch.lab.run import Run
from lora_from_scratch.lab.tasks import fixed_windows, task_ids
from lora_from_scratch.lab.train import Batches, evaluate, fit, threads
from lora_from_scratch.loraplus import loraplus_param_groups
from lora_from_scratch.targets import find_targets

HERE = cache.imported(__name__)
METHODS = (lora, rslora, dora, loraplus, nf4_tables, nf4, frozen_product, qlora, quantize, inject, targets)


def carry_out(run: Run, preset: Preset) -> dict:
    """The result of `run` at `preset` (see `fine_tune`), from the cache where nothing that decides it has changed."""
    return cache.cached("run", run_key(run, preset), lambda: fine_tune(run, pretrained(preset, run.seed), preset))


def run_key(run: Run, preset: Preset) -> dict:
    """Everything that decides the result of `run` at `preset`."""
    return {
        "run": asdict(run),
        "preset": {"steps": preset.steps, "batch": preset.batch, "eval_windows": preset.eval_windows},
        "base": base_key(preset, run.seed),
        "code": cache.code_version(*METHODS, codes, spectra, begin, run_module, tasks, train, HERE),
    }


def fine_tune(run: Run, model: nn.Module, preset: Preset, on_step: Callable[[], object] = lambda: None) -> dict:
    """Carry out `run` on `model`, a fresh copy of its base, on one thread; call `on_step` after every step.

    Gives `task_loss` and `text_loss` (the task and plain English, held out), `tune_loss` (the task on other
    windows of the held-out text: for choosing learning rates), the `losses` of the steps, the number of `trained`
    parameters, `seconds`, and, if `run.keep`, the tuned `state`, as a state dict on the CPU. With `run.snapshots`, also
    `snapshots`: for each, {name: weight (out, in)} of the linear layers, an adapter's update within it.
    """
    started = time.perf_counter()
    length = preset.model.max_position_embeddings
    if run.snapshots > preset.steps:
        raise ValueError(f"snapshots is {run.snapshots}, and the run has {preset.steps} steps; ask for fewer")
    with threads(1), torch.random.fork_rng():  # the caller's random numbers go on as they were
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


def measure_base(task: str, preset: Preset, seed: int = 0) -> dict[str, float]:
    """What `measure` gives for the base that a run of `seed` starts from: what its result is to be compared with."""
    key = {"task": task, "eval_windows": preset.eval_windows, "base": base_key(preset, seed)}
    key["code"] = cache.code_version(tasks, train, HERE)
    return cache.cached("start", key, lambda: measure(pretrained(preset, seed), task, preset))


def measure(model: nn.Module, task: str, preset: Preset) -> dict[str, float]:
    """`tune_loss`, `task_loss` and `text_loss` of a model, on fixed windows of the held-out text."""
    length, count = preset.model.max_position_embeddings, 2 * preset.eval_windows
    windows = {name: fixed_windows(task_ids(name, "held_out"), count, length) for name in (task, "text")}
    return {
        "tune_loss": evaluate(model, windows[task][0::2]),
        "task_loss": evaluate(model, windows[task][1::2]),
        "text_loss": evaluate(model, windows["text"][1::2]),
    }
