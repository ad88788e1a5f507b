"""The README's table of parts and chapters: each with its question in a line, and its minutes (times.py).

python -m lora_from_scratch.book.contents       renew the table in README.md

A new chapter needs a line here; without one, `make sync-check` fails.
"""

from pathlib import Path

from lora_from_scratch.book import times
from lora_from_scratch.book.chapters import sources
from lora_from_scratch.lab.cache import ROOT, save_atomically

BEGIN, END = "<!-- contents: lora_from_scratch/book/contents.py writes this table -->", "<!-- end of contents -->"

PARTS = {  # part: {chapter: (its title, its question)}
    "The layer": {
        "00": ("Why low rank", "How much of a fine-tuned change survives when it is cut to a low rank?"),
        "01": ("The LoRA layer", "From `W0 x` to the class: why does one matrix start at zero, and is rank 1 enough?"),
        "02": ("Counting parameters", "Do the counts that papers print add up, and where are parameters worth most?"),
        "03": ("Merging", "Is merged the same as unmerged, and what of a small update arrives in 16 bits?"),
    },
    "Fewer bytes": {
        "04": ("NF4", "Why these sixteen levels, and what do they lose beside others?"),
        "A1": ("Outliers", "What does an error in the weights do to a loss?"),
        "05": ("QLoRA", "How much of a quantization loss does an adapter win back?"),
        "A3": ("The paged optimizer", "When does paging help?"),
        "06": ("Memory", "Where does every byte of a step go, and which model fits which card?"),
        "A2": ("Published memory", "Do the published figures add up, and when does LoRA save next to nothing?"),
    },
    "Relatives": {
        "07": ("rsLoRA", "Divide by the rank, or by its root?"),
        "08": ("LoRA+", "Which of the two matrices learns too slowly, and is a ratio more than an alpha?"),
        "09": ("DoRA", "Does it help to learn size and direction apart, at equal rank and at equal parameters?"),
    },
    "What it does to a model": {
        "10": ("Intruder dimensions", "Which directions are new, and how many would a random update make?"),
        "11": ("Forgetting", "What does a task cost in the old text?"),
        "A4": ("Tasks in turn", "Three tasks, one after the other: what is left of the first?"),
    },
    "A real model": {
        "12": ("A real model", "A pretrained Llama learns to read appointments: what does each method cost it?"),
        "13": ("Toy or real?", "Which of the tiny model's conclusions hold there?"),
    },
    "Claims asked again": {
        "14": ("Learning rates and batches", "Where is the best rate now, and what does a large batch cost?"),
        "15": ("Capacity", "How many bits does a parameter hold, and when does a low rank fall behind?"),
        "16": ("Reinforcement", "How few numbers can learn from rewards, and what can rewards not teach?"),
        "17": ("Starts from an SVD", "What is left of PiSSA, MiLoRA and LoftQ once rates are tuned?"),
    },
    "More than one": {
        "18": ("Adding adapters", "Is a sum of two adapters as good as one that learnt both tasks?"),
        "19": ("Serving many adapters", "Thirty adapters in one batch: what do memory and clock say?"),
        "A6": ("Adding for real", "Do the adapters of a real model add up?"),
        "A5": ("More than one process", "What is shared out, and what travels?"),
    },
    "At work": {
        "20": ("What goes wrong", "Which broken runs can be seen by looking, and what mends them?"),
        "21": ("Choosing", "Which method, rank, rate, layers? What do the rows say, and how sure are they?"),
    },
}


def as_markdown(root: Path = ROOT) -> str:
    """The table. Raises ValueError for a chapter without a line, and for a line without a chapter."""
    stems = {path.name[:2]: path.stem for path in sources(root)}
    listed = [number for part in PARTS.values() for number in part]
    if odd := sorted(set(stems) ^ set(listed)):
        raise ValueError(f"{', '.join(odd)}: in notebooks/ or in PARTS of book/contents.py, and not in both; add it")
    timed, lines = times.read(root), ["| chapter | its question | minutes |", "|---|---|---:|"]
    for part, chapters in PARTS.items():
        lines.append(f"| **{part}** | | |")
        for number, (title, question) in chapters.items():
            link = f"[{number} · {title}](notebooks/{stems[number]}.ipynb)"
            lines.append(f"| {link} | {question} | {times.minutes(number, timed)} |")
    return "\n".join(lines)


def renewed(readme: str, root: Path = ROOT) -> str:
    """`readme` with the table between the two marks. Raises ValueError where it has not both."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has not both marks, {BEGIN} and {END}; put them where the table is to stand")
    return f"{before}{BEGIN}\n{as_markdown(root)}\n{END}{after}"


def check(root: Path) -> list[str]:
    """What is wrong with the README's table."""
    readme = (root / "README.md").read_text("utf-8")
    try:
        agrees = renewed(readme, root) == readme
    except ValueError as error:
        return [f"README.md: {error}"]
    stale = (
        []
        if agrees
        else ["README.md: its table is not what contents.py says: python -m lora_from_scratch.book.contents"]
    )
    return stale + times.check(root)


def main(root: Path = ROOT) -> None:
    """Renew the README."""
    path = root / "README.md"
    text = renewed(path.read_text("utf-8"), root)
    save_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


if __name__ == "__main__":
    main()
