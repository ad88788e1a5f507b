"""Starts from an SVD: what is moved into A and B, that the sum stays, and the null that knows nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import assert_close, batches, cases
from torch import nn

from lora_from_scratch import DoRALinear, LoRALinear, NF4Linear, nf4, rslora_scaling
from lora_from_scratch.lab import codes
from lora_from_scratch.lab.begin import start_from_lost
from lora_from_scratch.starts import as_plain_adapter, loftq, milora, pissa, random_start


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


STARTS = {
    "pissa": pissa,
    "milora": milora,
    "random": lambda layer: random_start(layer, seeded(5)),
    "random minor": lambda layer: random_start(layer, seeded(5), minor=True),
}
every_start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)


@st.composite
def fitting(draw, **options):
    """Cases whose rank a weight of their shape has."""
    case = draw(cases(**options))
    assume(case.rank <= min(case.d_in, case.d_out))
    return case


def singular(matrix):
    return torch.linalg.svdvals(matrix.detach())


# --- What all have in common ---


@every_start
@pytest.mark.parametrize("layer_class", [LoRALinear, DoRALinear])
@given(case=fitting(batch=batches))
def test_the_sum_and_the_output_stay(start, layer_class, case):
    """W_base + s · B A is the weight that it was, so the layer computes what its base did; A and B are not zero."""
    layer, x = case.adapted(layer_class), case.input()
    start(layer)
    assert_close(layer.weight, case.base().weight, "the sum")
    assert_close(layer(x), case.base()(x), "the output")
    assert layer.A.count_nonzero() == layer.A.numel() and layer.B.count_nonzero() == layer.B.numel()
    assert_close(layer.base.weight + layer.scaling * layer.B @ layer.A, case.base().weight, "written out")
    assert layer.bias is None or torch.equal(layer.bias, case.base().bias)


@every_start
@given(case=fitting())
def test_a_layer_with_an_update_keeps_it_too(start, case):
    """A start from a trained layer throws nothing away: the sum is its merged weight."""
    layer = case.trained(LoRALinear)
    before, x = layer.weight.detach(), case.input()
    y = layer(x)
    start(layer)
    assert_close(layer.weight, before, "the sum")
    assert_close(layer(x), y, "the output")


@every_start
@given(case=fitting())
def test_beginning_twice_is_beginning_once(start, case):
    """The second time finds the same W, and so the same pieces: product and base are as after the first."""
    once, twice = case.adapted(LoRALinear), case.adapted(LoRALinear)
    start(once), start(twice), start(twice)
    assert_close(twice.base.weight, once.base.weight, "the base", tolerance=1e-9)
    assert_close(twice.delta_weight(), once.delta_weight(), "the update", tolerance=1e-9)


@every_start
@given(case=fitting())
def test_each_piece_is_shared_equally(start, case):
    """A Aᵀ and Bᵀ B are one diagonal matrix, of the singular values over s, so neither factor outweighs the other."""
    layer = case.adapted(LoRALinear)
    start(layer)
    sizes = singular(case.base().weight)
    sizes = sizes[-case.rank :] if start in (milora, STARTS["random minor"]) else sizes[: case.rank]
    wanted = torch.diag(sizes / layer.scaling)
    assert_close((layer.A @ layer.A.T).detach(), wanted, "A Aᵀ")
    assert_close((layer.B.T @ layer.B).detach(), wanted, "Bᵀ B")


@every_start
@given(case=fitting(batch=st.just((4,))))
def test_both_factors_learn_from_the_first_step(start, case):
    """At LoRA's own start A has no gradient. Here both have one, and the base has none."""
    layer = case.adapted(LoRALinear)
    layer(case.input()).square().sum().backward()
    assert not layer.A.grad.any()
    layer.zero_grad()
    start(layer)
    layer(case.input()).square().sum().backward()
    assert layer.A.grad.any() and layer.B.grad.any() and layer.base.weight.grad is None


# --- What each moves ---


