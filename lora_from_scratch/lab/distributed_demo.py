"""One process beside two, `make distributed`: the same run in several ways, and how far each is from one process's.

Each run of two processes is started by torchrun, as a reader would start it (distributed.py), and ends with an exit
status of its own. "No exchange" is what two would do who forget it: each learns from its own rows alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.parallel import ALONE, Place, Settings, Training
from lora_from_scratch.lab.train import threads
from lora_from_scratch.peft_format import read_tensors

STEPS, LIMIT = 8, 300  # the second is how many seconds a run may take
TOLERANCE = 1e-5  # of a loss, in nats a character
BASES = {  # settings, as options of distributed.py
    "float64": ["--dtype=float64"],
    "float64, the base in 4 bits": ["--dtype=float64", "--quantize"],
    "float32, in which AdamW makes steps of rounding": ["--dtype=float32"],
}
Result = tuple[list[float], dict[str, Tensor]]  # the losses and the adapter


def here(options: list[str], folder: Path, place: Place = ALONE) -> Result:
    """A run in this process."""
    settings = Settings(quantize="--quantize" in options, dtype=options[0].partition("=")[2])
    with threads(1):
        training = Training(settings, place=place)
        for _ in range(STEPS):
            training.step()
    training.save(folder)
    return training.losses(), read_tensors(folder)


def without_exchange(options: list[str], folder: Path) -> Result:
    """Two runs, each on its half of every batch: the mean of their losses, and the adapter that the first one saves."""
    (ours, adapter), (theirs, _) = (here(options, folder, Place(number=number, count=2)) for number in (0, 1))
    return [(a + b) / 2 for a, b in zip(ours, theirs, strict=True)], adapter


def launched(options: list[str], folder: Path) -> tuple[int | None, dict]:
    """(exit status or None, report) of two processes under torchrun, which leave their adapter in `folder`."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["lora_from_scratch.lab.distributed", *options, f"--steps={STEPS}", f"--save={folder}"]
    command += [f"--report={report}"]
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return None, {}
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
    return done.returncode, json.loads(report.read_text()) if report.exists() else {}


def farthest(one: Result, other: Result) -> tuple[float, float]:
    """The largest differences of a loss, and of an entry of the adapters. Raises ValueError if these differ in form."""
    form, its = ({name: (t.shape, t.dtype) for name, t in tensors.items()} for _, tensors in (one, other))
    if form != its:
        raise ValueError(f"the adapters differ in form: {form} and {its}")
    losses = max(abs(a - b) for a, b in zip(one[0], other[0], strict=True))
    return losses, max((one[1][name] - other[1][name]).abs().max().item() for name in form)


def show(name: str, result: Result, one: Result | None = None) -> None:
    """Print the losses of a run, and how far it is from one process's."""
    print(f"  {name:<14}" + "".join(f"{loss:9.5f}" for loss in result[0]))
    if one is not None:
        losses, entries = farthest(one, result)
        print(f"{'':16}from one process: losses {losses:.1e}, adapter {entries:.1e} at most")


def compare(options: list[str], root: Path) -> int:
    """Print one process, two without the exchange, and two by DDP and by FSDP2; how many of these failed.

    A run fails that does not end with 0, or whose losses are not one process's.
    """
    with ThreadPoolExecutor() as pool:  # two at a time: most of it is waiting for Python to start
        asked = {name: [*options, *more] for name, more in {"DDP": [], "FSDP2": ["--fsdp"]}.items()}
        running = {name: pool.submit(launched, asked[name], root / name) for name in asked}
        one = here(options, root / "one")
        show("one process", one)
        show("no exchange", without_exchange(options, root / "apart"), one)
    failed = 0
    for name, run in running.items():
        status, report = run.result()
        if status == 0:
            result = report["losses"], read_tensors(root / name)
            show(name, result, one)
            show_bytes(report)
        print(f"{'':16}" + (f"no end after {LIMIT} seconds" if status is None else f"exit status {status}"))
        failed += status != 0 or farthest(one, result)[0] > TOLERANCE
    return failed


def show_bytes(report: dict) -> None:
    """Print what a process sends at a step, and keeps."""
    sent = [f"{number:,.0f} {source}" for source, number in report["sent"].items() if number is not None]
    print(f"{'':16}bytes that a process sends at a step: {', '.join(sent)}")
    print(f"{'':16}by NCCL it would send {report['sent_by_nccl']:,.0f}; of the weights it keeps {report['kept']:,}")


def main() -> int:
    """Print everything; 1 if a run failed."""
    print(f"The loss of {STEPS} steps on the same batches, in nats a character")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options) in enumerate(BASES.items()):
            print(f"\n{name}")
            failed += compare(options, Path(folder) / str(number))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
