"""What is true of every DoRA layer (arXiv 2402.09353, section 4), whoever wrote it. `make check DORA=file.py:Class`

    layer = MyDoRA(base, rank, alpha)    base is an nn.Linear
    layer.A, layer.B                     parameters of shape (rank, d_in) and (d_out, rank)
    layer.magnitude                      a parameter of d_out numbers
    layer(x)                             magnitude · (W0 + alpha / rank · B A) / its row norms · x + bias
    layer.merge()                        an nn.Linear that computes the same, the layer itself untouched

Whether the norm counts as a constant in the gradient is left open: both are DoRA (section 4.3).
"""

import pytest
import torch
from strategies import assert_close
from torch import Tensor, nn

CALL = "(nn.Linear(5, 3), 2, 8.0)"
NEEDS = ("A", "B", "magnitude", "merge")
SHAPES = ((5, 3), (3, 5), (4, 4))  # (d_in, d_out)
RANK, ALPHA = 2, 6.0


def build(layer_class: type) -> nn.Module:
    """One layer, to see whether it can be built."""
    return layer_class(nn.Linear(5, 3), 2, 8.0)


def base(shape: tuple[int, int]) -> nn.Linear:
    """The same linear layer in float64 at every call; the rows differ in length."""
    torch.manual_seed(sum(shape))
    linear = nn.Linear(*shape, dtype=torch.float64)
    linear.weight.data *= torch.arange(1, shape[1] + 1)[:, None]
    return linear


def trained(layer_class: type, shape: tuple[int, int]) -> nn.Module:
    """A layer whose A, B and magnitude are far from their start."""
    layer = layer_class(base(shape), RANK, ALPHA).to(torch.float64)
    torch.manual_seed(7)
    with torch.no_grad():
        for p in (layer.A, layer.B):
            p.copy_(torch.randn_like(p))
        layer.magnitude.copy_(torch.rand_like(layer.magnitude) + 0.5)
    return layer


def own_weight(layer: nn.Module, d_in: int) -> Tensor:
    """The matrix (d_out, d_in) that the layer multiplies x by."""
    eye = torch.eye(d_in, dtype=torch.float64)
    with torch.no_grad():
        return (layer(eye) - layer(torch.zeros_like(eye))).T


def direction(layer: nn.Module, shape: tuple[int, int]) -> Tensor:
    """W0 + alpha / rank · B A, (d_out, d_in), each row divided by its length."""
    V = base(shape).weight.detach() + ALPHA / RANK * layer.B.detach() @ layer.A.detach()
    return V / V.norm(dim=1, keepdim=True)


@pytest.mark.usual_cause(
    "The norm over the wrong dimension: PyTorch's weights are (out, in), so it is weight.norm(dim=1), one number for "
    "each output. (The paper's W is the transpose.) Or a magnitude that starts at ones, or is no nn.Parameter."
)
def test_magnitude_starts_as_row_norms(layer_class):
    """The magnitude is a parameter that starts as the length of each row of W0."""
    for shape in SHAPES:
        layer, wanted = layer_class(base(shape), RANK, ALPHA).to(torch.float64), base(shape).weight.norm(dim=1)
        assert isinstance(layer.magnitude, nn.Parameter), "the magnitude is no nn.Parameter"
        found = tuple(layer.magnitude.shape)
        assert layer.magnitude.numel() == shape[1], f"the magnitude has shape {found}, not ({shape[1]},)"
        assert_close(layer.magnitude.detach().reshape(-1), wanted.detach(), "the magnitude", 1e-6)


@pytest.mark.usual_cause("B not zero at the start; or a division by the norm without the magnitude, or the reverse.")
def test_start_is_base(layer_class):
    """Before the first step the output is the base's."""
    x = torch.randn(4, 5, dtype=torch.float64)
    assert_close(layer_class(base((5, 3)), RANK, ALPHA).to(torch.float64)(x), base((5, 3))(x), "the output", 1e-6)


@pytest.mark.usual_cause(
    "The bias rescaled with the rest: g · (W0 x + bias) in place of g · (W0 x) + bias; or it is left out."
)
def test_bias_is_not_rescaled(layer_class):
    """For x = 0 the output is the base's bias, whatever the magnitude."""
    for shape in SHAPES:
        h = trained(layer_class, shape)(torch.zeros(1, shape[0], dtype=torch.float64)).detach()
        assert_close(h[0], base(shape).bias.detach(), "the output for x = 0")


