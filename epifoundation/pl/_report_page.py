"""Blocks of an HTML page, rendered by ``report.html.jinja``."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ._report_genome import GenomeView

DPI = 110
MAX_SHOWN_VALUES = 50  # of a list
MIN_SEARCH_ROWS = 12  # longer tables have a search field


class Paragraph(NamedTuple):
    """A paragraph; notes are smaller and grey."""

    text: str
    is_note: bool = False
    kind: str = "paragraph"


class Numbers(NamedTuple):
    """Key figures by name."""

    values: dict[str, Any]
    kind: str = "numbers"


class Picture(NamedTuple):
    """A PNG image in base64."""

    png: str
    width: int
    height: int
    alt: str
    caption: str
    kind: str = "picture"


class Columns(NamedTuple):
    """Blocks side by side, or in one column on narrow screens."""

    parts: list[Picture | Paragraph]
    kind: str = "columns"


class Table(NamedTuple):
    """A table that can be sorted by each column and, if it is long, searched."""

    heads: list[tuple[str, bool]]  # name, and whether the column is numeric
    rows: list[list[tuple[str, str | None]]]  # text, and the value to sort numbers by
    caption: str
    kind: str = "table"


type Block = Paragraph | Numbers | Picture | Columns | Table | GenomeView


class Section(NamedTuple):
    """A heading and the blocks below it."""

    title: str
    blocks: list[Block]

    @property
    def anchor(self) -> str:
        """The id of the section."""
        return "-".join(self.title.lower().split())


def picture(figure: Any, alt: str, caption: str = "") -> Picture:
    """Convert a matplotlib figure to an image and close it."""
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    content = stream.getvalue()
    # Bytes 16 to 24 of a PNG are its width and height
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    return Picture(base64.b64encode(content).decode(), width, height, alt, caption)


def table(frame: pd.DataFrame, caption: str = "") -> Table:
    """Convert a data frame to a table, without its index."""
    is_number = [is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in frame.dtypes]
    heads = list(zip(map(str, frame.columns), is_number, strict=True))
    rows = [
        [
            (format_value(value), _sort_value(value) if numeric else None)
            for value, numeric in zip(row, is_number, strict=True)
        ]
        for row in frame.itertuples(index=False)
    ]
    return Table(heads, rows, caption)


def _sort_value(value: Any) -> str:
    """Format a number for JavaScript."""
    if pd.isna(value):
        return ""
    return str(value) if np.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def format_value(value: Any) -> str:
    """Format a value: thousands separators, three digits, no brackets."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and np.isinf(value):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, np.ndarray | list | tuple):
        more = f", … ({len(value):,} values)" if len(value) > MAX_SHOWN_VALUES else ""
        return ", ".join(format_value(each) for each in value[:MAX_SHOWN_VALUES]) + more or "–"
    return str(value) or "–"


def page(title: str, subtitle: str, sections: list[Section], footer: str) -> str:
    """Render the page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["format_value"] = format_value
    template = environment.get_template("report.html.jinja")
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        footer=footer,
        min_search_rows=MIN_SEARCH_ROWS,
    )
