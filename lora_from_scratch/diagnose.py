"""What is wrong with this run? Looks at a model, and at what trains it, and says what it sees.

    for finding in diagnose(model, optimizer, batch, loss):
        print(finding)

It trains nothing: one forward and one backward pass at most, after which everything is as it was. It knows the models
of this project, any torch model with its adapters, and a `transformers` model under PEFT, of which it imports nothing.
On a run that is well it says nothing. What it cannot see, because it stands in a file, in a prompt or in another
program, chapter 20 lists with where to look instead.

The checks stand in `clinic/`, by what they look at: parameters.py, values.py, saving.py, combined.py, running.py,
labels.py.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from lora_from_scratch.clinic.combined import of_combined
from lora_from_scratch.clinic.finding import Finding
from lora_from_scratch.clinic.labels import of_labels
from lora_from_scratch.clinic.layers import adapters_of
from lora_from_scratch.clinic.look import has_loss, look
from lora_from_scratch.clinic.parameters import of_flags, of_float16, of_optimizers, of_places, of_rates
from lora_from_scratch.clinic.running import of_gradients, of_loss, of_use
from lora_from_scratch.clinic.saving import of_saving
from lora_from_scratch.clinic.values import of_values

__all__ = ["Finding", "diagnose"]


def diagnose(
    model: nn.Module,
    optimizer: object | Sequence | None = None,
    batch: object = None,
    loss: Callable[[nn.Module, object], object] | None = None,
    saved: Mapping[str, Tensor] | None = None,
) -> list[Finding]:
    """What is wrong, the gravest first as far as one hides another; an empty list where nothing is seen.

    Args:
        model: with adapters or without. Under DistributedDataParallel, give `model.module`.
        optimizer: a torch optimizer, or a list of all that train this model. Without one it is not known whether the
            model is to be trained, and less is said.
        batch: what `loss` takes; or keyword arguments of a transformers model, with labels. A batch without a loss and
            without labels says that the model is at use.
        loss: the function that training calls, of (model, batch), that gives a tensor of one number.
        saved: what the file of the run holds, or will hold, {name: tensor}. Without it nothing is said of what trains
            beside the adapters, nor of a B of zeros at use, but where PEFT's settings tell.

    Modes, gradients (None where they were None), flags, buffers of at most 65,536 numbers and the random state of
    Python, NumPy, the CPU and the model's CUDA devices are as before, also after an error or an interrupt.
    Raises ValueError for an optimizer, a loss or a file that is none; whatever the forward raises, with what was seen
    before as a note.
    """
    optimizers = _optimizers(optimizer)
    _check(model, batch, loss, saved)
    adapters, learns = adapters_of(model), has_loss(batch, loss)
    training = bool(optimizers) or (learns and model.training)
    found = of_flags(model, adapters, training) + of_optimizers(model, optimizers) + of_places(model, adapters)
    found += of_float16(model, optimizers) + of_rates(adapters, optimizers)
    at_use = batch is not None and not learns and not optimizers
    found += of_values(model, adapters, optimizers, at_use, saved)
    found += of_saving(model, adapters, bool(optimizers), saved)
    found += of_combined(adapters)
    if at_use:
        found += of_use(model, adapters)
    if learns:
        try:
            seen = look(model, adapters, batch, loss)
        except BaseException as error:
            for finding in found:
                error.add_note(f"diagnose saw before: {finding}")
            raise
        found += of_gradients(adapters, seen) + of_loss(adapters, batch, seen) + of_labels(model, batch, seen.counted)
    return found


def _check(model: object, batch: object, loss: object, saved: object) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}; give the model itself, a torch module")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss is {type(loss).__name__}; give the function of (model, batch) that training calls")
    if loss is not None and batch is None:
        raise ValueError("there is a loss and no batch; give one batch, as training would")
    if saved is not None and not (isinstance(saved, Mapping) and all(isinstance(t, Tensor) for t in saved.values())):
        raise ValueError(f"saved is {type(saved).__name__}; give the file's tensors by their names, as load_file does")


def _optimizers(given: object) -> list:
    optimizers = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    for one in optimizers:
        if not hasattr(one, "param_groups") or not hasattr(one, "state"):
            raise ValueError(f"optimizer is {type(one).__name__}; give a torch optimizer, or a list of them")
    return optimizers
