"""What is true of every QLoRA layer (arXiv 2305.14314, section 3, equation 5). `make check QLORA=file.py:Class`

    layer = MyQLoRA(base, rank, alpha)    base is an nn.Linear; its weight is then kept in NF4, blocks of 64
    layer.A, layer.B                      parameters of shape (rank, d_in) and (d_out, rank)
    layer(x)                              decode(codes) x + bias + alpha / rank · B A x

The constants of the blocks may be double quantized or not.
"""

import numpy as np
import pytest
import torch
from strategies import assert_close
from torch import Tensor, nn

from lora_from_scratch import nf4

CALL = "(nn.Linear(64, 32), 2, 8.0)"
NEEDS = ("A", "B")
D_IN, D_OUT, RANK, ALPHA = 64, 48, 4, 12.0


def build(layer_class: type) -> nn.Module:
    """One layer, to see whether it can be built."""
    return layer_class(nn.Linear(64, 32), 2, 8.0)


def base(dtype: torch.dtype = torch.float32) -> nn.Linear:
    """The same linear layer at every call."""
    torch.manual_seed(5)
    return nn.Linear(D_IN, D_OUT, dtype=dtype)


def rows(seed: int = 1) -> Tensor:
    """An input, (2, 3, d_in)."""
    return torch.randn(2, 3, D_IN, generator=torch.Generator().manual_seed(seed))


def trained(layer_class: type) -> nn.Module:
    """A layer whose A and B are far from their start."""
    layer = layer_class(base(), RANK, ALPHA)
    numbers = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in (layer.A, layer.B):
            p.copy_(torch.randn(p.shape, generator=numbers) / 4)
    return layer


def own_weight(layer: nn.Module) -> Tensor:
    """The matrix (d_out, d_in) that the layer multiplies x by."""
    with torch.no_grad():
        return (layer(torch.eye(D_IN)) - layer(torch.zeros(1, D_IN))).T


def tensors(layer: nn.Module) -> list[Tensor]:
    """All that the layer holds: parameters, buffers and plain attributes, an array as a tensor."""
    found = [*layer.parameters(), *layer.buffers()]
    plain = [value for module in layer.modules() for value in vars(module).values()]
    inside = lambda v: vars(v).values() if hasattr(v, "__dict__") and not isinstance(v, Tensor) else [v]  # noqa: E731
    held = [v for value in plain for v in inside(value)]
    found += [torch.from_numpy(v) for v in held if isinstance(v, np.ndarray)]
    return [*found, *(v for v in held if isinstance(v, Tensor) and all(v is not f for f in found))]


@pytest.mark.usual_cause("A made as (d_in, rank) or B as (rank, d_out), or the two swapped; or no nn.Parameter.")
def test_factors_have_shapes(layer_class):
    """A is a parameter of shape (rank, d_in) and B one of shape (d_out, rank)."""
    layer = layer_class(base(), RANK, ALPHA)
    assert isinstance(layer.A, nn.Parameter) and isinstance(layer.B, nn.Parameter), "A or B is no nn.Parameter"
    got = (tuple(layer.A.shape), tuple(layer.B.shape))
    assert got == ((RANK, D_IN), (D_OUT, RANK)), f"A and B have shapes {got[0]} and {got[1]}"


@pytest.mark.usual_cause("A and B in the base's 16 bits: they train, so they are float32 at least.")
def test_factors_are_float32(layer_class):
    """Over a base in bfloat16, A and B are float32: only what is frozen may be coarse."""
    layer = layer_class(base(torch.bfloat16), RANK, ALPHA)
    assert layer.A.dtype == layer.B.dtype == torch.float32, f"A is {layer.A.dtype} and B {layer.B.dtype}"


@pytest.mark.usual_cause(
    "The base is used as it was, unquantized; or B is not zero at the start; or blocks, levels or the scale are not "
    "NF4's: make check NF4=… tells which."
)
def test_start_is_decoded_base(layer_class):
    """Before the first step the layer multiplies by NF4's copy of W0, which is not W0."""
    got, W0 = own_weight(layer_class(base(), RANK, ALPHA)), base().weight.detach()
    assert (got - W0).abs().max() > 1e-3, "the weight is W0 itself: nothing was quantized"
    copies = [torch.from_numpy(nf4.dequantize(nf4.quantize(W0.numpy(), 64, double))) for double in (False, True)]
    off = min((got - copy).abs().max().item() for copy in copies)
    assert off < 1e-5, f"the weight is off NF4's copy of W0 by {off:.3g}"


