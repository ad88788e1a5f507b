"""A whole model's linear layers in 4 bits: the frozen base of QLoRA (arXiv 2305.14314, section 3).

model = quantize_model(model)                            # the base, smaller
model = add_adapters(model, AdapterConfig(rank=16))      # what is trained, on top
"""

from torch import nn

from lora_from_scratch.lora import check_replaceable
from lora_from_scratch.qlora import NF4Linear
from lora_from_scratch.targets import find_targets, replace_modules, unwrapped


def quantize_model(
    model: nn.Module,
    targets: str | list[str] | tuple[str, ...] = "all-linear",
    block_size: int = 64,
    double: bool = True,
) -> nn.Module:
    """Replace the target layers of `model` by NF4Linear, in place, and return it. If anything is refused, nothing has.

    Args:
        model: not adapted yet. Embeddings, norms and the output head keep their precision under "all-linear".
        targets: as in AdapterConfig.
        block_size, double: as in nf4.quantize.

    Raises:
        ValueError: for a target that matches nothing, has an adapter, is in 4 bits already, has hooks or a
            forward of its own, or is no nn.Linear with a finite weight. The message names it.
    """
    adapted = [name for name, module in model.named_modules() if hasattr(type(module), "delta_weight")]
    if adapted:
        raise ValueError(
            f"the model has adapters already, the first at {adapted[0] or 'its root'}; quantize first, then add them"
        )
    swap = {}
    for name, module in find_targets(model, targets).items():
        try:
            layer = unwrapped(module)
            check_replaceable(layer)
            swap[module] = NF4Linear.from_linear(layer, block_size, double)
        except ValueError as error:
            raise ValueError(f"target {name}: {error}") from error
    replace_modules(model, swap)
    return model
