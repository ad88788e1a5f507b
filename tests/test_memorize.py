"""Random pairs and what is stored of them: what `lab/pairs.py` and `lab/memorize.py` promise."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_tasks import use_made_up_text
from torch import nn

from lora_from_scratch.inject import AdapterConfig
from lora_from_scratch.lab import memorize as module
from lora_from_scratch.lab import tasks
from lora_from_scratch.lab.memorize import Memory, drawn, fill, memorize, memorize_all, round_to_nf4
from lora_from_scratch.lab.pairs import BITS, FIRST, SYMBOLS, random_pairs, recall, stored, value_loss
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.rates import pick_and_judge
from lora_from_scratch.qlora import NF4Linear
from lora_from_scratch.targets import find_targets

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, steps=12, eval_windows=4, workers=1)
RUN = Memory(adapter=AdapterConfig(rank=4, alpha=8), lr=1e-2, seed=1, pairs=8, value=2, crowd=2)


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)
    monkeypatch.setattr(module, "task_ids", tasks.task_ids)


class Says(nn.Module):
    """Gives the next character of the pairs it holds the probability p, all others of the 64 the rest alike."""

    def __init__(self, pairs, p, off=0):
        super().__init__()
        self.pairs, self.p, self.off = pairs, p, off

    def forward(self, ids):
        truth = self.pairs[:, 1 : 1 + ids.shape[1]] - FIRST
        probability = torch.full((*truth.shape, SYMBOLS), (1 - self.p) / (SYMBOLS - 1))
        probability.scatter_(-1, ((truth + self.off) % SYMBOLS)[..., None], self.p)
        logits = torch.full((*truth.shape, 128), -math.inf)
        logits[..., FIRST : FIRST + SYMBOLS] = probability.log()
        return logits


@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 6), st.integers(0, 99))
def test_keys_are_all_different_and_symbols_are_of_the_64(count, key, value, seed):
    pairs = random_pairs(count, key, value, seed)
    assert pairs.shape == (count, key + value) and len({tuple(p[:key].tolist()) for p in pairs}) == count
    assert pairs.min() >= FIRST and pairs.max() < FIRST + SYMBOLS
    assert torch.equal(pairs, random_pairs(count, key, value, seed))
    assert count < 8 or not torch.equal(pairs, random_pairs(count, key, value, seed + 1))


@given(st.floats(0.02, 0.98), st.integers(1, 3), st.integers(1, 5))
def test_stored_is_what_a_coder_saves_against_an_even_guess(p, key, value):
    """6 + log2 p for each symbol of a value, none for the keys; an even guess has 0, one sure of another far less."""
    pairs = random_pairs(7, key, value, 3)
    assert stored(Says(pairs, p), pairs, key) == pytest.approx(7 * value * (BITS + math.log2(p)), abs=1e-2)
    assert stored(Says(pairs, 1 / SYMBOLS), pairs, key) == pytest.approx(0, abs=1e-2)
    assert stored(Says(pairs, 0.98, off=1), pairs, key) < -20
    nats = value_loss(Says(pairs, p), pairs, key).item()
    assert nats == pytest.approx(-math.log(p), abs=1e-4)


def test_recall_tells_first_choices_from_those_above_a_half():
    pairs = random_pairs(9, 2, 3, 0)
    assert recall(Says(pairs, 0.4), pairs, 2) == {"right": 1, "sure": 0, "sure_and_wrong": 0, "whole": 1}
    assert recall(Says(pairs, 0.6), pairs, 2) == {"right": 1, "sure": 1, "sure_and_wrong": 0, "whole": 1}
    assert recall(Says(pairs, 0.6, off=1), pairs, 2) == {"right": 0, "sure": 0, "sure_and_wrong": 0, "whole": 0}


def test_what_is_stored_and_what_is_compared_share_no_key():
    own, other = drawn(RUN)
    assert len({tuple(pair[:3].tolist()) for pair in torch.cat((own, other))}) == 2 * RUN.pairs == 2 * len(own)


def test_training_stores_its_own_pairs_and_no_others(build):
    """Long enough, a whole model has nearly all bits; pairs never met and the model before stay below an even guess."""
    found = memorize(replace(RUN, adapter=None, times=10, lr=3e-3), SMOKE)
    assert found["data"] == 8 * 2 * BITS and 0.9 * found["data"] < found["stored"] <= found["data"]
    assert found["other"] < 0 and found["before"] < 0 and found["whole"] == 1 and found["sure_and_wrong"] == 0
    assert found["task_loss"] == pytest.approx((found["data"] - found["stored"]) / 16 * math.log(2))


def test_more_steps_and_only_the_adapter(build):
    some, more = memorize(RUN, SMOKE), memorize(replace(RUN, times=12), SMOKE)
    assert more["stored"] > some["stored"] > some["before"] and len(more["losses"]) == 6 * len(some["losses"]) == 144
    assert some["trained"] == 4 * sum(
        sum(layer.weight.shape) for layer in find_targets(pretrained(SMOKE, 1), "all-linear").values()
    )


def test_every_pair_is_met_equally_often():
    """Two rounds of 10 pairs in batches of 4 are 5 steps; a batch may straddle two rounds."""
    pairs, met = random_pairs(10, 2, 1, 0), []

    class Meets(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(128))

        def forward(self, ids):
            met.extend(map(tuple, ids.tolist()))
            return self.weight.expand(*ids.shape, 128)

    fill(Meets(), pairs, 2, 5, 4, 1e-3, seed=0)
    assert sorted(met) == sorted(2 * [tuple(pair[:-1].tolist()) for pair in pairs])


def test_over_nf4_the_frozen_weights_are_what_nf4linear_decodes(build):
    rounded, base = pretrained(SMOKE, 1), pretrained(SMOKE, 1)
    round_to_nf4(rounded)
    for name, layer in find_targets(base, "all-linear").items():
        assert torch.equal(rounded.get_submodule(name).weight, NF4Linear.from_linear(layer).weight)
    assert torch.equal(rounded.lm_head.weight, base.lm_head.weight)
    assert memorize(replace(RUN, nf4=True), SMOKE)["before"] != memorize(RUN, SMOKE)["before"]


def test_memories_are_judged_at_the_best_rate_of_seed_0_in_the_order_asked_for(build):
    runs = {"one": RUN, "longer": replace(RUN, times=2 * RUN.times)}
    tuned = pick_and_judge(runs, dict.fromkeys(runs, 0.004), SMOKE, carry=memorize_all)
    for label, run in runs.items():
        found = tuned[label]
        assert found.run.lr == min(found.tried, key=found.tried.get) and len(found.tried) > 3
        assert found.values("stored") == [
            memorize(replace(run, lr=found.run.lr, seed=s), SMOKE)["stored"] for s in (1, 2)
        ]
        assert all(len(r["losses"]) == round(run.times * SMOKE.steps) for r in found.results)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"pairs": 0}, "count is 0"), ({"value": 1.5}, "value is 1.5"), ({"key": 2, "pairs": 3000}, "6000 pairs have no"),
     ({"times": 0}, "times is 0"), ({"crowd": 0}, "crowd 0"), ({"base": "NF4"}, "rounded once"),
     ({"nf4": True, "adapter": None}, "rounded once")],
)  # fmt: skip
def test_a_memory_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(RUN, **wrong)
