"""TinyLoRA: the formula, a whole model on 13 numbers, and what a seed keeps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_close, batches, cases
from torch import nn

from lora_from_scratch import (
    AdapterConfig,
    LoRALinear,
    NF4Linear,
    add_adapters,
    count_parameters,
    merge_adapters,
    quantize_model,
    trainable_parameters,
)
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.tinylora import TinyLoRALinear, add_tinylora

IDS = torch.randint(31, (3, 12), generator=torch.Generator().manual_seed(0))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def llama(seed: int = 0) -> TinyLlama:
    torch.manual_seed(seed)
    return TinyLlama(LlamaConfig(31, 16, 24, 2, 2, 1, max_position_embeddings=16)).double()


def with_v(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model with its one v far from zero."""
    (v,) = trainable_parameters(model)
    v.data = draw(len(v), seed=seed)
    return model


@st.composite
def layers(draw_from):
    """A case and a TinyLoRA layer over its base, with v and P far from zero."""
    case = draw_from(cases(batch=batches))
    rank, size = draw_from(st.integers(1, min(case.d_in, case.d_out))), draw_from(st.integers(1, 5))
    v, P = nn.Parameter(draw(size, seed=case.seed)), draw(size, rank, rank, seed=case.seed + 1)
    return case, TinyLoRALinear(case.base(), v, P), v, P


# --- One layer ---


@given(layers())
def test_the_update_is_the_paper_s_sum(made):
    """U Σ (Σ v_i P_i) Vᵀ in a loop over i, each column of U with a positive largest entry."""
    case, layer, v, P = made
    rank = P.shape[-1]
    u, s, vt = torch.linalg.svd(case.base().weight.detach(), full_matrices=False)
    wanted = torch.zeros(case.d_out, case.d_in, dtype=torch.float64)
    for i in range(len(v)):
        for j in range(rank):
            for k in range(rank):
                sign = u[u[:, j].abs().argmax(), j].sign() * u[u[:, k].abs().argmax(), k].sign()
                wanted += v[i].item() * P[i, j, k] * sign * s[j] * torch.outer(u[:, j], vt[k])
    assert_close(layer.delta_weight().detach(), wanted, "the update")
    x = case.input()
    assert_close(layer(x), case.base()(x) + x @ wanted.T, "the output")
    assert_close(layer.merge()(x), layer(x), "merged")


@given(layers())
def test_the_gradient_of_v_is_its_slope_and_nothing_else_has_one(made):
    case, layer, v, _ = made
    x = case.input()
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["v"]

    def output(value):
        return torch.func.functional_call(layer, {"v": value}, (x,))

    assert torch.autograd.gradcheck(output, v.detach().clone().requires_grad_())
    layer(x).square().sum().backward()
    assert v.grad is not None and all(p.grad is None for p in layer.base.parameters())


@given(layers())
def test_it_is_a_lora_layer_whose_b_follows_from_v(made):
    """A plain LoRALinear of rank r and scaling 1 with this A and B computes the same."""
    case, layer, _, P = made
    rank = P.shape[-1]
    plain = LoRALinear(case.base(), rank, rank)
    plain.load_state_dict({"A": layer.A, "B": layer.B.detach()}, strict=False)
    assert_close(plain(case.input()), layer(case.input()), "the output")


