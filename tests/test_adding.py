"""Adapters added, and one adapter trained on both: what `lab/adding.py` promises."""

from dataclasses import replace

import pytest
import torch
from test_tasks import use_made_up_text

from lora_from_scratch.arithmetic import concatenate
from lora_from_scratch.inject import AdapterConfig
from lora_from_scratch.lab import adding, tasks
from lora_from_scratch.lab.adding import changed, compare_together, factors, learn_together, losses_on
from lora_from_scratch.lab.finetune import Run, carry_out, measure
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, eval_windows=4, workers=1)
RUN = Run(task="rot13", adapter=AdapterConfig(rank=2, alpha=8), lr=1e-2, seed=1, keep=True)
PAIR = (RUN, replace(RUN, task="upper"))


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)
    monkeypatch.setattr(adding, "task_ids", tasks.task_ids)


def test_two_tasks_together_take_the_steps_of_both_and_half_of_each_batch(monkeypatch):
    seen, plain = [], adding.fit

    def watched(model, batches, steps, *rest):
        listed = [next(batches) for _ in range(steps)]
        seen.extend(listed)
        return plain(model, iter(listed), steps, *rest)

    monkeypatch.setattr(adding, "fit", watched)
    learn_together(PAIR, SMOKE)
    assert len(seen) == 2 * SMOKE.steps and {len(windows) for windows in seen} == {SMOKE.batch}
    half = SMOKE.batch // 2
    for name, rows in (("rot13", slice(0, half)), ("upper", slice(half, None))):
        first = next(iter(adding.Batches(adding.task_ids(name, "task"), half, seen[0].shape[1] - 1, seed=1)))
        assert torch.equal(seen[0][rows], first)


def test_one_task_together_is_the_run_itself():
    """With a single run, nothing is left of the mixture: the very numbers of `carry_out`."""
    alone, both = carry_out(RUN, SMOKE), learn_together([RUN], SMOKE)
    for name in ("task_loss", "tune_loss", "text_loss"):
        assert both[name] == alone[name]
    assert all(torch.equal(both["state"][name], alone["state"][name]) for name in alone["state"])


def test_both_tasks_get_better_together():
    base = pretrained(SMOKE, 1)
    before = losses_on(base, ["rot13", "upper"], SMOKE)
    after = learn_together(PAIR, replace(SMOKE, steps=20))["task_losses"]
    assert all(after[task] < before[task] - 0.1 for task in ("rot13", "upper"))


@pytest.mark.parametrize("other", [replace(RUN, lr=1e-3, task="upper"), replace(RUN, seed=2), Run(task="upper")])
def test_runs_that_differ_in_more_than_their_task_are_refused(other):
    with pytest.raises(ValueError, match="may differ in their task alone"):
        learn_together((RUN, other), SMOKE)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared equally by 3 tasks"):
        learn_together((*PAIR, replace(RUN, task="reversed")), SMOKE)


def test_losses_on_are_those_of_measure():
    model = pretrained(SMOKE, 1)
    want = measure(model, "rot13", SMOKE)
    assert losses_on(model, ["rot13"], SMOKE) == {"rot13": want["task_loss"], "text": want["text_loss"]}
    assert losses_on(model, ["rot13"], SMOKE, "tune")["rot13"] == want["tune_loss"]


def test_each_method_is_judged_at_its_best_rate_over_all_seeds():
    tuned = compare_together({"rank 2": RUN}, ["rot13", "upper"], SMOKE)["rank 2"]
    assert tuned.run.lr == min(tuned.tried, key=tuned.tried.get) and len(tuned.tried) >= 4
    again = [learn_together([replace(r, lr=tuned.run.lr, seed=s) for r in PAIR], SMOKE) for s in (1, 2)]
    assert tuned.values("task_loss") == [result["task_loss"] for result in again]


def test_what_was_trained_is_the_change_of_the_weights():
    """`factors` and `changed` give the model that training left, and the base stays as it was."""
    result, base = carry_out(RUN, SMOKE), pretrained(SMOKE, 1)
    kept = {name: p.clone() for name, p in base.named_parameters()}
    deltas = {name: s * B @ A for name, (A, B, s) in factors(result["state"], 4.0).items()}
    assert len(deltas) == 7 * SMOKE.model.num_hidden_layers and all(delta.any() for delta in deltas.values())
    merged = changed(base, deltas)
    assert measure(merged, "rot13", SMOKE)["task_loss"] == pytest.approx(result["task_loss"], abs=1e-5)
    assert all(torch.equal(p, kept[name]) for name, p in base.named_parameters())


def test_a_concatenation_changes_the_weights_by_the_sum():
    states = [carry_out(run, SMOKE)["state"] for run in PAIR]
    first, second = (factors(state, 4.0) for state in states)
    for name in first:
        A, B = concatenate([first[name], second[name]])
        want = sum(s * B @ A for A, B, s in (first[name], second[name]))
        assert torch.allclose(B @ A, want, atol=1e-6)
