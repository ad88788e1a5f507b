"""`make agree`: each row of the ledger against this machine's; a wrong one is found."""

import copy
import json

import pytest

from lora_from_scratch.book import here
from lora_from_scratch.lab.cache import ROOT


def row(value, low=None, high=None, kind="finding", test="Lower", verdict="yes", seeds=3, **numbers) -> dict:
    """A row as JSON holds it."""
    numbers = numbers or {"by": 0.1}
    part = {"kind": test, "because": "", "verdict": verdict, **numbers}
    part["estimate"] = {"value": value, "low": low, "high": high}
    return {"kind": kind, "scope": {"seeds": seeds}, "parts": {"": part}, "shown": f"{value}"}


COMMITTED = row(-0.5, -0.6, -0.4)


@pytest.mark.parametrize(
    ("ours", "committed", "state"),
    [
        (row(-0.41), COMMITTED, "inside"),
        (row(-0.39), COMMITTED, "same"),  # outside, and below -0.1 still
        (row(-0.025), row(-0.2, -0.3, -0.11), "one seed"),  # the other side, within 0.095 · √4 of -0.205
        (row(0.0), row(-0.2, -0.3, -0.11), "WRONG"),  # the other side, 0.205 off, beyond 0.19
        (row(0.3), COMMITTED, "WRONG"),
        (row(0.3), row(-0.5, -1.2, 0.2, verdict="not settled"), "one seed"),  # an open row is never wrong
        (row(1e-13), row(0.0, kind="identity", test="Identity", tolerance=1e-12), "inside"),
        (row(1e-11), row(0.0, kind="identity", test="Identity", tolerance=1e-12), "WRONG"),
        (row(9285), row(9285, kind="arithmetic", test="Figures", published=1e4, digits=0), "inside"),
        (row(9286), row(9285, kind="arithmetic", test="Figures", published=1e4, digits=0), "WRONG"),
        (row(0.95, verdict="yes"), row(0.9, 0.9, 0.9, test="AtLeast", x=0.5), "same"),
        (row(None), COMMITTED, "one seed"),
    ],
)
def test_state_of_a_row(ours, committed, state):
    """Inside, on the same side, beyond what one seed settles, or wrong: each by hand."""
    assert here.row_state(ours, committed) == state


def test_a_value_where_the_books_own_quick_run_lies_is_no_fault_of_the_machine():
    """On the other side for fewer steps, within reach of the kept value; beyond it, or of other code, it is wrong."""
    ours, reach = row(0.3), 0.1 * 2  # half the interval, times √4
    assert here.row_state(ours, COMMITTED, {"": 0.3 + 0.9 * reach}) == "as quick"
    assert here.row_state(ours, COMMITTED, {"": 0.3 + 1.1 * reach}) == "WRONG"
    book, here_ = ({"01_x": {"provenance": {"code": "a"}, "rows": {"r": r}}} for r in (COMMITTED, ours))
    for code, state in (("a", "as quick"), ("b", "WRONG")):
        kept = {"01_x": {"code": code, "rows": {"r": {"": 0.3}}}}
        assert here.compare(here_, book, kept)[0][1] == state


def test_what_is_kept_is_the_run_that_lies_there_and_others_stay(tmp_path):
    """Each chapter's values under its code; a chapter that was not run stays as it was kept."""
    root, folder = tmp_path, tmp_path / "quick"
    (root / "figures").mkdir()
    folder.mkdir()
    (root / here.KEPT).write_text(json.dumps({"00_old": {"code": "x", "rows": {}}}))
    source = ROOT / "figures" / "full" / "07_rslora.json"
    (folder / source.name).write_text(source.read_text("utf-8"))
    (root / "lora_from_scratch").symlink_to(ROOT / "lora_from_scratch")
    here.keep(folder, root)
    kept, content = json.loads((root / here.KEPT).read_text()), json.loads(source.read_text("utf-8"))
    assert list(kept) == ["00_old", "07_rslora"] and kept["07_rslora"]["code"] == content["provenance"]["code"]
    for name, found in kept["07_rslora"]["rows"].items():
        assert found == {part: p["estimate"]["value"] for part, p in content["rows"][name]["parts"].items()}


def test_worst_part_counts():
    """A row of several parts is as its worst one of those that both have; without any there is nothing to compare."""
    two = copy.deepcopy(COMMITTED)
    two["parts"]["far"] = two["parts"][""]
    ours = copy.deepcopy(two)
    ours["parts"] = {"": row(-0.5)["parts"][""], "far": row(0.5)["parts"][""]}
    assert here.row_state(ours, two) == "WRONG"
    ours["parts"] = {"": row(-0.5)["parts"][""], "of quick alone": row(9.0)["parts"][""]}
    assert here.row_state(ours, two) == here.row_state(row(-0.5), COMMITTED) != "WRONG"
    ours["parts"] = {"of quick alone": row(9.0)["parts"][""]}
    assert here.row_state(ours, two) == "no part"


def test_committed_results_agree_with_themselves(capsys):
    """The book against itself: no row is wrong or missing, and nearly all lie inside."""
    assert here.main(["--folder", str(ROOT / "figures" / "full")]) == 0
    said = capsys.readouterr().out
    assert " missing" not in said.split("Of ")[1].split(".")[0] and "cannot settle" in said


def test_planted_wrong_row_is_found(tmp_path, capsys):
    """One settled row whose value here is on the other side: it is named, and the exit status is 1."""
    for path in (ROOT / "figures" / "full").glob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        if path.stem == "01_lora_layer":
            content["rows"]["both_random"]["parts"][""]["estimate"] = {"value": -1.0, "low": None, "high": None}
        (tmp_path / path.name).write_text(json.dumps(content))
    assert here.main(["--folder", str(tmp_path)]) == 1
    wrong = [line for line in capsys.readouterr().out.split("\n") if line.startswith("WRONG ")]
    assert len(wrong) == 1 and "01.both_random" in wrong[0]


def test_results_of_other_code_are_not_compared(tmp_path, capsys):
    """Results that other code made count as not run."""
    content = json.loads((ROOT / "figures" / "full" / "07_rslora.json").read_text("utf-8"))
    content["provenance"]["modules"]["lora.py"] = "0" * 12
    (tmp_path / "07_rslora.json").write_text(json.dumps(content))
    assert here.main(["--folder", str(tmp_path)]) == 2
    assert "no results of this code" in capsys.readouterr().out
