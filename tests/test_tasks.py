"""The tasks, which are functions from text to text, and the windows that are cut out of their text.

`use_made_up_text` is here for the tests of training as well: it puts a few thousand made-up characters in the place
of the library's two million, which take seconds to read.
"""

import codecs
import functools
import math
import random
import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.book import provenance
from lora_from_scratch.lab import corpus, finetune, tasks
from lora_from_scratch.lab.corpus import decode

ASCII = st.text(st.characters(max_codepoint=127))
WORDS = "the low rank update of a layer is learnt, and its base stays as it was; (see Also) B = 0 at first.\n".split(
    " "
)


def made_up_text() -> dict[str, str]:
    """Three splits of random words, 3,000 characters each, the same at every call."""
    return {split: " ".join(random.Random(split).choices(WORDS, k=1000))[:3000] for split in corpus.SPLITS}


def use_made_up_text(patch: pytest.MonkeyPatch) -> None:
    """Let everything in the lab read `made_up_text`, and hash it, until `patch` is undone."""
    text = made_up_text()
    patch.setattr(corpus, "corpus", lambda: text)
    patch.setattr(tasks, "corpus", lambda: text)
    made_up_hash = corpus.corpus_hash.__wrapped__()
    patch.setattr(corpus, "corpus_hash", lambda: made_up_hash)
    patch.setattr(provenance, "corpus_hash", lambda: made_up_hash)
    ids = functools.cache(tasks.task_ids.__wrapped__)
    patch.setattr(tasks, "task_ids", ids)
    patch.setattr(finetune, "task_ids", ids)


@pytest.mark.parametrize("task", tasks.TASKS)
@given(text=ASCII)
def test_a_task_keeps_the_length_and_the_alphabet(task, text):
    """Every task gives as many characters as it takes, all of them ASCII."""
    transformed = tasks.TASKS[task](text)
    assert len(transformed) == len(text) and transformed.isascii()


@given(ASCII)
def test_rot13_moves_every_letter_13_places_and_nothing_else(text):
    """Letters move 13 places around their alphabet, so that twice is the identity; other characters stay."""
    moved = tasks.TASKS["rot13"](text)
    for before, after in zip(text, moved, strict=True):
        if before.isalpha():
            a = ord("a" if before.islower() else "A")
            assert after == chr(a + (ord(before) - a + 13) % 26)
        else:
            assert after == before
    assert tasks.TASKS["rot13"](moved) == text


@given(ASCII)
def test_the_other_tasks_do_what_their_names_say(text):
    """`text` is the text itself, `upper` writes capitals and nothing else, `reversed` runs backwards."""
    assert tasks.TASKS["text"](text) == text
    upper = [chr(ord(c) - 32) if "a" <= c <= "z" else c for c in text]
    assert tasks.TASKS["upper"](text) == "".join(upper)
    assert list(tasks.TASKS["reversed"](text)) == list(reversed(text))


@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("split", corpus.SPLITS)
def test_a_task_s_ids_are_the_codes_of_that_split_transformed(task, split, monkeypatch):
    """task_ids encodes the very split that was asked for, under the task."""
    use_made_up_text(monkeypatch)
    ids = tasks.task_ids(task, split)
    assert corpus.decode(ids) == tasks.TASKS[task](made_up_text()[split])


def test_an_unknown_task_is_an_error_that_lists_what_there_is():
    """A task that does not exist is a ValueError with its name and all names."""
    with pytest.raises(ValueError, match="'rot14'.*text, rot13, upper, reversed"):
        tasks.task_ids("rot14", "task")


def test_an_unknown_split_is_an_error_that_lists_what_there_is(monkeypatch):
    """A split that does not exist is a ValueError with its name and all names."""
    use_made_up_text(monkeypatch)
    with pytest.raises(ValueError, match="'test'.*train, task, held_out"):
        tasks.task_ids("rot13", "test")


@st.composite
def windowings(draw):
    """(ids, count, length) with ids that tell their own places: 0, 1, 2, …"""
    length = draw(st.integers(1, 9))
    size = draw(st.integers(length + 1, 60))
    return torch.arange(size), draw(st.integers(1, 12)), length


@given(windowings())
def test_fixed_windows_are_whole_stretches_from_the_first_character_to_the_last(case):
    """Fixed windows are runs of length + 1 characters, evenly spaced from first to last, the same every time."""
    ids, count, length = case
    windows = tasks.fixed_windows(ids, count, length)
    assert windows.shape == (count, length + 1)
    assert torch.equal(windows[:, 1:], windows[:, :-1] + 1), "a window is a run of neighbours"
    assert windows.min() == 0 and windows.max() < len(ids)
    assert torch.equal(windows, tasks.fixed_windows(ids, count, length))
    if count > 1:
        assert windows[-1, -1] == len(ids) - 1
        steps = windows[:, 0].diff()
        assert steps.max() - steps.min() <= 1, "evenly spaced, up to rounding"


