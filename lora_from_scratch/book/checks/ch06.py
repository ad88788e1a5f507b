"""The exercises of chapter 06: bytes by hand, what a layer keeps, the longest sequence, the upper blocks alone."""

import math
import re

import torch
from torch import nn

from lora_from_scratch import AdapterConfig, add_adapters
from lora_from_scratch.analysis.counting import ALL_LINEAR, MODELS
from lora_from_scratch.analysis.memory import BFLOAT16, STATE32, training_bytes
from lora_from_scratch.analysis.peaks import logits_bytes
from lora_from_scratch.book.checks.common import RIGHT, STUB, call, not_yet, number
from lora_from_scratch.lab.llama import LlamaConfig, TinyLlama
from lora_from_scratch.targets import find_targets

CONFIG = LlamaConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=12, num_attention_heads=2, num_key_value_heads=2
)
CARD, FACTOR, STEP, RANK = 23028 * 2**20, 1.1, 64, 64


def check_bytes(function) -> str:
    """The reader's bytes of (base, added): 2 · base + 12 · added."""
    for base, added in ((1000, 10), (70_001, 13)):
        found, problem = call(function, base, added)
        if problem or found is None:
            return problem or STUB
        mistakes = {
            2 * base: "the adapters are missing: weights, gradients and two states each",
            2 * base + 10 * added: "the adapters' own weights are missing, or their gradients",
            2 * base + 8 * added: "AdamW keeps two states of 4 bytes; and there are weights and gradients besides",
            2 * base + 4 * added: "AdamW's two states are missing, 4 bytes each",
            2 * base + 6 * added: "AdamW's states take 4 bytes each here, and not 2; or one of the two is missing",
            12 * (base + added): "that is full fine-tuning: frozen weights have no gradient and no state",
            4 * base + 12 * added: "a frozen weight takes 2 bytes: 4 would be float32, or a gradient it does not have",
            0.5 * base + 12 * added: "the base is in 16 bits here, and not in 4",
            4 * base + 16 * added: "everything but the states is in 16 bits here, and not in float32",
            12 * added: "the frozen base is still in memory",
            2 * base + 16 * added: "no second copy of the weights is kept here",
        }
        got = number(found)
        if got != 2 * base + 12 * added:
            return not_yet(mistakes.get(got, "2 bytes for each frozen weight, and 2 + 2 + 4 + 4 for each trained one"))
    return RIGHT