@given(case=fitting())
def test_pissa_moves_the_best_approximation_of_its_rank(case):
    """The update is the truncated SVD of W, and what is left in the base has the other singular values."""
    layer, w = case.adapted(LoRALinear), case.base().weight.detach()
    pissa(layer)
    sizes = singular(w)
    zeros = torch.zeros(case.rank, dtype=w.dtype)
    assert_close(singular(layer.delta_weight()), torch.cat((sizes[: case.rank], 0 * sizes[case.rank :])), "moved")
    assert_close(singular(layer.base.weight), torch.cat((sizes[case.rank :], zeros)), "left")
    lost = (w - layer.delta_weight()).norm()
    assert_close(lost, sizes[case.rank :].square().sum().sqrt(), "Eckart and Young: no product of this rank is closer")


@given(case=fitting())
def test_milora_moves_the_smallest_pieces(case):
    """The base keeps the largest singular values, and the update has the r smallest."""
    layer, sizes = case.adapted(LoRALinear), singular(case.base().weight)
    kept = len(sizes) - case.rank
    milora(layer)
    zeros = torch.zeros_like(sizes)
    assert_close(singular(layer.delta_weight()), torch.cat((sizes[kept:], zeros[:kept])), "moved")
    assert_close(singular(layer.base.weight), torch.cat((sizes[:kept], zeros[kept:])), "left")


@given(case=fitting())
def test_pissa_s_pieces_point_along_those_of_the_weight(case):
    """Rows of A are right singular vectors of W and columns of B left ones: W takes each to its partner."""
    layer, w = case.adapted(LoRALinear), case.base().weight.detach()
    pissa(layer)
    sizes = singular(w)[: case.rank]
    assert_close(w @ layer.A.T.detach(), layer.B.detach() * sizes, "W Aᵀ = B S")
    assert_close(layer.B.T.detach() @ w, layer.A.detach() * sizes[:, None], "Bᵀ W = S A")


@given(case=fitting(), seed=st.integers(0, 99))
def test_the_null_has_the_sizes_and_not_the_directions(case, seed):
    """Singular values of the product are those of pissa's, or milora's; the product is another for every seed."""
    for minor, svd_start in ((False, pissa), (True, milora)):
        null, real, other = (case.adapted(LoRALinear) for _ in range(3))
        svd_start(real)
        random_start(null, seeded(seed), minor), random_start(other, seeded(seed + 1), minor)
        assert_close(singular(null.delta_weight()), singular(real.delta_weight()), "sizes")
        assert not torch.allclose(null.delta_weight(), other.delta_weight())


def test_the_null_s_directions_are_those_of_chance():
    """Over 3,000 draws a column of B has a mean squared cosine of 1 / d_out with every axis, and no mean; A too."""
    draw, w = seeded(), nn.Linear(6, 8, dtype=torch.float64)
    layer = LoRALinear(w, 2, 4)
    rows, columns = [], []
    for _ in range(3000):
        A, B = random_start(layer, draw)
        rows.append(nn.functional.normalize(A, dim=1)), columns.append(nn.functional.normalize(B, dim=0))
    for frames, d in ((torch.stack(rows), 6), (torch.stack(columns), 8)):
        assert (frames.square().mean(dim=0) - 1 / d).abs().max() < 0.015
        assert frames.mean(dim=0).abs().max() < 0.04


