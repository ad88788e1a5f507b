"""Runs of any size, and the search for the bottom of a valley of rates: what `lab/rates.py` promises."""

import math
from dataclasses import replace

import pytest
from test_tasks import use_made_up_text

from lora_from_scratch.book import rate_laws
from lora_from_scratch.inject import AdapterConfig
from lora_from_scratch.lab import rates, starting, tasks
from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.finetune import Run, carry_out
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.rates import Sized, Valley, at_width, learn, outwards, pick_and_judge, sized, valleys

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, eval_windows=4, workers=1)
RUN = Sized(task="rot13", adapter=AdapterConfig(rank=4, alpha=8), lr=1e-2, seed=1, steps=5, batch=3, width=16)


@pytest.fixture
def small_text(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)
    monkeypatch.setattr(starting, "task_ids", tasks.task_ids)


@pytest.fixture
def a_bowl(monkeypatch):
    """Runs whose loss is a bowl over log(rate), lowest at 0.01 · 2^seed; gives the list of (rate, seed) asked for."""
    asked = []

    def results_of(runs, preset):
        asked.extend((run.lr, run.seed) for run in runs)
        losses = [2 + (math.log2(run.lr / 0.01) - run.seed) ** 2 for run in runs]
        return [{"tune_loss": loss - 0.1, "task_loss": loss + 0.1, "seconds": 0} for loss in losses]

    monkeypatch.setattr(rates, "results_of", results_of)
    return asked


def test_a_sized_run_is_the_plain_run_at_a_preset_of_those_sizes(small_text):
    """Its steps, batch and width are the preset's in every number, and no other run's."""
    plain = Run(task="rot13", adapter=RUN.adapter, lr=1e-2, seed=1)
    preset = replace(at_width(SMOKE, 16), steps=5, batch=3)
    ours, theirs = learn(RUN, SMOKE), carry_out(plain, preset)
    assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
    assert len(ours["losses"]) == 5
    others = [learn(replace(RUN, **change), SMOKE) for change in ({"steps": 4}, {"batch": 2}, {"width": 32})]
    assert len({result["task_loss"] for result in (ours, *others)}) == 4


def test_a_sized_run_begins_where_it_says(small_text):
    begun = replace(RUN, begin="PiSSA")
    ours, theirs = learn(begun, SMOKE), starting.learn(begun.plain(), sized(begun, SMOKE))
    assert ours["losses"] == theirs["losses"] != learn(RUN, SMOKE)["losses"]


def test_results_come_in_the_order_that_was_asked_for(small_text):
    runs = [replace(RUN, steps=n, width=w) for n, w in ((2, 32), (5, 16), (3, 16), (4, 32))]
    assert [len(result["losses"]) for result in rates.results_of(runs, SMOKE)] == [2, 5, 3, 4]


def test_zero_is_the_preset_s_size():
    same = sized(Sized(), SMOKE)
    assert same == SMOKE


def test_another_width_keeps_the_width_of_a_head_and_the_share_of_the_mlp():
    model = at_width(PRESETS["full"], 256).model
    assert (model.hidden_size, model.num_attention_heads, model.num_key_value_heads) == (256, 8, 8)
    assert model.intermediate_size == 2 * PRESETS["full"].model.intermediate_size


@pytest.mark.parametrize("width", [0, -16, 17, 40])
def test_a_width_that_no_head_divides_is_refused_by_its_value(width):
    with pytest.raises(ValueError, match=f"width is {width}.*a head is 16 wide"):
        at_width(SMOKE, width)


@pytest.mark.parametrize("name", ["steps", "batch", "width"])
def test_a_negative_size_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        Sized(**{name: -1})


def test_a_beginning_without_an_adapter_or_of_another_name_is_refused():
    with pytest.raises(ValueError, match="adapter"):
        Sized(begin="PiSSA")
    with pytest.raises(ValueError, match="unknown beginning 'pissa'"):
        Sized(adapter=RUN.adapter, begin="pissa")


@pytest.mark.parametrize("first", [0.0007, 0.004, 0.01, 0.3])
def test_a_valley_is_found_from_wherever_it_is_looked_for(a_bowl, first):
    """The bottom of a bowl over log(rate) comes out exactly, for each seed its own, and no rate is tried twice."""
    found = valleys({"a": Sized()}, (1, 2), {"a": first}, SMOKE)
    for seed in (1, 2):
        assert found["a", seed].finished
        assert found["a", seed].best == pytest.approx(0.01 * 2**seed, rel=1e-6)
    assert len(set(a_bowl)) == len(a_bowl)


def test_the_search_gives_up_at_an_edge_and_says_so(monkeypatch):
    falling = lambda runs, preset: [{"tune_loss": -run.lr, "task_loss": -run.lr} for run in runs]  # noqa: E731
    monkeypatch.setattr(rates, "results_of", falling)
    valley = valleys({"a": Sized()}, (1,), {"a": 0.001}, SMOKE)["a", 1]
    assert not valley.finished and len(valley.tried) == rates.MOST and valley.best == max(valley.tried)


