"""The reference of public functions and classes, read from the syntax trees: nothing is imported, torch least of all.

Public is what a module defines at its top and does not begin with an underscore.
"""

import ast
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
    return "\n\n".join([f"## {short}", words, *(definition(module.name, d) for d in module.public)])


def definition(module: str, found: Definition, owner: str = "") -> str:
    """A function or class in Sphinx's Python domain, so that the search and the index know it."""
    name = f"{owner}.{found.name}" if owner else found.name
    kind = "py:class" if isinstance(found, ast.ClassDef) else "py:method" if owner else "py:function"
    body = as_markdown(ast.get_docstring(found) or "")
    methods = [m for m in found.body if isinstance(m, ast.FunctionDef)] if isinstance(found, ast.ClassDef) else []
    shown = [m for m in methods if not m.name.startswith("_") and ast.get_docstring(m)]
    inside = "\n\n".join([body, *(definition(module, method, name) for method in shown)])
    ticks = "`" * (8 if isinstance(found, ast.ClassDef) else 5)
    return f"{ticks}{{{kind}}} {name}{signature(found)}\n:module: {module}\n\n{inside}\n{ticks}"


def signature(found: Definition) -> str:
    """ "(base, rank, alpha)" of a function, a class's __init__ or a dataclass's fields; an annotation as it stands."""
    if isinstance(found, ast.FunctionDef):
        method = bool(found.args.args) and found.args.args[0].arg in ("self", "cls")
        returns = f" -> {ast.unparse(found.returns)}" if found.returns else ""
        return f"({arguments(found.args, skip=method)}){returns}"
    start = next((n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if start:
        return f"({arguments(start.args, skip=True)})"
    fields = [n for n in found.body if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")]
    dataclass_ = any("dataclass" in ast.unparse(decorator) for decorator in found.decorator_list)
    return f"({', '.join(field_text(field) for field in fields)})" if dataclass_ else ""


def arguments(args: ast.arguments, skip: bool) -> str:
    """The arguments as they stand, without the first if `skip`."""
    return ast.unparse(args).partition(", ")[2] if skip else ast.unparse(args)


def field_text(field: ast.AnnAssign) -> str:
    """A field of a dataclass with its type, and its default where that is short."""
    text = f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}"
    if field.value is None:
        return text
    default = ast.unparse(field.value)
    return f"{text} = {default if len(default) < 30 and not default.startswith('field(') else '…'}"


def first_line(found: Definition) -> str:
    """The first sentence of a docstring, as Markdown."""
    text = " ".join((ast.get_docstring(found) or "").split("\n\n")[0].split())
    return as_markdown(text)
