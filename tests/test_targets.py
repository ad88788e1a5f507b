"""Which layers of odd models get adapters: heads, experts, blocks held twice, layers in wrappers; and interruptions."""

import warnings

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lora_from_scratch import (
    AdapterConfig,
    LoRALinear,
    NF4Linear,
    add_adapters,
    count_parameters,
    loraplus_param_groups,
    merge_adapters,
    quantize_model,
)
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.targets import find_targets, named_layers, unwrapped


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Body(nn.Module):
    """Two numbered blocks, and a head under the name given, or none."""

    def __init__(self, head: str = "", says: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Block(), Block()])
        self.says = head if says else ""
        if head:
            self.add_module(head, nn.Linear(8, 3))
        self.double()

    def get_output_embeddings(self):
        return getattr(self, self.says) if self.says else None

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


BLOCKS = ["layers.0.down", "layers.0.up", "layers.1.down", "layers.1.up"]


# Heads


@pytest.mark.parametrize("head", ["score", "classifier", "qa_outputs", "lm_head"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_classifier_s_fresh_head_is_no_target(head, wrapped):
    """It is not adapted, nor put into 4 bits; frozen with the rest, and trainable if asked for."""
    model = Wrapper(Body(head)) if wrapped else Body(head)
    before = model.get_submodule(f"{'inner.' * wrapped}{head}")
    model = add_adapters(quantize_model(model, block_size=4), AdapterConfig(rank=2))
    assert model.get_submodule(f"{'inner.' * wrapped}{head}") is before and type(before) is nn.Linear
    assert len(list(filter(is_adapter, model.modules()))) == 4 and not before.weight.requires_grad
    before.requires_grad_(True)
    assert count_parameters(model)[0] > 8 * 3


def test_a_head_of_several_layers_is_no_target():
    """As RoBERTa's classifier, with a dense layer before the last; also in an nn.Sequential."""
    model = Body()
    model.classifier = nn.ModuleDict({"dense": nn.Linear(8, 8), "out_proj": nn.Linear(8, 3)})
    model.score = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    assert sorted(find_targets(model, "all-linear")) == BLOCKS


def test_a_layer_of_that_name_inside_the_blocks_is_a_target():
    """An attention's `score` is no head."""
    model = Body()
    model.layers[1].score = nn.Linear(8, 8)
    assert "layers.1.score" in find_targets(model, "all-linear")


def test_a_head_that_a_part_names_itself_is_found_inside_a_wrapper():
    """The wrapper has no get_output_embeddings; the model in it has."""
    assert sorted(find_targets(Wrapper(Body("readout", says=True)), "all-linear")) == [f"inner.{n}" for n in BLOCKS]
    assert "inner.readout" in find_targets(Wrapper(Body("readout")), "all-linear"), "without that word it is a layer"


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError])
def test_a_model_that_has_no_head_to_name_is_no_error(error):
    """Base models of some libraries raise where there is no output embedding."""

    class Headless(Body):
        def get_output_embeddings(self):
            raise error

    assert sorted(find_targets(Headless(), "all-linear")) == BLOCKS


# Experts


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(4, 8, 24)), nn.Parameter(torch.randn(4, 12, 8))


def test_experts_in_one_parameter_are_passed_over_with_their_names_and_share():
    """In adding and in quantizing; they stay as they are."""
    model = Body()
    model.layers[0].experts = Experts()
    share = 4 * (8 * 24 + 12 * 8) / sum(p.numel() for p in model.parameters())
    words = rf"layers\.0\.experts\.gate_up_proj, layers\.0\.experts\.down_proj.*{share:.0%} of the weights"
    with pytest.warns(UserWarning, match=words):
        quantize_model(model, block_size=4)
    with pytest.warns(UserWarning, match=words):
        add_adapters(model, AdapterConfig(rank=2))
    assert type(model.layers[0].experts) is Experts


