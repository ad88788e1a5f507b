"""Adapters on a whole model: which layers get one, what is refused, and that a refusal changes nothing."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_close, trained_like
from torch import nn

from lora_from_scratch import (
    AdapterConfig,
    DoRALinear,
    LoRALinear,
    add_adapters,
    count_parameters,
    merge_adapters,
    print_trainable_parameters,
    trainable_parameters,
)
from lora_from_scratch.inject import is_adapter
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.targets import find_targets

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FEWER = max(1, settings.default.max_examples // 3)  # examples of a property whose every example builds a model


def tiny(tied: bool = False) -> TinyLlama:
    """A Llama of two blocks in float64; q and o are 8 x 8, k and v 4 x 8, gate and up 12 x 8, down 8 x 12."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 7}
    return TinyLlama(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)).double()


def tokens() -> torch.Tensor:
    return torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


def adapted(model: nn.Module, **options) -> nn.Module:
    """`model` with adapters whose A and B are not zero."""
    return trained_like(add_adapters(model, AdapterConfig(**{"rank": 2, "alpha": 3} | options)))


def names_adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules(remove_duplicate=False) if is_adapter(module)]


def snapshot(model: nn.Module) -> list:
    """All that must not change: which modules stand where, in which mode, and each parameter with its flag and bits."""
    modules = [(name, id(m), m.training) for name, m in model.named_modules(remove_duplicate=False)]
    parameters = [
        (name, id(p), p.requires_grad, p.detach().clone().nan_to_num().tolist())
        for name, p in model.named_parameters(remove_duplicate=False)
    ]
    return [modules, parameters]


class Fused(nn.Module):
    """An attention layer whose q, k and v are one matrix."""

    def __init__(self):
        super().__init__()
        self.qkv, self.norm, self.embed = nn.Linear(6, 18), nn.LayerNorm(6), nn.Embedding(9, 6)

    def forward(self, ids):
        return self.qkv(self.norm(self.embed(ids)))


class Headed(nn.Module):
    """A model that says itself which layer gives the logits, under a name of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.readout = nn.Linear(6, 6), nn.Linear(6, 9)

    def get_output_embeddings(self):
        return self.readout


class Shared(nn.Module):
    """One layer at two places, and in a list."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second, self.several = self.first, nn.ModuleList([nn.Linear(6, 6), self.first])

    def forward(self, x):
        return self.several[1](self.several[0](self.second(self.first(x))))


