"""PEFT loads what is saved here, and what PEFT saves is loaded here: the same logits, either way."""

import copy
import json
import warnings

import peft
import pytest
import torch
import transformers
from pairs import adapters_of, assert_near, peft_adapters_of
from torch import nn

from lora_from_scratch import DoRALinear, LoRALinear, lora_scaling, rslora_scaling
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.peft_format import load_adapter, save_adapter
from lora_from_scratch.targets import find_targets, replace_modules

# The same products in another order: float32 rounds by 6e-8, float64 by 1e-16, and two blocks add up a few of them.
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
SIZES = {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_key_value_heads": 2}
CONFIG = LlamaConfig(**SIZES, num_attention_heads=4, max_position_embeddings=24)
METHODS = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "rslora+dora": {"rslora": True, "dora": True},
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
BLOCK_LAYERS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()


class Ends(nn.Module):
    """Thirteen layers whose names are ends, starts and near misses of one another."""

    def __init__(self):
        super().__init__()
        self.proj, self.proj_extra = nn.Linear(5, 7), nn.Linear(7, 6, bias=False)
        self.block = nn.ModuleDict({"proj": nn.Linear(6, 4), "xproj": nn.Linear(4, 4)})
        self.layers = nn.ModuleList([nn.Linear(4, 3 + 2 * (i % 2)) for i in range(12)])

    def forward(self, x):
        x = self.block["xproj"](self.block["proj"](self.proj_extra(torch.tanh(self.proj(x)))))
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


class Shared(nn.Module):
    """One block at two places."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5))
        self.again = self.block

    def forward(self, x):
        return self.again(self.block(x))


def spread(model: nn.Module) -> nn.Module:
    """Matrices of a size at which every layer shows in the output."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5)
    return model.eval()


def huggingface() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**vars(CONFIG), use_cache=False))


