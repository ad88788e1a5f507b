"""The codes that NF4 is held against: their levels, what they leave of a weight, and of a model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_from_scratch import NF4Linear, nf4
from lora_from_scratch.lab import codes
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

SIZES = LlamaConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
)


@pytest.mark.parametrize("name", codes.CODES)
def test_levels_rise_from_minus_one_to_one_with_an_exact_zero(name):
    """Every code keeps zeros, and its largest magnitude is that of its block."""
    levels = codes.CODES[name]
    assert levels.dtype == np.float32 and (np.diff(levels) > 0).all()
    assert levels[-1] == 1 and -1 <= levels[0] and (levels == 0).sum() == 1
    bits = {"NF3": 3, "NF2": 2}.get(name, 4)
    assert 2**bits - 1 <= len(levels) <= 2**bits


def test_the_general_construction_gives_nf4_at_four_bits():
    """Up to the last bit, in which the published table has its own history."""
    np.testing.assert_allclose(codes.normal_float(4), nf4.LEVELS, rtol=0, atol=2e-7)


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40),
    name=st.sampled_from(list(codes.CODES)),
    block_size=st.sampled_from([2, 4, 16]),
)
def test_rounding_takes_the_nearest_level_of_the_block(values, name, block_size):
    """Against a slow loop over blocks and levels."""
    weight, levels = np.array(values, np.float32), codes.CODES[name]
    got = codes.rounded(weight, levels, block_size)
    for start in range(0, len(weight), block_size):
        block = weight[start : start + block_size]
        choices = levels[:, None] * np.abs(block).max()  # (levels, 1)
        nearest = np.abs(choices - block).min(axis=0)
        error = np.abs(got[start : start + block_size] - block)
        np.testing.assert_allclose(error, nearest, rtol=1e-5, atol=1e-6 * np.abs(block).max())


def test_rounding_to_nf4_is_what_the_quantizer_does():
    """One code, two ways to it: the same decoded numbers."""
    weight = np.random.default_rng(0).standard_normal((33, 20)).astype(np.float32)
    packed = nf4.dequantize(nf4.quantize(weight, double=False))
    np.testing.assert_allclose(codes.rounded(weight, nf4.LEVELS), packed, rtol=1e-6)


@pytest.mark.parametrize("name", codes.BASES)
def test_a_rounded_model_differs_in_its_linear_layers_alone(name):
    """Embedding, norms and head are bit-equal; each linear layer holds what the code leaves."""
    torch.manual_seed(0)
    model, before = TinyLlama(SIZES), TinyLlama(SIZES)
    before.load_state_dict(model.state_dict())
    codes.quantize_base(model, name)
    linear = [n for n, m in before.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    assert len(linear) == 7
    for place in linear:
        old, new = before.get_submodule(place).weight, model.get_submodule(place).weight
        assert not torch.equal(old, new) and (old - new).norm() < 0.9 * old.norm()
        assert isinstance(model.get_submodule(place), NF4Linear) == (name == "NF4")
        if name == "16 bit":
            assert torch.equal(new, old.bfloat16().float())
    rest = [n for n in before.state_dict() if n.removesuffix(".weight") not in linear]
    assert len(rest) == 5 and all(torch.equal(before.state_dict()[n], model.state_dict()[n]) for n in rest)


def test_an_unknown_base_is_refused():
    """By name, with what there is."""
    with pytest.raises(ValueError, match="NF5.*NF4"):
        codes.quantize_base(TinyLlama(SIZES), "NF5")
