"""What is true of every LoRA layer, whoever wrote it. The class comes from the fixture `layer_class`.

Each property looks at one thing and takes the rest from the layer itself, so that one mistake breaks one property:
the direction of the update is checked apart from its size, and the merge against the layer's own forward.
"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, assert_close, cases
from torch import Tensor, nn
from torch.func import functional_call

matrices = st.tuples(st.integers(1, 4))  # batch dimensions have a property to themselves
anything = cases(batch=matrices)
with_bias = cases(bias=True, batch=matrices)


def own_weight(layer: nn.Module, case: Case) -> Tensor:
    """The matrix (d_out, d_in) that the layer's forward multiplies x by: W0 and its update."""
    eye = torch.eye(case.d_in, dtype=case.dtype)
    with torch.no_grad():
        return (layer(eye) - layer(torch.zeros_like(eye))).T


def own_update(layer: nn.Module, case: Case) -> Tensor:
    """The part of `own_weight` that comes from A and B: what goes away when B is zero."""
    without = copy.deepcopy(layer)
    nn.init.zeros_(without.B)
    return own_weight(layer, case) - own_weight(without, case)


@pytest.mark.usual_cause(
    "A made as (d_in, rank) or B as (rank, d_out), or the two swapped; PyTorch weights are (out, in). A plain tensor "
    "in place of an nn.Parameter gives this too."
)
@given(case=anything)
def test_factors_have_shapes(layer_class, case):
    """A is a parameter of shape (rank, d_in) and B one of shape (d_out, rank)."""
    layer = case.adapted(layer_class)
    assert isinstance(layer.A, nn.Parameter) and isinstance(layer.B, nn.Parameter), "A or B is no nn.Parameter"
    got, wanted = (tuple(layer.A.shape), tuple(layer.B.shape)), ((case.rank, case.d_in), (case.d_out, case.rank))
    assert got == wanted, f"A and B have shapes {got[0]} and {got[1]}, not {wanted[0]} and {wanted[1]}"


@pytest.mark.usual_cause("A and B without dtype=torch.promote_types(base.weight.dtype, torch.float32).")
@given(case=cases(dtypes=(torch.float64, torch.bfloat16, torch.float16)))
def test_factors_are_float32_at_least(layer_class, case):
    """A and B are of the type of the base's weight, and float32 over 16 bits, where small steps round to none."""
    layer = layer_class(case.base(), case.rank, case.alpha)
    wide = torch.promote_types(case.dtype, torch.float32)
    assert layer.A.dtype == layer.B.dtype == wide, f"A is {layer.A.dtype} and B {layer.B.dtype} over {case.dtype}"


@pytest.mark.usual_cause(
    "A and B both random: one of them must be zero, so that B A is. Or the base's bias is added twice, or not at all."
)
@given(case=anything)
def test_start_is_base(layer_class, case):
    """Before the first step the output is the base's, exactly."""
    x = case.input()
    got, wanted = case.adapted(layer_class)(x), case.base()(x)
    assert torch.equal(got, wanted), f"the output differs from the base's by {(got - wanted).abs().max():.3g}"


@pytest.mark.usual_cause(
    "A and B both zero: then the gradient of each, which holds the other as a factor, is zero for ever. Or the update "
    "is computed from .data, under no_grad, or from a detached A or B."
)
@given(case=anything)
def test_two_steps_move_update(layer_class, case):
    """Two steps of gradient descent move both A and B, and with them the output."""
    x, layer = case.input(), case.adapted(layer_class)
    A, B = layer.A.detach().clone(), layer.B.detach().clone()
    optimizer = torch.optim.SGD([layer.A, layer.B], lr=0.1)
    for _ in range(2):  # two, because at B = 0 only B gets a gradient
        optimizer.zero_grad()
        h = layer(x)
        assert h.requires_grad, "no gradient reaches A or B"
        (h - 1).square().sum().backward()
        optimizer.step()
    moved = [name for name, before, now in (("A", A, layer.A), ("B", B, layer.B)) if not torch.equal(before, now)]
    assert moved == ["A", "B"], f"two steps moved {' and '.join(moved) or 'neither A nor B'}"
    assert not torch.equal(own_weight(layer, case), case.base().weight), "the output is still the base's"


@pytest.mark.usual_cause("base.requires_grad_(False) is missing: the base would be trained too, and no memory saved.")
@given(case=anything)
def test_only_factors_train(layer_class, case):
    """A and B are trainable, and nothing else is."""
    names = sorted(name for name, p in case.adapted(layer_class).named_parameters() if p.requires_grad)
    assert names == ["A", "B"], f"trainable are {', '.join(names) or 'no parameters'}"


