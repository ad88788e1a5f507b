"""A run on disk, to go on from: stopped and resumed, it gives the numbers of a run that was never stopped.

What decides the next step is more than the weights:

    A and B               whole, whichever process kept which part
    AdamW's state         both moments, whole, and the count of steps by which it corrects their start
    the place in the text the state of the generator that draws the batches, the same in every process
    the random states     one of each process: dropout draws its zeros from it

The base is not in the file: the settings make it again. All tensors are whole, so what DDP has begun FSDP2 can end, and
the other way round. On several machines the file must lie where all of them can read it.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lora_from_scratch.lab.cache import save_atomically
from lora_from_scratch.lab.parallel import Training, whole

PARTS = {"identity", "losses", "adapters", "optimizer", "data", "random"}


def keep(training: Training, path: str | Path) -> None:
    """Write a run to `path`, all of it or nothing. All processes call it together; process 0 writes."""
    own = random_of(training).get_rng_state()
    states = [own] * training.place.count
    if dist.is_initialized():
        dist.all_gather_object(states, own)
    moments = training.optimizer.state_dict()["state"]  # {0: its tensors, 1: …}, in the order of the parameters
    state = {
        "identity": identity(training),
        "losses": training.losses(),
        "adapters": training.adapters(),
        "optimizer": {i: {name: whole(value) for name, value in parts.items()} for i, parts in moments.items()},
        "data": training.data.get_state(),
        "random": states,
    }
    if training.place.number == 0:
        save_atomically(Path(path), lambda temporary: torch.save(state, temporary))
    if dist.is_initialized():
        dist.barrier()


def take_up(training: Training, path: str | Path) -> None:
    """Put a run that has not begun where the one in `path` was. Every process reads the file.

    Raises ValueError, and the run is as it was, for a file that cannot be read, and for one of other settings, another
    number of processes or another text; the message names what differs.
    """
    state = _read(Path(path))
    there, here = state["identity"], identity(training)
    names = [name for name in here | there if here.get(name) != there.get(name)]
    if names:
        differ = ", ".join(f"{name} {there.get(name)} (here {here.get(name)})" for name in names)
        raise ValueError(f"{path} is of another run, with {differ}; resume a run as it was begun")
    own = [(name, p) for name, p in training.model.named_parameters() if p.requires_grad]
    moments = {
        i: {key: value if key == "step" else part_of(value, own[i][1]) for key, value in parts.items()}
        for i, parts in state["optimizer"].items()
    }
    training.optimizer.load_state_dict(training.optimizer.state_dict() | {"state": moments})
    with torch.no_grad():
        for name, parameter in own:
            parameter.copy_(part_of(state["adapters"][name], parameter))
    training.data.set_state(state["data"])
    random_of(training).set_rng_state(state["random"][training.place.number])
    training.before, training.own = state["losses"], []


def identity(training: Training) -> dict:
    """What a run must have in common with the one that it takes up."""
    text = hashlib.sha256(training.text.numpy().tobytes()).hexdigest()[:16]  # Python's documentation changes
    return asdict(training.settings) | {"processes": training.place.count, "text": text}


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, or, if that is a part that FSDP2 keeps, the same part. Sends nothing."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def random_of(training: Training) -> ModuleType:
    """What keeps the random state that dropout draws from, with `get_rng_state` and `set_rng_state`."""
    return torch.cuda if training.place.device.type == "cuda" else torch.random


def _read(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # weights_only: a foreign file runs no code
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name a file that --checkpoint wrote") from None
    except Exception as error:  # cut off, foreign or pickled: torch has many words for it
        raise ValueError(
            f"{path} is no checkpoint, or is cut off ({type(error).__name__}); name one that --checkpoint wrote"
        ) from None
    if not isinstance(state, dict) or set(state) != PARTS:
        raise ValueError(f"{path} holds something else than a run; name a file that --checkpoint wrote")
    return state
