"""What a chapter leaves: rows with verdicts, numbers, sweeps and figures, in one file that can be trusted later."""

import json
import math
import re
import types
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy
import pytest
import torch

from lora_from_scratch.book import provenance, results, tables
from lora_from_scratch.book.results import Results
from lora_from_scratch.book.verdicts import AtLeast, Equal, Figures, Identity, Lower
from lora_from_scratch.lab import cache, presets
from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.sweep import Tuned

SMOKE = presets.preset("smoke")
WORDS = {"says": "Rank 1 is enough.", "source": "arXiv 2106.09685v2, table 6", "published": "73.4", "read": "abstract"}


@pytest.fixture
def out(tmp_path, monkeypatch):
    """The folder that results go to: LORA_OUT."""
    matplotlib.use("agg")
    monkeypatch.setenv("LORA_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(provenance, "corpus_hash", lambda: "c0ffee" * 10)
    return tmp_path / "out"


def chapter() -> Results:
    return Results("01_made_up", SMOKE)


def tuned(label: str, finished: bool) -> Tuned:
    entries = [{"trained": 64, "task_loss": 1.5 + s, "text_loss": 2.5 + s, "losses": [4.0]} for s in range(2)]
    return Tuned(label, Run(lr=1 / 300), {0.01: 2.0, 0.001: 1.0, 1 / 300: 0.5}, finished, entries)


def test_what_was_recorded_comes_back_from_the_file(out):
    """Claims, numbers, sweeps and captions are in `<chapter>.json` as they were recorded."""
    book = chapter()
    book.claim("rank", **WORDS, test=AtLeast(70)).measure((73.4, 1.0), chance=(50.0, 1.0), shown="73.4")
    book.record(loss=1.25, ranks=[1, 4, 16])
    book.record(table={"full": {"loss": 0.1 + 0.2}})
    book.record_sweep("ranks", {"rank 1": tuned("rank 1", True)})
    path = book.save()
    assert path == out / "01_made_up.json"
    content = json.loads(path.read_text())
    assert set(content) == {"chapter", "provenance", "rows", "numbers", "sweeps", "figures"}
    assert content["chapter"] == "01_made_up"
    row = content["rows"]["rank"]
    assert {name: row[name] for name in WORDS} == WORDS
    assert (row["kind"], row["shown"], row["verdict"]) == ("claim", "73.4", "reproduced")
    assert row["parts"][""]["estimate"] == {"value": 73.4, "low": 72.4, "high": 74.4}
    assert content["numbers"] == {
        "loss": 1.25,
        "ranks": [1, 4, 16],
        "table": {"full": {"loss": 0.1 + 0.2}},
    }
    assert content["sweeps"] == {
        "ranks": {
            "rank 1": {
                "rate": 1 / 300,
                "finished": True,
                "resolution": tuned("rank 1", True).resolution,
                "tried": {"0.001": 1.0, "0.003333": 0.5, "0.01": 2.0},
                "trained": 64,
                "task_loss": [1.5, 2.5],
                "text_loss": [2.5, 3.5],
            }
        }
    }
    assert list(content["sweeps"]["ranks"]["rank 1"]["tried"]) == ["0.001", "0.003333", "0.01"], "in order of the rates"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, numpy.float64("nan")], ids=str)
