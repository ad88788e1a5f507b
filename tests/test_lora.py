"""LoRALinear: the formula to the last digit, what is refused, and what it must survive: autocast, meta, compile.

What is true of any LoRA layer, the reader's own too, stands in test_layer_properties.py.
"""

import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import FLOATS, Case, alphas, assert_close, cases, seeds
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_from_scratch import LoRALinear, lora_scaling
from lora_from_scratch.lora import check_hyperparameters

FEWER = max(1, settings.default.max_examples // 5)  # examples of a property whose every example takes training steps


def slow_forward(layer: LoRALinear, x: list[float]) -> list[float]:
    """The definition, one number at a time: h_o = b_o + Σ_i W_oi x_i + alpha / r · Σ_k B_ok Σ_i A_ki x_i."""
    W, A, B = layer.base.weight.tolist(), layer.A.tolist(), layer.B.tolist()
    b = [0.0] * len(W) if layer.base.bias is None else layer.base.bias.tolist()
    h = []
    for o in range(len(W)):
        total = b[o]
        for i in range(len(x)):
            total += W[o][i] * x[i]
        for k in range(layer.rank):
            z = 0.0
            for i in range(len(x)):
                z += A[k][i] * x[i]
            total += layer.alpha / layer.rank * B[o][k] * z
        h.append(total)
    return h


# The formula


@given(case=cases())
def test_forward_is_slow_definition(case):
    """The output is b + W0 x + alpha / r · B A x, computed number by number."""
    layer, x = case.trained(LoRALinear), case.input()
    rows = [slow_forward(layer, row) for row in x.reshape(-1, case.d_in).tolist()]
    wanted = torch.tensor(rows, dtype=torch.float64).reshape(*case.batch, case.d_out)
    assert_close(layer(x).detach(), wanted)


@given(case=cases(square=False, bias=True))
def test_gradients_are_those_of_dense_layer(case):
    """x, A and B get the gradients that autograd finds through the full matrix W0 + s · B A."""
    layer, x = case.trained(LoRALinear), case.input().requires_grad_()
    h = layer(x)
    upstream = torch.cos(torch.arange(h.numel(), dtype=torch.float64)).reshape(h.shape)
    got = torch.autograd.grad(h, (x, layer.A, layer.B), upstream)
    dense = layer.base.weight + case.alpha / case.rank * torch.einsum("or,ri->oi", layer.B, layer.A)
    wanted = torch.autograd.grad(F.linear(x, dense, layer.base.bias), (x, layer.A, layer.B), upstream)
    for name, a, b in zip("xAB", got, wanted, strict=True):
        assert_close(a, b, f"gradient of {name}")


def test_hand_case():
    """Rank 8, alpha 16, A, B and x of ones, 4 x 4: s = 2, each of A x is 4, and each output gains 2 · 8 · 4 = 64."""
    base = nn.Linear(4, 4)
    layer, x = LoRALinear(base, rank=8, alpha=16), torch.ones(4)
    nn.init.ones_(layer.A), nn.init.ones_(layer.B), nn.init.zeros_(base.weight), nn.init.zeros_(base.bias)
    assert layer(x).tolist() == [64.0] * 4


@given(alpha=alphas, rank=st.integers(1, 512))
def test_lora_scaling(alpha, rank):
    """The scaling is alpha / rank."""
    assert lora_scaling(alpha, rank) == alpha / rank


@given(case=cases())
def test_layer_knows_what_it_was_given(case):
    """rank, alpha, scaling, dropout and features can be read from the layer; scaling is a plain float."""
    base = case.base()
    layer = LoRALinear(base, case.rank, case.alpha, dropout=0.25)
    assert (layer.rank, layer.alpha, layer.dropout, layer.base) == (case.rank, case.alpha, 0.25, base)
    assert type(layer.scaling) is float and layer.scaling == case.alpha / case.rank
    assert (layer.in_features, layer.out_features, layer.bias) == (case.d_in, case.d_out, base.bias)
    assert f"rank={case.rank}" in repr(layer) and f"alpha={case.alpha:g}" in repr(layer)


@given(case=cases())
def test_scaling_is_read_at_every_call(case):
    """A scaling changed afterwards holds for the output, for delta_weight() and for the merge."""
    layer, x = case.trained(LoRALinear), case.input()
    before, delta = layer(x) - layer.base(x), layer.delta_weight()
    layer.scaling *= 2  # a power of two: exact
    assert_close(layer(x) - layer.base(x), 2 * before)
    assert torch.equal(layer.delta_weight(), 2 * delta)
    assert_close(layer.merge()(x), layer(x).detach())


@given(case=cases())
def test_count(case):
    """r · (d_in + d_out) numbers are trained."""
    layer = case.adapted(LoRALinear)
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trained == case.rank * (case.d_in + case.d_out)


@given(case=cases())
def test_update_has_at_most_rank(case):
    """The rank of delta_weight() is at most r, and is r for random A and B if the layer is large enough."""
    delta = case.trained(LoRALinear).delta_weight()
    assert torch.linalg.matrix_rank(delta, rtol=1e-12) == min(case.rank, case.d_in, case.d_out)


@given(case=cases())
def test_gradients_flow_through_delta_weight(case):
    """delta_weight() and weight can stand in a loss: A and B get their gradients through them."""
    layer = case.trained(LoRALinear)
    for matrix in (layer.delta_weight(), layer.weight):
        grad_A, grad_B = torch.autograd.grad(matrix.sum(), (layer.A, layer.B))
        ones = torch.ones(case.d_out, case.d_in, dtype=torch.float64)
        assert_close(grad_A, layer.scaling * layer.B.detach().T @ ones)
        assert_close(grad_B, layer.scaling * ones @ layer.A.detach().T)


@given(first=cases(), seed=seeds)
def test_two_adapters_add_their_updates(first, seed):
    """Two adapters over one base, one on the other's merge, add s · B A each; adding A's and B's is something else."""
    one = first.trained(LoRALinear)
    two = LoRALinear(one.merge(), rank=first.rank, alpha=first.alpha)
    numbers = torch.Generator().manual_seed(1000 + seed)
    for factor in (two.A, two.B):
        nn.init.normal_(factor, generator=numbers)
    both = one.delta_weight() + two.delta_weight()
    assert_close(two.merge().weight, one.base.weight + both.detach())
    summed = one.scaling * (one.B + two.B) @ (one.A + two.A)
    assert (summed - both).abs().max() > 1e-6


# The start


@given(case=cases(dtypes=FLOATS))
def test_start_is_kaiming_uniform_and_zero(case):
    """A starts within ±1/sqrt(d_in), B at zero, both in the base's dtype, or float32 where that has 16 bits."""
    layer = LoRALinear(case.base(), case.rank, case.alpha)
    wide = torch.promote_types(case.dtype, torch.float32)
    bound = torch.tensor(1 / math.sqrt(case.d_in)).to(wide)  # a drawn number may round up to it
    assert layer.A.abs().max() <= bound and layer.A.any() and not layer.B.any()
    assert layer.A.dtype == layer.B.dtype == wide


def test_start_fills_its_range():
    """A starts uniform: its standard deviation is 1/sqrt(3 d_in), where a normal start would leave ±1/sqrt(d_in)."""
    torch.manual_seed(0)
    d_in, rank = 400, 100
    A = LoRALinear(nn.Linear(d_in, 3), rank, 1).A * math.sqrt(d_in)
    # the variance of U(-1, 1) is 1/3, that of its square 1/5 - 1/9 = 4/45: five standard errors are 5 sqrt(4/45 / n)
    assert abs(A.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / A.numel())
    assert abs(A.mean()) < 5 * math.sqrt(1 / 3 / A.numel())


@given(case=cases(dtypes=FLOATS), training=st.booleans())
def test_start_is_base_with_dropout_too(case, training):
    """At B = 0 the output is the base's to the bit, in train mode with dropout too: the base's path has none."""
    layer, x = LoRALinear(case.base(), case.rank, case.alpha, dropout=0.5), case.input()
    assert torch.equal(layer.train(training)(x), case.base()(x))


@given(case=cases())
def test_base_is_kept(case):
    """The base is the very layer that was given, frozen, with not a bit of its numbers changed."""
    base = case.base()
    layer = LoRALinear(base, case.rank, case.alpha)
    assert layer.base is base and not any(p.requires_grad for p in base.parameters())
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), case.base().parameters(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_base_is_kept(training):
    """The layer starts in the mode of its base, and so does what it merges to."""
    layer = LoRALinear(nn.Linear(5, 3).train(training), 2, 4, dropout=0.5)
    assert layer.training is layer.base.training is layer.merge().training is training


# Dropout


@given(case=cases(bias=True))
def test_dropout_is_off_in_eval(case):
    """In eval mode dropout changes nothing."""
    with_it, without, x = case.trained(LoRALinear, dropout=0.9), case.trained(LoRALinear), case.input()
    assert torch.equal(with_it.eval()(x), without(x))


@given(case=cases(bias=True), p=st.floats(0.1, 0.9))
def test_dropout_acts_on_adapter_path_alone(case, p):
    """In train mode the update is s · B A applied to x with entries zeroed and the others divided by 1 - p."""
    layer, x = case.trained(LoRALinear, dropout=p), case.input()
    torch.manual_seed(case.seed)
    got = layer(x)
    torch.manual_seed(case.seed)
    wanted = layer.base(x) + layer.scaling * F.dropout(x, p) @ layer.A.T @ layer.B.T
    assert_close(got, wanted)


def test_dropout_drops_share_p():
    """The share of dropped entries is p, within five standard errors."""
    p, n = 0.3, 10_000
    layer = LoRALinear(nn.Linear(1, 1, bias=False), 1, 1, dropout=p)
    nn.init.zeros_(layer.base.weight), nn.init.ones_(layer.A), nn.init.ones_(layer.B)
    torch.manual_seed(0)
    dropped = (layer(torch.ones(n, 1)) == 0).double().mean().item()
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / n)


