"""rsLoRA is one factor: alpha / sqrt(r) in place of alpha / r."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import alphas, assert_close, cases
from torch import nn

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, lora_scaling, rslora_scaling


@given(alpha=alphas, rank=st.integers(1, 512))
def test_scaling_is_alpha_over_root(alpha, rank):
    """The scaling is alpha / sqrt(rank): at rank 1 LoRA's, beyond it larger."""
    assert rslora_scaling(alpha, rank) == alpha / math.sqrt(rank)
    assert rslora_scaling(alpha, 1) == lora_scaling(alpha, 1)
    assert rank == 1 or rslora_scaling(alpha, rank) > lora_scaling(alpha, rank)


def test_scaling_by_hand():
    """Rank 16, alpha 16: 4, where LoRA has 1."""
    assert (rslora_scaling(16, 16), lora_scaling(16, 16)) == (4.0, 1.0)


@given(case=cases())
def test_layer_is_lora_at_larger_alpha(case):
    """A layer scaled by rslora_scaling is plain LoRA at alpha · sqrt(r): output, update and merge."""
    ours = case.trained(LoRALinear, scaling=rslora_scaling)
    plain = LoRALinear(case.base(), case.rank, case.alpha * math.sqrt(case.rank))
    plain.load_state_dict(ours.state_dict())
    x = case.input()
    assert_close(ours(x), plain(x))
    assert_close(ours.delta_weight(), plain.delta_weight())
    assert_close(ours.merge()(x), ours(x).detach())


def test_output_keeps_its_size_as_rank_grows():
    """With A and B of independent unit normals, the update's mean square is alpha² d_in for every rank.

    Each entry of B A x is a sum of r independent terms of mean square |x|², so r |x|² together; alpha / sqrt(r)
    squared takes the r away again. Under alpha / r an r is left in the denominator.
    """
    torch.manual_seed(0)
    d, alpha, sizes = 256, 3.0, []
    for rank in (4, 256):
        layer = LoRALinear(nn.Linear(d, d, bias=False), rank, alpha, scaling=rslora_scaling)
        nn.init.normal_(layer.A), nn.init.normal_(layer.B)
        sizes.append(layer.delta_weight().square().mean().item() / alpha**2)
    # an entry of s B A has mean square alpha²; the mean over d² entries is led by rank · d squares of A and of B, each
    # of relative variance 2: five standard errors of the smaller rank are 5 sqrt(2 · 2 / (4 · d))
    assert sizes == pytest.approx([1, 1], abs=5 * math.sqrt(4 / (4 * d)))


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "8"])
def test_rank_must_be_whole(rank):
    """A rank that is no integer of at least 1 is refused, and named."""
    with pytest.raises(ValueError, match=f"rank is {rank!r}; it must be an integer of at least 1"):
        rslora_scaling(16, rank)


@pytest.mark.parametrize("alpha", [0, -1, math.inf, math.nan, True, "x"])
def test_alpha_must_be_positive(alpha):
    """An alpha that is no positive, finite number is refused, and named."""
    with pytest.raises(ValueError, match=f"alpha is {alpha!r}; it must be a positive, finite number"):
        rslora_scaling(alpha, 8)


@pytest.mark.parametrize(("rslora", "scaling"), [(True, 4.0), (False, 1.0)])
def test_config_reaches_layers(rslora, scaling):
    """AdapterConfig(rslora=True) gives every adapter the scaling alpha / sqrt(rank)."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    add_adapters(model, AdapterConfig(rank=16, alpha=16, rslora=rslora))
    assert [layer.scaling for layer in model] == [scaling, scaling]
