"""The presets: which one is picked, and what they have in common."""

import json
from dataclasses import fields

import pytest
import torch

from lora_from_scratch.lab import corpus, presets, pretrain
from lora_from_scratch.lab.presets import PRESETS, Preset, preset


@pytest.fixture(params=[True, False], ids=["with CUDA", "without CUDA"])
def cuda(request, monkeypatch):
    """Whether this machine has a GPU, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv("LORA_PRESET", raising=False)


def test_there_are_four_presets_under_their_names():
    """smoke, quick, full and gpu, each under the name that it has."""
    assert list(PRESETS) == ["smoke", "quick", "full", "gpu"]
    assert all(found.name == name for name, found in PRESETS.items())


@pytest.mark.parametrize("by_environment", [True, False], ids=["LORA_PRESET", "argument"])
def test_an_unknown_preset_is_an_error_that_lists_them(monkeypatch, by_environment):
    """A name that does not exist is a ValueError with the name and all names, wherever it comes from."""
    if by_environment:
        monkeypatch.setenv("LORA_PRESET", "fast")
    with pytest.raises(ValueError, match="unknown preset 'fast'; there are smoke, quick, full, gpu"):
        preset(None if by_environment else "fast")


def test_the_environment_picks_a_preset_and_an_argument_overrules_it(monkeypatch, cuda):
    """LORA_PRESET names the preset, whatever the hardware; a name in the code comes first."""
    monkeypatch.setenv("LORA_PRESET", "full")
    assert preset() is PRESETS["full"]
    assert preset("smoke") is PRESETS["smoke"]


@pytest.mark.parametrize("empty", [None, ""], ids=["unset", "empty"])
def test_the_hardware_picks_a_preset_where_nothing_else_does(monkeypatch, cuda, empty):
    """Without LORA_PRESET, or with an empty one, it is gpu where CUDA is, and quick elsewhere."""
    if empty is not None:
        monkeypatch.setenv("LORA_PRESET", empty)
    assert preset() is PRESETS["gpu" if cuda else "quick"]


def test_the_gpu_preset_without_a_gpu_is_an_error(cuda):
    """Asked for gpu on a machine without CUDA, there is a ValueError that says what to use instead."""
    if cuda:
        assert preset("gpu") is PRESETS["gpu"]
    else:
        with pytest.raises(ValueError, match="'gpu' needs a CUDA device and there is none; use quick or full"):
            preset("gpu")


def test_quick_and_full_share_their_base_and_no_others_do(monkeypatch):
    """A reader at quick has the model of the committed results; smoke and gpu have their own."""
    monkeypatch.setattr(corpus, "corpus_hash", lambda: "")
    keys = {name: json.dumps(pretrain.base_key(found)) for name, found in PRESETS.items()}
    assert keys["quick"] == keys["full"]
    assert len(set(keys.values())) == 3


def test_quick_trains_as_full_does_with_half_the_steps():
    """Quick differs from full in its name, seeds, bases, budget and steps alone, so that full's rates suit it."""
    quick, full = PRESETS["quick"].describe(), PRESETS["full"].describe()
    assert {name for name in full if quick[name] != full[name]} == {"name", "seeds", "bases", "budget", "steps"}
    assert quick["steps"] * 2 == full["steps"]
    assert PRESETS["quick"].budget == 0


def test_where_intervals_are_judged_every_seed_is_a_base():
    """Seed 0 tunes the rates, the others judge: at full and gpu each of them on a base of its own."""
    for name in ("full", "gpu"):
        found = PRESETS[name]
        assert [found.base_of(seed) for seed in range(1 + found.seeds)] == list(range(1 + found.seeds))


def test_only_quick_tunes_no_rates_and_every_other_has_seeds_for_an_interval():
    """A budget of 0 is quick's alone; whatever reports intervals has two seeds at least, and ten at most."""
    assert [name for name, found in PRESETS.items() if found.budget == 0] == ["quick"]
    assert all(2 <= found.seeds <= 10 for name, found in PRESETS.items() if name != "quick")


@pytest.mark.parametrize("name", PRESETS)
def test_a_description_is_plain_data_with_every_field(name):
    """describe() gives all fields, in a form that JSON can hold."""
    described = PRESETS[name].describe()
    assert set(described) == {field.name for field in fields(Preset)}
    assert json.loads(json.dumps(described)) == described
    assert described["model"]["vocab_size"] == corpus.VOCABULARY


def test_a_preset_cannot_be_changed():
    """Presets are shared by all that runs, so they are frozen; dataclasses.replace gives a changed copy."""
    with pytest.raises(AttributeError):
        presets.PRESETS["smoke"].steps = 1