@pytest.mark.usual_cause(
    "The update without alpha / rank, or added after the division: the norm and the direction are those of "
    "W0 + alpha / rank · B A together."
)
def test_rows_point_along_base_and_update(layer_class):
    """Each row of the weight points along the same row of W0 + alpha / rank · B A."""
    for shape in SHAPES:
        layer = trained(layer_class, shape)
        own = own_weight(layer, shape[0])
        assert_close(own / own.norm(dim=1, keepdim=True), direction(layer, shape), "the direction of a row", 1e-9)


@pytest.mark.usual_cause(
    "A division by the row norms of W0 alone, computed once, in place of those of W0 + alpha / rank · B A; or none."
)
def test_rows_are_as_long_as_magnitude(layer_class):
    """Each row of the weight is as long as its magnitude says, after training too."""
    for shape in SHAPES:
        layer = trained(layer_class, shape)
        got = own_weight(layer, shape[0]).norm(dim=1)
        assert_close(got, layer.magnitude.detach().reshape(-1), "the length of a row", 1e-9)


@pytest.mark.usual_cause("base.requires_grad_(False) is missing, or the magnitude does not train.")
def test_three_parameters_train(layer_class):
    """A, B and the magnitude are trainable, and nothing else is."""
    named = layer_class(base((5, 3)), RANK, ALPHA).named_parameters()
    names = sorted(name for name, p in named if p.requires_grad)
    assert names == ["A", "B", "magnitude"], f"trainable are {', '.join(names) or 'no parameters'}"


@pytest.mark.usual_cause(
    "Too much detached: only the norm in the denominator may count as a constant, not W0 + B A above it; or .data."
)
def test_gradients_are_slopes(layer_class):
    """The gradients of A, B and the magnitude are the formula's, with the norm as a constant or without."""
    shape, x = (5, 3), torch.randn(4, 5, dtype=torch.float64)
    layer = trained(layer_class, shape)
    parameters = (layer.A, layer.B, layer.magnitude)
    h = layer(x)
    assert h.requires_grad, "no gradient reaches A, B or the magnitude"
    got = torch.autograd.grad(h.square().sum(), parameters, allow_unused=True)
    fits = []
    for constant in (True, False):
        A, B, m = (p.detach().clone().requires_grad_() for p in parameters)
        V = base(shape).weight.detach() + ALPHA / RANK * B @ A
        n = V.norm(dim=1).detach() if constant else V.norm(dim=1)
        wanted = torch.autograd.grad((x @ (m.reshape(-1) / n * V.T) + base(shape).bias).square().sum(), (A, B, m))
        fits.append([g is not None and torch.allclose(g, w, rtol=1e-8) for g, w in zip(got, wanted, strict=True)])
    names = [n for n, ok in zip(("A", "B", "the magnitude"), max(fits, key=sum), strict=True) if not ok]
    assert not names, f"the gradient of {' and of '.join(names)} is not the formula's"


@pytest.mark.usual_cause("A merge that adds B A as in LoRA and forgets the magnitude, or one that rescales the bias.")
def test_merge_computes_the_same(layer_class):
    """merge() gives an nn.Linear with the weight of the forward and the bias of the base."""
    for shape in SHAPES:
        layer = trained(layer_class, shape)
        wanted, merged = own_weight(layer, shape[0]), layer.merge()
        assert isinstance(merged, nn.Linear), f"merge() returns a {type(merged).__name__}, not an nn.Linear"
        assert_close(merged.weight.detach(), wanted, "the merged weight", 1e-9)
        assert merged.bias is not None, "the merged layer has no bias, and the base has one"
        assert_close(merged.bias.detach(), base(shape).bias.detach(), "the merged bias")


@pytest.mark.usual_cause("A merge in place, after which the update counts twice. Clone first.")
def test_merge_leaves_layer(layer_class):
    """merge() changes no output of the layer."""
    layer, x = trained(layer_class, (5, 3)), torch.randn(4, 5, dtype=torch.float64)
    before = layer(x)
    layer.merge()
    assert torch.equal(layer(x), before), "merge() has changed the layer's output"


@pytest.mark.usual_cause("An x taken for two-dimensional: .T, .mm or .t() in place of @ or F.linear.")
def test_batch_dimensions(layer_class):
    """Any dimensions may stand before d_in."""
    layer, x = trained(layer_class, (5, 3)), torch.randn(2, 4, 5, dtype=torch.float64)
    h = layer(x)
    assert tuple(h.shape) == (2, 4, 3), f"x of (2, 4, 5) gives {tuple(h.shape)}"
    assert_close(h.reshape(-1, 3), layer(x.reshape(-1, 5)), "rows together and apart")