@pytest.mark.usual_cause(
    "The base, or a decoded copy, kept beside the codes: then no memory is saved. Or a code a byte."
)
def test_weight_takes_four_bits(layer_class):
    """All that the layer holds, but A, B and the bias, takes less than 5 bits a weight."""
    layer = layer_class(base(), RANK, ALPHA)
    held = sum(t.nbytes for t in tensors(layer) if t is not layer.A and t is not layer.B) - base().bias.nbytes
    assert held * 8 / (D_IN * D_OUT) < 5, f"it holds {held * 8 / (D_IN * D_OUT):.1f} bits a weight"


@pytest.mark.usual_cause("Alpha without the division by rank, or alpha / sqrt(rank); or B A the wrong way round.")
def test_update_is_scaled_product(layer_class):
    """A and B add alpha / rank · B A to what the layer multiplies by, in full precision."""
    layer = trained(layer_class)
    wanted = ALPHA / RANK * (layer.B @ layer.A).detach()
    got = own_weight(layer) - own_weight(layer_class(base(), RANK, ALPHA))
    assert_close(got, wanted, "the update", 1e-4)


@pytest.mark.usual_cause("The bias left out, added twice, or quantized with the weight.")
def test_bias_is_the_base_s(layer_class):
    """For x = 0 the output is the base's bias."""
    with torch.no_grad():
        assert_close(trained(layer_class)(torch.zeros(D_IN)), base().bias.detach(), "the output for x = 0", 1e-6)


@pytest.mark.usual_cause("A bias that trains, or a base that does: freeze all but A and B.")
def test_only_factors_train(layer_class):
    """A and B are trainable, and nothing else is."""
    named = layer_class(base(), RANK, ALPHA).named_parameters()
    names = sorted(name for name, p in named if p.requires_grad)
    assert names == ["A", "B"], f"trainable are {', '.join(names) or 'no parameters'}"


@pytest.mark.usual_cause(
    "The product with the frozen weight under no_grad, or of a detached x: layers below it would learn nothing."
)
def test_gradient_passes_through_frozen_weight(layer_class):
    """The gradient of x is that of the whole weight, the frozen part included."""
    layer, x = trained(layer_class), rows().requires_grad_()
    layer(x).sum().backward()
    wanted = own_weight(layer).sum(dim=0).expand_as(x)
    assert x.grad is not None, "no gradient reaches x"
    assert_close(x.grad, wanted, "the gradient of x", 1e-4)


@pytest.mark.usual_cause("A .detach(), .data or no_grad() on the way of A and B.")
def test_gradients_reach_factors(layer_class):
    """The gradients of A and B are those of alpha / rank · B A x."""
    layer, x = trained(layer_class), rows().reshape(-1, D_IN)
    h = layer(x)
    assert h.requires_grad, "no gradient reaches A or B"
    h.sum().backward()
    ones = torch.ones(len(x), D_OUT)
    for name, wanted in (("A", layer.B.T @ ones.T @ x), ("B", ones.T @ (x @ layer.A.T))):
        got = getattr(layer, name).grad
        assert got is not None, f"no gradient reaches {name}"
        assert_close(got, ALPHA / RANK * wanted.detach(), f"the gradient of {name}", 1e-4)


@pytest.mark.usual_cause(
    "x @ decoded.T in plain autograd, which keeps the decoded weight until backward: all layers' weights are then "
    "there at once. Decode again in backward: an autograd.Function of your own, or torch.utils.checkpoint."
)
def test_forward_keeps_no_decoded_weight(layer_class):
    """What forward keeps for backward holds no matrix of the weight's size."""
    kept = []
    keep = lambda t: (kept.append(t), t)[1]  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        trained(layer_class)(rows().requires_grad_())
    wide = [t for t in kept if t.numel() >= D_IN * D_OUT and t.is_floating_point()]
    assert not wide, f"a tensor of shape {tuple(wide[0].shape)} in {wide[0].dtype} is kept for backward"


@pytest.mark.usual_cause("Codes or constants in plain attributes: register_buffer puts them into the state dict.")
def test_state_dict_holds_codes(layer_class):
    """A state dict loads into a layer over another base, which then gives the same output."""
    layer, other = trained(layer_class), layer_class(nn.Linear(D_IN, D_OUT), RANK, ALPHA)
    try:
        other.load_state_dict(layer.state_dict())
    except RuntimeError as error:
        raise AssertionError(" ".join(str(error).split())) from None
    with torch.no_grad():
        assert_close(other(rows()), layer(rows()), "the loaded layer's output", 1e-6)
