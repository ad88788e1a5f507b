"""Tasks in turn: every run starts from the merged weights of the one before, and the losses are those of that model."""

from dataclasses import replace

import pytest
import torch
from test_finetune import ADAPTER, SMALL, base, lab  # noqa: F401

from lora_from_scratch.analysis.spectra import intruders_by_layer
from lora_from_scratch.inject import merge_adapters
from lora_from_scratch.lab import cache
from lora_from_scratch.lab.chain import learn_in_turn
from lora_from_scratch.lab.finetune import Run, fine_tune, measure
from lora_from_scratch.targets import find_targets

METHODS = [
    Run(lr=0.05),
    Run(scope="linear", lr=0.05),
    Run(adapter=ADAPTER, lr=0.05),
    Run(adapter=replace(ADAPTER, dora=True, rslora=True), lr=0.05, weight_decay=0.1, ratio=4.0),
]
every_method = pytest.mark.parametrize("run", METHODS, ids=["full", "linear", "lora", "dora"])


def turns(run: Run, *tasks: str) -> list[Run]:
    return [replace(run, task=task, seed=seed) for seed, task in enumerate(tasks)]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(
        cache,
        "cached",
        lambda kind, key, compute, old=cache.cached: compute() if kind == "chain" else old(kind, key, compute),
    )


@every_method
def test_each_run_starts_from_the_merged_weights_of_the_one_before(run):
    """By hand, with the same functions: fine-tune, merge, all parameters trainable again, the next task."""
    chain = turns(run, "rot13", "upper", "rot13")
    model = base()
    wanted = []
    for part in chain:
        model.requires_grad_(True)
        fine_tune(part, model, SMALL)
        if part.adapter:
            merge_adapters(model)
        wanted.append({t: measure(model, t, SMALL)["task_loss"] for t in ("rot13", "upper", "text")})
    found = learn_in_turn(chain, SMALL)
    assert found["losses"][1:] == wanted
    assert found["losses"][0] == {t: measure(base(), t, SMALL)["task_loss"] for t in ("rot13", "upper", "text")}
    old, new = ({n: m.weight.detach() for n, m in find_targets(each, "all-linear").items()} for each in (base(), model))
    assert found["intruders"][-1] == sum(map(len, intruders_by_layer(old, new).values()))
    assert found["intruders"][0] == 0
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_a_chain_of_one_is_a_single_run():
    run = METHODS[2]
    merged = learn_in_turn([run], SMALL)["losses"][1]["rot13"]
    assert merged == pytest.approx(fine_tune(run, base(), SMALL)["task_loss"], rel=1e-5)


def test_the_order_matters():
    ends = [
        learn_in_turn(turns(METHODS[2], *tasks), SMALL)["losses"][-1]
        for tasks in (("rot13", "upper"), ("upper", "rot13"))
    ]
    assert ends[0].keys() == ends[1].keys()
    assert ends[0] != ends[1]


def test_a_chain_without_runs_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        learn_in_turn([], SMALL)


def test_every_run_of_the_chain_is_in_its_key(monkeypatch):
    keys = []
    monkeypatch.setattr(cache, "cached", lambda kind, key, compute: keys.append(str(key)))
    one, other = turns(METHODS[2], "rot13", "upper")
    for runs in ([one], [one, other], [one, replace(other, seed=7)], [other, one], [one, other, one]):
        learn_in_turn(runs, SMALL)
    learn_in_turn([one], replace(SMALL, steps=4))
    assert len(set(keys)) == 6
