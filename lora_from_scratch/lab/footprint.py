"""The memory that a lesson takes, as the system sees it: two steps in a process of its own, and the most it ever held.

A plan counts tensors (memory.py, peaks.py). A process holds more: libraries, the checkpoint's file and tokenizer, room
that operations work in, and what the allocator keeps back of freed tensors. So the process says what it holds once the
model is loaded, and the most it holds during the steps. The difference, and the model's weights, are to be compared
with a plan. Linux alone counts so (/proc).

What the allocator keeps back is left out: it is asked to give back what is freed. By default glibc keeps tensors of
less than 32 MB for later ones, which seldom fit.
"""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

from lora_from_scratch.lab.adapt import THREADS, Lesson, fit, prepared
from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.checkpoint import load_checkpoint
from lora_from_scratch.lab.train import threads


def footprint(lesson: Lesson, give_back: bool = True) -> int | None:
    """The bytes of the model and of what comes on top during the steps of `lesson`, at their most.

    With `give_back` False glibc's allocator is left as it is. None where there is no /proc. Raises RuntimeError, with
    the process's words, if it fails.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "lora_from_scratch.lab.footprint"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    if give_back:
        environment["MALLOC_MMAP_THRESHOLD_"] = "100000"  # whatever is larger is the system's again when it is freed
    done = subprocess.run(command, input=pickle.dumps(lesson), capture_output=True, cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"the process that measured {lesson} failed:\n{done.stderr.decode()}")
    return int(done.stdout)


def _held(what: str) -> int:
    """Bytes of this process that lie in memory: VmRSS now, VmHWM the most since the last reset."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024


def _measure() -> int:
    lesson = pickle.load(sys.stdin.buffer)
    checkpoint = load_checkpoint()
    gc.collect()
    before = _held("VmRSS") - sum(p.nbytes for p in checkpoint.model.parameters())
    with threads(THREADS):
        model = prepared(checkpoint.model, lesson)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten: loading needs more for a moment
        fit(model, lesson, checkpoint, lambda: None)
    return _held("VmHWM") - before


if __name__ == "__main__":
    print(_measure())
