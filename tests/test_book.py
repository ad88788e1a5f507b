"""The build of the book: what a notebook holds, when it counts as stale, and what happens where a chapter fails.

The chapters here are made up and tiny. Starting a kernel takes a second or two, so only three tests run one.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

from lora_from_scratch.book import chapters, paragraphs, run
from lora_from_scratch.lab.cache import meaning

CHAPTER = """\
# %% [markdown]
# # A made-up chapter

# %% tags=["dropped"]
import os, sys
print("preset", os.environ["LORA_PRESET"], "to", os.environ["LORA_OUT"])
print("a warning", file=sys.stderr)

# %% [markdown]
# Two lines,
# the second one too.

# %%
# !this is a comment, and stays one
print("own python:", sys.executable == os.environ["EXPECTED_PYTHON"])
6 * 7
"""
FAILING = "# %%\nprint('so far so good')\n\n# %%\nraise RuntimeError('the norm is off')\n"


def write(root: Path, text: str, name: str = "03_made_up") -> Path:
    path = root / "notebooks" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def commit_unrun(source: Path, output: str = "measured") -> Path:
    """A committed notebook as `make book` leaves it, without starting a kernel."""
    notebook = chapters.read_source(source)
    for count, cell in enumerate(chapters.code(notebook), start=1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
    chapters.save(notebook, source.with_suffix(".ipynb"))
    return source.with_suffix(".ipynb")


@pytest.fixture(scope="module")
def twice_run(tmp_path_factory):
    """The folder of a book that was run twice at full, and its committed notebook after each run."""
    root = tmp_path_factory.mktemp("book")
    source = write(root, CHAPTER)
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPECTED_PYTHON", run.sys.executable)
        patch.setenv("MPLBACKEND", "agg")
        for _ in range(2):
            assert run.run(root, "full", commit=True) == []
            texts.append(source.with_suffix(".ipynb").read_text())
    return root, texts


def test_a_second_run_of_a_chapter_that_measures_nothing_changes_no_byte(twice_run):
    _, (first, second) = twice_run
    assert first == second


def test_a_committed_notebook_holds_cells_and_outputs_and_nothing_else(twice_run):
    root, (text, _) = twice_run
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == ["03-00", "03-01", "03-02", "03-03"]
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", cell.id) and cell.metadata == {} for cell in notebook.cells)
    assert notebook.metadata == chapters.METADATA
    assert [cell.execution_count for cell in chapters.code(notebook)] == [1, 2]
    assert not list((root / "notebooks").glob(".*")), "a temporary file was left behind"


def test_a_chapter_runs_on_this_python_is_told_its_preset_and_keeps_its_warnings(twice_run):
    _, (text, _) = twice_run
    first, second = chapters.code(nbformat.reads(text, as_version=4))
    assert [(o.name, o.text) for o in first.outputs] == [
        ("stdout", "preset full to figures/full\n"),
        ("stderr", "a warning\n"),
    ]
    assert second.outputs[0].text == "own python: True\n"
    assert second.outputs[1].data["text/plain"] == "42"


def test_what_was_just_committed_is_in_step(twice_run):
    assert run.check(twice_run[0]) == []


def test_a_failing_chapter_is_named_with_its_cell_and_traceback_and_the_others_still_run(tmp_path, monkeypatch, capfd):
    write(tmp_path, "# %%\nprint(1)\n", "04_fine")
    committed = commit_unrun(write(tmp_path, FAILING))
    before = committed.read_text()
    monkeypatch.setattr(run, "ledger", lambda *arguments: [])
    monkeypatch.setattr(run, "pretrain", lambda size: None)
    assert run.main(["run", "--preset", "full", "--commit"], root=tmp_path) == 1
    out, err = capfd.readouterr()
    assert re.search(r"03_made_up .* FAILED\n04_fine .* ok\n", out)
    for part in ("03_made_up", "cell 03-01", "raise RuntimeError('the norm is off')", "Traceback"):
        assert part in err
    assert committed.read_text() == before
    assert "so far so good" in (tmp_path / "build/full/03_made_up.ipynb").read_text()


def test_a_chapter_whose_model_is_not_there_is_named_as_not_run_and_the_others_run(tmp_path, monkeypatch, capfd):
    write(tmp_path, "# %%\nfrom lora_from_scratch.lab.checkpoint import load_checkpoint\n", "03_real")
    write(tmp_path, "# %%\nprint(1)\n", "04_fine")
    monkeypatch.setattr(run, "ledger", lambda *arguments: [])
    monkeypatch.setattr(run, "pretrain", lambda size: None)
    monkeypatch.setenv("LORA_MODEL", str(tmp_path / "nowhere"))
    assert run.main(["run", "--preset", "smoke"], root=tmp_path) == 1
    out, err = capfd.readouterr()
    assert re.search(r"03_real .* NOT RUN\n04_fine .* ok\n", out)
    assert "03_real: not run: there is nothing at" in err and "give a folder with config.json" in err
    monkeypatch.setenv("LORA_MODEL", str(tmp_path))  # there is a folder: the chapter runs, and imports what is there
    assert run.run(tmp_path, "smoke", "03") == []


def test_a_write_that_is_interrupted_leaves_the_old_notebook(tmp_path, monkeypatch):
    committed = commit_unrun(write(tmp_path, CHAPTER))
    before = committed.read_text()

    def interrupted(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        commit_unrun(committed.with_suffix(".py"), "other outputs")
    assert committed.read_text() == before
    assert sorted(path.name for path in committed.parent.iterdir()) == ["03_made_up.ipynb", "03_made_up.py"]


@pytest.mark.parametrize("line", ["%matplotlib inline", "!ls", "%%time", "x?", "await x"])
def test_a_cell_that_is_not_plain_python_is_refused_by_name(tmp_path, line):
    source = write(tmp_path, f"# %%\nx = 1\n\n# %%\n{line}\n")
    with pytest.raises(ValueError, match=r"03_made_up\.py: cell 03-01 is not plain Python"):
        chapters.read_source(source)
    assert len(run.run(tmp_path, "smoke")) == 1, "and running it fails, without a kernel"


def test_a_percent_sign_that_continues_an_expression_is_plain_python(tmp_path):
    notebook = chapters.read_source(write(tmp_path, "# %%\nx = (\n    7\n    % 4\n)\n"))
    assert [cell.source for cell in notebook.cells] == ["x = (\n    7\n    % 4\n)"]


def test_prose_renews_the_words_and_keeps_the_outputs(tmp_path):
    source = write(tmp_path, CHAPTER)
    committed = commit_unrun(source)
    write(tmp_path, CHAPTER.replace("Two lines", "Three lines") + "\n# %% [markdown]\n# One more.\n")
    assert "words" in run.check(tmp_path)[0]
    assert run.prose(tmp_path) == []
    notebook = nbformat.read(committed, as_version=4)
    assert notebook.cells[2].source.startswith("Three lines") and notebook.cells[4].source == "One more."
    assert [cell.outputs[0].text for cell in chapters.code(notebook)] == ["measured", "measured"]
    assert run.check(tmp_path) == []


def test_prose_drops_a_run_s_remark_on_words_that_it_no_longer_has(tmp_path):
    """What a run said of paragraphs is of the words of its time; what it measured stays."""
    committed = commit_unrun(write(tmp_path, CHAPTER), output=f"{paragraphs.REMARK}\n  a paragraph that was mended\n")
    assert "words" in run.check(tmp_path)[0] and run.prose(tmp_path) == []
    assert [cell.outputs for cell in chapters.code(nbformat.read(committed, as_version=4))] == [[], []]


def test_prose_refuses_a_chapter_whose_code_was_changed(tmp_path):
    committed = commit_unrun(write(tmp_path, CHAPTER))
    before = committed.read_text()
    write(tmp_path, CHAPTER.replace("6 * 7", "6 * 8"))
    (refusal,) = run.prose(tmp_path)
    assert "03_made_up" in refusal and "make book N=03" in refusal
    assert committed.read_text() == before


def swap_code_cells(notebook):
    notebook.cells[1], notebook.cells[3] = notebook.cells[3], notebook.cells[1]


def rename_id(notebook):
    notebook.cells[0].id = "something-else"


def change_type(notebook):
    notebook.cells[0] = nbformat.v4.new_raw_cell(notebook.cells[0].source, id=notebook.cells[0].id)


def add_metadata(notebook):
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "now"}


def run_out_of_order(notebook):
    notebook.cells[1].execution_count = 5


def show_a_path(notebook):
    notebook.cells[1].outputs[0].text = f"{Path.home()}/somewhere"


@pytest.mark.parametrize(
    "change", [swap_code_cells, rename_id, change_type, add_metadata, run_out_of_order, show_a_path]
)
def test_a_committed_notebook_changed_by_hand_is_noticed(tmp_path, change):
    committed = commit_unrun(write(tmp_path, CHAPTER))
    assert run.check(tmp_path) == []
    notebook = nbformat.read(committed, as_version=4)
    change(notebook)
    chapters.save(notebook, committed)
    assert "03_made_up" in run.check(tmp_path)[0]


def test_a_missing_notebook_and_one_without_a_source_are_noticed(tmp_path):
    write(tmp_path, CHAPTER)
    commit_unrun(write(tmp_path, CHAPTER, "05_left_over")).with_suffix(".py").unlink()
    missing, left_over = run.check(tmp_path)
    assert "03_made_up" in missing and "make book N=03" in missing
    assert "05_left_over.ipynb is of no chapter" in left_over


def test_figures_and_the_results_that_name_them_are_both_there(tmp_path):
    commit_unrun(write(tmp_path, CHAPTER))
    results = tmp_path / "figures/full/03_made_up.json"
    results.parent.mkdir(parents=True)
    names = {"there.png": {"caption": "", "alt": ""}, "gone.png": {"caption": "", "alt": ""}}
    results.write_text(json.dumps({"figures": names, "provenance": code_of(tmp_path)}))
    (results.parent / "there.png").touch()
    (results.parent / "old.png").touch()
    missing, unnamed = run.check(tmp_path)
    assert "gone.png" in missing and "missing" in missing
    assert "old.png" in unnamed


def test_a_chapter_number_that_does_not_exist_is_an_error_that_lists_what_there_is(tmp_path):
    write(tmp_path, CHAPTER)
    with pytest.raises(SystemExit, match="03_made_up"):
        chapters.sources(tmp_path, "7")
    assert [path.stem for path in chapters.sources(tmp_path, "3")] == ["03_made_up"]


def test_appendices_come_after_the_chapters_and_can_be_run_apart(tmp_path):
    for stem in ("A1_depth", "03_made_up", "11_last"):
        write(tmp_path, CHAPTER, stem)
    stems = lambda which: [path.stem for path in chapters.sources(tmp_path, which)]  # noqa: E731
    assert stems(None) == ["03_made_up", "11_last", "A1_depth"]
    assert stems(chapters.CHAPTERS) == ["03_made_up", "11_last"] and stems(chapters.APPENDICES) == ["A1_depth"]
    assert stems("A1") == stems("a1") == ["A1_depth"]


def test_only_what_the_repository_keeps_can_be_committed(tmp_path):
    for preset in ("smoke", "quick"):
        with pytest.raises(SystemExit):
            run.main(["run", "--preset", preset, "--commit"], root=tmp_path)


TOLD = """\
# %% [markdown] rests_on="03.better=reproduced"
# It ends lower, by {03.better.shown}.

