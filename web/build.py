"""python -m web.build: the site into build/web, from what is committed. Exit status 1 where anything is wrong.

Nothing is executed. The pages are written to build/web-source, Sphinx turns them into HTML with warnings as errors,
check.py looks at every page, and only then does the new site take the place of the old one.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from web import chapter, check, documents, ledger, notebook, reference
from web.markup import FIGURES

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
BESIDE = {"guide": "Choosing: the guide <guide>", "nulls": "nulls", "times": "times"}  # in the sidebar
CONTENTS = """

```{toctree}
:hidden:
:caption: Chapters

CHAPTERS
```

```{toctree}
:hidden:
:caption: Appendices

APPENDICES
```

```{toctree}
:hidden:
:caption: What was found

FOUND
```

```{toctree}
:hidden:
:caption: To look things up

notation
glossary
REFERENCE
```
"""


def main(arguments: list[str] | None = None) -> int:
    """Build the site of a checkout; say what it took, or all that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    root, begin = parser.parse_args(arguments).root.resolve(), time.perf_counter()
    wrong = build(root)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print(f"The site was not built: {len(wrong)} things are wrong.", file=sys.stderr)
        return 1
    print(f"{check.summary(root / 'build' / 'web')}; {time.perf_counter() - begin:.0f} s: build/web/index.html")
    return 0


def build(root: Path) -> list[str]:
    """Build the site of the checkout `root` into its build/web; what is wrong, or nothing. Then the old site stays."""
    source, new, site = (root / "build" / name for name in ("web-source", "web-new", "web"))
    for folder in (source, new):
        shutil.rmtree(folder, ignore_errors=True)
    if wrong := write_pages(root, source):
        return wrong
    if wrong := run_sphinx(source, new):
        return wrong
    copy_figures(root, new)
    if wrong := check.problems(new):
        return wrong
    shutil.rmtree(site, ignore_errors=True)
    new.rename(site)
    return []


def write_pages(root: Path, source: Path) -> list[str]:
    """Write every page as Markdown into `source`; what is wrong with the texts they come from."""
    shutil.copytree(HERE / "pages", source)
    shutil.copytree(HERE / "static", source / "_static")
    shutil.copy(HERE / "conf.py", source)
    chapters, wrong = chapter.all_pages(root), []
    makers: dict[str, Callable[[], str]] = {
        stem: lambda stem=stem: notebook.page(chapter.read(root, stem, chapters)) for stem in chapters.values()
    }
    makers |= {name: lambda path=p: documents.page(root, path, chapters) for name, p in documents.present(root).items()}
    makers |= {"ledger": lambda: ledger.page(root, chapters)}
    makers |= {name: lambda text=text: text for name, text in reference.pages(root).items()}
    for name, make in makers.items():
        try:
            text = make()
        except ValueError as error:
            wrong.append(f"{name}: {error}")
            continue
        if name == "index":
            text += contents(root, chapters)
        (source / f"{name}.md").write_text(text, encoding="utf-8")
        for file in documents.files(text):
            (source / "files" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, source / "files" / file)
    return wrong


def contents(root: Path, chapters: dict[str, str]) -> str:
    """The lists that make the sidebar, and the order of previous and next."""
    texts = documents.present(root)
    lists = {
        "CHAPTERS": [stem for number, stem in chapters.items() if number.isdigit()],
        "APPENDICES": [stem for number, stem in chapters.items() if not number.isdigit()],
        "FOUND": ["ledger", *(entry for name, entry in BESIDE.items() if name in texts)],
        "REFERENCE": [*reference.pages(root), *(name for name in ("how_it_is_made",) if name in texts), "genindex"],
    }
    filled = CONTENTS
    for name, pages in lists.items():
        filled = filled.replace(name, "\n".join(pages))
    return filled


def run_sphinx(source: Path, out: Path) -> list[str]:
    """Run Sphinx, warnings as errors; what it says is wrong."""
    doctrees = source.parent / "web-doctrees"
    shutil.rmtree(doctrees, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-d", doctrees, source, out]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    said = [line.replace(f"{source}/", "") for line in done.stderr.splitlines() if line.strip()]
    return said or ["Sphinx failed and said nothing"] if done.returncode else []


def copy_figures(root: Path, site: Path) -> None:
    """Take along the pictures that pages show, and the results that they link to."""
    (site / FIGURES).mkdir(exist_ok=True)
    for name in sorted(check.named(site, FIGURES)):
        found = [root / "figures" / part / name for part in ("full", ".") if (root / "figures" / part / name).exists()]
        if found:
            shutil.copy(found[0], site / FIGURES / name)


if __name__ == "__main__":
    sys.exit(main())