def test_other_parameters_of_three_dimensions_raise_no_alarm():
    """Positions, convolutions and bilinear layers of torch's, and small tables."""
    model = Body()
    model.positions = nn.Parameter(torch.zeros(1, 50, 8))
    model.convolution, model.bilinear = nn.Conv1d(8, 8, 3), nn.Bilinear(8, 8, 8)
    model.bias_table = nn.Parameter(torch.zeros(2, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_adapters(model, AdapterConfig(rank=2))
    assert len(list(filter(is_adapter, model.modules()))) == 4


# Held at several places


class Albert(nn.Module):
    """One block, three times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        block = Block()
        self.layers, self.again = nn.ModuleList([block, block, block]).double(), block

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.again(x)


def randomize(model):
    for layer in filter(is_adapter, model.modules()):
        nn.init.normal_(layer.B)
    return model


def test_a_block_at_several_places_gets_one_adapter_a_layer():
    """At every place the same one; merged, the model computes what it did."""
    model, x = Albert(), torch.randn(2, 5, 8, dtype=torch.float64)
    randomize(add_adapters(model, AdapterConfig(rank=2)))
    assert len(list(filter(is_adapter, model.modules()))) == 2
    assert all(layer.up is model.again.up and type(layer.up) is LoRALinear for layer in model.layers)
    h = model(x)
    merge_adapters(model)
    assert not any(map(is_adapter, model.modules())) and all(layer is model.again for layer in model.layers)
    torch.testing.assert_close(model(x), h)


def test_a_model_whose_parts_hold_each_other_is_adapted():
    """A block that knows its parent makes a circle."""
    model = Body()
    model.layers[0].parent = model
    randomize(add_adapters(model, AdapterConfig(rank=2)))
    assert len(list(filter(is_adapter, model.modules()))) == 4
    assert not any(map(is_adapter, merge_adapters(model).modules()))


# Wrapped layers


def in_checkpoint(layer):
    return checkpoint_wrapper(layer)


def compiled(layer):
    return torch.compile(layer, backend="eager")


@pytest.mark.parametrize("wrap", [in_checkpoint, compiled])
def test_a_wrapped_layer_is_one_layer_under_its_own_name(wrap):
    """Found once, adapted once, counted once, merged whole; wrapped before adapting or after."""
    for wrap_first in (True, False):
        model, x = Body(), torch.randn(2, 8, dtype=torch.float64)
        if wrap_first:
            model.layers[0].up = wrap(model.layers[0].up)
        assert sorted(find_targets(model, "all-linear")) == BLOCKS
        randomize(add_adapters(model, AdapterConfig(rank=2)))
        h = model(x)
        if not wrap_first:
            model.layers[0].up = wrap(model.layers[0].up)
        torch.testing.assert_close(model(x), h)
        assert sum(map(is_adapter, model.modules())) == 4, "the wrapper is none"
        assert count_parameters(model)[0] == 2 * sum((8 + 12, 12 + 8)) * 2
        assert sum(len(g["params"]) for g in loraplus_param_groups(model, 1e-3)) == 8
        with pytest.raises(ValueError, match=r"has adapters already.*layers\.0\.up"):
            add_adapters(model, AdapterConfig(rank=2))
        merge_adapters(model)
        assert not any(map(is_adapter, model.modules()))
        torch.testing.assert_close(model(x), h)


@pytest.mark.parametrize("wrap", [in_checkpoint, compiled])
def test_a_wrapped_block_keeps_its_wrapper(wrap):
    """Its layers are found under the names that they have without it."""
    model = Body()
    model.layers[1] = wrap(model.layers[1])
    assert sorted(find_targets(model, "all-linear")) == BLOCKS
    assert set(named_layers(model)) >= {"layers.1", *BLOCKS}
    h = randomize(add_adapters(model, AdapterConfig(rank=2)))(x := torch.randn(2, 8, dtype=torch.float64))
    assert type(unwrapped(model.layers[1])) is Block and model.layers[1] is not unwrapped(model.layers[1])
    torch.testing.assert_close(merge_adapters(model)(x), h)


@pytest.mark.parametrize("wrap", [in_checkpoint, compiled])
def test_a_wrapped_layer_goes_into_4_bits(wrap):
    """The layer in the wrapper is what is quantized."""
    model = Body()
    model.layers[0].up = wrap(model.layers[0].up)
    assert sum(isinstance(m, NF4Linear) for m in quantize_model(model, block_size=4).modules()) == 4


def test_a_compiled_model_is_adapted_like_the_model_in_it():
    """torch.compile of the whole: names are the model's own."""
    model = compiled(Body())
    assert sorted(find_targets(model, "all-linear")) == BLOCKS
    h = randomize(add_adapters(model, AdapterConfig(rank=2)))(x := torch.randn(2, 8, dtype=torch.float64))
    torch.testing.assert_close(merge_adapters(model)(x), h)


# What would be lost in 4 bits


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_a_4_bit_layer_would_lose_is_refused_by_name_and_nothing_changes():
    """A forward of its own, and hooks."""
    for spoil in (
        lambda block: setattr(block, "up", Doubled(8, 12)),
        lambda block: block.up.register_forward_hook(lambda *args: None),
    ):
        model = Body()
        spoil(model.layers[1])
        before = [id(m) for m in model.modules()]
        with pytest.raises(ValueError, match=r"target layers\.1\.up: this (Doubled|Linear) has"):
            quantize_model(model, block_size=4)
        assert [id(m) for m in model.modules()] == before


# Interruptions


def state_of(model):
    modules = [(n, id(m), m.training) for n, m in model.named_modules(remove_duplicate=False)]
    return modules, [(n, id(p), p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)]


def interrupted_at(call: int, function):
    """`function`, which raises KeyboardInterrupt at its n-th call."""
    calls = []

    def wrapped(*args, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **options)

    return wrapped


@pytest.mark.parametrize("call", [1, 2, 4])
@pytest.mark.parametrize("where", ["building", "placing"])
def test_an_interrupted_add_changes_nothing(call, where, monkeypatch):
    """While the layers are made, and while they are put in their places."""
    model = Body()
    before = state_of(model)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == "building":
            patch.setattr(LoRALinear, "__init__", interrupted_at(call, LoRALinear.__init__))
        else:
            patch.setattr(Block, "__setattr__", interrupted_at(call, Block.__setattr__))
        add_adapters(model, AdapterConfig(rank=2))
    assert state_of(model) == before


@pytest.mark.parametrize("call", [1, 3])
def test_an_interrupted_merge_or_quantization_changes_nothing(call, monkeypatch):
    """All layers are made before the first is placed, and what was placed goes back."""
    for start, change in (
        (lambda: add_adapters(Body(), AdapterConfig(rank=2)), merge_adapters),
        (Body, lambda model: quantize_model(model, block_size=4)),
    ):
        model = start()
        before = state_of(model)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Block, "__setattr__", interrupted_at(call, Block.__setattr__))
            change(model)
        assert state_of(model) == before
