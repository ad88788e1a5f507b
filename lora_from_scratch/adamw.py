"""AdamW: one step of one parameter, and what its settings and its state must look like (arXiv 1711.05101).

paged.py moves the state about; what is done to the numbers stands here, and what is checked of them. Names are those
of torch.optim.AdamW, so that each loads what the other saved. This file imports nothing of the project.
"""

import copy
import math
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


def check_pages(page_bytes: int, resident_bytes: int | None) -> None:
    """Raise ValueError unless a page has a byte at least, and the budget, if there is one, a page at least."""
    whole = is_number(page_bytes, 1, kind=Integral)
    require(whole, f"page_bytes is {page_bytes!r}; it must be an integer of at least 1")
    fits = resident_bytes is None or is_number(resident_bytes, page_bytes, kind=Integral)
    require(fits, f"resident_bytes is {resident_bytes!r}; it must be None or at least a page, {page_bytes}")


def check_settings(group: dict) -> None:
    """Raise ValueError unless lr, betas, eps, weight_decay are in range and `group` wants AdamW without variations.

    lr may be a tensor of one number, which a schedule changes in place.
    """
    for name in ("lr", "eps", "weight_decay"):
        value = group[name]
        one = value.item() if name == "lr" and isinstance(value, Tensor) and value.numel() == 1 else value
        require(is_number(one), f"{name} is {value!r}; it must be a finite number of at least 0")
    betas = group["betas"]
    pair = isinstance(betas, (tuple, list)) and len(betas) == 2 and all(is_number(beta, below=1) for beta in betas)
    require(pair, f"betas is {betas!r}; it must be two numbers from 0 up to, not including, 1")
    for name, only in PLAIN.items():
        require(group.get(name, only) == only, f"{name} is {group.get(name)!r}; PagedAdamW knows only {name}={only}")


def check_parameter(param: Tensor, name: str) -> None:
    """Raise ValueError unless `param`, whose `name` is told, is real and its gradient, if it has one, dense."""
    real, dense = param.is_floating_point(), param.grad is None or param.grad.layout is torch.strided
    require(real, f"{name} is {param.dtype}; give PagedAdamW real floating-point parameters only")
    require(dense, f"{name} has a sparse gradient; make it dense, as nn.Embedding does with sparse=False")


def check_state(entry: dict, param: Tensor, name: str) -> None:
    """Raise ValueError unless `entry` holds a step and two moments of the shape of `param`, whose `name` is told.

    What else hooks have put there may stay; but a third moment, amsgrad's, would be lost on the way.
    """
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in entry.items()}
    needed = {"step": ()} | dict.fromkeys(MOMENTS, tuple(param.shape))
    found = {key: shape for key, shape in shapes.items() if key in needed or key == "max_exp_avg_sq"}
    require(found == needed, f"{name} comes with state of shapes {shapes}; it needs {needed}")
    for key in MOMENTS:
        kind = type(entry[key]).__name__
        require(isinstance(entry[key], Tensor), f"{name} comes with {key} as {kind}; it must be a tensor")


def check_saved(saved: dict) -> None:
    """Raise ValueError unless `saved` is a dict of state and groups, as an optimizer's state_dict() returns it."""
    whole = isinstance(saved, dict) and {"state", "param_groups"} <= saved.keys()
    require(whole, "what is to be loaded has no state and param_groups; give what an optimizer's state_dict() returned")


def groups_with(saved: list[dict], groups: list[dict]) -> list[dict]:
    """`groups` with the settings of the saved ones. Raises ValueError for other sizes, or settings out of range."""
    sizes, wanted = ([len(group["params"]) for group in of] for of in (saved, groups))
    require(sizes == wanted, f"the groups to load have {sizes} parameters; the optimizer's groups have {wanted}")
    made = [old | copy.deepcopy(new) | {"params": old["params"]} for old, new in zip(groups, saved, strict=True)]
    for group in made:
        check_settings(group)
    return made


def update(param: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict) -> None:
    """One step in place, in torch's order (arXiv 1711.05101, algorithm 2); param, grad, m and v share one shape."""
    m, v, lr, (beta1, beta2) = state["exp_avg"], state["exp_avg_sq"], group["lr"], group["betas"]
    lr = lr.squeeze() if isinstance(lr, Tensor) else lr
    state["step"] += 1
    t = state["step"].item()
    param.mul_(1 - lr * group["weight_decay"])  # decoupled: the decay does not enter m and v
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = (v.sqrt() / (1 - beta2**t) ** 0.5).add_(group["eps"])
    param.addcdiv_(m, root, value=-(lr / (1 - beta1**t)))


def new_state() -> dict:
    """What the state of a parameter is before its first step; a moment of one zero stands for zeros of any shape."""
    return {"step": 0.0} | dict.fromkeys(MOMENTS, torch.zeros((), device="cpu"))


def step_dtype() -> torch.dtype:
    """The dtype in which torch.optim.AdamW counts steps."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def on_host(value: object) -> object:
    """A copy with the tensors of dicts, lists and tuples on the CPU: moments, settings, what hooks have put there."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if type(value) is dict:
        return {key: on_host(part) for key, part in value.items()}
    return type(value)(map(on_host, value)) if type(value) in (list, tuple) else copy.deepcopy(value)
