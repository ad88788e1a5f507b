"""Intruder dimensions and compared singular vectors: definitions by slow loops, invariances, planted vectors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lora_from_scratch import AdapterConfig, DoRALinear, LoRALinear, add_adapters
from lora_from_scratch.analysis.spectra import (
    adapted_weights,
    intruder_dimensions,
    intruders_by_layer,
    similarity,
    singular_values,
)
from lora_from_scratch.analysis.subspaces import amplification, product_svd, subspace_similarity

sizes = st.integers(3, 12)
seeds = st.integers(0, 2**16)
epsilons = st.floats(0.05, 1)
sides = st.sampled_from(["left", "right"])


def random_matrix(d_out: int, d_in: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d_out, d_in, generator=generator, dtype=torch.float64)


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(random_matrix(d, d, seed)).Q


def slow_intruders(w0: Tensor, w1: Tensor, k: int, epsilon: float) -> list[int]:
    """The definition as a loop: for each leading left vector of w1, its largest |cosine| with any of w0's."""
    u0, u1 = (torch.linalg.svd(w, full_matrices=False).U for w in (w0, w1))
    found = []
    for j in range(k):
        largest = 0.0
        for i in range(u0.shape[1]):
            dot = sum(float(a) * float(b) for a, b in zip(u0[:, i], u1[:, j], strict=True))
            largest = max(largest, abs(dot))
        if largest < epsilon:
            found.append(j)
    return found


@given(sizes, sizes, seeds, seeds, epsilons, st.data())
def test_the_count_is_that_of_the_definition(d_out, d_in, seed, other, epsilon, data):
    """The indices are those of a slow loop over all pairs of vectors, for any shape, k and ε."""
    w0 = random_matrix(d_out, d_in, seed)
    w1 = w0 + data.draw(st.floats(0, 3)) * random_matrix(d_out, d_in, other + 2**17)
    k = data.draw(st.integers(1, min(d_out, d_in)))
    found = intruder_dimensions(w0, w1, k, epsilon)
    assert found == slow_intruders(w0, w1, k, epsilon)
    assert all(type(index) is int for index in found) and found == sorted(found)


@given(sizes, sizes, seeds, st.sampled_from([-3.0, -1.0, 0.1, 1.0, 7.0]), sides)
def test_a_weight_has_no_intruder_against_itself_or_a_multiple(d_out, d_in, seed, c, side):
    """W against W, and c · W against W: none, at any ε below 1; the similarities are the identity."""
    w0 = random_matrix(d_out, d_in, seed)
    assert intruder_dimensions(w0, c * w0, min(d_out, d_in), 0.999, side) == []
    torch.testing.assert_close(similarity(w0, c * w0, side), torch.eye(min(d_out, d_in)).double(), atol=1e-6, rtol=0)


@given(sizes, seeds, seeds, seeds, epsilons)
def test_rotating_the_input_side_changes_nothing(d, seed, other, third, epsilon):
    """W0 Q and W1 Q with one rotation Q: the left vectors stay, and so do the intruders."""
    w0, w1, q = random_matrix(d, d, seed), random_matrix(d, d, other + 2**17), rotation(d, third)
    assert intruder_dimensions(w0, w1, d, epsilon) == intruder_dimensions(w0 @ q, w1 @ q, d, epsilon)


@given(sizes, sizes, seeds, seeds, sides)
def test_left_of_w_is_right_of_its_transpose(d_out, d_in, seed, other, side):
    """What is left for W is right for Wᵀ."""
    w0, w1 = random_matrix(d_out, d_in, seed), random_matrix(d_out, d_in, other + 2**17)
    swapped = "right" if side == "left" else "left"
    torch.testing.assert_close(similarity(w0, w1, side), similarity(w0.T, w1.T, swapped))


@given(sizes, sizes, seeds, seeds, st.data())
def test_the_count_never_falls_as_epsilon_rises_or_k_grows(d_out, d_in, seed, other, data):
    """A larger ε, or more vectors, only adds intruders."""
    w0, w1 = random_matrix(d_out, d_in, seed), random_matrix(d_out, d_in, other + 2**17)
    most = min(d_out, d_in)
    small, large = sorted(data.draw(st.tuples(epsilons, epsilons)))
    assert set(intruder_dimensions(w0, w1, most, small)) <= set(intruder_dimensions(w0, w1, most, large))
    k = data.draw(st.integers(1, most))
    assert intruder_dimensions(w0, w1, k, large) == [i for i in intruder_dimensions(w0, w1, most, large) if i < k]


