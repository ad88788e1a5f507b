"""Text to token ids and back, by the rule that a checkpoint brings along.

The pieces and the order in which they merge are the checkpoint's. What `tokenizers` adds is speed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

CONTROL, OURS = 3, 4  # GGUF's types of tokens that are matched as a whole: control, and user defined
NEEDS = ("tokens", "token_type", "merges", "eos_token_id")


@dataclass(frozen=True)
class Tokenizer:
    """`encode` and `decode`, and `eos`, the id that ends an answer. `template` is the checkpoint's own, as text."""

    rule: tokenizers.Tokenizer
    eos: int
    template: str | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Special tokens written in it, such as `<|im_end|>`, become the one id that they are."""
        return self.rule.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens written out."""
        return self.rule.decode(list(ids), skip_special_tokens=False)


def tokenizer_from_folder(path: Path, config: dict) -> Tokenizer:
    """The tokenizer.json of a Hugging Face folder. Raises ValueError if it is missing, or no end is named."""
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"{path} has no tokenizer.json; save the tokenizer there too (a fast one)")
    try:
        rule = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(f"{file} cannot be read ({error}); fetch it again") from None
    beside = path / "tokenizer_config.json"
    named = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    if end is None and isinstance(token := named.get("eos_token"), str):
        end = rule.token_to_id(token)
    if end is None:
        raise ValueError(f"{path} names no eos_token_id in config.json: nothing would end an answer")
    template = path / "chat_template.jinja"
    return Tokenizer(
        rule, end, template.read_text(encoding="utf-8") if template.is_file() else named.get("chat_template")
    )


def tokenizer_from_fields(path: Path, fields: dict) -> Tokenizer:
    """The tokenizer in a GGUF file's fields: byte-level BPE with the cuts that its `pre` names.

    Known is "smollm": every number character stands alone, then GPT-2's cuts. Raises ValueError for another one.
    """
    kind, cuts = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or cuts != "smollm":
        raise ValueError(f"{path}: its tokenizer is {kind!r} with the cuts {cuts!r}; this knows gpt2 with smollm alone")
    if missing := [name for name in NEEDS if f"tokenizer.ggml.{name}" not in fields]:
        raise ValueError(f"{path} does not say tokenizer.ggml.{missing[0]}")
    pieces, types, merges, eos = (fields[f"tokenizer.ggml.{name}"] for name in NEEDS)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    rule = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [tuple(pair.split(" ")) for pair in merges]))
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    by_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    rule.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, by_bytes])
    rule.decoder = tokenizers.decoders.ByteLevel()
    for piece, kind in zip(pieces, types, strict=True):
        if kind in (CONTROL, OURS):
            rule.add_special_tokens([tokenizers.AddedToken(piece, normalized=False, special=True)])
    return Tokenizer(rule, eos, fields.get("tokenizer.chat_template"))
