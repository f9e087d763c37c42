"""Checks of configurations: options, numbers, presets, and options of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from sys import float_info
from typing import Any

# Larger numbers are not finite, or are no indices of arrays
LARGEST = {int: 2**53, float: float_info.max}

# Options of version 0.1, and what to use instead
REMOVED = {
    "n_seeds": "attention over seeds is gone; `encoder='transformer'` attends",
    "adversarial": "pass `batch_key=`: batch effects are projected out of the embedding",
}


class NamesRemoved:
    """Refuses options of version 0.1."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        for name in REMOVED.keys() & options.keys():
            msg = f"`{name}` is not an option of {cls.__name__} any more: {REMOVED[name]}."
            raise ValueError(msg)
        return super().__new__(cls)


def check_option(config: Any, name: str, options: Sequence[str]) -> None:
    """Raise ValueError unless an attribute of a configuration is one of the options."""
    if getattr(config, name) not in options:
        msg = f"Unknown {name} {getattr(config, name)!r}; choose one of {list(options)}."
        raise ValueError(msg)


def check_number(config: Any, name: str, kind: type, low: float, high: float) -> None:
    """Raise ValueError unless an attribute is a number in a range; None may be its default."""
    value = getattr(config, name)
    if value is None and type(config).__dataclass_fields__[name].default is None:
        return
    most = min(high, LARGEST[kind])
    is_number = isinstance(value, int if kind is int else (int, float))
    if isinstance(value, bool) or not is_number or not low <= value <= most:
        what = "an integer" if kind is int else "a number"
        bounds = f"between {low} and {high}"
        if kind is int:
            bounds = f"of at least {low}, and at most {most:,}"
        elif high == inf:
            bounds = f"of at least {low}, and finite"
        msg = f"`{name}` must be {what} {bounds}, got {value!r}."
        raise ValueError(msg)


def check_flag(config: Any, name: str) -> None:
    """Raise ValueError unless an attribute is True or False."""
    if not isinstance(getattr(config, name), bool):
        msg = f"`{name}` must be True or False, got {getattr(config, name)!r}."
        raise ValueError(msg)


def preset(name: str, presets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of a preset."""
    if name not in presets:
        msg = f"Unknown preset {name!r}; choose one of {list(presets)}."
        raise ValueError(msg)
    return presets[name]
