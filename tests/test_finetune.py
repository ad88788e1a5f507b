"""One fine-tuning run: what it trains and measures, what it refuses, and when its result may come from the cache."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from test_tasks import made_up_text, use_made_up_text
from torch import nn

from lora_from_scratch import AdapterConfig, NF4Linear, inject, lora, nf4, qlora, quantize, rslora, targets
from lora_from_scratch.analysis import spectra
from lora_from_scratch.inject import add_adapters, is_adapter
from lora_from_scratch.lab import cache, codes, corpus, finetune, pretrain, tasks, train
from lora_from_scratch.lab.finetune import Run, carry_out, fine_tune
from lora_from_scratch.lab.llama import LlamaConfig
from lora_from_scratch.lab.presets import Preset

SIZES = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
SMALL = Preset("small", SIZES, pretrain_steps=3, pretrain_batch=4, steps=3, batch=4, seeds=2, budget=0, eval_windows=5)
ADAPTER = AdapterConfig(rank=2, alpha=4)


@pytest.fixture(autouse=True, scope="module")
def lab(tmp_path_factory):
    """Made-up text, one thread, and a build folder of this file's own."""
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_text(patch)
        threads = train.threads
        patch.setattr(train, "threads", lambda count: threads(1))
        patch.setenv("LORA_BUILD", str(tmp_path_factory.mktemp("build")))
        yield


def base() -> nn.Module:
    return pretrain.pretrained(SMALL)


def tuned(run: Run) -> dict:
    return fine_tune(run, base(), SMALL)


def at_start(run: Run, monkeypatch, look: Callable[[nn.Module], object]) -> object:
    """What `look` gives for the model that training would start from."""
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "fit", lambda model, *rest, **_: found.append(look(model)) or [])
        tuned(run)
    return found[0]


def test_full_fine_tuning_trains_every_parameter():
    """Without an adapter all parameters move, and all are counted."""
    result = tuned(Run(lr=1e-2, keep=True))
    start = base().state_dict()
    assert result["state"].keys() == start.keys()
    assert all(not torch.equal(result["state"][name], start[name]) for name in start)
    assert result["trained"] == sum(tensor.numel() for tensor in start.values())


def test_full_fine_tuning_of_the_linear_layers_trains_the_matrices_that_adapters_would_adapt():
    """With scope "linear" exactly the weights move whose layers "all-linear" adapts: no norm, embedding or head."""
    result = tuned(Run(scope="linear", lr=1e-2, keep=True))
    start = base().state_dict()
    moved = {name for name in start if not torch.equal(result["state"][name], start[name])}
    assert moved == {name for name in start if name.endswith("_proj.weight")}
    assert len(moved) == 2 * 7, "seven linear layers a block, two blocks"
    assert result["trained"] == sum(start[name].numel() for name in moved)


def test_an_adapter_s_run_trains_a_and_b_alone():
    """With an adapter, A and B of every linear layer move; the base is bit-equal to the pretrained one."""
    result = tuned(Run(adapter=ADAPTER, lr=1e-2, keep=True))
    start = base().state_dict()
    factors = {name: t for name, t in result["state"].items() if name.rpartition(".")[2] in ("A", "B")}
    rest = {name.replace(".base.", "."): t for name, t in result["state"].items() if name not in factors}
    assert rest.keys() == start.keys()
    assert all(torch.equal(rest[name], start[name]) for name in start)
    assert len(factors) == 2 * 7 * 2, "seven linear layers a block, two blocks"
    assert all(t.any() for t in factors.values()), "B has left zero"
    per_block = 4 * 2 * (16 + 16) + 3 * 2 * (16 + 24)  # r (in + out): four of attention, three of the MLP
    assert result["trained"] == 2 * per_block


