"""The book as a site: `make web` builds it into build/web from what is committed, and runs no chapter.

    notebooks/*.ipynb, figures/full/*.json and *.png, README.md, docstrings
        │
        │  notebook.py (head, outputs, predictions), ledger.py, reference.py, documents.py: each gives Markdown
        v
    build/web-source/*.md  ──  Sphinx (conf.py, extension.py)  ──>  build/web  ──  check.py looks at every page

Everything but build.py's call of Sphinx and extension.py needs the standard library and nbformat alone.
"""
