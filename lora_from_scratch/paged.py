"""Paged AdamW: optimizer state that moves out of the way (QLoRA, arXiv 2305.14314, section 3, "Paged Optimizers").

AdamW keeps two moments, m and v, of every trained number, yet needs those of a parameter only while it steps it.

       device, at most resident_bytes                             host
    ┌───────────────┬───────────────┐    page out      ┌───────────────┬───────────────┐
    │ m m m . v v v │ m m . v v .   │   ───────────>   │ m m m . v v v │ m . v .       │
    │  parameter 3  │  parameter 4  │   <───────────   │  parameter 1  │  parameter 2  │
    └───────────────┴───────────────┘     page in      └───────────────┴───────────────┘
      least recently used: goes first                    each comes in before its step

QLoRA leaves the moves to NVIDIA's unified memory, whose driver moves pages one by one once the GPU is full. Here
they are plain copies, of all pages of a parameter at once, since a step needs them all. Only where the state is
changes: the numbers are torch.optim.AdamW's (foreach=False), bit for bit, under every budget and page size.
On a CUDA device the host's side is pinned memory. For parameters on the CPU both sides are the CPU's memory: copies,
releases and the count of bytes are real, but the "device" is only simulated, and no memory is saved.
This file imports nothing of the project: copy it and it runs.
"""

