"""The text of the lab: what is in it, that its three parts share nothing, and that it is the same at every reading.

The library is read once, which takes seconds; the other tests read a library of a few made-up files.
"""

import hashlib
import types
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.lab import corpus

ASCII = st.text(st.characters(max_codepoint=127))


@pytest.fixture(scope="module")
def readings(tmp_path_factory):
    """(the text read from the library, the text that the cache gives afterwards)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BUILD", str(tmp_path_factory.mktemp("build")))
        anew = corpus.corpus.__wrapped__()
        patch.setattr(corpus, "read_corpus", lambda: pytest.fail("read anew, with the text in the cache"))
        return anew, corpus.corpus.__wrapped__()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """An empty library, in a folder of its own, and no topics: `library(name, text)` writes a file."""
    folder = tmp_path / "library"
    folder.mkdir()
    monkeypatch.setattr(corpus, "sysconfig", types.SimpleNamespace(get_path=lambda name: str(folder)))
    monkeypatch.setattr("pydoc_data.topics.topics", {})
    monkeypatch.setenv("LORA_BUILD", str(tmp_path / "build"))

    def write(name: str, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    return write


def made_up(monkeypatch, documents: dict[str, str]) -> dict[str, str]:
    """What is read where the documents are these."""
    monkeypatch.setattr(corpus, "documents", lambda: iter(documents.items()))
    return corpus.read_corpus()


def split_by_hand(name: str) -> str:
    """The split of a document's name, by the rule that the module's docstring states."""
    tenth = int(hashlib.sha256(name.encode()).hexdigest()[:2], 16) % 10
    return "held_out" if tenth == 0 else "task" if tenth == 1 else "train"


def normalised(text: str) -> list[str]:
    paragraphs = (" ".join(p.lower().split()) for p in text.split("\n\n"))
    return [p for p in paragraphs if p]


@given(ASCII)
def test_decoding_gives_back_what_was_encoded(text):
    """decode(encode(text)) is text, and the ids are the ASCII codes: int64, one a character, below 128."""
    ids = corpus.encode(text)
    assert ids.dtype == torch.int64 and ids.shape == (len(text),)
    assert ids.tolist() == [ord(c) for c in text]
    assert all(0 <= i < corpus.VOCABULARY for i in ids.tolist())
    assert corpus.decode(ids) == text


@given(ASCII, st.characters(min_codepoint=128, exclude_categories=["Cs"]), st.text())
def test_a_character_outside_the_alphabet_is_an_error_that_names_it_and_its_place(before, foreign, after):
    """The first character outside ASCII is a ValueError with the character, its code point and its position."""
    with pytest.raises(ValueError) as error:
        corpus.encode(before + foreign + after)
    message = str(error.value)
    assert repr(foreign) in message and f"U+{ord(foreign):04X}" in message
    assert f"at position {len(before)} " in message


def test_the_corpus_is_ascii_and_large_enough_for_every_split(readings):
    """Train, task and held-out text hold ASCII alone, and enough of it for hundreds of windows."""
    text, _ = readings
    assert list(text) == ["train", "task", "held_out"]
    for split, part in text.items():
        assert part.isascii(), split
        assert len(part) > 20_000, f"{split} has {len(part)} characters"
    assert len(text["train"]) > 4 * max(len(text["task"]), len(text["held_out"])), "train is some 80 % of the text"


def test_no_paragraph_of_the_corpus_occurs_twice(readings):
    """No paragraph stands in two splits, nor twice in one, whatever its capitals and spaces: nothing leaks."""
    text, _ = readings
    counts = Counter(p for part in text.values() for p in normalised(part))
    twice = [p for p, count in counts.items() if count > 1]
    assert not twice, f"{len(twice)} paragraphs occur twice, such as {twice[0][:80]!r}"


def test_the_cached_text_is_the_text_read_anew(readings):
    """The second reading comes from the cache, and is the first one to the character."""
    anew, cached = readings
    assert anew == cached and list(anew) == list(cached)


def test_a_paragraph_that_differs_in_capitals_and_spaces_alone_is_kept_once(monkeypatch):
    """Of paragraphs that are the same words, only the first is kept, also where another document has the other."""
    text = made_up(
        monkeypatch,
        {"a": "The same words.\n\nAlone.", "b": "  the SAME\n   words. \n\nOnly b.", "c": "alone.\n\nALONE."},
    )
    everything = "".join(text.values())
    assert everything.count("The same words.") == 1 and "SAME" not in everything
    assert "Only b." in everything
    assert everything.lower().count("alone.") == 1
    assert Counter(normalised(everything)) == {"the same words.": 1, "alone.": 1, "only b.": 1}


@given(st.dictionaries(st.text("abcdef/._", min_size=1, max_size=8), st.integers(0, 9), min_size=1, max_size=12))
def test_a_document_s_split_depends_on_its_name_alone(names):
    """Whatever a document says, and whatever stands beside it, its text lands in the split that its name gives."""
    with pytest.MonkeyPatch.context() as patch:
        first = made_up(patch, {name: f"<{name}> says {number}." for name, number in names.items()})
        others = made_up(
            patch, {name: f"<{name}> says more than {number}." for name in reversed(names) for number in "1"}
        )
    for text in (first, others):
        for name in names:
            places = [split for split, part in text.items() if f"<{name}>" in part]
            assert places == [split_by_hand(name)]


def test_the_split_is_80_to_10_to_10():
    """Of 4,000 names, some 80 % fall to train and 10 % each to task and held_out.

    A split's share has a standard deviation of sqrt(0.1 · 0.9 / 4000) = 0.5 %, and 26 of 256 bytes are 0.16 % more
    than a tenth: 2 % is four of the one and the other.
    """
    counts = Counter(corpus._split_of(f"package/module{i}.py") for i in range(4000))
    for split, share in {"train": 0.8, "task": 0.1, "held_out": 0.1}.items():
        assert abs(counts[split] / 4000 - share) < 0.02, (split, counts)


def test_the_order_in_which_files_were_made_does_not_matter(library, tmp_path, monkeypatch):
    """Two libraries of the same files give the same text, in whichever order their files were written."""
    files = {
        f"{folder}m{i}.py": f'"""Module {i} of {folder}.\n\nShared."""\n' for i in range(6) for folder in ("", "p/")
    }
    texts = []
    for number, names in enumerate((sorted(files), sorted(files, reverse=True))):
        folder = tmp_path / f"library{number}"
        (folder / "p").mkdir(parents=True)
        for name in names:
            (folder / name).write_text(files[name])
        monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name, folder=folder: str(folder))
        texts.append(corpus.read_corpus())
    assert texts[0] == texts[1]
    assert sum(part.count("Shared.") for part in texts[0].values()) == 1


def test_documents_are_the_topics_and_every_file_s_docstrings(library, monkeypatch):
    """A topic is a document; so is a source file with docstrings: of itself, its classes, its functions, async ones."""
    monkeypatch.setattr("pydoc_data.topics.topics", {"with": "About with: na\u00efve.", "assert": "About assert."})
    library("b.py", '"""Module b."""\nx = """no docstring"""\ndef f():\n    """Function f."""\n')
    library("a/c.py", 'class C:\n    """Class C.\n\n    More."""\n    async def g(self):\n        """Method g."""\n')
    library("nothing.py", "x = 1\n")
    assert list(corpus.documents()) == [
        ("topics/assert", "About assert."),
        ("topics/with", "About with: nave."),
        ("a/c.py", "Class C.\n\nMore.\n\nMethod g."),
        ("b.py", "Module b.\n\nFunction f."),
    ]


def test_docstrings_come_in_the_order_in_which_they_stand(library):
    """A method's docstring comes before that of a function further down."""
    library("a.py", 'class C:\n    """C."""\n    def g(self):\n        """g."""\ndef f():\n    """f."""\n')
    assert [text for _, text in corpus.documents()] == ["C.\n\ng.\n\nf."]


