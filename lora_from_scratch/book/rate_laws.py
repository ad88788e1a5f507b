"""Laws for the best rate held against the rates found (chapter 14): by how much they miss, and what a miss costs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lora_from_scratch.book import stats
from lora_from_scratch.lab.rates import Valley
from lora_from_scratch.lab.sweep import best_rate

SWEEPS = ("01_lora_layer.json", "07_rslora.json")


def committed_rates(root: Path) -> list[tuple[float, int, float]]:
    """(s, rank, best rate) of chapter 07's sweep over ranks and of chapter 01's near task; alpha is 32 in both."""
    swept = {name: json.loads((root / "figures" / "full" / name).read_text())["sweeps"] for name in SWEEPS}
    points = []
    for label, entry in swept[SWEEPS[1]]["ranks"].items():
        kind, _, rank = label.partition(" rank ")
        points.append((32 / (int(rank) if kind == "LoRA" else math.sqrt(int(rank))), int(rank), entry["rate"]))
    for label, entry in swept[SWEEPS[0]]["cipher-6"].items():
        if label.startswith("LoRA rank "):
            rank = int(label.removeprefix("LoRA rank "))
            points.append((32 / rank, rank, entry["rate"]))
    return points


def real_ratio(root: Path) -> float:
    """Rank 16's best rate over full's in chapter 13's committed sweep, each the bottom of its parabola: one seed."""
    sweep = json.loads((root / "figures" / "full" / "13_toy_or_real.json").read_text())["sweeps"]["documents"]
    tried = [{float(rate): loss for rate, loss in sweep[m]["tried"].items()} for m in ("LoRA rank 16", "full")]
    lora, full = (Valley(rates).best for rates in tried)
    return lora / full


def misses(laws: Callable, best: Mapping, cells: Mapping, seeds: Sequence[int]) -> dict[tuple[str, int], dict]:
    """{(law, seed): {run: by how many octaves the law is above the best rate found}}, for LoRA's runs."""
    found: dict[tuple[str, int], dict] = {}
    for cell, seed in [(c, k) for c in cells if c[3] for k in seeds]:
        task, width, steps, rank, alpha = cell
        told = laws(best[(task, width, steps, None, 0), seed], width, steps, alpha / rank, rank)
        for law, rate in told.items():
            found.setdefault((law, seed), {})[cell] = math.log2(rate / best[cell, seed])
    return found


def dealt(off: Mapping, best: Mapping, seed: int) -> float:
    """The mean size of the misses of a law whose predictions are dealt out to the runs in every other order."""
    rates = np.array([math.log2(best[cell, seed]) for cell in off])
    told = rates + np.array(list(off.values()))
    return float(np.abs(told[:, None] - rates).mean())


def one_level(off: Mapping, best: Mapping, seed: int) -> float:
    """By how many octaves the best single rate for these runs misses their best rates, in the mean: their median's."""
    rates = np.array([math.log2(best[cell, seed]) for cell in off])
    return float(np.abs(rates - np.median(rates)).mean())


def table_of_misses(off: Mapping, laws: Sequence[str], rules: Mapping[str, Callable], seeds: Sequence[int]) -> str:
    """One row a law: its mean miss with the sign, by width and length at rank 16 and alpha 32, and sizes by rule."""
    cells = list(off[laws[0], seeds[0]])
    widths, lengths = sorted({c[1] for c in cells}), sorted({c[2] for c in cells})
    plain = [c for c in cells if c[3:] == (16, 32)]
    groups = {f"width {w}": [c for c in plain if c[1] == w] for w in widths}
    groups |= {f"{n} steps": [c for c in plain if c[2] == n and c[1] == widths[0]] for n in lengths}
    rows = []
    for law in laws:
        signed = [np.mean([off[law, k][c] for k in seeds for c in group]) for group in groups.values()]
        size = lambda k, inside, law=law: float(np.mean([abs(v) for c, v in off[law, k].items() if inside(c)]))  # noqa: E731
        sizes = [stats.shown([size(k, inside) for k in seeds], 2) for inside in rules.values()]
        rows.append([law, *(f"{value:+.1f}" for value in signed), *sizes])
    return stats.table(["law (octaves; + is too high)", *groups, *(f"size, {rule}" for rule in rules)], rows)


def cost_of_a_wrong_rate(valleys: Mapping) -> str:
    """What a factor of 2 costs on the gentler and on the steeper side of the best rate tried, in the median valley."""
    sides = []
    for valley in valleys.values():
        rates = sorted(valley.tried)
        place = rates.index(best_rate(valley.tried))
        beside = [valley.tried[rate] for rate in rates[max(0, place - 1) : place + 2] if rate != rates[place]]
        sides.append(sorted(loss - valley.tried[rates[place]] for loss in beside))
    gentle, steep = np.median([side[0] for side in sides]), np.median([side[-1] for side in sides])
    within = np.mean([side[0] <= 0.04 for side in sides])
    return (
        f"a factor of 2 off the best rate tried costs {gentle:.3f} nats on the gentler side and {steep:.3f} on the "
        f"steeper, in the median valley; in {within:.0%} of the valleys the gentler side is within 0.04"
    )
