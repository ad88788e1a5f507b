"""Runs in worker processes: the same numbers as here, in the order of the runs, and errors that come back.

Two workers are started, which takes some seconds. They read made-up text from a cache that is laid out for them.
"""

import functools
import os
import types
from dataclasses import replace
from pathlib import Path

import pytest
from test_tasks import made_up_text, use_made_up_text

from lora_from_scratch import AdapterConfig
from lora_from_scratch.lab import chain, corpus, train, watch, workers
from lora_from_scratch.lab.again import second_time
from lora_from_scratch.lab.finetune import Run, carry_out
from lora_from_scratch.lab.llama import LlamaConfig
from lora_from_scratch.lab.presets import PRESETS, Preset
from lora_from_scratch.lab.workers import carry_out_all

SIZES = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
SMALL = Preset("small", SIZES, pretrain_steps=3, pretrain_batch=4, steps=3, batch=4, seeds=2, budget=0, eval_windows=5)
ADAPTER = AdapterConfig(rank=2)
RUNS = [Run(seed=0), Run(adapter=ADAPTER), Run(task="upper", lr=1e-2), Run(adapter=ADAPTER, seed=3), Run(seed=4)]
FAILING = Run(adapter=ADAPTER, start="both zero")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A build folder with the made-up text in its cache, and workers that use it; they are ended afterwards."""
    folder = tmp_path_factory.mktemp("build")
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BUILD", str(folder))
        read = corpus.corpus.__wrapped__
        with pytest.MonkeyPatch.context() as planting:
            planting.setattr(corpus, "read_corpus", made_up_text)
            read()
        use_made_up_text(patch)
        threads = train.threads
        patch.setattr(train, "threads", lambda count: threads(1))
        popen, errors = workers.subprocess.Popen, (folder / "errors").open("w")
        start = lambda *a, **o: started.append(popen(*a, stderr=errors, **o)) or started[-1]  # noqa: E731
        patch.setattr(workers.subprocess, "Popen", start)
        workers._worker.cache_clear()
        yield folder
        workers._worker.cache_clear()
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
        errors.close()


def carried_out(build: Path, count: int, runs: list[Run] = RUNS) -> list[dict]:
    """The results with this many workers, measured anew: no cached run is left before."""
    for path in (build / "cache").glob("run-*"):
        path.unlink()
    results = carry_out_all(runs, SMALL, workers=count)
    assert len(list((build / "cache").glob("run-*"))) == len(runs)
    return results


def numbers(result: dict) -> dict:
    return {name: value for name, value in result.items() if name != "seconds"}


def test_results_are_in_the_order_of_the_runs_and_do_not_depend_on_the_workers(build):
    """One worker (this process) and two give the same numbers to the bit, each result at its run's place."""
    one, two = carried_out(build, 1), carried_out(build, 2)
    assert list(map(numbers, one)) == list(map(numbers, two))
    assert two == [carry_out(run, SMALL) for run in RUNS]
    assert len({result["task_loss"] for result in two}) == len(RUNS), "the runs can be told apart"


def test_a_second_time_is_another_training_of_the_same_base(build):
    run = Run(adapter=ADAPTER, lr=1e-2, keep=True)
    first = carry_out_all([replace(run, seed=seed) for seed in (1, 2)], SMALL, 1)
    second = second_time(run, SMALL)
    assert len(second) == 2
    for a, b in zip(first, second, strict=True):
        frozen = [name for name in a["state"] if name.endswith("base.weight") or "embed" in name]
        assert frozen and all((a["state"][name] == b["state"][name]).all() for name in frozen)
        assert a["losses"] != b["losses"] and a["task_loss"] != b["task_loss"]


def test_other_work_can_be_done_with_every_run(build):
    """Watching instead of carrying out, with arguments of its own: the same here and in a worker."""
    work = functools.partial(watch.watch, points=2, target=1.0)
    here = [carry_out_all(RUNS[:2], SMALL, count, work) for count in (1, 2)]
    for path in (build / "cache").glob("watch-*"):
        path.unlink()
    there = carry_out_all(RUNS[:2], SMALL, 2, work)
    for results in (*here, there):
        assert [result["steps"] for result in results] == [[0, 1, 3]] * 2
        assert [result["text_loss"] for result in results] == [result["text_loss"] for result in here[0]]