@given(st.floats(0.05, 0.99), seeds)
def test_a_planted_vector_is_found_exactly_when_its_cosine_is_below_epsilon(epsilon, seed):
    """A leading direction at a known cosine to one vector of W0, and at right angles to the others."""
    u, v = rotation(12, seed), rotation(6, seed + 1)
    w0 = u[:, :6] @ torch.diag(torch.arange(6, 0, -1.0).double()) @ v.T  # (12, 6): its left vectors leave room
    for cosine, wanted in ((epsilon - 1e-3, [0]), (epsilon + 1e-3, [])):
        new = cosine * u[:, 2] + math.sqrt(1 - cosine**2) * u[:, 7]
        w1 = 1e6 * torch.outer(new, v[:, 0]) + 1e-3 * w0
        torch.testing.assert_close(similarity(w0, w1)[:, 0].max().item(), cosine, atol=1e-6, rtol=0)
        assert intruder_dimensions(w0, w1, 1, epsilon) == wanted


def test_a_growing_planted_vector_becomes_an_intruder_once():
    """W + λ u vᵀ with a direction unlike W's: none for a small λ, one for a large λ, and the count never falls back."""
    d = 64
    w0 = random_matrix(d, d, 0)
    counts = []
    direction, right = rotation(d, 5)[:, 0], rotation(d, 6)[:, 0]
    for strength in (0, 0.1, 1, 4, 16, 64, 256):
        counts.append(len(intruder_dimensions(w0, w0 + strength * torch.outer(direction, right), 10, 0.5)))
    assert counts[0] == counts[1] == 0 and counts[-1] == 1 and counts == sorted(counts)


