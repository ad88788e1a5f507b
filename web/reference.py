"""The reference of public functions and classes, read from the syntax trees: nothing is imported, torch least of all.

Public is what a module defines at its top and does not begin with an underscore.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from web.docstrings import as_markdown

PACKAGE = "lora_from_scratch"
ROOMS = {  # folder of the package -> its page, title, and what it holds
    "": ("reference_methods", "The methods", "They know PyTorch and nothing of the lab; `nf4` knows NumPy alone."),
    "analysis": ("reference_analysis", "Analysis", "Counts, bytes and spectra of any model."),
    "lab": ("reference_lab", "The lab", "The tiny Llama, its text and tasks, training, sweeps, and a real Llama."),
    "book": ("reference_book", "The book", "How chapters are run, judged and recorded."),
}
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A file of the package: its dotted name and its syntax tree."""

    name: str
    tree: ast.Module

    @property
    def public(self) -> list[Definition]:
        """Its public functions and classes, in the order of the file."""
        return [n for n in self.tree.body if isinstance(n, Definition) and not n.name.startswith("_")]


def modules(root: Path, room: str) -> list[Module]:
    """The modules of a room, those first that the package exports something of; folders below it are left out."""
    dotted, folder = ".".join(filter(None, (PACKAGE, room))), root / PACKAGE / room
    files = {f"{dotted}.{path.stem}": path for path in folder.glob("*.py") if path.stem != "__init__"}
    first = {module for module, _ in exported(root)}
    names = sorted(files, key=lambda name: (name not in first, name))
    return [Module(name, ast.parse(files[name].read_text("utf-8"))) for name in names]


def names(root: Path) -> set[str]:
    """The full names of all that is public, as "lora_from_scratch.lora.LoRALinear"."""
    rooms = [room for room in ROOMS if (root / PACKAGE / room).is_dir()]
    found = (module for room in rooms for module in modules(root, room))
    return {f"{module.name}.{d.name}" for module in found for d in module.public}


def pages(root: Path) -> dict[str, str]:
    """{page: its Markdown}: one a room, and "reference", which lists the names that `lora_from_scratch` exports."""
    rooms = [room for room in ROOMS if (root / PACKAGE / room).is_dir()]
    return {"reference": overview(root, rooms)} | {ROOMS[room][0]: room_page(root, room) for room in rooms}


def overview(root: Path, rooms: list[str]) -> str:
    """The names that the package exports, each with its first line, and the rooms that there are."""
    where = {(module.name, d.name): d for module in modules(root, "") for d in module.public}
    lines = []
    for module, name in exported(root):
        if found := where.get((module, name)):
            lines.append(f"{{py:obj}}`{name} <{module}.{name}>`\n: {first_line(found)}\n")
    links = "\n".join(f"- [{title}]({page}.md): {holds}" for page, title, holds in map(ROOMS.get, rooms))
    names = "\n".join(lines)
    return f"# Reference\n\n`from lora_from_scratch import …` gives these:\n\n{names}\n## By room\n\n{links}\n"


def exported(root: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of what `lora_from_scratch/__init__.py` imports, by name."""
    tree = ast.parse((root / PACKAGE / "__init__.py").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    yield from sorted(((n.module, a.name) for n in imports for a in n.names), key=lambda pair: pair[1].lower())


def room_page(root: Path, room: str) -> str:
    """All modules of a room with their public functions and classes."""
    _, title, holds = ROOMS[room]
    return "\n\n".join([f"# {title}", holds, *(module_text(module) for module in modules(root, room))]) + "\n"


def module_text(module: Module) -> str:
    """A module: what its docstring says, then its public definitions."""
    words = as_markdown(ast.get_docstring(module.tree) or "")
    short = module.name.removeprefix(f"{PACKAGE}.")
    classes = {node.name: node for node in module.tree.body if isinstance(node, ast.ClassDef)}
    return "\n\n".join([f"## {short}", words, *(definition(module.name, d, classes) for d in module.public)])


def definition(module: str, found: Definition, classes: dict[str, ast.ClassDef], owner: str = "") -> str:
    """A function or class in Sphinx's Python domain, so that the search and the index know it.

    `classes` are those of the module, by name: where the fields of a class's bases are looked up.
    """
    name = f"{owner}.{found.name}" if owner else found.name
    kind, options = directive(found, owner)
    words = "" if kind == "py:property" else signature(found, classes)
    methods = [m for m in found.body if isinstance(m, ast.FunctionDef)] if isinstance(found, ast.ClassDef) else []
    shown = [m for m in methods if not m.name.startswith("_") and ast.get_docstring(m)]
    body = as_markdown(ast.get_docstring(found) or "")
    inside = "\n\n".join([body, *(definition(module, method, classes, name) for method in shown)])
    head = "\n".join([f"{{{kind}}} {name}{words}", f":module: {module}", *options])
    ticks = "`" * (8 if isinstance(found, ast.ClassDef) else 5)
    return f"{ticks}{head}\n\n{inside}\n{ticks}"


def directive(found: Definition, owner: str) -> tuple[str, list[str]]:
    """Sphinx's directive for a class, a function, or what stands in a class, and its options."""
    if isinstance(found, ast.ClassDef):
        return "py:class", []
    if not owner:
        return "py:function", []
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in found.decorator_list}
    if decorators & {"property", "cached_property"}:
        return "py:property", [f":type: {annotation(found.returns)}"] if found.returns else []
    return "py:method", [f":{name}:" for name in ("classmethod", "staticmethod") if name in decorators]