def test_a_seed_gives_one_draw_and_torch_s_own_random_state_stays():
    layers = [LoRALinear(nn.Linear(6, 5), 2, 4) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    before = torch.get_rng_state()
    first, second = (random_start(layer, seeded(3)) for layer in layers)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


# --- As a plain adapter ---


@every_start
@given(case=fitting(), scaled=st.booleans())
def test_a_trained_start_is_a_plain_adapter_of_twice_the_rank(start, case, scaled):
    """W_base + s · B A = W + s · B' A', with the weight that nothing was taken off; under rsLoRA's scaling too."""
    options = {"scaling": rslora_scaling} if scaled else {}
    layer, x = case.adapted(LoRALinear, **options), case.input()
    begun = start(layer)
    with torch.no_grad():  # "training"
        layer.A.add_(torch.randn(layer.A.shape, generator=seeded(1), dtype=case.dtype))
        layer.B.mul_(torch.randn(layer.B.shape, generator=seeded(2), dtype=case.dtype))
    A, B = as_plain_adapter(layer, begun)
    alpha = layer.scaling * ((2 * case.rank) ** 0.5 if scaled else 2 * case.rank)
    plain = LoRALinear(case.base(), 2 * case.rank, alpha, **options)
    plain.load_state_dict({"A": A, "B": B}, strict=False)
    assert math.isclose(plain.scaling, layer.scaling)
    assert_close(plain.weight, layer.weight, "the sum")
    assert_close(plain(x), layer(x), "the output")
    assert (plain.delta_weight() - layer.delta_weight()).norm() > 1e-3 * layer.delta_weight().norm(), "nothing to see"


def test_a_plain_adapter_holds_the_factors_bit_for_bit_and_is_a_copy():
    layer = LoRALinear(nn.Linear(6, 5), 2, 7)
    start = pissa(layer)
    nn.init.normal_(layer.A), nn.init.normal_(layer.B)
    A, B = as_plain_adapter(layer, start)
    assert torch.equal(A[:2], layer.A) and torch.equal(A[2:], start[0])
    assert torch.equal(B[:, :2], layer.B) and torch.equal(B[:, 2:], -start[1])
    assert not A.requires_grad and A.data_ptr() != layer.A.data_ptr()


def test_what_is_returned_stays_while_the_layer_is_trained():
    layer = LoRALinear(nn.Linear(6, 5), 2, 7)
    A, B = pissa(layer)
    assert torch.equal(A, layer.A) and torch.equal(B, layer.B) and not A.requires_grad
    nn.init.zeros_(layer.A), nn.init.zeros_(layer.B)
    assert A.any() and B.any()


# --- Where it is written, and in what precision ---


@every_start
def test_the_parameters_of_an_optimizer_stay_and_a_tied_weight_is_untied(start):
    """A and B are the same parameters with other numbers. The base gets a weight of its own: a tied embedding stays."""
    layer, table = LoRALinear(nn.Linear(6, 5), 2, 4), nn.Embedding(5, 6)
    layer.base.weight = table.weight.requires_grad_(False)
    A, B, before = layer.A, layer.B, table.weight.detach().clone()
    start(layer)
    assert layer.A is A and layer.B is B and A.requires_grad and B.requires_grad
    assert torch.equal(table.weight, before) and layer.base.weight is not table.weight
    assert not layer.base.weight.requires_grad and isinstance(layer.base.weight, nn.Parameter)


@every_start
@given(case=fitting(dtypes=(torch.float16, torch.bfloat16)))
def test_over_16_bits_the_sum_is_off_by_one_rounding_of_the_residual(start, case):
    """A and B are float32, the base is rounded once: by at most half an eps of what it holds."""
    base = case.base()
    w, layer = base.weight.detach().float(), LoRALinear(base, case.rank, case.alpha)
    start(layer)
    assert layer.A.dtype == torch.float32 and layer.base.weight.dtype == case.dtype
    residual = layer.base.weight.detach().float()
    off = (residual + layer.scaling * (layer.B @ layer.A).detach() - w).abs()
    allowed = torch.finfo(case.dtype).eps / 2 * residual.abs() + torch.finfo(case.dtype).tiny + 1e-5 * w.abs().max()
    assert (off <= 1.01 * allowed).all()


@every_start
def test_factors_of_few_bits_are_made_up_for_by_the_base(start):
    """With A and B in bfloat16 their rounding, a hundred times that of the base, goes into the float32 residual."""
    base = nn.Linear(9, 7)
    w, layer = base.weight.detach().clone(), LoRALinear(base, 3, 6)
    layer.A.data, layer.B.data = layer.A.data.bfloat16(), layer.B.data.bfloat16()
    start(layer)
    update = layer.scaling * (layer.B.float() @ layer.A.float())
    assert (layer.base.weight + update - w).abs().max() < 1e-6


@every_start
def test_autocast_changes_no_bit(start):
    """The residual is a float32 difference inside autocast too."""
    layers = [LoRALinear(nn.Linear(12, 10), 3, 6) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    nn.init.ones_(layers[0].B), nn.init.ones_(layers[1].B)
    with torch.autocast("cpu", torch.bfloat16):
        start(layers[0])
    start(layers[1])
    for ours, wanted in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(ours, wanted)


# --- Over 4 bits ---


@st.composite
def packed_cases(draw):
    """A weight of some blocks, NF4 of some kind, a rank, an alpha. In float64, as an SVD near a tie moves far."""
    d_in, d_out, rank = draw(st.integers(5, 40)), draw(st.integers(5, 40)), draw(st.integers(1, 4))
    options = {"block_size": draw(st.sampled_from([16, 64])), "double": draw(st.booleans())}
    torch.manual_seed(draw(st.integers(0, 99)))
    linear = nn.Linear(d_in, d_out, bias=draw(st.booleans()), dtype=torch.float64)
    layer = LoRALinear(NF4Linear.from_linear(linear, **options), rank, draw(st.floats(0.5, 32)))
    return linear, layer, options


def by_hand(weight, layer, options, rounds):
    """LoftQ's algorithm 1 with nf4.py and an SVD from NumPy: the base and the product."""
    w, s, product = weight.detach().double().numpy(), layer.scaling, 0.0
    for _ in range(rounds):
        base = nf4.dequantize(nf4.quantize((w - product).astype(np.float32), **options)).astype(np.float64)
        u, sizes, vt = np.linalg.svd(w - base, full_matrices=False)
        product = (u[:, : layer.rank] * sizes[: layer.rank]) @ vt[: layer.rank]
    assert s > 0
    return base, product


@given(packed_cases())
def test_loftq_is_the_loop_of_its_paper(case):
    """One round by hand gives this base to the bit, and this product; the base stays of its kind."""
    linear, layer, options = case
    base, product = by_hand(linear.weight, layer, options, rounds=1)
    errors = loftq(layer, linear.weight, rounds=1)
    assert isinstance(layer.base, NF4Linear) and layer.base.block_size == options["block_size"]
    assert layer.base.double == options["double"]
    np.testing.assert_array_equal(layer.base.weight.numpy(), base)
    np.testing.assert_allclose(layer.delta_weight().detach().numpy(), product, atol=1e-9)
    off = (linear.weight - layer.weight).norm() / linear.weight.norm()
    assert len(errors) == 1 and errors[0] == pytest.approx(off.item(), rel=1e-9, abs=1e-12)
    assert (layer.bias is None) == (linear.bias is None)
    assert linear.bias is None or torch.equal(layer.bias, linear.bias)


@given(packed_cases(), st.integers(2, 4))
def test_rounds_go_on_from_the_layer_s_own_factors(case, rounds):
    """`rounds` at once are one round `rounds` times, bit for bit; and a second round quantizes W - s · B A."""
    linear, layer, options = case
    other = LoRALinear(NF4Linear.from_linear(linear, **options), layer.rank, layer.alpha)
    other.load_state_dict(layer.state_dict())
    together = loftq(layer, linear.weight, rounds)
    apart = []
    for i in range(rounds):
        apart += loftq(other, linear.weight, 1)
        if i == 0:
            residual = linear.weight.detach() - other.delta_weight().detach()
            wanted = nf4.dequantize(nf4.quantize(residual.numpy(), **options))
        if i == 1:
            np.testing.assert_array_equal(other.base.weight.numpy(), wanted)
    assert together == apart and torch.equal(layer.A, other.A) and torch.equal(layer.B, other.B)
    assert torch.equal(layer.base.packed, other.base.packed)


@given(packed_cases(), st.integers(1, 3))
def test_loftq_s_sum_is_the_best_that_its_base_allows(case, rounds):
    """||W - base - s · B A|| is what an SVD of W - base cuts off; no worse than the base alone."""
    linear, layer, _ = case
    w = linear.weight.detach()
    off, lost = loftq(layer, w, rounds)[-1] * w.norm().item(), w - layer.base.weight
    assert off == pytest.approx(singular(lost)[layer.rank :].norm().item(), rel=1e-9, abs=1e-12)
    assert off <= lost.norm() * (1 + 1e-5)


def test_one_round_is_what_chapter_5_s_start_gives():
    """lab/begin.py's start from what quantization lost, over another code, by way of `quantize`."""
    torch.manual_seed(0)
    linear, starts = nn.Linear(64, 48), []
    for _ in range(2):
        rounded = nn.Linear(64, 48)
        rounded.weight.data = torch.from_numpy(codes.rounded(linear.weight.detach().numpy(), codes.CODES["NF2"]))
        starts.append(LoRALinear(rounded, 4, 8))
    start_from_lost(starts[0], linear.weight.detach())
    before = (linear.weight - starts[1].weight).norm() / linear.weight.norm()

    def quantize(linear):
        linear.weight.data = torch.from_numpy(codes.rounded(linear.weight.detach().numpy(), codes.CODES["NF2"]))
        return linear

    errors = loftq(starts[1], linear.weight, 1, quantize)
    assert torch.equal(starts[0].base.weight, starts[1].base.weight)
    assert not any(p.requires_grad for p in starts[1].base.parameters()), "a base is frozen, whoever made it"
    assert_close(starts[1].delta_weight(), starts[0].delta_weight(), "the update", tolerance=1e-5)
    assert errors[0] < 0.9 * before


def test_more_rounds_come_closer():
    """On this weight one round loses a tenth less than the codes alone, and eight a twentieth less than one."""
    torch.manual_seed(0)
    linear = nn.Linear(128, 96)
    w, packed = linear.weight.detach(), NF4Linear.from_linear(linear)
    errors, alone = loftq(LoRALinear(packed, 8, 16), w, 8), (w - packed.weight).norm() / w.norm()
    assert errors[0] < 0.9 * alone and errors[-1] < 0.95 * errors[0]


def test_qpissa_loses_less_than_qlora_where_the_weight_has_large_pieces():
    """A weight with five pieces of ten times its bulk: 4 bits of the residual lose less than half of 4 bits of W."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    with torch.no_grad():
        linear.weight += 5 * torch.randn(64, 5) @ torch.randn(5, 64) / 8
    w = linear.weight.detach().clone()
    qlora = (w - NF4Linear.from_linear(linear).weight).norm() / w.norm()
    layer = LoRALinear(linear, 5, 10)
    pissa(layer)
    layer.base = NF4Linear.from_linear(layer.base)
    qpissa = (w - layer.weight).norm() / w.norm()
    errors = loftq(layer, w, 4)
    assert qpissa < 0.5 * qlora and errors[-1] < qpissa


def test_loftq_sets_a_dora_layer_s_magnitude_to_the_rows_of_the_sum():
    """So that the layer's weight is the sum itself, as in a LoRA layer."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 12)
    layers = [kind(NF4Linear.from_linear(linear), 3, 6) for kind in (LoRALinear, DoRALinear)]
    for layer in layers:
        loftq(layer, linear.weight, 2)
    assert_close(layers[1].weight, layers[0].weight, "the weight", tolerance=1e-5)


def test_loftq_keeps_dtype_mode_and_frozenness():
    """A base that decodes to bfloat16 still does, its constants float32, and what was in eval mode is."""
    linear = nn.Linear(20, 12).bfloat16().eval()
    layer = LoRALinear(NF4Linear.from_linear(linear), 3, 6)
    A = layer.A
    loftq(layer, linear.weight, 2)
    assert layer.base.weight.dtype == layer.base.bias.dtype == torch.bfloat16 and not layer.base.training
    assert layer.base.absmax2.dtype == torch.float32 and not layer.base.bias.requires_grad
    assert layer.A is A and layer.A.requires_grad


def test_loftq_leaves_torch_s_random_state_and_the_given_weight():
    linear = nn.Linear(20, 12)
    layer, before = LoRALinear(NF4Linear.from_linear(linear), 3, 6), linear.weight.detach().clone()
    state = torch.get_rng_state()
    loftq(layer, linear.weight, 2)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(linear.weight, before)


# --- What is refused ---


def packed(rank: int = 2) -> LoRALinear:
    return LoRALinear(NF4Linear.from_linear(nn.Linear(6, 5)), rank, 4)


def with_weight(weight: torch.Tensor, rank: int = 2) -> LoRALinear:
    layer = LoRALinear(nn.Linear(*weight.shape[::-1]), rank, 4)
    layer.base.weight.data = weight
    return layer


def scaled(scaling: float) -> LoRALinear:
    layer = LoRALinear(nn.Linear(6, 5), 2, 4)
    layer.scaling = scaling
    return layer


def hooked() -> LoRALinear:
    layer = packed()
    layer.base.register_forward_hook(lambda *_: None)
    return layer


HOLED = torch.full((5, 6), math.nan)
NONE = torch.zeros(5, 6)
W = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))

