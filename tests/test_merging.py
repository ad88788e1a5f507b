"""What chapter 18 merges by: each way is the formula, and leaves the base and the random state as they were."""

from dataclasses import replace

import pytest
import torch
from test_tasks import use_made_up_text

from lora_from_scratch.lab import adding, merging, tasks
from lora_from_scratch.lab.adding import losses_on
from lora_from_scratch.lab.merging import delta
from lora_from_scratch.lab.presets import PRESETS
from lora_from_scratch.lab.pretrain import pretrained
from lora_from_scratch.targets import find_targets

draw = torch.Generator().manual_seed(1)
FIRST, SECOND = (
    (torch.randn(r, 7, generator=draw).double(), torch.randn(5, r, generator=draw).double(), s)
    for r, s in ((2, 4.0), (2, 4.0))
)
ONE, OTHER = delta(FIRST), delta(SECOND)
SMOKE = PRESETS["smoke"]


def trained(model, seed, size=0.02):
    """Made-up adapters, B and all, for every linear layer of a model."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: layer.weight.shape for name, layer in find_targets(model, "all-linear").items()}
    some = lambda *shape: size * torch.randn(*shape, generator=draw)  # noqa: E731
    return {name: (some(2, d_in), some(d_out, 2), 4.0) for name, (d_out, d_in) in shapes.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BUILD", str(tmp_path_factory.mktemp("build")))
        use_made_up_text(patch)
        patch.setattr(adding, "task_ids", tasks.task_ids)
        yield pretrained(replace(SMOKE, pretrain_steps=4), 1)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_added_is_the_weighted_sum_and_the_cut_splits_it():
    w = 0.7
    assert close(merging.added(FIRST, SECOND, w), w * (ONE + OTHER))
    kept, cut = merging.cut_back(FIRST, SECOND, w), merging.what_the_cut_takes(FIRST, SECOND, w)
    u, s, vt = torch.linalg.svd(w * (ONE + OTHER))
    assert close(kept, (u[:, :2] * s[:2]) @ vt[:2]) and close(kept + cut, w * (ONE + OTHER))
    assert torch.linalg.matrix_rank(kept) == 2


def test_factors_added_has_the_cross_terms():
    (A1, B1, s), (A2, B2, _) = FIRST, SECOND
    cross = s * (B1 @ A2 + B2 @ A1)
    assert close(merging.factors_added(FIRST, SECOND, 0.5), 0.5 * (ONE + OTHER + cross)) and cross.abs().max() > 1


def test_ties_and_dare_are_those_of_arithmetic():
    found = merging.by_ties(FIRST, SECOND, 2.0)
    largest = {i for d in (ONE, OTHER) for i in d.abs().flatten().topk(7).indices.tolist()}  # a fifth of 35
    assert set(found.flatten().nonzero().flatten().tolist()) <= largest and found.any()
    way = merging.by_dare(0)
    thin = way(FIRST, SECOND, 0.5)
    assert close(thin, merging.by_dare(0)(FIRST, SECOND, 0.5)) and 0 < (thin != 0).sum() < 15
    assert not torch.equal(way(FIRST, SECOND, 0.5), thin), "the next layer has a draw of its own"
    where = thin != 0
    either = torch.stack([5 * ONE, 5 * OTHER, 5 * (ONE + OTHER)])
    assert ((thin - either).abs().min(dim=0).values[where] < 1e-9).all()


def test_merged_changes_every_layer_by_its_own_update_and_not_the_base(base):
    two = [trained(base, 1), trained(base, 2)]
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = merging.merged(base, two, merging.added, 0.5)
    for name, layer in find_targets(base, "all-linear").items():
        want = layer.weight + 0.5 * (delta(two[0][name]) + delta(two[1][name]))
        assert torch.allclose(model.get_submodule(name).weight, want, atol=1e-6)
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())


def test_a_twin_has_the_singular_values_of_what_it_stands_for(base):
    own, other = trained(base, 1), trained(base, 2)
    state = torch.get_rng_state()
    model = merging.beside_a_twin(base, own, other, 0.5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    name, layer = next(iter(find_targets(base, "all-linear").items()))
    rest = (model.get_submodule(name).weight - layer.weight) / 0.5 - delta(own[name])
    want = torch.linalg.svdvals(delta(other[name]))
    assert torch.allclose(torch.linalg.svdvals(rest), want, atol=1e-4) and not torch.allclose(
        rest, delta(other[name]), atol=1e-3
    )


def test_taking_away_what_was_added_gives_the_base_and_a_twin_does_not(base):
    one = trained(base, 1)
    back = merging.taken_away(merging.with_one(base, one), one, 1.0, twin=False, seed=0)
    other = merging.taken_away(merging.with_one(base, one), one, 1.0, twin=True, seed=0)
    half = merging.taken_away(merging.with_one(base, one, 0.5), one, 0.5, twin=False, seed=0)
    name, layer = next(iter(find_targets(base, "all-linear").items()))
    assert torch.allclose(back.get_submodule(name).weight, layer.weight, atol=1e-6)
    assert torch.allclose(half.get_submodule(name).weight, layer.weight, atol=1e-6)
    assert not torch.allclose(other.get_submodule(name).weight, layer.weight, atol=1e-3)


def test_thinned_out_drops_the_share_and_scales_only_if_told(base):
    one = trained(base, 1)
    models = [merging.thinned_out(base, one, 0.75, scaled, seed=0) for scaled in (True, False)]
    name, layer = next(iter(find_targets(base, "all-linear").items()))
    up, plain = (model.get_submodule(name).weight - layer.weight for model in models)
    kept = plain.abs() > 1e-8
    assert 0.15 < kept.float().mean() < 0.35
    assert torch.allclose(plain[kept], delta(one[name])[kept], atol=1e-6)
    assert torch.allclose(up, 4 * plain, atol=1e-5)


def test_the_cosine_is_of_the_whole_model(base):
    one = trained(base, 1)
    twice = {name: (A, 2 * B, s) for name, (A, B, s) in one.items()}
    assert merging.cosine(one, twice) == pytest.approx(1, abs=1e-6)
    assert abs(merging.cosine(one, trained(base, 2))) < 0.2


def test_measured_are_the_base_each_alone_and_every_way(base):
    two, tasks = [trained(base, 1, 0.1), trained(base, 2, 0.1)], ["rot13", "upper"]
    few = PRESETS["smoke"]
    found = merging.measure_merges(base, two, tasks, {"half": (merging.added, 0.5)}, few)
    assert list(found) == ["base", "rot13 alone", "upper alone", "half"]
    assert found["half"] == losses_on(merging.merged(base, two, merging.added, 0.5), tasks, few)
    assert found["upper alone"] == losses_on(merging.with_one(base, two[1]), tasks, few)
    assert merging.gain_kept(found, "upper alone", "upper") == 1 and merging.gain_kept(found, "base", "rot13") == 0
    made_up = {"base": {"t": 5.0}, "t alone": {"t": 1.0}, "x": {"t": 2.0}}
    assert merging.gain_kept(made_up, "x", "t") == 0.75
