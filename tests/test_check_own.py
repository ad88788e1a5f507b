"""`make check DORA=…`, NF4=, QLORA=, PAGED=: a right answer in several forms passes, each usual mistake is named."""

import subprocess
import sys
from pathlib import Path

import check_own
import own_answers as own
import pytest
from check_layer import check, report

from lora_from_scratch import DoRALinear
from lora_from_scratch.paged import PagedAdamW

MISTAKES = [*own.DORA, *own.NF4, *own.QLORA, *own.PAGED]


def wrong(kind: str, answer: type) -> list[str]:
    """The names of the properties that an answer does not have."""
    results = check(answer, check_own.properties_of(kind))
    return [r.name.removeprefix("test_") for r in results if r.verdict in ("fails", "cannot run")]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("dora", DoRALinear), ("paged", PagedAdamW), *own.RIGHT],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_right_answer_passes(kind, answer):
    """Ours and a reader's, in each form, have every property."""
    results = check(answer, check_own.properties_of(kind))
    assert not wrong(kind, answer), report(results)
    assert report(results, check_own.KINDS[kind]).endswith(f"Every property holds: this is {check_own.KINDS[kind]}.")


@pytest.mark.parametrize(("kind", "answer", "names"), MISTAKES, ids=lambda v: getattr(v, "__name__", ""))
def test_mistake_is_named(kind, answer, names):
    """Each mistake breaks the properties that it should, and the report begins with the first of them."""
    results = check(answer, check_own.properties_of(kind))
    assert wrong(kind, answer) == names, report(results)
    first = next(r for r in results if r.name == f"test_{names[0]}")
    assert report(results).endswith(f"The usual cause: {first.usual_cause}")


@pytest.mark.parametrize("kind", check_own.KINDS)
def test_every_property_can_fail(kind):
    """For each property there is a mistake here that breaks it; each has a sentence and one hint."""
    tests = {n.removeprefix("test_"): t for n, t in vars(check_own.properties_of(kind)).items() if n[:5] == "test_"}
    broken = {name for k, _, names in MISTAKES if k == kind for name in names}
    assert set(tests) - broken == set()
    for name, test in tests.items():
        assert test.__doc__.strip().endswith("."), name
        assert [mark.name for mark in test.pytestmark] == ["usual_cause"], name


def test_command_line(tmp_path):
    """As a command: words, no traceback, exit code 1 for a mistake, 0 for a right answer, 2 for nothing to check."""
    folder = Path(check_own.__file__).parent
    file = tmp_path / "mine.py"
    file.write_text("from own_answers import BiasRescaled, ReadersDoRA\nclass No:\n    pass\n")
    said = {}
    for name, code in (("BiasRescaled", 1), ("ReadersDoRA", 0), ("No", 2), ("Nothing", 2)):
        command = [sys.executable, str(folder / "check_own.py"), "dora", f"{file}:{name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (code, ""), done
        said[name] = done.stdout
    assert "The usual cause: The bias rescaled" in said["BiasRescaled"]
    assert "could not be built as (nn.Linear(5, 3), 2, 8.0): TypeError" in said["No"]
    assert "has no class Nothing" in said["Nothing"]


def test_lacking_attribute_is_said(tmp_path, capsys):
    """A class without a needed attribute is told which."""
    file = tmp_path / "mine.py"
    file.write_text("class MyNF4:\n    def __init__(self, weight, block_size):\n        self.packed = 0\n")
    assert check_own.main(["nf4", f"{file}:MyNF4"]) == 2
    assert "has no absmax and no dequantize" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dora"], ["lora", "a.py:A"]])
def test_form_of_arguments_is_said(capsys, arguments):
    """What is no kind and file is told the form."""
    assert check_own.main(arguments) == 2
    assert "make check DORA=my_dora.py:MyDoRA" in capsys.readouterr().out