def test_at_v_zero_a_layer_is_its_base_and_a_step_moves_it():
    base = nn.Linear(7, 5)
    x, wanted = torch.randn(2, 3, 7), None
    layer = TinyLoRALinear(base, nn.Parameter(torch.zeros(3)), torch.randn(3, 2, 2))
    wanted = base(x)
    assert torch.equal(layer(x), wanted)
    optimizer = torch.optim.SGD(trainable_parameters(layer), lr=0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(layer(x), wanted) and torch.equal(base(x), wanted)


def test_a_base_of_few_bits_keeps_its_own_and_v_is_float32():
    """bfloat16 and 4 bits: the factors are float32, the output the base's dtype."""
    for base in (nn.Linear(20, 12).bfloat16(), NF4Linear.from_linear(nn.Linear(20, 12).bfloat16())):
        layer = TinyLoRALinear(base, nn.Parameter(torch.ones(3)), torch.randn(3, 2, 2))
        assert layer.A.dtype == layer.B.dtype == torch.float32
        x = torch.randn(4, 20).bfloat16()
        wanted = base(x).float() + x.float() @ layer.delta_weight().T
        torch.testing.assert_close(layer(x).float(), wanted, rtol=0.02, atol=0.02)
        assert layer(x).dtype == torch.bfloat16 and not base.bias.requires_grad


# --- A whole model ---


@pytest.mark.parametrize(("size", "rank"), [(13, 2), (1, 2), (1, 1), (5, 4)])
def test_a_whole_model_trains_on_so_many_numbers(size, rank):
    """All fourteen layers on one v; at v = 0 the logits are the base's, bit for bit, and the base keeps its numbers."""
    model = llama()
    before, total = model(IDS), count_parameters(model)[1]
    assert add_tinylora(model, size, rank) is model
    assert count_parameters(model) == (size, total + size)
    assert sum(isinstance(m, TinyLoRALinear) for m in model.modules()) == 14
    assert torch.equal(model(IDS), before)
    moved = with_v(model)(IDS)
    assert not torch.allclose(moved, before)
    assert_close(merge_adapters(model)(IDS).detach(), moved.detach(), "merged", tolerance=1e-10)


def test_every_layer_has_random_factors_of_its_own():
    """P is drawn on from layer to layer: no two are alike, and their variance is 1 / r."""
    model = add_tinylora(llama(), size=13, rank=4)
    drawn = [m.P for m in model.modules() if isinstance(m, TinyLoRALinear)]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    entries = torch.cat([P.flatten() for P in drawn])  # 2,912 of them
    assert abs(entries.var().item() - 1 / 4) < 0.03 and abs(entries.mean().item()) < 0.03


def test_the_gradient_of_v_is_the_sum_over_all_layers():
    """As if each layer had a v of its own."""
    model, apart = with_v(add_tinylora(llama())), with_v(add_tinylora(llama()))
    for layer in [m for m in apart.modules() if isinstance(m, TinyLoRALinear)]:
        layer.v = nn.Parameter(layer.v.detach().clone())
    for each in (model, apart):
        each(IDS).square().mean().backward()
    (v,) = trainable_parameters(model)
    assert_close(v.grad, sum(p.grad for p in trainable_parameters(apart)), "the gradient", tolerance=1e-10)


def test_over_4_bits_a_model_is_tuned_by_13_numbers_too():
    model = add_tinylora(quantize_model(llama().float()))
    assert count_parameters(model)[0] == 13
    model(IDS).square().mean().backward()
    assert trainable_parameters(model)[0].grad.any()


def test_over_16_bits_v_is_float32():
    """Where small steps would round to none, as with LoRA's A and B."""
    (v,) = trainable_parameters(add_tinylora(llama().bfloat16()))
    assert v.dtype == torch.float32


# --- What is kept, and what a seed gives back ---


def test_v_and_the_seed_give_the_update_back_on_the_same_machine():
    """Saved are the base and v alone. Another model of that W and seed computes the same with it, bit for bit."""
    model = with_v(add_tinylora(llama(), seed=3))
    state = model.state_dict()
    own = {name.rpartition(".")[2] for name in state if name not in llama().state_dict() and ".base." not in name}
    assert own == {"v"}
    again = add_tinylora(llama(), seed=3)
    again.load_state_dict(state)
    assert torch.equal(again(IDS), model(IDS))


@pytest.mark.parametrize("change", ["seed", "weights"])
def test_under_another_seed_or_over_other_weights_the_same_v_is_another_update(change):
    """Nothing raises: the 13 numbers load, and mean something else."""
    model = with_v(add_tinylora(llama(), seed=3))
    (v,) = trainable_parameters(model)
    other = add_tinylora(llama(), seed=4) if change == "seed" else add_tinylora(llama(seed=1), seed=3)
    trainable_parameters(other)[0].data = v.data.clone()
    name = "model.layers.1.mlp.up_proj"
    one, two = (m.get_submodule(name).delta_weight().flatten() for m in (model, other))
    assert abs(torch.cosine_similarity(one, two, dim=0)) < 0.9


def test_an_svd_with_other_signs_gives_the_same_update(monkeypatch):
    """Libraries differ in the signs of singular vectors; unless one of them is chosen, v would depend on it."""
    wanted = with_v(add_tinylora(llama()))(IDS)
    svd = torch.linalg.svd

    def flipped(matrix, full_matrices):
        u, s, vt = svd(matrix, full_matrices=full_matrices)
        signs = torch.tensor([-1.0, 1.0], dtype=u.dtype).repeat(len(s))[: len(s)]
        return u * signs, s, signs[:, None] * vt

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    assert_close(with_v(add_tinylora(llama()))(IDS).detach(), wanted.detach(), "logits", tolerance=1e-10)


def test_torch_s_own_random_state_stays():
    model, state = llama(), torch.get_rng_state()
    state = torch.get_rng_state()
    add_tinylora(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_lasts_is_a_plain_adapter():
    """A and the B that v gave, in LoRA layers of rank 2 and alpha 2, need no seed. (save_adapter takes only these.)"""
    model, plain = with_v(add_tinylora(llama())), add_adapters(llama(), AdapterConfig(rank=2, alpha=2))
    for name, layer in model.named_modules():
        if isinstance(layer, TinyLoRALinear):
            plain.get_submodule(name).load_state_dict({"A": layer.A, "B": layer.B.detach()}, strict=False)
    assert_close(plain(IDS).detach(), model(IDS).detach(), "logits", tolerance=1e-10)


# --- What is refused ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size is 0, rank 2; both are at least 1"),
        ({"size": 2.5}, "size is 2.5"),
        ({"rank": 0}, "size is 13, rank 0"),
        ({"rank": 1.0}, "size is 13, rank 1.0"),
        ({"rank": 9}, "rank 9; .* at most 8"),
        ({"targets": ["nowhere"]}, "no layer is called nowhere"),
    ],
)
def test_what_cannot_be_made_is_refused_and_changes_nothing(options, words):
    model = llama()
    modules = list(model.modules())
    with pytest.raises(ValueError, match=words):
        add_tinylora(model, **options)
    assert list(model.modules()) == modules and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("adapt", [add_tinylora, lambda m: add_adapters(m, AdapterConfig(2, 4))])
def test_an_adapted_model_is_refused(adapt):
    model = adapt(llama())
    for targets, words in (("all-linear", "already has an adapter"), (r".*q_proj\.base", "over no adapters")):
        with pytest.raises(ValueError, match=words):
            add_tinylora(model, targets=targets)


def test_a_layer_is_refused_what_a_lora_layer_is_and_a_rank_that_its_weight_has_not():
    v, P = nn.Parameter(torch.zeros(3)), torch.randn(3, 2, 2)
    for wrong, words in ((nn.Embedding(6, 4), "no linear layer"), (LoRALinear(nn.Linear(6, 4), 2, 4), "already has")):
        with pytest.raises(ValueError, match=words):
            TinyLoRALinear(wrong, v, P)
    base = nn.Linear(6, 4)
    with pytest.raises(ValueError, match=r"rank is 5, and a weight of \(4, 6\) has 4 singular values"):
        TinyLoRALinear(base, nn.Parameter(torch.zeros(3)), torch.randn(3, 5, 5))
    assert base.weight.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training):
    model = add_tinylora(llama().train(training))
    assert all(m.training == training for m in model.modules())