def test_a_large_update_along_the_weight_s_own_vectors_makes_no_intruder():
    """Vectors of W0 + ΔW count, not those of ΔW. [reeceshuttle/intruder-dimensions#3]"""
    w0 = random_matrix(9, 7, 0)
    u, _, vt = torch.linalg.svd(w0, full_matrices=False)
    delta = 100 * torch.outer(u[:, 3], vt[3])
    assert intruder_dimensions(w0, w0 + delta, 7, 0.99) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_computed_in_float32(dtype):
    """16-bit weights are compared in float32."""
    w0, w1 = random_matrix(8, 6, 0).to(dtype), random_matrix(8, 6, 1).to(dtype)
    assert similarity(w0, w1).dtype == torch.float32
    assert intruder_dimensions(w0, w1, 3) == intruder_dimensions(w0.float(), w1.float(), 3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"k": 0}, "k is 0"),
        ({"k": 5}, "has rank 4, so k runs from 1 to 4"),
        ({"k": 2.0}, "k is 2.0"),
        ({"k": True}, "k is True"),
        ({"epsilon": 0}, "epsilon is 0"),
        ({"epsilon": 1.01}, "epsilon is 1.01"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": True}, "epsilon is True"),
        ({"side": "top"}, "side is 'top'"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(options, words):
    """k beyond the rank, ε outside (0, 1], an unknown side: a ValueError that names the value."""
    with pytest.raises(ValueError, match=words):
        intruder_dimensions(random_matrix(5, 4, 0), random_matrix(5, 4, 1), **({"k": 2} | options))


def test_k_beyond_the_numerical_rank_is_refused():
    """A tuned weight of rank 2 has two vectors that mean something."""
    w1 = random_matrix(8, 2, 0) @ random_matrix(2, 8, 1)
    assert len(intruder_dimensions(random_matrix(8, 8, 2), w1, 2, 1.0)) == 2
    with pytest.raises(ValueError, match="has rank 2"):
        intruder_dimensions(random_matrix(8, 8, 2), w1, 3)


@pytest.mark.parametrize("bad", ["shape", "dtype", "nan", "vector"])
def test_weights_that_cannot_be_compared_are_refused(bad):
    """Another shape or dtype, NaN, or no matrix: a ValueError."""
    w0, w1 = random_matrix(5, 4, 0), random_matrix(5, 4, 1)
    w1 = {"shape": w1[:, :3], "dtype": w1.float(), "nan": w1 / 0 * 0, "vector": w1[0]}[bad]
    w0 = w0[0] if bad == "vector" else w0
    for function in (similarity, lambda a, b: intruder_dimensions(a, b, 2), lambda a, b: amplification(a, b, 2)):
        with pytest.raises(ValueError):
            function(w0, w1)


# Updates without their product, subspaces, whole models


@given(sizes, sizes, seeds, st.data())
def test_the_svd_of_a_product_is_that_of_the_built_product(d_out, d_in, seed, data):
    """U S Vᵀ is B A, U and V have orthonormal columns, and the values are those of B A's SVD."""
    rank = data.draw(st.integers(1, min(d_out, d_in)))
    B, A = random_matrix(d_out, rank, seed), random_matrix(rank, d_in, seed + 1)
    u, s, vt = product_svd(B, A)
    torch.testing.assert_close(u * s @ vt, B @ A)
    torch.testing.assert_close(s, singular_values(B @ A)[:rank])
    for columns in (u, vt.T):
        torch.testing.assert_close(columns.T @ columns, torch.eye(rank).double())


@pytest.mark.parametrize("b, a", [((5, 2), (3, 4)), ((2, 3), (3, 9)), ((9, 3), (3, 2))])
def test_factors_that_do_not_fit_are_refused(b, a):
    """Inner sizes that differ, or a rank above both sides: a ValueError with the shapes."""
    with pytest.raises(ValueError, match="give .* with r at most both"):
        product_svd(torch.ones(b), torch.ones(a))


@given(sizes, seeds, seeds)
def test_subspace_similarity_is_the_formula_of_the_lora_paper(d, seed, other):
    """φ(i, j) = ‖V_i V_jᵀ‖² / min(i, j), entry by entry; between 0 and 1; 1 on the diagonal of a matrix with itself."""
    first, second = random_matrix(2, d, seed), random_matrix(3, d, other + 2**17)
    phi = subspace_similarity(first, second)
    v1, v2 = (torch.linalg.svd(m, full_matrices=False).Vh for m in (first, second))
    for i in (1, 2):
        for j in (1, 2, 3):
            wanted = (v1[:i] @ v2[:j].T).square().sum() / min(i, j)
            torch.testing.assert_close(phi[i - 1, j - 1], wanted)
    assert phi.min() >= -1e-12 and phi.max() <= 1 + 1e-12
    torch.testing.assert_close(subspace_similarity(second, second).diagonal(), torch.ones(3).double())


def test_subspaces_of_other_widths_are_refused():
    """Two A of different width have no angle between them."""
    with pytest.raises(ValueError, match=r"give \(r1, d\) and \(r2, d\)"):
        subspace_similarity(torch.ones(2, 5), torch.ones(2, 6))


def test_amplification_is_the_ratio_of_norms():
    """Along its own leading directions an update of c · W0 amplifies by c; doubling the update doubles it."""
    w0 = random_matrix(7, 5, 0)
    assert amplification(w0, 3 * w0, 5) == pytest.approx(3)
    delta = random_matrix(7, 5, 1)
    assert amplification(w0, 2 * delta, 2) == pytest.approx(2 * amplification(w0, delta, 2))


def model(dora: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 11))
    add_adapters(net, AdapterConfig(rank=2, alpha=400, dora=dora))
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.B)
    return net


@pytest.mark.parametrize("dora", [False, True])
def test_a_whole_model_is_the_sum_of_its_matrices(dora):
    """One call walks the adapters; each entry is that matrix on its own, whatever the order of the layers."""
    net = model(dora)
    before, after = adapted_weights(net)
    assert list(before) == ["0", "2"] and isinstance(net[0], DoRALinear if dora else LoRALinear)
    found = intruders_by_layer(before, after, 5, 0.9)
    assert found == {n: intruder_dimensions(net[int(n)].base.weight, net[int(n)].weight, 5, 0.9) for n in ("0", "2")}
    backwards = intruders_by_layer(dict(reversed(before.items())), dict(reversed(after.items())), 5, 0.9)
    assert backwards == found and sum(map(len, found.values())) > 0


def test_a_model_without_adapters_and_dicts_that_differ_are_refused():
    """Nothing adapted, other names, or a bad matrix: a ValueError, with the layer's name."""
    with pytest.raises(ValueError, match="no adapters"):
        adapted_weights(nn.Linear(3, 3))
    before, after = adapted_weights(model())
    with pytest.raises(ValueError, match="2"):
        intruders_by_layer(before, {"0": after["0"]})
    with pytest.raises(ValueError, match="^0: k is 50"):
        intruders_by_layer(before, after, k=50)
