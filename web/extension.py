"""What the site asks of Sphinx beyond its own: formulas as MathML, mentions as links, the reference word for word."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.transforms import SphinxTransform

from web.mentions import pieces

MATHML = LatexToMathML(fancy_error=False)
WORD_FOR_WORD = (  # what stands in one of these is no mention
    nodes.literal,
    nodes.literal_block,
    nodes.reference,
    nodes.raw,
    nodes.title,
    nodes.term,
    nodes.math,
    nodes.math_block,
    addnodes.pending_xref,
    addnodes.desc_signature,
)


class BadTeX(SphinxError):
    """A formula that math-core does not know: the build fails."""

    category = "Bad TeX"


def mathml(tex: str, display: bool) -> str:
    """A formula as MathML. Raises BadTeX with the formula."""
    try:
        return MATHML.convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        raise BadTeX(f"{tex!r}: {error}") from None


def inline(translator, node: nodes.math) -> None:
    """A formula in a line."""
    translator.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    """A formula on a line of its own; a wide one is scrolled."""
    translator.body.append(f'<div class="formula" tabindex="0">{mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


class Mentions(SphinxTransform):
    """Turns mentions in running text into links (mentions.py)."""

    default_priority = 700  # when the text is all there

    def apply(self, **_) -> None:
        """Change every text that is not word for word."""
        for text in list(self.document.findall(nodes.Text)):
            if not any(isinstance(parent, WORD_FOR_WORD) for parent in ancestors(text)):
                found = list(pieces(str(text), self.config.chapter_pages))
                if any(target for _, target in found):
                    text.parent.replace(text, [self.node(words, target) for words, target in found])

    def node(self, words: str, target: str) -> nodes.Node:
        """A piece of text, plain or as a link."""
        if not target:
            return nodes.Text(words)
        if "://" in target:
            return nodes.reference("", words, refuri=target)
        asked = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{target}", "refexplicit": True, "refwarn": True}
        return addnodes.pending_xref("", nodes.inline("", words), refdoc=self.env.docname, **asked)


class RowTables(SphinxTransform):
    """Marks tables of the ledger's rows, as the guide has them: a narrow page shows them as cards (book.css)."""

    default_priority = 700

    def apply(self, **_) -> None:
        """Change every table whose first two columns are "row" and "verdict"."""
        for table in self.document.findall(nodes.table):
            head = next(iter(table.findall(nodes.thead)), None)
            if head and [entry.astext() for entry in head.findall(nodes.entry)][:2] == ["row", "verdict"]:
                table["classes"].append("rows")


class PlainReference(SphinxTransform):
    """Leaves quotes, dashes and backslashes of the reference as they are: docstrings name values, options, patterns."""

    default_priority = 700  # Sphinx makes quotes smart at 750

    def apply(self, **_) -> None:
        """Switch smart quotes off for a page of the reference, and for no other."""
        if self.env.docname.startswith("reference"):
            self.document.settings.smart_quotes = False


class Lambdas(SphinxTransform):
    """Takes out the blank that Sphinx leaves behind a lambda without arguments, in the defaults of a signature."""

    default_priority = 700

    def apply(self, **_) -> None:
        """Change the texts of signatures."""
        for text in list(self.document.findall(nodes.Text)):
            if "lambda :" in text and any(isinstance(node, addnodes.desc_signature) for node in ancestors(text)):
                text.parent.replace(text, nodes.Text(text.replace("lambda :", "lambda:")))


def with_levels(app: Sphinx, page: str, template: str, context: dict, document: nodes.document | None) -> None:
    """Give the captions of the sidebar the level that a heading must have; Sphinx names it a heading without."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading">', 'role="heading" aria-level="2">')


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """The elements that a node stands in."""
    return [] if node.parent is None else [node.parent, *ancestors(node.parent)]


def setup(app: Sphinx) -> dict:
    """What Sphinx calls."""
    app.add_config_value("chapter_pages", {}, "env")
    app.add_html_math_renderer("math_core", inline_renderers=(inline, None), block_renderers=(block, None))
    app.add_transform(Mentions)
    app.add_transform(RowTables)
    app.add_transform(PlainReference)
    app.add_transform(Lambdas)
    app.connect("html-page-context", with_levels, priority=900)  # after the theme has made the sidebar
    return {"parallel_read_safe": True, "parallel_write_safe": True}
