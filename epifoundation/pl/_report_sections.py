"""Sections of the report."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import UNKNOWN_LABEL, Keys
from .._link_table import check_results
from .._validate import Data
from ..get._results import predicted_table
from ._annotation import accuracy, annotated_cells, annotation, is_comparable
from ._composition import composition
from ._coverage import coverage
from ._expression import expression
from ._palette import categories_of, label_colors
from ._report_lineages import lineage_blocks
from ._report_links import link_blocks
from ._report_page import (
    Block,
    Columns,
    Numbers,
    Paragraph,
    Picture,
    Section,
    format_value,
    picture,
    table,
)
from ._report_umap import draw_umap, title_of, with_umap

MAX_UMAP_CELLS = 20_000
MAX_COMPARED_CELLS = 5_000  # for predicted against measured expression
N_GENES = 6  # shown by default
PACKAGES = ("epifoundation", "anndata", "mudata", "scanpy", "torch", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class Results:
    """Data of a report and options of its plots."""

    data: Data
    atac: AnnData
    rna: AnnData | None
    keys: Keys
    obs: pd.DataFrame  # columns for colours and groups, most important first
    label_key: str | None
    batch_key: str | None
    genes: list[str] | None
    locus_options: dict[str, Any]  # `annotation` and `tracks` of links
    options: dict[str, Any]  # passed to all plots
    rna_options: dict[str, Any]  # passed to plots of expression
    rng: np.random.Generator


def sections(results: Results) -> list[Section]:
    """Sections of the available results."""
    keys, uns = results.keys, results.atac.uns
    found = [Section("Cells", _cells(results)), Section("Embedding", _embedding(results))]
    if keys.cell_type in results.obs:
        found.append(Section("Labels", _labels(results)))
        found.append(Section("Confidence", [_confidence(results)]))
    if len(predicted_genes(results.atac, results.rna, keys)):
        found.append(Section("Expression", _expression(results)))
    if keys.links in uns:
        groupby = results.label_key or (keys.cell_type if keys.cell_type in results.obs else None)
        options = results.options | results.locus_options
        cells = results.data, results.atac, results.rna, groupby
        links = check_results(uns[keys.links], keys.links)
        found.append(Section("Links", link_blocks(*cells, links, options, _plot)))
    return [*found, Section("Parameters", _parameters(results))]


def predicted_genes(atac: AnnData, rna: AnnData | None, keys: Keys) -> pd.Index:
    """Genes whose expression was predicted."""
    if keys.expression in atac.obsm:
        return predicted_table(atac, "", "", keys)[0].columns
    for part in (rna, atac):  # the ATAC of an output file has this layer
        if part is not None and keys.layer in part.layers:
            return part.var_names
    return pd.Index([])


def _plot(draw: Callable[[], Any], alt: str, caption: str = "") -> Picture | Paragraph:
    """The figure that `draw` returns, or the reason why there is none."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        return picture(draw(), alt, caption)
    except ValueError as error:
        return Paragraph(f"Not plotted: {error}", is_note=True)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _cells(results: Results) -> list[Block]:
    atac, keys = results.atac, results.keys
    mapping = atac.uns.get(keys.uns, {}).get("peaks")
    values: dict[str, Any] = {"cells": atac.n_obs}
    if atac.X is not None:
        values["peaks"] = atac.n_vars
    if atac.X is not None and not atac.isbacked:
        n_open = np.asarray((atac.X > 0).sum(axis=1))
        values["median open peaks per cell"] = float(np.median(n_open))
    is_missing = np.isnan(atac.obsm[keys.embedding]).any(axis=1)
    values["cells without an embedding"] = int(is_missing.sum())
    if mapping:
        matched, total = mapping["matched"], mapping["vocabulary"]
        values |= {
            "peaks known to the model": f"{matched:,} ({matched / max(mapping['data'], 1):.0%})",
            "open peaks known to the model": f"{mapping['open_fraction_matched']:.0%}",
            "model peaks covered": f"{mapping['vocabulary_matched']:,} of {total:,}",
            "genome": mapping["genome"],
        }
    blocks: list[Block] = [Numbers(values)]
    if keys.in_training in atac.obs:
        values["cells that the model learned from"] = int(atac.obs[keys.in_training].sum())
    if mapping and keys.coverage in results.obs:
        known = atac.obs[keys.coverage].dropna()
        if len(known) and (known == 1).all():
            return [Numbers(values), Paragraph("The model knows all open peaks of all cells.")]
        histogram = _plot(
            lambda: coverage(results.data, **results.options).figure,
            "Histogram over cells of the fraction of open peaks known to the model",
            "The model ignores all other peaks. If most cells are below 0.5, interpret the results "
            "with caution.",
        )
        blocks.append(histogram)
    return blocks


