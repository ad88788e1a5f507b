"""Which layers of a model get adapters: by name, by expression, or all linear ones but the output head.

The meanings are those of PEFT's `target_modules`, with one difference: what cannot be adapted is an error that names
the layer, and a name that fits nothing is an error that lists what there is. Nothing is skipped silently.
`replace_modules` puts what is made of the chosen layers in their places.
"""

import re

from torch import nn

from lora_from_scratch.lora import check_linear


def check_targets(targets: str | list[str] | tuple[str, ...]) -> None:
    """Raise ValueError unless `targets` is "all-linear", a regular expression, or a list of names."""
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f'targets is {targets!r}; give "all-linear", a list of names, or an expression')
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise ValueError(f"targets is {targets!r}, which is no regular expression: {error}") from error


def find_targets(model: nn.Module, targets: str | list[str] | tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers that `targets` means in `model`, by dotted name. Raises ValueError as `add_adapters` says."""
    check_targets(targets)
    modules = {name: module for name, module in model.named_modules() if name}
    if targets == "all-linear":
        found = {n: m for n, m in modules.items() if _is_linear(m) and not _is_output_head(model, n, m)}
    elif isinstance(targets, str):
        found = {n: m for n, m in modules.items() if re.fullmatch(targets, n)}
    else:
        found = {n: m for n, m in modules.items() if any(_ends_with(n, t) for t in targets)}
        missing = [t for t in targets if not any(_ends_with(n, t) for n in found)]
        if missing:
            raise ValueError(f"no layer is called {_some(missing)}; {_what_there_is(modules)}")
    if not found:
        hint = f' (did you mean the list ["{targets}"]?)' if any(_ends_with(n, targets) for n in modules) else ""
        raise ValueError(f"targets {targets!r} match no layer{hint}; {_what_there_is(modules)}")
    for name, module in found.items():
        try:
            check_linear(module)
        except ValueError as error:
            raise ValueError(f"target {name}: {error}") from error
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise ValueError(
                f"target {name}: nn.MultiheadAttention reads this layer's weight and never calls it, so an adapter's "
                "dropout would do nothing; leave it out of the targets, or use separate linear layers"
            )
    return found


def replace_modules(module: nn.Module, swap: dict[nn.Module, nn.Module]) -> None:
    """Walk down from `module`; wherever a child is a key of `swap`, put its value there instead."""
    for name, child in list(module._modules.items()):  # not named_children(): it skips a module's second place
        if child in swap:
            setattr(module, name, swap[child])
        elif child is not None:
            replace_modules(child, swap)


def _is_linear(module: nn.Module) -> bool:
    # The class is asked first: where `weight` is a property, reading it may decode a whole matrix.
    has_weight = hasattr(type(module), "weight") or hasattr(module, "weight")
    linear_like = hasattr(module, "in_features") and hasattr(module, "out_features") and has_weight
    return linear_like or type(module).__name__ == "Conv1D"


def _is_output_head(model: nn.Module, name: str, module: nn.Module) -> bool:
    """The layer that gives the logits: the model says so, its name does, or its weight is an embedding's."""
    if name.rpartition(".")[2] == "lm_head":
        return True
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is module:
        return True
    if hasattr(type(module), "weight"):
        return False  # a property, computed anew at every call: no embedding holds that
    return any(module.weight is m.weight for m in model.modules() if isinstance(m, nn.Embedding))


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _what_there_is(modules: dict[str, nn.Module]) -> str:
    linear = sorted({n.rpartition(".")[2] for n, m in modules.items() if _is_linear(m)})
    return f"linear layers here end in {_some(linear, 20)}" if linear else "there are no linear layers here"


def _some(names: list[str], at_most: int = 6) -> str:
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")
