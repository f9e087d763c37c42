"""``ep.pl.report``: one HTML page with all results on a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._docs import documented
from .._keys import Keys
from .._validate import RNG, Data, generator_of, get_atac, get_modality, names_of, obs_column
from ._report_page import page
from ._report_sections import Results, predicted_genes, sections


@documented
def report(
    data: Data,
    path: str | os.PathLike[str],
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    genes: str | Sequence[str] | None = None,
    layer: str | None = None,
    annotation: str | Path | pd.DataFrame | None = None,
    tracks: Mapping[str, str | Path] | None = None,
    title: str = "EpiFoundation report",
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    overwrite: bool = False,
    rng: RNG = 0,
) -> Path:
    """Write an HTML report with UMAPs, cell types, expression, links and parameters.

    Sections depend on the available results: numbers of cells and peak coverage; UMAPs coloured by
    annotation, confidence, labels and batches; composition of the batches; confusion matrix and
    calibration, if true labels are known; predicted against measured expression; peak-gene links,
    the best of them also in an interactive genome view (igv.js); parameters and versions. If a plot
    fails, the report says why. The report is a single file and works offline.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed`, or read from its output file. It
        is not changed.
    path
        The file to write, ``.html``.
    label_key
        Column of ``obs`` with true labels, to evaluate the annotation.
    batch_key
        Column of ``obs`` with batches, donors or conditions.
    genes
        Genes whose expression is shown; if None, those with the highest correlation or, without
        RNA, with the largest variance between labels.
    layer
        Layer of the RNA modality with measured expression; if None, ``X``.
    annotation
        Gene annotation to draw with links: a file, a table, or a name such as ``"hg38"``
        (:func:`epifoundation.genome.read_genes`); if None, ``var`` of the RNA modality, if it has
        positions.
    tracks
        BigWig file of each group of cells (:func:`epifoundation.pp.group_coverage`), drawn with
        links; if None, the fraction of cells with open peaks.
    title
        Heading of the page.
    modality, rna_modality
        Names of the modalities in the MuData.
    {results_key}
    overwrite
        Replace an existing file.
    rng
        Seed or generator for sampling cells of large data and for the UMAP, which is computed
        unless ``obsm["X_umap"]`` was made from this embedding.

    Returns
    -------
    The path of the report.

    Raises
    ------
    FileExistsError
        The file exists and `overwrite` is False.
    FileNotFoundError
        The directory of the file does not exist.
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
    shared = {"modality": modality, "key_added": key_added}
    results = Results(
        data=data,
        atac=atac,
        rna=rna,
        keys=keys,
        obs=_columns(data, atac, keys, label_key, batch_key),
        label_key=label_key,
        batch_key=batch_key,
        genes=_genes(genes, atac, rna, keys),
        locus_options={"annotation": annotation, "tracks": tracks},
        options=shared,
        rna_options=shared | {"rna_modality": rna_modality, "layer": layer},
        rng=generator_of(rng),
    )
    with plt.style.context("default"):  # the current style may be dark
        parts = sections(results)
    subtitle = f"{atac.n_obs:,} cells, {_model_of(atac, keys)}, {date.today().isoformat()}"
    footer = f"Made by epifoundation {version('epifoundation')}."
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(page(title, subtitle, parts, footer), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _model_of(atac: AnnData, keys: Keys) -> str:
    """Name and revision of the model; a model has no name before it is loaded from a directory."""
    report = atac.uns.get(keys.uns, {})
    name, revision = str(report.get("model", "unknown")), report.get("revision")
    if name == "unsaved":
        return f"model of revision {revision}"
    return f"model {name}, revision {revision}" if revision else f"model {name}"


def _check_path(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path of the report; an error if the report cannot be written there."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        msg = f"A report is an HTML file: `path` must end in '.html', got {str(path)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The directory {str(path.parent)!r} does not exist: create it first."
        raise FileNotFoundError(msg)
    if path.exists() and (path.is_dir() or not overwrite):
        msg = f"{str(path)!r} already exists: pass `overwrite=True` to replace a file, "
        msg += "or another `path`."
        raise FileExistsError(msg)
    return path


def _genes(
    genes: str | Sequence[str] | None, atac: AnnData, rna: AnnData | None, keys: Keys
) -> list[str] | None:
    """The requested genes; ValueError unless all were predicted and, if there is RNA, measured."""
    if genes is None:
        return None
    known = predicted_genes(atac, rna, keys)
    if not len(known):
        msg = f"No predicted expression for `genes={genes!r}`: run `epifoundation.tl.embed` or "
        msg += "`epifoundation.tl.predict_expression` first."
        raise ValueError(msg)
    if rna is not None:
        known = known.intersection(rna.var_names, sort=False)
    wanted = names_of(genes, "genes")
    missing = [name for name in wanted if name not in known]
    if missing:
        msg = f"{missing[:5]} are not among the {len(known):,} available genes, "
        msg += f"such as {list(known[:3])}."
        raise ValueError(msg)
    return wanted


def _columns(
    data: Data, atac: AnnData, keys: Keys, label_key: str | None, batch_key: str | None
) -> pd.DataFrame:
    """Columns of ``obs`` that colour and group the cells, the most important first."""
    obs = pd.DataFrame(index=atac.obs_names)
    shown = (keys.cell_type, keys.lineage, keys.confidence, keys.novelty, keys.coverage)
    for name in shown:
        if name in atac.obs:
            obs[name] = atac.obs[name]
    for key, option in ((label_key, "label_key"), (batch_key, "batch_key")):
        if key is not None:
            column = obs_column(data, atac, key, option)
            if key not in obs:
                obs[key] = pd.Categorical(column.astype(str).where(column.notna()))
    return obs
