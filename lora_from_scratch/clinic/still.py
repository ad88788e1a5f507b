"""A block after which a model is as it was: modes, gradients, flags, running statistics and the random state."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 2**16  # numbers: a larger buffer holds weights in few bits, or what a pass only reads


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Run the block, then put back what a forward and a backward pass may move, also where the block raises.

    That is: the mode of each module; each parameter's `grad`, None where it was None, and `requires_grad`; buffers of
    at most SMALL numbers, such as running statistics and counts; and the random state of Python, of NumPy if it is
    loaded, of torch on the CPU and on each CUDA device of the model. Inside, no parameter has a gradient, and what else
    is hooked on to one, such as an optimizer's step in backward, is unhooked.
    """
    parameters, modes = list(model.parameters()), [(module, module.training) for module in model.modules()]
    kept = [(p, p.grad, p.requires_grad) for p in parameters]
    hooked = [(hooks, dict(hooks)) for p in parameters if (hooks := p._post_accumulate_grad_hooks)]
    running = [b for b in model.buffers() if b.numel() <= SMALL and not b.is_meta]
    copies = [b.clone() for b in running]
    devices = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
    numpy, draws = sys.modules.get("numpy"), random.getstate()
    numpy_draws = numpy.random.get_state() if numpy else None
    try:
        for p in parameters:
            p.grad = None
        for hooks, _ in hooked:
            hooks.clear()
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for p, gradient, flag in kept:
            p.requires_grad_(flag)
            p.grad = gradient
        for hooks, functions in hooked:
            hooks.update(functions)
        with torch.no_grad():
            for buffer, copy in zip(running, copies, strict=True):
                buffer.copy_(copy)
        for module, mode in modes:
            module.training = mode
        random.setstate(draws)
        if numpy:
            numpy.random.set_state(numpy_draws)
