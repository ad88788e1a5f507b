"""The null of a comparison: the same run on the same base with another draw (lab/again.py)."""

import pytest

from lora_from_scratch.lab.again import other_draw
from lora_from_scratch.lab.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_the_other_draw_has_the_same_base_and_a_seed_that_no_run_of_the_chapter_has(name):
    size = PRESETS[name]
    seeds = range(1, size.seeds + 1)
    for seed in seeds:
        other = other_draw(seed, size)
        assert size.base_of(other) == size.base_of(seed) and other not in seeds
