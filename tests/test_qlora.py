"""NF4Linear and quantize_model: what a 4-bit base computes, that it keeps no decoded weight, and how it moves.

The oracle is an nn.Linear that holds what nf4.py, which is NumPy alone, decodes. ROWS, the height of a slice, is
patched small, so that a small layer goes through many slices, as a large one does.
"""

import contextlib
import copy
import io
import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import FLOATS, assert_close, batches, seeds, trained_like
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from lora_from_scratch import (
    AdapterConfig,
    LoRALinear,
    NF4Linear,
    add_adapters,
    count_parameters,
    merge_adapters,
    nf4,
    print_trainable_parameters,
    qlora,
    quantize_model,
    trainable_parameters,
)
from lora_from_scratch.frozen_product import row_slices
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.targets import find_targets

CODED = ("packed", "absmax", "absmax2", "offset")
with_and_without_double = pytest.mark.parametrize("double", [True, False], ids=["double", "single"])


@dataclass(frozen=True)
class Drawn:
    """A linear layer to be quantized, how, in slices of how many rows, and an input. Numbers follow from `seed`."""

    d_in: int
    d_out: int
    bias: bool
    block_size: int
    double: bool
    rows: int
    batch: tuple[int, ...]
    dtype: torch.dtype
    seed: int

    def linear(self) -> nn.Linear:
        """The layer in full precision. Its rows differ in size by a factor of up to 100, and so do the absmax."""
        torch.manual_seed(self.seed)
        linear = nn.Linear(self.d_in, self.d_out, bias=self.bias, dtype=self.dtype)
        with torch.no_grad():
            linear.weight.mul_(10 ** (2 * torch.rand(self.d_out, 1, dtype=torch.float64)).to(self.dtype))
        return linear

    def packed(self) -> NF4Linear:
        """The layer in 4 bits."""
        return NF4Linear.from_linear(self.linear(), self.block_size, self.double)

    def decoded(self) -> nn.Linear:
        """The layer in full precision that holds what nf4.py decodes."""
        linear = self.linear()
        linear.weight.data = decoded_by_numpy(linear, self.block_size, self.double)
        return linear.requires_grad_(False)

    def input(self) -> Tensor:
        """x of shape (*batch, d_in)."""
        numbers = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(*self.batch, self.d_in, generator=numbers, dtype=torch.float64).to(self.dtype)

    def slices(self) -> contextlib.AbstractContextManager:
        """In this block the weight is decoded `rows` rows at a time, or as few more as are whole blocks."""
        return rows_at_a_time(self.rows)


def decoded_by_numpy(linear: nn.Linear, block_size: int = 64, double: bool = True) -> Tensor:
    """nf4.dequantize(nf4.quantize(W)), (d_out, d_in), rounded once to the layer's dtype."""
    wide = linear.weight.detach().to(torch.promote_types(linear.weight.dtype, torch.float32))
    values = nf4.dequantize(nf4.quantize(wide.numpy(), block_size, double))
    return torch.from_numpy(values).to(linear.weight.dtype)


@contextlib.contextmanager
def rows_at_a_time(rows: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qlora, "ROWS", rows)
        yield


@st.composite
def drawn(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float64,)) -> Drawn:
    """Layers of up to 40 x 20: rows of no whole number of blocks, odd sizes, short last blocks, a lone number."""
    return Drawn(
        d_in=draw(st.integers(1, 40)),
        d_out=draw(st.integers(1, 20)),
        bias=draw(st.booleans()),
        block_size=draw(st.sampled_from([2, 4, 16, 64])),
        double=draw(st.booleans()),
        rows=draw(st.sampled_from([1, 2, 5, 256])),
        batch=draw(batches),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(seeds),
    )


def layer_of(d_in=24, d_out=10, bias=True, dtype=torch.float64, **options) -> NF4Linear:
    """A small layer in 4 bits with random numbers."""
    torch.manual_seed(0)
    return NF4Linear.from_linear(nn.Linear(d_in, d_out, bias=bias, dtype=dtype), **options)


def twin_of(layer: NF4Linear) -> nn.Linear:
    """The frozen nn.Linear that holds the layer's decoded weight."""
    has_bias = layer.bias is not None
    twin = nn.Linear(layer.in_features, layer.out_features, bias=has_bias, dtype=layer.weight.dtype)
    twin.weight.data = layer.weight
    if has_bias:
        twin.bias.data = layer.bias.detach().clone()
    return twin.requires_grad_(False)


def adapted(base: nn.Module, seed: int = 0) -> LoRALinear:
    """A LoRA layer over `base` whose A and B are not zero."""
    return trained_like(LoRALinear(base, rank=3, alpha=6), seed)