@given(windowings(), st.integers(0, 999))
def test_random_windows_are_whole_stretches_and_the_same_for_the_same_seed(case, seed):
    """Random windows are runs of length + 1 characters inside the text; one seed gives one set of them."""
    ids, count, length = case
    windows = tasks.random_windows(ids, count, length, torch.Generator().manual_seed(seed))
    assert windows.shape == (count, length + 1)
    assert torch.equal(windows[:, 1:], windows[:, :-1] + 1), "a window is a run of neighbours"
    assert windows.min() >= 0 and windows.max() < len(ids)
    assert torch.equal(windows, tasks.random_windows(ids, count, length, torch.Generator().manual_seed(seed)))


def test_random_windows_differ_from_seed_to_seed_and_draw_to_draw():
    """Another seed gives other windows, and so does the next draw of the same generator."""
    ids = torch.arange(1000)
    generator = torch.Generator().manual_seed(0)
    first, second = (tasks.random_windows(ids, 8, 4, generator) for _ in range(2))
    other = tasks.random_windows(ids, 8, 4, torch.Generator().manual_seed(1))
    assert not torch.equal(first, second) and not torch.equal(first, other)


def test_random_windows_reach_every_place():
    """The first and the last character can be drawn: of 5 places, 500 draws miss one with probability 2e-48."""
    windows = tasks.random_windows(torch.arange(9), 500, 4, torch.Generator().manual_seed(0))
    assert sorted(set(windows[:, 0].tolist())) == [0, 1, 2, 3, 4]


LETTERS = string.ascii_lowercase


def moved_by(k: int) -> set[str]:
    return {letter for letter in LETTERS if tasks.cipher(k)(letter) != letter}


@pytest.mark.parametrize("k", [0, *range(2, 27)])
def test_a_cipher_moves_just_so_many_letters_and_can_be_read_back(k):
    """Every letter has one code and every code one letter, in both cases alike; nothing but letters moves."""
    text = tasks.cipher(k)(LETTERS)
    assert len(moved_by(k)) == k and sorted(text) == list(LETTERS)
    assert tasks.cipher(k)(LETTERS.upper()) == text.upper()
    others = "".join(chr(code) for code in range(128) if not chr(code).isalpha())
    assert tasks.cipher(k)(others) == others


def test_a_letter_that_moves_moves_in_every_farther_cipher_and_the_farthest_is_rot13():
    """The dial has an order: each step moves one letter more."""
    steps = [0, *range(2, 27)]
    assert all(moved_by(a) < moved_by(b) for a, b in zip(steps, steps[1:], strict=False))
    text = " ".join(WORDS)
    assert tasks.cipher(26)(text) == codecs.encode(text, "rot13") == tasks.transform("rot13")(text)
    changed = [sum(a != b for a, b in zip(tasks.cipher(k)(text), text, strict=True)) for k in steps]
    assert changed == sorted(changed) and changed[-1] > changed[4] > 0


def test_a_cipher_is_a_task_by_its_name(monkeypatch):
    """cipher-k, for a run and for its text; a number out of range is refused."""
    use_made_up_text(monkeypatch)
    assert decode(tasks.task_ids("cipher-5", "task")) == tasks.cipher(5)(made_up_text()["task"])
    assert torch.equal(tasks.task_ids("cipher-26", "task"), tasks.task_ids("rot13", "task"))
    assert finetune.Run(task="cipher-5").task == "cipher-5"
    for wrong in ("cipher-1", "cipher-27", "cipher-", "cipher", "cipher--3", "cipher-2.5", "cipher-²"):
        with pytest.raises(ValueError, match="cipher"):
            finetune.Run(task=wrong)
    for k in (1, -1, 27, 2.5, 2.0):
        with pytest.raises(ValueError, match="cipher moves"):
            tasks.cipher(k)


def test_the_levels_that_give_a_loss_its_meaning_do_not_depend_on_the_letters_names(monkeypatch):
    """A cipher renames letters, and the frequencies with them; letters alone say more than nothing."""
    use_made_up_text(monkeypatch)
    plain, far = tasks.reference_levels("text"), tasks.reference_levels("rot13")
    assert plain["uniform"] == far["uniform"] == pytest.approx(math.log(128))
    assert far["letters"] < far["uniform"] and far["letters"] == pytest.approx(plain["letters"], abs=0.05)
    text, train = made_up_text()["held_out"], made_up_text()["train"]
    slow = -sum(math.log((train.count(c) + 1) / (len(train) + 128)) for c in text) / len(text)
    assert plain["letters"] == pytest.approx(slow)
