"""Every combination: {full-precision, 4-bit base} × {LoRA, DoRA} × {alpha / r, rsLoRA} × {one rate, LoRA+}.

None of them has code of its own, so here each is held against one slow formula.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_from_scratch import (
    AdapterConfig,
    DoRALinear,
    LoRALinear,
    NF4Linear,
    add_adapters,
    count_parameters,
    loraplus_param_groups,
    merge_adapters,
    quantize_model,
    trainable_parameters,
)
from lora_from_scratch.analysis.counting import dora_parameters, lora_parameters
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

SIZES = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=8,
)


def net() -> nn.Module:
    """Three linear layers of different shapes, with biases and without. (..., 40) -> (..., 7)"""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 24, bias=False), nn.GELU(), nn.Linear(24, 7))


def llama() -> nn.Module:
    torch.manual_seed(0)
    return TinyLlama(SIZES)


BASES = {"float64": torch.float64, "float32": torch.float32, "NF4": torch.float32, "NF4 float64": torch.float64}
# float64 rounds by 1e-16 and float32 by 6e-8; three layers, sums of 40 terms and the growth in a tanh cost two digits.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}
COMBINATIONS = list(itertools.product(BASES, (False, True), (False, True)))
every_combination = pytest.mark.parametrize(
    "base, dora, rslora", COMBINATIONS, ids=[f"{b}-{'dora' * d or 'lora'}{'-rs' * r}" for b, d, r in COMBINATIONS]
)
with_and_without_plus = pytest.mark.parametrize("ratio", [1, 16], ids=["one rate", "lora+"])


def prepared(base: str, dora: bool, rslora: bool, model: nn.Module | None = None) -> nn.Module:
    """The model with its base in place and fresh adapters."""
    model = (model or net()).to(BASES[base])
    if base.startswith("NF4"):
        quantize_model(model)
    torch.manual_seed(1)
    return add_adapters(model, AdapterConfig(rank=4, alpha=6, dora=dora, rslora=rslora))


def moved(model: nn.Module) -> nn.Module:
    """A, B and magnitudes far from their start."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".A", ".B")):
                parameter.normal_(std=0.3)
            elif name.endswith("magnitude"):
                parameter.mul_(0.5 + torch.rand_like(parameter))
    return model


def inputs(model: nn.Module) -> Tensor:
    torch.manual_seed(3)
    if isinstance(model, TinyLlama):
        return torch.randint(32, (2, 6))
    return torch.randn(2, 3, 40, dtype=next(p for p in model.parameters() if p.requires_grad).dtype)


def slow(layer: nn.Module, x: Tensor, config_scaling: float) -> Tensor:
    """The formula, with the update built whole, from the layer's parts."""
    weight = layer.base.weight + config_scaling * (layer.B @ layer.A)
    if hasattr(layer, "magnitude"):
        weight = (layer.magnitude / weight.detach().norm(dim=1))[:, None] * weight
    return F.linear(x, weight, layer.base.bias)


def slow_net(model: nn.Module, x: Tensor, scaling: float) -> Tensor:
    """`net`, with every layer by the formula."""
    for module in model:
        x = slow(module, x, scaling) if is_adapter(module) else module(x)
    return x


def near(got: Tensor, wanted: Tensor, what: str) -> None:
    tolerance = TOLERANCES[wanted.dtype] * max(1.0, wanted.abs().max().item())
    assert got.shape == wanted.shape and (got - wanted).abs().max() <= tolerance, what


@every_combination
def test_output_and_gradients_are_the_formula_s(base, dora, rslora):
    """Output and the gradients of A, B and magnitude are those of the formula; nothing else has a gradient."""
    model = moved(prepared(base, dora, rslora))
    scaling = 6 / math.sqrt(4) if rslora else 6 / 4
    assert all(isinstance(m, DoRALinear if dora else LoRALinear) for m in model if is_adapter(m))
    assert all(isinstance(m.base, NF4Linear) == base.startswith("NF4") for m in model if is_adapter(m))
    x = inputs(model)
    got, wanted = model(x), slow_net(model, x, scaling)
    near(got, wanted, "output")
    parameters = trainable_parameters(model)
    assert len(parameters) == 3 * (3 if dora else 2)
    upstream = torch.randn_like(wanted)
    for p, a, b in zip(parameters, *(torch.autograd.grad(h, parameters, upstream) for h in (got, wanted)), strict=True):
        near(a, b, f"gradient of {tuple(p.shape)}")
    got = model(x).sum()
    got.backward()
    assert {id(p) for p in model.parameters() if p.grad is not None} == {id(p) for p in parameters}


