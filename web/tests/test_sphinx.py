"""What Sphinx makes of the reference's pages."""

import re
import subprocess
import sys

from web.tests.conftest import SITE

ROOT = SITE.parents[1]


def built(folder, **pages):
    """The pages that Sphinx makes of Markdown."""
    source = folder / "source"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['myst_parser', 'web.extension']\nhtml_math_renderer = 'math_core'")
    (source / "index.md").write_text("# x\n\n```{toctree}\n" + "\n".join(pages) + "\n```\n")
    for name, text in pages.items():
        (source / f"{name}.md").write_text(f"# x\n\n{text}\n")
    subprocess.run([sys.executable, "-m", "sphinx", "-q", source, folder / "out"], cwd=ROOT, check=True)
    return {name: (folder / "out" / f"{name}.html").read_text() for name in pages}


def test_quotes_and_dashes_stay_as_they_are_on_pages_of_the_reference_alone(tmp_path):
    words = '"^block\\\\.x" and --keep'
    shown = built(tmp_path, a=words, reference_a=words, z=words)
    assert "<p>&quot;^block\\.x&quot; and --keep</p>" in shown["reference_a"]
    for name in ("a", "z"):
        assert "<p>“^block.x” and –keep</p>" in shown[name]


def test_a_lambda_is_shown_without_a_blank(tmp_path):
    page = built(tmp_path, reference_a="```{py:function} f(a: int = lambda: None)\n:module: m\n```")["reference_a"]
    assert "f(a: int = lambda: ...)" in re.sub("<[^>]*>", "", page)