def signature(found: Definition, classes: dict[str, ast.ClassDef] | None = None) -> str:
    """ "(base, rank, alpha)" of a function, a class's __init__ or its fields; annotations as they stand, unquoted.

    What a class does not say itself is that of its bases among `classes`.
    """
    if isinstance(found, ast.FunctionDef):
        method = bool(found.args.args) and found.args.args[0].arg in ("self", "cls")
        returns = f" -> {annotation(found.returns)}" if found.returns else ""
        return f"({arguments(found.args, skip=method)}){returns}"
    line = lineage(found, classes or {})
    for node in line:
        start = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if start:
            return f"({arguments(start.args, skip=True)})"
        if has_fields(node):
            return f"({', '.join(fields(line[line.index(node) :]))})"
    return ""


def lineage(found: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """A class and its bases among `classes`, itself first."""
    bases = [classes[name] for name in map(ast.unparse, found.bases) if name in classes]
    return [found, *(node for base in bases for node in lineage(base, classes))]


def has_fields(found: ast.ClassDef) -> bool:
    """Whether a class is made from its fields: a dataclass or a NamedTuple."""
    named_tuple = any(ast.unparse(base).endswith("NamedTuple") for base in found.bases)
    return named_tuple or any("dataclass" in ast.unparse(decorator) for decorator in found.decorator_list)


def fields(line: list[ast.ClassDef]) -> list[str]:
    """The fields of a class and its bases, those of the farthest base first; a later one takes an earlier's place."""
    found = {}
    for node in reversed([node for node in line if has_fields(node)]):
        annotated = [n for n in node.body if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")]
        found |= {ast.unparse(field.target): field_text(field) for field in annotated}
    return list(found.values())


def arguments(args: ast.arguments, skip: bool) -> str:
    """The arguments as they stand, without the first if `skip`."""
    args = copy.deepcopy(args)
    for node in ast.walk(args):
        if isinstance(node, ast.arg) and node.annotation:
            node.annotation = Unquoted().visit(node.annotation)
    text = unparsed(args)
    return text.partition(", ")[2] if skip else text


class Unquoted(ast.NodeTransformer):
    """Takes the quotes off the names in an annotation, but not off the strings of a Literal."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return node if ast.unparse(node.value).endswith("Literal") else self.generic_visit(node)


def annotation(node: ast.expr) -> str:
    """An annotation as it stands, without quotes round it or round names in it."""
    return unparsed(Unquoted().visit(copy.deepcopy(node)))


def unparsed(node: ast.AST) -> str:
    """The source of a tree; Python leaves a blank behind a lambda without arguments."""
    return ast.unparse(node).replace("lambda :", "lambda:")


def field_text(field: ast.AnnAssign) -> str:
    """A field of a dataclass with its type, and its default where that is short."""
    text = f"{ast.unparse(field.target)}: {annotation(field.annotation)}"
    if field.value is None:
        return text
    default = unparsed(field.value)
    return f"{text} = {default if len(default) < 30 and not default.startswith('field(') else '…'}"


def first_line(found: Definition) -> str:
    """The first sentence of a docstring, as Markdown."""
    text = " ".join((ast.get_docstring(found) or "").split("\n\n")[0].split())
    return as_markdown(text)