class Conv1D(nn.Module):
    """Named as the transposed layer of `transformers`, whose name is what it is told by."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 18))


# Which layers


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (["q_proj"], r".*\.q_proj"),
        (("q_proj", "v_proj"), r".*\.[qv]_proj"),
        (["self_attn.q_proj", "mlp.up_proj"], r".*\.(q|up)_proj"),
        (["model.layers.1.mlp.down_proj"], r"model\.layers\.1\.mlp\.down_proj"),
        (["1.mlp.down_proj"], r"model\.layers\.1\.mlp\.down_proj"),
        (r".*\.0\..*_proj", r".*\.0\..*_proj"),
        (r"model\.layers\.\d+\.mlp\.(gate|up)_proj", r".*\.(gate|up)_proj"),
        ("all-linear", r".*_proj"),
        (["lm_head"], "lm_head"),
        ("lm_head", "lm_head"),
    ],
)
def test_targets(targets, wanted):
    """A list holds last parts of dotted names, a string is an expression for a whole one; all else is left as it is."""
    model = tiny()
    all_names = [name for name, _ in model.named_modules()]
    add_adapters(model, AdapterConfig(rank=2, targets=targets))
    assert names_adapted(model) == [name for name in all_names if re.fullmatch(wanted, name)] != []


@pytest.mark.parametrize("targets", ["q_proj", "proj", r"layers\.0", "self_attn"])
def test_string_matches_whole_name(targets):
    """A string that fits only a part of a name matches nothing."""
    with pytest.raises(ValueError, match="match no layer"):
        find_targets(tiny(), targets)


def test_names_match_whole_parts():
    """A name in a list matches whole parts of dotted names: "proj" is not "q_proj"."""
    with pytest.raises(ValueError, match="no layer is called proj"):
        find_targets(tiny(), ["proj"])


@settings(max_examples=FEWER)
@given(chosen=st.sets(st.sampled_from(LAYERS), min_size=1))
def test_only_adapters_train(chosen):
    """Whichever layers are chosen, A and B of each are trainable and every other parameter is frozen."""
    model = add_adapters(tiny(), AdapterConfig(rank=2, targets=sorted(chosen)))
    for name, parameter in model.named_parameters():
        *_, layer, last = name.split(".")
        assert parameter.requires_grad == (layer in chosen and last in ("A", "B")), name
    assert len(names_adapted(model)) == 2 * len(chosen)


def test_all_linear_leaves_head_by_name():
    """ "all-linear" leaves alone what is called lm_head."""
    assert "lm_head" not in names_adapted(add_adapters(tiny(), AdapterConfig()))


def test_all_linear_leaves_head_that_model_names():
    """ "all-linear" leaves alone what get_output_embeddings() gives, whatever it is called."""
    assert names_adapted(add_adapters(Headed(), AdapterConfig())) == ["body"]


def test_all_linear_leaves_tied_head():
    """ "all-linear" leaves alone a layer whose weight is an embedding's, whatever it is called."""
    model = nn.ModuleDict({"embed": nn.Embedding(9, 6), "body": nn.Linear(6, 6), "out": nn.Linear(6, 9, bias=False)})
    model["out"].weight = model["embed"].weight
    assert names_adapted(add_adapters(model, AdapterConfig())) == ["body"]


def test_untied_layer_of_same_shape_is_no_head():
    """A linear layer that merely has an embedding's shape and numbers is adapted."""
    model = nn.ModuleDict({"embed": nn.Embedding(9, 6), "out": nn.Linear(6, 9, bias=False)})
    model["out"].weight.data = model["embed"].weight.data.clone()
    assert names_adapted(add_adapters(model, AdapterConfig())) == ["out"]


def test_shared_layer_gets_one_adapter():
    """A layer at several places gets one adapter, at all of them; merged, it is one layer again."""
    torch.manual_seed(0)
    model = adapted(Shared().double())
    x = torch.randn(3, 6, dtype=torch.float64)
    assert model.first is model.second is model.several[1] and isinstance(model.first, LoRALinear)
    assert sum(p.numel() for p in trainable_parameters(model)) == 2 * 2 * (6 + 6)  # two layers, not four
    before = model(x).detach()
    merge_adapters(model)
    assert model.first is model.second is model.several[1] and type(model.first) is nn.Linear
    assert_close(model(x), before)


def test_fused_layer_is_one_matrix():
    """A fused qkv layer of 6 -> 18 is not split: r · (6 + 18) parameters."""
    model = add_adapters(Fused(), AdapterConfig(rank=3, targets=["qkv"]))
    assert count_parameters(model)[0] == 3 * (6 + 18)
    assert (model.qkv.A.shape, model.qkv.B.shape) == ((3, 6), (18, 3))


def test_config_reaches_every_layer():
    """Rank, alpha and dropout of the configuration are those of every adapter."""
    model = add_adapters(tiny(), AdapterConfig(rank=3, alpha=5, dropout=0.25))
    layers = [module for module in model.modules() if is_adapter(module)]
    assert len(layers) == 2 * len(LAYERS)
    assert {(m.rank, m.alpha, m.scaling, m.dropout) for m in layers} == {(3, 5.0, 5 / 3, 0.25)}


