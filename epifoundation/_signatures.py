"""Signatures and docstrings, read from source: ``--help`` imports neither torch nor anndata."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ._docs import fill

PACKAGE = Path(__file__).parent
HEADING = r"\n\n\w+\n-{3,}\n"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function or field of a dataclass (`owner`); `kind`: annotation, not None."""

    owner: str
    name: str
    kind: str
    may_be_none: bool
    is_required: bool
    default: Any
    text: str


@dataclass(frozen=True)
class Signature:
    """Parameters and return type of a function or dataclass, and the text above them."""

    parameters: dict[str, Parameter]
    returns: str
    text: str


@cache
def read_signature(owner: str) -> Signature:
    """The signature of ``"tl.embed"``, ``"training/engine.Engine"`` or another name."""
    module, *names = owner.split(".")
    file, node = _find(_file(PACKAGE / module), names[0])
    for each in names[1:]:
        node = next(inner for inner in node.body if getattr(inner, "name", None) == each)
    text, _, rest = fill(ast.get_docstring(node) or "").partition("\n\nParameters\n----------\n")
    texts = _texts(re.split(HEADING, rest)[0])
    parameters = {}
    for name, annotation, value in _arguments(node):
        kind = ast.unparse(annotation)
        parameters[name] = Parameter(
            owner=owner,
            name=name,
            kind=kind.removesuffix(" | None"),
            may_be_none=kind.endswith(" | None"),
            is_required=value is None,
            default=value and _literal(file, value),
            text=texts.get(name, ""),
        )
    returns = ast.unparse(node.returns) if hasattr(node, "returns") else ""
    return Signature(parameters, returns, re.split(HEADING, text)[0])


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _file(module: Path) -> Path:
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")


def _find(file: Path, name: str) -> tuple[Path, Any]:
    """The statement that defines a name, in this file or the one it is imported from."""
    for node in _parse(file).body:
        if isinstance(node, ast.ImportFrom) and name in {each.name for each in node.names}:
            folder = file.parents[node.level - 1]
            return _find(_file(folder.joinpath(*str(node.module).split("."))), name)
        is_constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
        if is_constant or getattr(node, "name", None) == name:
            return file, node
    msg = f"{file} does not define {name!r}."
    raise ValueError(msg)


def _arguments(node: Any) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """Name, annotation and default of each argument but `self`."""
    if isinstance(node, ast.ClassDef):
        for field in node.body:
            if not isinstance(field, ast.AnnAssign):
                continue
            if not ast.unparse(field.annotation).startswith("ClassVar"):
                yield ast.unparse(field.target), field.annotation, field.value
        return
    taken = node.args
    n_required = len(taken.args) - len(taken.defaults)
    defaults = [*[None] * n_required, *taken.defaults, *taken.kw_defaults]
    for argument, default in zip([*taken.args, *taken.kwonlyargs], defaults, strict=True):
        if argument.annotation is not None:
            yield argument.arg, argument.annotation, default


def _literal(file: Path, node: ast.expr) -> Any:
    """The value of a literal or of a constant."""
    if isinstance(node, ast.Name):
        file, statement = _find(file, node.id)
        return _literal(file, statement.value)
    return ast.literal_eval(node)


def _texts(section: str) -> dict[str, str]:
    """Text by parameter; that of another function if a shared entry refers to it."""
    texts = {}
    for names, lines in re.findall(r"^(\w.*)\n((?: .*\n|\n)+)", section + "\n", flags=re.MULTILINE):
        text = " ".join(lines.split())
        other = re.search(r":func:`epifoundation\.([\w.]+)`", text) if ", " in names else None
        described = read_signature(other[1]).parameters if other else {}
        for name in names.split(", "):
            texts[name] = described[name].text if name in described else text
    return texts