# Merging


@given(case=cases())
def test_merge_is_equivalent(case):
    """In float64 the merged layer gives the output of the adapted one to 1e-12."""
    layer, x = case.trained(LoRALinear, dropout=0.5).eval(), case.input()
    assert_close(layer.merge()(x), layer(x).detach())


@given(case=cases(dtypes=(torch.bfloat16, torch.float16)))
def test_merge_rounds_once(case):
    """In half precision the merged weight is product and sum in float32, cast once: equal to the bit."""
    layer = case.trained(LoRALinear)
    product = layer.scaling * (layer.B.float() @ layer.A.float())
    wanted = (layer.base.weight.float() + product).to(case.dtype)
    merged = layer.merge()
    assert merged.weight.dtype == case.dtype and torch.equal(merged.weight, wanted)
    assert torch.equal(layer.weight, wanted) and layer.delta_weight().dtype == torch.float32
    assert case.bias is False or torch.equal(merged.bias, layer.base.bias)


def test_merge_keeps_small_updates_together():
    """256 + 0.75 + 0.75 in bfloat16, whose steps are 2 there: the update of 1.5 counts whole, and gives 258."""
    base = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    layer = LoRALinear(base, rank=2, alpha=2)
    nn.init.constant_(base.weight, 256), nn.init.constant_(layer.A, 0.75), nn.init.ones_(layer.B)
    assert layer.merge().weight.item() == 258