def test_weights_come_back_from_a_worker(build):
    """A run that keeps its weights brings them back through the pipe, to the bit."""
    run = replace(RUNS[1], keep=True)
    (here,), (there,) = carried_out(build, 1, [run]), carried_out(build, 2, [run])
    assert here["state"].keys() == there["state"].keys()
    assert all(here["state"][name].equal(there["state"][name]) for name in here["state"])


def test_an_error_in_a_worker_comes_back_with_its_words_and_the_worker_goes_on(build):
    """A run that fails is a RuntimeError with the worker's own words; the same workers serve the next call."""
    before = {workers._worker(i).pid for i in range(2)}
    with pytest.raises(RuntimeError, match="failed in a worker") as error:
        carry_out_all([RUNS[0], FAILING, RUNS[1]], SMALL, workers=2)
    assert "start='both zero'" in str(error.value)
    assert "ValueError: the first step's gradient is zero for every trainable parameter" in str(error.value)
    assert numbers(carried_out(build, 2, RUNS[:1])[0]) == numbers(carried_out(build, 1, RUNS[:1])[0])
    assert {workers._worker(i).pid for i in range(2)} == before


def test_what_a_worker_prints_does_not_get_between_the_results(build):
    """What a run prints in a worker, such as that a cache file is damaged, goes to the error stream."""
    carried_out(build, 1, RUNS[:1])
    (path,) = (build / "cache").glob("run-*")
    path.write_bytes(b"damaged")
    (result,) = carry_out_all(RUNS[:1], SMALL, workers=2)
    assert len(result["losses"]) == SMALL.steps
    assert f"cache file {path.name} cannot be read" in (build / "errors").read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead worker's pipe is flushed
def test_a_worker_that_dies_is_an_error_and_another_takes_its_place(build):
    """A run whose worker was ended is a RuntimeError that says so; afterwards there is a new worker, which works."""
    dead = [workers._worker(i) for i in range(2)]
    for process in dead:
        process.kill()
        process.wait()
    run = replace(RUNS[0], seed=17)  # in no cache
    with pytest.raises(RuntimeError, match="the worker that had .*seed=17.* ended"):
        carry_out_all([run], SMALL, workers=2)
    fresh = workers._worker(0)
    assert fresh.pid not in {process.pid for process in dead}
    result = workers._hand_over([fresh], carry_out, run, SMALL)
    assert numbers(result) == numbers(carried_out(build, 1, [run])[0])


@pytest.mark.parametrize("name", ["gpu", "smoke"])
def test_some_presets_train_one_run_at_a_time_in_this_process(monkeypatch, name):
    """On a GPU, which one run fills, and at smoke, whose runs are over in no time, no worker is started."""
    monkeypatch.setattr(workers, "make_base", lambda run, preset: {})
    monkeypatch.setattr(workers, "_worker", lambda i: pytest.fail("a worker was started"))
    monkeypatch.setattr(
        workers, "carry_out", lambda run, preset: {"seed": run.seed, "seconds": 1.5, "process": os.getpid()}
    )
    results = carry_out_all(RUNS, PRESETS[name])
    assert results == [{"seed": run.seed, "seconds": 1.5, "process": os.getpid()} for run in RUNS]


@pytest.mark.parametrize("asked, by_preset, wanted", [(None, None, 3), (None, 2, 2), (4, 2, 4)])
def test_workers_are_as_many_as_asked_else_as_the_preset_says_else_as_there_are_cores(
    monkeypatch, asked, by_preset, wanted
):
    """The argument comes first, then the preset's `workers`, then the number of cores."""
    started = []
    monkeypatch.setattr(workers, "make_base", lambda run, preset: {})
    monkeypatch.setattr(workers, "cores", lambda: 3)
    monkeypatch.setattr(workers, "_worker", started.append)
    monkeypatch.setattr(workers, "_hand_over", lambda idle, work, run, preset: {"seed": run.seed, "seconds": 1.5})
    monkeypatch.setattr(workers, "SECONDS", [])
    results = carry_out_all(RUNS, replace(SMALL, workers=by_preset), asked)
    assert results == [{"seed": run.seed, "seconds": 1.5} for run in RUNS]
    assert workers.SECONDS == [1.5] * len(RUNS)  # what the provenance adds up
    assert started == list(range(wanted))


