"""Two lessons merged, together and in turn, on a small Llama: what `lab/adding_real.py` and `lab/marks.py` promise."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from lessons import LORA, SHORT, small_checkpoint

from lora_from_scratch.arithmetic import ties
from lora_from_scratch.lab import adapt, adding_real, merging, records
from lora_from_scratch.lab.adding_real import by_ties as real_ties
from lora_from_scratch.lab.adding_real import halves, learnt, learnt_after, learnt_together, twin, updates, weighted
from lora_from_scratch.lab.answers import answered
from lora_from_scratch.lab.marks import answers_of, field_of, marks

ONE = replace(SHORT, judged=False, steps=3, batch=2)
BOTH = [ONE, replace(ONE, task="documents", batch=4)]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    return small_checkpoint(tmp_path, monkeypatch)


def test_what_was_learnt_is_the_taught_model(checkpoint):
    """Added to the base, the adapter gives the taught model's logits; its scaling is the lesson's."""
    for lesson in (ONE, replace(ONE, adapter=replace(LORA, rslora=True))):
        result = adapt.adapt(replace(lesson, keep=True), checkpoint)
        model = adapt.prepared(copy.deepcopy(checkpoint.model), lesson)
        model.load_state_dict(result["state"], strict=False)
        ids, trained = torch.arange(12)[None], learnt(lesson, checkpoint)
        with torch.no_grad():
            own, added = model(ids), merging.with_one(checkpoint.model, trained)(ids)
            assert (own - checkpoint.model(ids)).abs().max() > 1e-3
        assert torch.allclose(own, added, atol=1e-5)


def test_an_adapter_with_more_than_a_product_is_refused(checkpoint):
    for adapter in (None, replace(LORA, dora=True)):
        with pytest.raises(ValueError, match="only a plain LoRA"):
            learnt(replace(ONE, adapter=adapter), checkpoint)


def test_together_has_the_steps_and_the_data_of_both_and_the_mean_of_their_losses(checkpoint, monkeypatch):
    """The records of the first half batch are those of its own lesson, in their order; a step is the mean of two."""
    seen = []
    plain = adding_real.adapt.batches

    def watched(lesson, checkpoint):
        seen.append(lesson)
        return plain(lesson, checkpoint)

    monkeypatch.setattr(adding_real.adapt, "batches", watched)
    steps = list(zip(range(2 * ONE.steps), halves(BOTH, checkpoint), strict=False))
    assert len(steps) == 6 and [(e.task, e.steps, e.batch) for e in seen] == [("records", 6, 1), ("documents", 6, 2)]
    model = copy.deepcopy(checkpoint.model)
    one, two = (next(iter(plain(lesson, checkpoint)))(model) for lesson in seen)
    ((one + two) / 2).backward()
    wanted = model.lm_head.weight.grad.clone()
    model.zero_grad()
    assert steps[0][1](model) == pytest.approx(((one + two) / 2).item())
    assert torch.allclose(model.lm_head.weight.grad, wanted, atol=1e-6)


def test_with_one_task_twice_together_is_that_task(checkpoint):
    """The loop is adapt.fit's: two half batches of the same task are a lesson of twice the steps, half the batch."""
    lesson = replace(ONE, task="documents", batch=2)
    first = learnt_together([lesson, lesson], checkpoint)
    alone = learnt(replace(lesson, steps=2 * lesson.steps, batch=1), checkpoint)
    assert all(torch.allclose(first[n][1], alone[n][1], atol=1e-6) and first[n][1].any() for n in alone)


def test_lessons_that_cannot_share_a_batch_are_refused(checkpoint):
    with pytest.raises(ValueError, match="nothing but their task and batch"):
        learnt_together([ONE, replace(BOTH[1], lr=2e-2)], checkpoint)
    with pytest.raises(ValueError, match="batch of 3 cannot be halved"):
        learnt_together([ONE, replace(BOTH[1], batch=3)], checkpoint)


def test_in_turn_the_second_lesson_begins_where_the_first_has_ended(checkpoint, monkeypatch):
    """Its first loss is that of the merged model, and both updates together are the model that comes out."""
    starts, plain = [], adapt.fit
    ids = torch.arange(12)[None]

    def watched(model, *rest):
        with torch.no_grad():
            starts.append(model(ids))
        found = plain(model, *rest)
        with torch.no_grad():
            starts.append(model(ids))
        return found

    learnt(BOTH[0], checkpoint)
    monkeypatch.setattr(adapt, "fit", watched)
    two = learnt_after(BOTH[0], BOTH[1], checkpoint)
    first, ended = (
        merging.with_one(checkpoint.model, two[0]),
        weighted(checkpoint.model, updates(two, merging.added), 1),
    )
    with torch.no_grad():
        assert len(starts) == 2 and torch.allclose(starts[0], first(ids), atol=1e-5)
        assert torch.allclose(starts[1], ended(ids), atol=1e-5) and not torch.allclose(*starts, atol=1e-3)


def test_every_way_is_proportional_to_its_weight():
    """So that an update is made once, and weighted."""
    draw = torch.Generator().manual_seed(0)
    one, two = ((torch.randn(3, 9, generator=draw), torch.randn(7, 3, generator=draw), 2.0) for _ in range(2))
    ways = (merging.added, merging.cut_back, merging.by_ties, merging.factors_added)
    for way in ways:
        assert torch.allclose(way(one, two, 0.35), 0.35 * way(one, two, 1.0), atol=1e-5)
    for make in (merging.by_dare, adding_real.eight_at_random):
        assert torch.allclose(make(1)(one, two, 0.35), 0.35 * make(1)(one, two, 1.0), atol=1e-5)