@pytest.mark.parametrize("dora", [False, True])
def test_config_chooses_the_layer_s_class(dora):
    """dora=True gives DoRALinear everywhere, with magnitudes that are trained; dora=False gives plain LoRALinear."""
    model = add_adapters(tiny(), AdapterConfig(rank=2, dora=dora))
    kinds = {type(module) for module in model.modules() if is_adapter(module)}
    assert kinds == {DoRALinear if dora else LoRALinear}
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == ({"A", "B", "magnitude"} if dora else {"A", "B"})


def test_dropout_acts_in_train_mode_alone():
    """Dropout that the configuration asks for changes the model's output in train mode, and not in eval mode."""
    with_it, without = adapted(tiny(), dropout=0.5), adapted(tiny())
    without.load_state_dict(with_it.state_dict())
    assert not torch.equal(with_it.train()(tokens()), without(tokens()))
    assert torch.equal(with_it.eval()(tokens()), without(tokens()))


@pytest.mark.parametrize("training", [True, False])
def test_start_is_model(training):
    """An adapted model starts out with the model's output to the bit, in train mode with dropout too."""
    model = add_adapters(tiny().train(training), AdapterConfig(rank=2, dropout=0.5))
    assert torch.equal(model(tokens()), tiny()(tokens()))


def test_model_is_adapted_in_place():
    """add_adapters and merge_adapters return the very model; wrapped layers and parameters are the old objects."""
    model = tiny()
    parameters = {id(p) for p in model.parameters()}
    assert add_adapters(model, AdapterConfig(rank=2)) is model
    assert parameters < {id(p) for p in model.parameters()}
    assert merge_adapters(model) is model


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_kept(training):
    """Adding and merging keep the model's mode, and that of a part in another mode."""
    model = tiny().train(training)
    model.model.layers[0].train(not training)
    modes = {name: module.training for name, module in model.named_modules()}
    for change in (lambda: add_adapters(model, AdapterConfig(rank=2)), lambda: merge_adapters(model)):
        change()
        for name, module in model.named_modules():
            assert module.training == modes[re.sub(r"\.base$", "", name)], name


def test_model_names_stay():
    """Outside the adapters every parameter keeps its name; the merged model's state dict loads into a fresh one."""
    model = adapted(tiny())
    kept = {name.replace(".base.", ".") for name in model.state_dict() if name.rpartition(".")[2] not in ("A", "B")}
    assert kept == set(tiny().state_dict())
    output = model(tokens()).detach()
    fresh = tiny()
    fresh.load_state_dict(merge_adapters(model).state_dict(), strict=True)
    assert_close(fresh(tokens()).detach(), output)


def test_state_dict_round_trip():
    """An adapted model's state dict loads strictly into another adapted model, with the same output to the bit."""
    model, other = adapted(tiny()), add_adapters(tiny(), AdapterConfig(rank=2, alpha=3))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(tokens()), model(tokens()))


def test_copy_is_independent():
    """A deep copy of an adapted model gives the same output, and merging the copy leaves the original adapted."""
    model = adapted(tiny())
    output, before, twin = model(tokens()), snapshot(model), copy.deepcopy(model)
    assert torch.equal(twin(tokens()), output)
    merge_adapters(twin)
    assert snapshot(model) == before and torch.equal(model(tokens()), output)


# What is refused


def add(model, **options):
    return add_adapters(model, AdapterConfig(**{"rank": 2, "alpha": 3} | options))


def with_mha():
    return nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2), "mlp": nn.Linear(6, 6)})


def with_parametrization():
    return nn.Sequential(nn.Linear(6, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)))