def test_the_optimizer_holds_exactly_the_adapters(monkeypatch):
    """The optimizer is made after the adapters, so it holds the A and B that are trained. [adapters#260]"""
    made, models = [], []

    class Recorded(torch.optim.AdamW):
        def __init__(self, parameters, **options):
            made.append(list(parameters))
            super().__init__(made[-1], **options)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    models.append(base())
    fine_tune(Run(adapter=ADAPTER), models[0], SMALL)
    wanted = {id(p) for name, p in models[0].named_parameters() if name.rpartition(".")[2] in ("A", "B")}
    assert len(made) == 1 and {id(p) for p in made[0]} == wanted and len(made[0]) == len(wanted)


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["full", "adapter"])
def test_a_result_holds_losses_counts_and_seconds(adapter):
    """One loss a step, three measured ones, the trained parameters, the seconds; the weights only if they are kept."""
    result = tuned(Run(adapter=adapter))
    assert set(result) == {"losses", "tune_loss", "task_loss", "text_loss", "trained", "seconds"}
    assert len(result["losses"]) == SMALL.steps
    assert all(
        math.isfinite(loss) for loss in (*result["losses"], *(result[f"{k}_loss"] for k in ("tune", "task", "text")))
    )
    assert isinstance(result["trained"], int) and result["seconds"] > 0
    assert set(tuned(Run(adapter=adapter, keep=True))) == {*result, "state"}


def test_keeping_the_weights_changes_no_number():
    """With `keep` or without, the losses are the same to the bit."""
    for_good, for_now = tuned(Run(adapter=ADAPTER, keep=True)), tuned(Run(adapter=ADAPTER))
    assert all(for_good[name] == for_now[name] for name in for_now if name != "seconds")


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["full", "adapter"])
def test_the_losses_are_those_of_the_kept_weights(adapter):
    """What is measured is the tuned model: loaded again, the kept weights give the very same losses."""
    result = tuned(Run(task="upper", adapter=adapter, lr=1e-2, keep=True))
    model = base() if adapter is None else add_adapters(base(), adapter)
    model.load_state_dict(result["state"])
    with train.threads(1):
        measured = finetune.measure(model, "upper", SMALL)
    assert measured == {name: result[name] for name in ("tune_loss", "task_loss", "text_loss")}


def test_rates_are_tuned_and_losses_reported_on_different_windows(monkeypatch):
    """tune_loss, task_loss and text_loss come from held-out text, half a windowing each: the first shares no window.

    Text and task are measured at the same places, so that they differ in the task alone.
    """
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "evaluate", lambda model, windows: seen.append(windows) or float(len(seen)))
        assert finetune.measure(None, "rot13", SMALL) == {"tune_loss": 1.0, "task_loss": 2.0, "text_loss": 3.0}
    tune, task, text = seen
    assert tune.shape == task.shape == text.shape == (SMALL.eval_windows, SIZES.max_position_embeddings + 1)
    assert not {tuple(w) for w in tune.tolist()} & {tuple(w) for w in task.tolist()}
    assert corpus.decode(task.flatten()) == tasks.TASKS["rot13"](corpus.decode(text.flatten()))
    assert all(corpus.decode(window) in made_up_text()["held_out"] for window in text)
    assert all(tasks.TASKS["rot13"](corpus.decode(window)) in made_up_text()["held_out"] for window in tune)


def test_training_uses_the_fine_tuning_text_under_the_run_s_task(monkeypatch):
    """The characters come from the split "task", transformed; all numbers are the run's and the preset's."""
    calls = []
    monkeypatch.setattr(finetune, "fit", lambda model, *arguments, **_: calls.append(arguments) or [])
    tuned(Run(task="reversed", lr=3e-3, seed=7, weight_decay=0.2))
    ((batches, *rest),) = calls
    assert corpus.decode(batches.ids) == made_up_text()["task"][::-1]
    assert (batches.batch, batches.length, batches.seed) == (SMALL.batch, SIZES.max_position_embeddings, 7)
    assert rest == [SMALL.steps, 3e-3, 0.2]


