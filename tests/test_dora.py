"""DoRALinear: the formula row by row, the start, the merge, the gradient with its norm held fixed, rows without a norm.

Every property has B far from zero and the magnitude away from the row norms, unless it is about the start.
"""

import contextlib
import copy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import FLOATS, Case, assert_close, cases, seeds
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lora_from_scratch import AdapterConfig, DoRALinear, LoRALinear, add_adapters, count_parameters, rslora_scaling

MOST = 6  # inputs or outputs of a drawn layer
HALVES = (torch.bfloat16, torch.float16)


def moved(case: Case, layer_class: type = DoRALinear, **options) -> DoRALinear:
    """The layer with A and B far from their start, and a magnitude that is no row's norm, from 0.5 to 2.5.

    No row of W0 is all but cancelled by its update: there rounding comes out enlarged, by as much as this processor
    happens to round. Tests of such rows make their own.
    """
    layer = move(case.trained(layer_class, **options), case.seed)
    w, u = layer.base.weight.detach().double(), layer.delta_weight().detach().double()
    assume(((w + u).square().sum(dim=1) > 0.01 * (w.abs() + u.abs()).square().sum(dim=1)).all())
    return layer


def move(layer: DoRALinear, seed: int) -> DoRALinear:
    """Give the magnitude numbers from 0.5 to 2.5."""
    numbers = torch.Generator().manual_seed(10 * seed + 3)
    with torch.no_grad():
        layer.magnitude.copy_(0.5 + 2 * torch.rand(layer.magnitude.shape, generator=numbers, dtype=torch.float64))
    return layer


def parameters_of(layer: DoRALinear) -> dict[str, Tensor]:
    """What is trained."""
    return {"A": layer.A, "B": layer.B, "magnitude": layer.magnitude}


def slow_weight(layer: DoRALinear) -> list[list[float]]:
    """The rows of W′ one number at a time: m_o · (w_o + u_o) / ‖w_o + u_o‖, with u_o = s · Σ_k B_ok A_k."""
    W, A, B, m = (tensor.tolist() for tensor in (layer.base.weight, layer.A, layer.B, layer.magnitude))
    rows = []
    for o in range(len(W)):
        row = list(W[o])
        for k in range(layer.rank):
            for i in range(len(row)):
                row[i] += layer.scaling * B[o][k] * A[k][i]
        norm = sum(number**2 for number in row) ** 0.5
        rows.append([m[o] * number / norm for number in row])
    return rows


def slow_forward(layer: DoRALinear, x: Tensor) -> Tensor:
    """h_o = Σ_i W′_oi x_i + b_o, one number at a time."""
    W = slow_weight(layer)
    b = [0.0] * len(W) if layer.base.bias is None else layer.base.bias.tolist()
    h = []
    for given_row in x.reshape(-1, x.shape[-1]).tolist():
        h.append([b[o] + sum(w * xi for w, xi in zip(W[o], given_row, strict=True)) for o in range(len(W))])
    return torch.tensor(h, dtype=torch.float64).reshape(*x.shape[:-1], len(W))


def dense(layer: DoRALinear, detached: bool = True) -> Tensor:
    """W′ through the full matrix, for autograd: with the norm held fixed, as in section 4.3, or not."""
    V = layer.base.weight + layer.scaling * torch.einsum("or,ri->oi", layer.B, layer.A)
    n = V.square().sum(dim=1, keepdim=True).sqrt()
    return layer.magnitude[:, None] * V / (n.detach() if detached else n)


def upstream_of(h: Tensor) -> Tensor:
    """Some gradient of the output, no two entries alike."""
    return torch.cos(torch.arange(h.numel(), dtype=h.dtype)).reshape(h.shape)


# The formula. The checks with a class as argument are used again below, on layers that are wrong on purpose.


def check_forward(layer_class: type, case: Case) -> None:
    """The output is the formula computed row by row."""
    layer, x = moved(case, layer_class), case.input()
    assert_close(layer(x).detach(), slow_forward(layer, x), "output")


def check_bias(layer_class: type, case: Case) -> None:
    """At x = 0 the output is the bias, whatever g is."""
    layer = moved(case, layer_class)
    h = layer(torch.zeros(2, case.d_in, dtype=case.dtype)).detach()
    wanted = torch.zeros(case.d_out, dtype=case.dtype) if layer.bias is None else layer.bias
    # g · b + (1 - g) · b rounds four times: each number by 2^-53 of (1 + 2 |g|) |b| at most
    assert_close(h, wanted.expand(2, -1), "output at 0", tolerance=4 * 2**-53 * (1 + 2 * layer.rescaling().max()))