REFUSED = [
    (lambda layer: pissa(layer), packed, "NF4Linear has no plain weight to change: begin first, then quantize it"),
    (lambda layer: milora(layer), packed, "NF4Linear has no plain weight"),
    (lambda layer: random_start(layer, seeded()), packed, "NF4Linear has no plain weight"),
    (lambda layer: as_plain_adapter(layer, (layer.A, layer.B)), packed, "NF4Linear has no plain weight"),
    (lambda layer: pissa(layer), lambda: nn.Linear(6, 5), "this Linear has no A, B, scaling, base; give an adapted"),
    (lambda layer: pissa(layer), lambda: with_weight(W, 6), "rank is 6, and a weight of 5 × 6 has 5 pieces"),
    (lambda layer: pissa(layer), lambda: with_weight(W.T, 6), "rank is 6, and a weight of 6 × 5 has 5 pieces"),
    (lambda layer: loftq(layer, W), lambda: packed(6), "rank is 6, and a weight of 5 × 6 has 5 pieces"),
    (lambda layer: pissa(layer), lambda: with_weight(HOLED), "holds no finite numbers"),
    (lambda layer: pissa(layer), lambda: with_weight(W).to("meta"), "holds no finite numbers"),
    (lambda layer: pissa(layer), lambda: with_weight(NONE), "only 0 of these 2 singular values .* lower rank"),
    (lambda layer: milora(layer), lambda: with_weight(NONE), "only 0 of these 2 singular values"),
    (lambda layer: random_start(layer, seeded()), lambda: with_weight(NONE), "only 0 of these 2 singular values"),
    (lambda layer: loftq(layer, 0 * W), packed, "only 0 of these 2 singular values"),
    (lambda layer: pissa(layer), lambda: scaled(0.0), "scaling is 0.0; .* must be positive"),
    (lambda layer: pissa(layer), lambda: scaled(-1.0), "scaling is -1.0"),
    (lambda layer: pissa(layer), lambda: scaled(math.inf), "scaling is inf"),
    (lambda layer: random_start(layer, None), lambda: with_weight(W), r"generator is None; give torch.Generator\(\)"),
    (lambda layer: random_start(layer, 7), lambda: with_weight(W), "generator is 7"),
    (lambda layer: loftq(layer, W, 0), packed, "rounds is 0; .* at least 1"),
    (lambda layer: loftq(layer, W, 1.5), packed, "rounds is 1.5"),
    (lambda layer: loftq(layer, W, True), packed, "rounds is True"),
    (lambda layer: loftq(layer, W.T), packed, r"the weight is \(6, 5\), this layer's \(5, 6\); give W as it was"),
    (lambda layer: loftq(layer, HOLED), packed, "holds no finite numbers"),
    (lambda layer: loftq(layer, W), lambda: with_weight(W), "the base, Linear, is not in 4 bits, so give quantize"),
    (lambda layer: loftq(layer, W), hooked, "the base, NF4Linear, .* has hooks to remove"),
    (lambda layer: loftq(layer, W), lambda: scaled(0.0), "scaling is 0.0"),
    (
        lambda layer: as_plain_adapter(layer, (layer.A[:1], layer.B[:, :1])),
        lambda: with_weight(W),
        r"A and B are \[\(1, 6\), \(5, 1\)\], the layer's \[\(2, 6\), \(5, 2\)\]; give what pissa",
    ),
]


@pytest.mark.parametrize(("call", "make", "words"), REFUSED)
def test_what_cannot_begin_is_refused_in_words_and_left_as_it_was(call, make, words):
    layer = make()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        call(layer)
    assert layer.state_dict().keys() == before.keys()
    for name, tensor in layer.state_dict().items():
        assert tensor.is_meta or torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name


def test_a_computed_weight_is_refused():
    """Weight norm keeps two parameters and computes the weight of them, so there is nothing to take the pieces off."""
    layer = LoRALinear(nn.Linear(6, 5), 2, 4)
    nn.utils.parametrizations.weight_norm(layer.base)
    with pytest.raises(ValueError, match="no plain weight to change"):
        pissa(layer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_start
def test_a_gpu_gives_what_the_cpu_gives(start):
    layers = [LoRALinear(nn.Linear(12, 10), 3, 6) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    layers[1].cuda()
    for layer in layers:
        start(layer)
    torch.testing.assert_close(layers[1].delta_weight().cpu(), layers[0].delta_weight(), rtol=1e-4, atol=1e-5)
