"""The tiny Llama is a Llama: what it computes, what it refuses, and what its parameters are called.

That its logits are those of `transformers` is tested in parity/; these tests need torch alone.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_from_scratch import AdapterConfig, LoRALinear, add_adapters, trainable_parameters
from lora_from_scratch.lab.llama import Attention, LlamaConfig, RMSNorm, TinyLlama, frequencies, rotary, rotate

SMALL = {"vocab_size": 17, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_key_value_heads": 2}


def small_config(**changes) -> LlamaConfig:
    """Two narrow blocks, a context of 64."""
    return LlamaConfig(**(SMALL | changes))


def small_model(**changes) -> TinyLlama:
    """A small Llama with weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    model = TinyLlama(small_config(**changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def random_ids(*shape: int) -> Tensor:
    return torch.randint(SMALL["vocab_size"], shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changed", [1, 5, 11])
def test_no_logit_depends_on_a_later_token(changed):
    """Another token at a position leaves all logits before it as they were, and changes all from there on."""
    model, ids = small_model(), random_ids(3, 12)
    other = ids.clone()
    other[:, changed] = (other[:, changed] + 1) % SMALL["vocab_size"]
    off = (model(ids) - model(other)).abs().amax(dim=(0, 2))  # (T,)
    assert off[:changed].max() < 1e-12
    assert off[changed:].min() > 1e-6


def test_a_row_of_the_batch_is_computed_as_if_alone():
    """The logits of a sequence don't depend on what else is in the batch."""
    model, ids = small_model(), random_ids(3, 12)
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_query_attention_is_attention_with_repeated_key_value_heads(kv_heads):
    """K key-value heads give what H heads give when each group of H / K has the same rows in k_proj and v_proj."""
    torch.manual_seed(0)
    config = small_config(num_key_value_heads=kv_heads)
    grouped, repeated = Attention(config).double(), Attention(small_config(num_key_value_heads=4)).double()
    repeated.load_state_dict(
        grouped.state_dict()
        | {
            f"{name}.weight": getattr(grouped, name)
            .weight.view(kv_heads, 1, 8, 32)
            .expand(-1, 4 // kv_heads, -1, -1)
            .reshape(32, 32)
            for name in ("k_proj", "v_proj")
        }
    )
    x = torch.randn(2, 10, 32, dtype=torch.float64)
    cos, sin = (t.double() for t in rotary(torch.arange(10), 8, 10000.0))
    torch.testing.assert_close(grouped(x, cos, sin), repeated(x, cos, sin), rtol=0, atol=1e-12)


def test_attention_is_the_softmax_formula():
    """One head's output is softmax(q kᵀ / sqrt(D)) v over the positions up to its own, computed here by a loop."""
    torch.manual_seed(0)
    attention = Attention(small_config(num_attention_heads=1, num_key_value_heads=1)).double()
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    cos, sin = (t.double() for t in rotary(torch.arange(6), 32, 10000.0))
    q, k, v = rotate(attention.q_proj(x), cos, sin)[0], rotate(attention.k_proj(x), cos, sin)[0], attention.v_proj(x)[0]
    for t in range(6):
        weights = (k[: t + 1] @ q[t] / math.sqrt(32)).softmax(dim=0)  # (t + 1,)
        wanted = attention.o_proj(weights @ v[: t + 1])  # (C,)
        torch.testing.assert_close(attention(x, cos, sin)[0, t], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [1, 7, 50])
def test_attention_scores_depend_on_relative_position_alone(shift):
    """q at position m times k at position n depends on m - n: shifting both changes no score."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 9, 8, dtype=torch.float64), torch.randn(1, 1, 9, 8, dtype=torch.float64)

    def scores(positions: Tensor) -> Tensor:
        angles = positions.double()[:, None] / 10000.0 ** (torch.arange(0, 8, 2, dtype=torch.float64) / 8)  # (T, D/2)
        angles = torch.cat((angles, angles), dim=-1)
        return rotate(q, angles.cos(), angles.sin()) @ rotate(k, angles.cos(), angles.sin()).transpose(-1, -2)

    here = scores(torch.arange(9))
    torch.testing.assert_close(here, scores(torch.arange(9) + shift), rtol=0, atol=1e-12)
    assert (here - q @ k.transpose(-1, -2)).abs().max() > 0.1, "positions change no score at all"


def test_rotation_turns_channel_i_with_its_partner_half_a_head_away():
    """Channels i and i + D/2 at position t are turned, as a point in the plane, by the angle t · theta^(-2i/D)."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 5, 6)
    turned = rotate(x, *rotary(torch.arange(5), 6, 100.0))
    for t in range(5):
        for i in range(3):
            angle = t * 100.0 ** (-2 * i / 6)
            point = complex(x[0, 0, t, i], x[0, 0, t, i + 3]) * complex(math.cos(angle), math.sin(angle))
            assert turned[0, 0, t, i].item() == pytest.approx(point.real, abs=1e-6)
            assert turned[0, 0, t, i + 3].item() == pytest.approx(point.imag, abs=1e-6)


def test_rmsnorm_divides_by_the_root_of_the_mean_square():
    """RMSNorm gives weight · x / sqrt(mean(x²) + eps), the mean over the last dimension; eps inside the root."""
    torch.manual_seed(0)
    norm = RMSNorm(7, eps=0.3)  # an eps this large shows where it stands
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 7)
    wanted = norm.weight * x / (x.square().mean(dim=-1, keepdim=True) + 0.3).sqrt()
    torch.testing.assert_close(norm(x), wanted, rtol=0, atol=1e-6)


def test_rmsnorm_computes_in_float32_for_bfloat16():
    """For bfloat16 the square, the mean and the root are float32: the result is the float32 one, rounded."""
    torch.manual_seed(0)
    norm, x = RMSNorm(64, eps=1e-5), torch.randn(5, 64).bfloat16()
    wanted = norm(x.float()).bfloat16()  # the weight is one
    assert torch.equal(norm.bfloat16()(x), wanted)


def test_too_long_a_sequence_is_refused_with_both_lengths():
    """One position more than the context is a ValueError that names both numbers; the context itself is fine."""
    model = small_model(max_position_embeddings=9)
    assert model(random_ids(1, 9)).shape == (1, 9, SMALL["vocab_size"])
    with pytest.raises(ValueError, match=r"\b10\b.*\b9\b"):
        model(random_ids(1, 10))


@pytest.mark.parametrize(
    "changes, numbers",
    [
        ({"hidden_size": 34}, r"\b34\b.*\b4\b"),  # 34 / 4 is no integer
        ({"hidden_size": 36}, r"\b36\b.*\b4\b"),  # heads of 9 channels cannot be paired
        ({"num_key_value_heads": 3}, r"\b3\b.*\b4\b"),
        ({"num_key_value_heads": 8}, r"\b8\b.*\b4\b"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_their_numbers(changes, numbers):
    """Heads that don't divide the width into even parts, or key-value heads that don't divide the heads: ValueError."""
    with pytest.raises(ValueError, match=numbers):
        small_config(**changes)


def test_tied_embeddings_are_one_parameter():
    """With tie_word_embeddings the head's weight is the embedding's: one parameter, counted once."""
    tied, untied = small_model(tie_word_embeddings=True), small_model()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (tied, untied)]
    assert sizes[1] - sizes[0] == 17 * 32


def test_parameters_have_the_names_of_a_published_llama():
    """The state dict has the keys, and the (out, in) shapes, of a Llama checkpoint, and no others."""
    C, F, V, kv = 32, 40, 17, 16  # kv: 2 heads of 8 channels
    block = {
        "self_attn.q_proj": (C, C),
        "self_attn.k_proj": (kv, C),
        "self_attn.v_proj": (kv, C),
        "self_attn.o_proj": (C, C),
        "mlp.gate_proj": (F, C),
        "mlp.up_proj": (F, C),
        "mlp.down_proj": (C, F),
        "input_layernorm": (C,),
        "post_attention_layernorm": (C,),
    }
    wanted = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    wanted |= {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,), "lm_head.weight": (V, C)}
    assert {name: tuple(t.shape) for name, t in TinyLlama(small_config()).state_dict().items()} == wanted


def test_default_parameter_count_is_the_closed_form():
    """The default model has 2·V·C + L·(4·C² + 3·C·F + 2·C) + C parameters."""
    C, F, V, L = 128, 352, 128, 4
    count = sum(parameter.numel() for parameter in TinyLlama().parameters())
    assert count == 2 * V * C + L * (4 * C**2 + 3 * C * F + 2 * C) + C == 836_736


def test_a_new_model_starts_near_the_uniform_distribution():
    """At the start the loss is log V to within a few percent, because the weights are small."""
    torch.manual_seed(0)
    model, ids = TinyLlama(), torch.randint(128, (4, 64))
    loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    assert loss.item() == pytest.approx(math.log(128), rel=0.05)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_other_float_types_give_the_float64_logits_roughly(dtype, tolerance):
    """A model in float64, float32 or bfloat16 gives logits of its own type, near those in float64."""
    model, ids = small_model(), random_ids(2, 12)
    with torch.no_grad():
        wanted = model(ids)
        got = model.to(dtype)(ids)
    assert wanted.dtype == torch.float64 and got.dtype == dtype
    assert (got.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_a_training_step_runs_on_the_meta_device():
    """On the meta device a stray tensor of another device raises, so this step finds one without a GPU."""
    with torch.device("meta"):
        model = add_adapters(TinyLlama(small_config()), AdapterConfig(rank=2))
    ids = torch.zeros(2, 12, dtype=torch.long, device="meta")
    optimizer = torch.optim.AdamW(trainable_parameters(model))
    nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    optimizer.step()
    assert all(parameter.grad.is_meta for parameter in trainable_parameters(model))


def adapted_model() -> TinyLlama:
    """Adapters on all linear layers of a small model, with B far from zero."""
    model = add_adapters(small_model(), AdapterConfig(rank=2))
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            nn.init.normal_(layer.B, std=0.2)
    return model


def test_checkpointed_blocks_give_adapters_the_same_gradients():
    """Recomputing blocks in backward changes no gradient of A and B, though all that is in front of them is frozen."""
    model, ids = adapted_model(), random_ids(3, 12)

    def gradients() -> list[Tensor]:
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        return torch.autograd.grad(loss, trainable_parameters(model))

    wanted = gradients()
    runs = [0, 0]
    for i, block in enumerate(model.model.layers):
        plain = block.forward

        def recomputed(*inputs: Tensor, plain=plain, i=i) -> Tensor:
            def counted(*inputs: Tensor) -> Tensor:
                runs[i] += 1
                return plain(*inputs)

            return checkpoint(counted, *inputs, use_reentrant=False)

        block.forward = recomputed
    got = gradients()
    assert runs == [2, 2], "every block runs once forward and once more in backward"
    assert len(got) == 2 * 2 * 7 and all(gradient.abs().max() > 0 for gradient in wanted)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_a_checkpoint_with_scaled_positions_is_refused_and_one_with_the_config_s_own_loads(place):
    """Some files hold the frequencies: those of the config are taken for what they are, others are an error."""
    config = LlamaConfig(hidden_size=32, num_attention_heads=2, num_key_value_heads=2)
    model, state = TinyLlama(config), TinyLlama(config).state_dict()
    for dtype in (torch.float32, torch.bfloat16):
        model.load_state_dict(state | {place: frequencies(16, config.rope_theta).to(dtype)}, strict=True)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for wrong in (frequencies(16, 10000.0) / 8, frequencies(16, 500000.0), frequencies(8, 10000.0)):
        with pytest.raises(RuntimeError, match=f"{place} is not what rope_theta 10000.0 gives"):
            TinyLlama(config).load_state_dict(state | {place: wrong}, strict=False)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