@every_combination
@with_and_without_plus
@pytest.mark.parametrize("build", [net, llama])
def test_training_lowers_the_loss_and_leaves_the_base(base, dora, rslora, ratio, build):
    """A few steps of AdamW lower the loss, move every adapter, and change no bit of the base."""
    model = prepared(base, dora, rslora, build())
    x, before = inputs(model), {k: v.clone() for k, v in model.state_dict().items()}
    target = torch.randn_like(model(x).detach())
    optimizer = torch.optim.AdamW(loraplus_param_groups(model, 2e-3, ratio))
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and math.isfinite(losses[-1])
    for name, value in model.state_dict().items():
        adapter = name.rpartition(".")[2] in ("A", "B", "magnitude")
        assert torch.equal(value, before[name]) != adapter, name


@every_combination
@pytest.mark.parametrize("build", [net, llama])
def test_the_merge_computes_the_same(base, dora, rslora, build):
    """merge_adapters gives plain linear layers with the outputs that the adapted model had."""
    model = moved(prepared(base, dora, rslora, build()))
    x = inputs(model)
    with torch.no_grad():
        wanted = model(x)
        merged = merge_adapters(model)
        assert not any(is_adapter(m) or isinstance(m, NF4Linear) for m in merged.modules())
        near(merged(x), wanted, "output after the merge")


@every_combination
@pytest.mark.parametrize("build", [net, llama])
def test_a_saved_model_loads_bit_equal(base, dora, rslora, build, tmp_path):
    """The state dict goes through a file into a fresh model of the same kind, strictly; outputs are bit-equal."""
    model = moved(prepared(base, dora, rslora, build()))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh = prepared(base, dora, rslora, build())
    x = inputs(model)
    assert not torch.equal(fresh(x), model(x))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh(x), model(x))


def test_a_dora_state_does_not_load_into_lora():
    """The magnitudes have no place there, and the error names them."""
    state = prepared("float64", True, False).state_dict()
    with pytest.raises(RuntimeError, match="magnitude"):
        prepared("float64", False, False).load_state_dict(state)


@every_combination
@with_and_without_plus
def test_a_step_on_the_meta_device_meets_no_other_device(base, dora, rslora, ratio):
    """A training step on the meta device runs: no tensor of another device joins in."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 7))
    model = prepared(base, dora, rslora, model)
    optimizer = torch.optim.AdamW(loraplus_param_groups(model, 1e-3, ratio))
    model(torch.randn(5, 40, dtype=BASES[base], device="meta")).sum().backward()
    optimizer.step()
    stepped = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p.is_meta and p.grad.is_meta for p in stepped) and len(optimizer.state) == len(stepped) > 0


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("base", ["float32", "NF4"])
def test_parameters_are_counted_as_in_the_closed_form(base, dora):
    """The trainable count is the closed form's, and a 4-bit weight counts as out · in."""
    model = prepared(base, dora, False)
    shapes, biases = [(24, 40), (24, 24), (7, 24)], 24 + 7
    added = (dora_parameters if dora else lora_parameters)(shapes, 4)
    assert count_parameters(model) == (added, added + biases + sum(a * b for a, b in shapes))


def test_dora_over_nf4_keeps_nothing_of_the_weight_s_size():
    """The tensors kept for backward by DoRA over a 4-bit base: its parts, the input, and what has the output's size."""
    layer = DoRALinear(NF4Linear.from_linear(nn.Linear(300, 200)), 4, 8)
    own = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        h = layer(torch.randn(5, 300).requires_grad_())
    assert max(t.numel() for t in kept) <= 5 * 300 and h.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("base", ["float32", "NF4"])
def test_a_model_moved_to_16_bits_still_runs(base, dtype):
    """DoRA with rsLoRA, over a full or a 4-bit base, runs after .to(dtype), near to what it gave before."""
    model = moved(prepared(base, True, True))
    x = inputs(model)
    wanted = model(x)
    got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype and got.isfinite().all()
    # A rounding of 2^-9 or 2^-11 in every weight and number, averaged over rows of 24 and 40: well below a tenth.
    assert (got.to(wanted.dtype) - wanted).norm() < 0.1 * wanted.norm()
