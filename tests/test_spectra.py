"""The spectra of weight updates: Eckart and Young's bound, and what counts as a direction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.analysis.spectra import effective_rank, energy, low_rank_factors, singular_values, stable_rank

sizes = st.integers(2, 12)
seeds = st.integers(0, 2**16)


def random_matrix(d_out: int, d_in: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d_out, d_in, generator=generator, dtype=torch.float64)


@given(sizes, sizes, seeds, st.data())
def test_the_cut_has_the_rank_and_the_error_of_the_tail(d_out, d_in, seed, data):
    """B A has rank r, and its distance to the matrix is the root of the squared singular values left out."""
    delta = random_matrix(d_out, d_in, seed)
    rank = data.draw(st.integers(1, min(d_out, d_in)))
    B, A = low_rank_factors(delta, rank)
    assert B.shape == (d_out, rank) and A.shape == (rank, d_in)
    assert torch.linalg.matrix_rank(B @ A, rtol=1e-12) <= rank
    tail = singular_values(delta)[rank:].square().sum().sqrt()
    torch.testing.assert_close((delta - B @ A).norm(), tail, atol=1e-10, rtol=1e-10)


@given(sizes, sizes, seeds, seeds, st.data())
def test_no_other_matrix_of_that_rank_comes_closer(d_out, d_in, seed, other, data):
    """The best B for a random A, by least squares, is never closer than the cut (Eckart and Young)."""
    delta = random_matrix(d_out, d_in, seed)
    rank = data.draw(st.integers(1, min(d_out, d_in)))
    B, A = low_rank_factors(delta, rank)
    rival_a = A + 0.1 * random_matrix(rank, d_in, other)
    rival_b = torch.linalg.lstsq(rival_a.T, delta.T).solution.T
    assert (delta - B @ A).norm() <= (delta - rival_b @ rival_a).norm() + 1e-10


@given(sizes, sizes, seeds)
def test_the_factors_share_each_singular_value_equally(d_out, d_in, seed):
    """Column i of B and row i of A both have the length sqrt(sigma_i)."""
    delta = random_matrix(d_out, d_in, seed)
    B, A = low_rank_factors(delta, min(d_out, d_in))
    torch.testing.assert_close(B.norm(dim=0).square(), singular_values(delta))
    torch.testing.assert_close(A.norm(dim=1).square(), singular_values(delta))


@given(sizes, sizes, seeds, st.floats(0.1, 10))
def test_ranks_do_not_depend_on_the_scale(d_out, d_in, seed, scale):
    """Energy, stable rank and effective rank of c · W are those of W."""
    delta = random_matrix(d_out, d_in, seed)
    torch.testing.assert_close(energy(delta), energy(scale * delta))
    assert stable_rank(delta) == pytest.approx(stable_rank(scale * delta))
    assert effective_rank(delta) == pytest.approx(effective_rank(scale * delta))


@given(st.integers(1, 8), seeds)
def test_k_equal_directions_count_as_k(k, seed):
    """A matrix with k singular values of the same size and no others has stable and effective rank k."""
    q = torch.linalg.qr(random_matrix(12, 9, seed)).Q[:, :k]  # (12, k), orthonormal
    p = torch.linalg.qr(random_matrix(10, 9, seed + 1)).Q[:, :k]
    delta = 3 * q @ p.T
    assert stable_rank(delta) == pytest.approx(k)
    assert effective_rank(delta) == pytest.approx(k)
    assert energy(delta)[k - 1].item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """A matrix in 16 bits gives singular values and factors in float32."""
    delta = random_matrix(5, 4, 0).to(dtype)
    assert singular_values(delta).dtype == torch.float32
    assert all(factor.dtype == torch.float32 for factor in low_rank_factors(delta, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_refused(bad):
    """NaN and infinity have no singular values: a ValueError says so."""
    delta = random_matrix(5, 4, 0)
    delta[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        singular_values(delta)


@pytest.mark.parametrize("delta", [torch.ones(3), torch.ones(2, 3, 4), torch.ones(2, 3).int(), torch.ones(0, 3)])
def test_only_a_floating_point_matrix_has_a_spectrum(delta):
    """Vectors, stacks of matrices, integers and empty matrices are refused with their shape."""
    with pytest.raises(ValueError, match="floating-point"):
        singular_values(delta)


@pytest.mark.parametrize("rank", [0, -1, 5, 1.0, True])
def test_a_rank_outside_the_matrix_is_refused(rank):
    """A (5, 4) matrix has ranks from 1 to 4, as integers."""
    with pytest.raises(ValueError, match="runs from 1 to 4"):
        low_rank_factors(random_matrix(5, 4, 0), rank)
