"""Scaling chosen directions: a slow loop, the singular values one by one, and what must not change."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_intruders import random_matrix, seeds, sizes

from lora_from_scratch.analysis.mitigation import scale_directions
from lora_from_scratch.analysis.spectra import intruder_dimensions, low_rank_factors

factors = st.sampled_from([0.0, 0.25, 0.75, 1.0, 1.5])


def places(data, d_out: int, d_in: int) -> list[int]:
    return data.draw(st.lists(st.integers(0, min(d_out, d_in) - 1), unique=True))


@given(sizes, sizes, seeds, factors, st.data())
def test_chosen_singular_values_are_multiplied_and_all_others_stay(d_out, d_in, seed, factor, data):
    weight = random_matrix(d_out, d_in, seed)
    which = places(data, d_out, d_in)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    wanted = s.clone()
    for i in which:
        wanted[i] *= factor
    torch.testing.assert_close(scale_directions(weight, which, factor), u @ wanted.diag() @ vt)


@given(sizes, sizes, seeds, st.data())
def test_scaling_down_and_up_again_gives_the_weight_back(d_out, d_in, seed, data):
    weight = random_matrix(d_out, d_in, seed)
    which = [0]  # 1.5 times the largest is the largest still, so its place is known
    torch.testing.assert_close(scale_directions(scale_directions(weight, which, 1.5), which, 1 / 1.5), weight)


@given(sizes, sizes, seeds, factors)
def test_scaling_every_direction_scales_the_weight(d_out, d_in, seed, factor):
    weight = random_matrix(d_out, d_in, seed)
    torch.testing.assert_close(scale_directions(weight, range(min(d_out, d_in)), factor), factor * weight)


def test_an_intruder_shrunk_to_nothing_is_gone():
    w0 = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.25, 0.1], dtype=torch.float64))
    u = torch.ones(6, dtype=torch.float64) / 6**0.5
    w1 = w0 + 20 * torch.outer(u, torch.linalg.qr(random_matrix(6, 6, 1)).Q[0])
    found = intruder_dimensions(w0, w1, k=1, epsilon=0.5)
    assert found == [0]
    without = scale_directions(w1, found, 0)
    sizes = torch.linalg.svdvals(without)
    assert sizes[-1] < 1e-12 * torch.linalg.svdvals(w1)[0] < 1e-3 * sizes[-2], "one is gone, and five are left"
    assert sizes[0] < 0.3 * torch.linalg.svdvals(w1)[0]


def test_the_update_after_shrinking_has_a_higher_rank_and_is_cut_to_the_adapters_again():
    w0 = random_matrix(9, 7, 0)
    delta = 8 * random_matrix(9, 1, 1) @ random_matrix(1, 7, 2)
    changed = scale_directions(w0 + delta, [0], 0.75) - w0
    assert torch.linalg.matrix_rank(changed, rtol=1e-9) == 2
    B, A = low_rank_factors(changed, 1)
    assert torch.linalg.matrix_rank(B @ A, rtol=1e-9) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_is_kept_and_nothing_chosen_gives_an_equal_copy(dtype):
    weight = random_matrix(6, 4, 0).to(dtype)
    same = scale_directions(weight, [], 0.5)
    assert same.dtype == dtype
    assert torch.equal(same, weight)
    assert same.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize(
    ("weight", "which", "factor", "words"),
    [
        (torch.ones(4), [0], 0.5, "matrix"),
        (torch.ones(4, 4, dtype=torch.int64), [0], 0.5, "floating-point"),
        (torch.full((4, 3), float("nan")), [0], 0.5, "finite"),
        (torch.eye(4, 3), [3], 0.5, "from 0 to 2"),
        (torch.eye(4, 3), [-1], 0.5, "from 0 to 2"),
        (torch.eye(4, 3), [True], 0.5, "from 0 to 2"),
        (torch.eye(4, 3), [1, 1], 0.5, "different"),
        (torch.eye(4, 3), [1], -0.5, "factor is -0.5"),
        (torch.eye(4, 3), [1], float("inf"), "factor is inf"),
    ],
)
def test_bad_input_is_refused_with_its_value(weight, which, factor, words):
    with pytest.raises(ValueError, match=words):
        scale_directions(weight, which, factor)
