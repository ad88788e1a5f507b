"""What chance scores where two methods are compared: one of them a second time.

A difference of two methods is paired over bases, so its null must be too: the same run, on the same base, with other
batches and another start. A seed decides all three, and `Preset.base_of` counts bases round and round: one round on is
the same base.
"""

from dataclasses import replace

from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.run import Run
from lora_from_scratch.lab.workers import carry_out_all


def other_draw(seed: int, preset: Preset) -> int:
    """The seed of the same base with other batches and another start."""
    return seed + preset.bases


def second_time(run: Run, preset: Preset) -> list[dict]:
    """The results of `run` a second time on the bases of seeds 1, 2, …, `preset.seeds`, in that order."""
    seeds = range(1, preset.seeds + 1)
    return carry_out_all([replace(run, seed=other_draw(seed, preset)) for seed in seeds], preset)
