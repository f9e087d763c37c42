"""Arguments of functions from options of the command line."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from ._signatures import Parameter


def has_none(parameter: Parameter) -> bool:
    """Whether 0 on the command line means None."""
    return parameter.kind == "int" and parameter.may_be_none and parameter.default is not None


def argument_of(parameter: Parameter, value: Any, given: dict[str, Any]) -> Any:
    """The argument of the function from a value of the command line or file."""
    kind = parameter.kind
    if kind == "Data":
        from .cells.formats import read_cells

        return read_cells(value)
    if isinstance(value, dict) and kind.endswith("Config | str"):
        return _configuration(kind.removesuffix(" | str"), value, parameter.owner, given)
    if isinstance(value, list) and len(value) == 1:
        if kind.startswith("Inputs"):
            return value[0]
        if kind == "float | Sequence[str]" and re.fullmatch(r"\d*\.\d+", str(value[0])):
            return float(value[0])
    return None if value == 0 and has_none(parameter) else value


def _configuration(kind: str, table: dict[str, Any], owner: str, given: dict[str, Any]) -> Any:
    """A configuration from a table of a file, and the defaults of the function."""
    from . import nn
    from .models._registry import resolve_model

    preset = "default"
    if owner == "tl.finetune":
        base = resolve_model(given.get("model"), None)
        preset = "finetune" if base.config.is_trained else preset
    made = getattr(nn, kind).preset(preset)
    unknown = sorted(set(table) - {each.name for each in fields(made)})
    if unknown:
        msg = f"{kind} has no fields {unknown}; "
        msg += f"available: {[each.name for each in fields(made)]}."
        raise ValueError(msg)
    return replace(made, **table)
