"""A lesson of a real model watched and taken apart, on a small random Llama: what is measured is what is said."""

import copy
from dataclasses import replace

import pytest
import torch
from lessons import SHORT, numbers

from lora_from_scratch.analysis.spectra import intruder_dimensions
from lora_from_scratch.lab import adapt, examine, train
from lora_from_scratch.lab.examine import BLOCK, LEVELS, rounding_noise, taken_apart

LESSON = replace(SHORT, steps=4, adapter=None, scope="linear", lr=1e-2)


def test_the_path_ends_where_the_lesson_ends_and_begins_at_the_base(checkpoint):
    """Being looked at changes nothing: the losses are those of `adapt`, with adapters and without."""
    for lesson in (LESSON, SHORT, replace(SHORT, four_bits=True)):
        found = examine.examine(lesson, checkpoint, looks=2)
        plain = adapt.adapt(lesson, checkpoint)
        assert found["losses"] == plain["losses"] and found["trained"] == plain["trained"]
        path = found["path"]
        assert path["steps"] == [0, lesson.steps // 2, lesson.steps]
        for name in ("task_loss", "text_loss"):
            with train.threads(adapt.THREADS):
                begin = adapt.in_one(adapt.prepared(copy.deepcopy(checkpoint.model), lesson))
                start = adapt.measure(begin, replace(lesson, judged=False), checkpoint)[name]
            assert path[name][0] == start and path[name][-1] == found[name] == plain[name]
        assert path["own_loss"][0] != path["own_loss"][-1]


def test_what_is_kept_whole_changes_nothing_and_a_part_gives_another_loss(checkpoint):
    """At width 64 no update has more than 64 directions, and rank 64 holds as many numbers as a square matrix."""
    found = examine.examine(LESSON, checkpoint, looks=1, cuts=(1, 64), blocks=1)
    kept, loss, start = found["kept"], found["task_loss"], found["path"]["task_loss"][0]
    assert kept["rank 64"] == pytest.approx(loss, rel=1e-4) and kept["entries 64"] == pytest.approx(loss, rel=1e-6)
    assert abs(kept["rank 1"] - loss) > 1e-3 and abs(kept["entries 1"] - loss) > 1e-3
    assert kept["half"] == pytest.approx(start, abs=0.01) and kept["half"] != start
    assert kept["half, beside"] == pytest.approx(loss, abs=0.01)
    assert kept["half, merged"] not in (kept["half"], kept["half, beside"])


def test_the_entries_kept_are_the_largest_and_the_merge_is_rounded_once():
    torch.manual_seed(0)
    before = {"a": torch.randn(6, 10)}
    after = {"a": before["a"] + 0.1 * torch.randn(6, 10)}
    made = examine.versions(before, after, (1,), merge=True)
    change, delta = made["entries 1"]("a") - before["a"], after["a"] - before["a"]
    kept = change != 0
    assert kept.sum() == 6 + 10 and delta[kept].abs().min() >= delta[~kept].abs().max()
    assert torch.equal(change[kept], (before["a"] + delta - before["a"])[kept])
    assert torch.linalg.matrix_rank((made["rank 1"]("a") - before["a"]).double(), rtol=1e-5) == 1
    half = before["a"].bfloat16().float()
    assert torch.equal(made["half"]("a"), half)
    assert torch.equal(made["half, merged"]("a"), (half + after["a"] - before["a"]).bfloat16().float())


def test_the_path_alone_takes_nothing_apart(checkpoint):
    found = examine.examine(SHORT, checkpoint, looks=1, blocks=0, merges=False)
    assert found["matrices"] == {} and found["kept"] == {} and len(found["path"]["steps"]) == 2


def test_matrices_are_those_of_evenly_spaced_blocks_the_first_and_the_last_among_them(checkpoint):
    found = examine.examine(SHORT, checkpoint, looks=1, blocks=2)["matrices"]
    assert {name.split(".")[2] for name in found} == {"0", "1"} and len(found) == 14
    for entry in found.values():
        assert (entry["sizes"][:2] > 0).all() and entry["sizes"][2] < 1e-4 * entry["sizes"][0], "rank 2, and no more"
    alone = examine.examine(replace(SHORT, seed=5), checkpoint, looks=1, blocks=1)["matrices"]
    assert {name.split(".")[2] for name in alone} == {"0"}


def test_a_large_new_direction_is_an_intruder_and_a_small_one_does_not_arrive_in_bfloat16():
    torch.manual_seed(0)
    W0 = torch.randn(64, 96)
    u, v = (torch.nn.functional.normalize(torch.randn(n), dim=0) for n in W0.shape)
    draw = torch.Generator().manual_seed(0)
    large = taken_apart(W0, W0 + 60 * torch.outer(u, v), draw)
    assert large["intruders"] == large["null"] == 1 and large["rounding"] == 0
    assert large["sizes"][1] < 1e-4 and large["sizes"][0] == pytest.approx(60, rel=1e-4)
    assert large["size"] == pytest.approx(60 / W0.norm().item(), rel=1e-4)
    assert large["arrived"] == pytest.approx(1, abs=0.01)
    tiny = torch.full_like(W0, 1e-6)
    assert abs(taken_apart(W0, W0 + tiny, draw)["arrived"]) < 0.5 and taken_apart(W0, W0 + tiny, draw)["intruders"] == 0


def test_intruders_are_counted_as_intruder_dimensions_counts_them():
    torch.manual_seed(0)
    counts = set()
    for shape in ((64, 96), (96, 64), (80, 80)):
        W0 = torch.randn(shape)
        for size in (0.0, 0.3, 1.0):
            W1 = W0 + size * torch.randn(shape)
            found = examine.intruders(torch.linalg.svd(W0, full_matrices=False).U, W1)
            assert found == len(intruder_dimensions(W0, W1))
            counts.add(found)
    assert len(counts) > 2, "none, some and most"


def test_the_rounding_noise_is_uniform_within_half_a_level_of_its_block():
    torch.manual_seed(0)
    weight = torch.randn(200, 2 * BLOCK, dtype=torch.float64)
    noise = rounding_noise(weight, torch.Generator().manual_seed(1))
    blocks = weight.view(-1, BLOCK)
    for block, added in zip(blocks, noise.view(-1, BLOCK), strict=True):  # a slow loop
        half = (block.max() - block.min()) / (LEVELS - 1) / 2
        assert added.abs().max() <= half
    halves = (blocks.amax(1) - blocks.amin(1))[:, None] / (LEVELS - 1) / 2
    shares = (noise.view(-1, BLOCK) / halves).flatten()
    assert shares.mean().abs() < 0.03 and shares.square().mean() == pytest.approx(1 / 3, abs=0.02)


def test_the_model_s_own_text_is_drawn_once_and_better_known_than_another_text(checkpoint):
    text = examine.own_text(checkpoint, count=4)
    assert text.shape == (4, adapt.LENGTH + 1) and (text[:, 0] == checkpoint.tokenizer.eos).all()
    assert (examine.own_text(copy.deepcopy(checkpoint), count=4) == text).all()
    shuffled = text[:, torch.randperm(text.shape[1], generator=torch.Generator().manual_seed(0))]
    assert train.evaluate(checkpoint.model, text) < train.evaluate(checkpoint.model, shuffled)


def test_what_was_examined_comes_back_from_the_cache(checkpoint, monkeypatch):
    first = examine.examine(SHORT, checkpoint, looks=1)
    monkeypatch.setattr(examine, "_examine", None)
    assert numbers(examine.examine(SHORT, checkpoint, looks=1))["path"] == first["path"]
    with pytest.raises(TypeError):
        examine.examine(SHORT, checkpoint, looks=2)


@pytest.mark.parametrize("looks", [0, -1, 5])
def test_more_looks_than_steps_or_none_are_refused(checkpoint, looks):
    with pytest.raises(ValueError, match=f"looks is {looks}; with 4 steps it runs from 1 to 4"):
        examine.examine(LESSON, checkpoint, looks=looks)
