"""Sums of adapters, their compression, their merges: the algebra, the papers' rules, and what goes wrong elsewhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lora_from_scratch.arithmetic import compress, concatenate, dare, ties
from lora_from_scratch.lora import LoRALinear, lora_scaling
from lora_from_scratch.rslora import rslora_scaling

EPS = torch.finfo(torch.float64).eps
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**16)
numbers = st.floats(-4, 4).filter(lambda x: abs(x) > 1e-3) | st.just(0.0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@st.composite
def adapters_and_weights(draw, most=4):
    """Adapters of one weight, each with a rank and a scaling of its own, and a weight for each."""
    d_out, d_in, seed, n = draw(sizes), draw(sizes), draw(seeds), draw(st.integers(1, most))
    ranks = [draw(st.integers(1, 4)) for _ in range(n)]
    adapters = [
        (normal(rank, d_in, seed=seed + 2 * i), normal(d_out, rank, seed=seed + 2 * i + 1), draw(st.floats(0.01, 32)))
        for i, rank in enumerate(ranks)
    ]
    return adapters, [draw(numbers) for _ in range(n)]


def assert_within(got, wanted, bound):
    """Equal up to `bound`, which a test derives from the sizes of what was rounded."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    assert (off := (got - wanted).norm().item()) <= bound, f"off by {off:.3g}, allowed {bound:.3g}"


# --- The sum ---


@given(adapters_and_weights())
def test_the_product_of_the_concatenation_is_the_weighted_sum_of_the_products(case):
    """B A = Σ w_i s_i · B_i A_i, at rank Σ r_i. A sum of up to 16 products rounds by 16 eps of its terms' sizes."""
    adapters, weights = case
    A, B = concatenate(adapters, weights)
    wanted = sum(w * s * (b @ a) for w, (a, b, s) in zip(weights, adapters, strict=True))
    terms = sum(abs(w * s) * b.norm() * a.norm() for w, (a, b, s) in zip(weights, adapters, strict=True))
    assert A.shape[0] == B.shape[1] == sum(a.shape[0] for a, _, _ in adapters)
    assert_within(B @ A, wanted, 20 * EPS * terms)


@given(adapters_and_weights())
def test_the_rows_of_a_stay_those_that_were_trained(case):
    """All scales are in B: A is the given A's, bit for bit, and B the given ones times w_i s_i."""
    adapters, weights = case
    A, B = concatenate(adapters, weights)
    assert torch.equal(A, torch.cat([a for a, _, _ in adapters]))
    assert torch.equal(B, torch.cat([w * s * b for w, (_, b, s) in zip(weights, adapters, strict=True)], dim=1))


@given(adapters_and_weights(most=1))
def test_one_adapter_is_itself_times_its_weight_and_scaling(case):
    """Alone, and without a weight, B A is s · B A."""
    ((a, b, s),), _ = case
    A, B = concatenate([(a, b, s)])
    assert torch.equal(A, a) and torch.equal(B, s * b)


@given(adapters_and_weights())
def test_weights_that_are_left_out_are_ones(case):
    adapters, _ = case
    plain, ones = concatenate(adapters), concatenate(adapters, [1.0] * len(adapters))
    assert all(torch.equal(*pair) for pair in zip(plain, ones, strict=True))


@given(adapters_and_weights(most=1))
def test_a_negative_weight_takes_the_task_away(case):
    """The adapter and its negative together change nothing, up to rounding."""
    ((a, b, s),), _ = case
    A, B = concatenate([(a, b, s), (a, b, s)], [1, -1])
    assert (B @ A).norm() <= 20 * EPS * s * b.norm() * a.norm()


def test_a_layer_with_the_concatenation_computes_what_its_parts_add():
    """Of two trained layers, LoRA of rank 2 and rsLoRA of rank 4, one of rank 6 with alpha 6 has the summed update."""
    parts = [LoRALinear(torch.nn.Linear(7, 5), 2, 16), LoRALinear(torch.nn.Linear(7, 5), 4, 16, scaling=rslora_scaling)]
    for i, part in enumerate(parts):
        torch.nn.init.normal_(part.B, generator=torch.Generator().manual_seed(i))
    A, B = concatenate([(part.A, part.B, part.scaling) for part in parts])
    whole = LoRALinear(torch.nn.Linear(7, 5), rank=6, alpha=6)
    whole.load_state_dict({"A": A, "B": B}, strict=False)
    torch.testing.assert_close(whole.delta_weight(), parts[0].delta_weight() + parts[1].delta_weight())
    assert not A.requires_grad and not B.requires_grad