@pytest.mark.parametrize(
    "start, a, b",
    [("B zero", True, False), ("A zero", False, True), ("both random", True, True), ("both zero", False, False)],
)
def test_a_start_leaves_the_factors_random_or_zero_as_it_says(start, a, b, monkeypatch):
    """Each start makes every A and every B of the model random or zero, and random means within 1/sqrt(columns).

    Kaiming-uniform with a = √5 is uniform in ±1/sqrt(columns), for A (rank, in) and for B (out, rank) alike.
    """
    layers = at_start(Run(adapter=ADAPTER, start=start), monkeypatch, lambda m: list(filter(is_adapter, m.modules())))
    assert len(layers) == 14
    for layer in layers:
        for factor, random in ((layer.A, a), (layer.B, b)):
            assert factor.any() == random
            bound = factor.shape[1] ** -0.5
            assert factor.abs().max() <= bound
            assert not random or factor.abs().max() > bound / 2


def test_the_starts_are_the_four_that_there_are():
    """STARTS names the four ways in which two factors can be zero or random."""
    assert set(finetune.STARTS) == {"B zero", "A zero", "both random", "both zero"}


def test_a_start_that_can_learn_nothing_is_an_error():
    """A and B both zero stay so for ever: the run says that instead of giving the base's losses."""
    with pytest.raises(ValueError, match="nothing can be learnt"):
        tuned(Run(adapter=ADAPTER, start="both zero"))


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"task": "rot14"}, "'rot14'.*text, rot13, upper, reversed"),
        ({"scope": "mlp"}, "'mlp'.*all, linear"),
        ({"start": "A one"}, "'A one'.*B zero, A zero, both random, both zero"),
        ({"lr": 0.0}, "lr is 0.0; it must be a positive, finite number"),
        ({"lr": -1e-3}, "lr is -0.001"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": math.nan}, "lr is nan"),
    ],
    ids=str,
)
def test_a_run_that_makes_no_sense_is_an_error(wrong, words):
    """An unknown task, scope or start, or a rate that is not positive and finite, is a ValueError that says so."""
    with pytest.raises(ValueError, match=words):
        Run(**wrong)
    with pytest.raises(ValueError, match=words):
        replace(Run(), **wrong)


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["full", "adapter"])
def test_a_run_repeats_itself_to_the_bit_and_seeds_differ(adapter):
    """The same run gives the same numbers, whatever the random state before it; another seed gives others."""
    first = tuned(Run(adapter=adapter, lr=1e-2))
    torch.rand(17)
    again, other = tuned(Run(adapter=adapter, lr=1e-2)), tuned(Run(adapter=adapter, lr=1e-2, seed=1))
    assert all(first[name] == again[name] for name in first if name != "seconds")
    for name in ("losses", "tune_loss", "task_loss", "text_loss"):
        assert first[name] != other[name]


def test_a_seed_decides_how_the_adapters_begin(monkeypatch):
    """A starts the same for the same seed, and otherwise for another."""

    def first_a(seed):
        run = Run(adapter=ADAPTER, seed=seed)
        return at_start(run, monkeypatch, lambda m: next(filter(is_adapter, m.modules())).A.detach().clone())

    assert torch.equal(first_a(0), first_a(0)) and not torch.equal(first_a(0), first_a(1))


def test_a_run_is_on_one_thread(monkeypatch):
    """Training runs on one thread, and the caller's number of threads is back afterwards."""
    torch.set_num_threads(2)
    try:
        assert at_start(Run(), monkeypatch, lambda model: torch.get_num_threads()) == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


# The cache

RUN = Run(adapter=ADAPTER)
OTHER_RUNS = {
    "task": "upper",
    "adapter": replace(ADAPTER, rank=3),
    "scope": "linear",
    "lr": 2e-3,
    "seed": 1,
    "weight_decay": 0.1,
    "start": "both random",
    "base": "NF4",
    "split": "train",
    "ratio": 2.0,
    "snapshots": 2,
    "keep": True,
}
OTHER_ADAPTERS = {"alpha": 5, "dropout": 0.1, "targets": ["q_proj"], "rslora": True, "dora": True}
OTHER_PRESETS = {
    "model": replace(SIZES, hidden_size=8),
    "pretrain_steps": 2,
    "pretrain_batch": 3,
    "steps": 2,
    "batch": 3,
    "eval_windows": 4,
}


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The runs that were carried out, with a cache of this test's own."""
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    done = []
    monkeypatch.setattr(finetune, "fine_tune", lambda run, model, preset: done.append(run) or {"number": len(done)})
    return done


