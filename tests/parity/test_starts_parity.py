"""PiSSA, LoftQ and TinyLoRA are PEFT's: residual, product, plain adapter, 4-bit base, forward and gradient.

Where PEFT does otherwise, its difference is shown. It has no MiLoRA (its MiCA freezes B); the authors' own code is the
formula that test_starts.py holds.
"""

import copy
import json

import peft
import pytest
import torch
from pairs import assert_near
from peft.utils import loftq_utils
from safetensors.torch import load_file
from torch import nn

from lora_from_scratch import LoRALinear, NF4Linear, lora_scaling, rslora_scaling
from lora_from_scratch.starts import as_plain_adapter, loftq, pissa
from lora_from_scratch.tinylora import TinyLoRALinear

SHAPES = [(64, 48), (48, 64), (64, 64)]  # (d_in, d_out)


def theirs(net: nn.Module, **options) -> peft.PeftModel:
    return peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(target_modules=["0"], **options))


@pytest.mark.parametrize("rsloraed", [False, True])
@pytest.mark.parametrize(("d_in", "d_out"), SHAPES)
def test_pissa_leaves_the_residual_and_the_product_that_peft_leaves(d_in, d_out, rsloraed):
    """Rank 5, alpha 12: the base and s · B A are equal; A and B row by row up to their common sign."""
    net = nn.Sequential(nn.Linear(d_in, d_out))
    other = theirs(net, r=5, lora_alpha=12, use_rslora=rsloraed, init_lora_weights="pissa").get_base_model()[0]
    ours = LoRALinear(net[0], 5, 12, scaling=rslora_scaling if rsloraed else lora_scaling)
    pissa(ours)
    assert_near(ours.base.weight, other.get_base_layer().weight, 1e-5, "the residual")
    assert_near(ours.delta_weight(), other.get_delta_weight("default"), 1e-5, "the product")
    A, B = other.lora_A["default"].weight, other.lora_B["default"].weight
    sign = (A * ours.A).sum(dim=1).sign()
    assert_near(ours.A.detach(), sign[:, None] * A.detach(), 1e-3, "A")
    assert_near(ours.B.detach(), sign * B.detach(), 1e-3, "B")
    assert (A * ours.A).sum(dim=1).abs().min() > 0


def test_a_trained_pissa_is_peft_s_plain_adapter(tmp_path):
    """What PEFT writes with `path_initial_model_for_weight_conversion`: A and B of rank 2r, alpha of the same s."""
    net = nn.Sequential(nn.Linear(20, 14))
    model = theirs(net, r=3, lora_alpha=9, init_lora_weights="pissa")
    model.peft_config["default"].init_lora_weights = True  # as PEFT's guide has it, before the start is saved
    model.save_pretrained(tmp_path / "start")
    layer = model.get_base_model()[0]
    ours = LoRALinear(net[0], 3, 9)
    start = (layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone())
    ours.base.weight = nn.Parameter(layer.get_base_layer().weight.detach().clone(), requires_grad=False)
    with torch.no_grad():
        for mine, other in ((ours.A, layer.lora_A["default"].weight), (ours.B, layer.lora_B["default"].weight)):
            other.add_(torch.randn_like(other))
            mine.copy_(other)
    model.peft_config["default"].init_lora_weights = "pissa"
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    written = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    A, B = as_plain_adapter(ours, start)
    assert torch.equal(written["base_model.model.0.lora_A.weight"], A)
    assert torch.equal(written["base_model.model.0.lora_B.weight"], B)
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 2 * 3 * ours.scaling)


