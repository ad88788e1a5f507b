"""Adapters are PEFT's: outputs, gradients, training, merges, counts, and the choice of layers.

A and B are the same random numbers on both sides, B too, since at B = 0 an adapter shows nothing of itself; and so is
DoRA's magnitude.
"""

import contextlib
import copy
import io
import itertools
import random

import peft
import pytest
import torch
from pairs import Pair, adapters_of, assert_near, make_pair, peft_adapters_of, peft_config
from torch import Tensor, nn

from lora_from_scratch import (
    AdapterConfig,
    LoRALinear,
    add_adapters,
    merge_adapters,
    print_trainable_parameters,
    trainable_parameters,
)
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.targets import find_targets

# float64 rounds by 1e-16; a network of ten layers and a few steps of AdamW grow that to about 1e-14.
# float32 rounds by 6e-8, grown likewise to about 1e-5 at the most.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
METHODS = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "rslora+dora": {"rslora": True, "dora": True},
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
lora_and_dora = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
BLOCK_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama() -> TinyLlama:
    """Two narrow blocks with two key-value heads."""
    config = LlamaConfig(
        vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_key_value_heads=2
    )
    model = TinyLlama(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:  # larger than a Llama starts, so that every layer shows in the logits
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def small_net(seed: int) -> nn.Module:
    """A few linear layers of random widths, some without a bias, between nonlinearities, two levels deep."""
    choose = random.Random(seed)
    widths = [choose.randint(2, 9) for _ in range(5)]
    linears = [nn.Linear(a, b, bias=choose.random() < 0.5) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(linears[0], nn.Tanh(), nn.Sequential(linears[1], nn.GELU(), linears[2]), nn.Tanh(), linears[3])


def llama_case(method: dict, dtype: torch.dtype) -> tuple[Pair, Tensor]:
    """A pair on the tiny Llama, and token ids for it."""
    config = AdapterConfig(rank=4, alpha=10, targets=BLOCK_LAYERS, **method)
    return make_pair(tiny_llama().to(dtype), config), torch.randint(31, (3, 20))


def net_case(seed: int, method: dict, dtype: torch.dtype) -> tuple[Pair, Tensor]:
    """A pair on a random small net, random rank and alpha, and an input for it."""
    choose = random.Random(seed)
    net = small_net(seed).to(dtype)
    config = AdapterConfig(choose.randint(1, 6), choose.uniform(0.5, 32), targets=r"0|2\.[02]", **method)
    return make_pair(net, config), torch.randn(2, 7, net[0].in_features, dtype=dtype)


CASES = {"llama": llama_case} | {f"net {s}": lambda *args, s=s: net_case(s, *args) for s in range(6)}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_dtype
@every_method
@every_case
def test_outputs_and_gradients_are_those_of_peft(case, method, dtype):
    """The output of the model, and the gradients of every A, B and magnitude, are PEFT's; nothing else has one."""
    pair, x = case(method, dtype)
    ours, theirs = pair.ours(x), pair.theirs(x)
    assert_near(ours, theirs, TOLERANCES[dtype], "output")
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream)
    for name, mine, other in pair.factors():
        assert_near(mine.grad, other.grad, TOLERANCES[dtype], name)
    trained = {id(mine) for _, mine, _ in pair.factors()}
    assert {id(p) for p in pair.ours.parameters() if p.requires_grad} == trained
    assert {id(p) for p in pair.ours.parameters() if p.grad is not None} == trained


@every_dtype
def test_dropout_is_that_of_peft(dtype):
    """In train mode, from one seed, dropout zeroes the entries that PEFT's zeroes: output and gradients are equal."""
    config = AdapterConfig(rank=4, alpha=10, dropout=0.4, targets=BLOCK_LAYERS)
    pair, ids = make_pair(tiny_llama().to(dtype), config), torch.randint(31, (3, 20))
    outputs = []
    for model in (pair.ours, pair.theirs):
        torch.manual_seed(5)
        outputs.append(model.train()(ids))
        outputs[-1].square().mean().backward()
    assert_near(*outputs, TOLERANCES[dtype], "output")
    assert (outputs[0] - pair.ours.eval()(ids)).abs().max() > 0.1, "nothing was dropped"
    for name, mine, other in pair.factors():
        assert_near(mine.grad, other.grad, TOLERANCES[dtype], name)


@every_dtype
@pytest.mark.parametrize("p", [0.2, 0.6])
def test_dropout_of_dora_keeps_the_path_of_the_base(dtype, p):
    """In train mode PEFT's DoRA drops entries of x from g · W0 x too, all but once W0 x; ours from the update alone.

    Both drop the same entries. PEFT's is then ours with (g - 1) · W0 (drop(x) - x) added.
    """
    net = nn.Sequential(nn.Linear(9, 7)).to(dtype)
    nn.init.normal_(net[0].weight)
    pair = make_pair(net, AdapterConfig(rank=3, alpha=5, dropout=p, targets=["0"], dora=True))
    x, outputs = torch.randn(4, 5, 9, dtype=dtype), []
    for function in (pair.ours.train(), pair.theirs.train(), lambda x: nn.functional.dropout(x, p)):
        torch.manual_seed(5)
        outputs.append(function(x).detach())
    ours, theirs, dropped = outputs
    layer = pair.ours[0]
    with torch.no_grad():
        more = (layer.rescaling() - 1) * ((dropped - x) @ layer.base.weight.T)
    assert_near(theirs, ours + more, TOLERANCES[dtype], "PEFT's output")
    assert more.abs().max() > 0.1, "no difference to see"
    assert_near(pair.theirs.eval()(x), pair.ours.eval()(x), TOLERANCES[dtype], "output in eval mode")


@every_dtype
@every_method
@every_case
def test_merged_weights_are_those_of_peft(case, method, dtype):
    """merge_adapters gives the state dict that merge_and_unload gives: the same keys, equal weights and biases."""
    pair, x = case(method, dtype)
    before = pair.ours(x).detach()
    base = {name: layer.base.weight.clone() for name, layer in adapters_of(pair.ours).items()}
    merged, wanted = merge_adapters(pair.ours), pair.theirs.merge_and_unload().state_dict()
    assert merged.state_dict().keys() == wanted.keys()
    for name, tensor in merged.state_dict().items():
        assert_near(tensor, wanted[name], TOLERANCES[dtype], name)
    assert all((merged.get_submodule(name).weight - weight).abs().max() > 1e-3 for name, weight in base.items())
    assert_near(merged(x), before, TOLERANCES[dtype], "output after the merge")


@every_dtype
@every_method
def test_adamw_takes_the_same_path(method, dtype):
    """Eight steps of AdamW, weight decay included, lead to PEFT's A, B and magnitude, and by the same losses."""
    pair, ids = llama_case(method, dtype)
    losses = []
    for model in (pair.ours, pair.theirs):
        optimizer = torch.optim.AdamW(trainable_parameters(model), lr=1e-2, weight_decay=0.1)
        path = []
        for _ in range(8):
            loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path.append(loss.detach())
        losses.append(torch.stack(path))
    assert_near(losses[0], losses[1], TOLERANCES[dtype], "losses")
    assert losses[0][-1] < 0.9 * losses[0][0], "nothing was learned, so nothing was compared"
    for name, mine, other in pair.factors():
        # AdamW divides a gradient by its own size, so the rounding of a small one comes out enlarged: up to 1e-5 seen
        # in float32 and 2e-12 in float64, which depends on the processor. A wrong scaling or decay moves the factors by
        # a tenth and more.
        assert_near(mine, other, 1e-9 if dtype == torch.float64 else 1e-4, name)


@pytest.mark.parametrize("rank, d_in, d_out", [(1, 5, 3), (7, 30, 20), (16, 8, 8)])
def test_a_new_adapter_starts_as_peft_s_does(rank, d_in, d_out):
    """From one seed, A gets the very numbers that PEFT gives it, and B is zero in both."""
    net = nn.Sequential(nn.Linear(d_in, d_out))
    theirs = peft.get_peft_model(net, peft.LoraConfig(r=rank, target_modules=["0"])).get_base_model()[0]
    torch.manual_seed(3)
    theirs.reset_lora_parameters("default", init_lora_weights=True)
    torch.manual_seed(3)
    ours = LoRALinear(theirs.base_layer, rank, alpha=1)
    assert torch.equal(ours.A, theirs.lora_A["default"].weight)
    assert torch.equal(ours.B, theirs.lora_B["default"].weight) and not ours.B.any()


@every_dtype
def test_a_magnitude_starts_as_peft_s_does(dtype):
    """The magnitude starts as the row norms that PEFT computes: of W0 alone, since B is zero."""
    net = tiny_llama().to(dtype)
    config = AdapterConfig(rank=4, targets=BLOCK_LAYERS, dora=True)
    theirs = peft_adapters_of(peft.get_peft_model(copy.deepcopy(net), peft_config(config)))
    for name, layer in adapters_of(add_adapters(net, config)).items():
        wanted = theirs[name].lora_magnitude_vector["default"].weight
        assert_near(layer.magnitude, wanted, TOLERANCES[dtype], name)


def printed_by(function) -> str:
    """What the function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        function()
    return out.getvalue()


@pytest.mark.parametrize("model", [tiny_llama, TinyLlama, lambda: small_net(1)], ids=["small", "default", "net"])
@pytest.mark.parametrize("rank", [1, 13])
@lora_and_dora
def test_the_printed_line_is_that_of_peft_to_the_letter(model, rank, dora):
    """print_trainable_parameters prints the line that PEFT's method of this name prints."""
    pair = make_pair(model(), AdapterConfig(rank=rank, targets=r".*_proj|0|2\.[02]", dora=dora))
    line = printed_by(lambda: print_trainable_parameters(pair.ours))
    assert line == printed_by(pair.theirs.print_trainable_parameters)
    assert line.startswith("trainable params: ") and line.count("\n") == 1


TARGETS = [
    ["q_proj"],
    ["q_proj", "v_proj"],
    ["self_attn.q_proj", "mlp.up_proj"],
    ["model.layers.1.self_attn.k_proj"],
    ["model.layers.0.mlp.down_proj", "o_proj"],
    ["lm_head"],
    ("gate_proj",),
    r".*_proj",
    r"model\.layers\.1\..*_proj",
    r".*\.(q|v)_proj",
    r".*layers\.[01]\.mlp\.(up|down)_proj",
    r"lm_head",
    r".*(up_proj|lm_head)",
]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_targets_mean_what_they_mean_in_peft(targets):
    """Names, whole or their last parts, and an expression for the whole name, choose the layers of PEFT, in order."""
    model = tiny_llama()
    theirs = peft.get_peft_model(tiny_llama(), peft_config(AdapterConfig(rank=1, targets=targets)))
    assert list(find_targets(model, targets)) == list(peft_adapters_of(theirs)) != []


NO_TARGETS = [
    ["proj"],
    ["_proj"],
    ["attn.q_proj"],
    "q_proj",
    r"layers\.0.*_proj",
    r"lm_hea",
    r"model.*\.up",
    ["Q_proj"],
]


@pytest.mark.parametrize("targets", NO_TARGETS, ids=str)
def test_targets_that_match_nothing_in_peft_match_nothing_here(targets):
    """Part of a name, an expression for part of a name, the wrong case: a ValueError in both."""
    with pytest.raises(ValueError):
        peft.get_peft_model(tiny_llama(), peft_config(AdapterConfig(rank=1, targets=targets)))
    with pytest.raises(ValueError):
        add_adapters(tiny_llama(), AdapterConfig(rank=1, targets=targets))


def test_bfloat16_merges_agree_up_to_one_rounding():
    """In bfloat16 A and B are rounded once here, while PEFT keeps them in float32; the merges differ by roundings only.

    W0 + sBA is rounded to 2^-9 of itself on either side, and PEFT rounds sBA on its own before that: 2^-7 covers both.
    """
    pair, _ = llama_case({}, torch.bfloat16)
    with torch.no_grad():
        for _, mine, other in pair.factors():
            other.copy_(mine)
    merged, wanted = merge_adapters(pair.ours).state_dict(), pair.theirs.merge_and_unload().state_dict()
    for name, tensor in merged.items():
        assert_near(tensor.float(), wanted[name].float(), 2**-7, name)