def check_merge(layer_class: type, case: Case, layer_of=moved) -> None:
    """The merged layer has the weight of the formula, the bias as it was, and the output of the forward."""
    layer, x = layer_of(case, layer_class), case.input()
    merged = layer.merge()
    assert type(merged) is nn.Linear and not any(p.requires_grad for p in merged.parameters())
    assert_close(merged(x), layer(x).detach(), "output of the merge")
    assert_close(merged.weight, torch.tensor(slow_weight(layer), dtype=torch.float64), "merged weight")
    assert torch.equal(merged.bias, layer.base.bias) if case.bias else merged.bias is None


@given(case=cases())
def test_forward_is_slow_definition(case):
    """The output is m · (w + u) / ‖w + u‖ · x + b for every output row, computed number by number."""
    check_forward(DoRALinear, case)


@given(case=cases(square=False, bias=True))
def test_rank_may_exceed_both_sides(case):
    """A rank above d_in and d_out is a rank like any other."""
    case = replace(case, rank=case.rank + MOST)
    check_forward(DoRALinear, case)
    check_merge(DoRALinear, case)


@given(case=cases())
def test_bias_is_not_rescaled(case):
    """At x = 0 the output is the bias, up to rounding, whatever the magnitude is."""
    check_bias(DoRALinear, case)


@given(case=cases())
def test_merge_is_equivalent(case):
    """In float64 the merged weight is the formula's, its bias the base's to the bit, its output the forward's."""
    check_merge(DoRALinear, case)


@given(case=cases())
def test_row_norms_are_those_of_the_adapted_weight(case):
    """row_norms() is the norm of each row of W0 + s · B A, and takes no gradient."""
    layer = moved(case)
    n = layer.row_norms()
    assert_close(n, (layer.base.weight + layer.delta_weight()).norm(dim=1).detach())
    assert n.shape == (case.d_out,) and not n.requires_grad


@given(case=cases())
def test_rows_have_magnitude_as_norm(case):
    """Each row of the adapted weight has its magnitude as norm; doubling the magnitude doubles the weight, exactly."""
    layer = moved(case)
    before = layer.weight.detach()
    assert_close(before.norm(dim=1), layer.magnitude.detach())
    with torch.no_grad():
        layer.magnitude *= 2
    assert torch.equal(layer.weight, 2 * before)
    assert_close(layer.merge().weight.norm(dim=1), layer.magnitude.detach())


def test_magnitude_has_one_number_for_each_output():
    """Over W0 of shape (3, 5) the magnitude has 3 numbers, the norms of the rows: 5, 1 and 2 by hand."""
    base = nn.Linear(5, 3, dtype=torch.float64)
    rows = [[3, 0, 0, -4, 0], [0, 0, 1, 0, 0], [1, 1, 0, -1, 1]]
    base.weight.data = torch.tensor(rows, dtype=torch.float64)
    layer = DoRALinear(base, 2, 4)
    assert_close(layer.magnitude.detach(), torch.tensor([5.0, 1.0, 2.0], dtype=torch.float64))


def test_hand_case():
    """w = (3, 0), u = (0, 4), m = 10, x = (1, 1), b = 1: the row is (6, 8), and the output 15."""
    layer = DoRALinear(nn.Linear(2, 1, dtype=torch.float64), rank=1, alpha=2)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[3.0, 0.0]])), layer.base.bias.fill_(1)
        layer.A.copy_(torch.tensor([[0.0, 1.0]])), layer.B.fill_(2), layer.magnitude.fill_(10)
    assert_close(layer.weight.detach(), torch.tensor([[6.0, 8.0]], dtype=torch.float64))
    assert_close(layer(torch.ones(2, dtype=torch.float64)).detach(), torch.tensor([15.0], dtype=torch.float64))


@given(case=cases(bias=True), factor=st.floats(0.1, 10))
def test_scaling_is_read_at_every_call(case, factor):
    """A scaling changed by hand holds for output, norms, delta_weight() and merge."""
    layer, x = moved(case), case.input()
    before, delta = layer(x).detach(), layer.delta_weight().detach()
    assert layer.scaling == case.alpha / case.rank
    layer.scaling *= factor + 11
    assert_close(layer.delta_weight().detach(), (factor + 11) * delta)
    assert_close(layer(x).detach(), slow_forward(layer, x))
    assert_close(layer.row_norms(), (layer.base.weight + layer.delta_weight()).norm(dim=1).detach())
    assert_close(layer.merge()(x), layer(x).detach())
    assert not torch.equal(layer(x), before)


@given(case=cases())
def test_scaling_of_rslora_goes_with_it(case):
    """DoRA scaled by alpha / sqrt(r) is DoRA at that scaling: no further code is needed."""
    layer, x = moved(case, scaling=rslora_scaling), case.input()
    assert layer.scaling == rslora_scaling(case.alpha, case.rank)
    assert_close(layer(x).detach(), slow_forward(layer, x))


