"""The search for learning rates, on made-up losses of which the best rate is known.

A "landscape" here is a loss as a function of log10 of the rate: falling to its optimum, rising after it. No model is
trained: a fake stands in for `carry_out_all`, and remembers the runs that it was asked for.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch import AdapterConfig
from lora_from_scratch.lab import presets, sweep
from lora_from_scratch.lab.finetune import Run
from lora_from_scratch.lab.sweep import GRID, best_rate, bracketed, compare, next_rates

STEP = math.sqrt(10)  # from one rate of GRID to the next
PRESET = replace(presets.preset("smoke"), budget=6, seeds=2)
Landscape = Callable[[float], float]


def valley(optimum: float, left: float = 1.0, right: float = 1.0, power: float = 1.0) -> Landscape:
    """A loss with its smallest value at 10^optimum, `left` and `right` times as steep on its two sides."""

    def loss(x: float) -> float:
        return (left * (optimum - x) if x < optimum else right * (x - optimum)) ** power

    return loss


def cliff(limit: float) -> Landscape:
    """A loss that falls with the rate, and is infinite from 10^limit on, as where training diverges."""
    return lambda x: -x if x < limit else math.inf


@st.composite
def valleys(draw, lowest: float, highest: float):
    optimum = draw(st.floats(lowest, highest))
    return optimum, valley(
        optimum, draw(st.floats(0.1, 10)), draw(st.floats(0.1, 10)), draw(st.sampled_from([1.0, 2.0]))
    )


def search(function: Callable, landscapes: dict[str, Landscape], preset=PRESET, **options) -> tuple[dict, list[Run]]:
    """What `function` (sweep or compare) gives for methods with these losses, and all runs that it asked for.

    The methods are told apart by their weight decay: 0.0, 1.0, 2.0, …
    """
    asked: list[Run] = []
    losses = list(landscapes.values())

    def carry_out_all(runs: list[Run], preset: presets.Preset) -> list[dict]:
        asked.extend(runs)
        return [{"tune_loss": losses[int(run.weight_decay)](math.log10(run.lr)), "run": run} for run in runs]

    methods = {label: Run(weight_decay=float(i), lr=0.5, seed=99) for i, label in enumerate(landscapes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "carry_out_all", carry_out_all)
        return function(methods, preset, **options), asked


def neighbours(tried: dict[float, float]) -> tuple[float, float, float]:
    """(the rate tried below the best, the best, the one above)."""
    rates = sorted(tried)
    i = rates.index(best_rate(tried))
    return rates[i - 1], rates[i], rates[i + 1]


# One step of the search

LOSSES = st.floats(0, 9) | st.just(math.inf) | st.sampled_from([1.0, 2.0])
TRIED = st.dictionaries(st.integers(-20, 8).map(lambda k: 10 ** (k / 4)), LOSSES, min_size=3, max_size=9)


@given(TRIED)
def test_the_best_rate_has_the_smallest_loss_and_is_the_smallest_of_equals(tried):
    """No rate tried has a smaller loss than the best, and no smaller rate has the same."""
    best = best_rate(tried)
    assert best in tried
    assert all(tried[best] < loss or (tried[best] == loss and best <= rate) for rate, loss in tried.items())


@given(TRIED)
def test_a_diverged_rate_is_never_the_best_while_another_is_finite(tried):
    """An infinite loss is chosen only where there is nothing else."""
    assert math.isfinite(tried[best_rate(tried)]) or all(map(math.isinf, tried.values()))


@given(TRIED)
def test_a_search_is_bracketed_when_its_best_rate_lies_inside(tried):
    """It is finished when rates below and above the best were tried, and neither beats it."""
    best = best_rate(tried)
    assert bracketed(tried) == (any(r < best for r in tried) and any(r > best for r in tried))


@given(TRIED)
def test_the_search_goes_on_beyond_an_edge_or_between_the_neighbours(tried):
    """Best at an edge: one rate further out, by the last step's factor. Best inside: half way to both neighbours.

    Every proposal is new, and of two, the one on the side with the smaller loss comes first.
    """
    rates = sorted(tried)
    best, proposed = best_rate(tried), next_rates(tried)
    assert not set(proposed) & set(tried)
    if best == rates[0]:
        assert proposed == pytest.approx([best / (rates[1] / best)])
    elif best == rates[-1]:
        assert proposed == pytest.approx([best * (best / rates[-2])])
    else:
        below, _, above = neighbours(tried)
        sides = [above, below] if tried[above] < tried[below] else [below, above]
        assert proposed == pytest.approx([math.exp((math.log(best) + math.log(side)) / 2) for side in sides])


# Whole searches


@given(st.lists(valleys(-6, 2), min_size=1, max_size=4), st.integers(0, 9))
def test_every_method_gets_the_same_number_of_rates(cases, budget):
    """Whatever their losses, all methods try equally many rates: the budget at least, and twice the budget at most."""
    landscapes = {f"method {i}": loss for i, (_, loss) in enumerate(cases)}
    tried, asked = search(sweep.sweep, landscapes, replace(PRESET, budget=budget))
    assert list(tried) == list(landscapes)
    counts = {len(rates) for rates in tried.values()}
    assert len(counts) == 1
    least = max(len(GRID), budget)
    assert least <= counts.pop() <= 2 * least
    assert len(asked) == sum(map(len, tried.values())), "and no rate is paid for twice"


@given(valleys(-3, -1.5), st.integers(0, 9))
def test_an_optimum_inside_the_grid_is_found_within_a_step(case, budget):
    """The optimum lies between the best rate's neighbours, which are a grid step from it at most."""
    optimum, loss = case
    tried, _ = search(sweep.sweep, {"method": loss}, replace(PRESET, budget=budget))
    below, best, above = neighbours(tried["method"])
    assert below <= 10**optimum * (1 + 1e-12) and 10**optimum <= above * (1 + 1e-12)
    assert best / below < STEP * (1 + 1e-9) and above / best < STEP * (1 + 1e-9)


