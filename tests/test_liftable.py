"""Files made to be lifted: each, alone in an empty folder, imports and runs where the project cannot be imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lora_from_scratch"
NAMED = ["lora.py", "rslora.py", "loraplus.py", "nf4.py", "paged.py", "lab/llama.py"]
MUST_EXIST = {"lora.py", "rslora.py", "loraplus.py", "nf4.py", "paged.py", "lab/llama.py"}
FILES = [name for name in NAMED if (PACKAGE / name).exists() or name in MUST_EXIST]
FILES += [f"analysis/{path.name}" for path in sorted((PACKAGE / "analysis").glob("[!_]*.py"))]

USES = {  # one line that a student would write next
    "lora.py": "LoRALinear(torch.nn.Linear(5, 3), rank=2, alpha=4)(torch.ones(5)).sum().backward()",
    "rslora.py": "assert rslora_scaling(16, 16) == 4",
    "loraplus.py": (
        "layer = torch.nn.Linear(5, 3); layer.B = torch.nn.Parameter(torch.ones(3, 1)); layer.delta_weight = 0\n"
        "assert [g['lr'] for g in loraplus_param_groups(layer, 1.0)] == [1.0, 16.0]"
    ),
    "nf4.py": "assert dequantize(quantize(torch.eye(3).numpy())).shape == (3, 3)",
    "paged.py": "PagedAdamW([torch.nn.Parameter(torch.ones(3))], resident_bytes=2**22).step()",
    "analysis/directions.py": "assert magnitude_and_direction(torch.eye(3), 2 * torch.eye(3)) == (1, 0)",
    "analysis/mitigation.py": "assert scale_directions(2 * torch.eye(3), [0, 1, 2], 0.5).equal(torch.eye(3))",
    "lab/llama.py": "assert TinyLlama()(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 128)",
}

IMPORT_EACH = """
import importlib, json, sys, traceback
sys.modules["lora_from_scratch"] = None  # an import of it, or of anything in it, now fails
import torch
outcome = {}
for name, (folder, module, use) in json.load(sys.stdin).items():
    sys.path.insert(0, folder)
    try:
        exec(use, {"torch": torch} | vars(importlib.import_module(module)))
        outcome[name] = "runs"
    except BaseException:
        outcome[name] = traceback.format_exc()
    sys.path.remove(folder)
    sys.modules.pop(module, None)
print(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What came of each file, by name: one Python process for all, each file alone in a folder of its own."""
    work = {}
    for name in FILES:
        folder = tmp_path_factory.mktemp("alone")
        shutil.copy(PACKAGE / name, folder)
        work[name] = (str(folder), Path(name).stem, USES.get(name, ""))
    empty = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-I", "-c", IMPORT_EACH]  # -I: no PYTHONPATH, and not the current folder
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, cwd=empty, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FILES)
def test_file_runs_alone(outcome, name):
    """The file imports nothing of the project, and runs alone in an empty folder."""
    assert outcome[name] == "runs", outcome[name]