@given(case=cases())
def test_config_reaches_layers_and_counts(case):
    """AdapterConfig(dora=True) gives DoRALinear; r · (d_in + d_out) + d_out numbers are trained."""
    config = AdapterConfig(case.rank, case.alpha, targets=["0"], dora=True)
    model = add_adapters(nn.Sequential(case.base()), config)
    assert type(model[0]) is DoRALinear and model[0].scaling == case.alpha / case.rank
    assert count_parameters(model)[0] == case.rank * (case.d_in + case.d_out) + case.d_out


# The three classic mistakes


class NormOverOutputs(DoRALinear):
    """Wrong: the norm of each column, dim=0, of a weight that is (out, in)."""

    @torch.no_grad()
    def row_norms(self):
        return (self.base.weight + self.delta_weight()).norm(dim=0)


class BiasRescaled(DoRALinear):
    """Wrong: g multiplies all of the base's output, its bias too."""

    def forward(self, x):
        return self.rescaling() * LoRALinear.forward(self, x)


class MergeWithoutG(DoRALinear):
    """Wrong: the merge of plain LoRA, which is DoRA's only as long as g is 1."""

    @property
    def weight(self):
        return self.base.weight + self.delta_weight()


SQUARE = Case(d_in=4, d_out=4, rank=2, alpha=3.0, bias=True, batch=(2, 3), dtype=torch.float64, seed=1)
WRONG = [(NormOverOutputs, check_forward), (BiasRescaled, check_forward), (BiasRescaled, check_bias)]
WRONG += [(BiasRescaled, check_merge), (MergeWithoutG, check_merge)]


@pytest.mark.parametrize("layer_class, check", WRONG, ids=lambda thing: thing.__name__)
def test_classic_mistake_is_caught(layer_class, check):
    """Each of the classic mistakes fails a check here, in a square layer too, where none of them raises an error."""
    check(DoRALinear, SQUARE)
    with pytest.raises(AssertionError, match="off by"):
        check(layer_class, SQUARE)


@pytest.mark.parametrize("layer_class", [BiasRescaled, MergeWithoutG])
def test_classic_mistake_hides_at_the_start(layer_class):
    """At the start, where g is 1, a rescaled bias and a merge without g show in nothing: why B is not zero here."""
    check_merge(layer_class, SQUARE, layer_of=Case.adapted)


# The start


@given(case=cases(dtypes=FLOATS), training=st.booleans())
def test_start_is_base_with_dropout_too(case, training):
    """At the start the output is the base's to the bit, in every float type, in train mode with dropout too."""
    layer, x = DoRALinear(case.base(), case.rank, case.alpha, dropout=0.5), case.input()
    assert torch.equal(layer.train(training)(x), case.base()(x))
    assert torch.equal(layer.weight, case.base().weight) and torch.equal(layer.merge().weight, case.base().weight)


@given(case=cases(dtypes=FLOATS))
def test_start_is_the_norms_of_the_base(case):
    """The magnitude starts as the row norms of W0 in A's type, one rounding away; A and B as in LoRALinear."""
    layer = DoRALinear(case.base(), case.rank, case.alpha)
    torch.manual_seed(case.seed)  # the base's numbers are drawn first, then those of A
    plain = LoRALinear(case.base(), case.rank, case.alpha)
    wanted = case.base().weight.double().norm(dim=1)
    own = torch.promote_types(case.dtype, torch.float32)
    assert layer.magnitude.dtype == layer.A.dtype == layer.B.dtype == own and layer.magnitude.requires_grad
    # the norm in float32 at least: 6 squares, a root, a square and a root again, then the rounding to the type
    wide = torch.finfo(torch.promote_types(case.dtype, torch.float32)).eps
    off = (layer.magnitude.double() - wanted).abs() / wanted
    assert off.max() <= torch.finfo(own).eps / 2 + MOST * wide
    assert layer.A.shape == plain.A.shape and layer.A.any() and not layer.B.any()


@given(case=cases())
def test_base_is_kept(case):
    """The base is the very layer that was given, frozen, with not a bit of its numbers changed."""
    base = case.base()
    layer = DoRALinear(base, case.rank, case.alpha)
    assert layer.base is base and not any(p.requires_grad for p in base.parameters())
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), case.base().parameters(), strict=True))


# Dropout


@given(case=cases(bias=True))
def test_dropout_is_off_in_eval(case):
    """In eval mode dropout changes nothing."""
    with_it, without, x = moved(case, dropout=0.9), moved(case), case.input()
    assert torch.equal(with_it.eval()(x), without(x))


