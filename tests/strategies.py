"""What Hypothesis draws: small linear layers of every shape, the adapter on them, and an input.

Dimensions are small, because an error in a formula shows at 3 as at 3,000, and a small failing case can be read.
"""

import os
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load_profile(name: str = "") -> None:
    """`name`, or HYPOTHESIS_PROFILE, or `ci` (the same examples every time) where CI is set, or `quick`."""
    settings.register_profile("quick", max_examples=25, deadline=None, report_multiple_bugs=False)
    settings.register_profile("ci", settings.get_profile("quick"), derandomize=True, database=None)
    settings.register_profile("thorough", settings.get_profile("quick"), max_examples=500)
    settings.load_profile(name or os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))


@dataclass(frozen=True)
class Case:
    """One drawn situation. All numbers in it follow from `seed`."""

    d_in: int
    d_out: int
    rank: int
    alpha: float
    bias: bool
    batch: tuple[int, ...]
    dtype: torch.dtype
    seed: int

    def base(self) -> nn.Linear:
        """A fresh linear layer; called twice, it gives the same numbers twice."""
        torch.manual_seed(self.seed)
        return nn.Linear(self.d_in, self.d_out, bias=self.bias, dtype=self.dtype)

    def input(self) -> Tensor:
        """x of shape (*batch, d_in)."""
        numbers = torch.randn(*self.batch, self.d_in, generator=self._generator(1), dtype=torch.float64)
        return numbers.to(self.dtype)

    def adapted(self, layer_class: type, **options) -> nn.Module:
        """The layer as it starts."""
        return layer_class(self.base(), self.rank, self.alpha, **options).to(self.dtype)

    def trained(self, layer_class: type, **options) -> nn.Module:
        """The layer with A and B far from their start. Most errors cannot be seen while B is zero."""
        layer = self.adapted(layer_class, **options)
        numbers = self._generator(2)
        with torch.no_grad():
            for factor in (layer.A, layer.B):
                factor.copy_(torch.randn(factor.shape, generator=numbers, dtype=torch.float64))
        return layer

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(10 * self.seed + stream)


dimensions = st.integers(2, 6)
alphas = st.floats(0.5, 32)
batches = st.sampled_from([(), (1,), (4,), (2, 3), (2, 1, 3)])
seeds = st.integers(0, 999)


def shapes(square: bool | None = None) -> st.SearchStrategy[tuple[int, int]]:
    """(d_in, d_out): equal if `square`, different if not, either if None."""
    if square:
        return dimensions.map(lambda d: (d, d))
    pairs = st.tuples(dimensions, dimensions)
    return pairs if square is None else pairs.filter(lambda pair: pair[0] != pair[1])


@st.composite
def cases(
    draw: st.DrawFn,
    square: bool | None = None,
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    min_rank: int = 1,
    bias: bool | None = None,
    batch: st.SearchStrategy[tuple[int, ...]] = batches,
) -> Case:
    """Cases in float64, of any shape, with a bias or without, unless told otherwise."""
    d_in, d_out = draw(shapes(square))
    return Case(
        d_in,
        d_out,
        rank=draw(st.integers(min_rank, 4)),
        alpha=draw(alphas),
        bias=draw(st.booleans()) if bias is None else bias,
        batch=draw(batch),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(seeds),
    )


def assert_close(got: Tensor, wanted: Tensor, message: str = "", tolerance: float = 1e-12) -> None:
    """Equal up to `tolerance` of the largest number.

    Sums here have at most 6 + 4 terms; each rounds by at most 2^-53, so float64 errs by about 1e-15 of the largest
    term, and 1e-12 leaves room for terms that are larger than their sum.
    """
    assert got.shape == wanted.shape, f"{message}: shape {tuple(got.shape)}, not {tuple(wanted.shape)}"
    assert got.dtype == wanted.dtype, f"{message}: {got.dtype}, not {wanted.dtype}"
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    off = (got - wanted).abs().max().item() if wanted.numel() else 0.0
    assert off <= tolerance * scale, f"{message}: off by {off:.3g} where numbers go up to {scale:.3g}"


def trained_like(layer: nn.Module, seed: int = 0) -> nn.Module:
    """Give every A and B in `layer` numbers far from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.rpartition(".")[2] in ("A", "B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer
