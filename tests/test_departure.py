"""One epoch of a text and where its curves part: what `lab/epoch.py` and `analysis/departure.py` promise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_tasks import use_made_up_text

from lora_from_scratch.analysis.departure import (
    best_of_rates,
    bits_each,
    bits_met,
    common,
    departure,
    looks,
    octaves,
    predicted_step,
)
from lora_from_scratch.book.figures.ch15 import constant
from lora_from_scratch.inject import AdapterConfig
from lora_from_scratch.lab import epoch, tasks
from lora_from_scratch.lab.epoch import Epoch, learn_once, once
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.train import loss_of

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, steps=6, batch=2, eval_windows=4, workers=1)
RUN = Epoch(task="rot13", adapter=AdapterConfig(rank=2, alpha=8), lr=1e-2, seed=1)


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)
    monkeypatch.setattr(epoch, "task_ids", tasks.task_ids)


def noisy(seed, steps=160):
    """A falling curve with noise that all curves of a seed share, and a small one of its own."""
    draw = np.random.default_rng(seed)
    return 3 - 0.3 * np.log(np.arange(1, steps + 1)) + 0.1 * draw.standard_normal(steps)


def test_a_curve_has_left_where_it_is_above_for_three_looks():
    """It leaves at step 80 by 0.05, half of the noise that both share; two looks, or being below, do not count."""
    lowest, own = noisy(0), 0.005 * np.random.default_rng(1).standard_normal(160)
    since = lambda first, last=160: (np.arange(160) >= first) & (np.arange(160) < last)  # noqa: E731
    found = lambda curve: departure(looks(curve, 8), looks(lowest, 8))  # noqa: E731
    assert found(lowest + own + 0.05 * since(80)) == 84
    assert found(lowest + own + 0.05 * since(80) + 0.5 * since(8, 24)) == 84
    assert found(lowest + own + 0.05 * since(80) + 0.5 * since(8, 32)) == 12
    for never in (lowest + own, lowest + own + 0.5 * since(8, 24), lowest + own - 0.5 * since(40)):
        assert math.isinf(found(never))


def test_the_common_curve_is_the_lowest_at_each_look_and_so_is_the_best_of_the_rates():
    first, second = [1.0] * 4 + [3.0] * 4 + [1.0] * 4, [2.0] * 12
    assert best_of_rates([first, second], 4).mean(-1).tolist() == [1, 2, 1]
    assert best_of_rates([[math.nan] * 12, second], 4).mean(-1).tolist() == [2, 2, 2]
    assert common({"a": looks(first, 4), "b": looks(second, 4)}).mean(-1).tolist() == [1, 2, 1]
    for steps, width in ((12, 1), (8, 4)):
        with pytest.raises(ValueError, match=f"{steps} steps in looks of {width}"):
            looks([1.0] * steps, width)


def test_bits_are_summed_from_nats_and_the_prediction_is_where_c_a_parameter_is_met():
    bits = bits_met([3 * math.log(2)] * 20, 1000)
    assert bits[0] == pytest.approx(3000) and bits[-1] == pytest.approx(60000)
    assert predicted_step(1.5, 12_000, bits) == pytest.approx(6) and math.isinf(predicted_step(10, 12_000, bits))
    assert bits_each(6, 12_000, bits) == pytest.approx(1.5)
    assert predicted_step(0.125, 12_000, bits) == pytest.approx(0.5)  # within the first step
    c, blind = constant({1: 2.0, 4: 8.0, 16: math.inf}, {1: 1000, 4: 4000, 16: 16000}, bits, 20)
    assert c == pytest.approx(6) and blind == pytest.approx(4)
    assert constant({1: math.inf}, {1: 1000}, bits, 20)[1] == pytest.approx(20)


def test_a_miss_is_in_octaves_and_nobody_is_wrong_beyond_what_was_looked_at():
    assert octaves(4, 16, 100) == octaves(16, 4, 100) == 2
    assert octaves(math.inf, math.inf, 100) == 0 and octaves(50, math.inf, 100) == 1
    assert octaves(0.1, 8, 100, first=8) == 0


def test_an_epoch_meets_every_target_once():
    ids = torch.arange(67)
    windows = torch.cat(list(once(ids, 2, 8, seed=3)))
    assert windows.shape == (8, 9) and sorted(windows[:, 1:].flatten().tolist()) == list(range(1, 65))
    assert not torch.equal(windows, torch.cat(list(once(ids, 2, 8, seed=4))))


def test_each_loss_is_taken_before_the_step_learns_and_the_windows_are_the_same_for_all(build):
    found = learn_once(RUN, SMOKE)
    assert len(found["losses"]) == 12 and found["characters"] == 2 * 64 and 0 < found["share"] < 1
    windows = list(once(tasks.task_ids("rot13", "train"), 2, 64, seed=1))[:12]
    base = pretrained(SMOKE, 1)
    assert found["losses"][0] == pytest.approx(loss_of(base, windows[0]).item(), abs=1e-5)
    still = learn_once(replace(RUN, lr=1e-9), SMOKE)
    assert still["losses"] == pytest.approx([loss_of(base, ids).item() for ids in windows], abs=1e-4)
    assert found["losses"][-1] < still["losses"][-1] and found["trained"] < learn_once(
        replace(RUN, adapter=None), SMOKE
    )["trained"]  # fmt: skip
    assert learn_once(replace(RUN, order=1), SMOKE)["losses"][0] != found["losses"][0]


def test_a_copy_meets_the_same_windows_from_the_same_base_with_another_a(build):
    """Before the first step both are the base on the same windows; after it they part."""
    found, copy = learn_once(RUN, SMOKE), learn_once(replace(RUN, draw=1), SMOKE)
    assert found["losses"][0] == copy["losses"][0] and found["losses"][-1] != copy["losses"][-1]


def test_what_an_epoch_cannot_be_is_refused(build):
    with pytest.raises(ValueError, match="times is -1"):
        replace(RUN, times=-1)
    with pytest.raises(ValueError, match="enough for 23 steps"):
        learn_once(replace(RUN, times=100), SMOKE)
