"""An adapter comes back from disk as it was, or the folder is refused in words and the model is as before."""

import copy
import itertools
import json
import math
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from strategies import trained_like
from torch import nn

from lora_from_scratch import (
    AdapterConfig,
    DoRALinear,
    LoRALinear,
    add_adapters,
    lora_scaling,
    merge_adapters,
    quantize_model,
    rslora_scaling,
    trainable_parameters,
)
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.peft_format import load_adapter, save_adapter
from lora_from_scratch.targets import replace_modules

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
METHODS = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}, "both": {"rslora": True, "dora": True}}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
FEWER = max(1, settings.default.max_examples // 2)  # examples of a property whose every example builds two models
FILES = settings(max_examples=FEWER)


class Net(nn.Module):
    """Layers whose names end and begin one another: proj, proj_extra, block.proj, layers.1, .10 and .11."""

    def __init__(self):
        super().__init__()
        self.proj, self.proj_extra = nn.Linear(5, 7), nn.Linear(7, 6, bias=False)
        self.block = nn.ModuleDict({"proj": nn.Linear(6, 4), "norm": nn.LayerNorm(4), "deep": nn.Module()})
        self.block["deep"].proj = nn.Linear(4, 3)
        self.layers = nn.ModuleList([nn.Linear(3 + i % 2, 4 - i % 2, bias=i % 3 > 0) for i in range(12)])
        self.lm_head = nn.Linear(3, 9)

    def forward(self, x):
        block = self.block
        x = block["proj"](self.proj_extra(torch.tanh(self.proj(x))))
        x = block["deep"].proj(block["norm"](x))
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.lm_head(x)


NAMES = ["proj", "proj_extra", "block.proj", "block.deep.proj", "lm_head", *(f"layers.{i}" for i in range(12))]
SOME = r"proj|block\.proj|layers\.(1|10)"


def net(dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype).eval()


def inputs(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def adapters_of(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: module for name, module in model.named_modules() if is_adapter(module)}


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A and B normal, magnitudes up to a half away from where they start."""
    with torch.no_grad():
        for layer in adapters_of(trained_like(model, seed)).values():
            if isinstance(layer, DoRALinear):
                layer.magnitude.mul_(0.5 + torch.rand(len(layer.magnitude)))
    return model


def adapted(model: nn.Module, seed: int = 0, **options) -> nn.Module:
    return trained(add_adapters(model, AdapterConfig(**{"rank": 2, "alpha": 3, "targets": SOME} | options)), seed)


def mixed(settings_of: dict[str, tuple], kind: type = LoRALinear) -> nn.Module:
    """A net with an adapter of its own rank, alpha and scaling on each named layer."""
    model = net().requires_grad_(False)
    layers = {name: kind(model.get_submodule(name), r, a, 0.0, rule) for name, (r, a, rule) in settings_of.items()}
    replace_modules(model, {layer.base: layer for layer in layers.values()})
    return trained(model)


def contents(model: nn.Module) -> dict:
    """What an adapter is: {layer: (class, rank, alpha, scaling, dropout, {parameter: (dtype, numbers)})}."""
    return {
        name: (
            type(a), a.rank, a.alpha, a.scaling, a.dropout,
            {n: (p.dtype, p.tolist()) for n, p in a.named_parameters(recurse=False)},
        )
        for name, a in adapters_of(model).items()
    }  # fmt: skip


def snapshot(model: nn.Module) -> list:
    """All that a refusal must not change: modules and their modes, parameters, their flags and bits, and buffers."""
    modules = [(name, id(m), m.training) for name, m in model.named_modules(remove_duplicate=False)]
    parameters = [(n, id(p), p.requires_grad, p.detach().clone().tolist()) for n, p in model.named_parameters()]
    return [modules, parameters, [(n, b.tolist()) for n, b in model.named_buffers()]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def said(folder: Path) -> dict:
    return json.loads((folder / CONFIG).read_text())


def saved(folder: Path, model: nn.Module | None = None, drop: tuple = (), tensors: dict | None = None, **changes):
    """A folder with an adapter, then with other settings (... takes one away) and other tensors (None takes one)."""
    save_adapter(model or adapted(net()), folder)
    config = said(folder) | changes
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    if tensors:
        found = load_file(folder / TENSORS) | {f"base_model.model.{key}": t for key, t in tensors.items()}
        save_file({key: t for key, t in found.items() if t is not None}, folder / TENSORS)
    return folder


# ---------------------------------------------------------------- what is saved comes back


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_loaded_is_what_was_saved(tmp_path, dtype, method):
    """Every number of every adapter, its scaling and the outputs are bit-equal, whatever the base's dtype."""
    model = adapted(net(dtype), dropout=0.25, **method)
    save_adapter(model, tmp_path)
    found = load_adapter(net(dtype), tmp_path)
    assert contents(found) == contents(model) and len(contents(found)) == 4
    assert torch.equal(found(inputs(dtype)), model(inputs(dtype)))
    assert not torch.equal(found(inputs(dtype)), net(dtype)(inputs(dtype)))


@FILES
@given(data=st.data(), dora=st.booleans(), root=st.booleans())
def test_every_layer_keeps_its_own_rank_and_alpha(tmp_path_factory, data, dora, root):
    """Any layers, each with its own rank and alpha: bit-equal after a round trip, also where names end one another."""
    chosen = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    alphas = st.one_of(st.integers(1, 64), st.floats(1e-3, 1e3))
    rule = rslora_scaling if root else lora_scaling
    layers = {name: (data.draw(st.integers(1, 4)), data.draw(alphas), rule) for name in chosen}
    model, folder = mixed(layers, DoRALinear if dora else LoRALinear), tmp_path_factory.mktemp("a")
    save_adapter(model, folder)
    found = load_adapter(net(), folder)
    assert contents(found) == contents(model)
    assert torch.equal(found(inputs()), model(inputs()))


@FILES
@given(
    scalings=st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=4),
    ranks=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    rule=st.sampled_from([lora_scaling, rslora_scaling]),
)
def test_a_changed_scaling_comes_back_to_the_last_bit(tmp_path_factory, scalings, ranks, rule):
    """It is saved as the alpha that gives it. A product and a quotient each round by 2^-53 of the value at the most."""
    layers = dict(zip(["proj", "block.proj", "layers.1", "layers.10"], ranks, strict=True))
    model = mixed({name: (rank, 3.0, rule) for name, rank in layers.items()})
    for name, scaling in zip(layers, scalings, strict=True):
        adapters_of(model)[name].scaling = scaling
    folder = tmp_path_factory.mktemp("a")
    save_adapter(model, folder)
    found = adapters_of(load_adapter(net(), folder))
    for name, scaling in zip(layers, scalings, strict=True):
        assert math.isclose(found[name].scaling, scaling, rel_tol=4 * 2**-53), name


@pytest.mark.parametrize("method", [{}, {"rslora": True}], ids=["lora", "rslora"])
def test_one_changed_scaling_is_an_alpha_under_the_rule_of_the_others(tmp_path, method):
    """scaling · r, or scaling · sqrt(r), for the layer that was changed alone; r = 4 makes both exact."""
    model = adapted(net(), rank=4, alpha=16, **method)
    adapters_of(model)["block.proj"].scaling = 0.5
    save_adapter(model, tmp_path)
    config = said(tmp_path)
    assert (config["lora_alpha"], config["use_rslora"]) == (16, "rslora" in method)
    assert config["alpha_pattern"] == {r"^block\.proj": 1 if method else 2}
    assert adapters_of(load_adapter(net(), tmp_path))["block.proj"].scaling == 0.5


def test_rslora_comes_back_as_rslora(tmp_path):
    """Rank 16, alpha 16 is a scaling of 4, not of 1."""
    save_adapter(adapted(net(), rank=16, alpha=16, rslora=True), tmp_path)
    assert {layer.scaling for layer in adapters_of(load_adapter(net(), tmp_path)).values()} == {4.0}
    assert said(tmp_path)["use_rslora"] is True and said(tmp_path)["lora_alpha"] == 16


def test_what_both_rules_give_is_said_by_the_plain_one(tmp_path):
    """At rank 1 they are the same, and every reader knows alpha / r."""
    save_adapter(adapted(net(), rank=1, alpha=5, rslora=True), tmp_path)
    assert said(tmp_path)["use_rslora"] is False and said(tmp_path)["lora_alpha"] == 5


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.tensor], ids=["float64", "float32", "tensor"])
def test_numbers_of_numpy_are_scalings_too(tmp_path, kind):
    """As a sweep over np.linspace leaves them; products are taken in Python's floats, so that none is rounded."""
    model = adapted(net(), rank=3)
    for layer in adapters_of(model).values():
        layer.scaling = kind(0.3)
    save_adapter(model, tmp_path)
    found = adapters_of(load_adapter(net(), tmp_path))
    assert all(math.isclose(layer.scaling, float(kind(0.3)), rel_tol=4 * 2**-53) for layer in found.values())


