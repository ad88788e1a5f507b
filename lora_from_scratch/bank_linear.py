"""One layer under many adapters: each row of a batch goes through an adapter of its own.

    y_i = W0 x_i + s_a B_a A_a x_i        a: the adapter of row i; a row without one gets W0 x_i alone

The base is the costly part, and it is the same for all rows, so it runs once for the whole batch. All adapters of a
layer lie in two tensors, and their scalings in B. So the rows' own parts are two batched products, however many
adapters there are. An adapter of a smaller rank is filled up with zeros, which add nothing.

(The idea is that of Punica, arXiv 2310.18547, and S-LoRA, arXiv 2311.03285. This way of doing it is what Punica's
section 7.1 calls Gather-BMM: each row's A and B are copied together before the products. Their kernels spare the copy.)

Rows of one adapter can also be put side by side, as one long row; then each adapter is copied once, but the rows are
moved, there and back. Groups are filled up to the longest one. What copies fewer numbers is done.

Shapes: n rows that have an adapter, T positions of a row, R the largest rank, S slots; G groups of at most M rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_from_scratch.lora import check_linear, weight_like


@dataclass(frozen=True)
class Chosen:
    """Which rows of a batch have an adapter, and in which slot each one lies.

    Args:
        rows: (n,) the rows that have one; None for all of them.
        slots: (n,) the slot of each of these.
        groups: (G,) the slots that occur, each once.
        members: (G, M) which of the n rows lie in each group, filled up with any row.
        back: (n,) where in members, flat, each of the n rows is.
    """

    rows: Tensor | None
    slots: Tensor
    groups: Tensor
    members: Tensor
    back: Tensor

    @classmethod
    def of(cls, slots: list[int | None], device: torch.device) -> "Chosen | None":
        """From the slot of each row of a batch, None for a row without an adapter; None if no row has one."""
        rows = [i for i, slot in enumerate(slots) if slot is not None]
        if not rows:
            return None
        own, members = [slots[i] for i in rows], {}
        for i, slot in enumerate(own):
            members.setdefault(slot, []).append(i)
        most = max(map(len, members.values()))
        filled = [group + group[:1] * (most - len(group)) for group in members.values()]
        back = {i: g * most + j for g, group in enumerate(members.values()) for j, i in enumerate(group)}
        every = len(rows) == len(slots)
        lists = own, list(members), filled, [back[i] for i in range(len(own))]
        tensors = (torch.tensor(each, device=device) for each in lists)
        return cls(None if every else torch.tensor(rows, device=device), *tensors)

    def grouped(self, rank: int, positions: int) -> bool:
        """Whether it copies less to move rows of so many positions, groups filled up, than each row's adapter."""
        return len(self.groups) * rank + 2 * self.members.numel() * positions < len(self.slots) * rank


class BankLinear(nn.Module):
    """`base` and the adapters of many, (rows, ..., d_in) -> (rows, ..., d_out); `chosen` says which row has which.

    Where no row has one, `chosen` is None.
    """

    def __init__(self, base: nn.Module, slots: int) -> None:
        super().__init__()
        check_linear(base)
        like = weight_like(base)
        options = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
        self.base, self.in_features, self.out_features = base, base.in_features, base.out_features
        self.register_buffer("A", torch.zeros(slots, 0, self.in_features, **options), persistent=False)  # (S, R, d_in)
        self.register_buffer("B", torch.zeros(slots, self.out_features, 0, **options), persistent=False)  # s · B
        self.chosen: Chosen | None = None

    def put(self, slot: int, A: Tensor, B: Tensor) -> None:
        """Keep A (r, d_in) and B (d_out, r), the scaling in B, in a slot. For a larger r all slots are made larger."""
        rank = len(A)
        if (more := rank - self.A.shape[1]) > 0:
            self.A = torch.cat([self.A, self.A.new_zeros(len(self.A), more, self.in_features)], dim=1)
            self.B = torch.cat([self.B, self.B.new_zeros(len(self.B), self.out_features, more)], dim=2)
        self.clear(slot)
        self.A[slot, :rank], self.B[slot, :, :rank] = A, B

    def clear(self, slot: int) -> None:
        """Make the adapter in a slot one that adds nothing."""
        self.A[slot], self.B[slot] = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)  # (rows, ..., d_out)
        if self.chosen is None or self.A.shape[1] == 0:
            return y
        rows, slots, one = self.chosen.rows, self.chosen.slots, len(self.chosen.groups) == 1
        own = x if rows is None else x.index_select(0, rows)
        grouped = not one and self.chosen.grouped(self.A.shape[1], own[0].numel() // self.in_features)
        if grouped:
            own = own.index_select(0, self.chosen.members.flatten())  # (G · M, ..., d_in)
        slots = self.chosen.groups if grouped or one else slots  # n of them, or G; one is one group as it is
        A, B = self.A.index_select(0, slots), self.B.index_select(0, slots)  # (n, R, d_in), (n, d_out, R)
        own = own.to(A.dtype).reshape(len(slots), -1, self.in_features)  # (n, T, d_in), or (G, M · T, d_in)
        z = torch.bmm(own, A.mT)  # (n, T, R)
        if not grouped and rows is None and y.dtype == B.dtype and y.is_contiguous():
            y.view(len(slots), -1, self.out_features).baddbmm_(z, B.mT)  # into the base's own output
            return y
        update = torch.bmm(z, B.mT)  # (n, T, d_out)
        if grouped:
            update = update.view(self.chosen.members.numel(), -1).index_select(0, self.chosen.back)
        if rows is None:
            return (y + update.view(y.shape)).to(y.dtype)
        old = y.index_select(0, rows)
        return y.index_copy_(0, rows, (old + update.view(old.shape)).to(y.dtype))
