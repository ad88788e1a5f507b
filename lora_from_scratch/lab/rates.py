"""Where the best learning rate lies: runs of any length, batch and width, and a search that ends at the bottom.

A `Sized` run says for itself what a preset otherwise says for all: how many steps, how large a batch, how wide a
model. `valleys` tries rates a factor of two apart, and goes outwards until the best one has a worse neighbour on
either side; the bottom of the parabola through these three is the best rate (analysis/parabola.py).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from lora_from_scratch.analysis.parabola import bottom
from lora_from_scratch.lab import finetune, starting, sweep
from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.workers import carry_out_all, make_bases

MOST = 9  # rates that one valley may take


@dataclass(frozen=True)
class Sized(Run):
    """A `Run` with its own `steps`, `batch` and `width`, and a `begin` (starting.BEGINNINGS); 0 means the preset's.

    Raises ValueError for a negative size, or a beginning other than "plain" without an adapter.
    """

    steps: int = 0
    batch: int = 0
    width: int = 0
    begin: str = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "width"):
            if (size := getattr(self, name)) < 0:
                raise ValueError(f"{name} is {size!r}; give a positive number, or 0 for the preset's")
        if self.begin != "plain":
            self.plain()

    def plain(self) -> Run:
        """The run without its sizes: a Run, or a Started where it begins otherwise than plain."""
        kind = Run if self.begin == "plain" else starting.Started
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})


def at_width(preset: Preset, width: int) -> Preset:
    """`preset` with a model of another width: heads as wide as before, the MLP as many times as wide as the model.

    Raises ValueError for a width that is not a positive multiple of a head's.
    """
    model = preset.model
    head = model.hidden_size // model.num_attention_heads
    if width < 1 or width % head:
        raise ValueError(f"width is {width!r}; a head is {head} wide: give a positive multiple of it")
    heads, mlp = width // head, model.intermediate_size * width // model.hidden_size
    sizes = {"intermediate_size": mlp, "num_attention_heads": heads, "num_key_value_heads": heads}
    return replace(preset, model=replace(model, hidden_size=width, **sizes))


def sized(run: Sized, preset: Preset) -> Preset:
    """The preset with the sizes of `run` in place of its own."""
    preset = at_width(preset, run.width or preset.model.hidden_size)
    return replace(preset, steps=run.steps or preset.steps, batch=run.batch or preset.batch)


def learn(run: Sized, preset: Preset) -> dict:
    """What `finetune.carry_out` or `starting.learn` gives for `run`, at its own sizes."""
    work = finetune.carry_out if run.begin == "plain" else starting.learn
    return work(run.plain(), sized(run, preset))


def results_of(runs: Sequence[Sized], preset: Preset) -> list[dict]:
    """The results of `runs`, in their order; the longest are begun first, so that no core waits for the last one."""
    for width in sorted({run.width for run in runs}):
        seeds = {run.seed for run in runs if run.width == width}
        make_bases(seeds, at_width(preset, width or preset.model.hidden_size))
    cost = lambda i: (at := sized(runs[i], preset)).steps * at.batch * at.model.hidden_size  # noqa: E731
    order = sorted(range(len(runs)), key=cost, reverse=True)
    found = dict(zip(order, carry_out_all([runs[i] for i in order], preset, work=learn), strict=True))
    return [found[i] for i in range(len(runs))]


@dataclass(frozen=True)
class Valley:
    """The losses of the rates tried. `finished` is False where the best of them is at an edge."""

    tried: dict[float, float]

    @property
    def finished(self) -> bool:
        """Whether the best rate has a worse one on either side."""
        return sweep.bracketed(self.tried)

    @property
    def best(self) -> float:
        """The bottom of the parabola through the best rate and its neighbours; the best one tried if at an edge."""
        best, rates = sweep.best_rate(self.tried), sorted(self.tried)
        if not self.finished:
            return best
        place = rates.index(best)
        return bottom({rate: self.tried[rate] for rate in rates[place - 1 : place + 2]})


def valleys(
    runs: Mapping[Hashable, Run],
    seeds: Sequence[int],
    first: Mapping[Hashable, float],
    preset: Preset,
    carry: Callable[[list, Preset], list[dict]] | None = None,
) -> dict[tuple[Hashable, int], Valley]:
    """{(label, seed): the valley of that run on that seed}, from three rates around `first` outwards.

    The loss of a rate is the mean of both halves of the held-out windows. Rates are powers of two times 0.001, so that
    runs of several labels share them. At most MOST are tried. `carry` gives the results of runs; `results_of` if None.
    """
    carry = carry or results_of
    tried: dict = {(label, seed): {} for label in runs for seed in seeds}
    middle = {label: 0.001 * 2.0 ** round(math.log2(rate / 0.001)) for label, rate in first.items()}
    wanted = {(label, seed): [middle[label] * 2.0**k for k in (-1, 0, 1)] for label, seed in tried}
    while jobs := [(key, rate) for key, rates in wanted.items() for rate in rates]:
        asked = [replace(runs[label], lr=rate, seed=seed) for (label, seed), rate in jobs]
        for (key, rate), found in zip(jobs, carry(asked, preset), strict=True):
            tried[key][rate] = (found["tune_loss"] + found["task_loss"]) / 2
        wanted = {key: outwards(rates) for key, rates in tried.items()}
    return {key: Valley(rates) for key, rates in tried.items()}


def outwards(tried: Mapping[float, float]) -> list[float]:
    """The rate beyond the best one where that is at an edge; none where it is not, or where MOST were tried."""
    if sweep.bracketed(tried) or len(tried) >= MOST:
        return []
    return [min(tried) / 2 if sweep.best_rate(tried) == min(tried) else max(tried) * 2]


def pick_and_judge(
    runs: Mapping[str, Run],
    first: Mapping[str, float],
    preset: Preset,
    known: Mapping[str, float] | None = None,
    carry: Callable[[list, Preset], list[dict]] | None = None,
) -> dict[str, sweep.Tuned]:
    """Every run at its best rate, picked on seed 0 and judged on the preset's other seeds.

    A valley on seed 0 and then the bottom of its parabola are tried; the best of them is taken. Where the preset has no
    budget for that, the rates are the `known` ones, if every label has one. `carry` is as in `valleys`.
    """
    carry = carry or results_of
    tried: dict[str, dict[float, float]] = {label: {} for label in runs}
    if preset.budget or not known or not set(runs) <= set(known):
        found = valleys(runs, (0,), first, preset, carry)
        bottoms = [replace(runs[label], lr=found[label, 0].best, seed=0) for label in runs]
        for label, run, result in zip(runs, bottoms, carry(bottoms, preset), strict=True):
            tried[label] = found[label, 0].tried | {run.lr: (result["tune_loss"] + result["task_loss"]) / 2}
    return sweep.judged(dict(runs), tried, known, preset.seeds, lambda some: carry(some, preset))