def test_installed_packages_tests_and_unreadable_files_are_left_out(library):
    """What was installed, tests, other kinds of files and files that do not parse give no document, and no error."""
    for folder in (
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idle_test",
        "pydoc_data",
        "__pycache__",
        "p/tests",
    ):
        library(f"{folder}/m.py", '"""Left out."""\n')
    library("notes.txt", '"""Left out."""\n')
    library("broken.py", '"""Left out."""\ndef (:\n')
    library("kept.py", '"""Kept: caf\u00e9."""\n')
    assert list(corpus.documents()) == [("kept.py", "Kept: caf.")]


def test_a_changed_library_is_read_anew(library):
    """The cached text is used as long as the library's files have their names and sizes, and not after that."""
    library("a.py", '"""One."""\n')
    first = corpus.corpus.__wrapped__()
    assert "One." in "".join(first.values())
    library("a.py", '"""One, and more."""\n')
    assert "One, and more." in "".join(corpus.corpus.__wrapped__().values())
    library("b.py", '"""Two."""\n')
    assert "Two." in "".join(corpus.corpus.__wrapped__().values())


def test_changed_code_of_the_corpus_reads_it_anew(library, monkeypatch):
    """The cached text is not used once the code that made it has changed."""
    library("a.py", '"""One."""\n')
    corpus.corpus.__wrapped__()
    monkeypatch.setattr(corpus, "read_corpus", lambda: {"train": "read anew"})
    assert corpus.corpus.__wrapped__() != {"train": "read anew"}
    monkeypatch.setattr(corpus, "code_version", lambda *modules: "another")
    assert corpus.corpus.__wrapped__() == {"train": "read anew"}


@given(st.lists(ASCII, min_size=3, max_size=3), st.lists(ASCII, min_size=3, max_size=3))
def test_the_hash_changes_exactly_when_the_text_changes(first, second):
    """Two texts have the same sha256 if all their splits are equal, and else different ones."""
    hashes = []
    with pytest.MonkeyPatch.context() as patch:
        for parts in (first, second, list(first)):
            patch.setattr(corpus, "corpus", lambda parts=parts: dict(zip(corpus.SPLITS, parts, strict=True)))
            hashes.append(corpus.corpus_hash.__wrapped__())
    assert hashes[0] == hashes[2]
    assert (hashes[0] == hashes[1]) == (first == second)
    assert len(hashes[0]) == 64


def test_the_hash_sees_text_that_moves_between_splits(monkeypatch):
    """The same characters, cut into splits at another place, have another hash."""
    hashes = set()
    for cut in range(4):
        monkeypatch.setattr(corpus, "corpus", lambda cut=cut: {"train": "abc"[:cut], "task": "abc"[cut:]})
        hashes.add(corpus.corpus_hash.__wrapped__())
    assert len(hashes) == 4