@given(case=cases(bias=True), p=st.floats(0.1, 0.9))
def test_dropout_acts_on_adapter_path_alone(case, p):
    """In train mode the output is g · (W0 x + s · B A drop(x)) + b: the base's path keeps all of x."""
    layer, x = moved(case, dropout=p), case.input()
    torch.manual_seed(case.seed)
    got = layer(x)
    torch.manual_seed(case.seed)
    kept = x @ layer.base.weight.T + layer.scaling * F.dropout(x, p) @ layer.A.T @ layer.B.T
    n = (layer.base.weight + layer.scaling * layer.B @ layer.A).norm(dim=1)
    assert_close(got, layer.magnitude / n * kept + layer.base.bias)


# Merging


def rounding_of_squares(layer: DoRALinear) -> Tensor:
    """How far the n² of row_norms() may be from the true one, (d_out,), by the error bound of each of its sums.

    With ε the type's half step, d inputs and rank r, a sum of d products errs by d · ε of the sum of their sizes.
    ‖w‖² takes d + 4 roundings, ⟨w, u⟩ d + r + 2, ‖u‖² d + 2r + 3, putting them together 2, and the floor is 2ε
    of the sum: d + 2r + 8 at most, of the sizes ‖w‖² + 2 |w| |u| + |u|², where |u| is s · |B| |A|.
    """
    wide = torch.promote_types(layer.A.dtype, torch.float32)
    half_step = torch.finfo(wide).eps / 2
    w = layer.base.weight.detach().double().abs()
    u = layer.scaling * layer.B.detach().double().abs() @ layer.A.detach().double().abs()
    roundings = layer.in_features + 2 * layer.rank + 8
    return 1.01 * roundings * half_step * (w + u).square().sum(dim=1)  # 1.01 for the squares of roundings


@given(case=cases(dtypes=HALVES))
def test_merge_rounds_once(case):
    """In half precision the merged weight is g · (W0 + s · B A) in float32, cast once: equal to the bit."""
    layer = moved(case)
    product = layer.scaling * (layer.B.float() @ layer.A.float())
    wanted = (layer.rescaling().float()[:, None] * (layer.base.weight.float() + product)).to(case.dtype)
    merged = layer.merge()
    assert merged.weight.dtype == case.dtype and torch.equal(merged.weight, wanted)
    assert torch.equal(layer.weight, wanted) and layer.delta_weight().dtype == torch.float32
    assert case.bias is False or torch.equal(merged.bias, layer.base.bias)


@given(case=cases(dtypes=HALVES))
def test_merge_in_half_precision_is_three_roundings_away(case):
    """n is rounded to half precision, then g, then the weight: 3 half steps in all, beside what float32 rounds."""
    layer = moved(case)
    exact = copy.deepcopy(layer).double()
    wanted = torch.tensor(slow_weight(exact), dtype=torch.float64)
    norms = (exact.base.weight + exact.delta_weight()).norm(dim=1).detach()
    half_step, tiny = torch.finfo(case.dtype).eps / 2, 2.0**-25  # the least float16 is 2^-24
    share = 1.01 * (3 * half_step) + rounding_of_squares(layer) / norms**2
    sizes = exact.base.weight.abs() + layer.scaling * exact.B.abs() @ exact.A.abs()  # what float32 adds up
    in_float32 = (exact.magnitude / norms)[:, None] * (case.rank + 4) * 2.0**-24 * sizes
    assert ((layer.merge().weight.double() - wanted).abs() <= share[:, None] * wanted.abs() + in_float32 + tiny).all()


@given(case=cases(bias=True))
def test_merge_leaves_layer(case):
    """merge() changes no bit of the layer, twice gives the same, and shares no number with it."""
    layer, x = moved(case), case.input()
    state, output = copy.deepcopy(layer.state_dict()), layer(x)
    merged, again = layer.merge(), layer.merge()
    assert torch.equal(merged.weight, again.weight)
    with torch.no_grad():
        merged.weight.add_(1), merged.bias.add_(1)
    assert torch.equal(layer(x), output)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


def test_merge_that_overflows_is_refused():
    """A row of one number has its magnitude as weight; 70000 has no float16."""
    layer = DoRALinear(nn.Linear(1, 1, dtype=torch.float16), 1, 1)
    nn.init.ones_(layer.base.weight), nn.init.ones_(layer.A), nn.init.constant_(layer.magnitude, 70000)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"not finite in torch\.float16.*merge in float32"):
        layer.merge()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.isfinite(layer.float().merge().weight).all()  # what the message advises


# Gradients