@given(case=cases())
def test_merged_layer_is_plain_and_frozen(case):
    """merge() gives an nn.Linear and nothing else, frozen as the base is; merging again gives the same."""
    layer = case.trained(LoRALinear)
    merged, again = layer.merge(), layer.merge()
    assert type(merged) is nn.Linear and not any(p.requires_grad for p in merged.parameters())
    assert (merged.in_features, merged.out_features) == (case.d_in, case.d_out)
    assert torch.equal(merged.weight, again.weight) and (merged.bias is None) == (not case.bias)
    assert merged.weight.grad_fn is None and list(layer.state_dict())[:2] == ["A", "B"]


def test_merge_draws_no_random_number():
    """Merging leaves the random state alone, so that a run with a merge in it can be repeated."""
    layer, state = LoRALinear(nn.Linear(5, 3), 2, 4), torch.get_rng_state()
    layer.merge()
    assert torch.equal(torch.get_rng_state(), state)


def test_merge_that_overflows_is_refused():
    """A sum beyond 65504 has no float16: the merge says so, and nothing has changed."""
    layer = LoRALinear(nn.Linear(4, 3, dtype=torch.float16), 2, 2)
    nn.init.constant_(layer.A, 200), nn.init.constant_(layer.B, 200)  # 2 · 200 · 200 = 80,000
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"not finite in torch\.float16.*merge in float32"):
        layer.merge()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.isfinite(layer.float().merge().weight).all()  # what the message advises


# Training


def train(layer: LoRALinear, x, groups, steps, decay=0.0) -> list[torch.Tensor]:
    """The update after each of `steps` steps of Adam towards a fixed target; `groups` are the rates of A and B."""
    rates = [{"params": [layer.A], "lr": groups[0]}, {"params": [layer.B], "lr": groups[1]}]
    optimizer = torch.optim.AdamW(rates, eps=1e-30, weight_decay=decay)  # at eps 0, A's first step would be 0/0
    updates = []
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()
        updates.append(layer.delta_weight().detach())
    return updates


