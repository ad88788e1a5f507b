"""Adapters trained by several processes at once, with DDP or FSDP2, over a base of 32 bits or of 4.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m lora_from_scratch.lab.distributed
        [--fsdp] [--quantize] [--steps 8] [--save FOLDER] [--checkpoint FILE] [--resume FILE] [--report FILE] ...

torchrun starts the same program as many times as it is told to, and says to each, in its environment, who it is. Here
is how they meet and how they end; what they do together is in parallel.py, resume.py and traffic.py.

**On eight GPUs** it is `--nproc-per-node 8`, and the two lines of `join` that are marked choose the device and the
library that carries the messages. On CUDA this has not been run: here it is gloo, between processes on one CPU.

A process that dies takes the run with it: torchrun sees it end, says which, and stops the others. One that hangs is
seen by the others, which wait `--timeout` seconds for it and stop. Either way the exit status is not 0, and a run
with a `--checkpoint` goes on with `--resume`.
"""

import argparse
import json
import os
import sys
import traceback
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lora_from_scratch.lab import resume, traffic
from lora_from_scratch.lab.cache import save_atomically
from lora_from_scratch.lab.parallel import ALONE, Place, Settings, Training

SETTLED = 3  # the first step whose traffic is that of all later ones


def join(timeout: float) -> Place:
    """Meet the other processes. Without what torchrun says in the environment there are none."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")  # <- a GPU for each
    backend = "nccl" if cuda else "gloo"  # <- and what carries the messages between them
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return Place(device, dist.get_rank(), dist.get_world_size())


def leave(status: int) -> None:
    """End this process at once. A thread of gloo outlives what it served, and aborts a Python that ends as usual."""
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def run(arguments: argparse.Namespace, settings: Settings, place: Place) -> None:
    """Train, write what is asked for, and print the losses."""
    training = Training(settings, arguments.fsdp, place)
    if arguments.resume:
        resume.take_up(training, arguments.resume)
    _check_length(arguments, training.done)
    report = {}
    while training.done < arguments.steps:
        if arguments.report and training.done == arguments.steps - 1:
            report = measured(training, arguments.fsdp)
        else:
            training.step()
        if arguments.checkpoint and (training.done % arguments.every == 0 or training.done == arguments.steps):
            resume.keep(training, arguments.checkpoint)
    losses = training.losses()
    if arguments.save:
        training.save(arguments.save)
    if place.number == 0:
        for step, loss in enumerate(losses, start=1):
            print(f"step {step}: {loss:.6f} nats a character")
        if arguments.report:
            text = json.dumps({"losses": losses, **report}, indent=2)
            save_atomically(Path(arguments.report), lambda temporary: temporary.write_text(text))


def measured(training: Training, fsdp: bool) -> dict:
    """Take a step; the bytes that it hands to collectives, that a process sends, and that it keeps of the weights."""
    count, gloo = training.place.count, training.place.device.type == "cpu"
    expected = traffic.handed(training.model, fsdp, count)
    found, written = traffic.counted(training.step)
    return {
        "handed": {"formula": expected, "counted": found},
        "sent": {
            "by formula": traffic.sent(expected, count, gloo),
            "as handed over": traffic.sent(found, count, gloo),
            "as written to sockets": written,
        },
        "sent_by_nccl": traffic.sent(expected, count, gloo=False),
        "kept": traffic.kept(training.model),
    }


def _check_length(arguments: argparse.Namespace, done: int) -> None:
    if arguments.every < 1:
        raise ValueError(f"--every is {arguments.every}; a checkpoint is written every 1 or more steps")
    if arguments.steps <= done:
        raise ValueError(f"--steps is {arguments.steps}, of the whole run, and {done} are done; ask for more")
    if arguments.report and (not dist.is_initialized() or arguments.steps - done < SETTLED):
        raise ValueError(
            f"--report counts what travels in the last step: it needs torchrun, and at least {SETTLED} steps to take"
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="lora_from_scratch.lab.distributed", description=__doc__.split("\n")[0])
    found.add_argument("--fsdp", action="store_true", help="shard the weights too (FSDP2); without it, DDP")
    found.add_argument("--steps", type=int, default=8, help="of the whole run, those before a resumption too")
    for field in fields(Settings):
        options = {"action": "store_true"} if field.type is bool else {"type": field.type, "default": field.default}
        found.add_argument(f"--{field.name}", **options)
    found.add_argument("--save", metavar="FOLDER", help="where to write the adapter, in PEFT's format")
    found.add_argument("--checkpoint", metavar="FILE", help="where to write the run, at its end and on the way")
    found.add_argument("--every", type=int, default=100, metavar="STEPS", help="how often on the way")
    found.add_argument("--resume", metavar="FILE", help="a checkpoint to go on from")
    found.add_argument("--report", metavar="FILE", help="where to write losses and bytes, as JSON")
    found.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="how long to wait for a process")
    return found


def main(argv: list[str] | None = None) -> int:
    """Carry out the command line; the exit status: 0 done, 1 stopped by an error, 2 something wrong was asked for."""
    arguments, place = parser().parse_args(argv), ALONE
    try:
        settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
        place = join(arguments.timeout)
        run(arguments, settings, place)
        if dist.is_initialized():
            dist.barrier()  # whoever leaves first would look dead to the others
        return 0
    except ValueError as error:
        print(f"process {place.number} of {place.count}: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print(f"process {place.number} of {place.count} stops. If a peer closed its connection, or time ran out, "
              "another process is gone or stuck: look for the one that failed first.", file=sys.stderr)  # fmt: skip
        return 1


if __name__ == "__main__":
    leave(main())