def bits(module: nn.Module) -> dict[str, bytes]:
    """Every parameter and every saved buffer, as bytes."""
    return {
        name: (str(t.dtype), t.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, t in module.state_dict().items()
    }


def tiny(tied: bool = False) -> TinyLlama:
    """A Llama of two blocks in float64; q and o are 8 x 8, k and v 4 x 8, gate and up 12 x 8, down 8 x 12."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 7}
    return TinyLlama(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)).double()


def tokens() -> Tensor:
    return torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


def names_packed(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, NF4Linear)]


# The formula


@given(case=drawn(dtypes=FLOATS))
@example(case=Drawn(40, 15, False, 2, True, 5, (), torch.float32, 0))  # 300 blocks: a second group of 256, and short
@example(case=Drawn(7, 3, False, 4, True, 1, (), torch.float32, 0))  # 21 numbers, and slices of 4 rows, the least
@example(case=Drawn(1, 1, False, 64, True, 1, (), torch.float32, 0))
def test_weight_is_what_numpy_decodes(case):
    """`.weight` is nf4.dequantize(nf4.quantize(W)) to the bit, rounded once to the layer's dtype, in any slices."""
    with case.slices():
        weight = case.packed().weight
    assert weight.dtype == case.dtype and torch.equal(weight, case.decoded().weight)


@given(case=drawn())
def test_slices_cover_each_row_once(case):
    """The slices join without a gap from the first row to the last, and each begins with a block."""
    layout = (case.d_out, case.d_in, case.block_size)
    slices = row_slices(layout, case.rows)
    assert slices[0][0] == 0 and slices[-1][1] == case.d_out
    assert all(a[1] == b[0] for a, b in zip(slices, slices[1:], strict=False))
    assert all(first < last and first * case.d_in % case.block_size == 0 for first, last in slices)


def test_slices_are_small():
    """A slice has no more rows than asked for where that many hold a block, and else as few as are whole blocks."""
    assert row_slices((1000, 64, 64), 256) == [(0, 256), (256, 512), (512, 768), (768, 1000)]
    assert row_slices((300, 3, 4096), 256) == [(0, 300)]  # 4,096 rows are the fewest whole blocks
    assert {last - first for first, last in row_slices((1024, 96, 64), 256)} == {256}  # two rows are three blocks


@given(case=drawn())
def test_forward_is_that_of_decoded_weight(case):
    """The output is F.linear of x with the decoded weight and the bias."""
    layer, wanted, x = case.packed(), case.decoded(), case.input()
    with case.slices():
        h = layer(x)
    assert_close(h, wanted(x), "output", tolerance=1e-11)  # rows are up to 100 times, and have up to 40 terms


@given(case=drawn())
def test_gradient_of_x_is_that_through_decoded_weight(case):
    """x gets the gradient that it gets through the decoded weight."""
    layer, wanted, x = case.packed(), case.decoded(), case.input().requires_grad_()
    upstream = torch.cos(torch.arange(case.d_out, dtype=torch.float64)).expand(*case.batch, case.d_out)
    with case.slices():
        (got,) = torch.autograd.grad(layer(x), x, upstream)
    assert_close(got, torch.autograd.grad(wanted(x), x, upstream)[0], "gradient of x", tolerance=1e-11)


@given(case=drawn())
def test_lora_over_it_is_lora_over_decoded_weight(case):
    """Over NF4Linear, LoRA's output and the gradients of x, A and B are those over the decoded weight, at B ≠ 0."""
    sides = [adapted(case.packed()), adapted(case.decoded())]
    x, results = case.input().requires_grad_(), []
    with case.slices():
        for layer in sides:
            h = layer(x)
            upstream = torch.cos(torch.arange(h.numel(), dtype=torch.float64)).reshape(h.shape)
            results.append((h.detach(), *torch.autograd.grad(h, (x, layer.A, layer.B), upstream)))
    for name, got, wanted in zip(["output", "x", "A", "B"], *results, strict=True):
        assert wanted.any() and got.dtype == torch.float64
        assert_close(got, wanted, name, tolerance=1e-11)


def test_gradient_is_slope_twice():
    """The gradient of x is the forward's slope, and its own gradient is right too: a penalty on it may be trained."""
    layer, x = layer_of(), torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    with rows_at_a_time(2):
        assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)

        def through_penalty(f: nn.Module) -> Tensor:
            (slope,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
            return torch.autograd.grad(slope.square().sum() + x.square().sum(), x)[0]

        assert_close(through_penalty(layer), through_penalty(twin_of(layer)))


@with_and_without_double
def test_new_layer_is_zero(double):
    """The constructor gives zeros, to be filled from a state dict: `.weight` and output are 0, codes too."""
    layer = NF4Linear(7, 5, bias=True, double=double, dtype=torch.float64)
    assert layer.weight.shape == (5, 7) and not layer.weight.any()
    assert not layer(torch.ones(2, 7, dtype=torch.float64)).any() and layer.double is double
    assert set(layer.packed.tolist()) == {0x77}  # twice the code of zero, as a block of zeros is packed


@given(case=drawn(dtypes=(torch.float64, torch.float32)))
def test_layer_knows_what_it_was_given(case):
    """Features, bias, block size and double can be read from the layer, and stand in its print; the linear is kept."""
    linear = case.linear()
    before = bits(linear)
    layer = NF4Linear.from_linear(linear, case.block_size, case.double)
    assert (layer.in_features, layer.out_features) == (case.d_in, case.d_out)
    assert (layer.block_size, layer.double) == (case.block_size, case.double)
    assert torch.equal(layer.bias, linear.bias) if case.bias else layer.bias is None
    assert f"block_size={case.block_size}, double={case.double}" in repr(layer) and f"bias={case.bias}" in repr(layer)
    assert bits(linear) == before and all(p.requires_grad for p in linear.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_linear_is_kept(training):
    """from_linear keeps the mode; what it makes is frozen, and shares no memory with the linear layer."""
    linear = nn.Linear(5, 3).train(training)
    layer = NF4Linear.from_linear(linear)
    assert layer.training is training and not any(p.requires_grad for p in layer.parameters())
    kept = layer.bias.clone()
    nn.init.zeros_(linear.bias)
    assert torch.equal(layer.bias, kept) and kept.any()


# Memory


class Allocations(TorchDispatchMode):
    """The most bytes that were alive at once of all that operations made inside the block."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:
                    reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
                    self.alive[storage._cdata] = (reference, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak_of_step(layer: nn.Module, x: Tensor) -> int:
    """Bytes at the peak of a forward and a backward that hands on a gradient of x."""
    with Allocations() as allocations:
        layer(x).sum().backward()
    return allocations.peak


class Keeping(nn.Module):
    """What QLoRA must not be: it decodes, and lets autograd keep what was decoded."""

    def __init__(self, layer: NF4Linear):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight)


@pytest.mark.parametrize("over", [lambda layer: layer, adapted], ids=["alone", "under LoRA"])
@with_and_without_double
def test_whole_weight_never_exists(double, over):
    """Forward and backward take less than a quarter of the decoded weight beside what there is; keeping it takes all.

    A slice of 64 rows of 512 takes 1/8 as float32, and its codes as int32 take half of that: 0.19 in all.
    """
    layer = layer_of(512, 512, bias=False, dtype=torch.float32, double=double)
    whole, x = 4 * 512 * 512, torch.randn(2, 512, requires_grad=True)
    with rows_at_a_time(64):
        ours, keeping = peak_of_step(over(layer), x), peak_of_step(Keeping(layer), x)
    assert ours < whole / 4 and keeping > whole, (ours / whole, keeping / whole)


def kept_by(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """What one forward saves for backward."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    return kept


@given(case=drawn(dtypes=(torch.float64, torch.float32, torch.bfloat16)))
def test_only_codes_are_kept_for_backward(case):
    """Saved for backward are the layer's own buffers, by reference; nothing else, and nothing where x has no gradient.

    Autograd can also be cheated past this: a tensor put on ctx. So the node's attributes are looked at too.
    """
    layer, x = case.packed(), case.input()
    own = {b.data_ptr() for b in layer.buffers()}
    assert {t.data_ptr() for t in kept_by(layer, x.requires_grad_())} <= own
    with case.slices():
        node = layer(x).grad_fn
    nodes = [node] + [n for n, _ in node.next_functions if n is not None]
    on_node = [v for n in nodes for v in tree_leaves(list(getattr(n, "__dict__", {}).values()))]
    assert not any(isinstance(value, Tensor) for value in on_node)
    assert kept_by(layer, x.detach()) == []


def test_adapter_keeps_what_it_keeps_over_linear():
    """Under LoRA a 4-bit base adds no floating tensor to what is kept, beside its constants: x and z, x-sized both."""
    layer = adapted(layer_of(64, 64, dtype=torch.float32))
    x = torch.randn(4, 64, requires_grad=True)
    own = {t.data_ptr() for t in (*layer.base.buffers(), *layer.parameters())}
    new = [t for t in kept_by(layer, x) if t.data_ptr() not in own]
    assert new and sum(t.numel() for t in new) <= 2 * x.numel() < 64 * 64


# Frozen, and counted by weights


@given(case=drawn(dtypes=(torch.float64,)))
def test_only_adapters_train(case):
    """Over a 4-bit base A and B are trainable, nothing else; steps over all parameters move no bit of the base."""
    model = nn.Sequential(adapted(case.packed()))
    assert {id(p) for p in trainable_parameters(model)} == {id(model[0].A), id(model[0].B)}
    before, A = bits(model[0].base), model[0].A.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(case.input()).square().sum().backward()
        optimizer.step()
    assert bits(model[0].base) == before and not torch.equal(model[0].A, A)
    assert all(p.grad is None for p in model[0].base.parameters())


def test_nothing_is_trainable_without_adapters():
    """A 4-bit layer alone has nothing to train, which is an error that says so."""
    with pytest.raises(ValueError, match="nothing in this model is trainable"):
        trainable_parameters(nn.Sequential(layer_of()))


@pytest.mark.parametrize("bias", [False, True])
@with_and_without_double
def test_weights_are_counted_and_not_bytes(double, bias):
    """64 -> 32 in 4 bits is 64 · 32 = 2,048 parameters, with a bias 32 more; constants are none; rank 4 adds 384."""
    model = nn.Sequential(layer_of(64, 32, bias=bias, double=double))
    assert count_parameters(model) == (0, 2048 + 32 * bias)
    add_adapters(model, AdapterConfig(rank=4))
    assert count_parameters(model) == (4 * (64 + 32), 2048 + 32 * bias + 4 * (64 + 32))


@given(case=drawn())
def test_count_is_that_of_full_precision(case):
    """Whatever the shape and the blocks, a layer counts as it counted before it was quantized; twice in place, once."""
    model = nn.ModuleList([case.packed()])
    model.append(model[0])
    assert count_parameters(model) == (0, sum(p.numel() for p in case.linear().parameters()))


def test_printed_line_counts_weights():
    """The printed line is the one of the model before it was quantized."""
    lines = []
    for model in (tiny(), quantize_model(tiny())):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            print_trainable_parameters(add_adapters(model, AdapterConfig(rank=2)))
        lines.append(out.getvalue())
    assert lines[0] == lines[1] and lines[0].startswith("trainable params: ")


# Merging


@given(case=drawn(dtypes=(torch.float64, torch.float32)))
def test_merge_is_full_precision(case):
    """merge() over a 4-bit base gives an nn.Linear, of the decoded weight plus s · B A, with the adapter's output."""
    layer = adapted(case.packed())
    merged = layer.merge()
    assert type(merged) is nn.Linear and merged.weight.dtype == case.dtype
    delta = layer.delta_weight().detach()
    assert torch.equal(merged.weight, (case.decoded().weight.to(delta.dtype) + delta).to(case.dtype))
    tolerance = 1e-11 if case.dtype == torch.float64 else 1e-4  # 6e-8 a rounding, rows of up to 100 times, 43 terms
    assert_close(merged(case.input()), layer(case.input()).detach(), tolerance=tolerance)


def test_quantizing_a_merge_again_costs():
    """A merge quantized again is another weight: the update, small against the steps between levels, is rounded off."""
    layer = LoRALinear(layer_of(64, 64), 2, 2)
    nn.init.normal_(layer.B, std=1e-3)
    merged = layer.merge()
    again = NF4Linear.from_linear(merged).weight
    lost = (again - merged.weight).abs().max() / layer.delta_weight().abs().max()
    assert lost > 1  # what quantizing puts wrong is more than the largest entry of what was learned


def test_merged_model_is_in_full_precision():
    """merge_adapters over a quantized model leaves no 4-bit layer where adapters were, and the output as it was."""
    model = trained_like(add_adapters(quantize_model(tiny()), AdapterConfig(rank=2, targets=["q_proj", "up_proj"])))
    before = model(tokens()).detach()
    merge_adapters(model)
    assert not any(name.endswith(("q_proj", "up_proj")) for name in names_packed(model)) and names_packed(model)
    assert_close(model(tokens()).detach(), before)


# A whole model


LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        ("all-linear", LAYERS),
        (["q_proj"], ["q_proj"]),
        (("self_attn.v_proj", "mlp.down_proj"), ["v_proj", "down_proj"]),
        (r".*\.(gate|up)_proj", ["gate_proj", "up_proj"]),
        (["lm_head"], ["lm_head"]),
    ],
    ids=str,
)
def test_targets_are_those_of_adapters(targets, chosen):
    """targets mean what they mean in AdapterConfig: "all-linear" leaves the head; what is not named stays as it is."""
    model = tiny()
    kept = {name: m for name, m in model.named_modules() if name.rpartition(".")[2] not in chosen}
    names = [name for name in dict(model.named_modules()) if name.rpartition(".")[2] in chosen]
    assert quantize_model(model, targets) is model and names_packed(model) == names != []
    assert all(model.get_submodule(name) is module for name, module in kept.items())
    wanted = tiny()
    for name in names:
        assert torch.equal(model.get_submodule(name).weight, decoded_by_numpy(wanted.get_submodule(name)))


