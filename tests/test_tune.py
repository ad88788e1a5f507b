"""The search for rates of lessons, on made-up losses of which the best rate is known: nothing is trained."""

import math

import pytest

from lora_from_scratch.lab import tune
from lora_from_scratch.lab.adapt import Lesson

GRIDS = {"low": (1e-5, 1e-4, 1e-3), "high": (1e-4, 1e-3, 1e-2)}
METHODS = {"low": Lesson(steps=7, lr=0.5, seed=9), "high": Lesson(steps=8, lr=0.5, seed=9, keep=True)}


def search(monkeypatch, best: dict[int, float], **options) -> tuple[dict, list[Lesson]]:
    """What `tune` finds where a lesson of so many steps has its best rate at 10^best, and all that it asked for."""
    asked = []

    def carry_out(lessons, checkpoint):
        asked.extend(lessons)
        return [{"tune_loss": abs(math.log10(each.lr) - best[each.steps]), "lesson": each} for each in lessons]

    monkeypatch.setattr(tune, "carry_out", carry_out)
    return tune.tune(METHODS, GRIDS, None, 2, **options), asked


def test_each_method_finds_its_own_best_rate_and_is_judged_at_it_on_other_seeds(monkeypatch):
    tuned, asked = search(monkeypatch, {7: -4.1, 8: -2.9})
    assert {label: t.run.lr for label, t in tuned.items()} == {"low": 1e-4, "high": 1e-3}
    assert all(t.finished and len(t.tried) == 3 for t in tuned.values())
    tuning, judged = asked[:6], asked[6:]
    assert all(each.seed == 0 and not each.judged and not each.keep for each in tuning)
    assert [(each.steps, each.lr, each.seed, each.judged) for each in judged] == [
        (7, 1e-4, 1, True), (7, 1e-4, 2, True), (8, 1e-3, 1, True), (8, 1e-3, 2, True)
    ]  # fmt: skip
    assert [each.keep for each in judged] == [False, False, True, True]
    assert [r["lesson"] for t in tuned.values() for r in t.results] == judged


def test_where_one_is_at_an_edge_all_get_one_more(monkeypatch):
    """The one beyond its grid, the other between its best and the better neighbour."""
    tuned, _ = search(monkeypatch, {7: -4.2, 8: -1.2})
    assert tuned["high"].run.lr == pytest.approx(1e-1) and tuned["high"].finished
    assert all(len(t.tried) == 5 for t in tuned.values())
    assert 10**-4.5 < tuned["low"].run.lr < 1e-4


def test_a_best_rate_that_runs_away_is_reported_as_unfinished_after_twice_the_grid(monkeypatch):
    tuned, _ = search(monkeypatch, {7: -4.1, 8: 50})
    assert all(len(t.tried) == 6 for t in tuned.values())
    assert not tuned["high"].finished and tuned["low"].finished
    assert math.isinf(tuned["high"].resolution)


def test_known_rates_are_taken_without_trying(monkeypatch):
    """Only where every method has one."""
    tuned, asked = search(monkeypatch, {7: -4.1, 8: -2.9}, known={"low": 3e-5, "high": 7e-3, "other": 1.0})
    assert {label: t.run.lr for label, t in tuned.items()} == {"low": 3e-5, "high": 7e-3} and len(asked) == 4
    tuned, asked = search(monkeypatch, {7: -4.1, 8: -2.9}, known={"low": 3e-5})
    assert len(asked) == 10 and tuned["low"].run.lr == 1e-4


@pytest.mark.parametrize(
    "grids",
    [
        {"low": GRIDS["low"]},
        {**GRIDS, "low": GRIDS["low"][:2]},
        {**GRIDS, "more": GRIDS["low"]},
        {label: grid[:2] for label, grid in GRIDS.items()},
        {label: grid[::-1] for label, grid in GRIDS.items()},
        {label: grid[:1] * 3 for label, grid in GRIDS.items()},
    ],
)
def test_grids_that_do_not_fit_are_refused(grids):
    with pytest.raises(ValueError, match=r"give (each of low, high one, equally long|at least 3 positive, rising)"):
        tune.tune(METHODS, grids, None, 2)