def trained_twice(case: Case, p: float, q: float, steps: int = 30, decay: float = 0.0):
    """The updates of plain training, and of training at alpha / (pq), p · A, p · lr_A and q · lr_B."""
    rate, x = 0.01, torch.randn(7, case.d_in, generator=torch.Generator().manual_seed(case.seed), dtype=torch.float64)
    plain = case.adapted(LoRALinear)
    changed = LoRALinear(case.base(), case.rank, case.alpha / (p * q))
    with torch.no_grad():
        changed.A.copy_(p * plain.A)
    return train(plain, x, (rate, rate), steps, decay), train(changed, x, (p * rate, q * rate), steps, decay)


@settings(max_examples=FEWER)
@given(case=cases(square=False, bias=True), i=st.integers(-4, 4), j=st.integers(-4, 4))
def test_adam_does_not_see_parametrization(case, i, j):
    """alpha -> alpha/(pq), A -> p·A, lr_A -> p·lr_A, lr_B -> q·lr_B leaves each of 30 Adam steps as it was.

    Adam's step does not depend on the size of the gradient, so p and q cancel (design of the variants: LoRA+ and
    rsLoRA are such changes). For powers of two the floating-point numbers only shift their exponent: to the bit.
    """
    for ours, theirs in zip(*trained_twice(case, 2.0**i, 2.0**j), strict=True):
        assert torch.equal(ours, theirs)


@settings(max_examples=FEWER)
@given(case=cases(square=False, bias=True), p=st.floats(0.1, 10), q=st.floats(0.1, 10))
def test_adam_sees_parametrization_by_rounding_alone(case, p, q):
    """For p and q that are no powers of two, the first five steps differ by rounding only."""
    for ours, theirs in zip(*trained_twice(case, p, q, steps=5), strict=True):
        assert_close(ours, theirs, tolerance=1e-9)  # Adam divides by |gradient|, which magnifies rounding near zero


@settings(max_examples=FEWER)
@given(case=cases(square=False, bias=True))
def test_weight_decay_sees_parametrization(case):
    """Weight decay breaks it: it shrinks A by lr_A · decay a step, and lr_A is another."""
    plain, changed = trained_twice(case, p=4.0, q=0.25, decay=0.5)
    assert (plain[-1] - changed[-1]).abs().max() > 1e-3 * plain[-1].abs().max()


@settings(max_examples=FEWER)
@given(case=cases(square=False, bias=True), ratio=st.sampled_from([2.0, 4.0, 16.0]))
def test_loraplus_is_a_larger_alpha(case, ratio):
    """B at `ratio` times A's rate (LoRA+) is plain LoRA at `ratio` times alpha, step for step, under Adam."""
    x = torch.randn(7, case.d_in, generator=torch.Generator().manual_seed(case.seed), dtype=torch.float64)
    plus = train(case.adapted(LoRALinear), x, (0.01, 0.01 * ratio), steps=30)
    larger = LoRALinear(case.base(), case.rank, case.alpha * ratio)
    with torch.no_grad():
        larger.A.copy_(case.adapted(LoRALinear).A)
    for ours, theirs in zip(plus, train(larger, x, (0.01, 0.01), steps=30), strict=True):
        assert torch.equal(ours, theirs)


@given(case=cases(square=False, bias=True, batch=st.tuples(st.integers(1, 4))))
def test_training_moves_only_the_update(case):
    """The base gets no gradient and keeps every bit through optimizer steps over all of the layer's parameters."""
    layer = case.trained(LoRALinear)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        layer(case.input()).square().sum().backward()
        optimizer.step()
    assert layer.base.weight.grad is None and layer.base.bias.grad is None
    assert all(torch.equal(p, q) for p, q in zip(layer.base.parameters(), case.base().parameters(), strict=True))


# Where it must run


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_step_on_meta_device(dtype):
    """A training step and a merge on the meta device: a stray CPU tensor would raise."""
    layer = LoRALinear(nn.Linear(5, 3, device="meta", dtype=dtype), 2, 4, dropout=0.5)
    optimizer = torch.optim.AdamW([layer.A, layer.B])
    h = layer(torch.empty(7, 5, device="meta", dtype=dtype))
    h.sum().backward()
    optimizer.step()
    merged = layer.merge()
    assert h.shape == (7, 3) and h.dtype == dtype and h.is_meta and merged.weight.is_meta and merged.bias.is_meta
    assert layer.A.grad.is_meta and layer.B.grad.is_meta and layer.delta_weight().is_meta


