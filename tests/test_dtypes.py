"""Dtypes, odd bases and transforms: what a layer keeps, what it refuses, and that nothing rounds a weight unasked."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import cases
from torch import nn

from lora_from_scratch import DoRALinear, LoRALinear, NF4Linear
from lora_from_scratch.lora import check_replaceable

LAYERS = [LoRALinear, DoRALinear]
HALVES = [torch.bfloat16, torch.float16]
each_layer = pytest.mark.parametrize("layer_class", LAYERS)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


def trained(layer_class, base, rank=2, alpha=3.0):
    """A layer with B ≠ 0 and, for DoRA, a magnitude that has moved."""
    torch.manual_seed(1)
    layer = layer_class(base, rank, alpha)
    nn.init.normal_(layer.B)
    if hasattr(layer, "magnitude"):
        layer.magnitude.data *= 1.5
    return layer


# Autocast


def weights_of(layer) -> list[torch.Tensor]:
    more = [layer.row_norms(), layer.rescaling()] if hasattr(layer, "magnitude") else []
    return [layer.delta_weight(), layer.weight, layer.merge().weight, *more]


@pytest.mark.parametrize("autocast", HALVES, ids=str)
@given(case=cases(dtypes=(torch.float32, torch.float64, torch.bfloat16)), which=st.sampled_from(LAYERS))
def test_autocast_changes_no_weight(autocast, case, which):
    """Update, sum, merge and DoRA's norms are the same bits inside autocast as outside."""
    layer = case.trained(which)
    outside = weights_of(layer)
    with torch.autocast("cpu", autocast):
        inside = weights_of(layer)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(outside, inside, strict=True))


@each_layer
def test_at_B_zero_the_merge_under_autocast_is_the_base_s_weight(layer_class):
    """LoRA's exactly; DoRA's as outside, where magnitude and norm cancel."""
    layer = layer_class(nn.Linear(64, 48), 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        merged = layer.merge().weight
    assert torch.equal(merged, layer.base.weight)


# The widest of base, A and B


@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@each_layer
def test_a_merge_is_taken_in_the_widest_of_base_and_factors(layer_class, factors):
    """A float64 base keeps its own digits under narrower factors; a float32 one is rounded once under wider ones."""
    for base_dtype in (torch.float64, torch.float32, torch.bfloat16):
        layer = trained(layer_class, nn.Linear(33, 7, dtype=base_dtype))
        layer.A.data, layer.B.data = layer.A.data.to(factors), layer.B.data.to(factors)
        wide = layer.base.weight.double() + layer.scaling * layer.B.double() @ layer.A.double()
        if layer_class is DoRALinear:
            wide = layer.magnitude.double()[:, None] * wide / wide.norm(dim=1, keepdim=True)
        allowed = {torch.float64: 1e-14 if layer_class is LoRALinear or factors == torch.float64 else 1e-6}
        allowed |= {torch.float32: 4e-7, torch.bfloat16: 2**-8}
        off = (layer.merge().weight.double() - wide).abs() / wide.abs().max()
        assert off.max() < allowed[base_dtype], (base_dtype, off.max())


def test_a_float64_base_keeps_its_digits_under_float32_factors():
    """W0 has digits beyond float32's; where the update is zero they come back to the last."""
    layer = LoRALinear(nn.Linear(5, 3, dtype=torch.float64), 2, 4)
    layer.A.data, layer.B.data = layer.A.data.float(), layer.B.data.float()
    assert torch.equal(layer.merge().weight, layer.base.weight)


# Adapters over 16 bits


@each_half
@each_layer
def test_adapters_are_float32_over_16_bits(layer_class, dtype):
    """A, B and the magnitude; over float64 they are float64. The output has the base's type."""
    layer = layer_class(nn.Linear(5, 3, dtype=dtype), 2, 4)
    trainable = [p for p in layer.parameters() if p.requires_grad]
    assert {p.dtype for p in trainable} == {torch.float32} and layer(torch.ones(2, 5, dtype=dtype)).dtype == dtype
    assert layer.merge().weight.dtype == dtype
    wide = layer_class(nn.Linear(5, 3, dtype=torch.float64), 2, 4)
    assert {p.dtype for p in wide.parameters()} == {torch.float64}


@each_half
@each_layer
def test_adapters_over_4_bits_are_float32_too(layer_class, dtype):
    """A 4-bit base that computes in 16 bits, whose weight is not decoded to learn that."""
    base = NF4Linear.from_linear(nn.Linear(64, 32, dtype=dtype))
    layer = layer_class(base, 2, 4)
    assert layer.A.dtype == layer.B.dtype == torch.float32 and layer(torch.ones(2, 64, dtype=dtype)).dtype == dtype


def small_model(layer_class, dtype):
    torch.manual_seed(0)
    layers = [layer_class(nn.Linear(a, b, dtype=dtype), 4, 8) for a, b in ((16, 24), (24, 8))]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


@each_half
@each_layer
def test_the_plain_loop_trains_over_16_bits(layer_class, dtype):
    """AdamW at 1e-3 on what is trainable: losses stay finite and fall."""
    model = small_model(layer_class, dtype)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    x, y = torch.randn(64, 16).to(dtype), torch.randn(64, 8).to(dtype)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x).float(), y.float())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(torch.isfinite, map(torch.tensor, losses))) and losses[-1] < 0.9 * losses[0]


