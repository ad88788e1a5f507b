"""Short lessons on a small random Llama with a tokenizer of bytes, which stands in for the real model."""

import torch
from checkpoints import SIZES, pieces, small_rule

from lora_from_scratch import AdapterConfig
from lora_from_scratch.lab import corpus
from lora_from_scratch.lab.adapt import Lesson
from lora_from_scratch.lab.checkpoint import Checkpoint
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.lab.tokens import Tokenizer

TEXTS = {
    "train": "in the land and the sea, or the other way round. " * 60,
    "held_out": "the end and the beginning. " * 40,
}
LORA = AdapterConfig(rank=2, alpha=8)
SHORT = Lesson(adapter=LORA, lr=1e-2, seed=1, steps=2, batch=2, held=4, spoken=2, windows=2, keep=True)


def small_checkpoint(tmp_path, monkeypatch) -> Checkpoint:
    monkeypatch.setenv("LORA_BUILD", str(tmp_path))
    monkeypatch.setattr(corpus, "corpus", lambda: TEXTS)
    monkeypatch.setattr(corpus, "corpus_hash", lambda: "made up")
    torch.manual_seed(0)
    model = TinyLlama(LlamaConfig(len(pieces()), **SIZES, num_key_value_heads=2, max_position_embeddings=512))
    return Checkpoint(model.eval(), Tokenizer(small_rule(), eos=2), "small")


def numbers(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in ("seconds", "step_seconds", "state")}
