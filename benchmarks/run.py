"""The benchmarks in one run: `python -m benchmarks.run`. Prints a table; the exit status is 1 if a bound fails.

One thread, and only ratios are judged (see timing.py). A bound of 1.05 means "no slower", with 5 % for what the clock
cannot tell on a shared machine.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model here is built from a configuration

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import quantization, serving, spectral, steps  # noqa: E402
from benchmarks.timing import Row, fastest_of_each  # noqa: E402


def measure() -> list[Row]:
    """All rows, in the order in which they are printed."""
    layer = {"ours": steps.ours_layer, "PEFT": steps.peft_layer, "full fine-tuning": steps.full_layer}
    rows = []

    def time_layer(reference: str, bound: float, inside: bool = True) -> None:
        place = "inside a network" if inside else "first in a network"
        sides = (steps.layer_step(layer[name](), inside) for name in ("ours", reference))
        rows.append(timed(f"LoRA step, layer {place}: {reference}", *sides, bound))

    time_layer("PEFT", 1.05)
    time_layer("full fine-tuning", 2 / 3)  # two products of three, see steps.layer_step
    time_layer("full fine-tuning", 1 / 2, inside=False)  # one product of two
    kept = (steps.saved_bytes(layer[name]()) for name in ("ours", "PEFT"))
    rows.append(Row("LoRA layer, kept for backward: PEFT", *kept, 1.0, "bytes"))
    rows.append(timed("tiny Llama, full step: transformers", *steps.llama_steps(), 1.05))
    return rows + measure_dora() + measure_quantization() + measure_spectra() + measure_serving()


def measure_dora() -> list[Row]:
    """The rows of DoRA. PEFT builds W0 + s · B A at every step; ours takes its row norms without it.

    For backward PEFT keeps three tensors of (tokens, width), ours two, x and the output: 2/3, and a little for the
    smaller ones. PEFT's W0 + s · B A is gone by then, since no gradient goes through the norm.
    """

    def both(reference: nn.Module) -> Iterator[steps.Step]:
        return (steps.layer_step(layer) for layer in (steps.ours_layer(dora=True), reference))

    kept = (steps.saved_bytes(layer) for layer in (steps.ours_layer(dora=True), steps.peft_layer(dora=True)))
    return [
        timed("DoRA step, layer inside a network: PEFT's DoRA", *both(steps.peft_layer(dora=True)), 0.45),
        timed("DoRA step, layer inside a network: our LoRA", *both(steps.ours_layer()), 1.2),
        Row("DoRA layer, kept for backward: PEFT's DoRA", *kept, 0.7, "bytes"),
    ]


def measure_quantization() -> list[Row]:
    """The rows of NF4 and QLoRA."""
    ours, theirs = quantization.ours_qlora_layer(), quantization.peft_qlora_layer()
    kept = (steps.saved_bytes(layer) for layer in (ours, steps.ours_layer()))
    both = (steps.layer_step(layer) for layer in (ours, theirs))
    size = f"{quantization.SIDE} × {quantization.SIDE}"
    rows = [
        timed(f"NF4 quantize {size}: bitsandbytes", *quantization.quantize_steps(), 0.25, repetitions=10),
        timed(f"NF4 decode {size}: bitsandbytes", *quantization.decode_steps(), 0.7),
        Row("NF4 quantize, peak extra memory: its input", *quantization.quantize_bytes(), 0.25, "bytes"),
        timed("QLoRA step, layer inside a network: bitsandbytes under PEFT", *both, 1.15),
        Row("QLoRA layer, kept for backward: LoRA", *kept, 1.0, "bytes"),
    ]
    return rows + measure_decoding(ours)


def measure_decoding(qlora: nn.Module) -> list[Row]:
    """A QLoRA step beside a LoRA step over the plain base, and what makes the difference.

    The same products are done in both. QLoRA also decodes the weight, once in forward, and once more in backward
    because it did not keep what it had decoded.
    """
    step, plain = steps.layer_step(qlora), steps.layer_step(steps.ours_layer())
    base = qlora.base

    def decode_twice() -> None:
        base.weight, base.weight  # noqa: B018

    return [
        timed("QLoRA step, layer inside a network: LoRA over the plain base", step, plain, 1.35),
        timed("of it, decoding in forward and again in backward: the same LoRA", decode_twice, plain, 0.35),
    ]


def measure_serving() -> list[Row]:
    """The rows of many adapters in one batch, and of adapters on disk; `python -m benchmarks.serving` has the map.

    With one adapter the base alone takes about 0.65 of PEFT's time, so the bank cannot be below that.
    """
    model, rows = serving.tiny(), []
    for tokens, adapters, bound in ((32, 1, 0.9), (32, 8, 0.8), (32, 32, 0.65), (1, 8, 0.4)):
        ways = serving.batch_steps(model, adapters, serving.RANK, tokens)
        what = f"bank, {serving.ROWS} rows × {tokens} tokens, {adapters} adapters: PEFT's adapter_names"
        rows.append(timed(what, ways["bank"], ways["PEFT"], bound, repetitions=15))
    with tempfile.TemporaryDirectory() as folder:
        for what, sides in (("save", serving.save_steps), ("load", serving.load_steps)):
            rows.append(timed(f"{what} adapters, tiny Llama: PEFT", *sides(model, Path(folder)), 1.0, repetitions=20))
    return rows


def measure_spectra() -> list[Row]:
    """The rows of the spectra; the second one's reference is a limit."""
    step = spectral.intruder_step()
    seconds, _ = fastest_of_each(step, step, 3)
    size = f"{spectral.SIDE} × {spectral.SIDE}"
    return [
        timed(f"SVD of B A, {size}: of the product", *spectral.product_svd_steps(), 0.05, repetitions=3),
        Row("intruder dimensions, the whole tiny Llama: 5 s", 1e3 * seconds, 5000.0, 1.0, "ms"),
    ]


def timed(what: str, ours: steps.Step, reference: steps.Step, bound: float, repetitions: int = 40) -> Row:
    """A row in milliseconds."""
    return Row(what, *(1e3 * seconds for seconds in fastest_of_each(ours, reference, repetitions)), bound, "ms")


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = ("what: against what", "ours", "reference", "unit", "ratio", "bound", "")
    cells = [head] + [
        (
            row.what,
            f"{row.ours:,.1f}" if row.unit == "ms" else f"{row.ours:,}",
            f"{row.reference:,.1f}" if row.unit == "ms" else f"{row.reference:,}",
            row.unit,
            f"{row.ratio:.3f}",
            f"≤ {row.bound:.3f}",
            "pass" if row.passes else "FAIL",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            c.ljust(w) if i in (0, 3, 6) else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    """Measure, print, and say by the exit status whether every bound holds."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()} CPU")
    print(f"layer {steps.WIDTH} → {steps.WIDTH}, {steps.TOKENS} tokens, rank {steps.RANK}; tiny Llama 16 × 64 tokens\n")
    rows = measure()
    print(table(rows))
    return 0 if all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
