"""The null of a comparison: the same run on the same base with another draw (lab/again.py)."""

from dataclasses import replace

import pytest

from lora_from_scratch import AdapterConfig
from lora_from_scratch.lab.again import other_draw, second_time
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.run import Run
from lora_from_scratch.lab.workers import carry_out_all


@pytest.mark.parametrize("name", PRESETS)
def test_the_other_draw_has_the_same_base_and_a_seed_that_no_run_of_the_chapter_has(name):
    size = PRESETS[name]
    seeds = range(1, size.seeds + 1)
    for seed in seeds:
        other = other_draw(seed, size)
        assert size.base_of(other) == size.base_of(seed) and other not in seeds


def test_a_second_time_is_another_training_of_the_same_base():
    smoke = replace(PRESETS["smoke"], steps=2)
    run = Run(adapter=AdapterConfig(rank=2, alpha=8), lr=1e-2, keep=True)
    first = carry_out_all([replace(run, seed=seed) for seed in (1, 2)], smoke)
    second = second_time(run, smoke)
    assert len(second) == 2
    for a, b in zip(first, second, strict=True):
        frozen = [name for name in a["state"] if name.endswith("base.weight") or "embed" in name]
        assert frozen and all((a["state"][name] == b["state"][name]).all() for name in frozen)
        assert a["losses"] != b["losses"] and a["task_loss"] != b["task_loss"]
