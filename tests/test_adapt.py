"""Lessons for a real model: what is trained, that a lesson gives the same again, and that the model is left as it is.

A small random Llama with a tokenizer of bytes stands in for the real one.
"""

import copy
from dataclasses import replace

import pytest
import torch
from checkpoints import SIZES, pieces, write_folder
from lessons import LORA, SHORT, numbers

from lora_from_scratch.lab import adapt, cache, footprint, train
from lora_from_scratch.lab.adapt import LEARNT, Lesson
from lora_from_scratch.lab.answers import Example
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.records import records


def test_a_lesson_trains_what_it_says(checkpoint):
    """Adapters alone, with a base in 4 bits too; the linear layers, head and norms left out; or every weight."""
    prepared = lambda **options: adapt.prepared(copy.deepcopy(checkpoint.model), Lesson(**options))  # noqa: E731
    trained = lambda model: {name for name, p in model.named_parameters() if p.requires_grad}  # noqa: E731
    for four_bits in (False, True):
        assert {name[-2:] for name in trained(prepared(adapter=LORA, four_bits=four_bits))} == {".A", ".B"}
    every = {name for name, _ in checkpoint.model.named_parameters()}
    assert trained(prepared()) == every
    assert trained(prepared(scope="linear")) == {name for name in every if name.endswith("proj.weight")}


def test_a_lesson_gives_the_same_again_and_leaves_the_model_as_it_was(checkpoint):
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    torch.manual_seed(5)
    first = adapt.adapt(SHORT, checkpoint)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    second = adapt.adapt(SHORT, checkpoint)
    assert numbers(first) == numbers(second) and (torch.get_rng_state() == state).all()
    assert numbers(adapt.adapt(replace(SHORT, seed=2), checkpoint))["losses"] != first["losses"]
    assert all((tensor == before[name]).all() for name, tensor in checkpoint.model.state_dict().items())
    assert all(name[-2:] in (".A", ".B") and tensor.any() for name, tensor in first["state"].items())


@pytest.mark.parametrize(
    "lesson", [SHORT, replace(SHORT, adapter=replace(LORA, dora=True)), replace(SHORT, adapter=None)]
)
def test_what_was_kept_makes_the_taught_model_again(checkpoint, lesson):
    """In a fresh copy of the base it has the taught model's losses and says what that said."""
    taught = adapt.adapt(lesson, checkpoint)
    model = adapt.prepared(copy.deepcopy(checkpoint.model), lesson)
    model.load_state_dict(taught["state"], strict=False)
    with train.threads(adapt.THREADS):
        found = adapt.measure(adapt.in_one(model), lesson, checkpoint)
    assert all(taught[name] == value for name, value in found.items())


@pytest.mark.parametrize("options", [{}, {"four_bits": True}, {"adapter": replace(LORA, dora=True)}])
def test_what_is_measured_in_one_is_the_taught_model(checkpoint, options):
    """Merged, in 4 bits too, it gives the adapters' logits, and leaves them trainable as they were."""
    lesson = replace(SHORT, **options)
    model = adapt.prepared(copy.deepcopy(checkpoint.model), lesson)
    model.load_state_dict(adapt.adapt(lesson, checkpoint)["state"], strict=False)
    ids, names = torch.arange(3, 23)[None], [name for name, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        found, expected, base = adapt.in_one(model)(ids), model(ids), checkpoint.model(ids)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5) and not torch.allclose(found, base, atol=1e-3)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == names
    assert adapt.in_one(checkpoint.model) is checkpoint.model


def test_the_loop_is_that_of_the_tiny_models(checkpoint):
    """On documents, where both can be used: the same losses, with warm-up and a rate that falls to zero."""
    lesson = Lesson("documents", LORA, lr=3e-2, seed=3, steps=30, batch=2, windows=2)
    with train.threads(adapt.THREADS), torch.random.fork_rng():
        torch.manual_seed(3)
        model = adapt.prepared(copy.deepcopy(checkpoint.model), lesson)
        batches = train.Batches(adapt.document_ids(checkpoint, "train"), 2, adapt.LENGTH, seed=3)
        losses = train.fit(model, batches, 30, 3e-2)
    found = adapt.adapt(lesson, checkpoint)
    assert found["losses"] == losses and losses[-1] < losses[0]
    assert found["task_loss"] == found["text_loss"] != found["tune_loss"]


