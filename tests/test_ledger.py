"""The ledger: rendered from the chapters' files, one row a claim, and found out when it drifts."""

import json
from pathlib import Path

import pytest

from lora_from_scratch.book import ledger
from lora_from_scratch.book.rows import Row
from lora_from_scratch.book.verdicts import Higher


def claim(criterion: str = "criterion words", **changed: str) -> dict:
    """A row as JSON holds it, with words that can be told apart."""
    row = judged("a", (0.5, 0.1), "claim", source="arXiv 2402.12354v2, table 1", read="abstract", published="up")
    part = {name: value for name, value in row["parts"][""].items() if name != "chance"}
    words = {name: f"{name} words" for name in ("says", "source", "published", "shown", "verdict")}
    parts = {"": part | {"criterion": criterion, "because": ""}}
    return row | {"parts": parts, "read": "", "no_chance": "", "scope": {}} | words | changed


def content(preset: str = "full", **claims: dict) -> dict:
    provenance = {
        "preset": preset,
        "device": {"gpu": "NVIDIA H100"}.get(preset, "CPU (x86_64), one thread a run"),
        "python": "3.12.1",
        "torch": "2.13.0",
        "seeds": [1, 2, 3],
        "corpus_sha256": "0123456789abcdef" * 4,
        "seconds": 61.4,
        "training_seconds": 83.2,
    }
    return {"provenance": provenance, "rows": claims, "figures": {}}


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table but its head and its rule: cut at the bars that are not escaped.

    In a chapter's table: kind, sentence, source, published, test, chance, scope, then twice: measured, verdict.
    """
    found = []
    for line in text.split("\n"):
        if line.startswith("| ") and not line.startswith(("| kind |", "| sentence |")):
            found.append([c.strip().replace("\0", "|") for c in line.replace("\\|", "\0").strip("|").split("|")])
    return found


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with two chapters' results at full, one of them at gpu as well, and no ledger."""
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "figures" / "LEDGER.md")
    put(tmp_path, "full", "01_layer", content(a=claim(says="A says."), b=claim(says="B says.")))
    put(tmp_path, "full", "00_rank", content(c=claim(says="C says.")))
    put(tmp_path, "gpu", "01_layer", content("gpu", a=claim(says="A says.", shown="on the card")))
    return tmp_path


def put(root: Path, preset: str, chapter: str, what: dict) -> None:
    path = root / "figures" / preset / f"{chapter}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what))


def test_the_ledger_has_one_row_for_each_claim():
    """Every claim of every chapter is a row with its words, source, criterion, both values and verdict."""
    text = ledger.as_markdown(
        {
            "01_layer": content(a=claim(says="A.", verdict="partly"), b=claim(says="B.")),
            "02_more": content(c=claim(says="C.")),
        },
        {},
    )
    rest = ["source words", "published words", "criterion words", "", "", "shown words"]
    assert rows(text) == [
        ["claim", "A.", *rest, "**partly**"],
        ["claim", "B.", *rest, "**verdict words**"],
        ["claim", "C.", *rest, "**verdict words**"],
    ]
    assert text.index("## 01_layer") < text.index("A.") < text.index("## 02_more") < text.index("C.")


def test_every_row_has_as_many_cells_as_the_head():
    """Heads, rules and rows of a table have the same number of columns, with one side or two."""
    full, gpu = {"01": content(a=claim(), b=claim())}, {"01": content("gpu", a=claim())}
    for sides, columns in (((full, {}), 9), ((full, gpu), 11)):
        lines = [line for line in ledger.as_markdown(*sides).split("\n") if line.startswith("|")]
        assert len(lines) == 2 + 2
        assert {line.count("|") for line in lines} == {columns + 1}


def test_bars_in_words_are_escaped():
    """A bar in a claim, as in |cos|, does not begin a new cell."""
    text = ledger.as_markdown({"01": content(a=claim(says="|cos| < 0.5", shown="a | b", criterion="||W||"))}, {})
    ((_, says, _, _, criterion, _, _, shown, _),) = rows(text)
    assert (says, criterion, shown) == ("|cos| < 0.5", "||W||", "a | b")


def test_the_gpu_stands_beside_the_cpu_where_there_is_one():
    """With results of both, a row has both measurements and both verdicts; each side's provenance is told."""
    full = {"01": content(a=claim(shown="2.0", verdict="partly"))}
    gpu = {"01": content("gpu", a=claim(shown="1.0", verdict="reproduced"))}
    text = ledger.as_markdown(full, gpu)
    assert [row[7:] for row in rows(text)] == [["2.0", "**partly**", "1.0", "**reproduced**"]]
    assert "measured (`full`) | verdict | measured (`gpu`) | verdict |" in text
    assert "CPU (x86_64)" in text and "NVIDIA H100" in text
    alone = ledger.as_markdown(full, {})
    assert "gpu" not in alone and "H100" not in alone


