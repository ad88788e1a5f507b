"""What a chapter found: numbers, figures and claims with their verdicts, written to one JSON file with provenance.

A claim is registered with its criterion *before* it is measured, and its verdict is computed from the measurement.
A chapter that registers a claim and never measures it cannot be saved.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from lora_from_scratch.lab.cache import ROOT, build_folder, save_atomically
from lora_from_scratch.lab.corpus import corpus_hash
from lora_from_scratch.lab.presets import Preset
from lora_from_scratch.lab.sweep import Tuned
from lora_from_scratch.lab.workers import SECONDS

VERDICTS = ("reproduced", "partly", "not at this scale", "does not add up")


@dataclass
class Claim:
    """A published claim: what it says, where, the published value, and the criterion that decides.

    `judge` maps the measured value to a verdict of VERDICTS; True and False stand for the first and the third.
    """

    says: str
    source: str
    published: str
    criterion: str
    judge: Callable[[object], str | bool]
    shown: str = ""
    value: object = None
    verdict: str = ""

    def measure(self, value: object, shown: str) -> None:
        """Record the measured value (`shown` is how the ledger writes it), and print the verdict."""
        verdict = self.judge(value)
        verdict = {True: "reproduced", False: "not at this scale"}.get(verdict, verdict)
        if verdict not in VERDICTS:
            raise ValueError(f"the judge gave {verdict!r}; a verdict is one of {', '.join(VERDICTS)}")
        self.value, self.shown, self.verdict = value, shown, verdict
        print(f"{verdict.upper()}: {self.says}\n  published: {self.published}\n  measured:  {shown}")


@dataclass
class Results:
    """The results of one chapter at one preset. `chapter` is the file's name, such as "01_lora_layer"."""

    chapter: str
    preset: Preset
    claims: dict[str, Claim] = field(default_factory=dict)
    numbers: dict[str, object] = field(default_factory=dict)
    sweeps: dict[str, dict] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def claim(
        self, name: str, says: str, source: str, published: str, criterion: str, judge: Callable[[object], str | bool]
    ) -> Claim:
        """Register a claim before it is measured. Raises ValueError if `name` stands already."""
        if name in self.claims:
            raise ValueError(f"claim {name!r} is registered already")
        self.claims[name] = Claim(says, source, published, criterion, judge)
        return self.claims[name]

    def record(self, **numbers: object) -> None:
        """Keep numbers (or lists and dicts of them) under their names in the JSON file."""
        self.numbers |= numbers

    def record_sweep(self, name: str, tuned: dict[str, Tuned]) -> None:
        """Keep what a comparison tried and found, and say of every method whether its best rate was at an edge."""
        self.sweeps[name] = {
            label: {
                "rate": t.run.lr,
                "finished": t.finished,
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

    def figure(self, fig: Figure, name: str, caption: str) -> None:
        """Save a figure as `<chapter>_<name>.png`, show it where there is a notebook, and print its caption."""
        path = self._folder() / f"{self.chapter}_{name}.png"
        save_atomically(path, lambda temporary: fig.savefig(temporary, metadata={"Software": None}))
        self.figures[path.name] = caption
        if "inline" in plt.get_backend():
            from IPython.display import display

            display(fig)
        plt.close(fig)
        print(caption)

    def save(self) -> Path:
        """Write `<chapter>.json`. Raises ValueError if a registered claim was never measured."""
        open_claims = [name for name, claim in self.claims.items() if not claim.verdict]
        if open_claims:
            raise ValueError(f"claims registered and never measured: {', '.join(open_claims)}")
        fields = ("says", "source", "published", "criterion", "shown", "value", "verdict")
        content = {
            "chapter": self.chapter,
            "provenance": self._provenance(),
            "claims": {name: {f: getattr(c, f) for f in fields} for name, c in self.claims.items()},
            "numbers": self.numbers,
            "sweeps": self.sweeps,
            "figures": self.figures,
        }
        path = self._folder() / f"{self.chapter}.json"
        text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
        save_atomically(path, lambda temporary: temporary.write_text(text))
        return path

    def _folder(self) -> Path:
        return Path(os.environ.get("LORA_OUT", build_folder() / self.preset.name / "figures"))

    def _provenance(self) -> dict:
        cuda = self.preset.device == "cuda"
        return {
            "preset": self.preset.name,
            "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()}), one thread a run",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "seeds": list(range(1, self.preset.seeds + 1)),
            "corpus_sha256": corpus_hash(),
            "seconds": round(time.perf_counter() - self.started, 1),
            "training_seconds": round(sum(SECONDS), 1),  # of single runs, one after the other, cached ones included
        }


def _plain(value: object) -> object:
    """`value` as JSON knows it: NaN and infinity, which it does not know, become null."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
