"""TinyLlama is transformers' LlamaForCausalLM: the same state dict, the same logits, the same gradients."""

import itertools

import pytest
import torch
import transformers
from pairs import assert_near
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama, rotary

SIZES = {
    "default": {},
    "one narrow block": {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "vocab_size": 11},
    "other constants": {"hidden_size": 64, "rope_theta": 500.0, "rms_norm_eps": 1e-2, "max_position_embeddings": 40},
}
CONFIGS = {
    f"{size}, {kv} kv heads{', tied' if tied else ''}": LlamaConfig(
        **fields, num_key_value_heads=kv, tie_word_embeddings=tied
    )
    for (size, fields), kv, tied in itertools.product(SIZES.items(), (1, 2, 4), (False, True))
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def transformers_llama(config: LlamaConfig) -> transformers.LlamaForCausalLM:
    """transformers' model of the same configuration: every field goes over under its own name."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**vars(config), use_cache=False)).eval()


def spread_out(model: nn.Module) -> nn.Module:
    """Random weights large enough, norms far enough from one, that every part of the model shows in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1.0)
    return model


def random_ids(config: LlamaConfig, rows: int = 3) -> Tensor:
    return torch.randint(config.vocab_size, (rows, config.max_position_embeddings))


@every_config
def test_our_weights_give_the_same_logits_in_transformers(config):
    """Our state dict loads strictly into transformers' model, whose logits are then ours to 1e-5 in float32."""
    ours, theirs = spread_out(TinyLlama(config)), transformers_llama(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = random_ids(config)
    with torch.no_grad():
        assert_near(ours(ids), theirs(ids).logits, 1e-5)


@every_config
def test_weights_of_transformers_give_the_same_logits_in_ours(config):
    """The state dict of transformers' model loads strictly into ours, logits equal to 1e-5 in float32."""
    theirs, ours = spread_out(transformers_llama(config)), TinyLlama(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids = random_ids(config)
    with torch.no_grad():
        assert_near(ours(ids), theirs(ids).logits, 1e-5)


@pytest.mark.parametrize("kv, tied", [(1, True), (2, False), (4, False)])
def test_every_gradient_is_that_of_transformers(kv, tied):
    """The loss of next characters has the same gradient for every parameter, by name, to 1e-5 in float32."""
    config = LlamaConfig(num_key_value_heads=kv, tie_word_embeddings=tied, num_hidden_layers=2)
    ours, theirs = spread_out(TinyLlama(config)), transformers_llama(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = random_ids(config)
    for model, logits in ((ours, ours(ids)), (theirs, theirs(ids).logits)):
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    wanted = dict(theirs.named_parameters())
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert_near(parameter.grad, wanted[name].grad, 1e-5, name)


def test_bfloat16_logits_agree_to_bfloat16():
    """In bfloat16 both models give the same logits to 2 % of the largest: 5 roundings of 2^-8 at the most."""
    config = LlamaConfig(num_key_value_heads=2)
    ours, theirs = spread_out(TinyLlama(config)).bfloat16(), transformers_llama(config).bfloat16()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = random_ids(config)
    with torch.no_grad():
        assert_near(ours(ids).float(), theirs(ids).logits.float(), 0.02)


def test_fields_and_defaults_of_the_configuration_mean_the_same():
    """transformers' configuration takes every field of ours by its name, and reports it back as it was."""
    ours = LlamaConfig(num_key_value_heads=2, rope_theta=123.0)
    theirs = transformers.LlamaConfig(**vars(ours))
    for name, value in vars(ours).items():
        found = theirs.rope_parameters["rope_theta"] if name == "rope_theta" else getattr(theirs, name)
        assert found == value, name


@pytest.mark.parametrize("length", [512, 2048, 8192])
def test_rotary_tables_are_those_of_transformers_to_the_bit_at_long_contexts(length):
    """The same multiplication in the same process: position times 1 / theta^(2i/D), at every position."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": length}
    theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**sizes, rope_theta=10000.0))
    found = theirs(torch.zeros(1), torch.arange(length)[None])
    for ours, wanted in zip(rotary(torch.arange(length), 32, 10000.0), found, strict=True):
        assert torch.equal(ours, wanted[0])


@pytest.mark.parametrize("length", [512, 2048])
def test_logits_stay_equal_over_a_long_context(length):
    """One layer, so that a step of the angles is not hidden by rounding of later ones."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": length}
    ours = TinyLlama(LlamaConfig(**sizes))
    theirs = transformers_llama(ours.config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = torch.randint(61, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)