@given(st.floats(-2.5, -2), st.sampled_from([1.0, 2.0, 4.0]))
def test_six_rates_find_a_symmetric_optimum_within_a_third(optimum, power):
    """With a budget of 6, an optimum between the middle rates of the grid is found within a factor 10^(1/8) = 1.33.

    The best of the grid is at most half a step (10^(1/4)) off, and then half way to both neighbours is tried.
    """
    tried, _ = search(sweep.sweep, {"method": valley(optimum, power=power)})
    assert len(tried["method"]) == 6
    assert abs(math.log10(best_rate(tried["method"])) - optimum) <= 1 / 8 + 1e-9


@given(valleys(-5, -3.01) | valleys(-1.49, 0.5))
def test_a_grid_that_misses_the_optimum_is_widened_until_it_is_bracketed(case):
    """An optimum up to two decades outside the grid is found between the best rate's neighbours all the same."""
    optimum, loss = case
    tried, _ = search(sweep.sweep, {"method": loss})
    assert bracketed(tried["method"])
    below, _, above = neighbours(tried["method"])
    assert below <= 10**optimum * (1 + 1e-12) and 10**optimum <= above * (1 + 1e-12)


@pytest.mark.parametrize("slope", [1.0, -1.0], ids=["rising", "falling"])
def test_a_method_whose_best_stays_at_the_edge_is_reported_unfinished(slope):
    """Where the loss only falls towards one end, the search stops at twice the budget and says that it is unfinished.

    The other method has as many tries, and is finished.
    """
    tuned, asked = search(compare, {"endless": lambda x: slope * x, "good": valley(-2.0)})
    assert not tuned["endless"].finished and tuned["good"].finished
    assert len(tuned["endless"].tried) == len(tuned["good"].tried) == 2 * PRESET.budget
    edge = min if slope > 0 else max
    assert tuned["endless"].run.lr == edge(tuned["endless"].tried)


def test_a_method_at_an_edge_gives_all_methods_one_more_try_at_a_time():
    """When the budget is spent and a best rate lies at an edge, every method tries one rate more, and so on."""
    _, asked = search(sweep.sweep, {"endless": lambda x: x, "good": valley(-2.0)}, replace(PRESET, budget=4))
    rounds = [label for label, _ in groupby(run.weight_decay for run in asked)]
    assert rounds == [0.0, 1.0] * 5, "the grid of four, and four more rates for each, in turn"


@given(st.floats(-5, -1.4))
def test_rates_that_diverge_are_never_chosen(limit):
    """With losses infinite from some rate on, even from below the whole grid, the rate found is one that trains."""
    tuned, _ = search(compare, {"method": cliff(limit)})
    assert math.isfinite(tuned["method"].tried[tuned["method"].run.lr])
    assert math.log10(tuned["method"].run.lr) < limit