class OnTheCpu(torch.overrides.TorchFunctionMode):
    """PEFT's LoftQ asks for a GPU by name; within this, a tensor asked to "cuda" stays."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        swap = lambda value: "cpu" if value == "cuda" else value  # noqa: E731
        args = tuple(swap(a) if isinstance(a, str) else a for a in args)
        kwargs = {k: swap(v) if isinstance(v, str) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@pytest.fixture
def peft_loftq(monkeypatch):
    """peft.utils.loftq_utils.loftq_init, on the CPU."""
    import bitsandbytes

    to = bitsandbytes.nn.Params4bit.to
    swap = lambda value: "cpu" if value == "cuda" else value  # noqa: E731
    monkeypatch.setattr(bitsandbytes.nn.Params4bit, "to", lambda self, *args: to(self, *map(swap, args)))

    def call(weight, rank, rounds):
        with OnTheCpu():
            return loftq_utils.loftq_init(weight, num_bits=4, reduced_rank=rank, num_iter=rounds)

    return call


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize(("d_in", "d_out"), SHAPES[::2])
def test_loftq_chooses_the_base_and_the_product_that_peft_chooses(peft_loftq, d_in, d_out, rounds):
    """NF4 in blocks of 64, quantized once, alpha = r. From the second round on a value on a midpoint of two levels may
    fall either way, since the two SVDs round differently: a few in a thousand, of one step."""
    weight = torch.randn(d_out, d_in) / d_in**0.5
    linear = nn.Linear(d_in, d_out, bias=False)
    linear.weight.data = weight.clone()
    ours = LoRALinear(NF4Linear.from_linear(linear, double=False), 4, 4)
    loftq(ours, weight, rounds)
    base, A, B = peft_loftq(weight, 4, rounds)
    same = (ours.base.weight - base).abs() <= 1e-5 * weight.abs().max()
    assert same.all() if rounds == 1 else same.float().mean() > 0.99
    assert_near(ours.delta_weight().detach(), B @ A, 1e-4 if rounds == 1 else 0.05, "the product")


def test_peft_s_loftq_is_right_only_where_alpha_is_the_rank(peft_loftq):
    """PEFT puts the SVD's factors in as they are, and its layer scales them by alpha / r; ours are divided by s."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64, bias=False))
    w, off = net[0].weight.detach().clone(), {}
    alone = (w - NF4Linear.from_linear(net[0], double=False).weight).norm()
    for alpha in (4, 32):
        model = theirs(net, r=4, lora_alpha=alpha)
        other, config = model.get_base_model()[0], model.peft_config["default"]
        config.loftq_config = {"loftq_bits": 4, "loftq_iter": 1}  # given to LoraConfig it asks for SciPy, unused here
        with OnTheCpu(), torch.no_grad():
            other.loftq_init("default", config)
        ours = LoRALinear(NF4Linear.from_linear(net[0], double=False), 4, alpha)
        loftq(ours, w, 1)
        sums = ours.weight, other.get_base_layer().weight + other.get_delta_weight("default")
        off[alpha] = [(w - s).norm().item() for s in sums]
    assert off[4][0] == pytest.approx(off[4][1], rel=1e-3) and off[32][0] == pytest.approx(off[4][0], rel=1e-3)
    assert off[4][0] < alone < off[32][1], "worse than the codes alone"


@pytest.mark.parametrize(("d_in", "d_out"), [(9, 7), (7, 9)])
@pytest.mark.parametrize(("rank", "size"), [(2, 13), (3, 1)])
def test_tinylora_computes_what_peft_s_computes(d_in, d_out, rank, size):
    """PEFT has sqrt(Σ) R sqrt(Σ) where the paper has Σ R: with P turned accordingly, output and gradient are equal."""
    net = nn.Sequential(nn.Linear(d_in, d_out))
    config = peft.TinyLoraConfig(r=rank, u=size, weight_tying=1.0, target_modules=["0"], init_weights="uniform")
    model = peft.get_peft_model(copy.deepcopy(net), config)
    layer = model.get_base_model()[0]
    (theirs_v,) = [p for p in model.parameters() if p.requires_grad]
    v = nn.Parameter(theirs_v.detach().clone())
    A, B, P = (getattr(layer, f"tinylora_{name}")["default"] for name in ("A", "B", "P"))
    root = A.norm(dim=1)  # sqrt of the singular values
    ours = TinyLoRALinear(net[0], v, P.clone())
    sign = (ours.A * A).sum(dim=1).sign()
    ours.P.copy_(P * (sign * root) / (sign * root)[:, None])
    x = torch.randn(4, 3, d_in)
    one, two = ours(x), model(x)
    assert_near(one.detach(), two.detach(), 1e-5, "the output")
    assert_near(ours.delta_weight().detach(), layer.get_delta_weight("default").detach(), 1e-5, "the update")
    upstream = torch.randn_like(one)
    one.backward(upstream), two.backward(upstream)
    assert_near(v.grad, theirs_v.grad, 1e-4, "the gradient of v")
    assert B.shape == (d_out, rank) and P.std().item() > 0