@given(case=cases(square=False))
def test_gradients_are_those_with_the_norm_held_fixed(case):
    """x, A, B and the magnitude get autograd's gradients through the full W′, its norm a constant (section 4.3)."""
    layer, x = moved(case), case.input().requires_grad_()
    inputs = {"x": x} | parameters_of(layer)
    h = layer(x)
    got = torch.autograd.grad(h, inputs.values(), upstream_of(h))
    wanted = torch.autograd.grad(F.linear(x, dense(layer), layer.base.bias), inputs.values(), upstream_of(h))
    for name, ours, theirs in zip(inputs, got, wanted, strict=True):
        assert_close(ours, theirs, f"gradient of {name}")


@given(case=cases(square=False))
def test_gradients_keep_the_part_along_each_row(case):
    """With the norm in the graph B's gradient would lack the part of the weight's that lies along its own row.

    With G the gradient of W′ and v̂ a row's direction, the two differ by s · g (G · v̂) v̂ Aᵀ, and not by nothing.
    """
    layer, x = moved(case), case.input()
    h = layer(x)
    (ours,) = torch.autograd.grad(h, layer.B, upstream_of(h))
    full = dense(layer, detached=False)
    (whole,) = torch.autograd.grad(F.linear(x, full, layer.base.bias), layer.B, upstream_of(h))
    G = upstream_of(h).reshape(-1, case.d_out).T @ x.reshape(-1, case.d_in)  # (d_out, d_in)
    direction, g = F.normalize(full.detach(), dim=1), layer.rescaling().detach()
    along = (g * (G * direction).sum(dim=1))[:, None] * direction
    missing = layer.scaling * along @ layer.A.detach().T
    assert_close(ours - whole, missing, "the part along the row")
    assert missing.abs().max() > 1e-9


@given(case=cases())
def test_gradients_flow_through_weight(case):
    """The `weight` of the layer can stand in a loss, with the gradients of the full W′, norm held fixed."""
    layer = moved(case)
    trained = parameters_of(layer)
    got = torch.autograd.grad(layer.weight, trained.values(), upstream_of(layer.base.weight))
    wanted = torch.autograd.grad(dense(layer), trained.values(), upstream_of(layer.base.weight))
    for name, ours, theirs in zip(trained, got, wanted, strict=True):
        assert_close(ours, theirs, f"gradient of {name}")


@given(case=cases(square=False, bias=True, batch=st.tuples(st.integers(1, 4))))
def test_training_moves_magnitude_and_update(case):
    """Under AdamW A, B and the magnitude move, from the start on; the base keeps every bit and gets no gradient."""
    layer = case.adapted(DoRALinear)
    before = {name: p.detach().clone() for name, p in parameters_of(layer).items()}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(case.input()) - 1).square().sum().backward()
        assert layer.magnitude.grad.any()
        optimizer.step()
    assert not any(torch.equal(p, before[name]) for name, p in parameters_of(layer).items())
    assert (layer.magnitude != before["magnitude"]).all()
    assert layer.base.weight.grad is None and layer.base.bias.grad is None
    assert all(torch.equal(p, q) for p, q in zip(layer.base.parameters(), case.base().parameters(), strict=True))
    assert_close(layer(case.input()).detach(), slow_forward(layer, case.input()))
    assert_close(layer.merge()(case.input()), layer(case.input()).detach())


# What it costs

WIDE = Case(d_in=40, d_out=30, rank=2, alpha=3.0, bias=True, batch=(2, 3), dtype=torch.float64, seed=1)


