"""Runs that begin at an SVD: what `lab/starting.py` and `analysis/parabola.py` promise."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from test_tasks import use_made_up_text

from lora_from_scratch.analysis.parabola import bottom
from lora_from_scratch.book.figures import ch17
from lora_from_scratch.inject import AdapterConfig, is_adapter
from lora_from_scratch.lab import starting, tasks
from lora_from_scratch.lab.finetune import Run, carry_out
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.lab.starting import Started, begun, compare_starts, learn, look, lost
from lora_from_scratch.lab.train import loss_of
from lora_from_scratch.qlora import NF4Linear

SMOKE = replace(PRESETS["smoke"], pretrain_steps=4, eval_windows=4, workers=1)
RUN = Started(task="rot13", adapter=AdapterConfig(rank=4, alpha=8), lr=1e-2, seed=1)
WHOLE = ("plain", "PiSSA", "MiLoRA", "random, large", "random, small")
NF4 = ("QLoRA", "LoftQ", "QPiSSA", "random over NF4")


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    use_made_up_text(monkeypatch)
    monkeypatch.setattr(starting, "task_ids", tasks.task_ids)


def windows() -> torch.Tensor:
    return tasks.fixed_windows(tasks.task_ids("rot13", "task"), 4, SMOKE.model.max_position_embeddings)


def test_the_plain_start_is_the_run_of_finetune():
    """Number for number: a comparison of starts differs from any other in the start alone."""
    plain = Run(task="rot13", adapter=RUN.adapter, lr=1e-2, seed=1)
    ours, theirs = learn(RUN, SMOKE), carry_out(plain, SMOKE)
    assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


@pytest.mark.parametrize("name", WHOLE[1:])
def test_a_start_moves_the_weight_into_the_factors_and_leaves_the_model_alone(name):
    model, base = begun(pretrained(SMOKE, 1), replace(RUN, begin=name)).double(), pretrained(SMOKE, 1).double()
    assert all(layer.B.any() and layer.A.any() for layer in model.modules() if is_adapter(layer))
    assert torch.allclose(model(windows()[:, :-1]), base(windows()[:, :-1]), atol=1e-4)
    assert lost(replace(RUN, begin=name), SMOKE) < 1e-5


def test_random_starts_have_the_sizes_of_the_svd_s_and_other_directions_for_another_seed():
    sizes = {
        name: [layer.A.norm() for layer in begun(pretrained(SMOKE, 1), replace(RUN, begin=name)).modules()
               if is_adapter(layer)]
        for name in WHOLE
    }  # fmt: skip
    for svd, drawn in (("PiSSA", "random, large"), ("MiLoRA", "random, small")):
        assert torch.allclose(torch.stack(sizes[svd]), torch.stack(sizes[drawn]), rtol=1e-3)
    assert torch.stack(sizes["PiSSA"]).mean() > 2 * torch.stack(sizes["MiLoRA"]).mean()
    runs = [replace(RUN, begin="random, large", seed=seed) for seed in (1, 1, 3)]
    first, again, other = (next(m for m in begun(pretrained(SMOKE, 1), r).modules() if is_adapter(m)).A for r in runs)
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_over_nf4_the_frozen_weight_is_what_nf4linear_decodes_and_the_svd_loses_least():
    model, base = begun(pretrained(SMOKE, 1), replace(RUN, begin="QLoRA")), pretrained(SMOKE, 1)
    for name, layer in [(n, m) for n, m in model.named_modules() if is_adapter(m)]:
        assert torch.equal(layer.base.weight, NF4Linear.from_linear(base.get_submodule(name)).weight)
        assert not layer.base.weight.requires_grad
    shares = {name: lost(replace(RUN, begin=name), SMOKE) for name in NF4}
    assert 0.02 < shares["LoftQ"] < shares["QLoRA"] < 0.2 and 0.02 < shares["QPiSSA"] < shares["QLoRA"]


@pytest.mark.parametrize("name", [*WHOLE, *NF4])
def test_every_start_learns_and_only_its_factors(name):
    few = replace(SMOKE, steps=12)
    result = learn(replace(RUN, begin=name, lr=3e-3), few)
    assert result["losses"][-1] < result["losses"][0] and math.isfinite(result["task_loss"])
    assert result["trained"] == learn(RUN, few)["trained"]


def test_the_first_move_is_that_of_adam_s_first_step():
    """ΔW before and after a tiny step along the sign of the gradient, over the rate."""
    run, rate = replace(RUN, begin="PiSSA"), 1e-5
    model, ids = begun(pretrained(SMOKE, 1), run).double(), windows()
    layers = [layer for layer in model.modules() if is_adapter(layer)]
    before = [layer.delta_weight().detach() for layer in layers]
    loss_of(model, ids).backward()
    with torch.no_grad():
        for layer in layers:
            layer.A -= rate * layer.A.grad.sign()
            layer.B -= rate * layer.B.grad.sign()
    moved = sum(((layer.delta_weight() - old) / rate).square().sum() for layer, old in zip(layers, before, strict=True))
    assert look(run, SMOKE, windows=4)["step"] == pytest.approx(moved.sqrt().item(), rel=2e-2)


def test_curvature_is_the_second_difference_of_the_loss_in_no_direction_exceeded():
    run = replace(RUN, begin="random, large")
    found = look(run, SMOKE, windows=4)
    model, ids = begun(pretrained(SMOKE, 1), run).double(), windows()
    factors = [p for p in model.parameters() if p.requires_grad]
    draw, bends = torch.Generator().manual_seed(0), []
    for _ in range(8):
        v = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in factors]
        size, three = math.sqrt(sum(float(x.square().sum()) for x in v)), []
        for t in (-1e-3, 0.0, 1e-3):
            with torch.no_grad():
                for p, x in zip(factors, v, strict=True):
                    p += t * x / size
                three.append(float(loss_of(model, ids)))
                for p, x in zip(factors, v, strict=True):
                    p -= t * x / size
        bends.append((three[0] - 2 * three[1] + three[2]) / 1e-6)
    assert max(bends) < found["curvature"] * 1.05 and found["smallest"] < found["curvature"]


def test_each_start_is_judged_at_its_best_rate_over_all_seeds():
    tuned = compare_starts({"PiSSA": replace(RUN, begin="PiSSA")}, SMOKE)["PiSSA"]
    assert tuned.run.begin == "PiSSA" and tuned.run.lr == min(tuned.tried, key=tuned.tried.get)
    assert tuned.values("task_loss") == [learn(replace(tuned.run, seed=s), SMOKE)["task_loss"] for s in (1, 2)]
    known = compare_starts({"PiSSA": RUN}, replace(SMOKE, budget=0), known={"PiSSA": 0.02})["PiSSA"]
    assert known.run.lr == 0.02 and not known.tried
    swept = compare_starts({"PiSSA": RUN}, SMOKE, known={"PiSSA": 0.02})["PiSSA"]
    assert len(swept.tried) >= 4  # a preset that has a budget tries rates of its own


@pytest.mark.parametrize("wrong", [{"begin": "pissa"}, {"adapter": None}, {"start": "A zero"}, {"base": "NF4"}])
def test_a_beginning_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="unknown beginning 'pissa'" if "begin" in wrong else "a beginning sets A, B"):
        replace(RUN, **wrong)


def test_predicted_rates_miss_by_octaves_and_by_chance_as_the_mean_over_all_ways_to_deal_them():
    best = {("plain", 1): 0.01, ("a", 1): 0.005, ("b", 1): 0.02, ("c", 1): 0.01}
    at = {("rot13", start, 1): {"λ": λ} for start, λ in {"plain": 2.0, "a": 8.0, "b": 2.0, "c": 1.0}.items()}
    predicted = lambda task, start, seed, by: at[task, "plain", seed][by] / at[task, start, seed][by]  # noqa: E731
    starts = ["plain", "a", "b", "c"]
    assert ch17.mean_miss(predicted, best, starts, "λ", 1) == pytest.approx(1)  # 1/4 for 1/2, 1 for 2, 2 for 1
    assert ch17.mean_miss(predicted, best, starts, None, 1) == pytest.approx(2 / 3)
    found, said = [-1, 1, 0], [-2, 0, 1]
    dealt = [sum(abs(f - p) for f, p in zip(found, way, strict=True)) / 3 for way in permutations(said)]
    assert ch17.shuffled_miss(predicted, best, starts, "λ", 1) == pytest.approx(sum(dealt) / len(dealt))
    assert ch17.order_of(at, best, ["a", "b", "c"], "λ", 1) == pytest.approx(0.5)
    assert ch17.order_of(at, {**best, ("b", 1): 0.009}, ["a", "b", "c"], "λ", 1) == pytest.approx(1)
    assert sum(ch17.shuffled_orders(4)) == pytest.approx(0, abs=1e-9) and len(ch17.shuffled_orders(4)) == 24


def test_the_bottom_of_a_parabola_is_found_and_is_never_outside_the_three():
    bowl = lambda at: {rate: (math.log(rate) - math.log(at)) ** 2 + 1 for rate in (0.001, 0.004, 0.01)}  # noqa: E731
    assert bottom(bowl(0.003)) == pytest.approx(0.003)
    assert bottom(bowl(0.1)) == pytest.approx(0.01) and bottom(bowl(1e-5)) == pytest.approx(0.001)
    assert bottom({0.1: 3.0, 0.2: 4.0, 0.4: 2.0}) == 0.4  # no bowl
    assert bottom({0.1: 3.0, 0.2: 2.0, 0.4: math.inf}) == 0.2
    assert bottom({0.1: math.nan, 0.2: 2.0, 0.4: 5.0}) == 0.2
    with pytest.raises(ValueError, match="2 rates"):
        bottom({0.1: 1.0, 0.2: 2.0})
