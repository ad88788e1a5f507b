"""`make check` tells one mistake from another: each broken layer below fails the property that its mistake breaks."""

import copy
import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import check_layer
import pytest
import torch
from hypothesis import Phase, settings
from strategies import load_profile
from torch import nn

from lora_from_scratch import LoRALinear


class Right(nn.Module):
    """A LoRA layer as a reader might write it."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        wide = torch.promote_types(base.weight.dtype, torch.float32)
        self.A = nn.Parameter(torch.randn(rank, base.in_features, dtype=wide))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=wide))

    def scale(self):
        return self.alpha / self.rank

    def forward(self, x):
        return self.base(x) + self.scale() * (x @ self.A.T @ self.B.T)

    @torch.no_grad()
    def merge(self):
        return self.linear(self.base.weight + self.scale() * self.B @ self.A, self.base.bias)

    def linear(self, weight, bias):
        dtype = self.base.weight.dtype
        merged = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
        merged.weight.data = weight.to(dtype, copy=True)
        if bias is not None:
            merged.bias.data = bias.clone()
        return merged


class AlphaNotDivided(Right):
    def scale(self):
        return self.alpha


class AlphaOverRoot(Right):
    def scale(self):
        return self.alpha / math.sqrt(self.rank)


class Transposed(Right):
    def forward(self, x):
        return self.base(x) + self.scale() * (x @ self.B @ self.A)

    @torch.no_grad()
    def merge(self):
        return self.linear(self.base.weight + self.scale() * (self.B @ self.A).T, self.base.bias)


class FactorsSwapped(Right):
    """A is (d_out, rank) and B (rank, d_in): the paper's letters exchanged, the computation right."""

    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.A, self.B = self.B, self.A

    def forward(self, x):
        return self.base(x) + self.scale() * (x @ self.B.T @ self.A.T)

    @torch.no_grad()
    def merge(self):
        return self.linear(self.base.weight + self.scale() * self.A @ self.B, self.base.bias)


class Float32Factors(Right):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.A.data, self.B.data = self.A.data.float(), self.B.data.float()


class HalfFactors(Right):
    """A and B as the base has them, over 16 bits too."""

    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.A.data, self.B.data = self.A.data.to(base.weight.dtype), self.B.data.to(base.weight.dtype)


class NotFrozen(Right):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        base.requires_grad_(True)


class BothRandom(Right):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        nn.init.normal_(self.B)


class BothZero(Right):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        nn.init.zeros_(self.A)


class Detached(Right):
    def forward(self, x):
        return self.base(x) + self.scale() * (x @ self.A.detach().T @ self.B.detach().T)


class InputDetached(Right):
    def forward(self, x):
        return self.base(x) + self.scale() * (x.detach() @ self.A.T @ self.B.T)


class BiasTwiceInForward(Right):
    def forward(self, x):
        h = super().forward(x)
        return h if self.base.bias is None else h + self.base.bias


class OnlyMatrices(Right):
    def forward(self, x):
        return self.base(x) + self.scale() * x.mm(self.A.T).mm(self.B.T)


class MergeForgetsScale(Right):
    @torch.no_grad()
    def merge(self):
        return self.linear(self.base.weight + self.B @ self.A, self.base.bias)


class MergeInPlace(Right):
    @torch.no_grad()
    def merge(self):
        self.base.weight += self.scale() * self.B @ self.A
        return self.base


class MergeSharesBias(Right):
    def merge(self):
        merged = super().merge()
        merged.bias = self.base.bias
        return merged


class MergeLosesBias(Right):
    def merge(self):
        merged = super().merge()
        merged.bias = None
        return merged


class MergeDoublesBias(Right):
    @torch.no_grad()
    def merge(self):
        merged = super().merge()
        if merged.bias is not None:
            merged.bias *= 2
        return merged


class MergeInFloat32(Right):
    """nn.Linear(d_in, d_out) as one writes it first: of the default type, whatever the base has."""

    def merge(self):
        return super().merge().float()


class MergeInFloat32ForgetsScale(MergeForgetsScale):
    def merge(self):
        return super().merge().float()