class Sizes(TorchDispatchMode):
    """The sizes of all tensors that operations make, those that are only views of the base's weight left out."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.known, self.found = weight.untyped_storage().data_ptr(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.known:
                self.found.append(tensor.numel())
        return made


def test_nothing_of_the_size_of_the_weight_is_made():
    """The norms, and a whole training step, make no tensor of d_out · d_in numbers, which building B A would."""
    layer, x = moved(WIDE), WIDE.input().requires_grad_()
    with Sizes(layer.base.weight) as norms:
        layer.row_norms()
    with Sizes(layer.base.weight) as step:
        layer(x).sum().backward()
    with Sizes(layer.base.weight) as building:
        layer.delta_weight()
    assert max(norms.found) == WIDE.rank * max(WIDE.d_in, WIDE.d_out)  # no more than A or W0 Aᵀ
    assert max(step.found) < WIDE.d_in * WIDE.d_out
    assert max(building.found) == WIDE.d_in * WIDE.d_out, "the watch sees nothing"


def kept_for_backward(layer: nn.Module, x: Tensor) -> dict[int, int]:
    """The numbers kept for backward by the address of their storage, what the layer has anyway left out."""
    own, kept, held = {p.untyped_storage().data_ptr() for p in layer.parameters()}, {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
            held.append(storage)  # so that its address is not given to another one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x).sum()
    return kept


def test_one_output_more_than_lora_is_kept_for_backward():
    """Beside what LoRA keeps there is one tensor of the output's size, for the magnitude, and g and n, (d_out,) each.

    No tensor of d_out · d_in numbers is kept: nothing of the norm's computation.
    """
    x = torch.randn(50, WIDE.d_in, dtype=torch.float64).requires_grad_()
    lora, dora = kept_for_backward(WIDE.trained(LoRALinear), x), kept_for_backward(moved(WIDE), x)
    assert WIDE.d_in * WIDE.d_out not in dora.values()
    assert sum(dora.values()) - sum(lora.values()) == 50 * WIDE.d_out + 2 * WIDE.d_out


# Rows without a norm, and rows that the update all but removes


@pytest.mark.parametrize("magnitude", [None, 0.0, 3.0], ids=["magnitude as it starts", "zero", "moved"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_row_of_zeros_gives_the_bias(dtype, magnitude):
    """A base row of zeros gives the bias at the start, up to rounding, whatever its magnitude; gradients are finite."""
    torch.manual_seed(0)
    base = nn.Linear(5, 3, dtype=dtype)
    base.weight.data[1] = 0
    layer = DoRALinear(base, 2, 4)
    if magnitude is not None:
        nn.init.constant_(layer.magnitude[1], magnitude)
    x = torch.randn(4, 5, dtype=dtype, requires_grad=True)
    h = layer(x)
    g = magnitude if magnitude is not None else 1
    off = (h[:, 1] - layer.bias[1]).abs().max()
    assert off <= 4 * torch.finfo(dtype).eps * (1 + 2 * g) * layer.bias[1].abs() and h.isfinite().all()
    gradients = torch.autograd.grad(h.square().sum(), (x, *parameters_of(layer).values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert layer.merge().weight[1].tolist() == [0] * 5


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("rows", [[1], [0, 1, 2]], ids=["one row", "all rows"])
def test_row_of_zeros_stays_finite_in_training(rows, dtype):
    """A base with rows of zeros starts with magnitude 0 there, and stays finite and at its bias through AdamW steps."""
    torch.manual_seed(0)
    base = nn.Linear(5, 3, dtype=dtype)
    base.weight.data[rows] = 0
    layer, x = DoRALinear(base, 2, 4), torch.randn(8, 5, dtype=dtype)
    assert layer.magnitude[rows].tolist() == [0] * len(rows)
    optimizer = torch.optim.AdamW(parameters_of(layer).values(), lr=1e-2, eps=1e-6)
    for _ in range(5):
        optimizer.zero_grad()
        h = layer(x)
        h.square().mean().backward()
        assert h.isfinite().all() and all(p.grad.isfinite().all() for p in parameters_of(layer).values())
        assert torch.equal(h[:, rows], base.bias[rows].expand(8, -1))
        optimizer.step()
    assert layer.weight.isfinite().all() and not layer.weight[rows].any()


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_row_of_zeros_with_a_small_update_is_finite(dtype, size):
    """However small the update of a row of zeros is, also where its square has no number, nothing becomes NaN."""
    base = nn.Linear(5, 3, dtype=dtype)
    base.weight.data[1] = 0
    layer = DoRALinear(base, 2, 4)
    layer.B.data[1] = size
    assert layer(torch.randn(4, 5, dtype=dtype)).isfinite().all() and layer.weight.isfinite().all()


@given(case=cases(dtypes=(torch.float32, torch.bfloat16)))
def test_autocast_leaves_the_norms_alone(case):
    """row_norms() is computed in float32 at least under autocast too: to the bit what it is without."""
    layer = moved(case)
    wanted = layer.row_norms()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.row_norms(), wanted)


def cancelling(d_in: int, rank: int, delta: float, seed: int, dtype: torch.dtype) -> DoRALinear:
    """A layer whose row 1 is all but removed by its update: u = -w (1 + delta), up to the rounding of w."""
    torch.manual_seed(seed)
    layer = DoRALinear(nn.Linear(d_in, 3, dtype=dtype), rank, alpha=1.7)
    nn.init.normal_(layer.A), nn.init.normal_(layer.B)
    layer.base.weight.data[1] = (-layer.delta_weight()[1].double() / (1 + delta)).detach()
    return layer


def true_norm(layer: DoRALinear, row: int) -> float:
    """‖w + u‖ of one row in exact fractions, from the numbers as they stand in the layer."""
    w, A, B = (tensor.double().tolist() for tensor in (layer.base.weight[row], layer.A, layer.B[row]))
    square, s = Fraction(0), Fraction(layer.scaling)
    for i in range(len(w)):
        square += (Fraction(w[i]) + s * sum(Fraction(b) * Fraction(a[i]) for a, b in zip(A, B, strict=True))) ** 2
    return float(square) ** 0.5


@settings(max_examples=4 * settings.default.max_examples)
@given(
    d_in=st.integers(1, 12),
    rank=st.integers(1, 6),
    power=st.floats(-9, -1),
    sign=st.sampled_from([-1, 1]),
    seed=seeds,
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_norm_of_a_row_that_is_nearly_cancelled(d_in, rank, power, sign, seed, dtype):
    """Where u = -w (1 + δ), δ from 1e-9 to 1e-1, the norm is true up to the bound of its sums' rounding errors.

    An error E of n² is one of E / n in n, or of the root of E if n is smaller than that.
    """
    layer = cancelling(d_in, rank, sign * 10**power, seed, dtype)
    n, got, E = true_norm(layer, 1), layer.row_norms()[1].item(), rounding_of_squares(layer)[1].item()
    off = min(E**0.5, E / n if n else float("inf")) + torch.finfo(dtype).eps * n
    assert abs(got - n) <= off
    assert got > 0


@given(d_in=st.integers(1, 12), rank=st.integers(1, 6), seed=seeds, dtype=st.sampled_from(FLOATS[:2]))
def test_row_that_is_cancelled_gives_little(d_in, rank, seed, dtype):
    """An update that takes a row away exactly leaves an output near the bias, and finite gradients.

    n is at least the root of 2 eps ‖w‖², and what is left of h beside the bias is rounding: 2 d_in + r + 4 half steps
    of ‖w‖ ‖x‖ and 7 of the bias. g times that is at most m · sqrt(eps / 8) · ((2 d_in + r + 4) ‖x‖ + 7 |b| / ‖w‖).
    """
    torch.manual_seed(seed)
    layer = DoRALinear(nn.Linear(d_in, 3, dtype=dtype), rank, alpha=rank)  # s = 1, so u is exact
    nn.init.normal_(layer.A), nn.init.normal_(layer.B)
    nn.init.zeros_(layer.B[1]), nn.init.ones_(layer.B[1, :1])  # row 1 of B A is row 0 of A
    layer.base.weight.data[1] = -layer.A.data[0]
    move(layer, seed)
    x = torch.randn(7, d_in, dtype=dtype, requires_grad=True)
    h = layer(x)
    eps, size, b = torch.finfo(dtype).eps, layer.A[0].norm(), layer.bias[1].abs()
    noise = (2 * d_in + rank + 4) * x.norm(dim=1) + 7 * b / size
    limit = 1.01 * layer.magnitude[1] * (eps / 8) ** 0.5 * noise + 2 * eps * b
    assert layer.row_norms()[1] >= (1 - MOST * eps) * (2 * eps) ** 0.5 * size
    assert true_norm(layer, 1) == 0 and ((h[:, 1] - layer.bias[1]).abs() <= limit).all()
    gradients = torch.autograd.grad(h.square().sum(), (x, *parameters_of(layer).values()))
    assert all(gradient.isfinite().all() for gradient in gradients) and layer.merge().weight.isfinite().all()


# Where it must run


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_step_on_meta_device(dtype):
    """A training step and a merge on the meta device: a stray CPU tensor would raise."""
    layer = DoRALinear(nn.Linear(5, 3, device="meta", dtype=dtype), 2, 4, dropout=0.5)
    optimizer = torch.optim.AdamW(parameters_of(layer).values())
    h = layer(torch.empty(7, 5, device="meta", dtype=dtype))
    h.sum().backward()
    optimizer.step()
    merged = layer.merge()
    assert h.shape == (7, 3) and h.dtype == dtype and h.is_meta and merged.weight.is_meta and merged.bias.is_meta
    assert all(p.is_meta and p.grad.is_meta for p in parameters_of(layer).values()) and layer.row_norms().is_meta


@given(case=cases(square=False), dropout=st.sampled_from([0.0, 0.5]))
def test_checkpointing_changes_no_gradient(case, dropout):
    """Under gradient checkpointing all gradients are what they are without it, with nothing trainable in front."""
    layer, x = moved(case, dropout=dropout), case.input()  # x needs no gradient

    def gradients(forward):
        torch.manual_seed(case.seed)
        return torch.autograd.grad(forward().square().sum(), parameters_of(layer).values())

    plain = gradients(lambda: layer(x))
    saved = gradients(lambda: checkpoint(layer, x, use_reentrant=False))
    assert all(torch.equal(one, other) for one, other in zip(plain, saved, strict=True))
    assert dropout or all(gradient.any() for gradient in plain)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_graph_break(backend):
    """torch.compile takes the layer as one graph, with the same output and gradients."""
    torch._dynamo.reset()
    layer = moved(WIDE)
    x = WIDE.input().requires_grad_()
    outputs = [f(x) for f in (layer, torch.compile(layer, fullgraph=True, backend=backend))]
    inputs = (x, *parameters_of(layer).values())
    gradients = [torch.autograd.grad(h.square().sum(), inputs) for h in outputs]
    assert_close(outputs[1].detach(), outputs[0].detach())
    for plain, compiled in zip(*gradients, strict=True):
        assert_close(compiled, plain)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("x_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_accepts_what_base_accepts(dtype, x_dtype, autocast):
    """Whatever the types of base, input and autocast, the layer accepts what its base does and returns its type."""
    base, x = nn.Linear(5, 3, dtype=dtype), torch.randn(2, 5).to(x_dtype)
    start = DoRALinear(copy.deepcopy(base), 2, 4)
    layer = move(copy.deepcopy(start), 0)
    nn.init.normal_(layer.B)
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        try:
            wanted = base(x)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                layer(x)
            return
        h = layer(x)
        assert torch.equal(start(x), wanted)
    assert h.dtype == wanted.dtype and h.shape == wanted.shape
    h.float().sum().backward()
    assert all(
        p.grad.dtype == torch.promote_types(dtype, torch.float32) and p.grad.any()
        for p in parameters_of(layer).values()
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_float32_parameters_over_half_base(dtype):
    """A, B and magnitude may be kept in float32 over a half-precision base; output and merge are of the base's type."""
    torch.manual_seed(0)
    layer = move(DoRALinear(nn.Linear(5, 3, dtype=dtype), 2, 4), 0)
    layer.A.data, layer.B.data = torch.randn(2, 5), torch.randn(3, 2)
    layer.magnitude.data = layer.magnitude.data.float() + 0.001  # no number of half precision
    h = layer(torch.randn(4, 5, dtype=dtype))
    assert h.dtype == layer.merge().weight.dtype == dtype
    V = layer.base.weight.float() + 2 * layer.B @ layer.A
    wanted = layer.magnitude[:, None] * V / V.norm(dim=1, keepdim=True)
    assert ((layer.merge().weight - wanted).abs() <= 1.01 * torch.finfo(dtype).eps / 2 * wanted.abs()).all()


