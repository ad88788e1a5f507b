"""Files made to be lifted: each, in an empty folder, imports and runs where the project cannot be imported.

Most run alone. A few need a neighbour beside them, and one changed import line a neighbour, as the README says.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lora_from_scratch"
NAMED = ["lora.py", "rslora.py", "loraplus.py", "nf4.py", "paged.py", "arithmetic.py", "starts.py", "lab/llama.py"]
MUST_EXIST = {"lora.py", "rslora.py", "loraplus.py", "nf4.py", "paged.py", "arithmetic.py", "starts.py", "lab/llama.py"}
FILES = [name for name in NAMED if (PACKAGE / name).exists() or name in MUST_EXIST]
FILES += [f"analysis/{path.name}" for path in sorted((PACKAGE / "analysis").glob("[!_]*.py"))]

BESIDE = {  # what must lie in the folder too
    "dora.py": ["lora.py"],
    "nf4.py": ["nf4_tables.py"],
    "paged.py": ["adamw.py"],
    "qlora.py": ["nf4.py", "nf4_tables.py", "frozen_product.py"],
    "tinylora.py": ["lora.py", "targets.py"],
    "analysis/memory.py": ["analysis/activations.py"],
    "analysis/advise.py": ["analysis/memory.py", "analysis/activations.py", "analysis/peaks.py"],
}
FILES += [name for name in BESIDE if name not in FILES]

USES = {  # one line that a student would write next
    "lora.py": "LoRALinear(torch.nn.Linear(5, 3), rank=2, alpha=4)(torch.ones(5)).sum().backward()",
    "rslora.py": "assert rslora_scaling(16, 16) == 4",
    "loraplus.py": (
        "layer = torch.nn.Linear(5, 3); layer.B = torch.nn.Parameter(torch.ones(3, 1)); layer.delta_weight = 0\n"
        "assert [g['lr'] for g in loraplus_param_groups(layer, 1.0)] == [1.0, 16.0]"
    ),
    "nf4.py": "assert dequantize(quantize(torch.eye(3).numpy())).shape == (3, 3)",
    "dora.py": "assert DoRALinear(torch.nn.Linear(5, 3), 2, 4)(torch.ones(5)).shape == (3,)",
    "qlora.py": "assert NF4Linear.from_linear(torch.nn.Linear(64, 32))(torch.ones(64)).shape == (32,)",
    "analysis/memory.py": "assert FLOAT32.trained() == 16",
    "analysis/advise.py": (
        "class Sizes: layers, width, mlp, vocabulary = 2, 128, 256, 100\n"
        "assert advise(Sizes(), 1e9, 1024).method == 'lora'"
    ),
    "paged.py": "PagedAdamW([torch.nn.Parameter(torch.ones(3))], resident_bytes=2**22).step()",
    "analysis/directions.py": "assert magnitude_and_direction(torch.eye(3), 2 * torch.eye(3)) == (1, 0)",
    "analysis/mitigation.py": "assert scale_directions(2 * torch.eye(3), [0, 1, 2], 0.5).equal(torch.eye(3))",
    "arithmetic.py": "assert concatenate([(torch.ones(1, 3), torch.ones(2, 1), 2.0)])[1].equal(2 * torch.ones(2, 1))",
    "analysis/serving.py": "assert tokens_to_repay([(4, 4)]) == 2",
    "starts.py": (
        "layer = torch.nn.Module(); layer.base, layer.scaling = torch.nn.Linear(5, 3), 2.0\n"
        "layer.A, layer.B = torch.nn.Parameter(torch.ones(2, 5)), torch.nn.Parameter(torch.zeros(3, 2))\n"
        "w = layer.base.weight.clone(); start = pissa(layer); layer.A.data += 1\n"
        "A, B = as_plain_adapter(layer, start)\n"
        "torch.testing.assert_close(w + 2 * B @ A, layer.base.weight + 2 * layer.B @ layer.A)"
    ),
    "tinylora.py": (
        "model = add_tinylora(torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 4)))\n"
        "assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 13"
    ),
    "analysis/curvature.py": (
        "layer = torch.nn.Linear(2, 1, bias=False)\n"
        "assert abs(hessian_ends(layer, lambda m: 3 * m.weight.square().sum()).largest - 6) < 1e-4"
    ),
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
        for file in (name, *BESIDE.get(name, [])):
            text = (PACKAGE / file).read_text(encoding="utf-8")
            if name in BESIDE:  # the changed line: from the folder instead of from the project
                text = re.sub(r"from lora_from_scratch import (\w+)", r"import \1", text)
                text = re.sub(r"from lora_from_scratch\.(?:analysis\.)?(\w+) import", r"from \1 import", text)
            (folder / Path(file).name).write_text(text, encoding="utf-8")
        work[name] = (str(folder), Path(name).stem, USES.get(name, ""))
    empty = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-I", "-c", IMPORT_EACH]  # -I: no PYTHONPATH, and not the current folder
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, cwd=empty, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FILES)
def test_file_runs_alone(outcome, name):
    """The file runs in an empty folder, alone or with the neighbours that it names."""
    assert outcome[name] == "runs", outcome[name]
