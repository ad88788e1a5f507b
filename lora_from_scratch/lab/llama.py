"""A Llama in plain torch: RMSNorm, rotary positions, grouped-query attention, SwiGLU (arXiv 2302.13971, section 2.2).

Every field and every parameter has the name it has in `transformers`, so a state dict of one loads into the
other as it is. What works on this model works on a real checkpoint.

Shapes below: B batch, T positions, C hidden size, H heads, K key-value heads (K divides H), D = C / H, V vocabulary.
This file imports nothing of the project: copy it and it runs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a Llama, named as in `transformers.LlamaConfig`. Raises ValueError if they don't fit."""

    vocab_size: int = 128
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):  # rotary positions turn pairs of a head's channels
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of num_attention_heads {heads}")
        if heads % kv_heads:
            raise ValueError(f"num_key_value_heads {kv_heads} must divide num_attention_heads {heads}")


class RMSNorm(nn.Module):
    """x / rms(x) · weight, the rms over the last dimension, in float32 at least. (..., C) -> (..., C)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * F.rms_norm(wide, self.weight.shape, eps=self.eps).to(x.dtype)


def frequencies(head_size: int, theta: float) -> Tensor:
    """1 / theta^(2i/D), the angle that pair i turns by from one position to the next, (D/2,) in float32."""
    return 1.0 / theta ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)


def rotary(positions: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position · frequency, each (T, D) in float32, the D/2 angles written twice."""
    angles = positions.float()[:, None] * frequencies(head_size, theta).to(positions.device)  # (T, D/2)
    angles = torch.cat((angles, angles), dim=-1)  # (T, D)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i of x together with channel i + D/2 by its position's angle. (B, H, T, D) -> the same."""
    left, right = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    """Causal attention with K key-value heads shared by H query heads. (B, T, C) -> (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        kv_size = self.head_size * config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_size).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(B, T, -1, self.head_size).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(B, T, -1, self.head_size).transpose(1, 2)  # (B, K, T, D)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = q.shape[1] // k.shape[1]
        if group > 1:  # every key-value head serves `group` query heads
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (B, H, T, D)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        return self.o_proj(h.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)). (B, T, C) -> (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then the MLP, each on a normalized copy and added back. (B, T, C) -> (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks, last norm. Token ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        T, config = input_ids.shape[1], self.config
        if T > config.max_position_embeddings:
            raise ValueError(f"{T} positions are more than max_position_embeddings, {config.max_position_embeddings}")
        x = self.embed_tokens(input_ids)  # (B, T, C)
        positions = torch.arange(T, device=x.device)
        cos, sin = rotary(positions, config.hidden_size // config.num_attention_heads, config.rope_theta)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # (T, D), computed in float32
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def _load_from_state_dict(self, state: dict, prefix: str, *rest) -> None:
        """Some checkpoints hold the frequencies: the config's own are dropped, others (scaled positions) an error."""
        own = frequencies(self.config.hidden_size // self.config.num_attention_heads, self.config.rope_theta)
        for key in [key for key in state if key.startswith(prefix) and key.endswith("rotary_emb.inv_freq")]:
            given = state.pop(key).float().cpu()
            if given.shape != own.shape or not torch.allclose(given, own, rtol=0.01, atol=0):
                rest[-1].append(
                    f"{key} is not what rope_theta {self.config.rope_theta} gives: scaled, or another theta"
                )
        super()._load_from_state_dict(state, prefix, *rest)


class TinyLlama(nn.Module):
    """Token ids (B, T) -> logits (B, T, V). Raises ValueError for a sequence longer than the context.

    Weights start normal with standard deviation 0.6 / sqrt(C), and those that add to the residual stream smaller by
    sqrt(2 · layers), so that the stream keeps its size with depth. At this width that trains much faster than the
    0.02 that `transformers` starts from.
    """

    def __init__(self, config: LlamaConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LlamaConfig()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        std = 0.6 / config.hidden_size**0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=std / (2 * config.num_hidden_layers) ** 0.5 if into_stream else std)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.model(input_ids))