# --- The compression ---


@given(sizes, sizes, sizes, seeds)
def test_at_full_rank_nothing_is_lost(d_out, d_in, r, seed):
    """With all of its min(d_out, r, d_in) directions the product is the same, and `lost` exactly 0."""
    a, b = normal(r, d_in, seed=seed), normal(d_out, r, seed=seed + 1)
    A, B, lost = compress(a, b, min(d_out, r, d_in))
    assert_within(B @ A, b @ a, 100 * EPS * b.norm() * a.norm())
    assert lost == 0


@given(sizes, sizes, sizes, seeds, st.data())
def test_below_it_the_cut_is_that_of_the_formed_matrix(d_out, d_in, r, seed, data):
    """Same error as the truncated SVD of ΔW, which no matrix of that rank can beat; `lost` is that error's share.

    The products are compared only where the gap after the cut is wide: near a tie, either choice is right.
    """
    a, b = normal(r, d_in, seed=seed), normal(d_out, r, seed=seed + 1)
    rank = data.draw(st.integers(1, min(d_out, r, d_in)))
    A, B, lost = compress(a, b, rank)
    delta, room = b @ a, 100 * EPS * b.norm() * a.norm()
    assert A.shape == (rank, d_in) and B.shape == (d_out, rank)
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    tail = s[rank:].norm()
    assert abs((delta - B @ A).norm() - tail) <= room
    assert abs(lost - tail / delta.norm()) <= room / delta.norm()
    if rank == len(s) or s[rank - 1] - s[rank] > 1e-3 * s[0]:
        assert_within(B @ A, (u[:, :rank] * s[:rank]) @ vt[:rank], 1e3 * room)


@given(sizes, sizes, sizes, seeds)
def test_each_singular_value_is_shared_equally(d_out, d_in, r, seed):
    """Columns of B and rows of A are orthogonal, and both of the squared length σ_i."""
    a, b = normal(r, d_in, seed=seed), normal(d_out, r, seed=seed + 1)
    k = min(d_out, r, d_in)
    A, B, _ = compress(a, b, k)
    sigma, room = torch.linalg.svdvals(b @ a)[:k], 100 * EPS * b.norm() * a.norm()
    assert_within(B.T @ B, torch.diag(sigma), room)
    assert_within(A @ A.T, torch.diag(sigma), room)


