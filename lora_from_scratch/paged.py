"""Paged AdamW: optimizer state that moves out of the way (QLoRA, arXiv 2305.14314, section 3, "Paged Optimizers").

AdamW keeps two moments, m and v, of every trained number, yet needs those of a parameter only while it steps it.

       device, at most resident_bytes                             host
    ┌───────────────┬───────────────┐    page out      ┌───────────────┬───────────────┐
    │ m m m . v v v │ m m . v v .   │   ───────────>   │ m m m . v v v │ m . v .       │
    │  parameter 3  │  parameter 4  │   <───────────   │  parameter 1  │  parameter 2  │
    └───────────────┴───────────────┘     page in      └───────────────┴───────────────┘
      least recently used: goes first                    each comes in before its step

QLoRA leaves the moves to NVIDIA's unified memory, whose driver moves single pages. Here they are plain copies, of all
pages of a parameter at once, since a step needs them all. Only where the state is changes: the numbers, which adamw.py
has (all that this file needs), are torch.optim.AdamW's (foreach=False) to the bit, under every budget and page size.
On a CUDA device the host's side is pinned memory. For parameters on the CPU the "device" is only simulated: copies,
releases and the count of bytes are real, but no memory is saved.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lora_from_scratch import adamw


class PagedAdamW(torch.optim.Optimizer):
    """AdamW whose moments live in pages, at most `resident_bytes` of them on the device at any time.

    State is made at a parameter's first step and comes in for later ones; the least recently used goes out.
    The budget is for pages, over all devices together; a step's scratch, twice its parameter's size, is on top.

    Args:
        params: parameters, (name, parameter) pairs or groups, as in torch.optim.AdamW; only what is trained.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW, with its defaults; groups may have their own.
        page_bytes: bytes in a page. Each moment is rounded up to whole pages.
        resident_bytes: the budget in bytes; None for no limit.

    Attributes:
        resident: the parameters whose state is on the device, least recently used first, each with its bytes.
        page_ins, page_outs: pages brought in from the host, and sent there, so far.
        on_move: set it to a function of the optimizer, called whenever `resident` has gained or lost a parameter.
            Like torch's hooks, it is not copied or pickled with the optimizer.

    Raises ValueError for a page_bytes below 1, a resident_bytes below a page or below one parameter's need, a setting
    out of range, a variation such as amsgrad, a parameter that is not real, a sparse gradient.
    """

    on_move: Callable[["PagedAdamW"], object] = staticmethod(lambda optimizer: None)

    def __init__(
        self, params: Iterable, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, page_bytes: int = 4096, resident_bytes: int | None = None,
    ) -> None:  # fmt: skip
        adamw.check_pages(page_bytes, resident_bytes)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decoupled_weight_decay": True}
        adamw.check_settings(defaults)
        self.page_bytes, self.resident_bytes, self.page_ins, self.page_outs = page_bytes, resident_bytes, 0, 0
        self.resident: OrderedDict[Tensor, int] = OrderedDict()
        super().__init__(params, defaults)

    @property
    def bytes_resident(self) -> int:
        """Bytes of the pages on the device now."""
        return sum(self.resident.values())

    def state_bytes(self, param: Tensor) -> int:
        """Bytes of the pages that the two moments of `param` need, each rounded up to whole pages."""
        return len(adamw.MOMENTS) * -(-param.nbytes // self.page_bytes) * self.page_bytes

    def add_param_group(self, param_group: dict) -> None:
        """As in torch. Raises ValueError, and adds nothing, for what the constructor would refuse."""
        super().add_param_group(param_group)
        try:
            adamw.check_settings(self.param_groups[-1])
            self._check_parameters()
        except BaseException:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient; return what `closure`, if there is one, returned.

        If it is interrupted, some parameters have been stepped and others not; later steps work, within the budget.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self._check_parameters()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    adamw.update(p, p.grad, self._page_in(p), group)
        return loss

    def state_dict(self) -> dict:
        """A copy in torch.optim.AdamW's format, which loads it: on the CPU, without the padding of pages."""
        return adamw.on_host(super().state_dict())

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Copy in, to the host's side, what PagedAdamW (under any budget) or torch.optim.AdamW saved.

        Raises ValueError for groups, settings or shapes that do not fit, and leaves the optimizer as it was.
        """
        adamw.check_saved(state_dict)
        state_dict = dict(state_dict)  # torch's load_state_dict would put all state on the device at once
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        groups, state = self._loaded(state_dict["param_groups"], dict(state_dict["state"]))
        self.state, self.param_groups[:] = state, groups
        self.resident.clear()
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _loaded(self, saved: list[dict], entries: dict) -> tuple[list[dict], defaultdict]:
        """The groups and the state that saved ones become here, all of it on the host. Changes nothing."""
        groups, state = adamw.groups_with(saved, self.param_groups), defaultdict(dict)
        for key, (name, p) in zip([key for group in saved for key in group["params"]], self._named(), strict=True):
            if entry := entries.pop(key, None):
                adamw.check_state(entry, p, name)
                state[p] = self._placed(adamw.on_host(entry), p, "cpu")
        lost = [key for key in entries if isinstance(key, int)]  # other keys are a hook's own
        adamw.require(not lost, f"the state to load has entries {lost}, which none of its groups names")
        state.update(adamw.on_host(entries))
        return groups, state

    def __getstate__(self) -> dict:
        names = ("page_bytes", "resident_bytes", "page_ins", "page_outs", "resident")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def _named(self) -> list[tuple[str, Tensor]]:
        params = [p for group in self.param_groups for p in group["params"]]
        return [(f"parameter {i}, of shape {tuple(p.shape)},", p) for i, p in enumerate(params)]

    def _check_parameters(self) -> None:
        for name, p in self._named():
            adamw.check_parameter(p, name)
            fits = (need := self.state_bytes(p)) <= (budget := self.resident_bytes or math.inf)
            adamw.require(fits, f"{name} needs {need} bytes of pages; resident_bytes must be that, not {budget}")

    def _page_in(self, p: Tensor) -> dict[str, Tensor]:
        """The state of `p`, on its device: there already, from the host or, at the first step, zeros."""
        here = getattr(self.state.get(p, {}).get("exp_avg"), "device", None)  # None until the first step
        if p in self.resident and here != p.device:
            self._page_out(p)  # p itself has moved to another device since, or a move was interrupted
        if p not in self.resident:
            state = adamw.new_state() | self.state.get(p, {})
            size = self.state_bytes(like := state["exp_avg"] if here else p)
            while self.bytes_resident + size > (self.resident_bytes or math.inf):
                self._page_out(next(iter(self.resident)))
            placed = self._placed(state, like, p.device)
            self.resident[p] = size  # first, so that nothing is on the device that is not counted, wherever it stops
            self.state[p] = placed
            self.page_ins += size // self.page_bytes if here else 0
            self.on_move(self)
        self.resident.move_to_end(p)
        return self.state[p]

    def _page_out(self, p: Tensor) -> None:
        """Copy the state of `p` to the host; nothing refers to its pages on the device then, so they are freed."""
        if "exp_avg" in self.state.get(p, {}):
            self.state[p] = self._placed(self.state[p], self.state[p]["exp_avg"], "cpu")
        self.page_outs += self.resident.pop(p) // self.page_bytes
        self.on_move(self)

    def _placed(self, state: dict, like: Tensor, device: torch.device | str) -> dict:
        """A copy of `state`, each moment like `like`, in pages of its own on `device`; the rest is a hook's."""
        placed = state | {"step": torch.tensor(float(state["step"]), dtype=adamw.step_dtype(), device="cpu")}
        size, pin = self.state_bytes(like) // len(adamw.MOMENTS), like.is_cuda and device == "cpu"
        strides = torch.empty_like(like, device="meta").stride()
        for name in adamw.MOMENTS:
            pages = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pin)
            moment = pages[: like.nbytes].view(like.dtype).as_strided(like.shape, strides)
            placed[name] = moment.copy_(state[name], non_blocking=state[name].is_pinned())
        return placed
