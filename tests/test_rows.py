"""Rows of the ledger: four kinds, each with words of its own, and no verdict that chance gets too."""

import json
import math

import pytest

from lora_from_scratch.book.as_json import plain
from lora_from_scratch.book.estimates import Estimate
from lora_from_scratch.book.rows import WORDS, Row
from lora_from_scratch.book.verdicts import AtLeast, Equal, Figures, Identity, Lower

SOURCE = {"source": "arXiv 2402.12354v2, abstract", "read": "abstract", "published": "1 to 2 % better"}
FAILS = (0.0, 0.01)  # a null that fails Lower and AtLeast


def row(kind="claim", test=None, **about) -> Row:
    about = (SOURCE if kind in ("claim", "arithmetic") else {}) | about
    parts = test if isinstance(test, dict) else {"": test or Lower(0.02, because="half of what was published")}
    return Row("better", kind, "it ends lower", parts, {"width": 128}, **about)


@pytest.mark.parametrize(
    ("kind", "measured", "word"),
    [
        ("claim", (-0.1, 0.01), "reproduced"),
        ("claim", (0.0, 0.01), "not reproduced"),
        ("claim", (-0.02, 0.01), "not settled"),
        ("claim", -0.1, "not settled"),
        ("claim", (math.nan, math.nan), "not settled"),
        ("finding", (-0.1, 0.01), "holds"),
        ("finding", (0.0, 0.01), "does not hold"),
        ("finding", (-0.02, 0.01), "not settled"),
    ],
)
def test_each_kind_has_its_own_words(kind, measured, word, capsys):
    """Reproduced is for what somebody published; our own findings hold or do not."""
    found = row(kind)
    assert found.measure(measured, chance=FAILS) == found.verdict == word
    assert word.upper() in capsys.readouterr().out


def test_arithmetic_adds_up_or_does_not(capsys):
    """It is exact, and needs no null."""
    assert row("arithmetic", Figures(18.9, 1)).measure(18.874368) == "adds up"
    assert row("arithmetic", Figures(0.35, 2)).measure(0.393216) == "does not add up"


def test_an_identity_that_fails_fails_the_chapter():
    """There is no other verdict for it than that it holds."""
    assert row("identity", Identity(1e-6)).measure(1e-9) == "holds"
    for error in (1e-3, math.nan):
        with pytest.raises(AssertionError, match="it ends lower"):
            row("identity", Identity(1e-6)).measure(error)
    assert set(WORDS["identity"].values()) == {"holds"}


def test_a_yes_that_chance_gets_too_is_not_settled(capsys):
    """The same estimate, with a null that fails and with one that passes."""
    assert row(test=AtLeast(10)).measure((19.0, 1.0), chance=(2.0, 0.5)) == "reproduced"
    passed = row(test=AtLeast(10))
    assert passed.measure((19.0, 1.0), chance=(19.0, 2.0)) == "not settled"
    assert passed.chance_passes and "passes too" in capsys.readouterr().out
    assert row(test=AtLeast(10)).measure((19.0, 1.0), chance=19.0) == "not settled", "a null of one draw, too"
    assert row(test=AtLeast(10)).measure((5.0, 1.0), chance=(19.0, 2.0)) == "not reproduced", "a no stays a no"


@pytest.mark.parametrize("kind", ["claim", "finding"])
@pytest.mark.parametrize("chance", [None, ""])
def test_a_row_without_a_null_says_why(kind, chance):
    """Chance is measured beside the result, or the reason is given why none can be drawn."""
    with pytest.raises(ValueError, match="chance"):
        row(kind).measure((-0.1, 0.01), chance=chance)
    assert row(kind).measure((-0.1, 0.01), chance="every seed pairs with itself, so a null is 0 exactly")


