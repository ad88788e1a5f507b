"""Where a row of the ledger stands: settled on which model, or open, and then for which of three reasons."""

from collections import Counter
from collections.abc import Sequence

from lora_from_scratch.book import verdicts

OPEN = "not settled"
PLACES = ("pretrained model", "tiny model", "counted, exact", "open")
TINY = ("tiny Llama", "a Llama of 2 layers")
LINE, PARTS, CHANCE = "the interval touches the line", "parts differ or are open", "chance passes too"


def place(row: dict) -> str:
    """Where a row is settled: one of PLACES. A row of sizes or algebra alone is counted, exact."""
    if row["verdict"] == OPEN:
        return "open"
    model = row["scope"].get("model", "")
    return "tiny model" if model in TINY else "pretrained model" if "SmolLM2" in model else "counted, exact"


def why_open(row: dict) -> str:
    """Why a row is not settled: LINE, PARTS (some of its parts are settled) or CHANCE (its own interval is clear)."""
    if any(_clear(part) for part in row["parts"].values() if part["verdict"] == OPEN):
        return CHANCE
    return PARTS if any(part["verdict"] != OPEN for part in row["parts"].values()) else LINE


def _clear(part: dict) -> bool:
    """Whether the interval of a part is wholly on the side of its test, as JSON holds them."""
    margin = next(part[name] for name in ("by", "within", "x") if name in part)
    low, high = part["estimate"]["low"], part["estimate"]["high"]
    return None not in (low, high) and getattr(verdicts, part["kind"])(margin).side(low, high) == verdicts.YES


def sureness(rows: Sequence[dict]) -> str:
    """How sure an advice is, from its rows: where they are settled, and why the others are open."""
    if not rows:
        return "not measured in this book yet"
    at = Counter(place(row) for row in rows)
    why = Counter(why_open(row) for row in rows if row["verdict"] == OPEN)
    words = [f"{at[name]} settled on the {name}" for name in PLACES[:2] if at[name]]
    words += [f"{at[PLACES[2]]} counted or exact"] if at[PLACES[2]] else []
    words += [f"{at['open']} open ({', '.join(f'{n}: {reason}' for reason, n in sorted(why.items()))})"] if why else []
    return f"of {len(rows)} rows {', '.join(words)}"