class MergesOnEval(Right):
    """loralib's way: eval() writes the update into the base, and forgets that it has."""

    def train(self, mode=True):
        if not mode:
            self.base.weight.data = self.merge().weight.data
        return super().train(mode)


class StateLacksB(Right):
    def state_dict(self, *args, **kwargs):
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if not name.endswith("B")}


class CopySharesA(Right):
    """A deep copy that takes A along as it is."""

    def __deepcopy__(self, memo):
        twin = type(self)(copy.deepcopy(self.base), self.rank, self.alpha)
        twin.A, twin.B = self.A, copy.deepcopy(self.B)
        return twin


class DeltaForgetsScale(Right):
    def delta_weight(self):
        return self.B @ self.A


BROKEN = {  # the properties that fail, the one that `make check` says to begin with in front
    AlphaNotDivided: ["update_is_scaled_by_alpha_over_rank"],
    AlphaOverRoot: ["update_is_scaled_by_alpha_over_rank"],
    Transposed: ["update_points_along_BA"],
    FactorsSwapped: ["factors_have_shapes", "update_points_along_BA"],
    Float32Factors: ["factors_are_float32_at_least"],
    HalfFactors: ["factors_are_float32_at_least"],
    NotFrozen: ["only_factors_train", "training_leaves_base"],
    BothRandom: ["start_is_base"],
    BothZero: ["two_steps_move_update"],
    Detached: ["two_steps_move_update", "training_leaves_base", "gradients_are_slopes"],
    InputDetached: ["gradients_are_slopes"],
    BiasTwiceInForward: ["start_is_base"],
    OnlyMatrices: ["batch_dimensions"],
    MergeForgetsScale: ["merge_has_weight_of_forward"],
    MergeInPlace: ["merge_leaves_layer"],
    MergeSharesBias: ["merge_leaves_layer"],
    MergeLosesBias: ["merge_has_bias_of_base"],
    MergeDoublesBias: ["merge_has_bias_of_base"],
    MergeInFloat32: ["merge_has_dtype_of_base"],
    MergeInFloat32ForgetsScale: ["merge_has_weight_of_forward", "merge_has_dtype_of_base"],
    MergesOnEval: ["modes_change_no_bit"],
    StateLacksB: ["state_dict_round_trip"],
    CopySharesA: ["copy_is_independent"],
    DeltaForgetsScale: ["delta_weight_is_what_forward_adds"],
}