def test_tied_head_and_embedding_are_left_alone():
    """Where the head is tied to the embedding, both keep their precision and stay one tensor."""
    model = quantize_model(tiny(tied=True))
    assert type(model.lm_head) is nn.Linear and model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("block_size", [8, 64])
def test_options_reach_every_layer(block_size, double):
    """Block size and double are those of every layer; the output is that of the decoded weights."""
    model, wanted = quantize_model(tiny(), "all-linear", block_size, double), tiny()
    for name in names_packed(model):
        layer, linear = model.get_submodule(name), wanted.get_submodule(name)
        assert (layer.block_size, layer.double) == (block_size, double)
        linear.weight.data = decoded_by_numpy(linear, block_size, double)
    assert_close(model(tokens()), wanted(tokens()))
    assert (model(tokens()) - tiny()(tokens())).abs().max() > 1e-4


def test_all_linear_takes_4_bit_layers_in():
    """ "all-linear" puts an adapter on every 4-bit layer, and none is decoded in the search for them."""
    model = quantize_model(tiny())
    packed = names_packed(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qlora, "decode_rows", None)
        assert list(find_targets(model, "all-linear")) == packed
    add_adapters(model, AdapterConfig(rank=2))
    assert [n.removesuffix(".base") for n in names_packed(model)] == packed and len(packed) == 14


