"""One fine-tuning run as plain data.

A `Run` holds everything that decides a run's numbers beside the preset, so that it can be varied in one field
(`dataclasses.replace`), sent to another process, repeated, and cached.
"""

import math
from dataclasses import dataclass

from lora_from_scratch.inject import AdapterConfig
from lora_from_scratch.lab import codes, tasks
from lora_from_scratch.lab.begin import LOFTQ, STARTS


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
        for name in ("lr", "seed", "weight_decay", "ratio", "snapshots"):  # NumPy's and torch's numbers are numbers
            if hasattr(value := getattr(self, name), "item"):
                object.__setattr__(self, name, value.item())
        tasks.transform(self.task)
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
