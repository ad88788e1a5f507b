"""What a chapter found: rows with their verdicts, numbers and figures, written to one JSON file with provenance.

A row (rows.py) is written down *before* it is measured: a claim that somebody published, a finding of our own, a piece
of arithmetic, or an identity. Its verdict is computed from the test that came with it (verdicts.py). A chapter that
writes down a row and never measures it cannot be saved.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lora_from_scratch.book import paragraphs
from lora_from_scratch.book.as_json import plain
from lora_from_scratch.book.forest import forest
from lora_from_scratch.book.provenance import provenance
from lora_from_scratch.book.rows import ALONE, Row
from lora_from_scratch.book.verdicts import _Test
from lora_from_scratch.lab.cache import ROOT, build_folder, save_atomically
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.sweep import Tuned


@dataclass
class Results:
    """The results of one chapter at one preset. `chapter` is the file's name, such as "01_lora_layer".

    `scope` says where the chapter's rows were measured, beside the model, its width and the seeds, which the preset
    gives; a row may say more, or otherwise.
    """

    chapter: str
    preset: Preset
    scope: dict[str, object] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    numbers: dict[str, object] = field(default_factory=dict)
    sweeps: dict[str, dict] = field(default_factory=dict)
    figures: dict[str, dict[str, str]] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def claim(
        self,
        name: str,
        says: str,
        source: str,
        published: str,
        test: _Test | dict[str, _Test],
        read: str = "",
        scope: dict[str, object] | None = None,
        asks_again: str = "",
    ) -> Row:
        """Write down what somebody published, with its test, or {part: test}.

        Raises ValueError if `name` stands already, or for what rows.Row refuses.
        """
        about = {"source": source, "published": published, "read": read, "asks_again": asks_again}
        return self._add(name, "claim", says, test, scope, **about)

    def finding(self, name: str, says: str, test: _Test, scope: dict[str, object] | None = None, **about: str) -> Row:
        """Write down a control or a discovery of ours. `about`: seen_first and tested_on, source, asks_again."""
        return self._add(name, "finding", says, test, scope, **about)

    def arithmetic(self, name: str, says: str, source: str, published: str, test: _Test, read: str = "") -> Row:
        """Write down a published figure that is worked out again; its test is a verdicts.Figures."""
        return self._add(name, "arithmetic", says, test, {}, source=source, published=published, read=read)

    def identity(self, name: str, says: str, test: _Test) -> Row:
        """Write down that two ways to compute one thing agree; its test is a verdicts.Identity."""
        return self._add(name, "identity", says, test, {})

    def record(self, **numbers: object) -> None:
        """Keep numbers (or lists and dicts of them) under their names in the JSON file."""
        self.numbers |= numbers

    def record_sweep(self, name: str, tuned: dict[str, Tuned]) -> None:
        """Keep what a comparison tried and found, and say of every method whether its best rate was at an edge."""
        self.sweeps[name] = {
            label: {
                "rate": t.run.lr,
                "finished": t.finished,
                "resolution": t.resolution,
                "tried": {f"{rate:.4g}": loss for rate, loss in sorted(t.tried.items())},
                "trained": t.values("trained")[0],
                "task_loss": t.values("task_loss"),
                "text_loss": t.values("text_loss"),
            }
            for label, t in tuned.items()
        }
        for label in (label for label, t in tuned.items() if not t.finished):
            print(f"UNFINISHED: the best learning rate of {label!r} lies at the edge of what was tried")

    def known_rates(self, name: str) -> dict[str, float] | None:
        """The best learning rates that the committed `full` results hold for a comparison, or None."""
        path = ROOT / "figures" / "full" / f"{self.chapter}.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text())["sweeps"].get(name)
        return found and {label: entry["rate"] for label, entry in found.items()}

    def figure(self, fig: Figure, name: str, caption: str, alt: str = "") -> None:
        """Save a figure as `<chapter>_<name>.png`, show it where there is a notebook, and print its caption.

        `alt` is what one would tell somebody who cannot see it: the message, not the caption again.
        """
        path = self._folder() / f"{self.chapter}_{name}.png"
        save_atomically(path, lambda temporary: fig.savefig(temporary, metadata={"Software": None}))
        self.figures[path.name] = {"caption": caption, "alt": alt}
        if "inline" in plt.get_backend():
            from IPython.display import display

            display(fig, metadata={"image/png": {"alt": alt}})
        plt.close(fig)
        print(caption)

    def forest(self, name: str, caption: str, rows: list[str] | None = None) -> None:
        """One call for a forest of this chapter's rows (or those named): each interval against its line."""
        chosen = [self.rows[n] for n in rows or self.rows]
        alt = "; ".join(f"{row.name}: {row.shown}, {row.verdict}" for row in chosen)
        self.figure(forest([row.as_data() | {"name": row.name} for row in chosen]), name, caption, alt)

    def save(self) -> Path:
        """Write `<chapter>.json`, and print which paragraphs this run's numbers do not bear out.

        Raises ValueError if a row was written down and never measured, or for two keys that JSON cannot tell apart.
        """
        unmeasured = [name for name, row in self.rows.items() if not row.verdict]
        if unmeasured:
            raise ValueError(f"rows written down and never measured: {', '.join(unmeasured)}")
        content = {
            "chapter": self.chapter,
            "provenance": provenance(self.preset, time.perf_counter() - self.started, self.scope.get("bases")),
            "rows": {name: row.as_data() for name, row in self.rows.items()},
            "numbers": self.numbers,
            "sweeps": self.sweeps,
            "figures": self.figures,
        }
        path = self._folder() / f"{self.chapter}.json"
        text = json.dumps(plain(content), indent=1, allow_nan=False) + "\n"
        save_atomically(path, lambda temporary: temporary.write_text(text))
        source = ROOT / "notebooks" / f"{self.chapter}.py"
        for line in paragraphs.not_borne_out(source, self.rows) if source.exists() else []:
            print(line)
        return path

    def _add(self, name: str, kind: str, says: str, test: object, scope: dict | None, **about: str) -> Row:
        self._check_new(name)
        parts = test if isinstance(test, dict) else {ALONE: test}
        where = {} if kind in ("arithmetic", "identity") else self._scope() | (scope or {})
        self.rows[name] = Row(name, kind, says, parts, where, **about)
        return self.rows[name]

    def _check_new(self, name: str) -> None:
        if name in self.rows:
            raise ValueError(f"row {name!r} is written down already")

    def _scope(self) -> dict[str, object]:
        size = self.preset
        model = {"model": "tiny Llama", "width": size.model.hidden_size}
        return model | {"seeds": size.seeds, "bases": min(size.seeds, size.bases)} | self.scope

    def _folder(self) -> Path:
        return Path(os.environ.get("LORA_OUT", build_folder() / self.preset.name / "figures"))
