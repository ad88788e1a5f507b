"""Many adapters in one batch, and adapters on disk: ours against PEFT's. `python -m benchmarks.serving [--real]` prints
the whole map, over tokens a row, rank and number of adapters; `make bench` holds a few of its cells to bounds.

Both sides have the same base and read the same folders, and their logits are compared first. PEFT runs a loop over the
adapters in every layer. `floor` is what the base alone takes: no way of serving can be below it.
"""

import copy
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.timing import medians  # noqa: E402
from lora_from_scratch import AdapterConfig, add_adapters  # noqa: E402
from lora_from_scratch.bank import AdapterBank  # noqa: E402
from lora_from_scratch.lab.checkpoint import load_checkpoint  # noqa: E402
from lora_from_scratch.lab.llama import TinyLlama  # noqa: E402
from lora_from_scratch.peft_format import load_adapter, save_adapter  # noqa: E402
from lora_from_scratch.targets import replace_modules  # noqa: E402

ROWS, RANK, TOKENS = 64, 8, 32


def tiny() -> nn.Module:
    """The book's Llama, not trained: times do not depend on what it has learnt."""
    torch.manual_seed(0)
    return TinyLlama().eval().requires_grad_(False)


def twin(model: nn.Module) -> nn.Module:
    """A model with modules of its own and the very same weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def adapted(model: nn.Module, rank: int, seed: int = 0) -> nn.Module:
    """A twin with random adapters on all linear layers; no B is zero."""
    torch.manual_seed(seed)
    other = add_adapters(twin(model), AdapterConfig(rank=rank, alpha=2 * rank))
    for parameter in (p for p in other.parameters() if p.requires_grad):
        nn.init.normal_(parameter, std=0.02)
    return other


class Loop(nn.Module):
    """base(x), then each adapter on its own rows, by indices that were worked out once; `plan` is {slot: rows}."""

    def __init__(self, layer: nn.Module, plan: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.base, self.A, self.B, self.plan = layer.base, layer.A, layer.B, plan

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        for slot, rows in self.plan.items():
            y.index_add_(0, rows, (x.index_select(0, rows) @ self.A[slot].T) @ self.B[slot].T)
        return y


def batch_steps(model: nn.Module, adapters: int, rank: int, tokens: int) -> dict:
    """{"bank", "PEFT", "loop", "base": a forward of ROWS rows whose adapters are mixed}. Raises if logits differ."""
    bank = AdapterBank(twin(model), capacity=adapters)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(adapters):
            save_adapter(adapted(model, rank, i), Path(folder) / str(i))
            bank.load(str(i), Path(folder) / str(i))
        theirs = peft.PeftModel.from_pretrained(twin(model), Path(folder) / "0", adapter_name="0")
        for i in range(1, adapters):
            theirs.load_adapter(Path(folder) / str(i), adapter_name=str(i))
    theirs.eval()
    names = [str(i % adapters) for i in range(ROWS)]
    random.Random(0).shuffle(names)
    plan = {i: torch.tensor([j for j, name in enumerate(names) if name == str(i)]) for i in range(adapters)}
    looped = twin(model)
    replace_modules(looped, {looped.get_submodule(n): Loop(layer, plan) for n, layer in bank.layers.items()})
    ids = torch.randint(model.config.vocab_size, (ROWS, tokens))
    ways = {
        "bank": lambda: bank(ids, adapters=names),
        "PEFT": lambda: theirs(ids, adapter_names=names),
        "loop": lambda: looped(ids),
        "base": lambda: model(ids),
    }
    steps = {name: torch.no_grad()(way) for name, way in ways.items()}
    ours = steps["bank"]()
    for name in ("PEFT", "loop"):  # float32 sums in another order: to 1e-4 of the largest logit
        torch.testing.assert_close(ours, steps[name](), rtol=0, atol=1e-4 * ours.abs().max().item())
    return steps


def save_steps(model: nn.Module, folder: Path) -> tuple:
    """Saving the adapters of a model: ours, PEFT's."""
    mine = adapted(model, RANK)
    save_adapter(mine, folder / "ours")
    theirs = peft.PeftModel.from_pretrained(twin(model), folder / "ours")
    return lambda: save_adapter(mine, folder / "ours"), lambda: theirs.save_pretrained(folder / "theirs")


def load_steps(model: nn.Module, folder: Path) -> tuple:
    """Loading adapters into a fresh base: ours, PEFT's. Each makes a twin of the base first, which takes both alike."""
    save_adapter(adapted(model, RANK), folder)
    return (
        lambda: load_adapter(twin(model), folder),
        lambda: peft.PeftModel.from_pretrained(twin(model), folder),
    )


def print_map(model: nn.Module, repetitions: int, cells: list[tuple[int, int, int]]) -> None:
    """A line for each (tokens a row, rank, adapters): the bank's, the loop's and the base's time over PEFT's."""
    for tokens, rank, adapters in cells:
        took = medians(batch_steps(model, adapters, rank, tokens), repetitions)
        over = {name: took[name] / took["PEFT"] for name in ("bank", "loop", "base")}
        print(
            f"{tokens:3} tokens  rank {rank:2}  {adapters:2} adapters  PEFT {1e3 * took['PEFT']:8.1f} ms"
            f"  bank {over['bank']:.2f}  loop {over['loop']:.2f}  floor {over['base']:.2f}",
            flush=True,
        )


def main(arguments: list[str]) -> None:
    """Print the map of the tiny model, or with --real of the pretrained one."""
    torch.set_num_threads(1)
    print("processor time over that of PEFT's adapter_names, medians of turns, one thread; 64 rows, all linear layers")
    if "--real" in arguments:
        model = load_checkpoint().model.requires_grad_(False)
        print_map(
            model, 3, [(1, 8, 1), (1, 8, 8), (1, 8, 32), (8, 8, 8), (1, 64, 8), (32, 8, 1), (32, 8, 8), (32, 8, 32)]
        )
    else:
        print_map(tiny(), 15, [(t, r, n) for t in (1, 8, 32) for r in (8, 64) for n in (1, 2, 4, 8, 16, 32)])


if __name__ == "__main__":
    main(sys.argv[1:])