def test_a_grad_scaler_takes_the_adapters_of_a_half_base():
    """It refuses gradients in float16; over a float16 base ours are float32."""
    model = small_model(LoRALinear, torch.float16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = model[0].B.detach().clone()
    loss = model(torch.randn(8, 16).half()).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model[0].B, before)


@each_half
def test_every_entry_of_A_moves_at_a_small_rate(dtype):
    """Steps of 1e-5 are lost on entries of 0.2 with eight bits, and kept in float32."""
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(32, 16, dtype=dtype), 4, 8)
    nn.init.normal_(layer.B)
    start, x = layer.A.detach().clone(), torch.randn(64, 32).to(dtype)
    optimizer = torch.optim.AdamW([layer.A, layer.B], lr=1e-5)
    for _ in range(30):
        optimizer.zero_grad()
        layer(x).float().square().mean().backward()
        optimizer.step()
    assert (layer.A != start).all()


@each_half
@each_layer
def test_a_model_made_half_after_adapting_still_runs(layer_class, dtype):
    """What the user asks for is done: forward, gradients and merge in that type."""
    layer = trained(layer_class, nn.Linear(5, 3)).to(dtype)
    layer(torch.ones(2, 5, dtype=dtype)).float().sum().backward()
    assert layer.A.grad.dtype == dtype and layer.merge().weight.dtype == dtype


# What may be replaced by its merge


