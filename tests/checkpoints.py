"""Small checkpoints on disk for tests: grouped heads and a byte-level tokenizer, as a GGUF file and as a folder."""

import json
from pathlib import Path

import gguf
import tokenizers
import torch
from safetensors.torch import save_file

from lora_from_scratch.lab.gguf_file import IN_BLOCK, OUTSIDE
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "Ġ a", "1 2", "Ġ Ġ", "ĠĠ ĠĠ", "a n", "an d", "o r", "Ã ©"]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def pieces() -> list[str]:
    """Special tokens, all 256 bytes in byte-level BPE's letters, and what the merges make."""
    return SPECIAL + sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()) + [pair.replace(" ", "") for pair in MERGES]


def small_llama(tied: bool = False, kv_heads: int = 2) -> TinyLlama:
    """Random weights, norms far from one, grouped heads, and constants that are nobody's defaults."""
    torch.manual_seed(0)
    config = LlamaConfig(
        len(pieces()), **SIZES, num_key_value_heads=kv_heads, max_position_embeddings=48, rms_norm_eps=2**-10,
        rope_theta=500.0, tie_word_embeddings=tied,
    )  # fmt: skip
    model = TinyLlama(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1.0)
    return model.eval()


def side_by_side(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as GGUF keeps them, by a slow loop: of each head, channel i and channel i + D/2 next to each other."""
    size = len(weight) // heads
    order = [h * size + i + half for h in range(heads) for i in range(size // 2) for half in (0, size // 2)]
    return weight[order].clone()


def gguf_fields(model: TinyLlama) -> dict:
    """{field: (how the writer calls its kind, value)} of a whole file."""
    c = model.config
    numbers = {"embedding_length": c.hidden_size, "feed_forward_length": c.intermediate_size, "block_count":
               c.num_hidden_layers, "attention.head_count": c.num_attention_heads, "attention.head_count_kv":
               c.num_key_value_heads, "context_length": c.max_position_embeddings, "rope.dimension_count":
               c.hidden_size // c.num_attention_heads}  # fmt: skip
    fields = {f"llama.{name}": ("uint32", value) for name, value in numbers.items()}
    fields |= {"llama.attention.layer_norm_rms_epsilon": ("float32", c.rms_norm_eps)}
    fields |= {"llama.rope.freq_base": ("float32", c.rope_theta)}
    fields |= {"tokenizer.ggml.model": ("string", "gpt2"), "tokenizer.ggml.pre": ("string", "smollm")}
    fields |= {"tokenizer.ggml.tokens": ("array", pieces()), "tokenizer.ggml.merges": ("array", MERGES)}
    types = [3] * len(SPECIAL) + [1] * (len(pieces()) - len(SPECIAL))
    fields |= {"tokenizer.ggml.token_type": ("array", types), "tokenizer.ggml.eos_token_id": ("uint32", 2)}
    return fields | {"tokenizer.chat_template": ("string", "a template")}


def gguf_tensors(model: TinyLlama) -> dict[str, torch.Tensor]:
    """{GGUF's name: weight in GGUF's order}; a tied head stands once."""
    c, found = model.config, {}
    names = {f"model.layers.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight"
             for i in range(c.num_hidden_layers) for theirs, ours in IN_BLOCK.items()}  # fmt: skip
    names |= {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in OUTSIDE.items()}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(name.split(".")[-2])
        found[names[name]] = side_by_side(tensor, heads) if heads else tensor
    return found


def write_gguf(path: Path, fields: dict, tensors: dict, kinds: dict | None = None, family: str = "llama") -> Path:
    """A GGUF file; `kinds` is {tensor: a quantization}, plain float32 otherwise."""
    writer = gguf.GGUFWriter(path, family)
    for name, (kind, value) in fields.items():
        getattr(writer, f"add_{kind}")(name, value)
    for name, tensor in tensors.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, tensor.numpy())
        else:
            writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def folder_config(model: TinyLlama) -> dict:
    return {"model_type": "llama", "hidden_act": "silu", "eos_token_id": 2, **vars(model.config)}


def small_rule() -> tokenizers.Tokenizer:
    """The tokenizer of the small checkpoints, made by hand."""
    merges = [tuple(pair.split(" ")) for pair in MERGES]
    rule = tokenizers.Tokenizer(tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces())}, merges))
    rule.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rule.decoder = tokenizers.decoders.ByteLevel()
    rule.add_special_tokens(SPECIAL)
    return rule


def write_folder(path: Path, model: TinyLlama, config: dict | None = None, files: int = 1) -> Path:
    """A Hugging Face folder, its weights in so many files; a tied head stands once."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config or folder_config(model)), encoding="utf-8")
    small_rule().save(str(path / "tokenizer.json"))
    state = {n: t.clone() for n, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    for i in range(files):
        save_file({n: state[n] for n in sorted(state)[i::files]}, path / f"model-{i}.safetensors")
    return path