def test_rslora_beside_plain_scalings_is_said_by_alphas(tmp_path):
    """One folder has one rule, and an alpha for each layer makes it the right scaling: here 8 / 2 and 8 / 4."""
    rules = {"proj": rslora_scaling, "block.proj": lora_scaling, "layers.1": lora_scaling}
    model = mixed({name: (4, 8, rule) for name, rule in rules.items()})
    save_adapter(model, tmp_path)
    found = load_adapter(net(), tmp_path)
    assert {n: a.scaling for n, a in adapters_of(found).items()} == {"proj": 4.0, "block.proj": 2.0, "layers.1": 2.0}
    assert torch.equal(found(inputs()), model(inputs()))


@every_method
@pytest.mark.parametrize("double", [False, True])
def test_over_four_bits_only_the_adapter_is_saved(tmp_path, double, method):
    """An adapter on NF4Linear goes onto 4 bits again, bit-equal; no code or constant of the base is in the file."""
    base = quantize_model(net(torch.float32), "all-linear", 64, double)
    model = adapted(copy.deepcopy(base), **method)
    save_adapter(model, tmp_path)
    parts = 3 if "dora" in method else 2
    assert len(load_file(tmp_path / TENSORS)) == parts * 4
    found = load_adapter(base, tmp_path)
    assert contents(found) == contents(model)
    assert torch.equal(found(inputs(torch.float32)), model(inputs(torch.float32)))


@every_method
def test_adapters_go_on_a_base_of_another_dtype(tmp_path, method):
    """A, B and magnitude are what new adapters would be there: float32 under 16 bits, else as the base."""
    model = adapted(net(torch.float32), **method)
    save_adapter(model, tmp_path)
    for dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        for name, layer in adapters_of(load_adapter(net(dtype), tmp_path)).items():
            for part, parameter in layer.named_parameters(recurse=False):
                assert parameter.dtype == kept
                assert torch.equal(parameter, getattr(adapters_of(model)[name], part).to(kept))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_tensors_are_saved_in_the_dtype_they_have(tmp_path, dtype):
    model = adapted(net(torch.float32))
    for layer in adapters_of(model).values():
        layer.A.data, layer.B.data = layer.A.data.to(dtype), layer.B.data.to(dtype)
    save_adapter(model, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / TENSORS).values()} == {dtype}
    found = adapters_of(load_adapter(net(torch.float32), tmp_path))
    assert all(torch.equal(found[n].B, layer.B.float()) for n, layer in adapters_of(model).items())


