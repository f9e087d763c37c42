"""``ep.pl.report``: one HTML page with all results on a data set."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._keys import UNKNOWN, Keys
from .._validate import RNG, Data, get_atac, get_modality, obs_column
from ._annotation import annotation
from ._composition import composition
from ._coverage import coverage
from ._expression import expression
from ._report_page import Section, format_value, numbers, page, picture, side_by_side, table, text
from ._umap import find_basis

MAX_UMAP_CELLS = 20_000
MAX_COMPARED_CELLS = 5_000  # for predicted against measured expression
MAX_LINKS = 300
N_GENES = 6  # shown by default
PACKAGES = ("epifoundation", "anndata", "mudata", "scanpy", "torch", "numpy", "scipy", "pandas")


def report(
    data: Data,
    path: str | os.PathLike[str],
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    genes: str | Sequence[str] | None = None,
    layer: str | None = None,
    title: str = "EpiFoundation report",
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    overwrite: bool = False,
    rng: RNG = 0,
) -> Path:
    """Write one HTML file with all results on a data set, to look at, print or send.

    Depending on what there is, it shows the cells and how much of them the model reads; a UMAP
    coloured by annotation, confidence, labels and batches; labels and their fractions in each
    batch; with true labels, confusion and calibration; predicted expression, beside measured
    expression if there is RNA; links of peaks and genes; parameters and versions. A line says what
    could not be plotted, and why. The file needs no network and no other file.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed`, or read from a file of results; it
        is not changed.
    path
        The file to write, ``.html``.
    label_key
        Column of ``obs`` with true labels, to evaluate the annotation.
    batch_key
        Column of ``obs`` with batches, donors or conditions.
    genes
        Genes whose expression is shown; None: those with the best prediction or, without RNA, the
        largest differences between labels.
    layer
        Layer of the RNA modality with measured expression; None: ``X``.
    title
        Heading of the page.
    modality, rna_modality
        Names in the MuData.
    key_added
        The same as in the tools.
    overwrite
        Replace an existing file.
    rng
        Seed or generator, for the UMAP (unless ``obsm["X_umap"]`` was made from this embedding) and
        for drawing cells if there are many.

    Returns
    -------
    The path of the file.

    Raises
    ------
    FileExistsError
        The file exists, and `overwrite` is not set.
    FileNotFoundError
        The folder of the file does not exist.
    ValueError
        The cells are not embedded, the path does not end in ``.html``, or a column or gene does not
        exist.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:400].copy()
    >>> ep.tl.embed(mdata)
    >>> path = ep.pl.report(mdata, "report.html", label_key="cell_type")
    """
    import matplotlib.pyplot as plt

    path = _check_path(path, overwrite)
    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    if keys.embedding not in atac.obsm:
        msg = f"No {keys.embedding!r} in `obsm` (available: {list(atac.obsm)}): run "
        msg += "`epifoundation.tl.embed` first, or pass the `key_added=` of its results."
        raise ValueError(msg)
    rna = None
    if isinstance(data, MuData) and (rna_modality in data.mod or rna_modality != "rna"):
        rna = get_modality(data, rna_modality, option="rna_modality")
    wanted = _genes(genes, atac, rna, keys)
    obs = _columns(data, atac, keys, label_key, batch_key)
    options: dict[str, Any] = {"modality": modality, "key_added": key_added}
    rng = np.random.default_rng(rng)
    with plt.style.context("default"):  # the current style may be dark
        sections = [
            Section("Cells", _cells(data, atac, keys, obs, options)),
            Section("Embedding", _embedding(atac, keys, obs, label_key, rng)),
        ]
        if keys.cell_type in obs:
            sections.append(Section("Labels", _labels(data, obs, keys, batch_key, options)))
            body = _confidence(data, atac, keys, label_key, options)
            sections.append(Section("Confidence", body))
        if len(_predicted_genes(atac, rna, keys)):
            annotated = keys.cell_type if keys.cell_type in obs else None
            groupby = label_key or annotated
            options |= {"rna_modality": rna_modality, "layer": layer}
            body = _expression(data, atac, rna, keys, obs, groupby, wanted, rng, options)
            sections.append(Section("Expression", body))
    if keys.links in atac.uns:
        sections.append(Section("Links", _links(atac.uns[keys.links])))
    sections.append(Section("Parameters", _parameters(atac, keys)))
    model = atac.uns.get(keys.uns, {}).get("model", "a model")
    subtitle = f"{atac.n_obs:,} cells, read by {model}; {date.today().isoformat()}"
    footer = f"Made by epifoundation {version('epifoundation')}. This file needs no network."
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(page(title, subtitle, sections, footer), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _check_path(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path of the report; an error, before any work, if it cannot be written."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        msg = f"A report is an HTML file: `path` must end in '.html', got {str(path)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} is not there: make it first."
        raise FileNotFoundError(msg)
    if path.exists() and (path.is_dir() or not overwrite):
        msg = f"{str(path)!r} is there already: pass `overwrite=True` to replace a file, "
        msg += "or another `path`."
        raise FileExistsError(msg)
    return path


def _predicted_genes(atac: AnnData, rna: AnnData | None, keys: Keys) -> pd.Index:
    """Genes whose expression was predicted."""
    if keys.expression in atac.obsm:
        return pd.Index(atac.obsm[keys.expression].columns)
    for part in (rna, atac):  # `atac` of a file of results has this layer
        if part is not None and keys.layer in part.layers:
            return part.var_names
    return pd.Index([])


def _genes(
    genes: str | Sequence[str] | None, atac: AnnData, rna: AnnData | None, keys: Keys
) -> list[str] | None:
    """The requested genes; ValueError unless all were predicted and, if there is RNA, measured."""
    if genes is None:
        return None
    known = _predicted_genes(atac, rna, keys)
    if not len(known):
        msg = f"No predicted expression to show for {genes!r}: run `epifoundation.tl.embed` or "
        msg += "`epifoundation.tl.predict_expression` first."
        raise ValueError(msg)
    if rna is not None:
        known = known.intersection(rna.var_names, sort=False)
    wanted = [genes] if isinstance(genes, str) else [str(name) for name in genes]
    missing = [name for name in wanted if name not in known]
    if missing:
        msg = f"{missing[:5]} are not among the {len(known):,} genes that can be shown, "
        msg += f"such as {list(known[:3])}."
        raise ValueError(msg)
    return wanted


def _columns(
    data: Data, atac: AnnData, keys: Keys, label_key: str | None, batch_key: str | None
) -> pd.DataFrame:
    """Columns of ``obs`` that colour and group the cells, the most important first."""
    obs = pd.DataFrame(index=atac.obs_names)
    for name in (keys.cell_type, keys.confidence, keys.novelty, keys.coverage):
        if name in atac.obs:
            obs[name] = atac.obs[name]
    for key, option in ((label_key, "label_key"), (batch_key, "batch_key")):
        if key is not None:
            column = obs_column(data, atac, key, option)
            if key not in obs:
                obs[key] = pd.Categorical(column.astype(str).where(column.notna()))
    return obs


def _plot(draw: Callable[[], Any], alt: str, caption: str = "") -> str:
    """The figure that `draw` returns, or the reason why there is none."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        return picture(draw(), alt, caption)
    except ValueError as error:
        return text(f"Not plotted: {error}", soft=True)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _cells(
    data: Data, atac: AnnData, keys: Keys, obs: pd.DataFrame, options: dict[str, Any]
) -> str:
    mapping = atac.uns.get(keys.uns, {}).get("peaks")
    values: dict[str, Any] = {"cells": atac.n_obs}
    if atac.X is not None:
        values["peaks"] = atac.n_vars
    if atac.X is not None and not atac.isbacked:
        n_open = np.asarray((atac.X > 0).sum(axis=1))
        values["median open peaks a cell"] = float(np.median(n_open))
    is_missing = np.isnan(atac.obsm[keys.embedding]).any(axis=1)
    values["cells without an embedding"] = int(is_missing.sum())
    if mapping:
        matched, total = mapping["matched"], mapping["vocabulary"]
        values |= {
            "peaks that the model knows": f"{matched:,} ({matched / max(mapping['data'], 1):.0%})",
            "open peaks that it reads": f"{mapping['open_fraction_matched']:.0%}",
            "peaks of the model reached": f"{mapping['vocabulary_matched']:,} of {total:,}",
            "genome": mapping["genome"],
        }
    body = numbers(values)
    if mapping and keys.coverage in obs:
        body += _plot(
            lambda: coverage(data, **options).figure,
            "Histogram over cells of the fraction of open peaks that the model knows",
            "The model ignores other peaks: below about half, read the following with care.",
        )
    return body


def _embedding(
    atac: AnnData, keys: Keys, obs: pd.DataFrame, label_key: str | None, rng: np.random.Generator
) -> str:
    import scanpy as sc

    known = np.flatnonzero(~np.isnan(atac.obsm[keys.embedding]).any(axis=1))
    if len(known) < 10:
        return text(f"{len(known)} cells have an embedding: too few to plot.")
    note = ""
    if len(known) > MAX_UMAP_CELLS:
        note = f" {MAX_UMAP_CELLS:,} of {len(known):,} cells, drawn at random."
        known = np.sort(rng.choice(known, MAX_UMAP_CELLS, replace=False))
    embedding = np.asarray(atac.obsm[keys.embedding])[known]
    cells = AnnData(obs=obs.iloc[known].copy(), obsm={keys.embedding: embedding})
    seed = int(rng.integers(2**31))
    basis = find_basis(atac, "umap")
    if basis is not None and _neighbours_by(atac) == keys.embedding:
        cells.obsm["X_umap"] = np.asarray(atac.obsm[basis])[known]
    else:
        neighbors = {"use_rep": keys.embedding, "n_neighbors": min(15, len(known) - 1)}
        sc.pp.neighbors(cells, **neighbors, **_seeded(sc.pp.neighbors, seed))
        sc.tl.umap(cells, **_seeded(sc.tl.umap, seed))
    basis = find_basis(cells, "umap")
    is_category = {name: obs[name].dtype == "category" for name in obs}
    labels = [name for name in (keys.cell_type, label_key) if is_category.get(name)]
    pictures = []
    for name in obs.columns:
        if obs[name].nunique() < 2:
            continue
        colours: dict[str, Any] = {}
        if is_category[name]:
            cells.obs[name] = cells.obs[name].cat.remove_unused_categories()
            shared = labels if name in labels else [name]  # the same label has the same colour
            colours = {"palette": _palette(obs[shared]), "na_in_legend": False}
        shown = {"basis": basis, "color": name, "show": False, "return_fig": True}
        draw = partial(sc.pl.embedding, cells, **shown, **colours)
        pictures.append(_plot(draw, f"UMAP of the cells, coloured by {name}"))
    return side_by_side(pictures) + text(f"UMAP of {keys.embedding}.{note}", soft=True)


def _seeded(function: Callable[..., Any], seed: int) -> dict[str, int]:
    """The argument for the seed of a scanpy function: `rng` since 1.13, `random_state` before."""
    return {"rng" if "rng" in signature(function).parameters else "random_state": seed}


def _neighbours_by(atac: AnnData) -> str | None:
    """The representation that scanpy's neighbours, and so the UMAP, were made from."""
    return atac.uns.get("neighbors", {}).get("params", {}).get("use_rep")


def _palette(columns: pd.DataFrame) -> dict[str, str]:
    """A colour for each category of the columns; colours repeat if there are too few."""
    import scanpy as sc

    names = {name for column in columns for name in columns[column].cat.categories} - {UNKNOWN}
    palettes = sc.pl.palettes
    is_few = len(names) <= len(palettes.default_20)
    colours = palettes.default_20 if is_few else palettes.default_102
    palette = {name: colours[i % len(colours)] for i, name in enumerate(sorted(names))}
    return palette | {UNKNOWN: "lightgray"}


def _labels(
    data: Data, obs: pd.DataFrame, keys: Keys, batch_key: str | None, options: dict[str, Any]
) -> str:
    called = obs[keys.cell_type].astype(object)
    is_labelled = called.notna()
    groups = obs[is_labelled].groupby(called[is_labelled].astype(str), sort=False)
    rows = pd.DataFrame({"label": list(groups.groups), "cells": groups.size().to_numpy()})
    rows["fraction"] = rows["cells"] / max(int(is_labelled.sum()), 1)
    for name, heading in ((keys.confidence, "median confidence"), (keys.novelty, "median novelty")):
        if name in obs:
            rows[heading] = groups[name].median().to_numpy()
    rows = rows.sort_values("cells", ascending=False)
    n_unknown = int((called == UNKNOWN).sum())
    summary = f"{is_labelled.sum():,} cells have a label"
    if n_unknown:
        summary += f", {n_unknown:,} of them {UNKNOWN!r}: they resemble no cell of the reference"
    body = text(f"{summary}.")
    body += table(rows, "Labels, as annotated")
    if batch_key is not None:
        body += _plot(
            lambda: composition(data, batch_key=batch_key, **options).figure,
            f"Fraction of each label in each group of {batch_key}",
            f"Labels by {batch_key}.",
        )
    return body


def _confidence(
    data: Data, atac: AnnData, keys: Keys, label_key: str | None, options: dict[str, Any]
) -> str:
    draw = partial(annotation, data, label_key=label_key, **options)
    if label_key is not None:
        return _plot(
            draw,
            f"Confusion of annotation and {label_key}, confidence of right and wrong labels, "
            "calibration, risk against coverage",
            f"Against {label_key}. Points on the diagonal: confidence equals accuracy.",
        )
    caption = "The calibration is unknown here: run `ep.tl.annotate`, or pass `label_key=`."
    if keys.annotation in atac.uns:
        caption = "Confidence is a probability: of cells with 0.7, about 70 % are right, if they "
        caption += "resemble the calibration cells. Pass `label_key=` to check."
    sizes = ", and of the sizes of their prediction sets" if keys.prediction_set in atac.obs else ""
    return _plot(draw, f"Histogram of the confidence of cells{sizes}", caption)


def _expression(
    data: Data,
    atac: AnnData,
    rna: AnnData | None,
    keys: Keys,
    obs: pd.DataFrame,
    groupby: str | None,
    genes: list[str] | None,
    rng: np.random.Generator,
    options: dict[str, Any],
) -> str:
    if groupby is None:
        return text("Expression was predicted; pass `label_key=` to show it by group of cells.")
    if rna is not None:
        note = ""
        if data.n_obs > MAX_COMPARED_CELLS:
            note = f" {MAX_COMPARED_CELLS:,} of {data.n_obs:,} cells, drawn at random."
            data = data[np.sort(rng.choice(data.n_obs, MAX_COMPARED_CELLS, replace=False))]
        return _plot(
            lambda: expression(data, groupby=groupby, genes=genes, **options)[0].figure,
            "Correlation of predicted with measured expression over cells, and means of groups of "
            f"{groupby} for some genes",
            f"Predicted from ATAC against measured, {groupby} by {groupby}.{note}",
        )
    predicted = atac.obsm.get(keys.expression)
    if predicted is None:
        values = np.asarray(atac.layers[keys.layer])
        predicted = pd.DataFrame(values, index=atac.obs_names, columns=atac.var_names)
    groups = obs[groupby].astype(object)
    means = predicted.groupby(groups.where(groups.notna()).to_numpy()).mean()
    shown = genes or list(means.var().sort_values(ascending=False).index[:N_GENES])
    rows = means[shown].rename_axis(groupby).reset_index()
    about = text("Predicted from ATAC; there is no measured expression to compare.", soft=True)
    return about + table(rows, f"Means by {groupby}")


def _links(links: pd.DataFrame) -> str:
    ranked = links.sort_values(["qvalue", "pvalue"], kind="stable")
    columns = ("gene", "peak", "group", "distance", "effect", "pvalue", "qvalue")
    ranked = ranked[[name for name in columns if name in ranked]]
    n_tested, n_links = links["qvalue"].notna().sum(), (links["qvalue"] <= 0.1).sum()
    n_groups = links["group"].nunique()
    within = f" in {n_groups} groups of cells" if n_groups > 1 else ""
    summary = f"{n_tested:,} pairs of a peak and a gene were tested{within}; "
    summary += f"{n_links:,} are links at q ≤ 0.1."
    return text(summary) + table(ranked.head(MAX_LINKS), f"The top {min(MAX_LINKS, len(ranked)):,}")


def _parameters(atac: AnnData, keys: Keys) -> str:
    rows = []
    for source in (keys.uns, keys.annotation, keys.expression, Keys().fragments, keys.links_report):
        rows += [(source, *pair) for pair in _flat(atac.uns.get(source, {}))]
    parameters = pd.DataFrame(rows, columns=["written by", "parameter", "value"]).astype(str)
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    body = table(parameters, "Parameters and summaries of the tools")
    if isinstance(files := atac.uns.get(keys.files), pd.DataFrame):
        body += table(files.reset_index(), "Files")
    columns = {"package": list(versions), "version": list(versions.values())}
    return body + table(pd.DataFrame(columns), "Versions")


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested dictionaries with dotted names; tables are replaced by their size."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if hasattr(value, "items") and not isinstance(value, pd.DataFrame | pd.Series):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, pd.DataFrame):
            rows.append((f"{prefix}{name}", f"table of {len(value):,} rows"))
        else:
            rows.append((f"{prefix}{name}", format_value(value)))
    return rows
