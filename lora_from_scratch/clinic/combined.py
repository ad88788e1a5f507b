"""What only a library that keeps several adapters in one model lets us see: sums of factors, merges into 4 bits."""

import torch
from torch import Tensor

from lora_from_scratch.clinic.finding import Finding, some
from lora_from_scratch.clinic.layers import Adapter


@torch.no_grad()
def of_combined(adapters: list[Adapter]) -> list[Finding]:
    """An active adapter whose A and B are sums of others' A and B, and adapters merged in place into a 4-bit base."""
    found, packed = [], [a for a in adapters if a.merged and hasattr(getattr(a.base, "weight", None), "quant_state")]
    if packed:
        mend = "unmerge_adapter(), decode the base to 16 bits, and merge there"
        found.append(Finding("merged into 4 bits", {"layers": len(packed), "of": len(adapters)}, mend))
    layers: dict[int, list[Adapter]] = {}
    for adapter in adapters:
        layers.setdefault(id(adapter.layer), []).append(adapter)
    sums = [a for group in layers.values() for a in group if a.active and _is_a_sum(a, group)]
    if sums:
        mend = 'B1 goes with A1 alone: combination_type="cat", or "svd" for a smaller rank'
        numbers = {"layers": len(sums), "of": len(layers)}
        said = f"{mend} ({some(sorted({a.key for a in sums}))})"
        found.append(Finding("adapters added with cross terms", numbers, said))
    return found


def _is_a_sum(one: Adapter, group: list[Adapter]) -> bool:
    """Whether A and B of `one` are each a weighted sum of those of two others at least, so that B A has mixed terms."""
    others = [a for a in group if a is not one and a.A.shape == one.A.shape]
    if len(others) < 2 or not one.A.any() or not one.B.any():
        return False
    return all(_summed(pick(one), [pick(a) for a in others]) for pick in (lambda a: a.A, lambda a: a.B))


def _summed(one: Tensor, others: list[Tensor]) -> bool:
    wanted = one.detach().double().flatten()  # (n,)
    parts = torch.stack([other.detach().double().flatten() for other in others], dim=1)  # (n, adapters)
    alone = (parts * wanted[:, None]).sum(dim=0).abs() / parts.norm(dim=0).clamp_min(1e-30) / wanted.norm()
    weights = torch.linalg.lstsq(parts, wanted[:, None]).solution  # (adapters, 1)
    left = (parts @ weights)[:, 0] - wanted
    return bool(left.norm() < 1e-2 * wanted.norm() and alone.max() < 0.999)  # and no copy of one of them
