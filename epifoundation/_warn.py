"""Warnings that point to the line of the caller outside the package, and name their source."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

# Frames of the package, and of context managers in between
SKIPPED = (str(Path(__file__).parent) + os.sep, contextlib.__file__.removesuffix(".py"))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside the package that led here."""
    warnings.warn(message, category, skip_file_prefixes=SKIPPED)


def show_again(caught: list[warnings.WarningMessage], prefix: str = "") -> None:
    """Show recorded warnings: each for users once, those of other packages where they arose."""
    for_users = [each for each in caught if issubclass(each.category, UserWarning)]
    for category, message in dict.fromkeys(
        (each.category, str(each.message)) for each in for_users
    ):
        warn(f"{prefix}{message}", category)
    for each in caught:
        if not issubclass(each.category, UserWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Prefix errors and warnings by the name of a source; none if it is empty."""
    if not name:
        yield
        return
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
    except ValueError as error:
        msg = f"{name}: {error}"
        raise ValueError(msg) from error
    finally:
        show_again(caught, f"{name}: ")
