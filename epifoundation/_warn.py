"""Warnings that point to the line of the caller outside the package."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

PACKAGE = str(Path(__file__).parent) + os.sep


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside the package that led here."""
    warnings.warn(message, category, skip_file_prefixes=(PACKAGE,))