class ScaledInput(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


class Ternary(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.sign(), self.bias)


class NamedOnly(nn.Linear):
    """Another name and nothing else, as torch's own in nn.MultiheadAttention."""


@pytest.mark.parametrize("kind", [ScaledInput, Ternary])
@each_layer
def test_a_linear_with_a_forward_of_its_own_is_not_merged(layer_class, kind):
    """A plain nn.Linear in its place would compute something else; it trains, and its merge is refused by name."""
    layer = trained(layer_class, kind(5, 3))
    assert layer(torch.ones(2, 5)).shape == (2, 3)
    with pytest.raises(ValueError, match=f"{kind.__name__} has a forward of its own"):
        layer.merge()
    with pytest.raises(ValueError, match=kind.__name__):
        check_replaceable(layer.base)


@each_layer
def test_a_forward_put_on_the_instance_is_not_lost(layer_class):
    """As libraries do that move layers between devices."""
    base = nn.Linear(5, 3)
    base.forward = lambda x: 2 * F.linear(x, base.weight, base.bias)
    with pytest.raises(ValueError, match="forward of its own"):
        trained(layer_class, base).merge()


@each_layer
def test_a_linear_by_another_name_is_merged(layer_class):
    """A subclass that changes nothing in forward, and a layer in 4 bits."""
    for base in (NamedOnly(64, 3), NF4Linear.from_linear(nn.Linear(64, 3))):
        layer, x = trained(layer_class, base), torch.randn(4, 64)
        torch.testing.assert_close(layer.merge()(x), layer(x), atol=1e-4, rtol=1e-4)


def hook_names() -> list[str]:
    return [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ]


@pytest.mark.parametrize("register", hook_names())
@each_layer
def test_hooks_survive_adapting_and_are_not_lost_in_a_merge(layer_class, register):
    """The base keeps them; a merge names them; removed, the merge goes through."""
    for on_base in (True, False):
        base, called = nn.Linear(5, 3), []
        if on_base:
            handle = getattr(base, register)(lambda *args, called=called: called.append(1))
        layer = trained(layer_class, base)
        if not on_base:
            handle = getattr(layer, register)(lambda *args, called=called: called.append(1))
        x = torch.ones(2, 5, requires_grad=True)
        layer(x).sum().backward()
        assert called
        with pytest.raises(ValueError, match=r"has \w+_hooks, which would be lost"):
            layer.merge()
        handle.remove()
        assert type(layer.merge()) is nn.Linear


# Which weights an adapter can stand on


class Odd(nn.Module):
    """A linear layer that is no nn.Linear, around any weight."""

    def __init__(self, weight):
        super().__init__()
        self.in_features, self.out_features = 5, 3
        if isinstance(weight, nn.Parameter):
            self.weight = weight
        else:
            self.register_buffer("weight", weight)

    def forward(self, x):
        return x @ self.weight.T


class Labelled(torch.Tensor):
    """A tensor subclass, as quantized weights of other libraries are."""


def linear_with(weight) -> nn.Linear:
    layer = nn.Linear(5, 3)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def dynamic():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(5, 3)), {nn.Linear}, torch.qint8)[0]


BAD = {
    "float8": (lambda: linear_with(torch.zeros(3, 5).to(torch.float8_e4m3fn)), "float8_e4m3fn"),
    "float8 buffer": (lambda: Odd(torch.zeros(3, 5).to(torch.float8_e5m2)), "float8_e5m2"),
    "int8 buffer": (lambda: Odd(torch.zeros(3, 5, dtype=torch.int8)), "int8"),
    "complex": (lambda: Odd(torch.zeros(3, 5, dtype=torch.complex64)), "complex64"),
    "3-D": (lambda: Odd(torch.zeros(2, 3, 5)), r"shape \(2, 3, 5\), not \(out, in\) = \(3, 5\)"),
    "transposed": (lambda: Odd(torch.zeros(5, 3)), r"shape \(5, 3\)"),
    "subclass": (lambda: Odd(torch.zeros(3, 5).as_subclass(Labelled)), "Labelled"),
    "subclass parameter": (lambda: linear_with(torch.zeros(3, 5).as_subclass(Labelled)), "Labelled"),
}


@pytest.mark.parametrize("kind", BAD)
@each_layer
def test_a_weight_that_no_adapter_can_stand_on_is_refused_at_once(layer_class, kind):
    """By name and type, whether the base is an nn.Linear or not; nothing trains first and fails at the merge."""
    make, words = BAD[kind]
    base = make()
    flags = [p.requires_grad for p in base.parameters()]
    with pytest.raises(ValueError, match=words):
        layer_class(base, 2, 4)
    assert [p.requires_grad for p in base.parameters()] == flags


def test_a_dynamically_quantized_layer_is_refused_by_name():
    """Its weight is a method."""
    with pytest.raises(ValueError, match=r"weight of this Linear is method.*before it is packed"):
        LoRALinear(dynamic(), 2, 4)


@each_layer
def test_a_base_without_a_bias_attribute_works(layer_class):
    """`weight`, `in_features` and `out_features` are all that the docstring asks for."""
    base = Odd(torch.randn(3, 5))
    assert not hasattr(base, "bias")
    layer, x = trained(layer_class, base), torch.randn(2, 4, 5)
    assert layer.bias is None
    torch.testing.assert_close(layer.merge()(x), layer(x).detach())