def test_a_diverged_rate_is_no_bottom_and_the_search_goes_the_other_way():
    assert outwards({0.001: 2.0, 0.002: math.nan, 0.004: math.inf}) == [0.0005]
    assert outwards({0.001: 2.0, 0.002: 1.9, 0.004: math.nan}) == []
    assert outwards({0.001: 2.0, 0.002: 1.9, 0.004: 1.8}) == [0.008]
    assert Valley({0.001: 2.0, 0.002: 1.9, 0.004: math.inf}).best == 0.002


def test_a_pick_is_made_on_seed_0_and_judged_on_the_others(a_bowl):
    """The bowl of seed 0 has its bottom at 0.01; the seeds that judge are run at that rate alone."""
    preset = replace(SMOKE, seeds=3, budget=5)
    tuned = pick_and_judge({"a": Sized()}, {"a": 0.004}, preset)["a"]
    assert tuned.run.lr == pytest.approx(0.01) and tuned.finished and tuned.resolution < 2
    assert {seed for _, seed in a_bowl} == {0, 1, 2, 3} and len(tuned.results) == 3
    assert {rate for rate, seed in a_bowl if seed} == {tuned.run.lr}


def test_without_a_budget_the_known_rate_is_taken_and_nothing_is_searched(a_bowl):
    preset = replace(SMOKE, seeds=1, budget=0)
    tuned = pick_and_judge({"a": Sized()}, {"a": 0.004}, preset, known={"a": 0.007})["a"]
    assert a_bowl == [(0.007, 1)] and tuned.run.lr == 0.007 and tuned.finished
    pick_and_judge({"a": Sized()}, {"a": 0.004}, preset, known={"b": 0.007})
    assert len(a_bowl) > 3


def test_the_pretrained_model_s_ratio_is_that_of_two_bottoms():
    """By hand, from the committed losses: within the neighbours of each best rate, and no rate of the grid."""
    assert 5 < rate_laws.real_ratio(ROOT) < 20


def test_fourteen_committed_rates_are_fitted():
    points = rate_laws.committed_rates(ROOT)
    assert len(points) == 14 and {rank for _, rank, _ in points} == {1, 4, 16, 64, 128}
    assert all(s in (32 / rank, 32 / math.sqrt(rank)) for s, rank, _ in points)


def test_a_law_that_is_right_misses_nothing_and_one_twice_as_high_an_octave():
    """Full fine-tuning's rate, width, steps, s and rank reach the law as they are; dealt out, a right one misses."""
    cells = {("rot13", 64, n, k, a): None for n in (25, 100) for k, a in ((None, 0), (1, 32), (16, 16))}
    best = {
        (c, s): 0.004 if c[3] is None else 0.01 * c[4] / c[3] ** 1.5 * s * 100 / c[2] for c in cells for s in (1, 2)
    }

    def laws(full, width, steps, s, rank):
        assert (full, width) == (0.004, 64)
        return {"right": 0.01 * s / rank**0.5 * 100 / steps, "twice": 0.02 * s / rank**0.5 * 100 / steps}

    off = rate_laws.misses(laws, best, cells, (1, 2))
    assert set(off["right", 1]) == {c for c in cells if c[3]}
    assert list(off["right", 1].values()) == pytest.approx([0] * 4)
    assert list(off["twice", 1].values()) == pytest.approx([1] * 4)
    assert list(off["right", 2].values()) == pytest.approx([-1] * 4)
    assert rate_laws.dealt(off["right", 1], best, 1) > 1
    level = rate_laws.one_level(
        off["right", 1], best, 1
    )  # no single rate is as good, and a dealt law is no better than one
    assert 0 < level < rate_laws.dealt(off["right", 1], best, 1)


def test_the_cost_of_a_wrong_rate_is_told_on_both_sides():
    valleys = {
        i: Valley({0.001: 2.5, 0.002: 2.0, 0.004: 2.0 + cost, 0.008: 3.0}) for i, cost in enumerate((0.01, 0.1, 0.2))
    }
    told = rate_laws.cost_of_a_wrong_rate(valleys)
    assert "costs 0.100 nats" in told and "0.500 on the steeper" in told and "in 33% of the valleys" in told


def test_the_table_of_misses_parts_the_runs_by_alpha():
    cells = {("rot13", 64, 25, k, a): None for k, a in ((1, 32), (16, 32), (16, 16))}
    off = {("a law", 1): dict(zip(cells, (1.0, -3.0, 0.5), strict=True))}
    rules = {"alpha 32": lambda c: c[4] == 32, "alpha = r": lambda c: c[4] != 32}
    line = rate_laws.table_of_misses(off, ["a law"], rules, [1]).splitlines()[-1].split()
    assert line[2:] == ["-3.0", "-3.0", "2.00", "0.50"]