def test_a_method_that_diverges_everywhere_is_unfinished():
    """Where every rate gives an infinite loss, the search ends, and says that it is unfinished."""
    tuned, _ = search(compare, {"hopeless": lambda x: math.inf, "good": valley(-2.0)})
    assert not tuned["hopeless"].finished and tuned["good"].finished


@pytest.mark.parametrize(
    "grid",
    [(), (1e-3,), (1e-3, 1e-2), (1e-3, 1e-3, 1e-2), (1e-2, 1e-3, 1e-4), (0.0, 1e-3, 1e-2), (-1e-3, 1e-3, 1e-2)],
    ids=str,
)
def test_a_grid_of_too_few_or_senseless_rates_is_an_error(grid):
    """Fewer than three rates, or such as are not positive and rising, are a ValueError that shows them."""
    for function in (sweep.sweep, compare):
        with pytest.raises(ValueError, match="give at least 3 positive, rising learning rates") as error:
            search(function, {"method": valley(-2.0)}, grid=grid)
        assert str(grid) in str(error.value)


@given(st.lists(st.integers(-16, 4), min_size=3, max_size=6, unique=True).map(sorted))
def test_the_search_starts_with_the_grid_that_was_given(places):
    """Every rate of the grid is tried, by every method."""
    grid = tuple(10 ** (k / 4) for k in places)
    tried, _ = search(sweep.sweep, {"a": valley(-2.0), "b": valley(-3.0)}, grid=grid)
    assert all(set(grid) <= set(rates) for rates in tried.values())


# Comparisons


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_seeds_that_are_reported_are_not_the_one_that_chose_the_rate(seeds):
    """Rates are tuned on seed 0; what is reported comes from seeds 1, 2, …, the same ones for every method."""
    landscapes = {"low": valley(-2.6), "high": valley(-1.9)}
    tuned, asked = search(compare, landscapes, replace(PRESET, seeds=seeds))
    tuning = [run for run in asked if run.seed == 0]
    assert len(tuning) == 2 * PRESET.budget
    for i, (label, method) in enumerate(tuned.items()):
        final = [run for run in asked if run.seed != 0 and run.weight_decay == i]
        assert [run.seed for run in final] == list(range(1, seeds + 1))
        assert {run.lr for run in final} == {method.run.lr} == {best_rate(method.tried)}
        assert [result["run"] for result in method.results] == final, "results stand with their own method"
        assert method.label == label and method.values("run") == final


def test_a_comparison_varies_the_rate_and_the_seed_and_nothing_else():
    """Tasks, adapters, starts and decay of a method's runs are the method's own; only reported runs keep weights."""
    method = Run(
        task="upper", adapter=AdapterConfig(rank=2), weight_decay=0.0, start="both random", keep=True, lr=1, seed=7
    )
    asked = []

    def carry_out_all(runs, preset):
        asked.extend(runs)
        return [{"tune_loss": run.lr} for run in runs]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "carry_out_all", carry_out_all)
        tuned = compare({"method": method}, PRESET)
    for run in asked:
        assert replace(run, lr=method.lr, seed=method.seed, keep=True) == method
        assert run.keep == (run.seed != 0)
    assert replace(tuned["method"].run, lr=method.lr) == method


def test_each_method_has_its_own_best_rate():
    """Methods with different optima end at different rates, each near its own."""
    tuned, _ = search(compare, {"low": valley(-2.8, power=2.0), "high": valley(-1.6, power=2.0)})
    for label, optimum in {"low": -2.8, "high": -1.6}.items():
        assert abs(math.log10(tuned[label].run.lr) - optimum) <= 0.25
    assert all(method.finished for method in tuned.values())


LANDSCAPES = {"a": valley(-2.3), "b": valley(-2.0)}


def test_known_rates_are_used_where_the_budget_is_zero():
    """With a budget of 0 and a rate for every method, nothing is tuned; rates of other methods do no harm."""
    known = {"a": 0.004, "b": 0.02, "another": 1.0}
    tuned, asked = search(compare, LANDSCAPES, replace(PRESET, budget=0), known=known)
    assert len(asked) == 2 * PRESET.seeds and all(run.seed != 0 for run in asked)
    for label in LANDSCAPES:
        assert tuned[label].run.lr == known[label] and tuned[label].finished
        assert tuned[label].tried == {}, "nothing was tried"
        assert {run.lr for run in tuned[label].values("run")} == {known[label]}