REFUSED = {
    "one name of none": (tiny, ["query"], "no layer is called query; linear layers here end in .*q_proj"),
    "one name of several": (tiny, ["q_proj", "qeury", "v_proj"], "no layer is called qeury; .*q_proj.*v_proj"),
    "two names of several": (tiny, ["q_proj", "a", "b"], "no layer is called a, b; .*q_proj"),
    "expression": (tiny, r".*\.query", r"targets .* match no layer; linear layers here end in .*q_proj"),
    "name as a string": (tiny, "q_proj", r'match no layer \(did you mean the list \["q_proj"\]\?\); .*down_proj'),
    "no linear layer": (lambda: nn.Sequential(nn.ReLU()), "all-linear", "match no layer; there are no linear layers"),
    "only a head": (lambda: nn.ModuleDict({"lm_head": nn.Linear(6, 9)}), "all-linear", "match no layer"),
    "embedding": (tiny, ["q_proj", "embed_tokens"], r"target model\.embed_tokens: Embedding is no linear layer"),
    "norm": (tiny, ["norm"], r"target model\.norm: RMSNorm is no linear layer"),
    "container": (tiny, ["mlp"], r"target model\.layers\.0\.mlp: MLP is no linear layer"),
    "list of modules": (tiny, ["layers"], r"target model\.layers: ModuleList is no linear layer"),
    "expression for too much": (tiny, r"model\.layers\..*", r"target model\.layers\.0: Block is no linear layer"),
    "norm beside linear": (Fused, ["qkv", "norm"], "target norm: LayerNorm is no linear layer"),
    "transposed": (
        lambda: nn.Sequential(nn.Linear(6, 6), Conv1D()),
        "all-linear",
        "target 1: Conv1D stores its weight",
    ),
    "parametrized": (with_parametrization, "all-linear", "target 1: .*remove_parametrizations"),
    "attention's own": (with_mha, ["out_proj"], r"target attention\.out_proj: nn\.MultiheadAttention reads"),
    "attention's own by all": (with_mha, "all-linear", r"target attention\.out_proj: nn\.MultiheadAttention reads"),
    "adapted": (
        lambda: adapted(tiny()),
        ["q_proj"],
        r"has adapters already, the first at model\.layers\.0\.self_attn\.q_proj;",
    ),
    "adapted elsewhere": (lambda: adapted(tiny(), targets=["q_proj"]), ["v_proj"], "has adapters already"),
    "base of an adapter": (lambda: adapted(tiny(), targets=["q_proj"]), r".*\.base", "has adapters already"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusal_names_and_changes_nothing(kind):
    """What is refused is named, with what there is instead; the model's modules, numbers, flags and modes stay."""
    make, targets, words = REFUSED[kind]
    model = make()
    next(iter(model.parameters()), nn.Parameter(torch.zeros(1))).requires_grad_(False)  # flags of both kinds
    next(model.children()).eval()
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        add(model, targets=targets)
    assert snapshot(model) == before


def test_list_of_what_there_is_names_each_once():
    """The list of linear layers names each last part once, in order."""
    with pytest.raises(ValueError) as refusal:
        add(tiny(), targets=["query"])
    assert str(refusal.value).endswith("linear layers here end in " + ", ".join(sorted([*LAYERS, "lm_head"])))


def test_failure_half_way_changes_nothing(monkeypatch):
    """If building the third adapter fails, the flags that the first two have changed are put back."""
    model, made = tiny(), []
    model.model.norm.weight.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.weight.requires_grad_(False)
    before = snapshot(model)

    def fail_at_third(base, *rest):
        if len(made) == 2:
            raise MemoryError("no memory for a third")
        made.append(LoRALinear(base, *rest))
        return made[-1]

    monkeypatch.setattr("lora_from_scratch.inject.LoRALinear", fail_at_third)
    with pytest.raises(MemoryError):
        add(model)
    assert len(made) == 2 and snapshot(model) == before


def test_model_that_is_itself_a_layer_is_refused():
    """A bare nn.Linear has no parent in which an adapter could stand; nothing in it matches."""
    model = nn.Linear(6, 6)
    with pytest.raises(ValueError, match="match no layer"):
        add(model)
    assert model.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": -1}, "rank is -1"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"rank": True}, "rank is True"),
        ({"rank": "8"}, "rank is '8'"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": -1}, "alpha is -1"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": True}, "alpha is True"),
        ({"alpha": "x"}, "alpha is 'x'"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"dropout": True}, "dropout is True"),
        ({"targets": []}, r"targets is \[\]"),
        ({"targets": ""}, "targets is ''"),
        ({"targets": [""]}, r"targets is \[''\]"),
        ({"targets": [1]}, r"targets is \[1\]"),
        ({"targets": None}, "targets is None"),
        ({"targets": 3}, "targets is 3"),
        ({"targets": {"q_proj"}}, r"targets is \{'q_proj'\}"),
        ({"targets": "(q"}, r"targets is '\(q', which is no regular expression"),
    ],
)
def test_config_is_checked_when_made(options, words):
    """A configuration out of range is refused when it is made, and the value is named."""
    with pytest.raises(ValueError, match=words):
        AdapterConfig(**options)