def kept(N: int, d_in: int, d_out: int, r: int) -> int:
    """How many numbers autograd really keeps for one adapted layer, weights not counted."""
    layer = add_adapters(nn.Sequential(nn.Linear(d_in, d_out, bias=False)), AdapterConfig(rank=r, targets=["0"]))
    own, found = {p.data_ptr() for p in layer.parameters()}, {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.update({t.data_ptr(): t}) or t, lambda t: t):
        layer(torch.zeros(N, d_in, requires_grad=True))
    return sum(t.untyped_storage().nbytes() // 4 for address, t in found.items() if address not in own)


def check_kept(function) -> str:
    """The reader's count of (N, d_in, d_out, r): N · (d_in + r)."""
    N, d_in, d_out, r = sizes = 5, 24, 40, 3
    found, problem = call(function, *sizes)
    if problem or found is None:
        return problem or STUB
    with torch.random.fork_rng():
        right = kept(*sizes)
    mistakes = {
        N * d_in: "and what does B need for its gradient?",
        N * r: "and what does A need for its gradient?",
        N * (d_in + d_out): "nobody needs the output; B reads something of width r",
        N * (2 * d_in + r): "the frozen W keeps no x of its own, and a tensor that two use is still one tensor",
        N * (d_in + r + d_out): "nobody needs the output for a gradient",
        N * (d_in + 2 * r): "A x before the scaling is not needed: only what B reads is kept",
        N * (d_in + r) * 4: "that is bytes; numbers are asked for",
        d_in + r: "that is for one row; there are N",
        r * (d_in + d_out): "those are the weights of the adapter, which are not counted",
    }
    got = number(found)
    return RIGHT if got == right else not_yet(mistakes.get(got, "which two tensors stand in the gradients of A and B?"))


def bytes_at(tokens: int, wrapped: bool, precision=STATE32, logits: bool = True, method: str = "lora") -> float:
    """What is planned for a LoRA step of LLaMA-7B, batch 1, rank RANK, all linear layers."""
    llama = MODELS["LLaMA-7B"]
    parts = training_bytes(llama, method, 1, tokens, RANK, precision=precision, checkpoint=wrapped)
    return parts.total + logits * logits_bytes(llama.vocabulary, tokens)


def longest(wrapped: bool, room: float = CARD / FACTOR, **options) -> int:
    """The largest multiple of STEP tokens that fits into `room` bytes, 0 if none does."""
    low, high = 0, 1
    while bytes_at(high * STEP, wrapped, **options) <= room:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_at(middle * STEP, wrapped, **options) <= room else (low, middle)
    return low * STEP


def check_lengths(answer) -> str:
    """{"plain": …, "checkpointing": …}: the longest sequence, to the STEP tokens below."""
    if not isinstance(answer, dict) or set(answer) != {"plain", "checkpointing"}:
        return not_yet('give both numbers: {"plain": …, "checkpointing": …}')
    if any(length is None for length in answer.values()):
        return STUB
    told = []
    for name, wrapped in (("plain", False), ("checkpointing", True)):
        n = number(answer[name])
        if n is None or not math.isfinite(n) or n != int(n) or n < 1:
            return not_yet(f"{name}: a length is a whole number of tokens, at least 1")
        if longest(wrapped) <= n < longest(wrapped) + STEP:
            continue
        mistakes = {
            longest(wrapped, CARD): "that leaves nothing free; 1.1 times the plan must fit",
            longest(wrapped, 0.9 * CARD): "that takes nine tenths of the card; divide by 1.1",
            longest(wrapped, logits=False): "the logits' term is missing: use planned",
            longest(wrapped, CARD, logits=False): "the logits' term is missing, and the factor 1.1",
            longest(wrapped, 24e9 / FACTOR): "the card has 23,028 MiB, which are not 24 · 10⁹ bytes",
            longest(wrapped, 24e9): "the card has 23,028 MiB, and 1.1 times the plan must fit",
            longest(wrapped, 24 * 2**30 / FACTOR): "the card has 23,028 MiB, which are not 24 · 2³⁰ bytes",
            longest(wrapped, 23028e6 / FACTOR): "a MiB is 2²⁰ bytes, and not 10⁶",
            longest(wrapped, precision=BFLOAT16): "that is with the state in 16 bits; use precision=STATE32",
            longest(wrapped, method="qlora"): "that is QLoRA's",
            longest(not wrapped): f"that is the other one's; is checkpoint={wrapped} set?",
        }
        here = n // STEP * STEP
        if here in mistakes:
            told.append(f"{name}: {mistakes[here]}")
        else:
            side = "too long" if n > longest(wrapped) else "there is room"
            needs = f"{FACTOR:g} times the plan is {FACTOR * bytes_at(int(n), wrapped) / 1e9:.2f} GB"
            told.append(f"{name}: {side}; at {int(n):,} tokens {needs}, and the card has {CARD / 1e9:.2f}")
    return not_yet("; ".join(told)) if told else RIGHT


def check_upper(pattern) -> str:
    """An expression for the whole names of the linear layers in blocks 6 to 11 of 12, and of no other."""
    if pattern is None:
        return STUB
    if not isinstance(pattern, str):
        return not_yet("give one string, a regular expression")
    with torch.random.fork_rng():
        model = TinyLlama(CONFIG)
    names = [name for name in find_targets(model, "all-linear")] + ["lm_head"]
    try:
        found = [name for name in names if re.fullmatch(pattern, name)]
        inside = [name for name in names if re.search(pattern.removeprefix("^").removesuffix("$"), name)]
    except (re.error, OverflowError, RecursionError) as error:
        return not_yet(f"that is no regular expression: {error}")
    half, blocks = CONFIG.num_hidden_layers // 2, CONFIG.num_hidden_layers
    wanted = [name for name in names if name != "lm_head" and int(name.split(".")[2]) >= half]
    if found == wanted:
        return RIGHT
    if not found and inside:
        return not_yet(
            "it matches a part of names; it has to match the *whole* name, so put .* where anything may stand"
        )
    if not found:
        return not_yet(f"it matches no layer; it has to match a *whole* name, such as {wanted[-1]}")
    here = sorted({int(name.split(".")[2]) for name in found if name != "lm_head"})
    if "lm_head" in found:
        return not_yet("the head matches too")
    if any(block < half for block in here):
        return not_yet(f"blocks {here} match; the lower half, below {half}, should have none")
    if here != list(range(half, blocks)):
        return not_yet(f"blocks {here} match, and {half} to {blocks - 1} should: numbers of two digits, too")
    return not_yet(f"{len(found)} layers match; {len(ALL_LINEAR)} in each of the upper {blocks - half} blocks should")