def test_an_equal_run_is_taken_from_the_cache(runs):
    """The second of two equal runs is not carried out, also if it and its preset are other objects."""
    assert carry_out(RUN, SMALL) == {"number": 1}
    assert carry_out(Run(adapter=AdapterConfig(rank=2, alpha=4)), replace(SMALL)) == {"number": 1}
    assert runs == [RUN]


def test_a_cached_result_is_the_result_that_was_measured():
    """What comes from the cache is what was measured, in every number and weight."""
    first, again = carry_out(replace(RUN, keep=True), SMALL), carry_out(replace(RUN, keep=True), SMALL)
    states = first.pop("state"), again.pop("state")
    assert first == again
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


@pytest.mark.parametrize("field", [field.name for field in fields(Run)])
def test_a_run_that_differs_in_any_field_is_carried_out(runs, field):
    """No field of a run is left out of the cache's key."""
    carry_out(RUN, SMALL)
    carry_out(replace(RUN, **{field: OTHER_RUNS[field]}), SMALL)
    assert len(runs) == 2


@pytest.mark.parametrize("field", OTHER_ADAPTERS)
def test_a_run_whose_adapter_differs_in_any_field_is_carried_out(runs, field):
    """No field of an adapter's configuration is left out either."""
    carry_out(RUN, SMALL)
    carry_out(replace(RUN, adapter=replace(ADAPTER, **{field: OTHER_ADAPTERS[field]})), SMALL)
    assert len(runs) == 2


@pytest.mark.parametrize("field", OTHER_PRESETS)
def test_a_preset_that_decides_other_numbers_is_carried_out(runs, field):
    """Whatever of a preset decides a run's numbers belongs to the key: the base's fields and fine-tuning's."""
    carry_out(RUN, SMALL)
    carry_out(RUN, replace(SMALL, **{field: OTHER_PRESETS[field]}))
    assert len(runs) == 2


def test_presets_that_decide_the_same_numbers_share_results(runs):
    """A preset's name, seeds, budget and workers decide which runs there are and where, and not what one gives."""
    carry_out(RUN, SMALL)
    carry_out(RUN, replace(SMALL, name="other", seeds=9, budget=9, workers=9))
    assert len(runs) == 1


@pytest.mark.parametrize(
    "module",
    [lora, rslora, nf4, qlora, quantize, inject, targets, codes, spectra, tasks, train, finetune],
    ids=lambda module: module.__name__,
)
def test_changed_code_carries_a_run_out_anew(runs, monkeypatch, module):
    """A result that older code measured is not used."""
    carry_out(RUN, SMALL)
    monkeypatch.setitem(cache.NOTED, module, (module.__spec__, "another meaning"))
    carry_out(RUN, SMALL)
    assert len(runs) == 2


@pytest.mark.parametrize("name", codes.BASES)
def test_a_rounded_base_stays_as_it_is_while_the_adapter_learns(name, monkeypatch):
    """What lies under the adapters is the pretrained weight as the code leaves it, before and after training."""
    rounded = codes.quantize_base(base(), name).state_dict()
    result = tuned(Run(adapter=ADAPTER, base=name, lr=1e-2, keep=True))
    state = {n.replace(".base.", "."): t for n, t in result["state"].items() if n.rpartition(".")[2] not in ("A", "B")}
    assert state.keys() == rounded.keys()
    assert all(torch.equal(state[n], rounded[n]) for n in state)
    assert any(t.any() for n, t in result["state"].items() if n.endswith(".B"))