@pytest.mark.parametrize(
    "budget, known",
    [(6, {"a": 0.004, "b": 0.02}), (0, {"a": 0.004}), (0, {}), (0, None), (0, {"another": 0.1})],
    ids=["a budget", "one missing", "none", "no results", "others"],
)
def test_known_rates_are_not_used_otherwise(budget, known):
    """With a budget, or with a rate missing for any method, every method is tuned: no mixture."""
    tuned, asked = search(compare, LANDSCAPES, replace(PRESET, budget=budget), known=known)
    for label in LANDSCAPES:
        assert len(tuned[label].tried) >= len(GRID)
        assert tuned[label].run.lr == best_rate(tuned[label].tried)
    assert sum(run.seed == 0 for run in asked) == sum(len(method.tried) for method in tuned.values())


def test_the_search_takes_no_snapshots_and_keeps_no_weights():
    """Runs that only choose a rate hold neither; the final ones hold what the method asks for."""
    asked: list[Run] = []

    def carry_out_all(runs: list[Run], preset: presets.Preset) -> list[dict]:
        asked.extend(runs)
        return [{"tune_loss": abs(math.log10(run.lr) + 2.2)} for run in runs]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "carry_out_all", carry_out_all)
        compare({"method": Run(snapshots=3, keep=True)}, PRESET)
    search, final = asked[: -PRESET.seeds], asked[-PRESET.seeds :]
    assert search and all((run.snapshots, run.keep) == (0, False) for run in search)
    assert all((run.snapshots, run.keep) == (3, True) for run in final)


def test_a_rate_whose_loss_is_no_number_is_never_the_best():
    """NaN is worse than any loss, infinite ones too; and it is no neighbour to refine towards."""
    nan = math.nan
    assert best_rate({0.001: nan, 0.01: 2.0, 0.1: 3.0}) == 0.01
    assert best_rate({0.001: nan, 0.01: math.inf}) == 0.01
    assert next_rates({0.001: nan, 0.01: 2.0, 0.1: 3.0})[0] == pytest.approx(math.sqrt(0.01 * 0.1))
    assert bracketed({0.001: nan, 0.01: 2.0, 0.1: nan})


def at(rate: float, tried: dict[float, float]) -> sweep.Tuned:
    return sweep.Tuned("a", Run(lr=rate), tried, True, [])


def test_a_finished_search_says_how_well_it_knows_its_rate():
    """To the farther neighbour; not at all at an edge; NaN where the rate was taken from elsewhere."""
    assert at(0.01, {0.001: 2.0, 0.01: 1.0, 0.02: 1.5}).resolution == pytest.approx(10)
    assert at(0.01, {0.01: 1.0, 0.02: 1.5, 0.04: 2.0}).resolution == math.inf
    assert math.isnan(at(0.01, {}).resolution)


def test_rates_within_a_margin_of_the_best_are_ties():
    """Neighbours whose tuning losses differ by less than the noise are not told apart."""
    tuned = at(0.01, {0.001: 1.004, 0.01: 1.0, 0.1: 1.5, 1.0: math.nan})
    assert tuned.ties(0.005) == [0.001, 0.01] and tuned.ties(0.001) == [0.01]


def test_best_rates_nearer_than_both_resolutions_are_a_tie():
    """One step of the grid apart is no finding; many steps apart is one."""
    grid = {10.0**k: abs(k + 3.0) for k in range(-5, 0)}
    near, far = at(1e-3, grid), at(1e-2, {10.0**k: abs(k + 2.0) for k in range(-5, 0)})
    assert not sweep.told_apart(near, far)
    beyond_one = [at(rate, {rate / 10: 2.0, rate: 1.0, rate * 10: 2.0}) for rate in (1e-3, 2e-2)]
    assert not sweep.told_apart(*beyond_one), "20 times apart, each known to a factor of 10"
    fine = [at(rate, {rate / 1.5: 2.0, rate: 1.0, rate * 1.5: 2.0}) for rate in (1e-3, 1e-2)]
    assert sweep.told_apart(*fine)
    assert not sweep.told_apart(at(1e-3, {}), fine[1]), "a rate that was not tuned settles nothing"
