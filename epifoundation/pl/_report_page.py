"""A self-contained HTML page: embedded figures, tables that can be sorted and searched."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

DPI = 110
MIN_SEARCH_ROWS = 12  # longer tables have a search field

CSS = """
:root { --ink: #1d2733; --soft: #5b6875; --line: #d9dfe5; --accent: #3b6fb6; --back: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.1rem; }
header { padding-top: 1.6rem; }
h1 { margin: 0 0 .2rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 0 0 .6rem; font-size: 1.25rem; }
p { max-width: 46rem; margin: .4rem 0 .8rem; }
.soft, caption, figcaption { color: var(--soft); font-size: .92rem; }
nav { position: sticky; top: 0; z-index: 1; background: #fff; border-bottom: 1px solid var(--line);
  overflow-x: auto; white-space: nowrap; }
nav div { max-width: 66rem; margin: 0 auto; padding: .5rem 1.1rem; }
nav a { margin-right: 1.1rem; color: var(--accent); text-decoration: none; }
nav a:hover, nav a:focus { text-decoration: underline; }
section { padding: 1.2rem 0; border-bottom: 1px solid var(--line); scroll-margin-top: 2.6rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1rem 0 0; padding: 0; }
.numbers div { padding: .6rem .8rem; background: var(--back); border-radius: .4rem; }
.numbers dt { color: var(--soft); font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 1rem; align-items: start; }
.beside figure { margin: .5rem 0; }
img { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .28rem .8rem .28rem .3rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number, th.number { text-align: right; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
input { width: 100%; max-width: 20rem; padding: .35rem .55rem; font: inherit;
  border: 1px solid var(--line); border-radius: .3rem; }
footer { padding: 1rem 1.1rem 2rem; }
@media print {
  nav, input { display: none; }
  body { font-size: 10pt; }
  section { break-inside: avoid-page; border: 0; }
  th button::after { content: "" !important; }
  .wide { overflow: visible; }
}
"""

JS = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numeric = head.classList.contains("number");
      const number = (row) => value(row) || -Infinity;
      const order = (a, b) => numeric
        ? number(a) - number(b)
        : value(a).localeCompare(value(b));
      const rows = [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a));
      rows.forEach((row) => body.append(row));
    });
  });
  const field = table.closest(".wide").previousElementSibling;
  if (field && field.matches("input")) field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
"""


class Section(NamedTuple):
    """A heading and the HTML below it."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """The id of the section."""
        return "-".join(self.title.lower().split())

    @property
    def html(self) -> str:
        """The section as an element of the page."""
        head = f"<h2>{escape(self.title)}</h2>"
        return f'<section id="{self.anchor}">{head}\n{self.body}</section>'


def text(words: str, *, soft: bool = False) -> str:
    """A paragraph."""
    return f"<p{' class=soft' if soft else ''}>{escape(words)}</p>"


def numbers(values: dict[str, Any]) -> str:
    """Key figures with their names."""
    shown = {escape(name): escape(format_value(value)) for name, value in values.items()}
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown.items())
    return f'<dl class="numbers">{cells}</dl>'


def picture(figure: Any, alt: str, caption: str = "") -> str:
    """A matplotlib figure as an embedded image; the figure is closed."""
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    content = stream.getvalue()
    # The header of a PNG holds its size
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    source = base64.b64encode(content).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    size = f'width="{width}" height="{height}"'
    image = f'<img alt="{escape(alt)}" {size} src="data:image/png;base64,{source}">'
    return f"<figure>{image}{below}</figure>"


def side_by_side(parts: list[str]) -> str:
    """Parts in columns, or in one column on narrow screens."""
    return f'<div class="beside">{"".join(parts)}</div>'


def table(frame: pd.DataFrame, caption: str = "") -> str:
    """A table that can be sorted by each column and, if it is long, searched."""
    is_number = [is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in frame.dtypes]
    heads = "".join(map(_head, frame.columns, is_number))
    cells = (map(_cell, values, is_number) for values in frame.itertuples(index=False))
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    search = ""
    if len(frame) > MIN_SEARCH_ROWS:
        hint = f'placeholder="Search {len(frame):,} rows" aria-label="Search the table"'
        search = f'<input type="search" {hint}>'
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = f"{above}<thead><tr>{heads}</tr></thead>"
    content = f'<table class="sortable">{head}<tbody>{rows}</tbody></table>'
    return f'{search}<div class="wide">{content}</div>'


def _head(name: Any, is_number: bool) -> str:
    kind = " class=number" if is_number else ""
    return f'<th scope="col"{kind}><button>{escape(str(name))}</button></th>'


def _cell(value: Any, is_number: bool) -> str:
    shown = escape(format_value(value))
    if is_number:
        return f'<td class="number" data-value="{_sort_value(value)}">{shown}</td>'
    return f"<td>{shown}</td>"


def _sort_value(value: Any) -> str:
    """A number as JavaScript reads it."""
    if pd.isna(value):
        return ""
    return str(value) if np.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def format_value(value: Any) -> str:
    """A value as text: thousands separators, three digits, no brackets."""
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
        return ", ".join(format_value(each) for each in value) or "–"
    return str(value) or "–"


def page(title: str, subtitle: str, sections: list[Section], footer: str) -> str:
    """The whole page."""
    links = "".join(f'<a href="#{each.anchor}">{escape(each.title)}</a>' for each in sections)
    bodies = "\n".join(each.html for each in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p></header>
<nav aria-label="Sections"><div>{links}</div></nav>
<main>
{bodies}
</main>
<footer class="soft">{escape(footer)}</footer>
<script>{JS}</script>
</body>
</html>
"""