# %%
1
"""


def code_of(root: Path, source: str = "x = 1\n") -> dict:
    """A provenance that records the code of a repository with one module, and that module."""
    code = root / "lora_from_scratch" / "lora.py"
    code.parent.mkdir(exist_ok=True)
    code.write_text(source)
    return {"modules": {"lora.py": meaning(source)[:12]}}


def results_of(root: Path, verdict: str, shown: str = "0.03") -> None:
    """Committed results with one row."""
    path = root / "figures" / "full" / "03_made_up.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"better": {"verdict": verdict, "shown": shown, "published": "", "parts": {}}}
    path.write_text(json.dumps({"figures": {}, "rows": rows, "provenance": code_of(root)}))


def test_words_about_an_outcome_are_held_to_the_committed_row(tmp_path):
    """The number is filled in; a new number makes the words stale, another verdict makes them wrong."""
    committed = commit_unrun(write(tmp_path, TOLD))
    results_of(tmp_path, "reproduced")
    assert chapters.prose(tmp_path) == [] and run.check(tmp_path) == []
    notebook = nbformat.read(committed, as_version=4)
    assert notebook.cells[0].source == "It ends lower, by 0.03."
    assert notebook.cells[0].metadata == {"rests_on": "03.better=reproduced"}
    results_of(tmp_path, "reproduced", shown="0.04")
    assert "words" in run.check(tmp_path)[0] and chapters.prose(tmp_path) == []
    assert "by 0.04." in committed.read_text()
    results_of(tmp_path, "not settled", shown="0.04")
    (wrong,) = run.check(tmp_path)
    assert "rests on 03.better=reproduced, and that row is not settled" in wrong


def test_words_that_rest_on_no_row_are_wrong(tmp_path):
    """A row that is not in the results is named, by the check and where the words would be renewed."""
    commit_unrun(write(tmp_path, TOLD))
    assert any("missing from the results" in line for line in run.check(tmp_path))
    assert "no row 03.better" in chapters.prose(tmp_path)[0]


def test_results_of_other_code_are_refused(tmp_path):
    """Which files differ is told; a result that recorded no code is refused too; another docstring is no other code."""
    commit_unrun(write(tmp_path, "# %%\n1\n"))
    results_of(tmp_path, "reproduced")
    path, code = tmp_path / "figures" / "full" / "03_made_up.json", tmp_path / "lora_from_scratch" / "lora.py"
    assert run.check(tmp_path) == []
    code.write_text("x = 1  # a word\n")
    assert run.check(tmp_path) == []
    code.write_text("x = 2\n")
    (line,) = run.check(tmp_path)
    assert "other lora.py" in line and "make book N=03" in line
    path.write_text(json.dumps(json.loads(path.read_text()) | {"provenance": {}}))
    assert "do not record" in run.check(tmp_path)[0]


def test_a_chapter_s_threads_wait_quietly(tmp_path, monkeypatch):
    """Spinning ones make each step several times as long beside a browser; the kernel hears of it before torch does."""
    seen = {}
    monkeypatch.setattr(run, "execute", lambda notebook, environment, folder: seen.update(environment))
    run.run_chapter(write(tmp_path, "# %%\n1\n"), "smoke", False, tmp_path)
    assert seen["OMP_WAIT_POLICY"] == "PASSIVE" and seen["LORA_PRESET"] == "smoke"


@pytest.mark.parametrize(("asked", "made"), [([], [0, 1]), (["--chapter", "03"], [])])
def test_a_run_of_all_chapters_makes_the_preset_s_bases_first(tmp_path, monkeypatch, capfd, asked, made):
    """One chapter makes those that it needs, when it needs them."""
    found = []
    write(tmp_path, "# %%\nprint(1)\n", "03_fine")
    monkeypatch.setattr(run, "ledger", lambda *arguments: [])
    monkeypatch.setattr(run, "make_bases", lambda seeds, preset: found.extend(seeds))
    assert run.main(["run", "--preset", "smoke", *asked], root=tmp_path) == 0
    out = capfd.readouterr().out
    assert found == made and ("pretrained bases" in out) == bool(made)
