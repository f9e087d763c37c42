"""Types of options, checked once where users call a function."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

# Further types that are accepted for one
ACCEPTED: dict[type, tuple[type, ...]] = {bool: (np.bool_,), Path: (os.PathLike,)}
# Validated by `Keys.of`
SKIPPED = ("key_added",)


def checked[**P, R](tool: Callable[P, R]) -> Callable[P, R]:
    """Raise TypeError if a keyword option has a type that its annotation excludes.

    Numbers, collections and data are validated by the function itself.
    """

    @cache  # annotations are evaluated at the first call
    def types() -> dict[str, tuple[type, ...]]:
        hints = get_type_hints(tool)
        parameters = inspect.signature(tool).parameters.values()
        options = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        return {name: _types(hints[name]) for name in options if name not in SKIPPED}

    @wraps(tool)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            kinds = types().get(name, ())
            if kinds and not isinstance(value, kinds):
                names = ["None" if kind is NoneType else kind.__name__ for kind in kinds]
                known = " or ".join(dict.fromkeys(name for name in names if name != "PathLike"))
                msg = f"`{name}` must be {known}, got {value!r} ({type(value).__name__})."
                raise TypeError(msg)
            if Path in kinds and isinstance(value, str | os.PathLike):
                _check_path(value, name)
        return tool(*args, **kwargs)

    return wrapper


def _check_path(path: str | os.PathLike[str], name: str) -> None:
    """Raise ValueError if no file can have this path."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # to be written, or an error of the function
    except (OSError, ValueError) as error:
        msg = f"`{name}` cannot be the path of a file ({error})."
        raise ValueError(msg) from error


def _types(hint: Any) -> tuple[type, ...]:
    """The classes of an annotation; none if it has numbers or collections."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    found: list[type] = []
    for part in parts:
        kind = str if get_origin(part) is Literal else part
        if (
            not isinstance(kind, type)
            or kind in (int, float)
            or get_origin(part) not in (None, Literal)
        ):
            return ()
        found += [kind, *ACCEPTED.get(kind, ())]
    return tuple(found)
