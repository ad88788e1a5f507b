"""Text from a Llama, token by token, with a key-value cache.

Without a cache, every new token costs a forward pass over the whole text so far. But the keys and values of old
positions never change, since attention looks back only. So they are kept, and a new token costs one position. The
model's own forward stays as it reads; the one here gives the same numbers, and a test holds the two together.

Shapes: B rows of the batch, T positions fed, L positions that there is room for, H and K heads of queries and of keys
and values, D channels a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_from_scratch.lab.llama import Attention, TinyLlama, rotary, rotate


@torch.no_grad()
def generate(
    model: TinyLlama,
    ids: Sequence[Sequence[int]],
    new_tokens: int,
    temperature: float = 0.0,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Go on from each prompt of a batch by at most `new_tokens` tokens: the new ids alone, one list a prompt.

    Args:
        ids: prompts, lists of token ids; their lengths may differ.
        temperature: 0 takes the likeliest token; above it, tokens are drawn from softmax(logits / temperature).
        stop: ids that end a text; the one that does is the last of its list.
        generator: what tokens are drawn with; None is a new one, seeded with 0. torch's own random state is not used.

    Raises ValueError for an empty prompt, an id outside the vocabulary, a negative temperature or count, and a prompt
    that with its answer is longer than the model's context.
    """
    prompts = [[int(i) for i in prompt] for prompt in ids]
    _check(model, prompts, new_tokens, temperature)
    if not prompts or new_tokens == 0:
        return [[] for _ in prompts]
    device, lengths = model.lm_head.weight.device, torch.tensor([len(prompt) for prompt in prompts])
    generator = generator or torch.Generator(device).manual_seed(0)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        cache = Cache(model, len(prompts), int(lengths.max()) + new_tokens)
        logits = _read(model, prompts, cache)
        found: list[list[int]] = [[] for _ in prompts]
        for step in range(new_tokens):
            chosen = _choose(logits, temperature, generator)  # (B,)
            for row, token in zip(found, chosen.tolist(), strict=True):
                if not row or row[-1] not in stop:
                    row.append(token)
            if step + 1 == new_tokens or all(row[-1] in stop for row in found):
                return found
            logits = _forward(model, chosen[:, None], (lengths + step)[:, None], cache, slice(None))
    finally:  # interrupted too, every part is in the mode that it was in
        for module, mode in modes.items():
            module.training = mode
    return found


def _read(model: TinyLlama, prompts: list[list[int]], cache: "Cache") -> Tensor:
    """The logits after each prompt, (B, V). Each is read alone, so there is no padding anywhere. Fills the cache."""
    after = []
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt], device=model.lm_head.weight.device)  # (1, T)
        after.append(_forward(model, ids, torch.arange(len(prompt))[None], cache, slice(i, i + 1)))
    return torch.cat(after)


class Cache:
    """Room for the keys and values of every layer, each (B, K, L, D)."""

    def __init__(self, model: TinyLlama, rows: int, room: int) -> None:
        config, like = model.config, model.model.embed_tokens.weight
        shape = (rows, config.num_key_value_heads, room, config.hidden_size // config.num_attention_heads)
        self.keys = [like.new_zeros(shape) for _ in model.model.layers]
        self.values = [like.new_zeros(shape) for _ in model.model.layers]


def _forward(model: TinyLlama, ids: Tensor, positions: Tensor, cache: Cache, rows: slice) -> Tensor:
    """Ids (B, T) at these positions (B, T) -> the logits after the last one, (B, V). Fills the cache's `rows`."""
    config, x = model.config, model.model.embed_tokens(ids)  # (B, T, C)
    positions = positions.to(x.device)
    cos, sin = rotary(positions.flatten(), config.hidden_size // config.num_attention_heads, config.rope_theta)
    cos, sin = (table.to(x.dtype).view(len(ids), 1, -1, table.shape[-1]) for table in (cos, sin))  # (B, 1, T, D)
    for layer, keys, values in zip(model.model.layers, cache.keys, cache.values, strict=True):
        x = x + _attend(layer.self_attn, layer.input_layernorm(x), cos, sin, positions, keys[rows], values[rows])
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x[:, -1]))


def _attend(
    a: Attention, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """What `Attention` computes for the new positions, over all that are kept. Writes theirs, (B, T, C) -> the same."""
    B, T, _ = x.shape
    q = a.q_proj(x).view(B, T, -1, a.head_size).transpose(1, 2)  # (B, H, T, D)
    k = a.k_proj(x).view(B, T, -1, a.head_size).transpose(1, 2)  # (B, K, T, D)
    v = a.v_proj(x).view(B, T, -1, a.head_size).transpose(1, 2)  # (B, K, T, D)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    row = torch.arange(B, device=x.device)[:, None]
    keys[row, :, positions] = k.transpose(1, 2)  # each row writes at its own positions
    values[row, :, positions] = v.transpose(1, 2)
    seen = torch.arange(keys.shape[2], device=x.device) <= positions[:, None, :, None]  # (B, 1, T, L), none ahead
    group = q.shape[1] // keys.shape[1]
    all_keys, all_values = (kept.repeat_interleave(group, dim=1) for kept in (keys, values))  # (B, H, L, D)
    h = F.scaled_dot_product_attention(q, all_keys, all_values, attn_mask=seen)
    return a.o_proj(h.transpose(1, 2).reshape(B, T, -1))


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token a row, (B, V) -> (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(shares, 1, generator=generator)[:, 0]


def _check(model: TinyLlama, prompts: list[list[int]], new_tokens: int, temperature: float) -> None:
    size, context = model.config.vocab_size, model.config.max_position_embeddings
    if new_tokens < 0:
        raise ValueError(f"new_tokens is {new_tokens!r}; it is how many to add, so 0 or more")
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature!r}; it is 0 or more")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i} is empty; begin with one token at least")
        if wrong := [token for token in prompt if not 0 <= token < size]:
            raise ValueError(f"prompt {i} holds the id {wrong[0]}; this vocabulary has ids from 0 to {size - 1}")
        if len(prompt) + new_tokens > context:
            raise ValueError(f"prompt {i} has {len(prompt)} tokens, and with {new_tokens} more it is longer than the "
                             f"context, {context}; shorten it, or ask for fewer")  # fmt: skip
