"""Readers' answers for test_check_own.py: right ones in several forms, and each usual mistake as a class of its own.

RIGHT has (kind, class); DORA, NF4, QLORA and PAGED have (kind, class, the properties that the mistake breaks).
"""

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_from_scratch.nf4_tables import LEVELS


class ReadersDoRA(nn.Module):
    """As the formula stands, the norm a constant for the gradient."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.s = base.requires_grad_(False), alpha / rank
        self.A = nn.Parameter(torch.randn(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.magnitude = nn.Parameter(self.norms(base.weight).clone())

    def norms(self, V):
        return V.detach().norm(dim=1)

    def direction(self):
        return self.base.weight + self.s * self.B @ self.A

    def weight(self):
        V = self.direction()
        return self.magnitude.reshape(-1, 1) / self.norms(V).reshape(-1, 1) * V

    def forward(self, x):
        return x @ self.weight().T + self.base.bias

    @torch.no_grad()
    def merge(self):
        merged = nn.Linear(self.base.in_features, self.base.out_features, dtype=self.base.weight.dtype)
        merged.weight.data, merged.bias.data = self.weight().clone(), self.base.bias.clone()
        return merged


class NormInGradient(ReadersDoRA):
    """The other form: the gradient goes through the norm too, and the magnitude is a column."""

    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.magnitude = nn.Parameter(self.magnitude.data[:, None])

    def norms(self, V):
        return V.norm(dim=1)


class NormOverOutputs(ReadersDoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.magnitude = nn.Parameter(base.weight.norm(dim=0))

    def weight(self):
        V = self.direction()
        return self.magnitude / V.detach().norm(dim=0) * V


class MagnitudeOfOnes(ReadersDoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        nn.init.ones_(self.magnitude)


class MagnitudeFrozen(ReadersDoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.magnitude.requires_grad_(False)

    def weight(self):
        V = self.direction()
        return self.magnitude.detach()[:, None] / self.norms(V)[:, None] * V


class BiasRescaled(ReadersDoRA):
    def forward(self, x):
        g = self.magnitude / self.norms(self.direction())
        return super().forward(x) + (g - 1) * self.base.bias


class ScaleForgotten(ReadersDoRA):
    def direction(self):
        return self.base.weight + self.B @ self.A


class DividedByBaseNorm(ReadersDoRA):
    def norms(self, V):
        return self.base.weight.norm(dim=1)


class DirectionDetached(ReadersDoRA):
    def direction(self):
        return super().direction().detach()


class MergeAsLoRA(ReadersDoRA):
    @torch.no_grad()
    def merge(self):
        merged = super().merge()
        merged.weight.data = self.direction()
        return merged


class MergeInPlace(ReadersDoRA):
    @torch.no_grad()
    def merge(self):
        merged = super().merge()
        self.base.weight.data = merged.weight.data.clone()
        return merged


class OnlyMatrices(ReadersDoRA):
    def forward(self, x):
        return torch.mm(x.reshape(-1, x.shape[-1]), self.weight().T) + self.base.bias


DORA = [
    (
        "dora",
        NormOverOutputs,
        ["magnitude_starts_as_row_norms", "rows_point_along_base_and_update", "rows_are_as_long_as_magnitude"]
        + ["gradients_are_slopes"],
    ),
    ("dora", MagnitudeOfOnes, ["magnitude_starts_as_row_norms", "start_is_base"]),
    ("dora", MagnitudeFrozen, ["three_parameters_train", "gradients_are_slopes"]),
    ("dora", BiasRescaled, ["bias_is_not_rescaled", "gradients_are_slopes"]),
    ("dora", ScaleForgotten, ["rows_point_along_base_and_update", "gradients_are_slopes"]),
    ("dora", DividedByBaseNorm, ["rows_are_as_long_as_magnitude", "gradients_are_slopes"]),
    ("dora", DirectionDetached, ["gradients_are_slopes"]),
    ("dora", MergeAsLoRA, ["merge_computes_the_same"]),
    ("dora", MergeInPlace, ["merge_leaves_layer"]),
    ("dora", OnlyMatrices, ["batch_dimensions"]),
]


class ReadersNF4:
    """By counting midpoints, in torch."""

    levels = torch.from_numpy(LEVELS)

    def __init__(self, weight, block_size):
        self.shape, self.block_size = weight.shape, block_size
        blocks = self.blocks(weight)
        self.absmax = self.constants(blocks)
        self.packed = self.pack(self.codes(blocks / torch.where(self.absmax > 0, self.absmax, 1)[:, None]).reshape(-1))

    def blocks(self, weight):
        flat = weight.reshape(-1)
        return nn.functional.pad(flat, (0, -len(flat) % self.block_size)).reshape(-1, self.block_size)

    def constants(self, blocks):
        return blocks.abs().amax(dim=1)

    def codes(self, ratios):
        middle = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.bucketize(ratios.contiguous(), middle)

    def pack(self, codes):
        codes = codes[: -(-self.shape.numel() // 2) * 2].to(torch.uint8)
        return codes[0::2] << 4 | codes[1::2]

    def unpacked(self):
        return torch.stack((self.packed >> 4, self.packed & 15), dim=1).reshape(-1).long()

    def dequantize(self):
        numbers = self.levels[self.unpacked()[: self.shape.numel()]]
        return (numbers * self.absmax.repeat_interleave(self.block_size)[: len(numbers)]).reshape(self.shape)


class ByDistance(ReadersNF4):
    """The nearest of 16 by argmin, and NumPy arrays outside."""

    def __init__(self, weight, block_size):
        super().__init__(weight, block_size)
        self.packed = self.packed.numpy()

    def codes(self, ratios):
        return (ratios[..., None] - self.levels).abs().argmin(dim=-1)

    def unpacked(self):
        return torch.from_numpy(np.stack((self.packed >> 4, self.packed & 15), axis=1).reshape(-1)).long()


class EvenLevels(ReadersNF4):
    levels = torch.linspace(-1, 1, 16)


class MaxWithoutAbs(ReadersNF4):
    def constants(self, blocks):
        return blocks.amax(dim=1)


class OneConstant(ReadersNF4):
    def constants(self, blocks):
        return blocks.abs().max().expand(len(blocks))


class LevelBelow(ReadersNF4):
    def codes(self, ratios):
        return torch.bucketize(ratios.contiguous(), self.levels, right=True).clamp(1) - 1


class LowNibbleFirst(ReadersNF4):
    def pack(self, codes):
        return super().pack(codes.reshape(-1, 2).flip(1).reshape(-1))

    def unpacked(self):
        return super().unpacked().reshape(-1, 2).flip(1).reshape(-1)


class CodeAByte(ReadersNF4):
    def pack(self, codes):
        return codes[: self.shape.numel()].to(torch.uint8)

    def unpacked(self):
        return self.packed.long()


class DownColumns(ReadersNF4):
    def __init__(self, weight, block_size):
        super().__init__(weight.movedim(0, -1).contiguous() if weight.dim() > 1 else weight, block_size)

    def dequantize(self):
        numbers = super().dequantize()
        return numbers.movedim(-1, 0) if numbers.dim() > 1 else numbers


class InPlace(ReadersNF4):
    def __init__(self, weight, block_size):
        super().__init__(weight, block_size)
        weight /= weight.abs().max()


class DividesByZero(ReadersNF4):
    def dequantize(self):
        ones = (self.absmax / self.absmax).repeat_interleave(self.block_size)
        return super().dequantize() * ones[: self.shape.numel()].reshape(self.shape)


class InFloat64(ReadersNF4):
    def dequantize(self):
        return super().dequantize().double()


class Flat(ReadersNF4):
    def dequantize(self):
        return super().dequantize().reshape(-1)


NF4 = [
    (
        "nf4",
        EvenLevels,
        ["levels_come_back_exactly", "zero_stays_zero", "nearest_level_is_taken", "first_code_is_in_high_bits"],
    ),
    ("nf4", MaxWithoutAbs, ["absmax_is_largest_size_of_block", "nearest_level_is_taken"]),
    ("nf4", OneConstant, ["absmax_is_largest_size_of_block", "blocks_run_along_rows", "nearest_level_is_taken"]),
    ("nf4", LevelBelow, ["nearest_level_is_taken"]),
    ("nf4", LowNibbleFirst, ["first_code_is_in_high_bits"]),
    ("nf4", CodeAByte, ["two_codes_fill_a_byte", "first_code_is_in_high_bits"]),
    ("nf4", DownColumns, ["absmax_is_largest_size_of_block", "blocks_run_along_rows", "nearest_level_is_taken"]),
    ("nf4", InPlace, ["weight_is_left_alone"]),
    ("nf4", DividesByZero, ["zero_stays_zero"]),
    ("nf4", InFloat64, ["shape_and_dtype_come_back"]),
    ("nf4", Flat, ["shape_and_dtype_come_back", "zero_stays_zero", "nearest_level_is_taken"]),
]


class Decode(torch.autograd.Function):
    """x W.T with W decoded anew in backward."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return x @ layer.decoded().T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.layer.decoded(), None