IDS = torch.randint(31, (3, 20), generator=torch.Generator().manual_seed(2))
X = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
CASES = {  # a model, and what goes in
    "TinyLlama": (lambda: TinyLlama(CONFIG), IDS),
    "transformers": (huggingface, IDS),
    "ends": (Ends, X),
    "shared": (Shared, X),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
llamas = pytest.mark.parametrize("case", list(CASES.values())[:2], ids=list(CASES)[:2])
ENDS = CASES["ends"]


def base(case: tuple, dtype: torch.dtype) -> nn.Module:
    """The same numbers at every call."""
    torch.manual_seed(1)
    return spread(case[0]().to(dtype))


@torch.no_grad()
def output(model: nn.Module, case: tuple, dtype: torch.dtype) -> torch.Tensor:
    found = model(case[1].to(dtype) if case[1].is_floating_point() else case[1])
    return getattr(found, "logits", found)


@torch.no_grad()
def fill(parameters: dict[str, nn.Parameter]) -> None:
    """B of a size that changes the outputs, magnitudes up to a half away from their start, A as it is."""
    for name, parameter in parameters.items():
        if "lora_B" in name or name.endswith(".B"):
            parameter.normal_(std=0.03)
        if "magnitude" in name:
            parameter.mul_(0.5 + torch.rand_like(parameter))


def ours(case: tuple, dtype: torch.dtype, layers: dict[str, tuple], rslora: bool = False, dora: bool = False):
    """A model with our adapters, {name: (rank, alpha)}."""
    model, rule = base(case, dtype).requires_grad_(False), rslora_scaling if rslora else lora_scaling
    kind = DoRALinear if dora else LoRALinear
    replace_modules(
        model, {m: kind(m, *layers[n], 0.0, rule) for n, m in find_targets(model, "|".join(layers)).items()}
    )
    fill(dict(model.named_parameters()))
    return model


def theirs(case: tuple, dtype: torch.dtype, rslora: bool = False, dora: bool = False, **options) -> peft.PeftModel:
    """A model with PEFT's adapters."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 10, "use_rslora": rslora, "use_dora": dora} | options)
    model = peft.get_peft_model(base(case, dtype), config).eval()
    fill(dict(model.named_parameters()))
    return model


def scalings(model: nn.Module) -> dict[str, float]:
    if isinstance(model, peft.PeftModel):
        return {name: layer.scaling["default"] for name, layer in peft_adapters_of(model).items()}
    return {name: layer.scaling for name, layer in adapters_of(model).items()}


def linear_names(case: tuple) -> list[str]:
    return list(find_targets(base(case, torch.float32), "all-linear"))


def assert_same(found: nn.Module, wanted: nn.Module, case: tuple, dtype: torch.dtype) -> None:
    """The same layers under the same scalings, the same outputs, and others than those of the base."""
    assert scalings(found) == scalings(wanted)
    logits = output(wanted, case, dtype)
    assert_near(output(found, case, dtype), logits, TOLERANCES[dtype])
    assert (output(base(case, dtype), case, dtype) - logits).abs().max() > 1e-3 * logits.abs().max()


@every_dtype
@every_method
@every_case
def test_peft_loads_what_is_saved_here(tmp_path, case, method, dtype):
    """All linear layers, 21 of them in a Llama: PEFT condenses a list of 20 names or more."""
    model = ours(case, dtype, {name: (4, 10) for name in linear_names(case)}, **method)
    save_adapter(model, tmp_path)
    assert_same(peft.PeftModel.from_pretrained(base(case, dtype), tmp_path), model, case, dtype)


@every_dtype
@every_method
@every_case
def test_what_peft_saves_is_loaded_here(tmp_path, case, method, dtype):
    model = theirs(case, dtype, target_modules="all-linear", **method)
    model.save_pretrained(tmp_path)
    assert_same(load_adapter(base(case, dtype), tmp_path), model, case, dtype)


@every_dtype
@every_method
@llamas
def test_peft_reads_the_rank_and_alpha_of_each_layer(tmp_path, case, method, dtype):
    """Layers that differ in rank, in alpha, or in both, each by its own name."""
    layers = {name: (2 + i % 3, (4, 8, 3.5)[i % 5 % 3]) for i, name in enumerate(linear_names(case))}
    model = ours(case, dtype, layers, **method)
    save_adapter(model, tmp_path)
    assert len(set(scalings(model).values())) > 4
    assert_same(peft.PeftModel.from_pretrained(base(case, dtype), tmp_path), model, case, dtype)


PATTERNS = {
    "last parts": ({"q_proj": 2, "down_proj": 6}, {"v_proj": 3, "1.self_attn.q_proj": 32}),
    "expressions": ({r"layers\.[12]\..*proj": 3}, {r"(q|k)_proj": 5, r"^model\.layers\.0\.mlp\.up_proj": 1}),
    "whole names": ({"model.layers.1.mlp.up_proj": 7}, {"model.layers.1.mlp.up_proj": 1.5}),
}


@every_dtype
@every_method
@llamas
@pytest.mark.parametrize("patterns", PATTERNS.values(), ids=PATTERNS)
def test_patterns_of_peft_are_read(tmp_path, case, patterns, method, dtype):
    """Ranks and alphas by expressions for the end of a name, the first that fits decides."""
    ranks, alphas = patterns
    model = theirs(case, dtype, target_modules=BLOCK_LAYERS, rank_pattern=ranks, alpha_pattern=alphas, **method)
    model.save_pretrained(tmp_path)
    assert_same(load_adapter(base(case, dtype), tmp_path), model, case, dtype)


NAMES = {
    "one that ends another": ["proj"],
    "both of them": ["proj", "block.proj"],
    "one that begins another": ["proj_extra"],
    "one that is nearly the end of another": ["block.xproj", "proj"],
    "numbers": ["layers.1", "layers.10", "layers.11"],
    "a number alone": ["layers.1"],
    "all but one": ["proj_extra", "block.proj", *(f"layers.{i}" for i in range(12))],
}


@every_dtype
@every_method
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_peft_adapts_the_layers_that_were_adapted_and_no_others(tmp_path, names, method, dtype):
    """Whatever ends or begins a name, with ranks and alphas that differ too; and without a word of missing keys."""
    model = ours(ENDS, dtype, {name: (1 + i % 2, 5 + i % 3) for i, name in enumerate(names)}, **method)
    save_adapter(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        assert_same(peft.PeftModel.from_pretrained(base(ENDS, dtype), tmp_path), model, ENDS, dtype)


def test_where_several_expressions_fit_the_order_of_the_file_decides(tmp_path):
    """PEFT 0.21.2 sorts the expressions as it saves, and takes the first that fits: so the alphabet decides which.

    Its own folder then has, loaded by PEFT, other scalings than it was saved with. Here it is what PEFT would load.
    """
    alphas = {"block.proj": 30, r".*proj": 3, "extra": 4, r"proj.*": 5}
    model = theirs(ENDS, torch.float64, target_modules="all-linear", alpha_pattern=alphas)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base(ENDS, torch.float64), tmp_path)
    assert scalings(model)["block.proj"] == 30 / 4 and scalings(again)["block.proj"] == 3 / 4
    assert_same(load_adapter(base(ENDS, torch.float64), tmp_path), again, ENDS, torch.float64)


TARGETS = {
    "last parts": {"target_modules": ["proj", "xproj", "1"]},
    "an expression": {"target_modules": r"block\..*|layers\.1\d"},
    "some excluded": {"target_modules": "all-linear", "exclude_modules": ["block.proj", "3"]},
    "some layers": {"target_modules": BLOCK_LAYERS, "layers_to_transform": [0, 2]},
    "one layer": {"target_modules": BLOCK_LAYERS, "layers_to_transform": 1, "layers_pattern": "layers"},
    "a start that leaves the base": {"target_modules": "all-linear", "init_lora_weights": "gaussian"},
    "another": {"target_modules": "all-linear", "init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("options", TARGETS.values(), ids=TARGETS)
def test_targets_of_peft_are_read(tmp_path, options):
    """However PEFT is told which layers, and how they start, the same layers get the same adapters here."""
    case = CASES["transformers"] if options["target_modules"] is BLOCK_LAYERS else ENDS
    model = theirs(case, torch.float64, **options)
    model.save_pretrained(tmp_path)
    assert_same(load_adapter(base(case, torch.float64), tmp_path), model, case, torch.float64)


def test_a_literal_all_linear_is_read(tmp_path):
    """PEFT writes the names that it finds; a folder that says "all-linear" itself means the same in both."""
    model = theirs(ENDS, torch.float64, target_modules="all-linear")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert isinstance(config["target_modules"], list)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": "all-linear"}))
    for load in (load_adapter, peft.PeftModel.from_pretrained):
        assert_same(load(base(ENDS, torch.float64), tmp_path), model, ENDS, torch.float64)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changes_the_base_is_refused_until_peft_converts_it(tmp_path, start):
    """Its A and B belong to another base. Converted by PEFT, it is LoRA of twice the rank, and computes the same."""
    case, dtype = CASES["transformers"], torch.float32
    model = peft.get_peft_model(
        base(case, dtype), peft.LoraConfig(target_modules=BLOCK_LAYERS, init_lora_weights=start)
    )
    model.eval().save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "as it is")
    untouched = base(case, dtype)
    with pytest.raises(ValueError, match=f"init_lora_weights is '{start}'"):
        load_adapter(untouched, tmp_path / "as it is")
    wanted = output(model, case, dtype)
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start")
    found = load_adapter(untouched, tmp_path / "converted")
    assert_near(output(found, case, dtype), wanted, 1e-5)  # the base was changed in float32, and is put back by B and A


REFUSED = {
    "whole layers beside it": {"modules_to_save": ["lm_head"]},
    "trained biases": {"bias": "all"},
    "biases of the adapters": {"bias": "lora_only"},
    "a bias of B": {"lora_bias": True},
    "trained tokens": {"trainable_token_indices": [1, 2]},
    "repeated layers": {"layer_replication": [(0, 2), (1, 3)]},
    "a word that switches it on": {"alora_invocation_tokens": [5], "task_type": "CAUSAL_LM"},
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED)
def test_what_peft_saves_beyond_lora_is_refused_by_name(tmp_path, options):
    """Each in a folder that PEFT wrote itself; the base has no adapter afterwards."""
    case = CASES["transformers"]
    theirs(case, torch.float32, target_modules=["q_proj"], **options).save_pretrained(tmp_path)
    model = base(case, torch.float32)
    with pytest.raises(ValueError, match=next(iter(options))):
        load_adapter(model, tmp_path)
    assert not adapters_of(model)


def test_another_method_of_peft_is_refused(tmp_path):
    model = peft.get_peft_model(
        base(ENDS, torch.float32), peft.IA3Config(target_modules=["proj"], feedforward_modules=[])
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="peft_type"):
        load_adapter(base(ENDS, torch.float32), tmp_path)


def test_an_adapter_on_an_embedding_is_refused(tmp_path):
    """PEFT adapts embeddings and convolutions too; here only linear layers."""
    case = CASES["transformers"]
    theirs(case, torch.float32, target_modules=["embed_tokens", "q_proj"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="embed_tokens"):
        load_adapter(base(case, torch.float32), tmp_path)


def test_a_model_that_peft_has_wrapped_is_refused(tmp_path):
    """For saving and for loading; after `unload` it is a base again."""
    model = theirs(ENDS, torch.float64, target_modules="all-linear")
    model.save_pretrained(tmp_path)
    wanted = output(model, ENDS, torch.float64)
    for wrapped in (model, model.get_base_model()):
        with pytest.raises(ValueError, match="PEFT's own"):
            save_adapter(wrapped, tmp_path / "new")
        with pytest.raises(ValueError, match="PEFT's own"):
            load_adapter(wrapped, tmp_path)
    assert not (tmp_path / "new").exists() and torch.equal(output(model, ENDS, torch.float64), wanted)
    assert_near(output(load_adapter(model.unload(), tmp_path), ENDS, torch.float64), wanted, 1e-12)


@every_method
def test_an_adapter_of_tinyllama_is_one_of_transformers(tmp_path, method):
    """Trained on our Llama, served on transformers': with the same weights PEFT's logits are ours."""
    case, dtype = CASES["TinyLlama"], torch.float32
    model = ours(case, dtype, {name: (4, 10) for name in linear_names(case)}, **method)
    save_adapter(model, tmp_path)
    other = huggingface()
    other.load_state_dict(base(case, dtype).state_dict())
    found = peft.PeftModel.from_pretrained(other.eval(), tmp_path)
    # The two Llamas themselves agree to 1e-5 in float32 (test_llama_parity.py).
    assert_near(output(found, case, dtype), output(model, case, dtype), 1e-5)


@every_method
def test_there_and_back_changes_no_number(tmp_path, method):
    """Saved here, loaded and saved by PEFT, loaded here: A, B, magnitude and scaling are bit-equal."""
    case, dtype = CASES["transformers"], torch.float32
    layers = {name: (2 + i % 2, 7 + i % 3) for i, name in enumerate(linear_names(case))}
    model = ours(case, dtype, layers, **method)
    save_adapter(model, tmp_path / "here")
    peft.PeftModel.from_pretrained(base(case, dtype), tmp_path / "here").save_pretrained(tmp_path / "there")
    found = load_adapter(base(case, dtype), tmp_path / "there")
    assert scalings(found) == scalings(model)
    for (name, mine), other in zip(model.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(mine, other), name


@every_dtype
def test_a_changed_scaling_is_read_by_peft(tmp_path, dtype):
    """One layer's scaling is changed after training; PEFT computes with the changed one."""
    case = CASES["transformers"]
    model = ours(case, dtype, {name: (4, 10) for name in linear_names(case)})
    before = output(model, case, dtype)
    model.get_submodule("model.layers.1.mlp.up_proj").scaling = 0.25
    save_adapter(model, tmp_path)
    assert_same(peft.PeftModel.from_pretrained(base(case, dtype), tmp_path), model, case, dtype)
    assert (output(model, case, dtype) - before).abs().max() > 1e-3 * before.abs().max()


def test_a_name_with_signs_of_an_expression_is_one_layer_in_peft(tmp_path):
    """a+b is no repeated a: with ranks of their own, each goes where it was."""
    plain = nn.Sequential()
    for name in ("a+b", "aab", "a(b", "a_b"):
        plain.add_module(name, nn.Linear(3, 3, dtype=torch.float64))
    model = copy.deepcopy(plain).requires_grad_(False)
    replace_modules(model, {m: LoRALinear(m, 1 + i, 5 + i) for i, m in enumerate(model.children()) if i != 1})
    fill(dict(model.named_parameters()))
    save_adapter(model, tmp_path)
    found = peft.PeftModel.from_pretrained(plain, tmp_path)
    assert scalings(found) == scalings(model)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    assert_near(found(x), model(x), 1e-12)


def test_a_pattern_is_a_name_too_where_no_expression_fits(tmp_path):
    """As an expression a+b means aab and ab; for the layer a+b it is the name. Both get its rank, as in PEFT."""
    plain = nn.Sequential()
    for name in ("a+b", "aab", "a_b"):
        plain.add_module(name, nn.Linear(3, 3, dtype=torch.float64))
    config = peft.LoraConfig(r=2, target_modules=["a+b", "aab", "a_b"], rank_pattern={"a+b": 1})
    theirs = peft.get_peft_model(copy.deepcopy(plain), config)
    fill(dict(theirs.named_parameters()))
    theirs.save_pretrained(tmp_path)
    found = load_adapter(plain, tmp_path)
    assert [layer.rank for layer in found] == [1, 1, 2] and scalings(found) == scalings(theirs)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    assert_near(found(x), theirs(x), 1e-12)


class Leaf(nn.Module):
    """One layer at two places, without a block around it."""

    def __init__(self):
        super().__init__()
        self.leaf = nn.Linear(5, 5)
        self.inner = nn.Sequential(self.leaf)

    def forward(self, x):
        return self.inner(torch.tanh(self.leaf(x)))


def test_peft_adapts_a_lone_layer_at_its_first_place_alone(tmp_path):
    """As save_adapter's docstring says of PEFT 0.21: its second place keeps the plain layer, and here both have it."""
    case, dtype = (Leaf, X), torch.float64
    model = ours(case, dtype, {"leaf": (2, 3)})
    save_adapter(model, tmp_path)
    found = peft.PeftModel.from_pretrained(base(case, dtype), tmp_path).get_base_model()
    assert found.leaf is not found.inner[0] and model.leaf is model.inner[0]
    assert_near(found.leaf(X), model.leaf(X), 1e-12)
    assert_same(load_adapter(base(case, dtype), tmp_path), model, case, dtype)