def test_the_file_is_json_as_everyone_reads_it(out, value):
    """NaN and infinity, which JSON does not have, become null wherever they stand; tuples become lists."""
    book = chapter()
    book.claim("rank", **WORDS, test=AtLeast(70)).measure(value, chance="none")
    book.record(loss=value, nested={"a": ({"b": value}, 2.0)}, by_rank={1: 0.5})
    diverged = tuned("rank 1", True)
    diverged.tried[0.1] = value
    book.record_sweep("ranks", {"rank 1": diverged})
    content = json.loads(book.save().read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert content["rows"]["rank"]["parts"][""]["estimate"]["value"] is None
    assert content["numbers"] == {"loss": None, "nested": {"a": [{"b": None}, 2.0]}, "by_rank": {"1": 0.5}}
    assert content["sweeps"]["ranks"]["rank 1"]["tried"]["0.1"] is None


def test_the_file_says_how_it_came_about_and_nothing_of_the_machine_s_folders(out):
    """Preset, device, versions, seeds, the text's hash and the seconds are there; no absolute path is."""
    book = chapter()
    fig, ax = plt.subplots()
    book.figure(fig, "curve", "A caption.")
    path = book.save()
    provenance = json.loads(path.read_text())["provenance"]
    times = {"seconds", "training_seconds"}
    assert (
        provenance.keys()
        == {"preset", "device", "python", "torch", "numpy", "seeds", "bases", "corpus_sha256", "code", "modules"}
        | times
    )
    assert provenance["preset"] == "smoke" and provenance["device"].startswith("CPU (")
    assert re.fullmatch(r"3\.\d+\.\d+.*", provenance["python"])
    assert (provenance["torch"], provenance["numpy"]) == (torch.__version__, numpy.__version__)
    assert provenance["seeds"] == [1, 2], "those that `compare` reports"
    assert provenance["corpus_sha256"] == "c0ffee" * 10
    assert 0 <= provenance["seconds"] < 600
    for folder in (str(cache.ROOT), str(Path.home()), str(out), matplotlib.__path__[0]):
        assert folder not in path.read_text()
    assert not re.search(r'"/[a-z]', path.read_text())


def test_a_chapter_with_bases_of_its_own_number_says_so(out):
    """As those on one pretrained model do; the others have as many as the preset."""
    for scope, bases in (({"bases": 1}, 1), ({}, SMOKE.bases)):
        path = results.Results("made_up", SMOKE, scope=scope).save()
        assert json.loads(path.read_text())["provenance"]["bases"] == bases
    assert SMOKE.bases != 1


def test_the_device_is_the_gpu_s_name_where_the_preset_runs_on_one(monkeypatch):
    """At a preset for CUDA, the provenance names the card."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(provenance, "corpus_hash", lambda: "")
    assert provenance.provenance(replace(SMOKE, device="cuda"), 1.0)["device"] == "NVIDIA H100"


def test_what_cannot_be_written_as_json_leaves_the_old_file(out):
    """A save that fails leaves the file of the save before, whole, and no temporary one."""
    book = chapter()
    book.record(loss=1.0)
    path = book.save()
    before = path.read_text()
    book.record(model=object())
    with pytest.raises(TypeError):
        book.save()
    assert path.read_text() == before and [p.name for p in out.iterdir()] == [path.name]


def test_an_unfinished_sweep_is_said_so(capsys):
    """A method whose best rate lies at the edge of what was tried is named in the output and marked in the file."""
    book = chapter()
    book.record_sweep("ranks", {"rank 1": tuned("rank 1", True), "rank 8": tuned("rank 8", False)})
    printed = capsys.readouterr().out
    assert printed.count("UNFINISHED") == 1 and "'rank 8'" in printed and "'rank 1'" not in printed
    assert [entry["finished"] for entry in book.sweeps["ranks"].values()] == [True, False]


def test_the_rates_of_the_committed_results_are_known_again_to_the_bit(out, tmp_path, monkeypatch):
    """`known_rates` gives what `figures/full/<chapter>.json` holds for a comparison; None without it."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert chapter().known_rates("ranks") is None, "no file"
    monkeypatch.setenv("LORA_OUT", str(tmp_path / "figures" / "full"))
    book = chapter()
    book.record_sweep("ranks", {"rank 1": tuned("rank 1", True)})
    book.save()
    assert chapter().known_rates("ranks") == {"rank 1": 1 / 300}
    assert chapter().known_rates("depths") is None, "no such comparison"
    assert Results("02_other", SMOKE).known_rates("ranks") is None, "another chapter's"


def drawn() -> plt.Figure:
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [1, 0])
    return fig


