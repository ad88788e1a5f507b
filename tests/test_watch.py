"""A run that is watched is the run that is not, and what is read off it is what the spectra say."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_finetune import ADAPTER, SMALL, base, lab, tuned  # noqa: F401

from lora_from_scratch.analysis.spectra import intruder_dimensions
from lora_from_scratch.lab import cache
from lora_from_scratch.lab import watch as watching
from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.watch import at_loss, intruder_counts, watch
from lora_from_scratch.targets import find_targets

RUNS = [Run(scope="linear", lr=0.1), Run(adapter=ADAPTER, lr=0.1), Run(adapter=replace(ADAPTER, dora=True), lr=0.1)]
every_run = pytest.mark.parametrize("run", RUNS, ids=["full", "lora", "dora"])


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """What is watched here is carried out here; the pretrained base comes from the cache of this file."""
    monkeypatch.setattr(
        cache,
        "cached",
        lambda kind, key, compute, old=cache.cached: compute() if kind == "watch" else old(kind, key, compute),
    )


@every_run
def test_watching_changes_nothing_about_the_run(run):
    watched, plain = watch(run, SMALL, points=3)["run"], tuned(run)
    for name in ("losses", "task_loss", "text_loss"):
        assert watched[name] == plain[name]


@every_run
def test_every_look_counts_the_intruders_of_that_step(run):
    """The counts are those of `intruder_dimensions` between the base and the weights of that step."""
    watched = watch(run, SMALL, points=3)
    snapshots = tuned(replace(run, snapshots=3))["snapshots"]
    old = {name: layer.weight.detach() for name, layer in find_targets(base(), "all-linear").items()}
    assert watched["steps"] == [0, 1, 2, 3]
    for k, epsilon in ((1, 0.5), (4, 0.6), (10, 0.9)):
        wanted = [sum(len(intruder_dimensions(old[n], weights[n], k, epsilon)) for n in old) for weights in snapshots]
        assert intruder_counts(watched, k, epsilon) == [0, *wanted]
    assert max(intruder_counts(watched, 10, 0.9)) > 0
    assert all(torch.equal(watched["end"][name], snapshots[-1][name]) for name in old)


def test_the_weights_at_the_target_are_those_of_the_first_look_that_reached_it():
    losses = watch(RUNS[0], SMALL, points=3)["task_loss"]
    assert losses[0] > losses[2], "the run learns something, or nothing can be reached"
    watched = watch(RUNS[0], SMALL, points=3, target=losses[2])
    first = next(i for i, loss in enumerate(losses) if loss <= losses[2])
    snapshots = tuned(replace(RUNS[0], snapshots=3))["snapshots"]
    assert all(torch.equal(watched["at_target"][name], snapshots[first - 1][name]) for name in snapshots[0])
    assert watch(RUNS[0], SMALL, points=3, target=min(losses) - 1)["at_target"] is None


def test_losses_are_the_models_on_both_texts():
    """The first look is the base's, whatever is trained; the losses of both texts change with training."""
    looks = [watch(run, SMALL, points=1) for run in RUNS]
    for name in ("task_loss", "text_loss"):
        assert len({look[name][0] for look in looks}) == 1
        assert all(look[name][1] != look[name][0] for look in looks)
        assert looks[0][name][0] != looks[0][{"task_loss": "text_loss", "text_loss": "task_loss"}[name]][0]


@given(st.floats(0.01, 0.99), st.floats(-5, 5), st.floats(-5, 5))
def test_a_value_is_read_off_between_the_looks_around_the_target(along, first, second):
    """On a straight line in the loss, at the first crossing, also where the loss rises again later."""
    losses, values = [3.0, 2.0, 1.0, 4.0, 1.0], [9.0, first, second, 7.0, 8.0]
    assert at_loss(losses, values, 2 - along) == pytest.approx(first + along * (second - first))
    assert at_loss(losses, values, 2.0) == pytest.approx(first)
    assert at_loss(losses, values, 3.5) == 9.0
    assert math.isnan(at_loss(losses, values, 0.5))


@pytest.mark.parametrize("points", [0, -1, SMALL.steps + 1])
def test_points_out_of_range_are_refused(points):
    with pytest.raises(ValueError, match=f"points is {points}"):
        watch(RUNS[0], SMALL, points=points)


@pytest.mark.parametrize("k", [0, watching.LEADING + 1])
def test_more_vectors_than_were_compared_cannot_be_counted(k):
    with pytest.raises(ValueError, match=f"k is {k}"):
        intruder_counts({"likeness": {}}, k=k)


def test_a_change_of_anything_that_decides_it_is_another_result(monkeypatch):
    keys = []
    monkeypatch.setattr(cache, "cached", lambda kind, key, compute: keys.append((kind, str(key))) or {})
    for run, preset, points, target in (
        (RUNS[0], SMALL, 3, 0.0),
        (replace(RUNS[0], seed=9), SMALL, 3, 0.0),
        (RUNS[0], replace(SMALL, steps=4), 3, 0.0),
        (RUNS[0], SMALL, 2, 0.0),
        (RUNS[0], SMALL, 3, 1.0),
    ):
        watch(run, preset, points, target)
    monkeypatch.setattr(watching, "HERE", cache)
    watch(RUNS[0], SMALL, 3, 0.0)
    assert len(set(keys)) == len(keys) == 6
