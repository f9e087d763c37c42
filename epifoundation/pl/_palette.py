"""Colours of labels, the same in all plots and in the report."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

import pandas as pd
from anndata import AnnData

from .._keys import UNKNOWN_COLOR, UNKNOWN_LABEL, Keys

MIN_DISTANCE = 0.25  # between a further colour and the first 20, in RGB


def label_colors(
    atac: AnnData, keys: Keys, names: Iterable[str], column: str | None = None
) -> dict[str, str]:
    """A colour for each label.

    In this order: the colours of `column` in ``uns``, as scanpy keeps them; those of the same label
    in the reference of the annotation, or in another column; colours that no label has yet, in the
    order of the labels of the model, then of the alphabet.
    """
    names = list(dict.fromkeys(map(str, names)))
    known = _known(atac, keys, column)
    of_model = [label for label in _labels(atac, keys) if label != UNKNOWN_LABEL]
    # Labels of the model come first, so that predicted and true labels agree
    first = of_model if set(of_model) & set(names) else []
    order = [*first, *sorted(set(names) - set(first) - {UNKNOWN_LABEL})]
    taken = {color for name, color in known.items() if name in order}
    free = (color for color in _endless() if color not in taken)
    colors = {name: known.get(name) or next(free) for name in order}
    colors[UNKNOWN_LABEL] = known.get(UNKNOWN_LABEL, UNKNOWN_COLOR)
    return {name: colors[name] for name in names}


def categories_of(column: pd.Series) -> list[str]:
    """Labels of a column in their order; none if it has numbers."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [str(name) for name in column.cat.categories]
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return []
    return sorted(set(column.dropna().astype(str)))


def _labels(atac: AnnData, keys: Keys) -> list[str]:
    """Labels of the model, or of the reference."""
    for key in (keys.annotation, keys.uns):
        report = atac.uns.get(key)
        if isinstance(report, Mapping) and "labels" in report:
            return [str(label) for label in report["labels"]]
    return []


def _known(atac: AnnData, keys: Keys, column: str | None) -> dict[str, str]:
    """Colours in ``uns``, by label; the first of a label counts."""
    from matplotlib.colors import to_hex

    tables: list[tuple[list[str], Any]] = []
    for name in dict.fromkeys([column, *atac.obs]):
        colors = atac.uns.get(f"{name}_colors")
        if colors is not None and name in atac.obs:
            tables.append((categories_of(atac.obs[name]), colors))
    report = atac.uns.get(keys.annotation)
    if isinstance(report, Mapping) and "colors" in report:
        is_own = column is not None and f"{column}_colors" in atac.uns
        tables.insert(int(is_own), (_labels(atac, keys), report["colors"]))
    known: dict[str, str] = {}
    for names, colors in tables:
        if len(colors) >= len(names):
            for name, color in zip(names, colors, strict=False):
                known.setdefault(name, to_hex(str(color)))
    return known


def _endless() -> Any:
    """Colours that differ: 20, then others, then hues without end."""
    import numpy as np
    import scanpy as sc
    from matplotlib.colors import to_hex, to_rgb

    first = [to_hex(color) for color in sc.pl.palettes.default_20]
    yield from first
    rgb = np.array([to_rgb(color) for color in first])
    for color in map(to_hex, sc.pl.palettes.default_102):
        if np.linalg.norm(rgb - to_rgb(color), axis=1).min() >= MIN_DISTANCE:
            yield color
    for i in count():
        hue, value = i * 0.618034 % 1, (0.95, 0.7, 0.45)[i % 3]
        yield to_hex(colorsys.hsv_to_rgb(hue, (0.4, 0.8)[i % 2], value))
