"""``ep.pl.report``: one page with all that was found out about a data set."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._keys import UNKNOWN, Keys
from .._validate import RNG, Data, get_atac, obs_column
from ._annotation import annotation
from ._composition import composition
from ._coverage import coverage
from ._expression import expression
from ._report_page import Section, numbers, page, picture, side_by_side, table, text

DRAWN = 20_000  # cells of a UMAP that is made for the report
LISTED = 300  # links
SHOWN = 6  # genes, where none are named
PACKAGES = ("epifoundation", "anndata", "mudata", "scanpy", "torch", "numpy", "scipy", "pandas")


def report(
    data: Data,
    path: str | os.PathLike[str],
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    genes: str | Sequence[str] | None = None,
    title: str = "EpiFoundation report",
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    overwrite: bool = False,
    rng: RNG = 0,
) -> Path:
    """Write one HTML file with what was found out about a data set: to look at, to print, to send on.

    What there is of: the cells and how much of them the model reads; a UMAP coloured by annotation, confidence, labels and batches; labels, and their
    shares in each batch; with true labels, confusion and calibration; predicted expression, beside the measured one where there is RNA; links of peaks
    and genes; parameters and versions. The file needs no network and no other file.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed`; it is not changed.
    path
        The file to write, ``.html``.
    label_key
        Column of ``obs`` with true labels: the annotation is held against them.
    batch_key
        Column of ``obs`` with batches, donors or conditions.
    genes
        Genes whose expression is shown; None: those that are predicted best or, without RNA, that differ most between labels.
    title
        Heading of the page.
    modality, rna_modality
        Names in the MuData.
    key_added
        What the tools were given.
    overwrite
        Replace a file that is there.
    rng
        Seed or generator, for the UMAP where `data` has none in ``obsm["X_umap"]``.

    Returns
    -------
    The path of the file.

    Raises
    ------
    FileExistsError
        There is such a file, and `overwrite` is not set.
    ValueError
        The cells are not embedded yet, the path does not end in ``.html``, or there is no such column or gene.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:400].copy()
    >>> ep.tl.embed(mdata)
    >>> path = ep.pl.report(mdata, "report.html", label_key="cell_type")
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        msg = f"A report is an HTML file: `path` must end in '.html', got {str(path)!r}."
        raise ValueError(msg)
    if path.exists() and not overwrite:
        msg = f"{str(path)!r} is there already; pass `overwrite=True` to replace it."
        raise FileExistsError(msg)
    atac, keys = get_atac(data, modality), Keys.of(key_added)
    if keys.embedding not in atac.obsm:
        msg = f"No {keys.embedding!r} in `obsm` (there is {list(atac.obsm)}): run `epifoundation.tl.embed` first, or say with `key_added=` where its results are."
        raise ValueError(msg)
    obs = _columns(data, atac, keys, label_key, batch_key)
    options = {"modality": modality, "key_added": key_added}
    sections = [
        Section("Cells", _cells(data, atac, keys, obs, options)),
        Section("Embedding", _embedding(atac, keys, obs, np.random.default_rng(rng))),
    ]
    if keys.cell_type in obs:
        sections.append(Section("Labels", _labels(data, obs, keys, batch_key, options)))
        sections.append(Section("Confidence", _confidence(data, label_key, options)))
    told = _expression(data, atac, keys, obs, label_key, genes, rna_modality, options)
    if told:
        sections.append(Section("Expression", told))
    if keys.links in atac.uns:
        sections.append(Section("Links", _links(atac.uns[keys.links])))
    sections.append(Section("Parameters", _parameters(atac, keys)))
    model = atac.uns.get(keys.uns, {}).get("model", "a model")
    subtitle = f"{atac.n_obs:,} cells and {atac.n_vars:,} peaks, read by {model}; {date.today().isoformat()}"
    content = page(
        title, subtitle, sections, f"Made by epifoundation {version('epifoundation')}. This file needs no network."
    )
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)
    return path


def _columns(data: Data, atac: AnnData, keys: Keys, label_key: str | None, batch_key: str | None) -> pd.DataFrame:
    """What cells are coloured and counted by, most telling first."""
    obs = pd.DataFrame(index=atac.obs_names)
    for name in (keys.cell_type, keys.confidence, keys.novelty, keys.coverage):
        if name in atac.obs:
            obs[name] = atac.obs[name]
    for key, option in ((label_key, "label_key"), (batch_key, "batch_key")):
        if key is not None:
            column = obs_column(data, atac, key, option)
            obs[key] = column.astype(str).where(column.notna()).astype("category").to_numpy()
    return obs


def _cells(data: Data, atac: AnnData, keys: Keys, obs: pd.DataFrame, options: dict[str, Any]) -> str:
    n_open = pd.Series(np.asarray((atac.X != 0).sum(axis=1)).ravel()) if atac.X is not None else None
    values: dict[str, Any] = {"cells": atac.n_obs, "peaks": atac.n_vars}
    if n_open is not None:
        values["median open peaks a cell"] = float(n_open.median())
    values["cells without an embedding"] = int(np.isnan(atac.obsm[keys.embedding]).any(axis=1).sum())
    mapping = atac.uns.get(keys.uns, {}).get("peaks")
    if mapping:
        values |= {
            "peaks that the model knows": f"{mapping['matched']:,} ({mapping['matched'] / max(mapping['data'], 1):.0%})",
            "open peaks that it reads": f"{mapping['open_fraction_matched']:.0%}",
            "peaks of the model reached": f"{mapping['vocabulary_matched']:,} of {mapping['vocabulary']:,}",
            "genome": mapping["genome"],
        }
    body = numbers(values)
    if mapping and keys.coverage in obs:
        axes = coverage(data, **options)
        body += picture(
            axes.figure,
            "Histogram over cells of the fraction of open peaks that the model knows",
            "What the model does not know of a cell, it cannot read: below about half, take what follows with care.",
        )
    return body


def _embedding(atac: AnnData, keys: Keys, obs: pd.DataFrame, rng: np.random.Generator) -> str:
    import scanpy as sc

    known = np.flatnonzero(~np.isnan(atac.obsm[keys.embedding]).any(axis=1))
    if len(known) < 10:
        return text(f"{len(known)} cells have an embedding: too few to draw.")
    note = ""
    if len(known) > DRAWN:
        note = f" {DRAWN:,} of {len(known):,} cells, drawn at random."
        known = np.sort(rng.choice(known, DRAWN, replace=False))
    cells = AnnData(obs=obs.iloc[known].copy(), obsm={keys.embedding: np.asarray(atac.obsm[keys.embedding])[known]})
    seed = int(rng.integers(2**31))
    if "X_umap" in atac.obsm:
        cells.obsm["X_umap"] = np.asarray(atac.obsm["X_umap"])[known]
    else:
        sc.pp.neighbors(cells, use_rep=keys.embedding, n_neighbors=min(15, len(known) - 1), random_state=seed)
        sc.tl.umap(cells, random_state=seed)
    pictures = []
    for name in obs.columns:
        if obs[name].nunique() < 2:
            continue  # one colour says nothing
        if obs[name].dtype == "category":
            cells.obs[name] = cells.obs[name].cat.remove_unused_categories()
        figure = sc.pl.umap(cells, color=name, show=False, return_fig=True)
        pictures.append(picture(figure, f"UMAP of the cells, coloured by {name}"))
    return side_by_side(pictures) + text(f"UMAP of {keys.embedding}.{note}", soft=True)


def _labels(data: Data, obs: pd.DataFrame, keys: Keys, batch_key: str | None, options: dict[str, Any]) -> str:
    called = obs[keys.cell_type].astype(object)
    named = called.notna()
    groups = obs[named].groupby(called[named].astype(str), sort=False)
    rows = pd.DataFrame({"label": list(groups.groups), "cells": groups.size().to_numpy()})
    rows["share"] = rows["cells"] / max(int(named.sum()), 1)
    for name, heading in ((keys.confidence, "median confidence"), (keys.novelty, "median novelty")):
        if name in obs:
            rows[heading] = groups[name].median().to_numpy()
    rows = rows.sort_values("cells", ascending=False)
    n_unknown = int((called == UNKNOWN).sum())
    body = text(
        f"{named.sum():,} cells have a label, {n_unknown:,} of them {UNKNOWN!r}: like no cell that the labels were learned from."
        if n_unknown
        else f"{named.sum():,} cells have a label."
    )
    body += table(rows, "Labels, as annotated")
    if batch_key is not None:
        axes = composition(data, batch_key=batch_key, **options)
        body += picture(axes.figure, f"Share of each label in each group of {batch_key}", f"Labels by {batch_key}.")
    return body


def _confidence(data: Data, label_key: str | None, options: dict[str, Any]) -> str:
    figure = annotation(data, label_key=label_key, **options)
    if label_key is None:
        return picture(
            figure,
            "Histograms of the confidence of cells and of the sizes of their label sets",
            "Confidence is a probability: of cells with 0.7, about 70 % are right, if they are like those that it was calibrated on. Pass `label_key=` to check.",
        )
    return picture(
        figure,
        f"Confusion of annotation and {label_key}, confidence of right and wrong labels, calibration, risk against coverage",
        f"Against {label_key}. Points on the diagonal: confidence can be taken at its word.",
    )


def _expression(
    data: Data,
    atac: AnnData,
    keys: Keys,
    obs: pd.DataFrame,
    label_key: str | None,
    genes: str | Sequence[str] | None,
    rna_modality: str,
    options: dict[str, Any],
) -> str:
    groupby = label_key or (keys.cell_type if keys.cell_type in obs else None)
    wanted = None if genes is None else [genes] if isinstance(genes, str) else [str(name) for name in genes]
    predicted = atac.obsm.get(keys.expression)
    has_rna = isinstance(data, MuData) and rna_modality in data.mod
    if predicted is None and not (has_rna and keys.layer in data.mod[rna_modality].layers):
        if wanted is not None:
            msg = f"No predicted expression to show {wanted[:3]} of: run `epifoundation.tl.embed` or `epifoundation.tl.predict_expression` first."
            raise ValueError(msg)
        return ""
    if groupby is None:
        return text("Expression was predicted; name groups of cells with `label_key=` to see it here.")
    if has_rna:
        axes = expression(data, groupby=groupby, genes=wanted, rna_modality=rna_modality, **options)
        return picture(
            axes[0].figure,
            f"Correlation of predicted with measured expression over cells, and means of groups of {groupby} for some genes",
            f"Predicted from ATAC against measured, {groupby} by {groupby}.",
        )
    missing = [name for name in wanted or [] if name not in predicted.columns]
    if missing:
        msg = f"{missing[:5]} are not among the {predicted.shape[1]:,} genes that were predicted, such as {list(predicted.columns[:3])}."
        raise ValueError(msg)
    groups = obs[groupby].astype(object)
    means = predicted.groupby(groups.where(groups.notna()).to_numpy()).mean()
    shown = wanted or list(means.var().sort_values(ascending=False).index[:SHOWN])
    rows = means[shown].rename_axis(groupby).reset_index()
    return text("Predicted from ATAC; nothing was measured to hold it against.", soft=True) + table(
        rows, f"Means by {groupby}"
    )


def _links(links: pd.DataFrame) -> str:
    found = links.sort_values("pvalue") if "pvalue" in links else links
    columns = [name for name in ("gene", "peak", "group", "distance", "effect", "pvalue", "qvalue") if name in found]
    n_sure = int((links["qvalue"] <= 0.1).sum()) if "qvalue" in links else 0
    body = text(f"{len(links):,} pairs of a peak and a gene were looked at; {n_sure:,} are links at q ≤ 0.1.")
    return body + table(found[columns].head(LISTED), f"The {min(LISTED, len(found)):,} surest")


def _parameters(atac: AnnData, keys: Keys) -> str:
    rows = []
    for source in (keys.uns, keys.annotation, keys.fragments, keys.links_report):
        rows += [(source, *pair) for pair in _flat(atac.uns.get(source, {}))]
    told = pd.DataFrame(rows, columns=["written by", "parameter", "value"]).astype(str)
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return table(told, "What the tools were asked and found") + table(
        pd.DataFrame({"package": list(versions), "version": list(versions.values())}), "Versions"
    )


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested dictionaries as dotted names; tables are told by their size."""
    from ._report_page import said

    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if hasattr(value, "items") and not isinstance(value, pd.DataFrame | pd.Series):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, pd.DataFrame):
            rows.append((f"{prefix}{name}", f"table of {len(value):,} rows"))
        else:
            rows.append((f"{prefix}{name}", said(value)))
    return rows