def test_the_faster_ties_is_ties():
    """Agreeing, opposed and lonely entries, at several shares."""
    draw = torch.Generator().manual_seed(0)
    one, two = ((torch.randn(3, 19, generator=draw), torch.randn(17, 3, generator=draw), 2.0) for _ in range(2))
    for keep in (0.05, 0.2, 0.7, 1.0):
        wanted = ties([merging.delta(one), merging.delta(two)], keep=keep)
        assert torch.allclose(real_ties(one, two, 0.7, keep), 0.7 * wanted, atol=1e-6)
    assert torch.allclose(real_ties(one, two, 1.0), merging.by_ties(one, two, 1.0), atol=1e-6)


def test_half_of_the_directions_at_random_are_directions_of_the_sum():
    draw = torch.Generator().manual_seed(0)
    one, two = ((torch.randn(2, 9, generator=draw), torch.randn(7, 2, generator=draw), 2.0) for _ in range(2))
    sizes = torch.linalg.svdvals(merging.added(one, two, 1.0))[:4]
    left = {tuple(torch.linalg.svdvals(adding_real.eight_at_random(s)(one, two, 1.0))[:2].tolist()) for s in range(9)}
    assert len(left) > 2 and torch.linalg.matrix_rank(adding_real.eight_at_random(0)(one, two, 1.0)) == 2
    assert all(min(abs(sizes - value)) < 1e-4 for pair in left for value in pair)


def test_a_twin_has_the_singular_values_and_other_directions():
    draw = torch.Generator().manual_seed(0)
    own = {"a": (torch.randn(3, 40, generator=draw), torch.randn(30, 3, generator=draw), 4.0)}
    other = twin(own, seed=1)
    W, V = merging.delta(own["a"]), merging.delta(other["a"])
    assert torch.allclose(torch.linalg.svdvals(W)[:4], torch.linalg.svdvals(V)[:4], atol=1e-2)
    assert abs((W * V).sum() / W.norm() / V.norm()) < 0.3


def test_tokens_belong_to_the_field_in_which_they_begin(checkpoint):
    (record,) = records.records("train", 1)
    ids = checkpoint.tokenizer.encode(record.answer)
    found = field_of(record.answer, [*ids, 2], checkpoint)
    assert len(found) == len(ids) + 1 and found[0] == "who" and found[-1] == "time"
    text = dict.fromkeys(records.FIELDS, "")
    for name, i in zip(found, ids, strict=False):
        text[name] += checkpoint.tokenizer.decode([i])
    for name, value in record.meaning.items():
        assert json.dumps(value) in text[name] and text[name].lstrip("{").startswith(f'"{name}": ')


def test_a_field_is_right_if_all_its_tokens_are_the_likeliest(checkpoint):
    """A model that is told the answers, but for one token, has all fields right but that one, and no exact answer."""
    drawn = records.records("new values", 3, seed=2)
    examples = adapt.as_examples(drawn, checkpoint)

    class Told(torch.nn.Module):
        def __init__(self, spoilt):
            super().__init__()
            self.p, self.spoilt = torch.nn.Parameter(torch.zeros(1)), spoilt

        def forward(self, inputs):
            logits = torch.zeros(*inputs.shape, checkpoint.model.config.vocab_size)
            for row, e in zip(logits, examples, strict=True):
                row[torch.arange(len(e.ids) - 1), torch.tensor(e.ids[1:])] = 5.0
                if self.spoilt:
                    place = e.start + 2  # a token of "who"
                    row[place, e.ids[place + 1]] = -5.0
            return logits

    right, wrong = (answers_of(Told(spoilt), drawn, checkpoint) for spoilt in (False, True))
    assert right["exact"] == right["fields"] == 1
    assert wrong["exact"] == 0 and wrong["fields"] == pytest.approx(0.8)
    assert wrong["records"] > right["records"]


def test_marks_are_those_of_adapt_and_their_halves_have_nothing_in_common(checkpoint):
    """The losses of a lesson's own measure; other records and windows choose a weight than judge it."""
    lesson = replace(SHORT, held=12, windows=2)
    own = adapt.measure(checkpoint.model, replace(lesson, judged=False), checkpoint)
    found = {half: marks(checkpoint.model, checkpoint, half, 3, 2) for half in ("tune", "judge")}
    assert found["judge"]["documents"] == pytest.approx(own["text_loss"], rel=1e-5)
    assert found["judge"]["records"] == pytest.approx(own["task_loss"], rel=1e-5)
    assert found["tune"]["records"] == pytest.approx(own["tune_loss"], rel=1e-5)
    assert found["tune"] != found["judge"]
    for only in ("records", "documents"):
        alone = marks(checkpoint.model, checkpoint, "judge", 3, 2, only=[only])
        assert alone.items() < found["judge"].items() and only in alone
    examples = adapt.as_examples(records.records("new values", 3, seed=2), checkpoint)
    assert found["judge"]["exact"] == sum(answered(checkpoint.model, examples)) / 3


def test_marks_refuse_what_they_cannot_measure(checkpoint):
    with pytest.raises(ValueError, match="'tune' or 'judge'"):
        marks(checkpoint.model, checkpoint, "train", 3, 2)
    with pytest.raises(ValueError, match="windows 0"):
        marks(checkpoint.model, checkpoint, "tune", 3, 0)
