"""The exercise of appendix A3: page-ins under the better rule."""

from lora_from_scratch.book.checks.common import not_yet, number


def check_pages(answer) -> str:
    """Pages brought in by a step that visits 100 in a circle, 75 resident, most recently used first out: 25 or 26."""
    got = number(answer)
    if got is None:
        return not_yet("give one number of pages")
    if got in (25, 26):
        return "Right: what does not fit must come in once a step, and nothing else has to."
    mistakes = {
        100: "that is the rule of least recently used; here the page that goes is the one needed last",
        75: "that is what fits; it stays where it is",
        0: "25 pages do not fit, and each of the 100 is visited in a step",
        74: "that is how many stay where they are for a round; the others take turns in the last place",
        99: "only the page used last stays, under this rule? It is the one that goes: which ones stay?",
        1: "one page moves at a time; how many times in a step?",
        50: "each page that comes in throws one out, but only what comes in counts",
        0.25: "that is the share; how many pages?",
    }
    return not_yet(mistakes.get(got, "follow two rounds: which pages are never thrown out?"))