@given(case=cases(square=False), dropout=st.sampled_from([0.0, 0.5]))
def test_checkpointing_changes_no_gradient(case, dropout):
    """Under gradient checkpointing A and B get the gradients they get without it, with nothing trainable in front."""
    layer, x = case.trained(LoRALinear, dropout=dropout), case.input()  # x needs no gradient

    def gradients(forward):
        torch.manual_seed(case.seed)
        return torch.autograd.grad(forward().square().sum(), (layer.A, layer.B))

    plain = gradients(lambda: layer(x))
    saved = gradients(lambda: checkpoint(layer, x, use_reentrant=False))
    assert torch.equal(plain[0], saved[0]) and torch.equal(plain[1], saved[1])
    assert dropout or (plain[0].any() and plain[1].any())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("x_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_accepts_what_base_accepts(dtype, x_dtype, autocast):
    """Whatever the types of base, input and autocast, the layer accepts what its base does and returns its type."""
    base, x = nn.Linear(5, 3, dtype=dtype), torch.randn(2, 5).to(x_dtype)
    layer = LoRALinear(copy.deepcopy(base), 2, 4)
    nn.init.normal_(layer.B)
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        try:
            wanted = base(x)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                layer(x)
            return
        h = layer(x)
    assert h.dtype == wanted.dtype and h.shape == wanted.shape
    h.float().sum().backward()
    wide = torch.promote_types(dtype, torch.float32)
    assert layer.A.grad.dtype == layer.B.grad.dtype == wide and layer.A.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_factors_over_half_base(dtype):
    """A and B may be kept in float32 over a half-precision base; the output and the merge are of the base's type."""
    layer = LoRALinear(nn.Linear(5, 3, dtype=dtype), 2, 4)
    layer.A.data, layer.B.data = torch.randn(2, 5), torch.randn(3, 2)
    h = layer(torch.randn(4, 5, dtype=dtype))
    assert h.dtype == layer.merge().weight.dtype == dtype
    wanted = (layer.base.weight.float() + 2 * layer.B @ layer.A).to(dtype)
    assert torch.equal(layer.merge().weight, wanted)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_graph_break(backend):
    """torch.compile takes the layer as one graph, with the same output and gradients."""
    torch._dynamo.reset()
    layer = LoRALinear(nn.Linear(5, 3, dtype=torch.float64), 2, 4)
    nn.init.normal_(layer.B)
    x = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    outputs = [f(x) for f in (layer, torch.compile(layer, fullgraph=True, backend=backend))]
    gradients = [torch.autograd.grad(h.square().sum(), (x, layer.A, layer.B)) for h in outputs]
    assert_close(outputs[1].detach(), outputs[0].detach())
    for plain, compiled in zip(*gradients, strict=True):
        assert_close(compiled, plain)


@given(case=cases(dtypes=FLOATS))
def test_state_dict_names(case):
    """A state dict holds A, B and the base, under these names, and loads strictly into a fresh layer, to the bit."""
    layer = case.trained(LoRALinear)
    state = layer.state_dict()
    assert list(state) == ["A", "B", "base.weight"] + ["base.bias"] * case.bias
    other = LoRALinear(nn.Linear(case.d_in, case.d_out, bias=case.bias, dtype=case.dtype), case.rank, case.alpha)
    other = other.to(case.dtype)
    assert other.load_state_dict(state, strict=True) and torch.equal(other(case.input()), layer(case.input()))


# What is refused


@pytest.mark.parametrize("rank", [0, -1, 1.5, 8.0, True, "8", None, math.nan])
def test_rank_must_be_whole(rank):
    """A rank that is no integer of at least 1 is refused, and named."""
    for call in (lambda: LoRALinear(nn.Linear(5, 3), rank, 4), lambda: lora_scaling(4, rank)):
        with pytest.raises(ValueError, match=f"rank is {rank!r}; it must be an integer of at least 1"):
            call()


@pytest.mark.parametrize("alpha", [0, -1, math.inf, math.nan, True, "x", None, 1j])
def test_alpha_must_be_positive(alpha):
    """An alpha that is no positive, finite number is refused, and named."""
    for call in (lambda: LoRALinear(nn.Linear(5, 3), 2, alpha), lambda: lora_scaling(alpha, 2)):
        with pytest.raises(ValueError, match="alpha is .*; it must be a positive, finite number"):
            call()


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1, math.nan, True, False, "0.1", None])
def test_dropout_must_be_share(dropout):
    """A dropout outside [0, 1) is refused, and named."""
    with pytest.raises(ValueError, match=f"dropout is {dropout!r}; it must be a number from 0"):
        LoRALinear(nn.Linear(5, 3), 2, 4, dropout=dropout)


