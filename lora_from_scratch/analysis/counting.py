"""How many parameters adapters add, from the shapes of the matrices alone (arXiv 2106.09685, section 4.2).

    LoRA on a matrix of shape (out, in):   A (r, in), B (out, r)            r · (in + out)
    DoRA (arXiv 2402.09353, section 4.1):  one magnitude an output besides  r · (in + out) + out

A `Transformer` is a handful of sizes. It lists the shapes of its matrices under the names they have in
`transformers`, so the same targets name the same layers here and on a real model, and it gives the total of a
Llama's parameters in closed form. `MODELS` holds the published models that the book counts.

Every shape is (out, in), as PyTorch stores a weight. This file imports nothing of the project: copy it and it runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ATTENTION + MLP  # all but the output head, lm_head

Shapes = Iterable[tuple[int, int]]


def lora_parameters(shapes: Shapes, rank: int) -> int:
    """r · (in + out), summed over the adapted matrices.

    Args:
        shapes: one (out, in) pair for each adapted matrix; a matrix that occurs 32 times is listed 32 times.
        rank: r, the same for all.

    Raises:
        ValueError: for a rank that is no integer of at least 1, no shapes, or one that is no pair of positive integers.
    """
    if not _is_count(rank):
        raise ValueError(f"rank is {rank!r}; it must be an integer of at least 1")
    return int(rank) * sum(d_out + d_in for d_out, d_in in _checked(shapes))


def dora_parameters(shapes: Shapes, rank: int) -> int:
    """LoRA's parameters and a magnitude for each output of each matrix. Raises ValueError as `lora_parameters`."""
    shapes = _checked(shapes)
    return lora_parameters(shapes, rank) + sum(d_out for d_out, _ in shapes)


def rank_for_budget(shapes: Shapes, budget: int) -> int:
    """The rank, at least 1, whose LoRA on these matrices comes nearest to `budget`. Raises ValueError likewise."""
    if not _is_count(budget):
        raise ValueError(f"budget is {budget!r}; it must be an integer of at least 1")
    return max(1, round(budget / lora_parameters(shapes, rank=1)))


def prints_as(value: float, printed: str) -> bool:
    """Whether `value` may be printed as `printed`: rounded, or cut off, to the digits that `printed` shows.

    >>> prints_as(18.874368, "18.9"), prints_as(18.874368, "18.8"), prints_as(18.874368, "18.7")
    (True, True, False)
    """
    last_digit = Decimal(1).scaleb(Decimal(printed).as_tuple().exponent)
    off = Decimal(value) - Decimal(printed)
    return -last_digit / 2 <= off < last_digit


@dataclass(frozen=True)
class Transformer:
    """The sizes of a decoder in the manner of Llama; of models of other kinds, those of their attention alone.

    Args:
        layers: how many blocks. For an encoder-decoder, how many attention modules.
        width: the hidden size. q and o are (width, width).
        kv: the width of k and v, which is smaller under grouped-query attention. None: as wide as q.
        mlp: the width inside the MLP, whose matrices are gate, up and down. None: not described.
        vocabulary: rows of the embedding and of the output head. None: not described.
        tied: whether the head is the embedding's own matrix.
    """

    layers: int
    width: int
    kv: int | None = None
    mlp: int | None = None
    vocabulary: int | None = None
    tied: bool = False

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The (out, in) shape of each linear layer of one block, and of the head, by name."""
        d, kv = self.width, self.kv or self.width
        found = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, d)}
        if self.mlp:
            found |= {"gate_proj": (self.mlp, d), "up_proj": (self.mlp, d), "down_proj": (d, self.mlp)}
        if self.vocabulary:
            found["lm_head"] = (self.vocabulary, d)
        return found

    def shapes(self, targets: Iterable[str]) -> list[tuple[int, int]]:
        """The shapes of all matrices that `targets` name: one a layer each, and one for "lm_head".

        Raises ValueError for names that this model does not have.
        """
        targets, matrices = [targets] if isinstance(targets, str) else list(targets), self.matrices()
        unknown = [name for name in targets if name not in matrices]
        if unknown or not targets:
            raise ValueError(f"targets are {targets}; this model has {', '.join(matrices)}")
        return [matrices[name] for name in targets for _ in range(1 if name == "lm_head" else self.layers)]

    def parameters(self) -> int:
        """All parameters of the Llama of these sizes: no biases, two norms a block and one at the end.

        Raises ValueError if the MLP or the vocabulary is not described.
        """
        if not self.mlp or not self.vocabulary:
            raise ValueError(f"{self} describes no MLP or no vocabulary, so it has no total; give both")
        weights = sum(d_out * d_in for d_out, d_in in self.shapes(ALL_LINEAR))
        norms = (2 * self.layers + 1) * self.width
        return weights + norms + (1 if self.tied else 2) * self.vocabulary * self.width


MODELS = {  # sizes from the papers and from the published configurations
    "RoBERTa base": Transformer(12, 768),
    "RoBERTa large": Transformer(24, 1024),
    "DeBERTa XXL": Transformer(48, 1536),
    "GPT-2 M": Transformer(24, 1024),
    "GPT-2 L": Transformer(36, 1280),
    "GPT-3 175B": Transformer(96, 12288),
    "LLaMA-7B": Transformer(32, 4096, mlp=11008, vocabulary=32000),
    "LLaMA-13B": Transformer(40, 5120, mlp=13824, vocabulary=32000),
    "LLaMA-33B": Transformer(60, 6656, mlp=17920, vocabulary=32000),
    "LLaMA-65B": Transformer(80, 8192, mlp=22016, vocabulary=32000),
    "Llama-3-8B": Transformer(32, 4096, kv=1024, mlp=14336, vocabulary=128256),  # Llama-3.1-8B has the same sizes
    "Llama-3.2-1B": Transformer(16, 2048, kv=512, mlp=8192, vocabulary=128256, tied=True),
    "Qwen2.5-3B": Transformer(36, 2048, kv=256),
    "OPT-350M": Transformer(24, 1024),
    "OPT-6.7B": Transformer(32, 4096),
    "Whisper large-v2": Transformer(32 + 2 * 32, 1280),  # the decoder attends twice a layer: to itself, to the encoder
    "FLAN-T5 large": Transformer(24 + 2 * 24, 1024),
    "mT0 large": Transformer(24 + 2 * 24, 1024),
}


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def _checked(shapes: Shapes) -> list[tuple[int, int]]:
    shapes = list(shapes)
    for shape in shapes:
        if not isinstance(shape, (tuple, list)) or len(shape) != 2 or not all(map(_is_count, shape)):
            raise ValueError(f"{shape!r} is no shape of a matrix; give (out, in), two integers of at least 1")
    if not shapes:
        raise ValueError("no shapes, so nothing is adapted; give one (out, in) pair for each adapted matrix")
    return shapes
