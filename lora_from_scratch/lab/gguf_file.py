"""One GGUF file: a Llama's sizes, its weights under our names, its tokenizer.

GGUF is llama.cpp's format. It has names of its own, keeps the rows of q and k in another order, and often keeps weights
in few bits; here they are decoded to float32.
"""

from pathlib import Path

import torch
from torch import Tensor

from lora_from_scratch.lab.llama import LlamaConfig
from lora_from_scratch.lab.tokens import Tokenizer, tokenizer_from_fields

# GGUF's names -> ours, inside a block and outside
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def our_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight. A name that is not known is given back."""
    stem, _, end = name.rpartition(".")
    if stem.startswith("blk."):
        _, block, part = stem.split(".", 2)
        return f"model.layers.{block}.{IN_BLOCK[part]}.{end}" if part in IN_BLOCK else name
    return f"{OUTSIDE[stem]}.{end}" if stem in OUTSIDE else name


def in_halves(weight: Tensor, heads: int) -> Tensor:
    """q's or k's rows from GGUF's order into ours, (out, in) -> the same shape.

    Rotary positions turn pairs of channels. GGUF keeps the two of a pair side by side, we keep them half a head apart.
    """
    out, into = weight.shape
    return weight.view(heads, out // heads // 2, 2, into).transpose(1, 2).reshape(out, into)


def read_gguf(path: Path) -> tuple[LlamaConfig, dict[str, Tensor], Tokenizer, str]:
    """(sizes, {our name: weight in float32}, tokenizer, how the weights were kept). ValueError as in checkpoint.py.

    A tensor that a plain Llama has not is given under its own name, and one of a wrong shape as it is.
    """
    import gguf

    try:  # the reader finds every tensor's bytes at once; what it raises for a file that is cut off depends on where
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:
        raise ValueError(f"{path} is no GGUF file, or cut off ({error}); fetch it again") from None
    if (family := fields.get("general.architecture")) != "llama":
        raise ValueError(f"{path} holds a model of the architecture {family!r}; this reads llama alone")
    names = {tensor.name for tensor in reader.tensors}
    if "rope_freqs.weight" in names or fields.get("llama.rope.scaling.type", "none") != "none":
        raise ValueError(f"{path}: its rotary positions are scaled, which this Llama does not do")
    config = _config_from_fields(path, fields, tied="output.weight" not in names)
    state = {}
    for tensor in reader.tensors:
        try:  # decoded into new memory; plain float32 comes as read-only memory of the file
            values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        except (NotImplementedError, ValueError) as error:
            kind = tensor.tensor_type.name
            raise ValueError(f"{path}: {tensor.name} is {kind}, which gguf cannot decode here ({error})") from None
        for part, heads in (("attn_q.", config.num_attention_heads), ("attn_k.", config.num_key_value_heads)):
            if f".{part}" in tensor.name and values.ndim == 2 and len(values) % (2 * heads) == 0:
                values = in_halves(values, heads)
        state[our_name(tensor.name)] = values
    kept = ", ".join(sorted({tensor.tensor_type.name for tensor in reader.tensors}))
    return config, state, tokenizer_from_fields(path, fields), f"{kept}, decoded to float32"


def _config_from_fields(path: Path, fields: dict, tied: bool) -> LlamaConfig:
    try:
        wide, heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
        if (turned := fields.get("llama.rope.dimension_count", wide // heads)) != wide // heads:
            raise ValueError(f"{path}: positions turn {turned} channels of a head, and this Llama turns all of them")
        return LlamaConfig(
            len(fields["tokenizer.ggml.tokens"]),
            wide,
            fields["llama.feed_forward_length"],
            fields["llama.block_count"],
            heads,
            fields.get("llama.attention.head_count_kv", heads),
            fields["llama.context_length"],
            fields["llama.attention.layer_norm_rms_epsilon"],
            fields.get("llama.rope.freq_base", 10000.0),
            tied,
        )
    except KeyError as error:
        raise ValueError(f"{path} does not say {error}") from None