def test_config_defaults():
    """Rank 16, alpha 32, no dropout, every linear layer, plain LoRA; a made configuration does not change."""
    config = AdapterConfig()
    got = (config.rank, config.alpha, config.dropout, config.targets, config.rslora, config.dora)
    assert got == (16, 32, 0.0, "all-linear", False, False)
    with pytest.raises(AttributeError):
        config.rank = 8


# Merging


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["lm_head"], [*LAYERS, "lm_head"]], ids=str)
def test_merge_is_equivalent(targets):
    """In float64 the merged Llama gives the logits of the adapted one to 1e-12, and has the old one's layers."""
    model = adapted(tiny(), targets=targets)
    logits = model(tokens()).detach()
    assert (logits - tiny()(tokens())).abs().max() > 1e-3  # the adapters do something
    merge_adapters(model)
    assert_close(model(tokens()).detach(), logits)
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in tiny().named_modules()]


def test_merged_model_is_frozen():
    """A merged model is frozen, as its base was, and says so when an optimizer asks."""
    model = merge_adapters(adapted(tiny()))
    with pytest.raises(ValueError, match="nothing in this model is trainable"):
        trainable_parameters(model)


def test_merged_model_can_be_adapted_again():
    """After a merge the model takes new adapters, which start at the merged model's output."""
    model = merge_adapters(adapted(tiny()))
    merged = model(tokens())
    assert torch.equal(add(model)(tokens()), merged)


def test_merge_without_adapters_is_refused():
    """Merging what has no adapters is an error, so that nothing is added twice; the model stays."""
    model = tiny()
    before = snapshot(model)
    with pytest.raises(ValueError, match="no adapters to merge"):
        merge_adapters(model)
    assert snapshot(model) == before


def test_second_merge_is_refused():
    """Merging twice is an error, and the merged model stays as the first merge left it."""
    model = merge_adapters(adapted(tiny()))
    before = snapshot(model)
    with pytest.raises(ValueError, match="no adapters to merge"):
        merge_adapters(model)
    assert snapshot(model) == before


def test_merge_of_bare_layer_is_refused():
    """An adapted layer that is the whole model has no parent; the message says to call layer.merge()."""
    with pytest.raises(ValueError, match=r"use layer\.merge\(\)"):
        merge_adapters(LoRALinear(nn.Linear(6, 6), 2, 3))


def test_merge_that_fails_midway_changes_nothing():
    """If the last layer's merge has no finite value, it is named, and the model stands as it was, all adapters in."""
    model = adapted(tiny())
    nn.init.constant_(model.model.layers[1].mlp.down_proj.B, float("inf"))
    before, names = snapshot(model), names_adapted(model)
    assert names[-1] == "model.layers.1.mlp.down_proj"
    with pytest.raises(ValueError, match=r"^model\.layers\.1\.mlp\.down_proj: the merged weight is not finite"):
        merge_adapters(model)
    assert snapshot(model) == before and names_adapted(model) == names