def test_training_lowers_loss():
    """Ten steps of QLoRA on a model lower its loss, and move no bit of the base."""
    model = add_adapters(quantize_model(tiny()), AdapterConfig(rank=2))
    base = {n: t.clone() for n, t in model.state_dict().items() if n.rpartition(".")[2] not in ("A", "B")}
    optimizer, losses = torch.optim.AdamW(trainable_parameters(model), lr=0.02), []
    for _ in range(10):
        loss = F.cross_entropy(model(tokens())[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in base.items())


def test_shared_layer_is_one_in_4_bits():
    """A layer at two places is quantized once, and stands at both."""
    first = nn.Linear(6, 6)
    model = quantize_model(nn.ModuleDict({"a": first, "b": nn.Sequential(nn.Linear(6, 6), first)}))
    assert names_packed(model) == ["a", "b.0", "b.1"] and model["a"] is model["b"][1] is not model["b"][0]


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_kept(training):
    """Every layer keeps its mode, also one in another mode than the model."""
    model = tiny().train(training)
    model.model.layers[1].mlp.up_proj.train(not training)
    modes = {name: m.training for name, m in model.named_modules()}
    quantize_model(model)
    assert {name: m.training for name, m in model.named_modules()} == modes


def test_bias_is_kept_and_frozen():
    """A bias keeps its numbers, in full precision; the layers that were not quantized keep their flags."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(6, 5), "lm_head": nn.Linear(5, 9)})
    bias = model["body"].bias.detach().clone()
    quantize_model(model)
    assert torch.equal(model["body"].bias, bias) and not model["body"].bias.requires_grad
    assert all(p.requires_grad for p in model["lm_head"].parameters())


def with_third_spoilt(value):
    """A model whose third layer holds one NaN or infinity."""
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    model[2].weight.data[5, 5] = value
    return model


def quantized_before():
    return quantize_model(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), ["1"])


class Integers(nn.Linear):
    """A linear layer whose weight is of integers."""

    def __init__(self):
        super().__init__(6, 6)
        self.weight = nn.Parameter(torch.zeros(6, 6, dtype=torch.int8), requires_grad=False)


REFUSED = {
    "no match": (tiny, ["query"], "no layer is called query; linear layers here end in .*q_proj"),
    "expression of no match": (tiny, r".*query", "match no layer"),
    "embedding": (tiny, ["q_proj", "embed_tokens"], r"target model\.embed_tokens: Embedding is no linear layer"),
    "norm": (tiny, ["q_proj", "norm"], r"target model\.norm: RMSNorm is no linear layer"),
    "adapted": (
        lambda: add_adapters(tiny(), AdapterConfig(rank=2)),
        "all-linear",
        "adapters already, the first at .*self_attn.q_proj",
    ),
    "in 4 bits already": (quantized_before, "all-linear", "target 1: this layer is NF4Linear .* only an nn.Linear"),
    "NaN in the third": (lambda: with_third_spoilt(torch.nan), "all-linear", "target 2: the weight holds NaN"),
    "infinity in the third": (lambda: with_third_spoilt(-torch.inf), "all-linear", "target 2: .* infinity"),
    "integers": (lambda: nn.Sequential(nn.Linear(6, 6), Integers()), "all-linear", "target 1: .*int8"),
    "complex": (lambda: nn.Sequential(nn.Linear(6, 6, dtype=torch.complex64)), "all-linear", "target 0: .*complex64"),
    "lazy": (lambda: nn.Sequential(nn.Linear(6, 6), nn.LazyLinear(3)), "all-linear", "target 1: .*lazy"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusal_names_and_changes_nothing(kind):
    """What is refused is named; the model keeps the same module objects, flags and numbers."""
    make, targets, words = REFUSED[kind]
    model = make()

    def snapshot():
        lazy = any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
        modules = [(name, id(m), m.training) for name, m in model.named_modules(remove_duplicate=False)]
        return modules, [(id(p), p.requires_grad) for p in model.parameters()], None if lazy else bits(model)

    before = snapshot()
    with pytest.raises(ValueError, match=words):
        quantize_model(model, targets)
    assert snapshot() == before


@pytest.mark.parametrize("block_size", [0, 1, 3, 48, -64, 64.0, True, None, "64"])
def test_block_size_must_be_power_of_two(block_size):
    """A block size that is no power of two is refused wherever it is given, and the model is left as it was."""
    model = nn.Sequential(nn.Linear(6, 6))
    calls = [
        lambda: NF4Linear(6, 6, block_size=block_size),
        lambda: NF4Linear.from_linear(nn.Linear(6, 6), block_size),
        lambda: quantize_model(model, block_size=block_size),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="block_size is .*power of two"):
            call()
    assert type(model[0]) is nn.Linear


NO_LINEAR = {
    "embedding": lambda: nn.Embedding(5, 3),
    "activation": nn.ReLU,
    "adapter": lambda: LoRALinear(nn.Linear(5, 3), 2, 4),
    "packed": lambda: NF4Linear(5, 3),
    "integers": Integers,
    "complex": lambda: nn.Linear(5, 3, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", NO_LINEAR)
def test_from_linear_takes_only_linear_layers(kind):
    """from_linear refuses what is no nn.Linear of a floating dtype, by its type."""
    layer = NO_LINEAR[kind]()
    with pytest.raises(ValueError, match=f"this layer is {type(layer).__name__} .*only an nn.Linear with a floating"):
        NF4Linear.from_linear(layer)


class Scaled(nn.Linear):
    """It inherits from nn.Linear and computes something else."""

    def forward(self, x):
        return super().forward(2 * x)


class Renamed(nn.Linear):
    """It inherits from nn.Linear and computes the same."""


def with_forward_of_its_own():
    """As some libraries wrap a layer: `forward` of one object is replaced."""
    linear = nn.Linear(5, 3)
    inner = linear.forward
    linear.forward = lambda x: inner(2 * x)
    return linear


@pytest.mark.parametrize(
    "make, name", [(lambda: Scaled(5, 3), "Scaled"), (with_forward_of_its_own, "Linear")], ids=["class", "object"]
)
def test_layer_with_a_forward_of_its_own_is_refused(make, name):
    """What computes something else than x W' + b is not replaced by what computes that; the type is named."""
    with pytest.raises(ValueError, match=f"this {name} has a forward of its own.*leave it out"):
        NF4Linear.from_linear(make())


def test_subclass_that_computes_the_same_is_taken():
    """A subclass that leaves forward as it is may be quantized."""
    torch.manual_seed(0)
    linear = Renamed(5, 3)
    assert torch.equal(NF4Linear.from_linear(linear).weight, decoded_by_numpy(linear))


HOOKING = {
    "forward_hooks": lambda layer: layer.register_forward_hook(lambda *_: None),
    "forward_pre_hooks": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "backward_hooks": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "backward_pre_hooks": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "forward_pre_hooks, by weight_norm": lambda layer: nn.utils.weight_norm(layer),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("kind", HOOKING)
def test_layer_with_hooks_is_refused_until_they_are_removed(kind):
    """A hook would be lost without a word: it is named, nothing has changed, and without it the layer is taken."""
    linear = nn.Linear(5, 3)
    handle = HOOKING[kind](linear)
    with pytest.raises(ValueError, match=f"this Linear has {kind.partition(',')[0]}, which would be lost; remove them"):
        NF4Linear.from_linear(linear)
    handle.remove() if hasattr(handle, "remove") else nn.utils.remove_weight_norm(linear)
    assert isinstance(NF4Linear.from_linear(linear), NF4Linear)


# Moving


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtype_and_device_are_known_without_decoding(dtype, monkeypatch):
    """`like` has the dtype and the device of `.weight`, holds no value, moves along, and decodes nothing."""
    layer = layer_of(dtype=torch.float32).to(dtype)
    assert (layer.like.dtype, layer.like.device) == (layer.weight.dtype, layer.weight.device)
    monkeypatch.setattr(qlora, "decode_rows", None)
    assert layer.like.dtype == dtype and layer.like.numel() == 0
    moved = layer.to("meta")
    assert moved.like.is_meta and moved.like.dtype == dtype


@with_and_without_double
def test_move_that_fails_rounds_no_constant(double):
    """A move that is interrupted half way, after the constants, leaves them in float32, to the bit."""
    layer = layer_of(dtype=torch.float32, double=double)
    before = bits(layer)

    def halved(tensor):
        if tensor is layer.layout:  # the buffer after the constants
            raise KeyboardInterrupt
        return tensor.half() if tensor.is_floating_point() else tensor

    with pytest.raises(KeyboardInterrupt):
        layer._apply(halved)
    after = bits(layer)
    assert all(after[name] == before[name] for name in before if name != "bias")


MOVES = {
    torch.float16: lambda m: m.half(),
    torch.bfloat16: lambda m: m.bfloat16(),
    torch.float64: lambda m: m.double(),
    torch.float32: lambda m: m.float(),
}


@pytest.mark.parametrize("by_method", [True, False], ids=["method", "to"])
@pytest.mark.parametrize("dtype", MOVES, ids=str)
@with_and_without_double
def test_constants_stay_float32(double, dtype, by_method):
    """Whatever dtype the layer moves to, its codes and constants keep theirs, to the bit; weight, bias, output follow.

    The decoded values are the float32 ones rounded once, also inside a model, and again after a move back.
    """
    model = nn.Sequential(layer_of(24, 10, dtype=torch.float32, double=double))
    names = CODED[: 4 if double else 2]
    before, weight = {n: model[0].get_buffer(n).clone() for n in names}, model[0].weight
    MOVES[dtype](model) if by_method else model.to(dtype)
    for name in names:
        part = model[0].get_buffer(name)
        assert part.dtype == before[name].dtype and torch.equal(part, before[name]), name
    assert torch.equal(model[0].weight, weight.to(dtype)) and model[0].weight.dtype == dtype
    assert model(torch.ones(3, 24, dtype=dtype)).dtype == model[0].bias.dtype == dtype
    assert torch.equal(model.float()[0].weight, weight)


def test_constants_of_bfloat16_layer_are_float32():
    """A layer made from a bfloat16 linear has float32 constants, of its own numbers, and computes in bfloat16."""
    linear = nn.Linear(24, 10, dtype=torch.bfloat16)
    layer = NF4Linear.from_linear(linear)
    assert layer.absmax2.dtype == layer.offset.dtype == torch.float32
    assert torch.equal(layer.float().weight, decoded_by_numpy(linear.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@with_and_without_double
def test_meta_and_back_by_state_dict(double, dtype):
    """Moved to meta and another dtype at once, then to_empty, then filled from a state dict, a layer is what it was."""
    model = nn.Sequential(layer_of(24, 10, dtype=torch.float32, double=double))
    state, x = model.state_dict(), torch.ones(24, dtype=dtype)
    wanted = copy.deepcopy(model).to(dtype)
    moved = copy.deepcopy(model).to("meta", dtype)
    assert all(b.is_meta for b in moved.buffers()) and moved[0].weight.is_meta and moved[0].weight.dtype == dtype
    moved.to_empty(device="cpu").load_state_dict(state)
    assert bits(moved) == bits(wanted) and torch.equal(moved(x), wanted(x))


def test_model_built_on_meta_takes_checkpoint():
    """A model quantized on the meta device, without any numbers, loads what was saved: by to_empty, and by assign."""
    saved = quantize_model(tiny())
    for assign in (False, True):
        model = quantize_model(tiny().to("meta"))
        assert names_packed(model) == names_packed(saved) and all(p.is_meta for p in model.parameters())
        model = model if assign else model.to_empty(device="cpu")
        model.load_state_dict(saved.state_dict(), assign=assign)
        if assign:  # rotary tables and the like are no part of a checkpoint, so only the layers can move
            model = model.model.layers[0].mlp.up_proj.to("cpu")
            assert torch.equal(model.weight, saved.model.layers[0].mlp.up_proj.weight)
            assert model.float().weight.dtype == torch.float32
        else:
            assert bits(model) == bits(saved)


# State dicts, copies


@given(case=drawn(dtypes=(torch.float64, torch.float32)))
def test_state_dict_round_trip(case):
    """A state dict loads strictly into a layer of zeros, and gives the same bits, weight and output."""
    layer = case.packed()
    other = NF4Linear(case.d_in, case.d_out, case.bias, case.block_size, case.double, dtype=case.dtype)
    other.load_state_dict(layer.state_dict(), strict=True)
    assert bits(other) == bits(layer) and torch.equal(other.weight, layer.weight)
    assert torch.equal(other(case.input()), layer(case.input()))


def test_state_dict_holds_parts_under_their_names():
    """A state dict holds the parts of an NF4Tensor, the layout and the bias: all that is needed, and no more."""
    assert set(layer_of(double=True).state_dict()) == {*CODED, "layout", "bias"}
    assert set(layer_of(double=False, bias=False).state_dict()) == {"packed", "absmax", "layout"}


def broken(state: dict, name: str, value) -> dict:
    """A copy of the state dict with one entry changed, or without it."""
    changed = {key: tensor for key, tensor in state.items() if key != name}
    return changed if value is None else changed | {name: value}


GOOD = layer_of(24, 10).state_dict()
BAD_STATES = {
    **{f"no {name}": (broken(GOOD, name, None), f"{name} is missing") for name in GOOD},
    "packed cut off": (broken(GOOD, "packed", GOOD["packed"][:-1]), r"packed is torch\.uint8 of shape \(119,\)"),
    "absmax too long": (broken(GOOD, "absmax", GOOD["absmax"].repeat(2)), r"absmax is .* of shape \(8,\)"),
    "absmax2 in half": (broken(GOOD, "absmax2", GOOD["absmax2"].half()), r"absmax2 is torch\.float16"),
    "offset in double": (broken(GOOD, "offset", GOOD["offset"].double()), r"offset is torch\.float64"),
    "packed as floats": (broken(GOOD, "packed", GOOD["packed"].float()), r"packed is torch\.float32"),
    "bias too short": (broken(GOOD, "bias", GOOD["bias"][:-1]), r"bias is torch\.float64 of shape \(9,\)"),
    "features swapped": (layer_of(10, 24).state_dict(), r"bias is .*of shape \(24,\)"),
    "features swapped, no bias": (
        broken(layer_of(10, 24, False).state_dict(), "bias", GOOD["bias"]),
        r"layout.*is \[24, 10, 64\]",
    ),
    "other features": (layer_of(12, 20).state_dict(), r"bias is .*of shape \(20,\)"),
    "other blocks": (layer_of(block_size=128).state_dict(), r"absmax is .*\(2,\)"),
    "other blocks, as many": (broken(GOOD, "layout", torch.tensor([10, 24, 128])), r"layout.*is \[10, 24, 128\]"),
    "single": (layer_of(double=False).state_dict(), r"absmax is torch\.float32 .*needs torch\.uint8"),
    "full precision": (nn.Linear(24, 10, dtype=torch.float64).state_dict(), "packed is missing"),
}


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("kind", BAD_STATES)
def test_wrong_state_is_refused_and_changes_nothing(kind, strict):
    """A part that is missing, cut off, of another type or another layer's is named, strict or not; no bit changes."""
    state, words = BAD_STATES[kind]
    torch.manual_seed(1)
    model = nn.ModuleDict({"inner": NF4Linear.from_linear(nn.Linear(24, 10, dtype=torch.float64))})
    before = bits(model)
    with pytest.raises(RuntimeError, match=rf"inner\.{words}"):
        model.load_state_dict({f"inner.{name}": value for name, value in state.items()}, strict=strict)
    assert bits(model) == before


@pytest.mark.parametrize("strict", [True, False])
def test_parts_that_layer_has_no_place_for(strict):
    """A double quantized state for a single quantized layer, or a bias for one without, is refused likewise."""
    for layer, words in (
        (layer_of(double=False), r"absmax is torch\.uint8 .*needs torch\.float32"),
        (layer_of(bias=False), "bias is given, and this layer has none"),
    ):
        other = copy.deepcopy(layer)
        other.packed.fill_(0)
        before = bits(other)
        with pytest.raises(RuntimeError, match=words):
            other.load_state_dict(GOOD, strict=strict)
        assert bits(other) == before


def test_swapped_features_of_equal_sizes_are_told_by_layout():
    """(24, 10) and (10, 24) have parts of equal sizes; the layout, a part of the state dict, tells them apart."""
    one, other = layer_of(24, 10, bias=False), layer_of(10, 24, bias=False)
    assert [t.shape for t in one.state_dict().values()] == [t.shape for t in other.state_dict().values()]
    with pytest.raises(RuntimeError, match=r"layout, \(d_out, d_in, block size\), is \[24, 10, 64\].* \(10, 24, 64\)"):
        one.load_state_dict(other.state_dict())


def test_every_error_is_told_at_once():
    """Two wrong parts in two layers are two messages, and neither layer has changed."""
    model = nn.Sequential(layer_of(), layer_of(10, 24))
    state = model.state_dict()
    before = bits(model)
    del state["0.packed"]
    state["1.absmax"] = state["1.absmax"][:1]
    with pytest.raises(RuntimeError, match=r"(?s)0\.packed is missing.*1\.absmax is"):
        model.load_state_dict(state)
    assert bits(model) == before


@with_and_without_double
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save", "state on disk"])
def test_copies_are_equal_and_independent(way, double):
    """Copied, pickled, or saved and loaded, an adapted layer gives the same output; the original does not follow it."""
    layer, file = adapted(layer_of(double=double, dtype=torch.bfloat16)), io.BytesIO()
    if way == "deepcopy":
        twin = copy.deepcopy(layer)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(layer))
    else:
        torch.save(layer.state_dict() if way == "state on disk" else layer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=way == "state on disk")
    if way == "state on disk":
        state, twin = twin, LoRALinear(NF4Linear(24, 10, True, double=double, dtype=torch.bfloat16), 3, 6)
        twin.load_state_dict(state)
    x = torch.ones(2, 24, dtype=torch.bfloat16)
    before = layer(x)
    assert torch.equal(twin(x), before) and twin.base.weight.dtype == torch.bfloat16
    twin.base.packed.fill_(0)
    assert torch.equal(layer(x), before) and not torch.equal(twin(x), before)


# Where it must run


@given(case=drawn())
def test_checkpointing_changes_no_gradient(case):
    """Under gradient checkpointing x, A and B get the gradients they get without it."""
    layer, x = adapted(case.packed()), case.input().requires_grad_()

    def gradients(h: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(h.square().sum(), (x, layer.A, layer.B))

    with case.slices():
        plain, saved = gradients(layer(x)), gradients(checkpoint(layer, x, use_reentrant=False))
    assert all(torch.equal(a, b) and a.any() for a, b in zip(plain, saved, strict=True))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("x_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_accepts_what_linear_accepts(dtype, x_dtype, autocast):
    """Whatever the types of layer, input and autocast, it takes what an nn.Linear takes, and returns its type.

    Numbers agree to 2^-7: one type may round to 2^-9 where the other keeps more, in the weight, the sum and the bias.
    """
    layer = layer_of(5, 3, dtype=dtype)
    linear, torch_x = twin_of(layer), torch.randn(2, 5).to(x_dtype)
    xs, results = [torch_x.clone().requires_grad_() for _ in range(2)], []
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        try:
            results.append(linear(xs[0]))
        except RuntimeError:
            with pytest.raises(RuntimeError):
                layer(xs[1])
            return
        results.append(layer(xs[1]))
    assert results[0].dtype == results[1].dtype
    assert_close(results[1].detach(), results[0].detach(), "output", tolerance=2**-7)
    for h in results:
        h.sum().backward()
    assert xs[1].grad.dtype == xs[0].grad.dtype == x_dtype
    assert_close(xs[1].grad, xs[0].grad, "gradient of x", tolerance=2**-7)


def test_autocast_trains_adapters():
    """Under autocast in bfloat16 A, B and x get gradients of their own types."""
    layer, x = adapted(layer_of(dtype=torch.float32)), torch.randn(4, 24, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        h = layer(x)
    h.float().sum().backward()
    assert h.dtype == torch.bfloat16
    assert all(t.grad.any() and t.grad.dtype == torch.float32 for t in (x, layer.A, layer.B))


def test_gradient_under_autocast_is_of_full_precision():
    """Under autocast x gets a gradient that is summed in float32, with the weight in float32, and rounded nowhere."""
    layer, x = layer_of(dtype=torch.float32), torch.randn(4, 24, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        h = layer(x)
    h.backward(torch.ones_like(h))
    assert_close(x.grad, torch.ones(4, 10) @ layer.weight, tolerance=1e-6)  # ten terms; bfloat16 would err by 1e-3


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
@given(case=drawn(dtypes=FLOATS))
@settings(max_examples=20)
def test_autocast_changes_no_weight(autocast, case):
    """`.weight` has the same dtype and bits inside autocast as outside."""
    layer = case.packed()
    weight = layer.weight
    with torch.autocast("cpu", autocast), case.slices():
        inside = layer.weight
    assert inside.dtype == weight.dtype and torch.equal(inside, weight)


@pytest.mark.filterwarnings("error:There is a performance drop")
@given(case=drawn(), over=st.booleans())
def test_gradients_of_many_at_once_are_those_of_one_by_one(case, over):
    """vmap(grad(...)), over any dimension of x, gives what a loop gives: the gradients of x, and of A and B above."""
    base = case.packed()
    layer = adapted(base) if over else base
    factors = {name: p.detach() for name, p in layer.named_parameters() if name in ("A", "B")}
    xs = torch.stack([case.input(), 2 * case.input() + 1, -case.input()], dim=-2)  # (..., 3, d_in)

    def loss(factors, x):
        return torch.func.functional_call(layer, factors, (x,)).square().sum()

    one = torch.func.grad(loss, argnums=(0, 1))
    with case.slices():
        many = torch.func.vmap(one, in_dims=(None, xs.dim() - 2))(factors, xs)
        loop = [one(factors, x) for x in xs.unbind(-2)]
    assert_close(many[1], torch.stack([x for _, x in loop]), "gradient of x", tolerance=1e-11)
    for name in factors:
        assert_close(many[0][name], torch.stack([f[name] for f, _ in loop]), name, tolerance=1e-11)


def test_jacobian_is_the_weight():
    """jacrev, a vmap over backward alone, gives the decoded weight."""
    layer = layer_of(24, 10)
    with rows_at_a_time(2):
        jacobian = torch.func.jacrev(layer)(torch.randn(24, dtype=torch.float64))
    assert_close(jacobian, layer.weight)


@with_and_without_double
def test_vmap_over_layers_is_refused(double):
    """An ensemble of 4-bit layers under vmap is an error in words, and no wrong number."""
    layers = [layer_of(double=double), layer_of(double=double)]
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(parameters, buffers, x):
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    with pytest.raises(ValueError, match="vmap over several 4-bit layers does not work; call one after the other"):
        torch.func.vmap(call, in_dims=(0, 0, None))(parameters, buffers, torch.randn(3, 24, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # torch's, about a constant in its own graph
@with_and_without_double
def test_compiles_without_graph_break(double):
    """torch.compile takes an adapted 4-bit layer as one graph, with the same output and gradients, in many slices."""
    torch._dynamo.reset()
    layer = adapted(layer_of(24, 10, double=double))
    x = torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=True)
    with rows_at_a_time(4):
        outputs = [f(x) for f in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager"))]
        gradients = [torch.autograd.grad(h.square().sum(), (x, layer.A, layer.B)) for h in outputs]
    assert_close(outputs[1].detach(), outputs[0].detach())
    for plain, compiled in zip(*gradients, strict=True):
        assert_close(compiled, plain)


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@with_and_without_double
@pytest.mark.parametrize("over", [False, True], ids=["alone", "under LoRA"])
@pytest.mark.parametrize("needs", ["no grad", "frozen x", "x"])
def test_compiles_with_and_without_gradients(needs, over, double):
    """One graph, too, where nothing needs a gradient, where only A and B do, and without an adapter."""
    torch._dynamo.reset()
    layer = layer_of(24, 10, double=double)
    layer = adapted(layer) if over else layer
    x = torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=needs == "x")
    with rows_at_a_time(4), torch.set_grad_enabled(needs != "no grad"):
        plain, compiled = layer(x), torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert_close(compiled.detach(), plain.detach())
    if needs == "x":
        slopes = [torch.autograd.grad(h.square().sum(), x)[0] for h in (compiled, plain)]
        assert_close(*slopes)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_step_on_meta_device(dtype):
    """A training step and a merge on the meta device: a stray CPU tensor would raise."""
    layer = LoRALinear(NF4Linear.from_linear(nn.Linear(24, 10, device="meta", dtype=dtype)), 2, 4)
    optimizer = torch.optim.AdamW(trainable_parameters(layer))
    x = torch.empty(7, 24, device="meta", dtype=dtype, requires_grad=True)
    with rows_at_a_time(4):
        h = layer(x)
        h.sum().backward()
    optimizer.step()
    assert h.shape == (7, 10) and h.dtype == dtype and h.is_meta and x.grad.is_meta and layer.A.grad.is_meta
    assert layer.merge().weight.is_meta


def test_step_on_fake_tensors():
    """A model built and quantized on meta takes a training step on fake tensors, which is how memory is simulated."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 32))
    add_adapters(quantize_model(model), AdapterConfig(rank=2))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        optimizer = torch.optim.AdamW(trainable_parameters(model))
        h = model(torch.randn(3, 64))
        h.sum().backward()
        optimizer.step()
    assert h.shape == (3, 32) and h.device.type == "cpu"
    assert all(p.grad.shape == p.shape for p in trainable_parameters(model))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_without_gradients(context):
    """Under no_grad and inference_mode the output is the same, and has no graph."""
    layer, x = adapted(layer_of()), torch.randn(4, 24, dtype=torch.float64, requires_grad=True)
    with context():
        h = layer(x)
    assert h.grad_fn is None and torch.equal(h, layer(x).detach())


def test_gradient_passes_through_first_layer():
    """In front of trained layers a 4-bit layer hands their gradient on; behind frozen ones it needs none."""
    model = nn.Sequential(adapted(layer_of(6, 6)), layer_of(6, 6), adapted(layer_of(6, 4)))
    model(torch.ones(2, 6, dtype=torch.float64)).sum().backward()
    assert all(p.grad.any() for p in trainable_parameters(model))


@pytest.mark.parametrize("shape", [(0, 24), (3, 0, 24)])
def test_empty_batch(shape):
    """A batch of nothing gives an output, and a gradient, of nothing."""
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    h = layer_of()(x)
    h.sum().backward()
    assert h.shape == (*shape[:-1], 10) and x.grad.shape == shape


def test_parts_changed_before_backward_are_noticed():
    """Codes overwritten between forward and backward are an error of autograd, and no wrong gradient."""
    layer, x = layer_of(), torch.ones(24, dtype=torch.float64, requires_grad=True)
    h = layer(x)
    layer.packed.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.parametrize("targets", ["(", None, [], [""], 3], ids=str)
def test_targets_that_are_none_are_refused(targets):
    """As AdapterConfig refuses them: with a ValueError that shows them."""
    with pytest.raises(ValueError, match="targets is"):
        quantize_model(nn.Sequential(nn.Linear(4, 4)), targets)


def test_nothing_under_an_adapter_is_quantized():
    """An adapter belongs to the base it was trained on, so its base is not changed, even when asked for by name."""
    model = add_adapters(nn.Sequential(nn.Linear(4, 4)), AdapterConfig(rank=2))
    with pytest.raises(ValueError, match="adapters already, the first at 0"):
        quantize_model(model, ["base"])
    assert isinstance(model[0].base, nn.Linear)


def test_a_state_without_any_part_of_a_layer_is_missing_keys_and_changes_nothing():
    """Strict, that is an error; not strict, an adapter's own state dict loads over its base, as with nn.Linear."""
    torch.manual_seed(0)
    model, other = (
        add_adapters(quantize_model(nn.Sequential(nn.Linear(24, 10))), AdapterConfig(rank=2)) for _ in range(2)
    )
    nn.init.normal_(other[0].B)
    adapter = {name: tensor for name, tensor in other.state_dict().items() if name.endswith((".A", ".B"))}
    before = bits(model[0].base)
    with pytest.raises(RuntimeError, match="Missing key.*packed"):
        nn.Sequential(model[0].base).load_state_dict({})
    missing, unexpected = model.load_state_dict(adapter, strict=False)
    assert "0.base.packed" in missing and not unexpected and bits(model[0].base) == before
    assert torch.equal(model[0].B, other[0].B) and torch.equal(model[0].A, other[0].A)