@pytest.fixture(scope="module")
def properties():
    """test_layer_properties.py under a profile that draws few examples, the same ones each time."""
    light = settings(settings.get_profile("ci"), max_examples=6, phases=[Phase.generate])
    settings.register_profile("light", light)
    settings.load_profile("light")
    spec = importlib.util.spec_from_file_location("light", Path(__file__).with_name("test_layer_properties.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load_profile()
    return module


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_mistake_is_named(properties, broken):
    """Each mistake fails the properties that it breaks and no other; the report begins with its usual cause."""
    results = check_layer.check(broken, properties)
    wrong = [r for r in results if r.verdict in ("fails", "cannot run")]
    first = next((r for r in wrong if r.verdict == "fails"), wrong[0])
    assert check_layer.report(results).endswith(f"Begin with: {first.claim}\nThe usual cause: {first.usual_cause}")
    assert [r.name.removeprefix("test_") for r in wrong if broken is not Transposed or r is first] == BROKEN[broken]


def test_mistake_that_stops_others_is_named(properties):
    """A transposed product cannot run where d_in and d_out differ; that is told apart from a property that fails."""
    results = check_layer.check(Transposed, properties)
    assert {r.verdict for r in results} == {"holds", "fails", "cannot run", "skipped"}
    assert all("RuntimeError" in r.happened for r in results if r.verdict == "cannot run")


@pytest.mark.parametrize("right", [Right, LoRALinear], ids=["a reader's", "ours"])
def test_right_layer_passes(properties, right):
    """A correct layer passes every property, with delta_weight() or without."""
    results = check_layer.check(right, properties)
    wanted = "holds" if hasattr(right, "delta_weight") else "skipped"
    verdicts = {r.name: r.verdict for r in results}
    assert verdicts.pop("test_delta_weight_is_what_forward_adds") == wanted
    assert set(verdicts.values()) == {"holds"}, check_layer.report(results)
    assert "Every property holds" in check_layer.report(results)


def test_each_property_has_one_hint(properties):
    """Each property has a claim in one sentence, and says once what usually breaks it."""
    for name, test in vars(properties).items():
        if name.startswith("test_"):
            assert test.__doc__.strip().endswith(".")
            assert [mark.name for mark in test.pytestmark].count("usual_cause") == 1, name


def test_every_property_can_fail():
    """For each property there is a broken layer here that fails it."""
    import test_layer_properties

    names = {name.removeprefix("test_") for name in vars(test_layer_properties) if name.startswith("test_")}
    assert names - {name for broken in BROKEN.values() for name in broken} == set()


def write(folder, text):
    """The path of a file with this text, as check_layer is given it."""
    (folder / "my_lora.py").write_text(text)
    return str(folder / "my_lora.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file"),
        ("x = 1", "has no class MyLoRA; it has no class at all"),
        ("class Mine: pass", "has no class MyLoRA; it has Mine"),
        ("import nothing_of_this_name", "does not run: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("class MyLoRA(", "does not run: SyntaxError"),
        ("class MyLoRA:\n    def __init__(self, base): pass", "could not be built from .*: TypeError"),
        ("class MyLoRA:\n    def __init__(self, base, rank, alpha): pass", "is no nn.Module"),
        (
            "from torch import nn\nclass MyLoRA(nn.Module):\n    def __init__(self, base, rank, alpha):\n"
            "        super().__init__()\n        self.A = 1",
            "has no B and no merge",
        ),
    ],
)
def test_nothing_to_check_is_said(tmp_path, capsys, text, words):
    """A file or class that is not there, or cannot be built, is said in one line that names it; the exit code is 2."""
    path = str(tmp_path / "my_lora.py") if text is None else write(tmp_path, text)
    assert check_layer.main([f"{path}:MyLoRA"]) == 2
    said = capsys.readouterr().out
    assert said.startswith("Nothing to check: ") and said.count("\n") == 1
    assert re.search(words, said), said


@pytest.mark.parametrize("asked", ["my_lora.py", "MyLoRA", ":MyLoRA", "my_lora.py:"])
def test_form_of_argument_is_said(capsys, asked):
    """What is not FILE:CLASS is told the form."""
    assert check_layer.main([asked]) == 2
    assert "my_lora.py:MyLoRA" in capsys.readouterr().out


def test_no_argument_prints_interface(capsys):
    """Without an argument it says what a class needs."""
    assert check_layer.main([]) == 2
    assert "Your class needs only this" in capsys.readouterr().out


def test_file_named_like_a_module_replaces_none(tmp_path):
    """A reader's file may be called like a module that is loaded, which stays as it was."""
    path = tmp_path / "math.py"
    path.write_text("from lora_from_scratch import LoRALinear as MyLoRA")
    assert check_layer.load_layer(f"{path}:MyLoRA") is LoRALinear
    assert sys.modules["math"] is math


def test_command_line(tmp_path):
    """As a command: words, no traceback, and exit code 1 for a layer that fails."""
    path = write(tmp_path, "from test_check import AlphaNotDivided as MyLoRA")
    folder = Path(check_layer.__file__).parent
    command = [sys.executable, str(folder / "check_layer.py"), f"{path}:MyLoRA"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and done.stderr == ""
    assert "\n1 of " in done.stdout and "The usual cause: Alpha without the division by rank" in done.stdout


def test_option_reaches_fixture(tmp_path, capsys):
    """pytest --layer puts the named class under the same properties."""
    path = write(tmp_path, "from test_check import AlphaNotDivided as MyLoRA")
    chosen = Path(__file__).with_name("test_layer_properties.py")
    options = ["-p", "no:cacheprovider", "--layer", f"{path}:MyLoRA", "-k", "scaled or points"]
    assert pytest.main([*options, str(chosen)]) == pytest.ExitCode.TESTS_FAILED
    said = capsys.readouterr().out
    assert "AlphaNotDivided" in said and "FAILED" in said and "test_update_points_along_BA" not in said
