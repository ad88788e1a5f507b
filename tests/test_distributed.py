"""Training on more than one process: the numbers, the file and the course of one process, and an end in every case.

Five times torchrun is started, two at a time (distributed_runs.py). What one process does is done here.
"""

import functools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distributed_runs import DROPPING, EXACT, KINDS, RESUMED, THREE, taken

from lora_from_scratch.lab import distributed_demo, resume, traffic
from lora_from_scratch.lab.cache import ROOT
from lora_from_scratch.lab.distributed import main
from lora_from_scratch.lab.parallel import ALONE, Place, Settings, Training, build
from lora_from_scratch.peft_format import read_tensors

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
HERE, MODULE = Path(__file__).parent, "lora_from_scratch.lab.distributed"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def launch(processes: int, *command: object) -> subprocess.CompletedProcess:
    """Run a command under torchrun. All take seconds, so a run that hangs fails here."""
    added = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*TORCHRUN, f"--nproc-per-node={processes}", *map(str, command)]
    return subprocess.run(command, env=os.environ | added, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def launches(tmp_path_factory) -> dict:
    """{name: what became of it}, and the folder of all; after "killed" comes a run that goes on where it was."""
    runs, root = HERE / "distributed_runs.py", tmp_path_factory.mktemp("runs")
    folders = {name: root / name for name in ("together", "three", "killed", "asleep")}
    for folder in folders.values():
        folder.mkdir()

    def killed_and_resumed():
        kept, usual = root / "killed" / "run.pt", ["--dtype=float64", "--batch=4", "--timeout=200"]
        killed = launch(2, runs, "fails", "killed", *usual, f"--checkpoint={kept}", "--every=1")
        ends = [f"--save={root / 'saved'}", f"--report={root / 'report.json'}"]
        return killed, launch(2, "-m", MODULE, *usual, "--fsdp", f"--resume={kept}", *ends)

    with ThreadPoolExecutor(2) as pool:
        started = {
            "together": pool.submit(launch, 2, runs, "together", folders["together"]),
            "killed": pool.submit(killed_and_resumed),
            "three": pool.submit(launch, 3, runs, "three", folders["three"]),
            "asleep": pool.submit(launch, 2, runs, "fails", "asleep", "--fsdp", "--timeout=4"),
        }
    return {name: future.result() for name, future in started.items()} | {"root": root}


def found(launches, name: str) -> dict:
    """What the runs of a launch left."""
    assert launches[name].returncode == 0, launches[name].stderr
    return torch.load(launches["root"] / name / "found.pt", weights_only=True)


@functools.cache
def one_process(settings: Settings, steps: int = 8, place: Place = ALONE) -> Training:
    return taken(Training(settings, place=place), steps)


def distance(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def farthest(losses: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


@pytest.mark.parametrize("fsdp, quantize, dtype", KINDS)
def test_two_processes_do_what_one_does(launches, fsdp, quantize, dtype):
    """Losses to 1e-5, adapters in float64 far below that; in float32 AdamW turns rounding into steps of its own."""
    two, one = (
        found(launches, "together")[fsdp, quantize, dtype],
        one_process(replace(EXACT, quantize=quantize, dtype=dtype)),
    )
    assert farthest(two["losses"], one.losses()) < 1e-5
    if dtype == "float64":
        assert distance(two["adapters"], one.adapters()) < 1e-9


@pytest.mark.parametrize("quantize", [False, True])
def test_to_forget_the_exchange_would_be_seen(quantize):
    """Two that never speak, each on its half of the batch, end a thousand times farther off than is allowed."""
    settings = replace(EXACT, quantize=quantize)
    one, apart = one_process(settings), [one_process(settings, place=Place(number=i, count=2)) for i in (0, 1)]
    means = [(a + b) / 2 for a, b in zip(*(half.losses() for half in apart), strict=True)]
    assert farthest(one.losses()[:1], means[:1]) < 1e-5  # the two halves are the batch
    assert farthest(one.losses(), means) > 1e-2
    assert all(distance(one.adapters(), half.adapters()) > 1e-2 for half in apart)


@pytest.mark.parametrize("fsdp, quantize, dtype", KINDS)
def test_the_gradient_is_the_batch_s_own(launches, fsdp, quantize, dtype):
    """Neither the sum of the processes' nor one of them: AdamW takes the same step with twice the gradient."""
    two = found(launches, "together")[fsdp, quantize, dtype]["gradient"]
    one = one_process(replace(EXACT, quantize=quantize, dtype=dtype), steps=1).model
    one = {name: p.grad for name, p in one.named_parameters() if p.requires_grad}
    assert max(gradient.abs().max() for gradient in one.values()) > 1e-3
    assert distance(two, one) < (1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("fsdp, quantize, dtype", KINDS)
def test_what_is_saved_is_the_file_that_one_process_writes(launches, fsdp, quantize, dtype, tmp_path):
    """The same settings to the byte; tensors of the same names, shapes and dtypes, and in float64 the same numbers."""
    one_process(replace(EXACT, quantize=quantize, dtype=dtype)).save(tmp_path)
    found(launches, "together")
    folder = launches["root"] / "together" / f"{fsdp}-{quantize}-{dtype}"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert (
        sorted(path.name for path in folder.iterdir()) == names == ["adapter_config.json", "adapter_model.safetensors"]
    )
    assert (folder / names[0]).read_bytes() == (tmp_path / names[0]).read_bytes()
    assert (folder / names[1]).stat().st_size == (tmp_path / names[1]).stat().st_size
    two, one = read_tensors(folder), read_tensors(tmp_path)
    form = {name: (tensor.shape, tensor.dtype) for name, tensor in one.items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in two.items()} == form
    assert dtype == "float32" or distance(two, one) < 1e-9


def test_parts_of_unequal_size_come_together(launches, tmp_path):
    """128 rows over three processes: losses, adapters and files are one process's."""
    together, one = found(launches, "three"), one_process(THREE)
    for fsdp in (False, True):
        three = together[fsdp]
        assert farthest(three["losses"], one.losses()) < 1e-5
        assert distance(three["adapters"], one.adapters()) < 1e-9
        one.save(tmp_path)
        assert distance(read_tensors(launches["root"] / "three" / str(fsdp)), read_tensors(tmp_path)) < 1e-9


def test_process_0_alone_writes(launches):
    """Six adapters and four runs, or two adapters."""
    assert found(launches, "together")["written by"] == [len(KINDS) + len(RESUMED), 0]
    assert found(launches, "three")["written by"] == [2, 0, 0]


@pytest.mark.parametrize("before, after", RESUMED)
def test_a_resumed_run_is_one_that_was_never_stopped(launches, before, after):
    """With dropout, so the random states count; under DDP, under FSDP2, and from each to the other."""
    together = found(launches, "together")
    whole, resumed = together["never stopped"], together["resumed", before, after]
    assert farthest(whole["losses"], resumed["losses"]) < 1e-5
    assert distance(whole["adapters"], resumed["adapters"]) < 1e-9


def test_a_killed_process_ends_the_run_with_words_and_what_was_kept_can_be_resumed(launches):
    """torchrun names the process and the signal; the resumed run, by FSDP2, ends with 0 and one process's numbers."""
    (killed, resumed), root, one = launches["killed"], launches["root"], one_process(EXACT)
    assert killed.returncode != 0
    assert re.search(r"rank +: 1 .*\n.*exitcode +: -9 .*SIGKILL", killed.stderr)
    assert resumed.returncode == 0, resumed.stderr
    assert farthest(json.loads((root / "report.json").read_text())["losses"], one.losses()) < 1e-5
    one.save(root / "one")
    assert distance(read_tensors(root / "saved"), read_tensors(root / "one")) < 1e-9
    assert "step 8:" in resumed.stdout


def test_the_report_is_what_was_counted(launches):
    """FSDP2 on two processes, from the command line."""
    report = json.loads((launches["root"] / "report.json").read_text())
    formula = traffic.handed(build(EXACT), True, 2)
    assert report["handed"] == {"formula": formula, "counted": formula}
    assert report["sent"]["by formula"] == report["sent"]["as handed over"] == traffic.sent(formula, 2, gloo=True)
    assert report["sent_by_nccl"] == traffic.sent(formula, 2, gloo=False) < report["sent"]["by formula"]
    assert report["kept"] == sum(p.nbytes for p in build(EXACT).parameters()) // 2


def test_a_process_that_hangs_ends_the_run_when_its_time_is_up(launches):
    assert launches["asleep"].returncode != 0
    assert re.search(r"Timed out waiting 4000ms(.*\n)*process . of 2 stops", launches["asleep"].stderr)


def runs_that_count(launches):
    """(processes, FSDP2?, settings, what was found) of every run whose traffic was counted."""
    for (fsdp, quantize, dtype), counts in ((k, v) for k, v in found(launches, "together").items() if k in KINDS):
        yield 2, fsdp, replace(EXACT, quantize=quantize, dtype=dtype), counts
    three = found(launches, "three")
    yield from ((3, fsdp, THREE, three[fsdp]) for fsdp in (False, True))


def test_what_is_handed_over_at_a_step_is_the_formula_s_to_the_byte(launches):
    for processes, fsdp, settings, counts in runs_that_count(launches):
        assert counts["handed"] == traffic.handed(build(settings), fsdp, processes)


def test_what_is_sent_at_a_step_is_the_formula_s_but_for_the_envelopes(launches):
    """What the system was given to write, against the ring's formula with gloo's reduce-scatter: at most 1 % more."""
    for processes, fsdp, settings, counts in runs_that_count(launches):
        if counts["written"] is None:
            pytest.skip("this system does not tell what a process writes")
        formula = traffic.sent(traffic.handed(build(settings), fsdp, processes), processes, gloo=True)
        assert 0 <= counts["written"] - formula < 0.01 * formula


def test_the_formulas_by_hand():
    """4 blocks of width 128, MLP 352, vocabulary 128, rank 8, float64, two processes."""
    trained = 8 * 8 * 4 * (4 * 2 * 128 + 3 * (128 + 352))  # bytes, rank, blocks, d_in + d_out of the seven layers
    block = 8 * (4 * 128**2 + 3 * 128 * 352 + 2 * 128) + trained // 4
    rest = 8 * (2 * 128 * 128 + 128)
    assert traffic.handed(build(EXACT), False, 2) == {"all-reduce": trained}
    assert traffic.handed(build(EXACT), True, 2) == {"all-gather": 8 * block + rest, "reduce-scatter": trained}
    four_bits = traffic.handed(build(replace(EXACT, quantize=True)), True, 2)
    assert four_bits["all-gather"] == 8 * (8 * 2 * 128 + trained // 4) + rest  # norms and adapters, no codes
    assert traffic.sent({"all-reduce": 300}, 3, gloo=False) == 400
    assert traffic.sent({"all-gather": 300, "reduce-scatter": 300}, 3, gloo=False) == 400
    assert traffic.sent({"reduce-scatter": 300}, 3, gloo=True) == 400
    assert traffic.size(torch.zeros(128, 5), 3) == 129 * 5 * 4
    with pytest.raises(ValueError, match="no formula here for alltoall_"):
        traffic.sent({"alltoall_": 8}, 2, gloo=True)


def test_fsdp2_keeps_half_of_the_weights_but_all_of_the_codes(launches):
    together = found(launches, "together")
    for quantize in (False, True):
        model = build(replace(EXACT, quantize=quantize))
        parameters, buffers = (sum(t.nbytes for t in tensors()) for tensors in (model.parameters, model.buffers))
        assert (buffers > 0) == quantize
        assert together[False, quantize, "float64"]["kept"] == parameters + buffers
        assert together[True, quantize, "float64"]["kept"] == parameters // 2 + buffers


@pytest.mark.parametrize(
    "asked, words",
    [
        (["--fsdp"], "FSDP2 needs processes .* torch.distributed.run"),
        (["--report=report.json"], "needs torchrun"),
        (["--steps=0"], "--steps is 0"),
        (["--every=0"], "--every is 0"),
        (["--lr=0"], "lr is 0.0"),
        (["--lr=nan"], "lr is nan"),
        (["--batch=0"], "batch is 0"),
        (["--rank=0"], "rank is 0"),
        (["--dropout=1"], "dropout is 1.0"),
        (["--dtype=float16"], "dtype is 'float16'"),
        (["--resume=nowhere.pt"], "nowhere.pt cannot be read .No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(asked, words, capsys):
    """Status 2, one line that names the value, and no traceback."""
    assert main(asked) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert re.search(words, said.err)


def test_an_error_that_nobody_foresaw_is_shown_and_ends_with_1(monkeypatch, capsys):
    def breaks(self):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Training, "step", breaks)
    assert main([]) == 1
    assert re.search(r"Traceback(.*\n)*RuntimeError: out of memory\nprocess 0 of 1 stops", capsys.readouterr().err)


def test_processes_have_the_same_weights_and_batches_but_drop_other_entries():
    models, drawn = [], []
    for number in (0, 1):
        training = Training(DROPPING, place=Place(number=number, count=2))
        models.append({name: p.detach() for name, p in training.model.named_parameters()})
        drawn.append((torch.rand(5), torch.rand(5, generator=training.data)))
    assert distance(*models) == 0
    assert torch.equal(drawn[0][1], drawn[1][1]) and not torch.equal(drawn[0][0], drawn[1][0])


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 8 rows evenly; .* such as 9"):
        Training(Settings(), place=Place(count=3))


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> bytes:
    """The file of a run after one step."""
    path = tmp_path_factory.mktemp("kept") / "run.pt"
    resume.keep(taken(Training(DROPPING), 1), path)
    return path.read_bytes()


@pytest.fixture
def run_file(kept, tmp_path) -> Path:
    """That file, for one test alone."""
    path = tmp_path / "run.pt"
    path.write_bytes(kept)
    return path


def broken(path: Path, how: str) -> None:
    """Make the file at `path` one that cannot be used."""
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-2000])
    elif how == "text":
        path.write_text("step 2")
    elif how == "pickled":
        torch.save({"identity": Path("x")}, path)
    else:
        torch.save({"adapters": {}}, path)


@pytest.mark.parametrize(
    "how, words",
    [
        ("cut off", "is no checkpoint, or is cut off"),
        ("text", "is no checkpoint"),
        ("pickled", "is no checkpoint"),
        ("foreign", "something else than a run"),
    ],
)
def test_a_file_that_is_no_run_is_refused_and_changes_nothing(how, words, run_file):
    broken(run_file, how)
    assert_refused(Training(DROPPING), run_file, words)


@pytest.mark.parametrize(
    "settings, words",
    [
        (replace(DROPPING, lr=3e-3), r"lr 0.01 \(here 0.003\)"),
        (replace(DROPPING, rank=2), r"rank 4 \(here 2\)"),
        (replace(DROPPING, quantize=True, seed=5), r"quantize False \(here True\), seed 0 \(here 5\)"),
        (replace(DROPPING, dtype="float32"), r"dtype float64 \(here float32\)"),
    ],
)
def test_a_run_of_other_settings_is_refused_and_changes_nothing(settings, words, run_file):
    assert_refused(Training(settings), run_file, words)


def test_a_run_of_another_number_of_processes_or_another_text_is_refused(run_file):
    assert_refused(Training(DROPPING, place=Place(count=2)), run_file, r"processes 1 \(here 2\)")
    training = Training(DROPPING)
    training.text = training.text[1:]
    assert_refused(training, run_file, "text ")


def assert_refused(training: Training, path: Path, words: str) -> None:
    """The message names the file, and the run is as it was."""
    state, own = (training.data.get_state(), torch.get_rng_state()), training.adapters()
    with pytest.raises(ValueError, match=words) as raised:
        resume.take_up(training, path)
    assert str(path) in str(raised.value)
    assert all(map(torch.equal, state, (training.data.get_state(), torch.get_rng_state())))
    assert distance(own, training.adapters()) == training.done == len(training.optimizer.state) == 0


def test_a_file_half_written_is_never_seen(run_file, monkeypatch):
    """Interrupted while it writes, `keep` leaves the old file, and nothing beside it."""
    before, save = run_file.read_bytes(), torch.save

    def interrupted(state, at):
        save(state, at)
        Path(at).write_bytes(Path(at).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resume.keep(taken(Training(DROPPING), 1), run_file)
    assert run_file.read_bytes() == before
    assert list(run_file.parent.iterdir()) == [run_file]


def test_a_run_that_is_done_is_not_resumed(tmp_path, capsys):
    path = tmp_path / "run.pt"
    assert main(["--steps=2", f"--checkpoint={path}"]) == 0
    assert main(["--steps=2", f"--resume={path}"]) == 2
    assert "--steps is 2, of the whole run, and 2 are done" in capsys.readouterr().err
    assert main(["--steps=3", f"--resume={path}"]) == 0
    assert capsys.readouterr().out.count("nats a character") == 3


@pytest.mark.parametrize("status, off, failed", [(0, 0.0, 0), (0, 1e-3, 1), (1, 0.0, 1), (None, 0.0, 1)])
def test_the_demonstration_fails_where_a_run_does(status, off, failed, monkeypatch, capsys):
    """A run that ends badly, or not at all, or with other losses; and it shows what forgetting the exchange does."""
    one = one_process(Settings(dtype="float64"), steps=2)
    report = {"losses": [loss + off for loss in one.losses()], "sent_by_nccl": 7.0, "kept": 6}
    report["sent"] = {"by formula": 8.0, "as written": 9}

    def launched(options, folder):
        one.save(folder)
        return status if "--fsdp" in options else 0, report

    for name, value in {"STEPS": 2, "BASES": {"float64": ["--dtype=float64"]}, "launched": launched}.items():
        monkeypatch.setattr(distributed_demo, name, value)
    assert distributed_demo.main() == failed
    said = capsys.readouterr().out
    assert ("no end after 300 seconds" if status is None else f"exit status {status}") in said
    assert "8 by formula, 9 as written" in said and "by NCCL it would send 7; of the weights it keeps 6" in said
    assert re.search(r"no exchange .*\n +from one process: losses \d\.\de-0[1-3], adapter \d\.\de-0[1-3]", said)