class Quantized(nn.Module):
    """Another kind of linear layer: its weight is computed, and is no parameter."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features, self.bias = 5, 3, nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.register_buffer("codes", torch.arange(-7, 8).reshape(3, 5))

    @property
    def weight(self):
        return self.codes.double() / 8

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def test_any_layer_with_weight_and_features_can_be_base():
    """A base needs a weight, in_features, out_features and a forward: a quantized one is adapted and merged too."""
    layer = move(DoRALinear(Quantized(), 2, 4), 0)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert_close(layer(x).detach(), slow_forward(layer, x))
    assert_close(layer.merge()(x), layer(x).detach())


@given(case=cases(dtypes=FLOATS))
def test_state_dict_names(case):
    """A state dict holds A, B, the magnitude and the base, and loads strictly into a fresh layer, to the bit."""
    layer = moved(case)
    state = layer.state_dict()
    assert list(state) == ["A", "B", "magnitude", "base.weight"] + ["base.bias"] * case.bias
    other = DoRALinear(nn.Linear(case.d_in, case.d_out, bias=case.bias, dtype=case.dtype), case.rank, case.alpha)
    other = other.to(case.dtype)
    assert other.load_state_dict(state, strict=True) and torch.equal(other(case.input()), layer(case.input()))


@given(case=cases())
def test_copy_is_independent(case):
    """A deep copy gives the same output, and changing it leaves the original alone."""
    layer, x = moved(case), case.input()
    output, twin = layer(x), copy.deepcopy(layer)
    assert torch.equal(twin(x), output)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(layer(x), output) and not torch.equal(twin(x), output)


@given(case=cases(), modes=st.lists(st.booleans(), min_size=1, max_size=5))
def test_modes_change_no_bit(case, modes):
    """train() and eval(), in any order and however often, change no bit of the layer and none of its output."""
    layer, x = moved(case), case.input()
    output, state = layer(x), copy.deepcopy(layer.state_dict())
    for mode in modes:
        assert layer.train(mode) is layer and torch.equal(layer(x), output)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("rank, alpha, dropout", [(0, 4, 0.0), (2, -1, 0.0), (2, 4, 1.0)])
def test_hyperparameters_out_of_range_are_refused(rank, alpha, dropout):
    """What LoRALinear refuses is refused here too, and an adapted base with it."""
    with pytest.raises(ValueError, match="it must be"):
        DoRALinear(nn.Linear(5, 3), rank, alpha, dropout)
    with pytest.raises(ValueError, match="already has an adapter"):
        LoRALinear(DoRALinear(nn.Linear(5, 3), 2, 4), 2, 4)