def test_a_figure_is_saved_under_the_chapter_s_name_and_its_caption_printed(out, capsys):
    """The picture is a PNG named after chapter and figure; caption and alt text are kept; the figure is closed."""
    book = chapter()
    fig = drawn()
    book.figure(fig, "curve", "The loss falls.", alt="A line from the upper left to the lower right.")
    path = out / "01_made_up_curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in out.iterdir()] == [path.name]
    alt = "A line from the upper left to the lower right."
    assert book.figures == {"01_made_up_curve.png": {"caption": "The loss falls.", "alt": alt}}
    assert capsys.readouterr().out == "The loss falls.\n"
    assert not plt.fignum_exists(fig.number)


def test_the_same_figure_is_the_same_file(out):
    """Drawn twice, a figure gives the same bytes: no date and no version of the program is in them."""
    for name in ("first", "second"):
        chapter().figure(drawn(), name, "")
    first, second = ((out / f"01_made_up_{name}.png").read_bytes() for name in ("first", "second"))
    assert first == second and b"Matplotlib" not in first


def test_an_interrupted_figure_leaves_the_old_one(out):
    """If saving a picture stops half way, the picture of before is still there, and nothing else."""
    book = chapter()
    book.figure(drawn(), "curve", "")
    path = out / "01_made_up_curve.png"
    before = path.read_bytes()

    def savefig(where, **options):
        Path(where).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        book.figure(types.SimpleNamespace(savefig=savefig), "curve", "")
    assert path.read_bytes() == before and [p.name for p in out.iterdir()] == [path.name]


def test_without_lora_out_results_go_below_the_build_folder(tmp_path, monkeypatch):
    """A run that nothing else is said about leaves the committed figures alone: it writes to build/<preset>/figures."""
    monkeypatch.delenv("LORA_OUT", raising=False)
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    monkeypatch.setattr(provenance, "corpus_hash", lambda: "")
    assert chapter().save() == tmp_path / "smoke" / "figures" / "01_made_up.json"


PUBLISHED = {"says": "It ends lower.", "source": "arXiv 2402.12354v2, abstract", "published": "1 %", "read": "abstract"}


def test_rows_of_the_four_kinds_are_in_the_file_with_their_scope(out, capsys):
    """Claims and findings say on which model, width and seeds they were measured; the others need not."""
    book = Results("01_made_up", SMOKE, scope={"task": "cipher-13"})
    book.claim("better", **PUBLISHED, test=Lower(0.02)).measure((-0.1, 0.01), chance=(0.0, 0.01))
    book.finding("same", "it ends as low", Equal(0.02), {"task": "rot13"}).measure((0.0, 0.01), chance=(0.3, 0.01))
    book.arithmetic("count", **PUBLISHED, test=Figures(18.9, 1)).measure(18.874368)
    book.identity("merge", "merged equals unmerged", Identity(1e-6)).measure(1e-9)
    rows = json.loads(book.save().read_text())["rows"]
    assert {n: (r["kind"], r["verdict"]) for n, r in rows.items()} == {
        "better": ("claim", "reproduced"),
        "same": ("finding", "holds"),
        "count": ("arithmetic", "adds up"),
        "merge": ("identity", "holds"),
    }
    assert rows["better"]["scope"] == {"model": "tiny Llama", "width": 32, "seeds": 2, "bases": 2, "task": "cipher-13"}
    assert rows["same"]["scope"]["task"] == "rot13" and rows["merge"]["scope"] == {}