def _embedding(results: Results) -> list[Block]:
    obs, keys = results.obs, results.keys
    known = np.flatnonzero(~np.isnan(results.atac.obsm[keys.embedding]).any(axis=1))
    if len(known) < 10:
        return [Paragraph(f"{len(known)} cells have an embedding, too few to plot.")]
    shown, note = _sample(known, MAX_UMAP_CELLS, results.rng)
    cells = with_umap(results.atac, keys.embedding, obs, shown, results.rng)
    pictures = []
    for name in obs.columns:
        if obs[name].nunique() > 1:
            colors = label_colors(results.atac, keys, categories_of(obs[name]), name)
            title = title_of(name, keys, results.label_key, results.batch_key)
            draw = partial(draw_umap, cells, name, colors, title)
            pictures.append(_plot(draw, f"UMAP of the cells, coloured by {name}"))
    return [Columns(pictures), Paragraph(f"UMAP of {keys.embedding}.{note}", is_note=True)]


def _sample(cells: np.ndarray, max_cells: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A sorted random sample, and a note if it leaves out cells."""
    if len(cells) <= max_cells:
        return cells, ""
    drawn = np.sort(rng.choice(cells, max_cells, replace=False))
    return drawn, f" Random sample of {max_cells:,} of {len(cells):,} cells."


def _labels(results: Results) -> list[Block]:
    obs, keys, batch_key = results.obs, results.keys, results.batch_key
    assigned = obs[keys.cell_type].astype(object)
    is_labelled = assigned.notna()
    groups = obs[is_labelled].groupby(assigned[is_labelled].astype(str), sort=False)
    rows = pd.DataFrame({"label": list(groups.groups), "cells": groups.size().to_numpy()})
    rows["fraction"] = rows["cells"] / max(int(is_labelled.sum()), 1)
    for name, heading in ((keys.confidence, "median confidence"), (keys.novelty, "median novelty")):
        if name in obs:
            rows[heading] = groups[name].median().to_numpy()
    rows = rows.sort_values("cells", ascending=False)
    n_unknown = int((assigned == UNKNOWN_LABEL).sum())
    summary = f"{is_labelled.sum():,} cells have a label"
    if n_unknown:
        summary += f", {n_unknown:,} of them {UNKNOWN_LABEL!r} (unlike all cells of the reference)"
    blocks: list[Block] = [Paragraph(f"{summary}."), table(rows, "Annotated labels")]
    blocks += lineage_blocks(results.atac, keys, _plot)
    if batch_key is not None:
        bars = _plot(
            lambda: composition(results.data, batch_key=batch_key, **results.options).figure,
            f"Fraction of each label in each group of {batch_key}",
            f"Composition by {batch_key}.",
        )
        blocks.append(bars)
    return blocks


def _confidence(results: Results) -> Block:
    atac, keys, label_key = results.atac, results.keys, results.label_key
    draw = partial(annotation, results.data, label_key=label_key, **results.options)
    if label_key is not None:
        return _plot(
            draw,
            f"Confusion matrix of annotation and {label_key}, confidence of correct and wrong "
            "labels, calibration, risk against coverage",
            f"Compared with {label_key}. On the diagonal, confidence equals accuracy. "
            + _learned(results),
        )
    caption = "The calibration is not known: run `ep.tl.annotate`, or pass `label_key=`."
    if "alpha" in atac.uns.get(keys.annotation, {}):
        caption = "Confidence is a calibrated probability: about 70 % of the cells with confidence "
        caption += "0.7 are correct, if they resemble the calibration cells. Pass `label_key=` to "
        caption += "check."
    sizes = " and of the sizes of prediction sets" if keys.prediction_set in atac.obs else ""
    return _plot(draw, f"Histogram of confidence{sizes}", caption)


def _learned(results: Results) -> str:
    """How many of the cells the labels were learned from, and the accuracy of the others."""
    data, atac, keys = results.data, results.atac, results.keys
    if keys.in_reference not in atac.obs:
        return (
            "The results do not say which of these cells the labels were learned from: accuracy "
            "and calibration hold for new cells only if there are none."
        )
    try:
        cells = annotated_cells(data, atac, keys, results.label_key, results.options["modality"])
    except ValueError:  # the plot says why
        return ""
    if not is_comparable(cells):
        return "Most labels of this column have other names than those of the model."
    new = cells[~cells["is_learned"]]
    if len(new) == len(cells):
        return "The labels were learned from none of these cells."
    text = f"The labels were learned from {len(cells) - len(new):,} of these {len(cells):,} cells: "
    if new.empty:
        return f"{text}accuracy and calibration of new cells are not known."
    return f"{text}of the {len(new):,} others, {accuracy(new):.1%} have the true label."


def _expression(results: Results) -> list[Block]:
    data, atac, keys, obs = results.data, results.atac, results.keys, results.obs
    groupby = results.label_key or (keys.cell_type if keys.cell_type in obs else None)
    if groupby is None:
        note = "Expression was predicted. Pass `label_key=` to show it by group of cells."
        return [Paragraph(note)]
    if results.rna is not None:
        shown, note = _sample(np.arange(data.n_obs), MAX_COMPARED_CELLS, results.rng)
        options = {"groupby": groupby, "genes": results.genes, **results.rna_options}
        comparison = _plot(
            lambda: expression(data[shown] if note else data, **options)[0].figure,
            "Histogram over genes of the correlation of predicted and measured expression, and "
            f"means by {groupby} for some genes",
            f"Expression predicted from ATAC against measured, means by {groupby}.{note}",
        )
        return [comparison]
    predicted, _ = predicted_table(atac, "", "", keys)
    groups = obs[groupby].astype(object)
    means = predicted.groupby(groups.where(groups.notna()).to_numpy()).mean()
    genes = results.genes or list(means.var().sort_values(ascending=False).index[:N_GENES])
    rows = means[genes].rename_axis(groupby).reset_index()
    note = "Predicted from ATAC. The data have no measured expression to compare with."
    return [Paragraph(note, is_note=True), table(rows, f"Means by {groupby}")]


def _parameters(results: Results) -> list[Block]:
    uns, keys = results.atac.uns, results.keys
    rows = []
    for source in (keys.uns, keys.annotation, keys.expression, Keys().fragments, keys.links_report):
        rows += [(source, *pair) for pair in _flat(uns.get(source, {}))]
    parameters = pd.DataFrame(rows, columns=["key", "parameter", "value"]).astype(str)
    blocks: list[Block] = [table(parameters, "Parameters and summaries written by the tools")]
    if isinstance(files := uns.get(keys.files), pd.DataFrame):
        blocks.append(table(files.reset_index(), "Files"))
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    columns = {"package": list(versions), "version": list(versions.values())}
    return [*blocks, table(pd.DataFrame(columns), "Versions")]


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Entries of nested dictionaries with dotted names; tables are replaced by their size."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if hasattr(value, "items") and not isinstance(value, pd.DataFrame | pd.Series):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, pd.DataFrame):
            rows.append((f"{prefix}{name}", f"table of {len(value):,} rows"))
        else:
            rows.append((f"{prefix}{name}", format_value(value)))
    return rows