class ReadersQLoRA(nn.Module):
    """Codes in buffers, and a function of its own that decodes twice."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.shape, self.s, wide = base.weight.shape, alpha / rank, torch.float32
        q = ReadersNF4(base.weight.detach().float(), 64)
        self.keep("packed", q.packed)
        self.keep("absmax", q.absmax)
        self.bias = nn.Parameter(base.bias.detach().clone(), requires_grad=False)
        self.A = nn.Parameter(torch.randn(rank, base.in_features, dtype=wide))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=wide))

    def keep(self, name, values):
        self.register_buffer(name, values)

    def decoded(self):
        codes = torch.stack((self.packed >> 4, self.packed & 15), dim=1).long()
        return (ReadersNF4.levels[codes].reshape(-1, 64) * self.absmax[:, None]).reshape(self.shape)

    def frozen(self, x):
        return Decode.apply(x, self)

    def forward(self, x):
        return self.frozen(x) + self.bias + self.s * (x @ self.A.T @ self.B.T)


class Checkpointed(ReadersQLoRA):
    """The other form: checkpoint runs the decoding again in backward."""

    def frozen(self, x):
        return checkpoint(lambda x: x @ self.decoded().T, x, use_reentrant=False)


class NotQuantized(ReadersQLoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.base = base.requires_grad_(False)

    def decoded(self):
        return self.base.weight


class KeepsBase(ReadersQLoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.whole = base.weight.detach()


class PlainProduct(ReadersQLoRA):
    def frozen(self, x):
        return x @ self.decoded().T


class InputWithoutGradient(ReadersQLoRA):
    @torch.no_grad()
    def frozen(self, x):
        return x @ self.decoded().T


class AlphaNotDivided(ReadersQLoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha * rank)


class BiasLost(ReadersQLoRA):
    def forward(self, x):
        return super().forward(x) - self.bias


class BiasTrains(ReadersQLoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.bias.requires_grad_(True)


class PlainAttributes(ReadersQLoRA):
    def keep(self, name, values):
        setattr(self, name, values)


class SixteenBitFactors(ReadersQLoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.A.data, self.B.data = self.A.data.to(base.weight.dtype), self.B.data.to(base.weight.dtype)


class FactorsDetached(ReadersQLoRA):
    def forward(self, x):
        return self.frozen(x) + self.bias + self.s * (x @ self.A.detach().T @ self.B.detach().T) + 0 * self.A.sum()


class FactorsSwapped(ReadersQLoRA):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.A, self.B = self.B, self.A

    def forward(self, x):
        return self.frozen(x) + self.bias + self.s * (x @ self.B.T @ self.A.T)


QLORA = [
    ("qlora", NotQuantized, ["start_is_decoded_base", "weight_takes_four_bits"]),
    ("qlora", KeepsBase, ["weight_takes_four_bits"]),
    ("qlora", PlainProduct, ["forward_keeps_no_decoded_weight"]),
    ("qlora", InputWithoutGradient, ["gradient_passes_through_frozen_weight"]),
    ("qlora", AlphaNotDivided, ["update_is_scaled_product", "gradients_reach_factors"]),
    ("qlora", BiasLost, ["bias_is_the_base_s"]),
    ("qlora", BiasTrains, ["only_factors_train"]),
    ("qlora", PlainAttributes, ["state_dict_holds_codes"]),
    ("qlora", SixteenBitFactors, ["factors_are_float32"]),
    ("qlora", FactorsDetached, ["gradients_reach_factors"]),
    ("qlora", FactorsSwapped, ["factors_have_shapes", "update_is_scaled_product", "gradients_reach_factors"]),
]


class ReadersPaged(torch.optim.Optimizer):
    """State in self.state; what goes out is marked as away."""

    def __init__(self, params, lr, weight_decay, resident_bytes):
        self.resident_bytes, self.here = resident_bytes, []
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @property
    def bytes_resident(self):
        return sum(2 * p.nbytes for p in self.here)

    def come_in(self, p):
        limit = self.resident_bytes or float("inf")
        if 2 * p.nbytes > limit:
            raise ValueError("the budget is too small")
        self.here = [q for q in self.here if q is not p]
        while self.bytes_resident + 2 * p.nbytes > limit:
            self.go_out(self.here.pop(0))
        self.here.append(p)
        if not self.state[p]:
            self.state[p] = {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}

    def go_out(self, p):
        self.state[p] = {name: value if name == "step" else value.clone() for name, value in self.state[p].items()}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.come_in(p)
                    self.update(p, p.grad, self.state[p], group)

    def update(self, p, g, state, group):
        state["step"] += 1
        p *= 1 - group["lr"] * group["weight_decay"]
        p -= group["lr"] * self.direction(g, state)

    def direction(self, g, state, beta1=0.9, beta2=0.999):
        t, m, v = (state[name] for name in ("step", "m", "v"))
        m.copy_(beta1 * m + (1 - beta1) * g)
        v.copy_(beta2 * v + (1 - beta2) * g**2)
        return m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + 1e-8)


class NoBiasCorrection(ReadersPaged):
    def direction(self, g, state):
        state = state | {"step": 10**9}
        return super().direction(g, state)


class OtherBetas(ReadersPaged):
    def direction(self, g, state):
        return super().direction(g, state, 0.9, 0.99)


class OneCount(ReadersPaged):
    def update(self, p, g, state, group):
        self.count = getattr(self, "count", 0) + 1
        super().update(p, g, state | {"step": self.count - 1}, group)


class L2(ReadersPaged):
    def update(self, p, g, state, group):
        super().update(p, g + group["weight_decay"] * p, state, group | {"weight_decay": 0})


class GradientInPlace(ReadersPaged):
    def update(self, p, g, state, group):
        super().update(p, g, state, group)
        g.add_(group["weight_decay"] * p)


class Dropped(ReadersPaged):
    def go_out(self, p):
        self.state[p] = {}


class CountDropped(ReadersPaged):
    def go_out(self, p):
        self.state[p]["step"] = 0


class NeverOut(ReadersPaged):
    def come_in(self, p):
        limit, self.resident_bytes = self.resident_bytes, None
        super().come_in(p)
        self.resident_bytes = limit


class CountsOneMoment(ReadersPaged):
    @property
    def bytes_resident(self):
        return sum(p.nbytes for p in self.here)


class NoneAsZero(ReadersPaged):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.come_in(p)
                self.update(p, torch.zeros_like(p) if p.grad is None else p.grad, self.state[p], group)


class OwnRate(ReadersPaged):
    def __init__(self, params, lr, weight_decay, resident_bytes):
        super().__init__(params, lr, weight_decay, resident_bytes)
        self.lr = lr

    def update(self, p, g, state, group):
        super().update(p, g, state, group | {"lr": self.lr})


class SavesResident(ReadersPaged):
    def state_dict(self):
        whole = super().state_dict()
        order = [p for group in self.param_groups for p in group["params"]]
        away = [i for i, p in enumerate(order) if all(p is not q for q in self.here)]
        return whole | {"state": {i: entry for i, entry in whole["state"].items() if i not in away}}


PAGED = [
    ("paged", NoBiasCorrection, ["first_step_is_adam_s", "later_steps_are_adam_s"]),
    ("paged", OtherBetas, ["later_steps_are_adam_s"]),
    (
        "paged",
        OneCount,
        ["first_step_is_adam_s", "later_steps_are_adam_s", "no_gradient_no_step", "state_dict_goes_on"],
    ),
    ("paged", L2, ["decay_is_decoupled"]),
    ("paged", GradientInPlace, ["gradients_are_left_alone"]),
    ("paged", Dropped, ["budget_changes_no_number", "state_dict_goes_on"]),
    ("paged", CountDropped, ["budget_changes_no_number", "state_dict_goes_on"]),
    ("paged", NeverOut, ["budget_is_kept", "too_small_budget_is_refused"]),
    ("paged", CountsOneMoment, ["budget_is_kept"]),
    ("paged", NoneAsZero, ["no_gradient_no_step"]),
    ("paged", OwnRate, ["schedule_takes_effect"]),
    ("paged", SavesResident, ["state_dict_goes_on"]),
]
RIGHT = [
    *(("dora", answer) for answer in (ReadersDoRA, NormInGradient)),
    *(("nf4", answer) for answer in (ReadersNF4, ByDistance)),
    *(("qlora", answer) for answer in (ReadersQLoRA, Checkpointed)),
    ("paged", ReadersPaged),
]