def test_a_row_written_down_twice_or_never_measured_is_an_error(out):
    """Across the kinds of rows; what was never measured is named, and nothing is written."""
    book = chapter()
    book.finding("same", "it ends as low", Equal(0.02))
    for again in (
        lambda: book.identity("same", "it is the same", Identity(0)),
        lambda: book.claim("same", **WORDS, test=AtLeast(70)),
    ):
        with pytest.raises(ValueError, match="written down already"):
            again()
    with pytest.raises(ValueError, match="never measured: same"):
        book.save()
    assert not out.exists()


def test_scalars_of_numpy_and_torch_are_numbers(out):
    """np.float32, 0-d tensors and small arrays are saved as what they hold."""
    book = chapter()
    book.record(
        a=numpy.float32(0.5), b=torch.tensor(3), c=numpy.arange(2), d=[torch.tensor(math.nan)], e=numpy.int64(7)
    )
    assert json.loads(book.save().read_text())["numbers"] == {"a": 0.5, "b": 3, "c": [0, 1], "d": [None], "e": 7}


def test_keys_that_json_would_take_for_one_are_refused(out):
    """{1: …} and {"1": …} are two entries, and the second must not swallow the first."""
    book = chapter()
    book.record(losses={1: 0.5, "1": 0.7})
    with pytest.raises(ValueError, match="not told apart"):
        book.save()
    assert not (out / "01_made_up.json").exists()


def test_the_code_that_ran_is_recorded_and_other_code_is_told(tmp_path):
    """Every module of methods, analysis and lab that is imported, by the hash of its meaning; words do not count."""
    modules = provenance.code_that_ran()
    assert {"lora.py", "lab/train.py", "lab/cache.py"} <= modules.keys()
    assert not any(name.startswith("book/") for name in modules)
    assert provenance.other_code(modules, cache.ROOT) == [] and provenance.other_code(None, cache.ROOT) == ["all"]
    for name in modules:
        path = tmp_path / "lora_from_scratch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((cache.ROOT / "lora_from_scratch" / name).read_text())
    lora = tmp_path / "lora_from_scratch" / "lora.py"
    lora.write_text(lora.read_text() + "# a word more\n")
    assert provenance.other_code(modules, tmp_path) == []
    lora.write_text(lora.read_text().replace("math.sqrt(5)", "math.sqrt(6)"))
    (tmp_path / "lora_from_scratch" / "dora.py").unlink()
    assert provenance.other_code(modules, tmp_path) == ["dora.py", "lora.py"]


def test_a_comparison_is_a_table_with_paired_differences_and_the_rate_s_resolution(out):
    """One call: each method beside the one that it is measured against, whose own difference is left empty."""
    both = {"full": tuned("full", True), "rank 1": replace(tuned("rank 1", True), run=Run(lr=0.01))}
    for result in both["rank 1"].results:
        result["task_loss"] += 0.25
    lines = tables.comparison(both, against="full").splitlines()
    assert "minus full" in lines[0] and lines[2].startswith("full") and lines[2].endswith("2.000 ± 6.353")
    assert lines[3].endswith("+0.250 ± 0.000") and "0.01" in lines[3] and "×÷" in lines[3]
    with pytest.raises(ValueError, match="against is 'rank 8'"):
        tables.comparison(both, against="rank 8")


def test_one_call_draws_the_chapter_s_rows(out, capsys):
    """All rows, or those named, as one picture that is recorded like any other; a row not measured yet is named."""
    book = chapter()
    book.finding("same", "it ends as low", Equal(0.02)).measure((0.0, 0.01), chance=(0.3, 0.01))
    book.forest("verdicts", "What held.")
    assert (out / "01_made_up_verdicts.png").read_bytes().startswith(b"\x89PNG")
    assert book.figures["01_made_up_verdicts.png"]["caption"] == "What held."
    assert "same" in book.figures["01_made_up_verdicts.png"]["alt"]
    book.finding("later", "it ends lower", Lower(0))
    with pytest.raises(ValueError, match="later was written down and not measured yet"):
        book.forest("verdicts", "What held.")
    book.forest("verdicts", "What held.", rows=["same"])