def test_a_lesson_on_records_is_of_new_records_and_learns_them(checkpoint):
    losses = adapt.adapt(replace(SHORT, adapter=None, steps=30, judged=False), checkpoint)["losses"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_measuring_is_by_the_whole_answer_whatever_was_learnt(checkpoint):
    """Two lessons that learn other labels begin at the same held-out losses: their first steps are not taken yet."""
    found = [adapt.measure(checkpoint.model, replace(SHORT, learnt=name), checkpoint) for name in LEARNT]
    assert all(result == found[0] for result in found)
    assert set(found[0]) == {"text_loss", "tune_loss", "task_loss", "exact", "said", "valid", "fields"}
    assert set(found[0]["exact"]) == {"new values", "both new"} and len(found[0]["said"]) == 2
    for task in ("records", "documents"):
        unjudged = replace(SHORT, task=task, judged=False)
        whole, part = (adapt.measure(checkpoint.model, unjudged, checkpoint, tuning=on) for on in (True, False))
        assert set(whole) == {"text_loss", "tune_loss", "task_loss"}
        assert part == {name: whole[name] for name in ("text_loss", "task_loss")}


def test_what_is_learnt_of_an_example():
    e = Example((5, 6, 7, 8, 2), start=2)
    assert LEARNT["the answer"](e) == e
    assert LEARNT["all but the end"](e) == Example((5, 6, 7, 8), 2)
    assert LEARNT["all but its first token"](e) == Example((5, 6, 7, 8, 2), 3)
    assert LEARNT["the question too"](e) == Example((5, 6, 7, 8, 2), 1)


def test_the_mean_over_records_is_over_tokens_in_any_batches(checkpoint):
    examples = adapt.as_examples(records("train", 5), checkpoint)
    found = [adapt.mean_loss(checkpoint.model, examples, batch) for batch in (1, 2, 5)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_an_answer_is_given_without_its_end_and_cut_where_it_has_none(checkpoint, monkeypatch):
    monkeypatch.setattr(adapt.generate, "generate", lambda *a, **k: [[20, 21, 2], [20, 21, 22]])
    decode = checkpoint.tokenizer.decode
    assert adapt.say(checkpoint.model, ["a", "b"], checkpoint) == [decode([20, 21]), decode([20, 21, 22])]


def test_lessons_come_back_from_the_cache_until_something_that_decides_them_changes(checkpoint, monkeypatch):
    lessons = [SHORT, replace(SHORT, seed=2)]
    first = adapt.carry_out(lessons, checkpoint)
    assert first[0]["losses"] != first[1]["losses"]
    real, done = adapt.adapt, []
    monkeypatch.setattr(adapt, "adapt", lambda lesson, *a, **k: done.append(lesson) or real(lesson, *a, **k))
    assert [numbers(r) for r in adapt.carry_out(lessons[::-1], checkpoint)] == [numbers(r) for r in first[::-1]]
    assert done == []
    other = Checkpoint(copy.deepcopy(checkpoint.model), checkpoint.tokenizer, checkpoint.source)
    with torch.no_grad():
        other.model.lm_head.weight[0, 0] += 1
    adapt.carry_out(lessons[:1], other)
    assert done == lessons[:1]


def test_an_interrupted_chapter_goes_on_with_the_lesson_it_was_in(checkpoint, monkeypatch):
    """What was done before the interruption is not done again."""
    lessons, real, done = [SHORT, replace(SHORT, seed=2)], adapt.adapt, []

    def interrupted(lesson, *arguments, **options):
        if lesson.seed == 2:
            raise KeyboardInterrupt
        return real(lesson, *arguments, **options)

    monkeypatch.setattr(adapt, "adapt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt.carry_out(lessons, checkpoint)
    monkeypatch.setattr(adapt, "adapt", lambda lesson, *a, **k: done.append(lesson) or real(lesson, *a, **k))
    assert len(adapt.carry_out(lessons, checkpoint)) == 2 and done == lessons[1:]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "rot13"}, "unknown task 'rot13'; there are records, documents"),
        ({"scope": "some"}, "unknown scope 'some'; there are all, linear"),
        ({"learnt": "nothing"}, "unknown learnt 'nothing'; there are the answer"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"spoken": -1}, "spoken is -1"),
        ({"lr": 0.0}, r"lr is 0\.0; it must be a positive"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"four_bits": True}, "four_bits without an adapter"),
    ],
)
def test_a_lesson_out_of_range_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Lesson(**options)


@pytest.mark.skipif(not footprint.Path("/proc/self/clear_refs").exists(), reason="Linux alone counts so")
def test_the_footprint_is_measured_in_a_process_that_tells_what_went_wrong(checkpoint, tmp_path, monkeypatch):
    """Of a model in a folder at least the trained weights' gradients and AdamW's state; a folder that is not there."""
    sizes = {**SIZES, "hidden_size": 512, "intermediate_size": 2048}
    large = TinyLlama(LlamaConfig(len(pieces()), **sizes, num_key_value_heads=2, max_position_embeddings=512))
    monkeypatch.setenv("LORA_MODEL", str(write_folder(tmp_path / "large", large)))
    held = sum(p.nbytes for p in large.parameters())
    took = footprint.footprint(replace(SHORT, adapter=None, lr=1e-4))
    assert 3 * held < took < 20 * held
    monkeypatch.setenv("LORA_MODEL", str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError, match=r"(?s)process that measured .* failed.*there is nothing at"):
        footprint.footprint(SHORT)


def test_a_lesson_s_key_holds_the_code_that_decides_it(checkpoint):
    key = adapt.lesson_key(SHORT, checkpoint)
    assert key["lesson"]["seed"] == 1 and len(key["weights"]) == 64
    assert key["code"] != cache.code_version(adapt)
