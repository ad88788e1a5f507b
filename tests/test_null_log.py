"""NULLS.md: rows that did not work, dated; the check needs no git."""

import json
import subprocess

from lora_from_scratch.book import nulls


def chapter(**verdicts: str) -> dict:
    """A chapter's results with these rows."""
    rest = {"says": "it works", "scope": {"task": "rot13"}, "shown": "0.1 [0, 0.2]", "published": ""}
    return {"rows": {name: rest | {"verdict": verdict} for name, verdict in verdicts.items()}}


def commit(root, day: str, **chapters: dict) -> None:
    """Commit these results on a day."""
    for stem, content in chapters.items():
        path = root / "figures" / "full" / f"{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    when = {"GIT_COMMITTER_DATE": f"{day}T12:00:00", "GIT_AUTHOR_DATE": f"{day}T12:00:00", "PATH": "/usr/bin:/bin"}
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for line in (["init", "-q"], ["add", "figures"], [*who, "commit", "-qm", day]):
        subprocess.run(["git", "-C", str(root), *line], check=True, env=when)


def test_only_what_did_not_work_is_listed():
    """Rows that hold, are reproduced, partly or add up are left out; the counts say of how many."""
    text = nulls.as_markdown({"09_dora": chapter(a="holds", b="not settled", c="partly", d="does not hold")}, {})
    assert "`09.b` · **not settled** · it works (rot13): 0.1 [0, 0.2]." in text
    assert "09.a" not in text and "09.c" not in text
    assert "Of 4 rows: 1 does not hold, 1 not settled." in text


def test_date_is_that_since_which_verdict_stands(tmp_path):
    """Not the last commit of the file and not the first, but the first of those that have this verdict unbroken."""
    for day, verdict in (
        ("2026-01-01", "not settled"),
        ("2026-01-02", "holds"),
        ("2026-01-03", "not settled"),
        ("2026-01-04", "not settled"),
    ):
        now = {"09_dora": chapter(a=verdict, b="does not hold") | {"day": day}}
        commit(tmp_path, day, **now)
    nulls.write(tmp_path, now)
    dates = nulls.known_dates((tmp_path / "NULLS.md").read_text())
    assert dates == {("09.a", "not settled"): "2026-01-03", ("09.b", "does not hold"): "2026-01-01"}


def test_check_needs_no_git_and_dates_stay(tmp_path):
    """Where there is no git, as in an archive, dates in the log stay, and the check agrees."""
    now = {"09_dora": chapter(a="not settled")}
    (tmp_path / "NULLS.md").write_text(nulls.as_markdown(now, {("09.a", "not settled"): "2020-02-02"}))
    assert nulls.agrees(tmp_path, now)
    more = {"09_dora": chapter(a="not settled", b="not reproduced")}
    assert not nulls.agrees(tmp_path, more)
    nulls.write(tmp_path, more)
    assert nulls.agrees(tmp_path, more)
    dates = nulls.known_dates((tmp_path / "NULLS.md").read_text())
    assert dates["09.a", "not settled"] == "2020-02-02" and dates["09.b", "not reproduced"] > "2020-02-02"


def test_changed_verdict_number_or_missing_date_is_found(tmp_path):
    """Another verdict, another number, a row without a date, and no file at all are told."""
    now = {"09_dora": chapter(a="not settled")}
    assert not nulls.agrees(tmp_path, now)
    nulls.write(tmp_path, now)
    assert nulls.agrees(tmp_path, now)
    assert not nulls.agrees(tmp_path, {"09_dora": chapter(a="holds")})
    other = {"09_dora": chapter(a="not settled")}
    other["09_dora"]["rows"]["a"]["shown"] = "0.2"
    assert not nulls.agrees(tmp_path, other)
    (tmp_path / "NULLS.md").write_text(nulls.as_markdown(now, {}))
    assert not nulls.agrees(tmp_path, now)
