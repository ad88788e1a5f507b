"""Results on disk: used where nothing that decides them has changed, never where anything is wrong with the file.

The second half is about the first user of the cache, the pretrained base.
"""

import importlib
import importlib.util
import json
import pickle
import tempfile
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_tasks import use_made_up_text

from lora_from_scratch.lab import cache, corpus, presets, pretrain, train

KEY = {"model": [1, 2], "steps": 3, "code": "abc"}


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty build folder of this test's own."""
    monkeypatch.setenv("LORA_BUILD", str(tmp_path / "build"))
    return tmp_path / "build"


def refuse():
    pytest.fail("the work was done again")


def only_file(build: Path) -> Path:
    (path,) = (build / "cache").iterdir()
    return path


def same(a: object, b: object) -> bool:
    """Equal in type, shape and every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]))
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    return (100 * numbers).abs().to(dtype)


SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS | tensors(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.dictionaries(
    st.sampled_from("abc"), st.booleans() | st.integers(0, 3) | st.sampled_from(["0", "1"]), max_size=3
)


@given(VALUES)
def test_a_value_comes_back_from_disk_as_it_was(value):
    """Tensors, numbers and strings, in lists and dicts, come back equal to the bit, and the work is not done again."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BUILD", folder)
        assert same(cache.cached("made-up", KEY, lambda: value), value)
        assert same(cache.cached("made-up", KEY, refuse), value)


@given(KEYS, KEYS)
def test_another_key_never_hits(first, second):
    """A value is found under its own key and under no other: 1, True and "1" are not taken for each other."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BUILD", folder)
        cache.cached("made-up", first, lambda: "first")
        equal = same(dict(sorted(first.items())), dict(sorted(second.items())))
        assert cache.cached("made-up", second, lambda: "second") == ("first" if equal else "second")
        assert cache.cached("made-up", first, refuse) == "first"


def test_the_order_of_a_key_s_entries_does_not_matter(build):
    """The same entries in another order are the same key."""
    cache.cached("made-up", KEY, lambda: 1)
    assert cache.cached("made-up", dict(reversed(KEY.items())), refuse) == 1


def test_kinds_do_not_share_values(build):
    """The same key under another kind is another value."""
    assert [cache.cached(kind, KEY, lambda kind=kind: kind) for kind in ("base", "run", "base")] == [
        "base",
        "run",
        "base",
    ]


class Trap:
    """What a malicious file would do if it were unpickled: write a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def assert_rebuilt(path: Path, capsys, says: str) -> None:
    """The file at `path` is not used: the work is done again, one line says why, and the new file is whole."""
    capsys.readouterr()
    assert cache.cached("made-up", KEY, lambda: "anew") == "anew"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and path.name in printed and says in printed, printed
    assert cache.cached("made-up", KEY, refuse) == "anew"
    assert capsys.readouterr().out == ""
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no other file is left"


@pytest.fixture
def path(build):
    """The file that holds the value of KEY."""
    cache.cached("made-up", KEY, lambda: {"losses": [1.0, 2.0], "weight": torch.ones(100)})
    return only_file(build)


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.9, 0.999], ids="{:.1%} of it left".format)
def test_a_truncated_file_is_never_used(path, part, capsys):
    """A file that breaks off, wherever, is made anew, with one line that says so."""
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_rebuilt(path, capsys, "cannot be read")


@pytest.mark.parametrize(
    "content", [b"not a cache file\n", bytes(range(256)) * 8, b"\x80\x02", b"PK\x03\x04" + bytes(60)]
)
def test_a_foreign_file_is_never_used(path, content, capsys):
    """Text, random bytes, the start of a pickle or of a zip archive: made anew, with one line that says so."""
    path.write_bytes(content)
    assert_rebuilt(path, capsys, "cannot be read")


@pytest.mark.parametrize(
    "write", [lambda o, p: p.write_bytes(pickle.dumps(o, 2)), torch.save], ids=["pickle", "torch.save"]
)
def test_a_malicious_file_runs_no_code(path, write, tmp_path, capsys):
    """A pickle that would run code when it is loaded does not run it; the work is done again."""
    marker = tmp_path / "the trap has sprung"
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap works"
    marker.unlink()
    write({"key": json.dumps(cache.canonical(KEY)), "value": Trap(marker)}, path)
    assert_rebuilt(path, capsys, "cannot be read")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content, says",
    [
        ({"key": json.dumps(cache.canonical({**KEY, "steps": 4})), "value": "another run's"}, "holds something else"),
        ({"key": torch.ones(3), "value": "another program's"}, "holds something else"),
        ({"model.weight": torch.ones(3)}, "holds something else"),
        ({"key": json.dumps(cache.canonical(KEY))}, "cannot be read"),
        (torch.ones(3), "holds something else"),
        (["key", "value"], "holds something else"),
    ],
    ids=["another key", "a tensor for a key", "a state dict", "no value", "a tensor", "a list"],
)
def test_a_torch_file_without_this_key_is_never_used(path, content, says, capsys):
    """A file that torch can read is used only if it holds this very key and a value."""
    torch.save(content, path)
    assert_rebuilt(path, capsys, says)


