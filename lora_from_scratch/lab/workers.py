"""Many runs on the cores there are: every run on one thread, in a process of its own, so no number depends on how many.

Runs travel to the workers and results back as pickles through pipes. (`multiprocessing` would import the calling
chapter again in every worker, and a chapter does its work when it is imported.)
"""

import atexit
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from lora_from_scratch.lab import progress
from lora_from_scratch.lab.cache import NOTED, ROOT, build_folder
from lora_from_scratch.lab.finetune import Run, carry_out
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.pretrain import pretrained

SECONDS: list[float] = []  # what each run that this process asked for took, when it was carried out


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carry_out_all(
    runs: Sequence[Run], preset: Preset, workers: int | None = None, work: Callable | None = None
) -> list[dict]:
    """The results of `runs`, in their order. Raises RuntimeError, with the worker's words, if one fails.

    `work(run, preset)` is what is done with each; without it, `carry_out`. It travels as a pickle, so it is a function
    of a module, such as `watch.watch`, or a functools.partial of one. For a work that takes several runs in turn, a
    run is a sequence of them.
    """
    work = work or carry_out
    workers = workers or preset.workers or cores()
    firsts = (run if isinstance(run, Run) else run[0] for run in runs)  # a chain starts from its first run's base
    make_bases([run.seed for run in firsts], preset, workers)  # once, before two workers look for the same one
    results = _all(runs, preset, workers, work, "training runs")
    SECONDS.extend(result["seconds"] for result in results)
    return results


def make_bases(seeds: Iterable[int], preset: Preset, workers: int | None = None) -> None:
    """Make sure that the bases of these seeds are in the cache."""
    bases = [Run(seed=base) for base in sorted({preset.base_of(seed) for seed in seeds})]
    _all(bases, preset, workers or preset.workers or cores(), make_base, "bases")


def make_base(run: Run, preset: Preset) -> dict:
    """Make sure that the base of a run's seed is in the cache."""
    pretrained(preset, run.seed)
    return {}


def _all(runs: Sequence[Run], preset: Preset, workers: int, work: Callable, what: str) -> list[dict]:
    results: list[dict] = [{}] * len(runs)
    if len(runs) == 1 and work is make_base:  # with its progress bar
        workers = 1
    with progress.bar(total=len(runs), desc=what) as shown:
        for i, result in _here(runs, preset, work) if workers == 1 else _in_processes(runs, preset, workers, work):
            results[i] = result
            shown.update()
    return results


def _here(runs: Sequence[Run], preset: Preset, work: Callable) -> Iterator[tuple[int, dict]]:
    for i, run in enumerate(runs):
        try:
            yield i, work(run, preset)
        except Exception as error:
            raise RuntimeError(f"{run} failed: {error}") from error


def _in_processes(runs: Sequence[Run], preset: Preset, workers: int, work: Callable) -> Iterator[tuple[int, dict]]:
    pool, idle = ThreadPoolExecutor(workers), [_worker(i) for i in range(workers)]
    everyone = list(idle)
    try:
        try:
            waiting = {pool.submit(_hand_over, idle, work, run, preset): i for i, run in enumerate(runs)}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except Exception:  # a run failed: those that wait are not begun, those that are under way end
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()
    except Exception:
        raise
    except BaseException:  # interrupted, while it waited after a failure too: a worker in the middle is of no use
        _worker.cache_clear()  # first: a second interruption may come at any line
        for process in everyone:
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in everyone:
            process.wait()
        raise


@functools.cache
def _worker(_: int) -> subprocess.Popen:
    """A process that carries out runs until its input ends; kept for the next call, ended with this process."""
    command = [sys.executable, "-m", "lora_from_scratch.lab.workers"]
    # A relative folder would be another one from ROOT. Threads that wait do so quietly, beside whatever else runs.
    environment = {**os.environ, "LORA_BUILD": str(build_folder()), "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    atexit.register(process.kill)
    return process


def _hand_over(idle: list[subprocess.Popen], work: Callable, run: Run, preset: Preset) -> dict:
    process = idle.pop()
    try:
        pickle.dump((work, run, preset, versions()), process.stdin)
        process.stdin.flush()
        error, result = pickle.load(process.stdout)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # gone, or gone in the middle of its answer
        _worker.cache_clear()
        raise RuntimeError(f"the worker that had {run} ended; is there enough memory?") from None
    idle.append(process)
    if error:
        raise RuntimeError(f"{run} failed in a worker:\n{error}")
    return result


def versions() -> dict[str, str]:
    """{module: hash of its meaning as imported} of all of the project that this process runs."""
    return {module.__name__: meaning for module, (_, meaning) in NOTED.items() if module.__name__ != "__main__"}


def _serve() -> None:
    """The worker's side: read (work, run, preset), answer (error or None, result), until the pipe closes."""
    import signal
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the caller's; it ends this process
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # so that a print cannot get between the pickles
    while True:
        try:
            work, run, preset, wanted = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if other := [name for name, version in versions().items() if wanted.get(name, version) != version]:
                raise RuntimeError(f"{', '.join(other)} was edited since this session began; restart Python")
            answer = (None, work(run, preset))
        except Exception:
            answer = (traceback.format_exc(), {})
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