@pytest.mark.parametrize("name", ["NF4", "NF2"])
def test_the_start_from_what_was_lost_is_the_best_low_rank_part_of_it(name, monkeypatch):
    """W - (base + s B A) has just the singular values that follow the r largest of W - base (Eckart and Young)."""
    run = Run(adapter=ADAPTER, base=name, start=finetune.LOFTQ)
    adapted = at_start(run, monkeypatch, lambda model: {n: m for n, m in model.named_modules() if is_adapter(m)})
    for place, layer in adapted.items():
        weight = base().get_submodule(place).weight.detach()
        lost = spectra.singular_values(weight - layer.base.weight)
        left = spectra.singular_values(weight - layer.base.weight - layer.delta_weight())
        torch.testing.assert_close(left[: len(lost) - 2], lost[2:], rtol=1e-3, atol=1e-6)
        assert layer.delta_weight().any() and isinstance(layer.base, NF4Linear) == (name == "NF4")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"base": "NF5", "adapter": ADAPTER}, "NF5"),
        ({"split": "held_out"}, "held_out"),
        ({"base": "NF4"}, "add one"),
        ({"start": finetune.LOFTQ, "adapter": ADAPTER}, "give a base"),
    ],
)
def test_a_run_over_a_rounded_base_that_makes_no_sense_is_refused(fields, word):
    """An unknown code, training on what is measured, rounded weights trained, a start from a loss that there is not."""
    with pytest.raises(ValueError, match=word):
        Run(**fields)


@pytest.mark.parametrize("split", ["task", "train"])
def test_a_run_trains_on_the_split_it_names(split, monkeypatch):
    """By default on text that pretraining never saw, or on the pretraining text."""
    seen = []
    monkeypatch.setattr(finetune, "fit", lambda model, batches, *rest, **_: seen.append(batches.ids) or [])
    tuned(Run(split=split, task="upper"))
    assert torch.equal(seen[0], tasks.task_ids("upper", split)) and Run().split == "task"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": -2.0}, "ratio is -2.0"),
        ({"ratio": math.inf}, "ratio is inf"),
        ({"ratio": math.nan}, "ratio is nan"),
        ({"ratio": 2.0, "adapter": None}, "ratio is 2.0 without an adapter"),
        ({"snapshots": -1}, "snapshots is -1"),
    ],
)
def test_a_ratio_or_snapshots_out_of_range_are_refused(options, words):
    """A ratio that is not positive and finite, one without a B to apply to, and a negative count: errors by name."""
    with pytest.raises(ValueError, match=words):
        Run(**({"adapter": ADAPTER} | options))


def test_a_ratio_gives_b_its_own_rate_and_every_group_the_decay(monkeypatch):
    """With a ratio, fit gets LoRA+'s groups: every B at lr · ratio, the rest at lr, the run's decay in both."""
    seen, models = [], [base()]
    monkeypatch.setattr(finetune, "fit", lambda *rest, groups, **_: seen.append(groups) or [])
    fine_tune(Run(adapter=ADAPTER, lr=1e-3, ratio=8.0, weight_decay=0.2), models[0], SMALL)
    slow, fast = seen[0]
    assert (slow["lr"], fast["lr"], slow["weight_decay"], fast["weight_decay"]) == (1e-3, 8e-3, 0.2, 0.2)
    named = {id(p): name for name, p in models[0].named_parameters()}
    assert {named[id(p)].rpartition(".")[2] for p in fast["params"]} == {"B"}
    assert {named[id(p)].rpartition(".")[2] for p in slow["params"]} == {"A"}
    tuned(Run(adapter=ADAPTER))
    assert seen[1] is None, "at ratio 1 there is one group, as ever"