@pytest.mark.usual_cause(
    "A base that is not frozen, so that the optimizer moves it; or a forward that writes into base.weight or base.bias."
)
@given(case=with_bias)
def test_training_leaves_base(layer_class, case):
    """Two optimizer steps over all that is trainable change no bit of the base's weight and bias."""
    base = case.base()
    layer = layer_class(base, case.rank, case.alpha).to(case.dtype)
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        layer(case.input()).square().sum().backward()
        optimizer.step()
    same = torch.equal(base.weight, case.base().weight) and torch.equal(base.bias, case.base().bias)
    assert same, "the base's weight or bias has changed"


@pytest.mark.usual_cause(
    "The product the wrong way round: x @ B @ A runs without an error where d_in = d_out, but is the update's "
    "transpose. For rows x it is x @ A.T @ B.T."
)
@given(case=cases(square=True))
def test_update_points_along_BA(layer_class, case):
    """In a square layer, where a swap raises no error, the update is a positive multiple of B A."""
    layer = case.trained(layer_class)
    got, product = own_update(layer, case), layer.B.detach() @ layer.A.detach()
    assert (got * product).sum() > 0, "the update is zero, or points away from B A"
    assert_close(got / got.norm(), product / product.norm(), "the update's direction", tolerance=1e-9)


@pytest.mark.usual_cause(
    "Alpha without the division by rank; or alpha / sqrt(rank), which is rsLoRA; or the scale applied twice."
)
@given(case=cases(square=True, min_rank=2))
def test_update_is_scaled_by_alpha_over_rank(layer_class, case):
    """With A and B of ones, x of ones gains alpha / rank · rank · d_in = alpha · d_in in each output."""
    layer = case.adapted(layer_class)
    nn.init.ones_(layer.A), nn.init.ones_(layer.B)
    gain = own_update(layer, case).sum(dim=1)
    wanted = torch.full_like(gain, case.alpha * case.d_in)
    assert_close(gain, wanted, f"rank {case.rank}, alpha {case.alpha:g}: each output gains {gain[0]:g}")


@pytest.mark.usual_cause("An x taken for two-dimensional: .T, .mm or .t() in place of @ or F.linear.")
@given(case=cases())
def test_batch_dimensions(layer_class, case):
    """Any dimensions may stand before d_in; each row of x gives what it gives alone."""
    layer, x = case.trained(layer_class), case.input()
    h = layer(x)
    assert tuple(h.shape) == (*case.batch, case.d_out), f"x of {tuple(x.shape)} gives {tuple(h.shape)}"
    alone = [layer(row) for row in x.reshape(-1, case.d_in)]
    assert_close(h.reshape(-1, case.d_out), torch.stack(alone), "rows together and alone")


@pytest.mark.usual_cause("A .detach(), .data or no_grad() on the way, or an autograd function with a wrong backward.")
@given(case=anything)
def test_gradients_are_slopes(layer_class, case):
    """The gradients of x, A and B are the slopes of the forward, measured by finite differences."""
    layer = case.trained(layer_class)
    inputs = {"x": case.input(), "A": layer.A.detach().clone(), "B": layer.B.detach().clone()}
    for name in inputs:

        def forward(value, name=name):
            x, A, B = (inputs | {name: value}).values()
            return functional_call(layer, {"A": A, "B": B}, (x,))

        value = inputs[name].clone().requires_grad_()
        same = forward(value).requires_grad and torch.autograd.gradcheck(forward, value, raise_exception=False)
        assert same, f"the gradient of {name} is not the slope of the forward along {name}"


@pytest.mark.usual_cause(
    "A merge that forgets the scale, or that adds A and B the wrong way round. Or it returns a bare tensor: merge() "
    "gives a fresh nn.Linear."
)
@given(case=anything)
def test_merge_has_weight_of_forward(layer_class, case):
    """The weight of merge() is the matrix that the forward multiplies by."""
    layer = case.trained(layer_class)
    wanted = own_weight(layer, case)
    merged = layer.merge()
    assert isinstance(merged, nn.Linear), f"merge() returns a {type(merged).__name__}, not an nn.Linear"
    weight = merged.weight.detach()  # of another type it is a mistake too, with a property to itself
    assert_close(weight.to(wanted.dtype), wanted, "the merged weight", 1e-12 if weight.dtype == wanted.dtype else 1e-6)


