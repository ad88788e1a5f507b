"""LoRA+: B learns faster than A (arXiv 2402.12354, section 4).

    lr of A = lr,        lr of B = ratio · lr,        ratio ≈ 16 in the paper

A and B have different roles. A reads the d_in inputs and is random at the start; B writes the d_out outputs and is
zero. A step of Adam moves every entry by about lr, whatever the gradient's size. So it moves A x, a sum over d_in
inputs, by about lr · d_in, but the output, through B, a sum over r, only by about lr · r. With one rate for both, what
A can bear bounds it, and B is the one that is too slow: the more so, the wider the layer. (This argument is ours. The
paper argues from the limit of infinite width that feature learning needs lr_B / lr_A to grow with it.)

    optimizer = torch.optim.AdamW(loraplus_param_groups(model, lr=1e-3, ratio=16))

The authors' code also gives the higher rate to every one-dimensional parameter, such as a bias. The paper's argument is
about B alone, and so is this function.

This file imports nothing: copy it and it runs.
"""


def loraplus_param_groups(model, lr: float, ratio: float = 16.0, weight_decay: float | None = None) -> list[dict]:
    """The trainable parameters of `model` as groups for an optimizer: every B at lr · ratio, all others at lr.

    An adapter is told by its role, not its class: any module that has `delta_weight` and `B`. Every trainable
    parameter is in exactly one group; a group that would be empty is left out. A `weight_decay` given here stands in
    each group; without one, that of the optimizer holds in both: AdamW(loraplus_param_groups(m, lr), weight_decay=0.1).

    Raises:
        ValueError: if nothing is trainable, if no trainable parameter is a B (then a ratio would do nothing), for an
            lr or a ratio that is not positive and finite, for a weight decay that is negative or not finite.
    """
    _check("lr", lr, lr > 0)
    _check("ratio", ratio, ratio > 0)
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    _check("weight_decay", weight_decay or 0, not decay or weight_decay >= 0)
    adapters = [module for module in model.modules() if hasattr(module, "delta_weight") and hasattr(module, "B")]
    fast = {id(module.B) for module in adapters}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not any(id(parameter) in fast for parameter in trainable):
        found = f"none of its {len(trainable)} trainable parameters is" if trainable else "nothing in it is trainable:"
        raise ValueError(f"the model has no B to train faster: {found} an adapter's B; add_adapters first")
    slow_group = {"params": [p for p in trainable if id(p) not in fast], "lr": lr} | decay
    fast_group = {"params": [p for p in trainable if id(p) in fast], "lr": lr * ratio} | decay
    return [group for group in (slow_group, fast_group) if group["params"]]


def _check(name: str, value: float, in_range: bool) -> None:
    if not in_range or value == float("inf"):
        wanted = "a finite number of at least 0" if name == "weight_decay" else "a positive, finite number"
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")