def test_a_chapter_or_claim_of_the_gpu_alone_is_a_row_too():
    """What only the GPU's results have is there, with its own words."""
    full, gpu = (
        {"01": content(a=claim())},
        {"01": content("gpu", b=claim(says="B.")), "02": content("gpu", c=claim(says="C."))},
    )
    text = ledger.as_markdown(full, gpu)
    assert [row[1] for row in rows(text)] == ["says words", "B.", "C."]
    assert rows(text)[1][7] == "" and rows(text)[1][9] == "shown words"
    assert "## 02" in text


def test_a_side_without_a_claim_has_empty_cells():
    """Where one side did not measure a claim, its two cells are empty."""
    text = ledger.as_markdown({"01": content(a=claim())}, {"01": content("gpu", b=claim())})
    assert rows(text)[0][9:] == ["", ""] and rows(text)[1][7:9] == ["", ""]


def test_line_breaks_in_words_do_not_end_a_row():
    """A claim that is written over two lines is one row."""
    text = ledger.as_markdown({"01": content(a=claim(says="One\nclaim."))}, {})
    assert [row[1] for row in rows(text)] == ["One claim."]


def test_the_provenance_stands_above_each_table():
    """Preset, device, versions, seeds, the text's hash and the seconds of the run are told."""
    text = ledger.as_markdown({"01": content(a=claim())}, {})
    for words in (
        "Preset `full`",
        "torch 2.13.0",
        "Python 3.12.1",
        "seeds [1, 2, 3]",
        "text 0123456789ab,",
        "61 s",
        "83 s",
    ):
        assert words in text


def test_the_ledger_is_written_from_both_folders_and_then_agrees(root, capsys):
    """--write renders figures/full and figures/gpu, chapters in order; --check agrees afterwards and prints nothing."""
    assert ledger.main(["--write"]) == 0
    text = (root / "figures" / "LEDGER.md").read_text()
    assert [row[1] for row in rows(text)] == ["C says.", "A says.", "B says."]
    assert "on the card" in text
    assert ledger.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_the_check_fails_where_there_is_no_ledger(root, capsys):
    """Without the file there is nothing that agrees: --check gives 1 and says what would do."""
    assert ledger.main(["--check"]) == 1
    assert "--write" in capsys.readouterr().out
    assert not (root / "figures" / "LEDGER.md").exists(), "checking writes nothing"


@pytest.mark.parametrize("preset", ["full", "gpu"])
def test_the_check_fails_when_the_results_have_changed(root, preset, capsys):
    """A result that was measured anew, on either side, makes the ledger stale."""
    ledger.main(["--write"])
    put(root, preset, "01_layer", content(preset, a=claim(shown="another value")))
    assert ledger.main(["--check"]) == 1
    assert "is not what the JSON files give" in capsys.readouterr().out


def test_the_check_fails_when_the_ledger_was_edited_by_hand(root):
    """One changed letter is enough; and --check leaves the file as it is."""
    ledger.main(["--write"])
    path = root / "figures" / "LEDGER.md"
    edited = path.read_text().replace("verdict words", "Verdict words", 1)
    path.write_text(edited)
    assert ledger.main(["--check"]) == 1
    assert path.read_text() == edited