@given(sizes, sizes, sizes, seeds)
def test_the_signs_do_not_depend_on_the_factors_that_led_to_the_product(d_out, d_in, r, seed):
    """The largest entry of every column of B is positive, also from -A and -B, whose product is the same."""
    a, b = normal(r, d_in, seed=seed), normal(d_out, r, seed=seed + 1)
    for factor in (1, -1):
        _, B, _ = compress(factor * a, factor * b, min(d_out, r, d_in))
        assert (B.gather(0, B.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_a_product_of_zeros_loses_nothing():
    """B at its start is zero; what comes back is zero and finite, and `lost` is 0, not 0 / 0."""
    A, B, lost = compress(normal(3, 6), torch.zeros(5, 3, dtype=torch.float64), 1)
    assert not (B @ A).any() and lost == 0
    assert torch.isfinite(A).all() and torch.isfinite(B).all()


class LargestTensor(TorchDispatchMode):
    """Within it, the most entries that any operation gave back."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return out


def test_the_change_of_the_weight_is_never_formed():
    """Two adapters for a (300, 200) weight are added and cut with no tensor beyond 300 · Σr entries, not 60,000."""
    adapters = [(normal(4, 200, seed=i), normal(300, 4, seed=i + 9), 2.0) for i in range(2)]
    with LargestTensor() as largest:
        compress(*concatenate(adapters), 3)
    assert 300 * 8 == largest.entries


def test_a_weight_too_large_to_be_formed_is_compressed():
    """At d_out = d_in = 20,000 ΔW would take 3.2 GB in float64; its factors of rank 4 take 1.3 MB."""
    a, b = normal(4, 20_000), normal(20_000, 4, seed=1)
    A, B, lost = compress(a, b, 2)
    pieces = torch.linalg.eigvals((b.T @ b) @ (a @ a.T)).real.sort(descending=True).values  # σ², from (4, 4) alone
    assert lost == pytest.approx((pieces[2:].sum() / pieces.sum()).sqrt().item(), rel=1e-9)
    torch.testing.assert_close(B.T @ B, torch.diag(pieces[:2].sqrt()))


def test_autocast_does_not_round_the_product():
    """Inside autocast the factors are those of outside, bit for bit."""
    a, b = normal(3, 6, dtype=torch.float32), normal(5, 3, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compress(a, b, 2)
    outside = compress(a, b, 2)
    assert torch.equal(inside[0], outside[0]) and torch.equal(inside[1], outside[1]) and inside[2] == outside[2]


# --- TIES ---

# small integers times a power of two: sums and comparisons are exact, and equal sizes and totals of zero come up often
entries = st.integers(-3, 3).map(lambda n: n / 2)
keeps = st.floats(0.01, 1)


@st.composite
def several_deltas(draw, least=1, most=4):
    d_out, d_in, n = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(least, most))
    rows = st.lists(entries, min_size=d_out * d_in, max_size=d_out * d_in)
    return [torch.tensor(draw(rows), dtype=torch.float64).reshape(d_out, d_in) for _ in range(n)]


def slow_trim(delta, keep):
    """Entry by entry: it stays if fewer than `count` others are larger in size."""
    flat = delta.flatten().tolist()
    count = max(1, round(keep * len(flat)))
    stays = [x if sum(abs(y) > abs(x) for y in flat) < count else 0.0 for x in flat]
    return torch.tensor(stays, dtype=delta.dtype).reshape(delta.shape)


def slow_ties(deltas, keep, weights):
    """Section 4 of the paper in loops, its masses on either side counted apart."""
    trimmed = [slow_trim(delta, keep) for delta in deltas]
    merged = torch.zeros_like(deltas[0])
    for row in range(merged.shape[0]):
        for column in range(merged.shape[1]):
            values = [w * t[row, column].item() for w, t in zip(weights, trimmed, strict=True)]
            up, down = [v for v in values if v > 0], [v for v in values if v < 0]
            agreeing = up if sum(up) > -sum(down) else down if -sum(down) > sum(up) else []
            merged[row, column] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged


@given(several_deltas(), keeps, st.data())
def test_ties_is_the_loop_over_entries(deltas, keep, data):
    """Trim, elect, merge, with weights of either sign, equal sizes and totals of zero."""
    weights = data.draw(st.lists(st.sampled_from([-1, 0, 0.5, 1, 2]), min_size=len(deltas), max_size=len(deltas)))
    torch.testing.assert_close(ties(deltas, keep, weights), slow_ties(deltas, keep, weights))
    torch.testing.assert_close(ties(deltas, keep), slow_ties(deltas, keep, [1] * len(deltas)))


@given(several_deltas(most=1), keeps)
def test_of_one_delta_the_merge_is_its_trimmed_self(deltas, keep):
    assert torch.equal(ties(deltas, keep), slow_trim(deltas[0], keep))


@given(several_deltas(most=1), keeps)
def test_of_two_equal_deltas_the_merge_is_one_of_them_trimmed(deltas, keep):
    """A mean, not a sum: twice the same task is that task once."""
    assert torch.equal(ties(deltas * 2, keep), slow_trim(deltas[0], keep))


@given(several_deltas(), keeps, st.randoms())
def test_the_order_of_the_deltas_does_not_matter(deltas, keep, random):
    shuffled = random.sample(deltas, len(deltas))
    torch.testing.assert_close(ties(deltas, keep), ties(shuffled, keep))


@given(several_deltas(), keeps)
def test_negating_all_negates_the_merge(deltas, keep):
    """Neither sign is preferred: a tie is 0 on both sides."""
    assert torch.equal(ties([-delta for delta in deltas], keep), -ties(deltas, keep))


def test_entries_that_are_trimmed_are_not_counted_in_the_mean():
    """One delta has 4 at an entry and the others nothing there: the merge is 4, where a plain mean has 4 / 3."""
    deltas = [torch.tensor([4.0, 0.1]), torch.tensor([0.1, 4.0]), torch.tensor([0.1, 4.0])]
    assert ties(deltas, keep=0.5).tolist() == [4, 4]


def test_the_sign_goes_by_mass_and_not_by_heads():
    """One -3 outweighs two of +1: the merge is -3."""
    assert ties([torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([-3.0])], keep=1).tolist() == [-3]


def test_sides_of_equal_mass_leave_the_weight_as_it_is():
    """+1 and -1 give 0, however the other entries were decided."""
    assert ties([torch.tensor([1.0, 5.0]), torch.tensor([-1.0, 5.0])], keep=1).tolist() == [0, 5]


def test_entries_of_equal_size_stay_or_go_together():
    """Half of four entries is two, but the second largest has a twin, and an order among twins would be an accident."""
    assert ties([torch.tensor([3.0, -2.0, 2.0, 1.0])], keep=0.5).tolist() == [3, -2, 2, 0]


def test_a_tiny_share_keeps_the_largest_entry_and_decimals_do_not_add_one():
    """Of 4 entries a share of 0.01 is one; 0.07 of 100 is 7, though the product in floats is a little more."""
    assert ties([torch.tensor([1.0, -9.0, 2.0, 3.0])], keep=0.01).tolist() == [0, -9, 0, 0]
    assert ties([torch.arange(1.0, 101)], keep=0.07).count_nonzero() == 7


# --- DARE ---


@given(several_deltas(most=1), st.floats(0, 0.99), seeds)
def test_what_is_kept_is_divided_by_the_share_that_is_kept(deltas, drop, seed):
    """Each entry is 0 or exactly δ / (1 - p)."""
    (delta,) = deltas
    thinned = dare(delta, drop, torch.Generator().manual_seed(seed))
    kept = delta / (1 - drop)
    assert thinned.dtype == delta.dtype and ((thinned == 0) | (thinned == kept)).all()


@given(several_deltas(most=1), seeds)
def test_with_nothing_to_drop_it_is_the_identity(deltas, seed):
    assert torch.equal(dare(deltas[0], 0.0, torch.Generator().manual_seed(seed)), deltas[0])


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9, 0.99])
def test_the_mean_is_the_delta(drop):
    """Over 40,000 draws of each entry, within 5 standard errors: δ · sqrt(p / (1 - p)) / sqrt(40,000)."""
    delta = torch.tensor([-2.0, -0.5, 0.25, 3.0], dtype=torch.float64)
    draws = dare(delta.expand(40_000, 4), drop, torch.Generator().manual_seed(0))
    error = delta.abs() * math.sqrt(drop / (1 - drop) / 40_000)
    assert ((draws.mean(dim=0) - delta).abs() <= 5 * error).all()
    dropped = (draws == 0).double().mean(dim=0)
    assert ((dropped - drop).abs() <= 5 * math.sqrt(drop * (1 - drop) / 40_000)).all()
    spread = delta.abs() * math.sqrt(drop / (1 - drop))  # the docstring's, a standard deviation
    torch.testing.assert_close(draws.std(dim=0), spread, rtol=0.1, atol=0)


def test_entries_are_dropped_one_by_one():
    """Neither whole rows nor whole columns: of 100 by 100 entries at p = 0.5, no line is near empty or full."""
    kept = (dare(torch.ones(100, 100), 0.5, torch.Generator().manual_seed(0)) > 0).double()
    for lines in (kept.mean(dim=0), kept.mean(dim=1)):
        assert 0.25 < lines.min() and lines.max() < 0.75  # 5 standard errors of 0.05


def test_a_seed_gives_one_draw_whatever_the_precision():
    """The same seed drops the same entries of float64 and float32, another seed others."""
    delta = normal(20, 30)
    first, again, other = (dare(delta, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(dare(delta.float(), 0.5, torch.Generator().manual_seed(1)) == 0, first == 0)


# --- What goes wrong elsewhere ---


def test_adding_the_factors_adds_terms_that_nobody_trained():
    """(B1 + B2)(A1 + A2) holds B1 A2 + B2 A1 too, and for unrelated adapters these are as large as all that was wanted.

    With independent Gaussian factors all four products have the same mean square, so the error is 1 in ratio; at
    d = 400 and r = 8 it is so to a few per cent. Averaging both factors is another error: each update enters at 1/4.
    """
    (a1, b1), (a2, b2) = ((normal(8, 400, seed=i), normal(400, 8, seed=i + 1)) for i in (0, 10))
    A, B = concatenate([(a1, b1, 1.0), (a2, b2, 1.0)])
    wanted, added, averaged = B @ A, (b1 + b2) @ (a1 + a2), (b1 + b2) @ (a1 + a2) / 4
    torch.testing.assert_close(added - wanted, b1 @ a2 + b2 @ a1)
    assert (added - wanted).norm() / wanted.norm() == pytest.approx(1, abs=0.1)
    assert (averaged - wanted / 2).norm() / (wanted / 2).norm() == pytest.approx(math.sqrt(1 / 2), abs=0.1)


def test_one_adapter_taken_from_another_by_its_factors_keeps_both():
    """With weights 1 and -1, (B1 + B2)(A1 - A2) is as far from B1 A1 - B2 A2 as 0 is; and with the sign on both
    factors, (-B)(-A), a negative weight alone does nothing (PEFT, issue 3004)."""
    (a1, b1), (a2, b2) = ((normal(8, 400, seed=i), normal(400, 8, seed=i + 1)) for i in (0, 10))
    A, B = concatenate([(a1, b1, 1.0), (a2, b2, 1.0)], [1, -1])
    wanted = B @ A
    torch.testing.assert_close(wanted, b1 @ a1 - b2 @ a2)
    assert ((b1 + b2) @ (a1 - a2) - wanted).norm() / wanted.norm() == pytest.approx(1, abs=0.1)
    assert torch.equal(-b1 @ -a1, b1 @ a1)


def test_factors_add_up_where_the_other_factor_is_shared():
    """With one A for both, frozen from the start, the B's may be added: no cross terms are left."""
    a, b1, b2 = normal(3, 7), normal(5, 3, seed=1), normal(5, 3, seed=2)
    A, B = concatenate([(a, b1, 2.0), (a, b2, 2.0)])
    torch.testing.assert_close(2 * (b1 + b2) @ a, B @ A)


def test_a_scale_that_is_in_the_matrix_must_not_come_again():
    """The SVD of s · B A holds s. In an adapter of the old scaling it counts twice, s²; scaling 1 is right (as PEFT
    had it until pull request 3111: the weights took the scaling in, and the matrix had it already)."""
    a, b, rank, alpha = normal(4, 7), normal(5, 4, seed=1), 4, 12
    s = lora_scaling(alpha, rank)
    A, B, _ = compress(*concatenate([(a, b, s)]), rank)
    torch.testing.assert_close(lora_scaling(rank, rank) * B @ A, s * b @ a)
    torch.testing.assert_close(s * B @ A, s**2 * b @ a)


def test_under_rslora_the_merged_scaling_is_one_at_the_root_of_the_rank():
    """alpha = Σr gives s = 1 with LoRA but sqrt(Σr) with rsLoRA, so the sum comes out that much too large (PEFT, pull
    request 3449). alpha = sqrt(Σr) is right."""
    rank = 4 + 5
    assert lora_scaling(rank, rank) == 1
    assert rslora_scaling(rank, rank) == pytest.approx(math.sqrt(rank))
    assert rslora_scaling(math.sqrt(rank), rank) == pytest.approx(1)


def test_rslora_read_as_lora_loses_a_root_of_each_rank():
    """With ranks 4 and 64 the parts come out 2 and 8 times too small: not only weaker, the mix is tilted by 4."""
    parts = [(normal(r, 80, seed=r), normal(90, r, seed=r + 1), r) for r in (4, 64)]
    too_small = []
    for a, b, r in parts:
        (A, B), (_, wrong_b) = (concatenate([(a, b, scaling(16, r))]) for scaling in (rslora_scaling, lora_scaling))
        too_small.append(((B @ A).norm() / (wrong_b @ A).norm()).item())
    assert too_small == pytest.approx([2, 8])


# --- Precision, devices, and what stays as it was ---

CALLS = {
    "concatenate": lambda a, b: concatenate([(a, b, 2.0), (a, b, 0.5)], [1, -0.5]),
    "concatenate one": lambda a, b: concatenate([(a, b, 1.0)]),
    "compress": lambda a, b: compress(a, b, 2)[:2],
    "ties": lambda a, b: (ties([a, a], 0.5), ties([b], 1.0)),
    "dare": lambda a, b: tuple(dare(t, drop, torch.Generator().manual_seed(0)) for t in (a, b) for drop in (0, 0.5)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_16_bits_are_computed_and_given_back_in_float32(call, dtype):
    """As if the inputs had been made float32 first; float64 stays."""
    a, b, wide = normal(3, 6, dtype=dtype), normal(5, 3, seed=1, dtype=dtype), torch.promote_types(dtype, torch.float32)
    for got, wanted in zip(call(a, b), call(a.to(wide), b.to(wide)), strict=True):
        assert got.dtype == wide and torch.equal(got, wanted)


def test_the_widest_of_several_dtypes_wins():
    """float64 beside bfloat16 is float64; float16 beside bfloat16, of which neither holds the other, float32."""
    a, b = normal(3, 6), normal(5, 3, seed=1)
    A, B = concatenate([(a.bfloat16(), b.bfloat16(), 1.0), (a, b, 1.0)])
    assert A.dtype == B.dtype == torch.float64 and torch.equal(A[3:], a)
    assert ties([a.half(), a.bfloat16()], 1).dtype == torch.float32


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_inputs_gradients_and_the_global_random_state_stay_out_of_it(call):
    """The inputs are as before, share no memory with the result, and the result has no gradient."""
    a, b = (torch.nn.Parameter(t) for t in (normal(3, 6), normal(5, 3, seed=1)))
    before, state = (a.detach().clone(), b.detach().clone()), torch.get_rng_state()
    results = call(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(result.requires_grad for result in results)
    for result in results:
        result.fill_(7)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_gpu_gives_what_the_cpu_gives(call):
    """On the device of the inputs, with the same signs and, from a CPU generator, the same draw."""
    a, b = normal(3, 6), normal(5, 3, seed=1)
    for got, wanted in zip(call(a.cuda(), b.cuda()), call(a, b), strict=True):
        assert got.device.type == "cuda"
        torch.testing.assert_close(got.cpu(), wanted)


# --- What is refused ---

a, b, one = normal(2, 4), normal(3, 2, seed=1), torch.ones(3, 4)
HOLED = torch.tensor([[1.0, math.nan, 1, 1], [1, 1, math.inf, 1]])
SEED = torch.Generator()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: concatenate([]), r"adapters is \[\]; give a list of at least one"),
        (lambda: concatenate(a), r"adapters is a torch.float64 of shape \(2, 4\); give a list"),
        (lambda: concatenate((a, b, 1.0)), r"adapters\[0\] is a torch.float64 of shape \(2, 4\); each adapter is"),
        (lambda: concatenate([(a, b)]), r"adapters\[0\] is \(tensor.*; each adapter is a tuple \(A, B, scaling\)"),
        (lambda: concatenate([(a, b, 1.0)] * 2, [1]), r"weights: got \[1\]; give a list .* each of 2"),
        (lambda: concatenate([(a, b, 1.0)], [1, 2]), r"weights: got \[1, 2\]; give a list .* each of 1"),
        (lambda: concatenate([(a, b, 1.0)], []), r"weights: got \[\]"),
        (lambda: concatenate([(a, b, 1.0)], 0.5), r"weights: got 0.5"),
        (lambda: concatenate([(a, b, 1.0)], torch.ones(1)), r"weights: got a torch.float32 of shape \(1,\)"),
        (lambda: concatenate([(a, b, 1.0)], [math.nan]), r"weights: got \[nan\]; give a list of finite numbers"),
        (lambda: concatenate([(a, b, 1.0)], [True]), r"weights: got \[True\]"),
        (lambda: concatenate([(a, b, math.inf)]), r"the scalings: got \[inf\]; give a list of finite"),
        (lambda: concatenate([(a, b, "2")]), r"the scalings: got \['2'\]"),
        (lambda: concatenate([(a, b, 1.0), (a[:, :3], b, 1.0)]), r"of shapes \[\(3, 3\), \(3, 4\)\]; only those of"),
        (lambda: concatenate([(a, b, 1.0), (a, b[:2], 1.0)]), r"of shapes \[\(2, 4\), \(3, 4\)\]"),
        (lambda: concatenate([(a, b, 1.0), (b, a, 1.0)]), r"A\[1\] is \(3, 2\) and B\[1\] \(2, 4\); give A \(r, d_in"),
        (lambda: concatenate([(a[..., None], b, 1.0)]), r"A\[0\] is \(2, 4, 1\) and B\[0\] \(3, 2\)"),
        (lambda: concatenate([(a, b[..., None], 1.0)]), r"A\[0\] is \(2, 4\) and B\[0\] \(3, 2, 1\)"),
        (
            lambda: compress(a[0], b[:, :1], 1),
            r"A is \(4,\) and B \(3, 1\); give A \(r, d_in\) and B \(d_out, r\) with",
        ),
        (lambda: concatenate([(a, b.int(), 1.0)]), r"B\[0\] is a torch.int32 of shape \(3, 2\); give a floating-point"),
        (lambda: concatenate([(a, b, 1.0), ([1.0], b, 1.0)]), r"A\[1\] is \[1.0\]; give a floating-point tensor"),
        (lambda: concatenate([(a[:0], b[:, :0], 1.0)]), r"A\[0\] is a torch.float64 of shape \(0, 4\)"),
        (lambda: concatenate([(a, b, 1.0), (HOLED, b, 1.0)]), r"A\[1\] holds NaN or infinity; look for a diverged"),
        (lambda: concatenate([(a, b.to("meta"), 1.0)]), r"B\[0\] is on meta, others on cpu; move them to one"),
        (lambda: compress(a, b.T, 1), r"A is \(2, 4\) and B \(2, 3\)"),
        (lambda: compress(HOLED, b, 1), r"A holds NaN or infinity"),
        (lambda: compress(a, b, 0), r"rank is 0; this product has 2 singular directions, so give 1 to 2"),
        (lambda: compress(a, b, 3), r"rank is 3; this product has 2 singular directions"),
        (lambda: compress(torch.ones(9, 4), torch.ones(3, 9), 4), r"rank is 4; this product has 3"),
        (lambda: compress(torch.ones(9, 2), torch.ones(3, 9), 3), r"rank is 3; this product has 2"),
        (lambda: compress(a, b, 1.0), r"rank is 1.0"),
        (lambda: compress(a, b, True), r"rank is True"),
        (lambda: ties([], 0.5), r"deltas is \[\]; give a list of at least one"),
        (lambda: ties(one, 0.5), r"deltas is a torch.float32 of shape \(3, 4\); give a list"),
        (lambda: ties([one, one.T], 0.5), r"the deltas have shapes \[\(3, 4\), \(4, 3\)\]; give changes of one weight"),
        (lambda: ties([one, HOLED], 0.5), r"deltas\[1\] holds NaN or infinity"),
        (lambda: ties([one.bool()], 0.5), r"deltas\[0\] is a torch.bool of shape \(3, 4\)"),
        (lambda: ties([one[:0]], 0.5), r"deltas\[0\] is a torch.float32 of shape \(0, 4\)"),
        (lambda: ties([one, one.to("meta")], 0.5), r"deltas\[1\] is on meta, others on cpu"),
        (lambda: ties([one], 0), r"keep is 0; it is the share"),
        (lambda: ties([one], 20), r"keep is 20; it is the share of entries that stay, above 0 and at most 1"),
        (lambda: ties([one], math.nan), r"keep is nan"),
        (lambda: ties([one], True), r"keep is True"),
        (lambda: ties([one], "0.2"), r"keep is '0.2'"),
        (lambda: ties([one], 0.5, [1, 1]), r"weights: got \[1, 1\]; give a list .* each of 1"),
        (lambda: dare(one, 1, SEED), r"drop is 1; it is a probability from 0 up to, not including, 1"),
        (lambda: dare(one, -0.1, SEED), r"drop is -0.1"),
        (lambda: dare(one, math.nan, SEED), r"drop is nan"),
        (lambda: dare(one, False, SEED), r"drop is False"),
        (lambda: dare(one, "0.1", SEED), r"drop is '0.1'"),
        (lambda: dare(one, 0.5, None), r"generator is None; give torch.Generator\(\)"),
        (lambda: dare(one, 0.5, 7), r"generator is 7"),
        (lambda: dare(HOLED, 0.5, SEED), r"delta holds NaN or infinity"),
        (lambda: dare(one.long(), 0.5, SEED), r"delta is a torch.int64 of shape \(3, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value_and_what_would_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()