@pytest.mark.parametrize("adapter", [None, ADAPTER, replace(ADAPTER, dora=True)], ids=["full", "lora", "dora"])
@pytest.mark.parametrize("count, steps", [(1, [3]), (2, [1, 3]), (3, [1, 2, 3])])
def test_snapshots_are_the_weights_at_evenly_spaced_steps(adapter, count, steps, monkeypatch):
    """Each holds the linear layers' weights, updates within them; the last ones are those of the tuned model."""
    run = Run(adapter=adapter, lr=1e-2, snapshots=count)
    model, seen = base(), []
    original = finetune.fit

    def fit(model, *rest, on_step, **options):
        def both():
            on_step()
            seen.append({n: model.get_submodule(n).weight.detach().clone() for n in names})

        return original(model, *rest, on_step=both, **options)

    names = list(targets.find_targets(model, "all-linear"))
    monkeypatch.setattr(finetune, "fit", fit)
    result = fine_tune(run, model, SMALL)
    assert len(result["snapshots"]) == count and len(seen) == SMALL.steps
    for step, snapshot in zip(steps, result["snapshots"], strict=True):
        assert list(snapshot) == names
        assert all(torch.equal(snapshot[name], seen[step - 1][name]) for name in names)
    assert not torch.equal(result["snapshots"][-1][names[0]], base().get_submodule(names[0]).weight)
    assert "snapshots" not in tuned(replace(run, snapshots=0))


def test_dora_over_what_was_lost_has_the_sizes_of_the_weight_as_it_was(monkeypatch):
    """The LoftQ start sets a DoRA layer's magnitudes to the norms of W0 + s · B A, so that it begins unrescaled."""
    run = Run(adapter=replace(ADAPTER, dora=True), base="NF2", start=finetune.LOFTQ)
    layers = at_start(run, monkeypatch, lambda model: [m for m in model.modules() if is_adapter(m)])
    for layer in layers:
        whole = layer.base.weight + layer.delta_weight()
        torch.testing.assert_close(layer.magnitude, whole.norm(dim=1))
        torch.testing.assert_close(layer.weight, whole)


def test_a_seed_fine_tunes_its_own_base():
    """With as many bases as seeds, a run starts from the base of its seed, whose losses can be had for comparison."""
    two = replace(SMALL, bases=2)
    starts = [finetune.measure_base("rot13", two, seed) for seed in (0, 1, 2)]
    assert starts[0] == starts[2] != starts[1]
    assert starts[1] == finetune.measure(pretrain.pretrained(two, 1), "rot13", two)
    run = Run(seed=1, adapter=ADAPTER)
    assert carry_out(run, two)["losses"] == fine_tune(run, pretrain.pretrained(two, 1), two)["losses"]
    assert carry_out(run, two)["losses"] != carry_out(run, SMALL)["losses"]


def test_numbers_of_numpy_and_torch_make_the_same_run():
    """A rank of np.int64(4) and a rate of np.float64: equal runs under equal keys."""
    plain = Run(adapter=AdapterConfig(rank=4, alpha=8), lr=0.5, seed=2, ratio=2.0, snapshots=1)
    other = Run(
        adapter=AdapterConfig(rank=np.int64(4), alpha=np.int64(8)),
        lr=np.float64(0.5),
        seed=np.int64(2),
        ratio=np.float32(2),
        snapshots=torch.tensor(1),
    )
    assert plain == other and type(other.seed) is int and type(other.lr) is float
    keys = [cache.canonical(finetune.run_key(run, SMALL)) for run in (plain, other)]
    assert json.dumps(keys[0]) == json.dumps(keys[1])
    assert json.dumps(asdict(plain)) == json.dumps(asdict(other))


def test_more_snapshots_than_steps_are_refused():
    """Ten of three steps would be three."""
    with pytest.raises(ValueError, match="snapshots is 10, and the run has 3 steps"):
        tuned(Run(snapshots=10))


def test_a_run_leaves_the_caller_s_random_numbers_alone():
    """It seeds itself, and gives the state back, also when it fails."""
    state = torch.get_rng_state()
    tuned(Run(adapter=ADAPTER, seed=5))
    with pytest.raises(ValueError):
        tuned(Run(adapter=ADAPTER, start="both zero"))
    assert torch.equal(torch.get_rng_state(), state)