def test_an_interrupted_write_leaves_the_old_ledger(root, monkeypatch):
    """If writing stops half way, the ledger of before is still there, and nothing else."""
    ledger.main(["--write"])
    before = {p.name: p.read_bytes() for p in (root / "figures").glob("*.*")}

    def write_text(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", write_text)
        ledger.main(["--write"])
    assert {p.name: p.read_bytes() for p in (root / "figures").glob("*.*")} == before


def test_the_printed_ledger_counts_the_verdicts_and_lists_the_claims(root, capsys):
    """--print FOLDER gives every chapter's claims with measurement and verdict, under a count of the verdicts."""
    put(root, "full", "02_more", content(a=claim(says="D says.", published="7", shown="8", verdict="partly")))
    capsys.readouterr()
    assert ledger.main(["--print", str(root / "figures" / "full")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("The ledger, preset full: claim: 3 verdict words, 1 partly\n")
    assert "published 7 | measured 8 | PARTLY" in printed
    assert [printed.index(f"{letter} says.") for letter in "CABD"] == sorted(
        printed.index(f"{c} says.") for c in "ABCD"
    )


def test_chapters_are_read_in_their_order(tmp_path):
    """Whichever file was written first, chapters come in the order of their numbers, at each reading."""
    numbers = [7, 2, 11, 0, 9, 4, 1, 10, 3, 8, 6, 5]
    for number in numbers:
        put(tmp_path, "full", f"{number:02d}_made_up", content())
    assert list(ledger.read(tmp_path / "figures" / "full")) == [f"{number:02d}_made_up" for number in range(12)]


def test_a_folder_without_results_gives_an_empty_ledger(root, capsys):
    """No such folder, or nothing in it, is no error."""
    assert ledger.read(root / "nowhere") == {}
    assert ledger.main(["--print", str(root / "nowhere")]) == 0
    assert "no rows" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--write", "--check"], ["--print"]], ids=str)
def test_a_command_that_says_nothing_or_too_much_is_refused(arguments):
    """Exactly one of the three ways is asked for."""
    with pytest.raises(SystemExit) as stopped:
        ledger.main(arguments)
    assert stopped.value.code == 2


def judged(name: str, measured: object, kind: str = "finding", chance: object = (0.0, 0.01), **about: str) -> dict:
    """A measured row with a test, as JSON holds it."""
    found = Row(name, kind, f"{name} says", {"": Higher(0.1, because="a tenth")}, {"width": 128}, **about)
    found.measure(measured, chance=chance)
    return found.as_data()


def test_a_row_shows_its_kind_test_reason_chance_scope_and_how_far_the_source_was_read():
    """All that a reader needs to doubt a verdict stands in its row."""
    claim = judged("a", (0.5, 0.1), "claim", source="arXiv 2402.12354v2, table 1", read="abstract", published="up")
    text = ledger.as_markdown({"01": content() | {"rows": {"a": claim}}}, {})
    (cells,) = rows(text)
    assert cells[:4] == ["claim", "a says", "arXiv 2402.12354v2, table 1 (read: abstract)", "up"]
    assert cells[4] == "the interval of the difference is wholly above 0.1 (a tenth)"
    assert cells[5:] == ["0", "width 128", "0.5 [0.4, 0.6]", "**reproduced**"]


def test_counts_by_kind_stand_at_the_head():
    """Claims, findings and the rest are counted apart, each by its own words."""
    found = {"a": judged("a", (0.5, 0.1)), "b": judged("b", (0.0, 0.01)), "c": judged("c", (0.1, 0.01))}
    text = ledger.as_markdown({"01": content(d=claim(verdict="partly"), **found)}, {})
    head = text[: text.index("## 01")]
    assert "- finding: 1 holds, 1 does not hold, 1 not settled" in head and "- claim: 1 partly" in head
    assert "LEDGER.png" in head


def test_a_question_asked_in_two_scopes_stands_side_by_side():
    """A row that asks another one again, on another model, is paired with it."""
    first, again = judged("better", (0.5, 0.1)), judged("better", (0.0, 0.05), asks_again="01.better")
    again["scope"] = {"model": "SmolLM2"}
    text = ledger.as_markdown(
        {"01": content() | {"rows": {"better": first}}, "13": content() | {"rows": {"x": again}}}, {}
    )
    twice = text[text.index("## Asked twice") :]
    assert rows(twice) == [
        [
            "better says",
            "width 128",
            "0.5 [0.4, 0.6]",
            "**holds**",
            "model SmolLM2",
            "0 [-0.05, 0.05]",
            "**does not hold**",
        ]
    ]
    assert "Asked twice" not in ledger.as_markdown({"01": content() | {"rows": {"better": first}}}, {})


def test_the_picture_is_drawn_with_the_ledger_and_missed_by_the_check(root):
    """Where rows have intervals there is a forest of them; where none has, there is none."""
    png = root / "figures" / "LEDGER.png"
    for preset, chapter in (("full", "00_rank"), ("full", "01_layer"), ("gpu", "01_layer")):
        put(root, preset, chapter, content(preset))
    assert ledger.main(["--write"]) == 0 and not png.exists() and ledger.main(["--check"]) == 0
    put(root, "full", "02_more", content() | {"rows": {"a": judged("a", (0.5, 0.1)), "b": judged("b", -9.0)}})
    assert ledger.main(["--write"]) == 0 and png.read_bytes().startswith(b"\x89PNG")
    assert ledger.main(["--check"]) == 0
    png.unlink()
    assert ledger.main(["--check"]) == 1
