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
            "" if right else f"  not {json.dumps(record.meaning[field])}"
        )
        lines.append((text, plots.GREEN if right else plots.RED))
    return lines


def rates(tuned: Mapping[str, Tuned], start: float) -> Figure:
    """The tuning loss of every rate that was tried, the best ringed; `start` is the base's. Needs a rate tried."""
    fig, (ax,) = plots.canvas(width=8, height=4.4)
    for label, t in tuned.items():
        tried = sorted(t.tried)
        ax.plot(tried, [t.tried[rate] for rate in tried], "o-", markersize=3.5, color=COLOURS[label], label=label)
        if tried:
            ax.plot(t.run.lr, t.tried[t.run.lr], "o", markersize=9, markerfacecolor="none", color=COLOURS[label])
    plots.reference(ax, start, "the model before")
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="loss on new values (nats a token)")
    ax.set_yticks(ticks := [0.15, 0.2, 0.3, 0.5, 1, 2], ticks)
    ax.minorticks_off()
    ax.legend(fontsize=8)
    return fig


def learnt_and_lost(tuned: Mapping[str, Tuned], base: Mapping[str, float]) -> Figure:
    """A dot for each seed of each method: the loss on records, and the loss on documentation."""
    fig, (ax,) = plots.canvas(width=8, height=4.6)
    for label, t in tuned.items():
        x, y = t.values("task_loss"), t.values("text_loss")
        ax.plot(x, y, "o", color=COLOURS[label], markersize=6, label=label)
    plots.reference(ax, base["text_loss"], f"the model before (records: {base['task_loss']:.2f})")
    ax.set(xlabel="loss on new values (nats a token): less is learnt better")
    ax.set_ylabel("loss on documentation (nats a token)")
    ax.legend(fontsize=8)
    return fig
