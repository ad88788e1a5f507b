"""Random updates that share everything with a trained one but what was learnt."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_from_scratch.analysis.nulls import random_frame, random_update_like


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_the_null_has_the_singular_values_of_the_update(d_out, d_in, rank, seed):
    """So it has its rank, Frobenius norm and stable rank too."""
    draw = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    update = random(d_out, rank) @ random(rank, d_in)
    null = random_update_like(update, draw)
    assert null.shape == update.shape and null.dtype == update.dtype
    torch.testing.assert_close(torch.linalg.svdvals(null), torch.linalg.svdvals(update), rtol=1e-9, atol=1e-9)


def test_its_directions_are_those_of_chance():
    """The mean squared cosine with a fixed direction is 1 / d for every column, as it is for uniform frames."""
    draw = torch.Generator().manual_seed(0)
    frames = torch.stack([random_frame(8, 3, draw) for _ in range(4000)])  # (draws, 8, 3)
    torch.testing.assert_close(frames.mT @ frames, torch.eye(3, dtype=torch.float64).expand(4000, 3, 3))
    assert (frames.square().mean(dim=0) - 1 / 8).abs().max() < 0.01
    assert frames.mean(dim=0).abs().max() < 0.03, "without the signs of R, the diagonal would be negative in the mean"


def test_a_seed_gives_one_draw_and_the_update_stays_as_it_is():
    update = torch.arange(12.0).reshape(3, 4)
    before = update.clone()
    first, second = (random_update_like(update, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(update, before) and not torch.equal(first, update)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.full((2, 2), torch.nan)])
def test_what_is_no_finite_matrix_is_refused(wrong):
    with pytest.raises(ValueError, match="give a finite, floating-point"):
        random_update_like(wrong)