def test_tied_head_asked_for_by_name():
    """The adapter of a tied head acts on the head alone: its merge leaves the embedding to the bit, and unties them."""
    model = tiny(tied=True)
    embedding = model.model.embed_tokens.weight
    assert model.lm_head.weight is embedding
    numbers = embedding.detach().clone()
    adapted(model, targets=["lm_head"])
    logits = model(tokens()).detach()
    merge_adapters(model)
    assert model.model.embed_tokens.weight is embedding and torch.equal(embedding, numbers)
    assert not torch.equal(model.lm_head.weight, embedding)
    assert_close(model(tokens()).detach(), logits)


# Counting, and the optimizer


@settings(max_examples=FEWER)
@given(rank=st.integers(1, 5), chosen=st.sets(st.sampled_from(LAYERS), min_size=1))
def test_count_is_formula(rank, chosen):
    """Trainable are r · (d_in + d_out), summed over the adapted layers; all are these and the model's own."""
    before = count_parameters(tiny())[1]
    shapes = {"q_proj": 8 + 8, "k_proj": 8 + 4, "v_proj": 8 + 4, "o_proj": 8 + 8}
    shapes |= {"gate_proj": 8 + 12, "up_proj": 8 + 12, "down_proj": 12 + 8}
    wanted = 2 * rank * sum(shapes[name] for name in chosen)  # two blocks
    model = add_adapters(tiny(), AdapterConfig(rank=rank, targets=sorted(chosen)))
    assert count_parameters(model) == (wanted, before + wanted)


def test_tied_parameter_counts_once():
    """A head tied to the embedding adds nothing to the count; untied it adds 11 · 8."""
    assert count_parameters(tiny())[1] - count_parameters(tiny(tied=True))[1] == 11 * 8


def test_printed_line(capsys):
    """The line is PEFT's: 4096 x 4096 at rank 16 trains 131,072 of 16,908,288, which is 0.7752 %."""
    with torch.device("meta"):
        model = nn.ModuleDict({"layer": nn.Linear(4096, 4096, bias=False)})
    print_trainable_parameters(add_adapters(model, AdapterConfig(rank=16)))
    line = "trainable params: 131,072 || all params: 16,908,288 || trainable%: 0.7752\n"
    assert capsys.readouterr().out == line


def test_printed_line_of_empty_model(capsys):
    """A model without parameters prints zeros."""
    print_trainable_parameters(nn.Sequential())
    assert capsys.readouterr().out == "trainable params: 0 || all params: 0 || trainable%: 0.0000\n"


def test_trainable_parameters_are_those_of_adapters():
    """trainable_parameters is the list of every A and B, each once."""
    model = add(tiny())
    wanted = [p for module in model.modules() if is_adapter(module) for p in (module.A, module.B)]
    assert {id(p) for p in trainable_parameters(model)} == {id(p) for p in wanted}
    assert type(trainable_parameters(model)) is list and len(trainable_parameters(model)) == 2 * 2 * len(LAYERS)


def test_nothing_trainable_is_refused():
    """A model with nothing to train is an error where the optimizer is made, not a run that learns nothing."""
    with pytest.raises(ValueError, match="nothing in this model is trainable; add_adapters first"):
        trainable_parameters(tiny().requires_grad_(False))


def test_optimizer_after_adapters_reaches_all_of_them():
    """An optimizer built after the adapters holds exactly what is trainable; two steps move all that and no more."""
    model = add(tiny())
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=0.01)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):  # at B = 0 the first reaches only B
        optimizer.zero_grad()
        model(tokens()).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
        assert parameter.requires_grad or parameter.grad is None, name


def test_step_on_meta_device():
    """A training step of an adapted Llama on the meta device: a stray CPU tensor would raise."""
    model = add(tiny().to("meta"), dropout=0.5)
    optimizer = torch.optim.AdamW(trainable_parameters(model))
    model(tokens().to("meta")).sum().backward()
    optimizer.step()
    assert all(p.is_meta for p in model.parameters()) and merge_adapters(model)(tokens().to("meta")).is_meta
