"""Which layers of a model get adapters: by name, by expression, or all linear ones but the output head.

The meanings are those of PEFT's `target_modules`, with one difference: what cannot be adapted is an error that names
the layer, and a name that fits nothing is an error that lists what there is. Nothing is skipped silently.
`replace_modules` puts what is made of the chosen layers in their places.

A compiled or checkpointed layer is one layer, under its own name, with what it is wrapped in.
"""

import re
import warnings

from torch import nn

from lora_from_scratch.lora import check_linear

HEADS = ("lm_head", "score", "classifier", "qa_outputs")  # names of the layers that give logits
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")  # what torch.compile and torch's checkpoint_wrapper hold


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
    modules, heads = named_layers(model), _said_heads(model)
    if targets == "all-linear":
        found = {n: m for n, m in modules.items() if _is_linear(unwrapped(m)) and not _is_head(n, unwrapped(m), heads)}
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
        if isinstance(modules.get(name.rpartition(".")[0], model), nn.MultiheadAttention):
            raise ValueError(
                f"target {name}: nn.MultiheadAttention reads this layer's weight and never calls it, so an adapter's "
                "dropout would do nothing; leave it out of the targets, or use separate linear layers"
            )
    if targets == "all-linear":
        _warn_of_stacks(model)
    return found


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module below `model` by its dotted name, without the names of wrappers: the outermost one of each name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        found.setdefault(".".join(part for part in name.split(".") if part not in WRAPPERS), module)
    found.pop("")
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """The layer itself, without what torch.compile or a checkpoint_wrapper put around it."""
    while inner := next((module._modules[name] for name in WRAPPERS if name in module._modules), None):
        module = inner
    return module


def replace_modules(model: nn.Module, swap: dict[nn.Module, nn.Module]) -> None:
    """Wherever a module below `model` is a key of `swap`, put its value there instead: everywhere, or, if that is
    interrupted, nowhere."""
    places = [(parent, n, m) for parent in model.modules() for n, m in parent._modules.items() if m in swap]
    try:
        for parent, name, module in places:
            setattr(parent, name, swap[module])
    except BaseException:
        for parent, name, module in places:
            setattr(parent, name, module)
        raise


def _is_linear(module: nn.Module) -> bool:
    # The class is asked first: where `weight` is a property, reading it may decode a whole matrix.
    has_weight = hasattr(type(module), "weight") or hasattr(module, "weight")
    linear_like = hasattr(module, "in_features") and hasattr(module, "out_features") and has_weight
    return linear_like or type(module).__name__ == "Conv1D"


def _said_heads(model: nn.Module) -> list[object]:
    """Layers that the model or a part of it names as its output, and the weights of embeddings, which may be tied."""
    said: list[object] = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    for part in model.modules():
        if hasattr(type(part), "get_output_embeddings"):
            try:
                said.append(part.get_output_embeddings())
            except (AttributeError, NotImplementedError):  # a model without a head
                continue
    return said


def _is_head(name: str, module: nn.Module, said: list[object]) -> bool:
    """Whether it gives logits: by its name before any numbered block, by the model's word, by an embedding's weight."""
    parts = name.split(".")
    outside = next((parts[:i] for i, part in enumerate(parts) if part.isdigit()), parts)
    if parts[-1] == "lm_head" or set(outside) & set(HEADS):
        return True
    weight = None if hasattr(type(module), "weight") else module.weight  # a property is no embedding's
    return any(thing is not None and (thing is module or thing is weight) for thing in said)


def _warn_of_stacks(model: nn.Module) -> None:
    """Tell of experts: several matrices in one 3-D parameter, which no layer calls by itself, so none is adapted."""
    own = [(n, m) for n, m in model.named_modules() if not type(m).__module__.startswith("torch.nn.")]
    held = [(f"{n}.{name}".strip("."), p) for n, m in own for name, p in m._parameters.items() if p is not None]
    stacks = {name: p.numel() for name, p in held if p.dim() == 3 and min(p.shape) > 1 and p.is_floating_point()}
    packed = sum(2 * b.numel() for n, b in model.named_buffers() if n.endswith("packed"))  # two a byte
    share = sum(stacks.values()) / max(1, packed + sum(p.numel() for p in model.parameters()))
    if share >= 0.01:  # less is a table of positions or the like
        warnings.warn(
            f"{_some(list(stacks))} hold several matrices in one parameter, as experts do: {share:.0%} of the weights, "
            "which are passed over and stay as they are",
            stacklevel=4,
        )


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _what_there_is(modules: dict[str, nn.Module]) -> str:
    linear = sorted({n.rpartition(".")[2] for n, m in modules.items() if _is_linear(unwrapped(m))})
    return f"linear layers here end in {_some(linear, 20)}" if linear else "there are no linear layers here"


def _some(names: list[str], at_most: int = 6) -> str:
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")
