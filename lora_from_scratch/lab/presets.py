"""The four sizes at which the book runs. A preset changes sizes, seeds and steps, never code.

    smoke   a few steps, to see that everything runs
    quick   a reader's two cores: one base of `full`, half the steps, one seed, the learning rates that `full` found
    full    what is committed: the same size, three seeds that are three bases, learning rates swept
    gpu     one GPU: width 512, five seeds that are five bases, learning rates swept

The environment variable LORA_PRESET picks one; without it, `gpu` where CUDA is and `quick` elsewhere.
"""

import os
from dataclasses import asdict, dataclass

import torch

from lora_from_scratch.lab.llama import LlamaConfig


@dataclass(frozen=True)
class Preset:
    """Sizes of the model, of its pretraining and of every fine-tuning run.

    `budget` is the number of learning rates that each method of a comparison may try; 0 means none: take
    what `full` found. `eval_windows` is the number of stretches of text, one context long, behind a loss.
    """

    name: str
    model: LlamaConfig
    pretrain_steps: int
    pretrain_batch: int
    steps: int
    batch: int
    seeds: int
    budget: int
    eval_windows: int
    device: str = "cpu"
    workers: int | None = None  # processes that train side by side; None: one for each core
    bases: int = 1  # pretrained bases; a run of seed s fine-tunes base s, and after the last the first again

    def base_of(self, seed: int) -> int:
        """Which base a run of this seed fine-tunes."""
        return int(seed) % self.bases

    def describe(self) -> dict:
        """The preset as plain numbers, for results and cache keys."""
        return asdict(self)


TINY = LlamaConfig(
    hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
)
BOOK = LlamaConfig()
LARGE = LlamaConfig(
    hidden_size=512,
    intermediate_size=1376,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=256,
)

PRESETS = {
    p.name: p
    for p in (
        Preset(
            "smoke",
            TINY,
            pretrain_steps=30,
            pretrain_batch=8,
            steps=6,
            batch=4,
            seeds=2,
            budget=3,
            eval_windows=8,
            workers=1,
            bases=2,
        ),
        Preset(
            "quick",
            BOOK,
            pretrain_steps=1450,
            pretrain_batch=32,
            steps=100,
            batch=16,
            seeds=1,
            budget=0,
            eval_windows=256,
        ),
        Preset(
            "full",
            BOOK,
            pretrain_steps=1450,
            pretrain_batch=32,
            steps=200,
            batch=16,
            seeds=3,
            budget=6,
            eval_windows=256,
            bases=4,  # one tunes the rates, three judge
        ),
        Preset(
            "gpu",
            LARGE,
            6000,
            pretrain_batch=64,
            steps=400,
            batch=16,
            seeds=5,
            budget=7,
            eval_windows=256,
            device="cuda",
            workers=1,
            bases=6,
        ),
    )
}


def preset(name: str | None = None) -> Preset:
    """The preset called `name`, or the one that LORA_PRESET or the hardware picks. Raises ValueError if unknown."""
    name = name or os.environ.get("LORA_PRESET") or ("gpu" if torch.cuda.is_available() else "quick")
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    if PRESETS[name].device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"preset {name!r} needs a CUDA device and there is none; use quick or full")
    return PRESETS[name]