@given(
    rank=st.integers(1), alpha=st.floats(0, exclude_min=True, allow_infinity=False), p=st.floats(0, 1, exclude_max=True)
)
@example(rank=1, alpha=1, p=0)
def test_good_hyperparameters_are_accepted(rank, alpha, p):
    """Every integer rank from 1, positive finite alpha and dropout in [0, 1) is accepted: nothing is raised."""
    assert check_hyperparameters(rank, alpha, p) is None


class Conv1D(nn.Module):
    """Named as the transposed layer of `transformers`, whose name is what it is told by."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 3))


class Packed(nn.Linear):
    """A linear layer whose weight is stored in another shape, as 4-bit ones are."""

    def __init__(self):
        super().__init__(5, 3)
        self.weight = nn.Parameter(torch.zeros(15, 1))


class Integers(nn.Linear):
    """A linear layer whose weight is of integers."""

    def __init__(self):
        super().__init__(5, 3)
        self.weight = nn.Parameter(torch.zeros(3, 5, dtype=torch.int8), requires_grad=False)


REFUSED = {
    "embedding": (lambda: nn.Embedding(5, 3), "Embedding is no linear layer"),
    "norm": (lambda: nn.LayerNorm(5), "LayerNorm is no linear layer"),
    "container": (lambda: nn.Sequential(nn.Linear(5, 3)), "Sequential is no linear layer"),
    "convolution": (lambda: nn.Conv2d(5, 3, 1), "Conv2d is no linear layer"),
    "transposed": (Conv1D, r"Conv1D stores its weight transposed.*nn\.Linear with weight = conv\.weight\.T"),
    "parametrized": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)),
        r"computed from others.*remove_parametrizations\(layer, 'weight'\)",
    ),
    "adapted": (lambda: LoRALinear(nn.Linear(5, 3), 2, 4), "already has an adapter.*merge it"),
    "lazy": (lambda: nn.LazyLinear(3), "lazy"),
    "packed": (Packed, r"weight of shape \(15, 1\), not \(out, in\) = \(3, 5\)"),
    "integer": (Integers, "int8"),
    "complex": (lambda: nn.Linear(5, 3, dtype=torch.complex64), "complex64"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_base_that_is_no_linear_layer_is_refused(kind):
    """What cannot stand under an adapter is refused by its type, with what to do where something can be done."""
    make, words = REFUSED[kind]
    base = make()
    flags = [p.requires_grad for p in base.parameters()]
    with pytest.raises(ValueError, match=words):
        LoRALinear(base, 2, 4)
    assert [p.requires_grad for p in base.parameters()] == flags


def test_advice_for_parametrized_base_works():
    """After what the message advises, the layer can be adapted."""
    base = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))
    torch.nn.utils.parametrize.remove_parametrizations(base, "weight")
    assert LoRALinear(base, 2, 4)(torch.ones(5)).shape == (3,)


def test_advice_for_adapted_base_works():
    """An adapted layer can be adapted again once it is merged."""
    layer = LoRALinear(LoRALinear(nn.Linear(5, 3), 2, 4).merge(), 1, 1)
    assert layer(torch.ones(5)).shape == (3,)


class Quantized(nn.Module):
    """Another kind of linear layer: its weight is computed, and is no parameter."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features, self.bias = 5, 3, None
        self.register_buffer("codes", torch.randint(-8, 8, (3, 5)))

    @property
    def weight(self):
        return self.codes.double() / 8

    def forward(self, x):
        return x @ self.weight.T


def test_any_layer_with_weight_and_features_can_be_base():
    """A base needs a weight, in_features, out_features and a forward: a quantized one is adapted and merged too."""
    layer = LoRALinear(Quantized(), 2, 4)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert_close(layer(x).detach(), x @ (layer.base.weight + layer.delta_weight().detach()).T)
    assert_close(layer.merge()(x), layer(x).detach())