@pytest.mark.parametrize("old", [None, "the old content"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_while_writing_leaves_the_old_file_or_none(tmp_path, old, error):
    """Whatever stops a write half way, the folder holds what it held before, and no temporary file."""
    path = tmp_path / "folder" / "file.json"
    if old:
        path.parent.mkdir()
        path.write_text(old)

    def write(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise error

    with pytest.raises(error):
        cache.save_atomically(path, write)
    assert {p.name: p.read_text() for p in path.parent.iterdir()} == ({"file.json": old} if old else {})


def test_a_write_shows_only_when_it_is_whole(tmp_path):
    """While a file is being written, its name still has the old content; the temporary one is in the same folder."""
    path = tmp_path / "file.json"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent, "else the move would be a copy, which can be interrupted"
        assert temporary.suffix == path.suffix, "matplotlib picks the format by it"

    cache.save_atomically(path, write)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file.json": "new"}


def test_an_interruption_while_a_value_is_saved_leaves_no_cache_file(build, monkeypatch):
    """If saving fails half way, nothing is cached, and the next call does the work."""

    def save(value: object, temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(KeyboardInterrupt):
            cache.cached("made-up", KEY, lambda: 1)
    assert list((build / "cache").iterdir()) == []
    assert cache.cached("made-up", KEY, lambda: 2) == 2


def test_work_that_fails_leaves_no_cache_file(build):
    """If the work itself fails, nothing is cached."""
    with pytest.raises(ZeroDivisionError):
        cache.cached("made-up", KEY, lambda: 1 / 0)
    assert cache.cached("made-up", KEY, lambda: 2) == 2


def write_module(folder: Path, name: str, source: str) -> types.ModuleType:
    """A module that is imported from a file of this source, as Python does it."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CODE = '"""A docstring."""\n\nRATE = 3\n\n\ndef f(x):\n    """Another."""\n    return x + RATE  # a comment\n'
WORDS = [
    CODE.replace("A docstring.", "More words."),
    CODE.replace("  # a comment", ""),
    CODE.replace('    """Another."""\n', ""),
    CODE.replace("\n\n\ndef", "\n\n# A remark.\n\ndef"),
    CODE.replace("x + RATE", "(x + RATE)"),
]
MEANINGS = [
    CODE.replace("RATE = 3", "RATE = 4"),
    CODE.replace("x + RATE", "x - RATE"),
    CODE.replace("RATE = 3", 'RATE = 3\nNOTE = "a string that is no docstring"'),
    CODE.replace("RATE = 3", "RATE = 3.0"),
    CODE.replace("f(x)", "f(x, y=1)"),
]


def test_words_can_be_mended_without_training_again(tmp_path):
    """Docstrings, comments and layout do not change the version of a module; everything else does."""
    version = cache.code_version(write_module(tmp_path, "a", CODE))
    for source in WORDS:
        assert cache.code_version(write_module(tmp_path, "a", source)) == version, source
    others = [cache.code_version(write_module(tmp_path, "a", source)) for source in MEANINGS]
    assert len({version, *others}) == 1 + len(MEANINGS)


def test_the_code_version_changes_with_any_module_and_their_order(tmp_path):
    """It is of all modules together."""
    first, second = (write_module(tmp_path, name, f"x = '{name}'\n") for name in "ab")
    versions = {cache.code_version(*modules) for modules in ([first, second], [second, first], [first], [second])}
    assert len(versions) == 4


def test_the_version_is_of_the_code_that_was_imported(tmp_path):
    """A source that is edited afterwards changes nothing in this process; loaded anew, it has a version of its own."""
    module = write_module(tmp_path, "a", CODE)
    before = cache.code_version(module)
    Path(module.__file__).write_text(MEANINGS[1])
    assert cache.code_version(module) == before and module.f(1) == 4
    assert cache.code_version(write_module(tmp_path, "a", MEANINGS[1])) != before


def test_a_module_reloaded_as_other_code_is_refused(tmp_path, monkeypatch):
    """Whoever took a name from it holds the old one still: the result would be neither code's. Other words are fine."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "reloaded_here.py").write_text(CODE)
    module = importlib.import_module("reloaded_here")
    taken, before = module.f, cache.code_version(module)
    Path(module.__file__).write_text(MEANINGS[1] + "# longer\n")
    importlib.reload(module)
    assert module.f(1) == -2 and taken.__code__ != module.f.__code__
    for _ in range(2):
        with pytest.raises(RuntimeError, match="reloaded_here was edited since it was imported; restart"):
            cache.code_version(module)
    Path(module.__file__).write_text(WORDS[0] + "# longer still\n")
    importlib.reload(module)
    assert cache.code_version(module) == before


def test_a_module_edited_before_its_version_was_taken_is_refused(tmp_path):
    """What ran is not known then: no result is read or written under the hash of other code."""
    module = write_module(tmp_path, "a", CODE)
    Path(module.__file__).write_text(MEANINGS[1])
    with pytest.raises(RuntimeError, match="a was edited since it was imported; restart"):
        cache.code_version(module)


def test_editing_a_source_in_a_live_session_never_serves_old_numbers_as_new(build, tmp_path):
    """Edited, run again, restarted: the new code's result is computed by the new code."""
    session = write_module(tmp_path, "a", CODE)
    run = lambda module: cache.cached("made-up", {"code": cache.code_version(module)}, lambda: module.f(1))  # noqa: E731
    assert run(session) == 4
    Path(session.__file__).write_text(MEANINGS[1])
    assert run(session) == 4, "this session still runs the old code, and says so"
    assert run(write_module(tmp_path, "a", MEANINGS[1])) == -2, "after a restart"


def test_numbers_of_numpy_and_torch_make_the_same_key(build):
    """4, 4.0, np.int64(4) and a 0-d tensor are one number; True and "4" are not; nor are {1: …} and {"1": …}."""
    cache.cached("made-up", {"rank": 4}, lambda: "four")
    for four in (4.0, np.int64(4), np.float32(4), torch.tensor(4), torch.tensor(4.0)):
        assert cache.cached("made-up", {"rank": four}, refuse) == "four"
    for i, other in enumerate((True, "4", [4], 4.5, {1: 4}, {"1": 4})):
        assert cache.cached("made-up", {"rank": other}, lambda i=i: i) == i


def test_the_build_folder_is_beside_the_package_or_where_the_environment_says(monkeypatch, tmp_path):
    """LORA_BUILD names the folder of caches; without it, it is `build` beside the package."""
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    assert cache.build_folder() == tmp_path
    monkeypatch.delenv("LORA_BUILD")
    package = Path(cache.__file__).parents[1]
    assert cache.build_folder() == package.parent / "build"


# The pretrained base


SMOKE = replace(presets.preset("smoke"), pretrain_steps=3)


@pytest.fixture
def fits(build, monkeypatch):
    """The number of steps of every training so far, on made-up text and one thread, in a build folder of its own."""
    use_made_up_text(monkeypatch)
    fit, threads, calls = train.fit, train.threads, []

    def counted(model, batches, steps, **options):
        calls.append(steps)
        return fit(model, batches, steps, **options)

    monkeypatch.setattr(train, "fit", counted)
    monkeypatch.setattr(train, "threads", lambda count: threads(1))  # two fight for a busy machine's cores
    return calls


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    assert same(dict(first.state_dict()), dict(second.state_dict()))


def test_the_base_is_trained_once_and_then_read(fits):
    """The first call trains for the preset's steps; the second reads the very same weights and trains nothing."""
    first = pretrain.pretrained(presets.preset("smoke"))
    assert fits == [30]
    assert_same_weights(pretrain.pretrained(presets.preset("smoke")), first)
    assert fits == [30]


def test_training_the_base_again_gives_the_same_bits(fits, build):
    """With the cache gone, the base is trained again, to the very same weights."""
    first = pretrain.pretrained(SMOKE)
    only_file(build).unlink()
    assert_same_weights(pretrain.pretrained(SMOKE), first)
    assert fits == [3, 3]


def test_every_call_gives_a_fresh_copy_of_the_base(fits):
    """What a caller does to its base does not reach the next caller's, nor the file."""
    first, second = pretrain.pretrained(SMOKE), pretrain.pretrained(SMOKE)
    with torch.no_grad():
        first.lm_head.weight.zero_()
    assert second.lm_head.weight.any()
    assert_same_weights(pretrain.pretrained(SMOKE), second)


@pytest.mark.parametrize(
    "changed",
    [
        {"pretrain_steps": 4},
        {"pretrain_batch": 3},
        {"model": replace(SMOKE.model, hidden_size=16)},
        {"model": replace(SMOKE.model, rope_theta=500.0)},
    ],
    ids=str,
)
def test_another_model_or_recipe_is_trained_anew(fits, changed):
    """A base that was trained for another configuration is not used."""
    pretrain.pretrained(SMOKE)
    pretrain.pretrained(replace(SMOKE, **changed))
    assert len(fits) == 2


@pytest.mark.parametrize(
    "changed", [{"name": "other"}, {"seeds": 9}, {"budget": 9}, {"steps": 9}, {"batch": 9}], ids=str
)
def test_what_only_fine_tuning_uses_trains_no_new_base(fits, changed):
    """Presets that differ in fine-tuning alone share their base."""
    pretrain.pretrained(SMOKE)
    pretrain.pretrained(replace(SMOKE, **changed))
    assert len(fits) == 1


def test_another_text_trains_the_base_anew(fits, monkeypatch):
    """A base that was trained on other text is not used."""
    pretrain.pretrained(SMOKE)
    monkeypatch.setattr(corpus, "corpus_hash", lambda: "another")
    pretrain.pretrained(SMOKE)
    assert len(fits) == 2


@pytest.mark.parametrize("name", ["llama", "corpus", "tasks", "train"])
def test_changed_code_trains_the_base_anew(fits, monkeypatch, name):
    """A base that older code made is not used: the model's, the text's, the windows' or the training loop's."""
    pretrain.pretrained(SMOKE)
    module = getattr(pretrain, name)
    monkeypatch.setitem(cache.NOTED, module, (module.__spec__, "another meaning"))
    pretrain.pretrained(SMOKE)
    assert len(fits) == 2


def test_another_torch_or_device_trains_the_base_anew(fits, monkeypatch):
    """The device and torch's version decide the last digits, so they belong to the key."""
    key = pretrain.base_key(SMOKE)
    assert pretrain.base_key(replace(SMOKE, device="cuda")) != key
    monkeypatch.setattr(torch, "__version__", "0.0.0")
    assert pretrain.base_key(SMOKE) != key


def test_a_corrupt_base_is_trained_anew(fits, build, capsys):
    """A base whose file is damaged is trained again, with one line that says so, and is whole afterwards."""
    first = pretrain.pretrained(SMOKE)
    path = only_file(build)
    path.write_bytes(path.read_bytes()[:5000])
    assert_same_weights(pretrain.pretrained(SMOKE), first)
    assert "cannot be read" in capsys.readouterr().out
    assert len(fits) == 2
    pretrain.pretrained(SMOKE)
    assert len(fits) == 2


def test_every_seed_has_a_base_of_its_own_and_after_the_last_the_first_again(fits):
    """Base s starts from seed s and reads the windows of seed s; a preset with one base has one for all seeds."""
    bases = [pretrain.pretrained(SMOKE, seed).state_dict() for seed in (0, 1, 2)]
    assert SMOKE.bases == 2 and len(fits) == 2
    differ = [any(not torch.equal(bases[0][n], other[n]) for n in bases[0]) for other in bases[1:]]
    assert differ == [True, False]
    starts = [pretrain.untrained(SMOKE, seed).lm_head.weight for seed in (0, 1)]
    assert not torch.equal(*starts)
    alone = replace(SMOKE, bases=1)
    assert [alone.base_of(seed) for seed in range(4)] == [0, 0, 0, 0]
    assert pretrain.base_key(alone, 3) == pretrain.base_key(SMOKE, 0), "which is the first one of the others"


def test_reading_a_base_leaves_the_random_numbers_alone(fits):
    """A chapter that seeds itself gets the same numbers whether the base was there or not."""
    state = torch.get_rng_state()
    pretrain.pretrained(SMOKE)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_base_reads_windows_of_its_own(fits, monkeypatch):
    """Another start alone would be half of another model."""
    seeds, batches = [], train.Batches
    monkeypatch.setattr(train, "Batches", lambda *args, seed: seeds.append(seed) or batches(*args, seed=seed))
    for seed in (1, 0):
        pretrain.pretrained(SMOKE, seed)
    assert seeds == [1, 0]