ADVICE = {
    "weight_norm": (
        nn.utils.parametrizations.weight_norm,
        lambda m: parametrize().remove_parametrizations(m, "weight"),
    ),
    "spectral_norm": (
        nn.utils.parametrizations.spectral_norm,
        lambda m: parametrize().remove_parametrizations(m, "weight"),
    ),
    "old weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "old spectral_norm": (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
    "pruning": (lambda m: prune().random_unstructured(m, "weight", 0.5), lambda m: prune().remove(m, "weight")),
}
CALLS = {
    "weight_norm": "parametrize.remove_parametrizations",
    "spectral_norm": "parametrize.remove_parametrizations",
    "old weight_norm": "torch.nn.utils.remove_weight_norm",
    "old spectral_norm": "torch.nn.utils.remove_spectral_norm",
    "pruning": "torch.nn.utils.prune.remove",
}


def parametrize():
    from torch.nn.utils import parametrize

    return parametrize


def prune():
    from torch.nn.utils import prune

    return prune


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ADVICE)
def test_the_advice_for_a_computed_weight_fits_its_kind_and_works(kind):
    """The message names the very call; after it the layer is adapted, trained and merged."""
    compute, advice = ADVICE[kind]
    base = nn.Linear(5, 3)
    compute(base)
    with pytest.raises(ValueError, match=CALLS[kind].replace(".", r"\.")):
        LoRALinear(base, 2, 4)
    advice(base)
    layer = trained(LoRALinear, base)
    torch.testing.assert_close(layer.merge()(torch.ones(5)), layer(torch.ones(5)).detach())


# Failing half way


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@each_layer
def test_a_constructor_that_fails_leaves_the_base_as_it_was(layer_class, error, monkeypatch):
    """A scaling that raises, or DoRA's norms that run out of memory: nothing is frozen, and no mode is changed."""

    def fails(*args):
        raise error

    base = nn.Linear(5, 3).eval()
    with pytest.raises(error):
        layer_class(base, 2, 4, scaling=fails)
    if layer_class is DoRALinear:
        monkeypatch.setattr(DoRALinear, "row_norms", fails)
        with pytest.raises(error):
            DoRALinear(base, 2, 4)
    assert base.weight.requires_grad and base.bias.requires_grad and not base.training


# Transforms


def test_DoRA_s_norm_is_constant_for_forward_mode_too():
    """The tangent of the weight is that of magnitude · (W0 + s B A) / n with n held fixed."""
    layer = trained(DoRALinear, nn.Linear(6, 4, dtype=torch.float64))
    names, values = zip(*((n, p) for n, p in layer.named_parameters() if p.requires_grad), strict=True)
    tangents = tuple(torch.randn_like(v) for v in values)
    x = torch.randn(3, 6, dtype=torch.float64)

    def run(*given):
        return torch.func.functional_call(layer, dict(zip(names, given, strict=True)), (x,))

    def by_hand(A, B, magnitude):
        v = layer.base.weight + layer.scaling * B @ A
        n = (layer.base.weight + layer.scaling * values[1] @ values[0]).norm(dim=1).detach()
        return x @ ((magnitude / n)[:, None] * v).T + layer.bias

    assert names == ("A", "B", "magnitude")
    _, found = torch.func.jvp(run, tuple(v.detach() for v in values), tangents)
    _, wanted = torch.func.jvp(by_hand, tuple(v.detach() for v in values), tangents)
    torch.testing.assert_close(found, wanted)


@each_layer
def test_gradients_of_each_sample_by_vmap_are_those_of_a_loop(layer_class):
    """torch.func.vmap over torch.func.grad of a functional call."""
    layer = trained(layer_class, nn.Linear(6, 4, dtype=torch.float64))
    parameters = {n: p.detach() for n, p in layer.named_parameters() if p.requires_grad}
    x = torch.randn(5, 2, 6, dtype=torch.float64)

    def loss(parameters, one):
        return torch.func.functional_call(layer, parameters, (one,)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, one in enumerate(x):
        layer.zero_grad()
        layer(one).square().sum().backward()
        for name in parameters:
            torch.testing.assert_close(found[name][i], layer.get_parameter(name).grad)