import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from numbers import Integral, Real

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")  # m and v, by their names in torch
PLAIN = {"amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}
PLAIN["decoupled_weight_decay"] = True


def require(ok: bool, message: str) -> None:
    """Raise ValueError(message) unless `ok`."""
    if not ok:
        raise ValueError(message)


def is_number(value: object, least: float = 0, below: float = math.inf, kind: type = Real) -> bool:
    """Is `value` a number of this kind, and no bool, from `least` up to, not including, `below`?"""
    return isinstance(value, kind) and not isinstance(value, bool) and least <= value < below


def check_settings(group: dict) -> None:
    """Raise ValueError unless lr, betas, eps, weight_decay are in range and `group` wants AdamW without variations."""
    for name in ("lr", "eps", "weight_decay"):
        require(is_number(group[name]), f"{name} is {group[name]!r}; it must be a finite number of at least 0")
    betas = group["betas"]
    pair = isinstance(betas, (tuple, list)) and len(betas) == 2 and all(is_number(beta, below=1) for beta in betas)
    require(pair, f"betas is {betas!r}; it must be two numbers from 0 up to, not including, 1")
    for name, only in PLAIN.items():
        require(group.get(name, only) == only, f"{name} is {group.get(name)!r}; PagedAdamW knows only {name}={only}")


def adamw_update(param: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict) -> None:
    """One step in place, in torch's order (arXiv 1711.05101, algorithm 2); param, grad, m and v share one shape."""
    m, v, lr, (beta1, beta2) = state["exp_avg"], state["exp_avg_sq"], group["lr"], group["betas"]
    state["step"] += 1
    t = state["step"].item()
    param.mul_(1 - lr * group["weight_decay"])  # decoupled: the decay does not enter m and v
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = (v.sqrt() / (1 - beta2**t) ** 0.5).add_(group["eps"])
    param.addcdiv_(m, root, value=-(lr / (1 - beta1**t)))


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

    Raises:
        ValueError: for a page_bytes below 1, a resident_bytes below a page or below one parameter's need, a setting
            out of range, a variation such as amsgrad, a parameter that is not real, a sparse gradient.
    """

    on_move: Callable[["PagedAdamW"], object] = staticmethod(lambda optimizer: None)

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        page_bytes: int = 4096,
        resident_bytes: int | None = None,
    ) -> None:
        whole = is_number(page_bytes, 1, kind=Integral)
        require(whole, f"page_bytes is {page_bytes!r}; it must be an integer of at least 1")
        fits = resident_bytes is None or is_number(resident_bytes, page_bytes, kind=Integral)
        require(fits, f"resident_bytes is {resident_bytes!r}; it must be None or at least a page, {page_bytes}")
        check_settings(defaults := {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.page_bytes, self.resident_bytes, self.page_ins, self.page_outs = page_bytes, resident_bytes, 0, 0
        self.resident: OrderedDict[Tensor, int] = OrderedDict()
        super().__init__(params, defaults)

    @property
    def bytes_resident(self) -> int:
        """Bytes of the pages on the device now."""
        return sum(self.resident.values())

    def state_bytes(self, param: Tensor) -> int:
        """Bytes of the pages that the two moments of `param` need, each rounded up to whole pages."""
        return len(MOMENTS) * -(-param.nbytes // self.page_bytes) * self.page_bytes

    def add_param_group(self, param_group: dict) -> None:
        """As in torch. Raises ValueError, and adds nothing, for what the constructor would refuse."""
        super().add_param_group(param_group)
        try:
            check_settings(self.param_groups[-1])
            self._check_parameters()
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient; return what `closure`, if there is one, returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self._check_parameters()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    adamw_update(p, p.grad, self._page_in(p), group)
        return loss

    def state_dict(self) -> dict:
        """A copy in torch.optim.AdamW's format, which loads it: on the CPU, without the padding of pages."""
        packed = super().state_dict()
        for key, state in packed["state"].items():
            packed["state"][key] = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
        return packed

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Copy in, to the host's side, what PagedAdamW (under any budget) or torch.optim.AdamW saved.

        Raises ValueError for groups, settings or shapes that do not fit, and leaves the optimizer as it was.
        """
        state_dict = dict(state_dict)  # torch's load_state_dict would put all state on the device at once
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        saved, entries, state = copy.deepcopy(state_dict["param_groups"]), dict(state_dict["state"]), defaultdict(dict)
        sizes, wanted = ([len(group["params"]) for group in groups] for groups in (saved, self.param_groups))
        require(sizes == wanted, f"the groups to load have {sizes} parameters; the optimizer's groups have {wanted}")
        groups = [old | new | {"params": old["params"]} for old, new in zip(self.param_groups, saved, strict=True)]
        for group in groups:
            check_settings(group)
        for key, (name, p) in zip([key for group in saved for key in group["params"]], self._named(), strict=True):
            if entry := entries.pop(key, None):
                shapes = {key: tuple(getattr(value, "shape", ())) for key, value in entry.items()}
                needed = {"step": ()} | dict.fromkeys(MOMENTS, tuple(p.shape))
                require(shapes == needed, f"{name} comes with state of shapes {shapes}; it needs {needed}")
                state[p] = self._placed(entry, p, "cpu")
        require(not entries, f"the state to load has entries {list(entries)}, which none of its groups names")
        self.state, self.param_groups[:] = state, groups
        self.resident.clear()
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict:
        names = ("page_bytes", "resident_bytes", "page_ins", "page_outs", "resident")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def _named(self) -> list[tuple[str, Tensor]]:
        params = [p for group in self.param_groups for p in group["params"]]
        return [(f"parameter {i}, of shape {tuple(p.shape)},", p) for i, p in enumerate(params)]

    def _check_parameters(self) -> None:
        for name, p in self._named():
            require(p.is_floating_point(), f"{name} is {p.dtype}; give PagedAdamW real floating-point parameters only")
            need, budget = self.state_bytes(p), self.resident_bytes or math.inf
            require(need <= budget, f"{name} needs {need} bytes of pages; resident_bytes must be that, not {budget}")
            dense = p.grad is None or p.grad.layout is torch.strided
            require(dense, f"{name} has a sparse gradient; make it dense, as nn.Embedding does with sparse=False")

    def _page_in(self, p: Tensor) -> dict[str, Tensor]:
        """The state of `p`, on its device: there already, from the host or, at the first step, zeros."""
        if p in self.resident and self.state[p]["exp_avg"].device != p.device:
            self._page_out(p)  # p itself has moved to another device since
        if p not in self.resident:
            state = self.state[p]  # empty until the first step
            like = state.get("exp_avg", p)
            while self.bytes_resident + self.state_bytes(like) > (self.resident_bytes or math.inf):
                self._page_out(next(iter(self.resident)))
            zeros = {"step": 0.0} | dict.fromkeys(MOMENTS, torch.zeros((), device="cpu"))
            self.state[p] = self._placed(state or zeros, like, p.device)
            self.resident[p] = self.state_bytes(like)
            self.page_ins += self.resident[p] // self.page_bytes if state else 0
            self.on_move(self)
        self.resident.move_to_end(p)
        return self.state[p]

    def _page_out(self, p: Tensor) -> None:
        """Copy the state of `p` to the host; nothing refers to its pages on the device then, so they are freed."""
        self.state[p] = self._placed(self.state[p], self.state[p]["exp_avg"], "cpu")
        self.page_outs += self.resident.pop(p) // self.page_bytes
        self.on_move(self)

    def _placed(self, state: dict, like: Tensor, device: torch.device | str) -> dict[str, Tensor]:
        """A copy of `state`, each moment shaped like `like` and in whole pages of its own on `device`."""
        wide = torch.promote_types(torch.get_default_dtype(), torch.float32)  # in which torch counts steps
        placed = {"step": torch.tensor(float(state["step"]), dtype=wide, device="cpu")}
        size, pin = self.state_bytes(like) // len(MOMENTS), like.is_cuda and device == "cpu"
        strides = torch.empty_like(like, device="meta").stride()
        for name in MOMENTS:
            pages = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pin)
            moment = pages[: like.nbytes].view(like.dtype).as_strided(like.shape, strides)
            placed[name] = moment.copy_(state[name], non_blocking=state[name].is_pinned())
        return placed