def test_there_are_as_many_workers_as_the_process_may_use_cores(monkeypatch):
    """The cores are those that this process may run on, where the system tells, and else those of the machine."""
    monkeypatch.setattr(
        workers, "os", types.SimpleNamespace(sched_getaffinity=lambda pid: {1, 4, 6}, cpu_count=lambda: 9)
    )
    assert workers.cores() == 3
    monkeypatch.setattr(workers, "os", types.SimpleNamespace(cpu_count=lambda: 9))
    assert workers.cores() == 9
    monkeypatch.setattr(workers, "os", types.SimpleNamespace(cpu_count=lambda: None))
    assert workers.cores() == 1


def interrupt_after(count: int, monkeypatch) -> None:
    """Let the progress bar raise KeyboardInterrupt at its n-th step, as a reader's key does in mid-sweep."""
    steps = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self):
            steps.append(1)
            if len(steps) == count:
                raise KeyboardInterrupt

    monkeypatch.setattr(workers.progress, "bar", lambda **options: Bar())


def test_after_two_interruptions_with_large_answers_the_next_sweep_works(build, monkeypatch):
    """Workers in the middle of an answer are ended, and no half-read answer is taken for that of the next run."""
    runs = [Run(seed=seed, adapter=ADAPTER, keep=True, snapshots=3) for seed in range(20, 26)]
    before = {workers._worker(i).pid for i in range(2)}
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_after(2, patch)  # the first step is the base's, the second the first run's
            carry_out_all(runs, SMALL, workers=2)
    assert before.isdisjoint({workers._worker(i).pid for i in range(2)})
    assert list(map(losses, carry_out_all(runs, SMALL, workers=2))) == list(map(losses, carried_out(build, 1, runs)))


def test_an_interruption_while_the_others_end_after_a_failure_leaves_no_half_read_answer(build, monkeypatch):
    """The run beside the failed one was under way, its worker in the middle: it is ended, as after any interruption."""
    before = [workers._worker(i) for i in range(2)]

    class Interrupted(workers.ThreadPoolExecutor):
        times = 0

        def shutdown(self, **options):
            Interrupted.times += 1
            if Interrupted.times == 1:
                raise KeyboardInterrupt  # as a reader's key does, in the middle of the waiting
            super().shutdown(**options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(workers, "ThreadPoolExecutor", Interrupted)
        carry_out_all([FAILING, RUNS[0], RUNS[1]], SMALL, workers=2)
    assert all(process.poll() is not None for process in before)
    assert {workers._worker(i).pid for i in range(2)}.isdisjoint({process.pid for process in before})


def losses(result: dict) -> tuple:
    return result["losses"], result["task_loss"]


def test_a_worker_with_other_code_than_the_caller_refuses(build, monkeypatch):
    """One that was started after an edit runs the new code, while the caller's key is of the old."""
    versions = workers.versions() | {"lora_from_scratch.lora": "as it was before the edit"}
    monkeypatch.setattr(workers, "versions", lambda: versions)
    with pytest.raises(RuntimeError, match=r"lora_from_scratch\.lora was edited since this session began"):
        carry_out_all([Run(seed=31)], SMALL, workers=2)


def test_bases_are_made_before_the_runs_that_need_them_and_once_each(build):
    """Side by side in the workers; the runs find them in the cache."""
    sizes = replace(SMALL, bases=3, pretrain_steps=2)
    results = carry_out_all([Run(seed=seed) for seed in (0, 1, 2, 3)], sizes, workers=2)
    assert len({tuple(result["losses"]) for result in results}) == 4
    before = len(list((build / "cache").glob("base-*")))
    carry_out_all([Run(seed=seed) for seed in (4, 5)], sizes, workers=2)
    assert len(list((build / "cache").glob("base-*"))) == before


def test_a_chain_of_runs_is_work_too(build):
    """learn_in_turn takes several runs, which start from the base of the first one's seed."""
    turns = [(Run(adapter=ADAPTER, seed=1), Run(adapter=ADAPTER, task="upper"))]
    (found,) = carry_out_all(turns, replace(SMALL, bases=2), 2, chain.learn_in_turn)
    assert found["losses"] == chain.learn_in_turn(turns[0], replace(SMALL, bases=2))["losses"]
    assert found["losses"] != chain.learn_in_turn(turns[0], SMALL)["losses"]
