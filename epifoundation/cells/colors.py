"""Colours of labels, where scanpy keeps them."""

from __future__ import annotations

from .formats import opened
from .source import Inputs, as_sources


def read_colors(data: Inputs, key: str, modality: str) -> dict[str, str]:
    """The colour of each label of a column of ``obs``, from ``uns``; empty if there are none."""
    for name, place in as_sources(data).items():
        with opened(place, modality, name) as source:
            modality_of, _, column = key.partition(":")
            owner = source.other(modality_of) if column else None
            colors = source.uns(f"{key}_colors") if owner is None else owner.uns(f"{column}_colors")
            if colors is None:
                continue
            values = source.column(key, "label_key")
            names = values.cat.categories if hasattr(values, "cat") else []
            if len(names) == len(colors):  # colours are by position
                return dict(zip(map(str, names), map(str, colors), strict=True))
    return {}