@pytest.mark.usual_cause(
    "nn.Linear(d_in, d_out) without dtype=base.weight.dtype: it is float32 then, whatever the base."
)
@given(case=cases(dtypes=(torch.float64, torch.bfloat16)))
def test_merge_has_dtype_of_base(layer_class, case):
    """The weight of merge() is of the type of the base's weight, so that what read the base reads it too."""
    merged = layer_class(case.base(), case.rank, case.alpha).merge()  # A and B as it made them: wider over 16 bits
    assert merged.weight.dtype == case.dtype, f"the merged weight is {merged.weight.dtype} over a base in {case.dtype}"


@pytest.mark.usual_cause("A merge that leaves the bias out, adds it twice, or scales it; it is the base's as it is.")
@given(case=anything)
def test_merge_has_bias_of_base(layer_class, case):
    """The bias of merge() is the base's bias; there is none where the base has none."""
    bias, wanted = case.trained(layer_class).merge().bias, case.base().bias
    if wanted is None:
        assert bias is None or not bias.any(), "the merged layer has a bias, and the base has none"
    else:
        assert bias is not None, "the merged layer has no bias, and the base has one"
        wanted = wanted.to(bias.dtype)
        assert torch.equal(bias, wanted), f"the bias is off by {(bias - wanted).abs().max():.3g}"


@pytest.mark.usual_cause(
    "A merge in place, base.weight += …, after which the update counts twice; or a merged layer that shares its "
    "weight or bias with the base. Clone first."
)
@given(case=with_bias)
def test_merge_leaves_layer(layer_class, case):
    """merge() changes no bit of the layer or its base, and changing what it returns does not either."""
    x, base = case.input(), case.base()
    layer = layer_class(base, case.rank, case.alpha).to(case.dtype)
    nn.init.ones_(layer.B)
    before = layer(x)
    merged = layer.merge()
    same = torch.equal(base.weight, case.base().weight) and torch.equal(base.bias, case.base().bias)
    assert same, "merge() has changed the base"
    assert torch.equal(layer(x), before), "merge() has changed the layer's output"
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.add_(1)
    assert torch.equal(layer(x), before), "the merged layer shares its numbers with the base"


@pytest.mark.usual_cause("A train() that merges or unmerges; a mode should change dropout and nothing else.")
@given(case=anything, modes=st.lists(st.booleans(), min_size=1, max_size=5))
def test_modes_change_no_bit(layer_class, case, modes):
    """train() and eval(), in any order and however often, change no bit of the layer and none of its output."""
    x, layer = case.input(), case.trained(layer_class)
    output, state = layer(x), copy.deepcopy(layer.state_dict())
    for mode in modes:
        assert layer.train(mode) is layer, "train() does not return the layer"
        assert torch.equal(layer(x), output), f"train({mode}) changes the output"
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items()), "a weight has changed"


@pytest.mark.usual_cause("A and B not registered as parameters, or a state_dict() of its own that leaves some out.")
@given(case=anything)
def test_state_dict_round_trip(layer_class, case):
    """A state dict loads strictly into a layer that was built anew, which then gives the same output to the bit."""
    x, layer = case.input(), case.trained(layer_class)
    other = layer_class(nn.Linear(case.d_in, case.d_out, bias=case.bias), case.rank, case.alpha).to(case.dtype)
    try:
        other.load_state_dict(layer.state_dict(), strict=True)
    except RuntimeError as error:
        raise AssertionError(" ".join(str(error).split())) from None
    assert torch.equal(other(x), layer(x)), "the loaded layer gives another output"


@pytest.mark.usual_cause("A tensor kept outside parameters and buffers, which a copy or a move leaves behind.")
@given(case=anything)
def test_copy_is_independent(layer_class, case):
    """A deep copy gives the same output, and changing it leaves the original alone."""
    x, layer = case.input(), case.trained(layer_class)
    output, twin = layer(x), copy.deepcopy(layer)
    assert torch.equal(twin(x), output), "the copy gives another output"
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(layer(x), output), "changing the copy changes the original"


@pytest.mark.usual_cause("A delta_weight() without the scale, or transposed; it is what merge() adds to W0.")
@given(case=anything)
def test_delta_weight_is_what_forward_adds(layer_class, case):
    """delta_weight(), where there is one, is the matrix that the forward adds to W0."""
    layer = case.trained(layer_class)
    if not hasattr(layer, "delta_weight"):
        pytest.skip("this layer has no delta_weight(), and needs none")
    assert_close(layer.delta_weight().detach(), own_update(layer, case), "delta_weight()")
