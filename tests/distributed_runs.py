"""What test_distributed.py starts under torchrun: `distributed_runs.py MODE ...`, in each of the processes.

together OUT     many runs in one process group, since starting Python takes longer than they do
three OUT        on three processes, over which 128 rows are not shared evenly
fails HOW ...    the command line of distributed.py, but at its third step process 1 is killed, or goes to sleep
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from lora_from_scratch.lab import parallel, resume, traffic
from lora_from_scratch.lab.distributed import join, leave, main
from lora_from_scratch.lab.parallel import Settings, Training, whole

KINDS = [(fsdp, quantize, dtype) for fsdp in (False, True) for quantize, dtype in
         ((False, "float64"), (True, "float64"), (False, "float32"))]  # fmt: skip
RESUMED = [(False, False), (True, True), (False, True), (True, False)]  # FSDP2 before the stop, and after it
EXACT = Settings(dtype="float64", batch=4)
THREE = Settings(dtype="float64", batch=3, rank=4)
DROPPING = Settings(dtype="float64", batch=4, rank=4, dropout=0.2)


WRITTEN = []  # what this process wrote


def noted(write):
    """`write`, and a note that this process called it."""
    return lambda *arguments: (WRITTEN.append(arguments), write(*arguments))


def taken(training, steps: int):
    """The run after so many more steps."""
    for _ in range(steps):
        training.step()
    return training


def numbers(training) -> dict:
    return {"losses": training.losses(), "adapters": training.adapters()}


def one_kind(place, out: Path, settings: Settings, fsdp: bool) -> dict:
    """Eight steps: the first one's gradient, what the last one sends, and the file that is saved."""
    training = taken(Training(settings, fsdp, place), 1)
    found = {"gradient": {n: whole(p.grad) for n, p in training.model.named_parameters() if p.requires_grad}}
    taken(training, 6)
    found["handed"], found["written"] = traffic.counted(training.step)
    found["kept"] = traffic.kept(training.model)
    training.save(out)
    return found | numbers(training)


def resumed(place, out: Path, before: bool, after: bool) -> dict:
    """Three steps, the file, other random numbers, a new run, two steps."""
    path = out / f"{before}-{after}.pt"
    resume.keep(taken(Training(DROPPING, before, place), 3), path)
    training = Training(DROPPING, after, place)
    torch.rand(3)
    resume.take_up(training, path)
    return numbers(taken(training, 2))


def together(place, out: Path) -> dict:
    found = {}
    for fsdp, quantize, dtype in KINDS:
        folder = out / f"{fsdp}-{quantize}-{dtype}"
        found[fsdp, quantize, dtype] = one_kind(place, folder, replace(EXACT, quantize=quantize, dtype=dtype), fsdp)
    found["never stopped"] = numbers(taken(Training(DROPPING, False, place), 5))
    for before, after in RESUMED:
        found["resumed", before, after] = resumed(place, out, before, after)
    return found


def three(place, out: Path) -> dict:
    return {fsdp: one_kind(place, out / str(fsdp), THREE, fsdp) for fsdp in (False, True)}


def fails(how: str, arguments: list[str]) -> int:
    step = Training.step

    def or_not(self):
        if self.place.number == 1 and self.done == 2:
            os.kill(os.getpid(), signal.SIGKILL) if how == "killed" else time.sleep(600)
        step(self)

    Training.step = or_not
    return main(arguments)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    if mode == "fails":
        leave(fails(rest[0], rest[1:]))
    place, out = join(timeout=200), Path(rest[0])
    parallel.save_adapter, resume.save_atomically = noted(parallel.save_adapter), noted(resume.save_atomically)
    found = {"together": together, "three": three}[mode](place, out)
    found["written by"] = [0] * place.count
    torch.distributed.all_gather_object(found["written by"], len(WRITTEN))
    if place.number == 0:
        torch.save(found, out / "found.pt")
    torch.distributed.barrier()
    leave(0)
