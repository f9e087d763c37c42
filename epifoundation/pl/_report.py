"""``ep.pl.report``: one page with all that was found out about a data set."""

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
from ._report_page import Section, numbers, page, picture, said, side_by_side, table, text
from ._umap import find_basis

DRAWN = 20_000  # cells of a UMAP that is made for the report
COMPARED = 5_000  # cells of which predicted and measured expression are compared
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
    layer: str | None = None,
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
    and genes; parameters and versions. What there is nothing to draw of is told in a line. The file needs no network and no other file.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed`, or what was read from a file of results; it is not changed.
    path
        The file to write, ``.html``.
    label_key
        Column of ``obs`` with true labels: the annotation is held against them.
    batch_key
        Column of ``obs`` with batches, donors or conditions.
    genes
        Genes whose expression is shown; None: those that are predicted best or, without RNA, that differ most between labels.
    layer
        Layer of the RNA modality with measured expression; None: ``X``.
    title
        Heading of the page.
    modality, rna_modality
        Names in the MuData.
    key_added
        What the tools were given.
    overwrite
        Replace a file that is there.
    rng
        Seed or generator, for the UMAP, unless ``obsm["X_umap"]`` was made from this embedding, and for the cells that are drawn where there are many.

    Returns
    -------
    The path of the file.

    Raises
    ------
    FileExistsError
        There is such a file, and `overwrite` is not set.
    FileNotFoundError
        There is no folder of that name.
    ValueError
        The cells are not embedded yet, the path does not end in ``.html``, or there is no such column or gene.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:400].copy()
    >>> ep.tl.embed(mdata)
    >>> path = ep.pl.report(mdata, "report.html", label_key="cell_type")
    """
    import matplotlib.pyplot as plt

    path = _checked(path, overwrite)
    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    if keys.embedding not in atac.obsm:
        msg = f"No {keys.embedding!r} in `obsm` (there is {list(atac.obsm)}): run `epifoundation.tl.embed` first, or say with `key_added=` where its results are."
        raise ValueError(msg)
    rna = None
    if isinstance(data, MuData) and (rna_modality in data.mod or rna_modality != "rna"):
        rna = get_modality(data, rna_modality, option="rna_modality")
    wanted = _genes(genes, atac, rna, keys)
    obs = _columns(data, atac, keys, label_key, batch_key)
    options: dict[str, Any] = {"modality": modality, "key_added": key_added}
    rng = np.random.default_rng(rng)
    with plt.style.context("default"):  # the caller's style may be for a dark page
        sections = [
            Section("Cells", _cells(data, atac, keys, obs, options)),
            Section("Embedding", _embedding(atac, keys, obs, label_key, rng)),
        ]
        if keys.cell_type in obs:
            sections.append(Section("Labels", _labels(data, obs, keys, batch_key, options)))
            sections.append(Section("Confidence", _confidence(data, atac, keys, label_key, options)))
        if len(_predicted_genes(atac, rna, keys)):
            groupby = label_key or (keys.cell_type if keys.cell_type in obs else None)
            options |= {"rna_modality": rna_modality, "layer": layer}
            told = _expression(data, atac, rna, keys, obs, groupby, wanted, rng, options)
            sections.append(Section("Expression", told))
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


def _checked(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A path that can be written to, told before the work."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        msg = f"A report is an HTML file: `path` must end in '.html', got {str(path)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} is not there: make it first."
        raise FileNotFoundError(msg)
    if path.exists() and (path.is_dir() or not overwrite):
        msg = f"{str(path)!r} is there already; pass `overwrite=True` to replace a file, or another `path`."
        raise FileExistsError(msg)
    return path


def _predicted_genes(atac: AnnData, rna: AnnData | None, keys: Keys) -> pd.Index:
    """Genes whose expression was predicted, wherever that is."""
    if keys.expression in atac.obsm:
        return pd.Index(atac.obsm[keys.expression].columns)
    for part in (rna, atac):  # a file of results has it in its own layer
        if part is not None and keys.layer in part.layers:
            return part.var_names
    return pd.Index([])


def _genes(genes: str | Sequence[str] | None, atac: AnnData, rna: AnnData | None, keys: Keys) -> list[str] | None:
    """The genes that were asked for; or an error."""
    if genes is None:
        return None
    known = _predicted_genes(atac, rna, keys)
    if not len(known):
        msg = f"No predicted expression to show {genes!r} of: run `epifoundation.tl.embed` or `epifoundation.tl.predict_expression` first."
        raise ValueError(msg)
    if rna is not None:
        known = known.intersection(rna.var_names, sort=False)
    wanted = [genes] if isinstance(genes, str) else [str(name) for name in genes]
    missing = [name for name in wanted if name not in known]
    if missing:
        msg = f"{missing[:5]} are not among the {len(known):,} genes that can be shown, such as {list(known[:3])}."
        raise ValueError(msg)
    return wanted


def _columns(data: Data, atac: AnnData, keys: Keys, label_key: str | None, batch_key: str | None) -> pd.DataFrame:
    """What cells are coloured and counted by, most telling first."""
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


def _drawn(draw: Callable[[], Any], alt: str, caption: str = "") -> str:
    """The figure that a function draws, or why there is nothing to draw."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        return picture(draw(), alt, caption)
    except ValueError as error:
        return text(f"Not drawn: {error}", soft=True)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _cells(data: Data, atac: AnnData, keys: Keys, obs: pd.DataFrame, options: dict[str, Any]) -> str:
    mapping = atac.uns.get(keys.uns, {}).get("peaks")
    values: dict[str, Any] = {"cells": atac.n_obs}
    if atac.X is not None:
        values["peaks"] = atac.n_vars
    if atac.X is not None and not atac.isbacked:
        values["median open peaks a cell"] = float(np.median(np.asarray((atac.X > 0).sum(axis=1))))
    values["cells without an embedding"] = int(np.isnan(atac.obsm[keys.embedding]).any(axis=1).sum())
    if mapping:
        values |= {
            "peaks that the model knows": f"{mapping['matched']:,} ({mapping['matched'] / max(mapping['data'], 1):.0%})",
            "open peaks that it reads": f"{mapping['open_fraction_matched']:.0%}",
            "peaks of the model reached": f"{mapping['vocabulary_matched']:,} of {mapping['vocabulary']:,}",
            "genome": mapping["genome"],
        }
    body = numbers(values)
    if mapping and keys.coverage in obs:
        body += _drawn(
            lambda: coverage(data, **options).figure,
            "Histogram over cells of the fraction of open peaks that the model knows",
            "What the model does not know of a cell, it cannot read: below about half, take what follows with care.",
        )
    return body


def _embedding(atac: AnnData, keys: Keys, obs: pd.DataFrame, label_key: str | None, rng: np.random.Generator) -> str:
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
    basis = find_basis(atac, "umap")
    if basis is not None and _neighbours_by(atac) == keys.embedding:
        cells.obsm["X_umap"] = np.asarray(atac.obsm[basis])[known]
    else:
        n_neighbors = min(15, len(known) - 1)
        sc.pp.neighbors(cells, use_rep=keys.embedding, n_neighbors=n_neighbors, **_seeded(sc.pp.neighbors, seed))
        sc.tl.umap(cells, **_seeded(sc.tl.umap, seed))
    basis = find_basis(cells, "umap")
    labels = [name for name in (keys.cell_type, label_key) if name in obs and obs[name].dtype == "category"]
    pictures = []
    for name in obs.columns:
        if obs[name].nunique() < 2:
            continue  # one colour says nothing
        colours: dict[str, Any] = {}
        if obs[name].dtype == "category":
            cells.obs[name] = cells.obs[name].cat.remove_unused_categories()
            alike = labels if name in labels else [name]  # what is called the same has the same colour
            colours = {"palette": _palette(obs[alike]), "na_in_legend": False}
        draw = partial(sc.pl.embedding, cells, basis=basis, color=name, show=False, return_fig=True, **colours)
        pictures.append(_drawn(draw, f"UMAP of the cells, coloured by {name}"))
    return side_by_side(pictures) + text(f"UMAP of {keys.embedding}.{note}", soft=True)


def _seeded(function: Callable[..., Any], seed: int) -> dict[str, int]:
    """The option of a function of scanpy that fixes its result: `rng` since 1.13, `random_state` before."""
    return {"rng" if "rng" in signature(function).parameters else "random_state": seed}


def _neighbours_by(atac: AnnData) -> str | None:
    """What scanpy's neighbours, and with them the UMAP, were made from."""
    return atac.uns.get("neighbors", {}).get("params", {}).get("use_rep")


def _palette(columns: pd.DataFrame) -> dict[str, str]:
    """A colour for each name in the columns, over again where there are more than colours."""
    import scanpy as sc

    names = sorted({name for column in columns for name in columns[column].cat.categories} - {UNKNOWN})
    palettes = sc.pl.palettes
    colours = palettes.default_20 if len(names) <= len(palettes.default_20) else palettes.default_102
    return {name: colours[i % len(colours)] for i, name in enumerate(names)} | {UNKNOWN: "lightgray"}


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
        body += _drawn(
            lambda: composition(data, batch_key=batch_key, **options).figure,
            f"Share of each label in each group of {batch_key}",
            f"Labels by {batch_key}.",
        )
    return body


def _confidence(data: Data, atac: AnnData, keys: Keys, label_key: str | None, options: dict[str, Any]) -> str:
    draw = partial(annotation, data, label_key=label_key, **options)
    if label_key is not None:
        return _drawn(
            draw,
            f"Confusion of annotation and {label_key}, confidence of right and wrong labels, calibration, risk against coverage",
            f"Against {label_key}. Points on the diagonal: confidence can be taken at its word.",
        )
    is_calibrated = keys.annotation in atac.uns
    meaning = "Confidence is a probability: of cells with 0.7, about 70 % are right, if they are like those that it was calibrated on. Pass `label_key=` to check."
    return _drawn(
        draw,
        f"Histogram of the confidence of cells{', and of the sizes of their label sets' if keys.prediction_set in atac.obs else ''}",
        meaning
        if is_calibrated
        else "How well this is calibrated is not known here: run `ep.tl.annotate`, or pass `label_key=`.",
    )


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
        return text("Expression was predicted; name groups of cells with `label_key=` to see it here.")
    if rna is not None:
        note = ""
        if data.n_obs > COMPARED:
            note = f" {COMPARED:,} of {data.n_obs:,} cells, drawn at random."
            data = data[np.sort(rng.choice(data.n_obs, COMPARED, replace=False))]
        return _drawn(
            lambda: expression(data, groupby=groupby, genes=genes, **options)[0].figure,
            f"Correlation of predicted with measured expression over cells, and means of groups of {groupby} for some genes",
            f"Predicted from ATAC against measured, {groupby} by {groupby}.{note}",
        )
    predicted = atac.obsm.get(keys.expression)
    if predicted is None:
        predicted = pd.DataFrame(np.asarray(atac.layers[keys.layer]), index=atac.obs_names, columns=atac.var_names)
    groups = obs[groupby].astype(object)
    means = predicted.groupby(groups.where(groups.notna()).to_numpy()).mean()
    shown = genes or list(means.var().sort_values(ascending=False).index[:SHOWN])
    rows = means[shown].rename_axis(groupby).reset_index()
    about = text("Predicted from ATAC; nothing was measured to hold it against.", soft=True)
    return about + table(rows, f"Means by {groupby}")


def _links(links: pd.DataFrame) -> str:
    found = links.sort_values(["qvalue", "pvalue"], kind="stable")
    columns = [name for name in ("gene", "peak", "group", "distance", "effect", "pvalue", "qvalue") if name in found]
    tested, n_sure, n_groups = links["qvalue"].notna(), (links["qvalue"] <= 0.1).sum(), links["group"].nunique()
    within = f" in {n_groups} groups of cells" if n_groups > 1 else ""
    body = text(f"{tested.sum():,} pairs of a peak and a gene were tested{within}; {n_sure:,} are links at q ≤ 0.1.")
    return body + table(found[columns].head(LISTED), f"The {min(LISTED, len(found)):,} surest")


def _parameters(atac: AnnData, keys: Keys) -> str:
    rows = []
    for source in (keys.uns, keys.annotation, keys.expression, Keys().fragments, keys.links_report):
        rows += [(source, *pair) for pair in _flat(atac.uns.get(source, {}))]
    told = pd.DataFrame(rows, columns=["written by", "parameter", "value"]).astype(str)
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    body = table(told, "What the tools were asked and found")
    if isinstance(files := atac.uns.get(keys.files), pd.DataFrame):
        body += table(files.reset_index(), "Files")
    return body + table(pd.DataFrame({"package": list(versions), "version": list(versions.values())}), "Versions")


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested dictionaries as dotted names; tables are told by their size."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if hasattr(value, "items") and not isinstance(value, pd.DataFrame | pd.Series):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, pd.DataFrame):
            rows.append((f"{prefix}{name}", f"table of {len(value):,} rows"))
        else:
            rows.append((f"{prefix}{name}", said(value)))
    return rows
