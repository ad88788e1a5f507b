"""The pictures of chapter 12: what the model says before and after, the rates, and what is learnt and lost."""

import json
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_from_scratch.book import plots
from lora_from_scratch.lab.records import FIELDS, Record
from lora_from_scratch.lab.sweep import Tuned

COLOURS = {
    "LoRA rank 1": plots.SKY,
    "LoRA rank 8": plots.BLUE,
    "LoRA rank 64": plots.PURPLE,
    "QLoRA rank 8": plots.ORANGE,
    "DoRA rank 8": plots.GREEN,
    "full": plots.BLACK,
}


def before_and_after(rows: Sequence[tuple[Record, str, str]]) -> Figure:
    """Three columns: the sentence, what the model said, what it says now, its fields green if right, else orange."""
    fig, (ax,) = plots.canvas(width=11, height=1.25 * len(rows) + 0.6)
    ax.axis("off")
    ax.set(xlim=(0, 11), ylim=(-len(rows), 0.4))
    for x, head in ((0, "the sentence"), (3.9, "before"), (7.6, "after")):
        ax.text(x, 0.2, head, weight="bold", va="bottom")
    for i, (record, first, now) in enumerate(rows):
        ax.axhline(-i + 0.1, color="#CCCCCC", linewidth=0.8)
        cut = " ".join(first.split())[:120]
        for x, text, width, colour in ((0, record.sentence, 40, plots.BLACK), (3.9, f"{cut} …", 38, plots.GREY)):
            ax.text(x, -i, textwrap.fill(text, width), va="top", fontsize=9, color=colour)
        for j, (text, colour) in enumerate(_fields(now, record)):
            ax.text(7.6, -i - 0.155 * j, text, va="top", fontsize=9, color=colour, family="monospace")
    return fig


def _fields(answer: str, record: Record) -> list[tuple[str, str]]:
    """The lines of an answer with their colours; of what is no JSON, its beginning."""
    try:
        given = json.loads(answer)
        assert isinstance(given, dict)
    except (json.JSONDecodeError, AssertionError):
        return [(line, plots.RED) for line in textwrap.wrap(answer, 42)[:4]] + [("(no JSON)", plots.RED)]
    lines = []
    for field in FIELDS:
        right = field in given and given[field] == record.meaning[field]
        text = f"{field:5} {json.dumps(given.get(field))}" + (
            "" if right else f"  should be {json.dumps(record.meaning[field])}"
        )
        lines.append((text, plots.GREEN if right else plots.RED))
    return lines


def rates(tuned: Mapping[str, Tuned], start: float) -> Figure:
    """The tuning loss of every rate that was tried; `start` is the base's. Needs a rate tried."""
    fig = tried_rates(tuned, COLOURS, "loss on new values (nats a token)")
    ax = fig.axes[0]
    plots.reference(ax, start, "the model before")
    ax.set(yscale="log")
    ax.set_yticks(ticks := [0.15, 0.2, 0.3, 0.5, 1, 2], ticks)
    ax.minorticks_off()
    return fig


def tried_rates(tuned: Mapping[str, Tuned], colours: Mapping[str, str], ylabel: str) -> Figure:
    """The tuning loss over the rate, each method's best one filled, the others hollow."""
    fig, (ax,) = plots.canvas(width=8, height=4.4)
    for label, method in tuned.items():
        tried = sorted(method.tried)
        losses = [method.tried[rate] for rate in tried]
        ax.plot(tried, losses, "o-", markersize=5, markerfacecolor="white", color=colours[label], label=label)
    for i, (label, method) in enumerate(tuned.items()):  # on top, and smaller and smaller: none hides another
        best = method.run.lr
        ax.plot(best, method.tried[best], "o", markersize=11 - i, color=colours[label], zorder=3 + i)
    ax.set(xscale="log", xlabel="learning rate", ylabel=ylabel)
    ax.legend(fontsize=8)
    return fig


def learnt_and_lost(tuned: Mapping[str, Tuned], base: Mapping[str, float]) -> Figure:
    """A dot for each seed of each method: the loss on records, and the loss on documentation."""
    fig, (ax,) = plots.canvas(width=8, height=4.6)
    for label, t in tuned.items():
        x, y = t.values("task_loss"), t.values("text_loss")
        ax.plot(x, y, "o", color=COLOURS[label], markersize=6, label=label)
    plots.reference(ax, base["text_loss"], f"the model before (records: {base['task_loss']:.2f})")
    ax.set(xlabel="loss on new values (nats a token): less is better")
    ax.set_ylabel("loss on documentation (nats a token)")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside the dots, which lie everywhere
    return fig
