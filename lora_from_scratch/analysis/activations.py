"""What the forward pass of a Llama keeps for backward, in closed form, to the byte.

Those of lab/llama.py, each storage once: what a product's gradient needs of its inputs, what norms, the activation and
attention keep of theirs. Attention keeps no T × T matrix (arXiv 2205.14135). A gradient passes through every layer on
its way to the first adapter, so little of this depends on what is trained. Checkpointing (arXiv 1604.06174) keeps the
input of each block, and runs the block again in backward.

This file imports nothing of the project: copy it and it runs.
"""

from collections import namedtuple

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
Sizes = namedtuple("Sizes", "layers width mlp vocabulary heads head q kv tied")  # q and kv: widths of q and of k, v


def shapes_of(m: Sizes) -> dict[str, tuple[int, int]]:
    """The (out, in) shape of each linear layer of a block, and of the head, by name."""
    C, M, Q = m.width, m.mlp, m.q
    sizes = ((Q, C), (m.kv, C), (m.kv, C), (C, Q), (M, C), (M, C), (C, M), (m.vocabulary, C))  # (out, in)
    return dict(zip((*ATTENTION, *MLP, "lm_head"), sizes, strict=True))


def kept(
    m: Sizes, s: int, tokens: int, length: int, trained: set[str], rank: int, wide: int = 0, checkpoint: bool = False
) -> int:
    """Bytes that forward keeps for backward; with `checkpoint`, the most there is at a time.

    Args:
        m: the sizes. s: bytes of an activation. tokens, length: in a step, and in a sequence.
        trained: the names of the layers with adapters, of `rank`; rank 0: all weights are trained.
        wide: bytes of A and B. Where they are wider than s, each adapter keeps a copy of its input that wide.
    """
    wide = max(wide, s)
    norm = max(4, s) * (m.width + 1) + m.width * s * (rank == 0)  # x and 1 / rms in float32; x / rms for the weight
    into = rank == 0  # whether a gradient flows on into the input of the first block, then of the last
    first, flows = last, _ = _block(m, s, wide, trained, rank, norm, into)
    last, into = (_block(m, s, wide, trained, rank, norm, flows)[0], flows) if m.layers > 1 else (last, into)
    head = norm * flows + (m.width + rank) * wide * ("lm_head" in trained) + 4 * m.vocabulary  # log-probabilities
    a_token = first + (m.layers - 1) * last + head
    if checkpoint:  # all inputs, and the head or the last block; in float32 its norm keeps its input itself
        a_token = m.layers * m.width * s + max(head, last - m.width * s * (s >= 4 and into))
    turned = checkpoint or into or bool(trained & {"q_proj", "k_proj"})
    return tokens * a_token + 2 * length * m.head * s * turned + 4  # cos and sin; one number of the loss


def _block(m: Sizes, s: int, wide: int, trained: set, rank: int, norm: int, flows: bool) -> tuple[int, bool]:
    """Bytes a token that a block keeps; whether its output needs a gradient, as its input does if `flows`."""
    C, M = m.width, m.mlp
    qkv, gate_up = bool(trained & {"q_proj", "k_proj", "v_proj"}), bool(trained & {"gate_proj", "up_proj"})
    attention = flows or qkv
    middle = attention or "o_proj" in trained
    gate, up, down = middle or "gate_proj" in trained, middle or "up_proj" in trained, "down_proj" in trained
    if wide > s:  # each adapter reads a copy of its own
        copies = {"o_proj": m.q, "down_proj": M}
        read = {name: copies.get(name, C) * wide for name in trained - {"lm_head"}}
    else:  # what q, k and v read is one tensor, as is what gate and up read; o reads attention's result, if kept
        read = {"qkv": C * s * qkv, "o": m.q * s * (middle and not attention), "gate_up": C * s * gate_up}
        read |= {"down": M * s * down}
    kept = norm * flows + sum(read.values())
    kept += (4 * m.q * s + max(4, s) * m.heads) * attention  # q, k, v, the result; log of the softmax's sum
    kept += norm * middle + 2 * M * s * gate + M * s * up  # gate, silu(gate); up
    return kept + rank * wide * len(trained - {"lm_head"}), middle or gate_up or down  # s · A x of each adapter