class Shared(nn.Module):
    """One layer and one block, each at two places."""

    def __init__(self):
        super().__init__()
        self.leaf, self.block = nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4))
        self.again, self.inner = self.block, nn.Sequential(self.leaf)

    def forward(self, x):
        return self.again(self.inner(self.block(self.leaf(x))))


def shared() -> nn.Module:
    torch.manual_seed(0)
    return Shared().double()


@every_method
def test_a_layer_at_two_places_is_saved_once_and_comes_back_at_both(tmp_path, method):
    """Alone or in a shared block: one adapter a layer, in the file as in the model."""
    model = adapted(shared(), targets="all-linear", **method)
    save_adapter(model, tmp_path)
    assert len(load_file(tmp_path / TENSORS)) == (9 if "dora" in method else 6)
    found = load_adapter(shared(), tmp_path)
    assert found.leaf is found.inner[0] and found.block is found.again and is_adapter(found.leaf)
    assert contents(found) == contents(model)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    assert torch.equal(found(x), model(x))


def test_a_layer_at_two_places_may_come_under_both_names(tmp_path):
    """As older versions of PEFT write it: the same numbers are one adapter, other numbers are refused."""
    model = adapted(shared(), targets=["block.0", "block.2"])
    save_adapter(model, tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    twice = tensors | {key.replace("block", "again"): tensor.clone() for key, tensor in tensors.items()}
    save_file(twice, tmp_path / TENSORS)
    assert contents(load_adapter(shared(), tmp_path)) == contents(model)
    key = "base_model.model.again.2.lora_B.weight"
    for other in (twice[key] + 1, twice[key].half(), twice[key][1:], twice[key] * math.nan):
        save_file(twice | {key: other}, tmp_path / TENSORS)
        assert "two names" in refusal(shared(), tmp_path)


def test_tied_factors_are_saved_for_each_layer(tmp_path):
    """One A in two layers is memory that safetensors would not take; each layer gets its own copy."""
    model = adapted(net(), targets=["layers.1", "layers.11"])
    model.layers[11].A = model.layers[1].A
    save_adapter(model, tmp_path)
    assert contents(load_adapter(net(), tmp_path)) == contents(model)


def test_wrappers_are_in_no_name(tmp_path):
    """A compiled model, or one with a compiled layer, is saved and loaded under the names that it has without."""
    model = adapted(net())
    save_adapter(model, tmp_path / "plain")
    whole = torch.compile(copy.deepcopy(model))
    part = copy.deepcopy(model)
    part.block["proj"] = torch.compile(part.block["proj"])
    for other in (whole, part):
        save_adapter(other, tmp_path / "wrapped")
        assert files_of(tmp_path / "wrapped") == files_of(tmp_path / "plain")
    base, whole = net(), net()
    base.block["proj"] = torch.compile(base.block["proj"])
    assert contents(load_adapter(base, tmp_path / "plain")) == contents(model)
    load_adapter(torch.compile(whole), tmp_path / "plain")
    assert contents(whole) == contents(model)


def test_the_loaded_numbers_are_memory_of_their_own(tmp_path):
    """Training moves them and leaves the file as it was; writing over the file leaves them as they were."""
    model = load_adapter(net(), saved(tmp_path))
    before, bytes_before = contents(model), files_of(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert contents(model) == before
    for name, content in bytes_before.items():
        (tmp_path / name).write_bytes(content)
    model(inputs()).square().mean().backward()
    torch.optim.SGD(trainable_parameters(model), lr=0.1).step()
    assert files_of(tmp_path) == bytes_before and contents(model) != before


@pytest.mark.parametrize("training", [False, True])
def test_a_loaded_adapter_is_trainable_on_a_frozen_base(tmp_path, training):
    """The flags and the mode are as after add_adapters, and the model is changed in place."""
    base = net().train(training)
    model = load_adapter(base, saved(tmp_path, adapted(net(), dora=True)))
    assert model is base and all(module.training == training for module in model.modules())
    own = {id(p) for layer in adapters_of(model).values() for p in layer.parameters(recurse=False)}
    assert {id(p) for p in model.parameters() if p.requires_grad} == own and len(own) == 12


@every_method
def test_a_loaded_adapter_saves_the_same_bytes(tmp_path, method):
    """Loading and saving again, however often, changes no bit of either file."""
    save_adapter(adapted(net(), targets="all-linear", rank=3, alpha=7.3, **method), tmp_path / "a")
    save_adapter(load_adapter(net(), tmp_path / "a"), tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_the_merge_of_what_is_loaded_is_the_merge_of_what_was_saved(tmp_path):
    model = adapted(net(), dora=True)
    save_adapter(model, tmp_path)
    assert torch.equal(merge_adapters(load_adapter(net(), tmp_path))(inputs()), merge_adapters(model)(inputs()))


# ---------------------------------------------------------------- the format


def test_keys_carry_the_full_prefix_of_peft(tmp_path):
    """base_model.model.<dotted name> and PEFT's name of the part; A and B as they are, (r, d_in) and (d_out, r)."""
    model = adapted(net(), rank=2, dora=True)
    save_adapter(model, tmp_path)
    tensors, prefix = load_file(tmp_path / TENSORS), "base_model.model."
    for name, layer in adapters_of(model).items():
        assert torch.equal(tensors.pop(f"{prefix}{name}.lora_A.weight"), layer.A)
        assert torch.equal(tensors.pop(f"{prefix}{name}.lora_B.weight"), layer.B)
        assert torch.equal(tensors.pop(f"{prefix}{name}.lora_magnitude_vector"), layer.magnitude)
    assert not tensors


def test_settings_are_those_that_peft_and_vllm_read(tmp_path):
    """The commonest rank and alpha, whole numbers as such, and one expression for each layer that differs."""
    layers = {"proj": (2, 4), "block.proj": (3, 4), "layers.1": (2, 4.5), "layers.10": (2, 4)}
    save_adapter(mixed({name: (r, a, lora_scaling) for name, (r, a) in layers.items()}), tmp_path)
    config = said(tmp_path)
    wanted = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_rslora": False, "use_dora": False}
    assert wanted.items() <= config.items() and isinstance(config["lora_alpha"], int)
    assert config["rank_pattern"] == {r"^block\.proj": 3} and config["alpha_pattern"] == {r"^layers\.1": 4.5}


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_targets_mean_the_adapted_layers_and_no_others(tmp_path_factory, chosen):
    """By PEFT's rule: a list means names and their last parts, a string is an expression for the whole name."""
    folder = tmp_path_factory.mktemp("a")
    save_adapter(mixed({name: (1, 1, lora_scaling) for name in chosen}), folder)
    targets = said(folder)["target_modules"]
    if isinstance(targets, str):
        meant = {name for name, _ in net().named_modules() if re.fullmatch(targets, name)}
    else:
        ends = tuple(f".{target}" for target in targets)
        meant = {name for name, _ in net().named_modules() if name in targets or name.endswith(ends)}
    assert meant == set(chosen)
    assert isinstance(targets, str) == ("proj" in chosen and not {"block.proj", "block.deep.proj"} <= set(chosen))


def test_a_name_with_signs_of_an_expression_is_one_layer(tmp_path):
    """Names may hold + or ( too. (PEFT, too, reads them as they are written here.)"""
    model = nn.Sequential()
    for name in ("a+b", "aab", "a(b", "a_b"):
        model.add_module(name, nn.Linear(3, 2, dtype=torch.float64))
    model.add_module("block", nn.ModuleDict({"a+b": nn.Linear(3, 2)}))  # so that the targets are an expression
    base, layers = copy.deepcopy(model), list(model.children())
    replace_modules(model, {layers[i]: LoRALinear(layers[i], 1 + i, 5 + i) for i in (0, 2, 3)})
    save_adapter(trained(model), tmp_path)
    assert isinstance(said(tmp_path)["target_modules"], str)
    assert contents(load_adapter(base, tmp_path)) == contents(model)


def test_files_can_be_read_by_whoever_may_read_new_files(tmp_path):
    """safetensors' own save_file leaves 0600, so that no server under another user could read it."""
    (tmp_path / "other").touch()
    save_adapter(adapted(net()), tmp_path / "a")
    assert {path.stat().st_mode for path in (tmp_path / "a").iterdir()} == {(tmp_path / "other").stat().st_mode}


def test_the_name_of_a_base_is_kept(tmp_path):
    """Models of transformers know where they came from, and PEFT's tools look for it."""
    model = adapted(net())
    save_adapter(model, tmp_path)
    assert said(tmp_path)["base_model_name_or_path"] is None
    model.name_or_path = "some/model"
    save_adapter(model, tmp_path)
    assert said(tmp_path)["base_model_name_or_path"] == "some/model"


# ---------------------------------------------------------------- what others write

READ = {
    "all linear layers": {"target_modules": "all-linear"},
    "an expression": {"target_modules": r"(proj|block\.proj|layers\.\d+)", "layers_to_transform": [1, 10]},
    "last parts": {"target_modules": ["proj", "1", "10"], "exclude_modules": ["deep.proj"]},
    "no targets": {"target_modules": None},
    "settings left out": {"target_modules": ..., "lora_dropout": ..., "bias": ..., "rank_pattern": ...},
    "nulls": {"lora_dropout": None, "rank_pattern": None, "alpha_pattern": None, "use_dora": None, "bias": None},
    "starts that leave the base as it is": {"init_lora_weights": "gaussian"},
    "another such start": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
    "what says nothing by itself": {"loftq_config": {"bits": 4}, "megatron_core": "megatron.core",
                                    "qalora_group_size": 16, "peft_version": "9.9", "task_type": "CAUSAL_LM",
                                    "auto_mapping": {"a": "b"}, "revision": "main"},
    "unknown settings that say nothing": {"a": None, "b": False, "c": [], "d": {}, "e": "", "modules_to_save": [],
                                          "layer_replication": None, "lora_bias": False, "fan_in_fan_out": False},
}  # fmt: skip


@pytest.mark.parametrize("changes", READ.values(), ids=READ)
def test_settings_as_peft_writes_them_are_read(tmp_path, changes):
    """However the targets are said, the tensors decide; what says nothing changes nothing."""
    model = adapted(net())
    assert contents(load_adapter(net(), saved(tmp_path, model, **changes))) == contents(model)


def test_the_first_expression_that_ends_a_name_decides(tmp_path):
    """PEFT's rule: from a dot on to the end, in the order of the file; where none fits, the very name; else r."""
    patterns = {"block.proj": 4, "proj": 3, "1": 2, r"1\d": 5, "extra": 77, "layers.11": 77, "layers": 77}
    wanted = {"proj": 3, "block.proj": 4, "layers.1": 2, "layers.10": 5, "proj_extra": 6}
    model = mixed({name: (r, 2.0 * r, lora_scaling) for name, r in wanted.items()})
    alphas = {key: 2 * value for key, value in patterns.items()}
    folder = saved(tmp_path, model, r=6, lora_alpha=12, rank_pattern=patterns, alpha_pattern=alphas)
    assert contents(load_adapter(net(), folder)) == contents(model)


# ---------------------------------------------------------------- what is refused


def refusal(model: nn.Module, folder: Path) -> str:
    """What load_adapter says, the model proven to be as it was; half of its flags are set, so that freezing shows."""
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    before = snapshot(model)
    with pytest.raises(ValueError) as refused:
        load_adapter(model, folder)
    assert snapshot(model) == before
    return str(refused.value)


ONES = torch.ones
SETTINGS = {
    "another kind of adapter": ({"peft_type": "IA3"}, '"peft_type": "LORA"'),
    "no kind of adapter": ({"peft_type": ...}, '"peft_type": "LORA"'),
    "whole layers beside it": ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
    "trained biases": ({"bias": "all"}, "bias is 'all'"),
    "biases of the adapters": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "a bias of B": ({"lora_bias": True}, "lora_bias is True"),
    "transposed weights": ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is [[0, 2], [1, 3]]"),
    "trained tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is [1, 2]"),
    "adapted parameters": ({"target_parameters": ["experts"]}, "target_parameters is ['experts']"),
    "Megatron's layers": ({"megatron_config": {"a": 1}}, "megatron_config is {'a': 1}"),
    "another forward": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is [5]"),
    "another product": ({"use_qalora": True}, "use_qalora is True"),
    "a setting of the future": ({"use_wonder": "yes"}, "use_wonder is 'yes'"),
    "a number of the future": ({"wonder": 0.5}, "wonder is 0.5"),
    **{f"the start {name}": ({"init_lora_weights": name}, f"init_lora_weights is '{name}'")
       for name in ("pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga", "PiSSA", "wonder")},
    "a rank of another file": ({"r": 3}, "proj.lora_A.weight is (2, 5), and its layer and rank make it (3, 5)"),
    "a rank far too large": ({"r": 10**15}, "make it (1000000000000000, 5)"),
    "a rank of another layer": ({"rank_pattern": {"block.proj": 1}}, "block.proj.lora_A.weight is (2, 6)"),
    "no rank": ({"r": ...}, "rank is None"),
    "a rank of nothing": ({"r": 0}, "rank is 0"),
    "a broken rank": ({"r": 2.0}, "rank is 2.0"),
    "a rank that is true": ({"r": True}, "rank is True"),
    "no alpha": ({"lora_alpha": ...}, "alpha is None"),
    "a negative alpha": ({"lora_alpha": -1}, "alpha is -1"),
    "an alpha that is NaN": ({"lora_alpha": math.nan}, "alpha is nan"),
    "an infinite alpha": ({"alpha_pattern": {"layers.1": math.inf}}, "for layers.1: alpha is inf"),
    "a dropout out of range": ({"lora_dropout": 1.5}, "dropout is 1.5"),
    "a flag in words": ({"use_rslora": "false"}, "use_rslora is 'false'"),
    "another flag in words": ({"use_dora": "no"}, "use_dora is 'no'"),
    "patterns that are a list": ({"rank_pattern": [1]}, "rank_pattern is [1]"),
    "a pattern that is none": ({"alpha_pattern": {"(": 1}}, "which is no regular expression: missing )"),
    "targets that are none": ({"target_modules": "("}, "targets is '('"),
    "targets that are numbers": ({"target_modules": [1]}, "targets is [1]"),
    "targets that mean less": ({"target_modules": ["proj", "layers.1"]}, "tensors of layers.10, which target_modules"),
    "an expression that means less": ({"target_modules": r"proj|layers\.1"}, "tensors of block.proj, which"),
    "targets that mean more": ({"target_modules": ["proj", "layers.1", "layers.10"]}, "mean block.deep.proj, and"),
    "an expression that means more": ({"target_modules": r".*proj|layers\.\d+"}, "mean block.deep.proj, and"),
    "DoRA without magnitudes": ({"use_dora": True}, "proj has lora_A.weight, lora_B.weight; with use_dora True"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_wrong_or_not_known_are_refused_by_name(tmp_path, changes, words):
    """And the message names the folder, the setting and its value."""
    message = refusal(net(), saved(tmp_path, **changes))
    assert words in message and str(tmp_path) in message


NUMBERS = {
    "no A": ({"proj.lora_A.weight": None}, "proj has lora_B.weight; with"),
    "no B": ({"layers.10.lora_B.weight": None}, "layers.10 has lora_A.weight; with"),
    "a layer without tensors": ({"layers.10.lora_A.weight": None, "layers.10.lora_B.weight": None},
                                "target_modules mean layers.10, and adapter_model.safetensors has no tensor"),
    "a magnitude too many": ({"proj.lora_magnitude_vector": ONES(7)}, "lora_magnitude_vector; with use_dora False"),
    "a layer that is not there": ({"layers.12.lora_A.weight": ONES(2, 3)}, "of this model is called layers.12"),
    "a longer name": ({"proj_extra2.lora_A.weight": ONES(2, 7)}, "is called proj_extra2"),
    "a layer too many": ({"layers.11.lora_A.weight": ONES(2, 4)}, "tensors of layers.11, which target_modules"),
    "no linear layer": ({"block.norm.lora_A.weight": ONES(2, 4)}, "block.norm"),
    "an embedding's factor": ({"proj.lora_embedding_A": ONES(2, 4)}, "proj.lora_embedding_A is no tensor of LoRA"),
    "a trained bias": ({"proj.bias": ONES(7)}, "base_model.model.proj.bias is no tensor of LoRA"),
    "the name of an adapter": ({"proj.lora_A.default.weight": ONES(2, 5)}, "A.default.weight is no tensor of LoRA"),
    "the root": ({"lora_A.weight": ONES(2, 5)}, "base_model.model.lora_A.weight is no tensor of LoRA"),
    "A transposed": ({"proj.lora_A.weight": ONES(5, 2)}, "proj.lora_A.weight is (5, 2), and its layer and rank"),
    "B transposed": ({"proj.lora_B.weight": ONES(2, 7)}, "proj.lora_B.weight is (2, 7)"),
    "an empty A": ({"proj.lora_A.weight": ONES(0, 5)}, "proj.lora_A.weight is (0, 5), and its layer and rank"),
    "A of one dimension": ({"proj.lora_A.weight": ONES(10)}, "proj.lora_A.weight is (10,)"),
    "integers": ({"proj.lora_A.weight": ONES(2, 5, dtype=torch.int32)}, "proj.lora_A.weight is torch.int32"),
    "truth values": ({"proj.lora_A.weight": ONES(2, 5, dtype=torch.bool)}, "proj.lora_A.weight is torch.bool"),
    "8 bits": ({"proj.lora_B.weight": ONES(7, 2).to(torch.float8_e4m3fn)}, "proj.lora_B.weight is torch.float8_e4m3fn"),
    "NaN": ({"layers.1.lora_A.weight": ONES(2, 4) * math.nan}, "layers.1.lora_A.weight has numbers that are NaN"),
    "infinity": ({"proj.lora_B.weight": ONES(7, 2) * -math.inf}, "proj.lora_B.weight has numbers that are NaN or inf"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "words"), NUMBERS.values(), ids=NUMBERS)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, tensors, words):
    """Missing, left over, misshapen, no floats, not finite: the message has the key, and both shapes."""
    assert words in refusal(net(), saved(tmp_path, tensors=tensors))


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"])
def test_each_part_of_a_dora_layer_is_needed_whole(tmp_path, part):
    """Missing, of another shape, or NaN: refused, for the magnitude as for A and B."""
    for i, tensor in enumerate((None, ONES(1), ONES(7) * math.nan)):
        folder = saved(tmp_path / str(i), adapted(net(), dora=True), tensors={f"proj.{part}": tensor})
        assert "proj" in refusal(net(), folder)
    folder = saved(tmp_path / "lora", adapted(net(), dora=True), use_dora=False)
    assert "lora_magnitude_vector; with use_dora False" in refusal(net(), folder)


def test_a_number_that_is_infinite_in_the_base_s_dtype_is_refused(tmp_path):
    """1e300 is finite in a file of float64 and infinite on a base of float32."""
    folder = saved(tmp_path, tensors={"proj.lora_A.weight": ONES(2, 5, dtype=torch.float64) * 1e300})
    assert "infinite in torch.float32" in refusal(net(torch.float32), folder)
    load_adapter(net(), folder)
    folder = saved(tmp_path, tensors={"proj.lora_A.weight": ONES(2, 5) * 1e6})
    load_adapter(net(torch.float16), folder)  # where A is float32


def test_a_file_without_tensors_is_refused(tmp_path):
    saved(tmp_path)
    save_file({}, tmp_path / TENSORS)
    assert "holds no tensors" in refusal(net(), tmp_path)


def test_a_prefix_that_is_not_peft_s_is_refused(tmp_path):
    """Keys without base_model.model. fit nothing in PEFT; here they are an error, not an adapter that does nothing."""
    saved(tmp_path)
    save_file({k.removeprefix("base_model."): t for k, t in load_file(tmp_path / TENSORS).items()}, tmp_path / TENSORS)
    assert "model.block.proj.lora_A.weight is no tensor of LoRA: those are base_model.model.<layer>" in refusal(
        net(), tmp_path
    )


def test_an_adapter_for_another_model_is_refused(tmp_path):
    folder = saved(tmp_path)
    assert "no layer of this model is called block.proj" in refusal(nn.Sequential(nn.Linear(5, 7)), folder)
    wider = net()
    wider.proj = nn.Linear(6, 7, dtype=torch.float64)
    assert "proj.lora_A.weight is (2, 5), and its layer and rank make it (2, 6)" in refusal(wider, folder)


def test_missing_files_are_named(tmp_path):
    """No folder, no settings, no tensors: each is said, a pickle in their place with what to do."""
    assert f"{CONFIG} cannot be read" in refusal(net(), tmp_path / "none")
    saved(tmp_path / "a")
    (tmp_path / "a" / CONFIG).unlink()
    assert f"{CONFIG} cannot be read" in refusal(net(), tmp_path / "a")
    saved(tmp_path / "b")
    (tmp_path / "b" / TENSORS).unlink()
    assert f"there is no {TENSORS}" in refusal(net(), tmp_path / "b")
    torch.save({"a": ONES(1)}, tmp_path / "b" / "adapter_model.bin")
    assert "adapter_model.bin is a pickle" in refusal(net(), tmp_path / "b")
    saved(tmp_path / "b")  # the pickle that lies beside is not read
    assert contents(load_adapter(net(), tmp_path / "b")) == contents(adapted(net()))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"LORA"', b"\xff\xfe", b"version https://git-lfs"])
def test_settings_that_are_no_json_object_are_refused(tmp_path, content):
    (saved(tmp_path) / CONFIG).write_bytes(content)
    assert CONFIG in refusal(net(), tmp_path)


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(tmp_path, name):
    """In the length, in the head, in a tensor, one byte before the end: as after a download that broke."""
    path = saved(tmp_path, adapted(net(), dora=True)) / name
    content = path.read_bytes()
    for end in sorted({0, 1, 7, 8, 9, *(len(content) * i // 9 for i in range(9)), len(content) - 1}):
        path.write_bytes(content[:end])
        assert name in refusal(net(), tmp_path)
    path.write_bytes(content + b"x")
    assert name in refusal(net(), tmp_path)


@given(data=st.data())
def test_no_byte_of_the_head_can_break_a_model(tmp_path_factory, data):
    """A file whose head was changed anywhere is refused by ValueError, the model as it was, or says the same."""
    folder, model = tmp_path_factory.mktemp("a"), net()
    content = bytearray((saved(folder) / TENSORS).read_bytes())
    head = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, head - 1))] = data.draw(st.integers(0, 255))
    (folder / TENSORS).write_bytes(bytes(content))
    before = snapshot(model)
    try:
        load_adapter(model, folder)
    except ValueError:
        assert snapshot(model) == before
    else:
        assert len(contents(model)) == 4


def test_a_model_with_adapters_is_refused(tmp_path):
    """Ours, at any depth or at the root, or PEFT's, told by its names: the trained numbers stay."""
    folder = saved(tmp_path)
    for model in (adapted(net()), adapted(net(), targets=["layers.11"], dora=True), LoRALinear(nn.Linear(5, 7), 2, 3)):
        assert "has adapters already" in refusal(model, folder)
    foreign = net()
    foreign.proj.lora_A = nn.ModuleDict({"default": nn.Linear(5, 2)})
    assert "PEFT's own" in refusal(foreign, folder)
    foreign = net()
    foreign.peft_config = {}
    assert "PEFT's own" in refusal(foreign, folder)


def test_a_base_without_numbers_is_refused(tmp_path):
    """On the meta device what is loaded would be lost without a word."""
    model = net().to("meta")
    with pytest.raises(ValueError, match="proj is on the meta device"):
        load_adapter(model, saved(tmp_path))
    assert not adapters_of(model) and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at", [0, 2, 3])
@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_an_interruption_of_a_load_changes_nothing(tmp_path, monkeypatch, kind, at, error):
    """Ctrl-C or no memory, while any of the layers is made: modules, flags and bits are as before."""
    folder, made = saved(tmp_path, adapted(net(), dora=kind is DoRALinear)), []
    real = kind.__init__

    def failing(self, *arguments):
        made.append(self)
        real(self, *arguments)
        if len(made) == at + 1:
            raise error

    monkeypatch.setattr(kind, "__init__", failing)
    model = net()
    before = snapshot(model)
    with pytest.raises(error):
        load_adapter(model, folder)
    assert snapshot(model) == before and len(made) == at + 1


# ---------------------------------------------------------------- what cannot be saved


class Own(LoRALinear):
    """A class of somebody's own, with another forward."""

    def forward(self, x):
        return 2 * super().forward(x)


def spoiled(change) -> nn.Module:
    model = adapted(net())
    with torch.no_grad():
        change(model)
    return model


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


UNSAVABLE = {
    "no adapter": (net, "add_adapters puts them in"),
    "a lone layer": (lambda: LoRALinear(nn.Linear(2, 3), 1, 1), "has no name"),
    "LoRA beside DoRA": (lambda: spoiled(lambda m: put(m, "proj", DoRALinear(m.proj.base, 2, 3))),
                         "DoRALinear at proj, LoRALinear at layers.10"),
    "two dropouts": (lambda: spoiled(lambda m: setattr(m.proj, "dropout", 0.5)), "0.5 at proj, 0.0 at layers.10"),
    "a class of one's own": (lambda: mixed({"proj": (1, 1, lora_scaling)}, Own), "Own may compute what PEFT does not"),
    "a scaling of zero": (lambda: spoiled(lambda m: setattr(m.proj, "scaling", 0.0)), "proj: scaling is 0.0"),
    "a negative scaling": (lambda: spoiled(lambda m: setattr(m.proj, "scaling", -1.0)), "proj: scaling is -1.0"),
    "a scaling that is NaN": (lambda: spoiled(lambda m: setattr(m.proj, "scaling", math.nan)), "proj: scaling is nan"),
    "a scaling too large": (lambda: spoiled(lambda m: setattr(m.proj, "scaling", 1e308)), "proj: scaling is 1e+308"),
    "NaN": (lambda: spoiled(lambda m: m.proj.A.fill_(math.nan)), "proj.lora_A.weight has numbers that are NaN"),
    "infinity": (lambda: spoiled(lambda m: m.proj.B[0].fill_(math.inf)), "proj.lora_B.weight has numbers that are NaN"),
    "another rank": (lambda: spoiled(lambda m: setattr(m.proj, "A", nn.Parameter(ONES(3, 5)))),
                     "proj.lora_A.weight is (3, 5), and its layer and rank make it (2, 5)"),
    "an empty factor": (lambda: spoiled(lambda m: setattr(m.proj, "B", nn.Parameter(ONES(0)))),
                        "proj.lora_B.weight is (0,), and its layer and rank make it (7, 2)"),
    "no numbers": (lambda: adapted(net()).to("meta"), "proj.lora_A.weight is on the meta device"),
    "PEFT's adapters": (lambda: spoiled(lambda m: setattr(m, "peft_config", {})), "model.save_pretrained"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_cannot_be_said_in_a_folder_is_refused_and_nothing_written(tmp_path, make, words):
    """The old folder stays, to the byte; a new one is not made."""
    saved(tmp_path / "old")
    before = files_of(tmp_path / "old")
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(ValueError) as refused:
            save_adapter(make(), folder)
        assert words in str(refused.value)
    assert files_of(tmp_path / "old") == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_that_does_nothing_is_told(tmp_path, dora):
    """Every B zero: a warning that says so, at the caller's line. One B that is not, or one magnitude: none."""
    model = add_adapters(net(), AdapterConfig(rank=2, alpha=3, targets=SOME, dora=dora))
    with pytest.warns(UserWarning, match="does nothing") as told:
        save_adapter(model, tmp_path)
    assert told[0].filename == __file__
    assert torch.equal(load_adapter(net(), tmp_path)(inputs()), net()(inputs()))
    part = model.layers[10].magnitude if dora else model.layers[10].B
    with torch.no_grad():
        part[1] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_adapter(model, tmp_path)


# ---------------------------------------------------------------- one pair or the other, never a mixture

PAIRS = {
    "another rank": ({}, {"rank": 3}),
    "another alpha alone": ({}, {"alpha": 7}),
    "another kind": ({"dora": True}, {}),
    "other layers": ({}, {"targets": ["layers.10"]}),
    "the same settings": ({}, {}),
}


def old_and_new(options: tuple[dict, dict]) -> tuple[nn.Module, nn.Module]:
    return adapted(net(), **options[0]), adapted(net(), seed=5, **options[1])


def failing_at(call: int, moved: bool, error: type[BaseException]):
    """An os.replace whose call number `call`, from 0, raises `error`: instead of moving the file, or after it."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) != call + 1 or moved:
            real(source, target)
        if len(calls) == call + 1:
            raise error

    return replace


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("moved", [False, True], ids=["before the move", "after it"])
@pytest.mark.parametrize("options", PAIRS.values(), ids=PAIRS)
def test_an_interrupted_save_leaves_the_old_pair_or_the_new_one(tmp_path, monkeypatch, options, moved, error):
    """Whichever move is the last: the old pair until the tensors have moved, the new one from then on, no leavings."""
    old, new = old_and_new(options)
    moves = 2 if options == ({}, {}) else 3
    for call in range(moves):
        folder = tmp_path / str(call)
        save_adapter(old, folder)
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(os, "replace", failing_at(call, moved, error))
            save_adapter(new, folder)
        wanted = new if call + moved > moves - 2 else old
        assert contents(load_adapter(net(), folder)) == contents(wanted)
        assert set(files_of(folder)) == {CONFIG, TENSORS}


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("moved", [False, True], ids=["before the move", "after it"])
def test_an_interrupted_first_save_leaves_a_whole_pair_or_no_adapter(tmp_path, monkeypatch, call, moved):
    """Also over the leavings of an older one: tensors without settings never get the settings of others."""
    model, folder = adapted(net(), seed=5, alpha=7), saved(tmp_path / "a")
    (folder / CONFIG).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", failing_at(call, moved, KeyboardInterrupt))
        save_adapter(model, folder)
    if call + moved == 0:
        assert f"{CONFIG} cannot be read" in refusal(net(), folder)
    else:
        assert contents(load_adapter(net(), folder)) == contents(model)
    assert set(files_of(folder)) <= {CONFIG, TENSORS}


@pytest.mark.parametrize("options", PAIRS.values(), ids=PAIRS)
def test_a_killed_save_never_leaves_a_mixture(tmp_path, monkeypatch, options):
    """What lies there before and after each move is the old pair, the new one, or without settings and refused."""
    old, new = old_and_new(options)
    real, seen = os.replace, []

    def look() -> None:
        seen.append(shutil.copytree(tmp_path / "a", tmp_path / f"seen {len(seen)}"))

    def watched(source, target):
        look()
        real(source, target)
        look()

    save_adapter(old, tmp_path / "a")
    monkeypatch.setattr(os, "replace", watched)
    save_adapter(new, tmp_path / "a")
    assert len(seen) == (4 if options == ({}, {}) else 6)
    for folder in seen:
        if (folder / CONFIG).exists():
            assert contents(load_adapter(net(), folder)) in (contents(old), contents(new))
        else:
            assert options != ({}, {}) and f"{CONFIG} cannot be read" in refusal(net(), folder)


def test_a_save_that_cannot_even_go_back_loses_nothing(tmp_path, monkeypatch):
    """Interrupted, and again while it puts things right: both pairs still lie in the folder, under other names."""
    old, new = old_and_new(({}, {"rank": 3}))
    save_adapter(old, tmp_path)
    before, real, calls = files_of(tmp_path), os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", failing)
        save_adapter(new, tmp_path)
    save_adapter(new, tmp_path / "new")
    assert {*before.values(), *files_of(tmp_path / "new").values()} == {
        path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    }


def test_a_full_disk_leaves_the_old_pair(tmp_path, monkeypatch):
    """A file that cannot be made, or not to its end, has replaced nothing yet; nor is a lone file made a pair."""
    save_adapter(adapted(net()), tmp_path / "pair")
    (tmp_path / "lone").mkdir()
    shutil.copy(tmp_path / "pair" / TENSORS, tmp_path / "lone")
    real = Path.write_bytes
    for folder, broken, half in itertools.product((tmp_path / "pair", tmp_path / "lone"), (TENSORS, CONFIG), (0, 1)):

        def failing(path, content, broken=broken, half=half):
            if broken not in path.name or half:
                real(path, content[: len(content) // 2] if broken in path.name else content)
            if broken in path.name:
                raise OSError("no space left on device")

        before = files_of(folder)
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(Path, "write_bytes", failing)
            save_adapter(adapted(net(), rank=3), folder)
        assert files_of(folder) == before


def test_other_files_in_the_folder_stay(tmp_path):
    """A tokenizer, a card, another one's leavings: two files are replaced, nothing else is touched."""
    others = {"README.md": b"a card", "tokenizer.json": b"{}", ".old-12": b"?"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    for rank in (2, 3):
        save_adapter(adapted(net(), rank=rank), tmp_path)
        assert {n: c for n, c in files_of(tmp_path).items() if n in others} == others
        assert set(files_of(tmp_path)) == {CONFIG, TENSORS, *others}
        assert {a.rank for a in adapters_of(load_adapter(net(), tmp_path)).values()} == {rank}


def test_a_folder_is_made_with_its_parents_and_may_be_a_string(tmp_path):
    save_adapter(adapted(net()), str(tmp_path / "a" / "b"))
    assert contents(load_adapter(net(), str(tmp_path / "a" / "b"))) == contents(adapted(net()))