def test_a_claim_of_parts_lists_them(capsys):
    """Partly is for parts that came out differently, and each is told with its own verdict."""
    parts = {"forgets less": Lower(0), "learns as much": Equal(0.01)}
    claim = row(test=parts)
    claim.measure({"forgets less": (-0.2, 0.1), "learns as much": (0.3, 0.1)}, chance="a copy of the base scores 0")
    assert claim.verdict == "partly"
    out = capsys.readouterr().out
    assert "forgets less, reproduced" in out and "learns as much, not reproduced" in out
    assert {n: p["verdict"] for n, p in claim.as_data()["parts"].items()} == {
        "forgets less": "yes",
        "learns as much": "no",
    }


def test_parts_are_measured_by_name_and_all_of_them():
    """A part left out, or one that nobody announced, is an error, and nothing is recorded."""
    claim = row(test={"a": Lower(0), "b": Lower(0)})
    for wrong in ((-1, 0.1), {"a": -1}, {"a": -1, "b": -1, "c": -1}):
        with pytest.raises(ValueError, match="parts are a, b"):
            claim.measure(wrong, chance="none")
    assert not claim.verdict and not claim.estimates


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"source": "2402.12354v2"}, "no place"),
        ({"source": "arXiv 2402.12354, section 4"}, "no version"),
        ({"read": ""}, "how far"),
        ({"read": "skimmed"}, "how far"),
    ],
)
def test_a_source_names_version_and_place_and_how_far_it_was_read(changed, match):
    """Of a claim, and of a figure that is worked out again."""
    for kind, test in (("claim", Lower(0)), ("arithmetic", Figures(1))):
        with pytest.raises(ValueError, match=match):
            row(kind, test, **changed)


def test_the_test_suits_the_kind():
    """A claim is not judged by a tolerance, an identity not by an interval, and only a claim has parts."""
    for kind, test in (
        ("claim", Identity(1)),
        ("finding", Figures(1)),
        ("identity", Lower(0)),
        ("arithmetic", Lower(0)),
    ):
        with pytest.raises(ValueError, match="no test for"):
            row(kind, test)
    for kind, test in (("finding", {"a": Lower(0), "b": Lower(0)}), ("claim", {})):
        with pytest.raises(ValueError, match="one test"):
            row(kind, test)


def test_what_was_found_by_looking_is_a_finding_and_says_where_it_was_tested():
    """And never a claim."""
    found = row("finding", seen_first="width 128", tested_on="width 256")
    found.measure((-0.1, 0.01), chance=FAILS)
    assert found.as_data()["tested_on"] == "width 256"
    for kind, about in (("finding", {"seen_first": "width 128"}), ("claim", {"seen_first": "a", "tested_on": "b"})):
        with pytest.raises(ValueError, match="seen_first"):
            row(kind, **about)


def test_one_seed_leans_and_says_so(capsys):
    """A reader's quick run cannot settle a claim; it can say on which side its value lies."""
    claim = row()
    assert claim.measure(-0.1, chance=FAILS) == "not settled" and claim.leans == "reproduced"
    assert "by its value alone: reproduced" in capsys.readouterr().out


def test_a_row_as_json_keeps_all_that_decides_it():
    """Estimate, interval, line, its reason, chance, scope and source."""
    claim = row()
    claim.measure(Estimate(-0.1, -0.2, -0.05), chance=FAILS)
    data = json.loads(json.dumps(plain(claim.as_data()), allow_nan=False))
    part = data["parts"][""]
    assert part["estimate"] == {"value": -0.1, "low": -0.2, "high": -0.05}
    assert part["by"] == 0.02 and part["because"] == "half of what was published" and part["kind"] == "Lower"
    assert part["chance"]["value"] == 0.0 and data["scope"] == {"width": 128} and data["source"] == SOURCE["source"]
    alone = row()
    alone.measure(-0.1, chance="no null: a reason")
    data = json.loads(json.dumps(plain(alone.as_data()), allow_nan=False))
    assert data["parts"][""]["estimate"] == {"value": -0.1, "low": None, "high": None} and data["no_chance"]
