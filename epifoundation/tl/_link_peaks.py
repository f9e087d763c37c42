"""``ep.tl.link_peaks``: which open peaks near a gene go with its expression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from .._keys import Keys
from .._memory import copy_of, in_memory
from .._validate import RNG, Data, check_writable, get_atac, get_matrix, integer, obs_column
from .._version import __version__
from ..genome import BUILDS, read_intervals, transcription_start
from ..genome._gene_table import gene_table
from ..inference.expression import asked_genes, batch_codes, expression_head, rna_of
from ..links.effects import Cells, family_of, gene_directions, measured_effects, model_effects
from ..links.pairs import Pairs, find_pairs
from ..links.pvalues import either, embedding_pvalues, measured_pvalues, stratified_qvalues
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..peaks.mapping import genome_build, incompatible_builds, map_onto
from ..peaks.vocabulary import GeneVocabulary
from ..pp._map_peaks import MIN_COVERAGE

LEAST = 10  # cells of a group that is tested
EFFECTS = {
    "counts": "log of expression",
    "binary": "log odds of being expressed",
    "gaussian": "the scale of the training data",
}


def link_peaks(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    genes: str | Sequence[str] | None,
    annotation: str | Path | pd.DataFrame | None = None,
    max_distance: int = 250_000,
    groupby: str | None = None,
    measured: bool = True,
    batch_key: str | None = None,
    max_cells: int = 2000,
    layer: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    device: str | torch.device = "auto",
    rng: RNG = 0,
    copy: bool = False,
) -> Data | None:
    """Link genes to the peaks near them that their expression goes with, by group of cells.

    The effect of a peak is how much higher a gene's predicted expression is with the peak open than without it. It has two parts. One goes through
    the embedding: the model's prediction for a cell, less that for the cell without the peak (:func:`epifoundation.tl.knock_out`). An embedding
    holds what a cell is rather than one peak of it, so that part is alike for all peaks of a cell type. Where RNA was measured in the
    same cells, the other part is added: what the peaks near a gene tell of its expression beyond what the model predicts for the cell, all of them
    fitted at once. Cell types and batches that the model knows of thus make no links.

    What comes about by chance is told by peaks elsewhere on the chromosome: those near other genes, farther off than `max_distance`, treated in the
    same way and compared among peaks that are open in about as many cells. Either part has its p-value, and the smaller one counts, times two.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks.
    model
        A model, its name or directory; None is the bundled one.
    genes
        Names of genes that the model knows; None for all that `annotation` places.
    annotation
        Where genes are, on the genome build of the peaks: a GTF, GFF3 or BED file or a table (:func:`epifoundation.genome.read_genes`). None: ``var``
        of the RNA modality, with columns ``chrom``, ``start``, ``end`` or 10x's ``interval``. The more genes it holds, the more there is to compare with.
    max_distance
        Bases between transcription start site and peak.
    groupby
        Column of ``obs``: links are sought in each group by itself. None: in all cells.
    measured
        Use the measured RNA of the same cells, where `data` has it. False: the model alone.
    batch_key
        Column of ``obs`` with batches that the model was trained on, to predict expression for; None: for the mean batch.
    max_cells
        Cells of a group, drawn at random, in which peaks are removed; measured expression of all of them is used.
    layer
        Layer of the RNA modality with what the model learned from (raw counts, for most models); None: ``X``.
    modality, rna_modality
        Names in the MuData.
    key_added
        Replaces ``epifoundation`` in all names that are written.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    rng
        Seed or generator, for the peaks to compare with and for `max_cells`.
    copy
        Return a copy with the results and leave `data` as it is.

    Returns
    -------
    None, or the copy. Written into ``uns`` of the ATAC modality:

    - ``"epifoundation_links"``: DataFrame, one row a group, gene and peak that the model knows. ``gene``, ``peak``, ``chrom``, ``start``, ``end``, ``tss``,
      ``distance`` (bases); ``group``; ``effect`` (see ``scale`` in the report), of it ``by_embedding`` and ``by_measurement``; ``direction``,
      ``"activating"`` where the gene is expressed more with the peak; ``n_cells`` of the group in which the peak is open; ``pvalue``, empirical, and
      ``qvalue`` (Benjamini-Hochberg, over the genes and peaks of a group that are at like distances: up to 5, 25, 100 kb and beyond).
    - ``"epifoundation_links_report"``: model, options, scale, numbers of pairs.

    In groups of fewer than 10 cells, and for peaks that are open in none, nothing is tested: p- and q-values are NaN.

    Raises
    ------
    ValueError
        Unknown genes, with names like them; genes without a position; a model that predicts no expression; an annotation of another genome
        build; nothing to compare with. `data` is then unchanged.

    Notes
    -----
    With ``x`` the open peaks and ``o`` the model's prediction on the scale of its likelihood, measured expression is fitted by ``g(E[y]) = o + b + x beta``,
    ``beta ~ N(0, 1/30)``, and ``beta`` compared by size. Of the embedding, the cosine is compared, two-sided, between how it moves when the peak is open and
    along what the gene rises. An effect is an association; it takes an experiment to show that the peak is its cause. With few open peaks a
    cell, where measured expression has little to add, ``measured=False`` finds more.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(400, 600, 20)
    >>> model = ep.tl.pretrain(mdata)
    >>> ep.tl.link_peaks(mdata, model, genes=["gene3", "gene4"], max_distance=50_000)
    >>> sorted(mdata["atac"].uns["epifoundation_links"]["gene"].unique())
    ['gene3', 'gene4']
    """
    keys = Keys.of(key_added)
    max_distance = integer(max_distance, "max_distance", least=1)
    max_cells = integer(max_cells, "max_cells", least=1)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    model = resolve_model(model, device)
    head = expression_head(model)
    generator = np.random.default_rng(rng)
    rna = rna_of(data, rna_modality)
    if genes is not None:
        asked_genes(model, genes)  # before the work
    table = gene_table(annotation, rna)
    mapping = map_onto(
        model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover
    )
    mapping.check(min_coverage)
    _check_annotation(table, mapping.report["data_genome"], model, lifted=liftover is not None)
    names, positions, places = _placed(model, genes, table)
    peaks = read_intervals(atac.var)
    known = (
        np.ones(len(peaks), dtype=bool)
        if mapping.projection is None
        else np.diff(mapping.projection.indptr) > 0
    )
    pairs, n_elsewhere = find_pairs(places, table, peaks, known, max_distance, generator)
    if not len(pairs.gene):
        msg = f"No peak that the model knows lies within {max_distance:,} bases of {names[:3]}: raise `max_distance`, or check the build of the annotation."
        raise ValueError(msg)
    if not pairs.is_control.any():
        msg = (
            f"No other gene lies farther than {2 * max_distance:,} bases from {names[:3]} with peaks around it, so there is nothing to compare "
            "with: pass an `annotation` of all genes, or lower `max_distance`."
        )
        raise ValueError(msg)
    near = np.zeros(len(peaks), dtype=bool)
    near[pairs.peak] = True
    sites = pd.DataFrame(
        {"chrom": places["chrom"].to_numpy(), "start": transcription_start(places)}
    )
    cells = _cells(
        data,
        atac,
        rna if measured else None,
        model,
        mapping.projection,
        positions,
        batch_key,
        layer,
    )
    groups = (
        pd.Series("all", index=atac.obs_names)
        if groupby is None
        else obs_column(data, atac, groupby, "groupby")
    )
    if groups.isna().all():
        msg = f"`groupby={groupby!r}` is missing for every cell."
        raise ValueError(msg)
    parts, small = [], []
    for group in groups.dropna().astype(str).unique():
        rows = np.flatnonzero((groups.astype(str) == group).to_numpy() & groups.notna().to_numpy())
        is_small = len(rows) < LEAST
        part = cells.take(rows)
        sample = (
            part
            if len(rows) <= max_cells
            else part.take(np.sort(generator.choice(len(rows), max_cells, replace=False)))
        )
        by_embedding, moved = model_effects(model, head, sample, positions, pairs)
        seen = part.n_open()
        n_open = seen[pairs.peak]
        by_measurement, pvalue = np.zeros(len(by_embedding)), np.full(len(by_embedding), np.nan)
        if not is_small:
            own = np.flatnonzero(~pairs.is_control)
            directions = gene_directions(model, head, sample)[positions]
            pvalue[own] = embedding_pvalues(
                moved,
                directions,
                (pairs.gene[own], pairs.peak[own]),
                sites,
                peaks,
                near,
                seen,
                max_distance,
                generator,
            )
            if part.measured is not None:
                by_measurement = measured_effects(model, head, part, positions, pairs)
                pvalue = either(
                    pvalue, measured_pvalues(by_measurement, pairs.gene, n_open, pairs.is_control)
                )
        small += [f"{group!r} ({len(rows)})"] * is_small
        parts.append(
            _frame(
                names,
                peaks,
                atac,
                pairs,
                places,
                group,
                by_embedding,
                by_measurement,
                n_open,
                pvalue,
            )
        )
    if small:
        msg = f"Groups of fewer than {LEAST} cells are not tested: {', '.join(small)}."
        warnings.warn(msg, UserWarning, stacklevel=2)
    links = pd.concat(parts, ignore_index=True)
    links.index = links.index.astype(str)
    target = copy_of(data) if copy else data
    uns = get_atac(target, modality).uns
    uns[keys.links] = links
    uns[keys.links_report] = {
        "model": model.name,
        "revision": model.revision,
        "package_version": __version__,
        "scale": EFFECTS[family_of(model)],
        "measured": cells.measured is not None,
        "max_distance": max_distance,
        "groupby": groupby or "",
        "batch_key": batch_key or "",
        "genes": len(names),
        "pairs": int((~pairs.is_control).sum()),
        "controls": int(pairs.is_control.sum()),
        "control_loci_of_other_chromosomes": n_elsewhere,
        "peaks": mapping.report,
    }
    return target if copy else None


def _placed(
    model: EpiFoundation, genes: str | Sequence[str] | None, table: pd.DataFrame
) -> tuple[list[str], np.ndarray, pd.DataFrame]:
    """Names of the genes to link, all of them with a place; their positions in the model, and their places."""
    names, positions = (
        (model.genes.names, np.arange(len(model.genes)))
        if genes is None
        else asked_genes(model, genes)
    )
    called = [list(names), [model.genes.names[int(i)] for i in positions]]
    if model.genes.ids is not None:
        called.append([model.genes.ids[int(i)] for i in positions])
    rows = np.full(len(positions), -1)
    for those in called:  # by the name that was asked for, else by symbol, else by identifier
        rows = np.where(rows >= 0, rows, table.index.get_indexer(pd.Index(those)))
    lost = [name for name, row in zip(names, rows, strict=True) if row < 0]
    if lost and (genes is not None or len(lost) == len(rows)):
        msg = (
            f"{len(lost):,} of {len(rows):,} genes have no position in the annotation: {lost[:5]}. It calls genes {list(table.index[:3])}; "
            "pass another `annotation`, or leave these genes out."
        )
        raise ValueError(msg)
    kept = np.flatnonzero(rows >= 0)
    return [names[int(i)] for i in kept], positions[kept], table.iloc[rows[kept]]


def _check_annotation(
    table: pd.DataFrame, build: str, model: EpiFoundation, *, lifted: bool
) -> None:
    """Genes must be on the build of the peaks."""
    build = build if build in BUILDS or lifted else genome_build(model.peaks)
    found, wrong = (
        incompatible_builds(table.reset_index(drop=True), build)
        if build in BUILDS
        else ([], np.zeros(0))
    )
    if found:
        gene = table.index[np.flatnonzero(wrong)[0]]
        msg = (
            f"The annotation is of {' or '.join(found)}, the peaks are of {build}: {int(wrong.sum()):,} of {len(table):,} genes have no place "
            f"there, first {gene!r}. Pass an annotation of {build}."
        )
        raise ValueError(msg)


def _cells(
    data: Data,
    atac: AnnData,
    rna: AnnData | None,
    model: EpiFoundation,
    projection: sp.csr_matrix | None,
    positions: np.ndarray,
    batch_key: str | None,
    layer: str | None,
) -> Cells:
    """What is needed of all cells, in memory."""
    matrix = sp.csr_matrix(in_memory(get_matrix(atac, None)))
    batch = None if batch_key is None else batch_codes(data, atac, batch_key, model)
    measured = total = None
    there = None if rna is None else GeneVocabulary.from_var(rna.var)
    found = np.full(len(model.genes), -1) if there is None else there.match(model.genes)
    if rna is not None and (found[positions] >= 0).all():
        counts = in_memory(get_matrix(rna, layer))
        own = rna.obs_names.get_indexer(atac.obs_names)
        columns = counts[:, found[positions]]
        dense = np.asarray(columns.todense() if sp.issparse(columns) else columns, dtype=np.float64)
        sums = np.asarray(counts[:, found[found >= 0]].sum(axis=1), dtype=np.float64).ravel()
        measured = np.where((own >= 0)[:, None], dense[own], np.nan)
        total = np.where(own >= 0, sums[own], 0.0)
        if family_of(model) == "counts" and ((dense < 0).any() or (dense % 1 != 0).any()):
            msg = (
                "The RNA modality holds no counts, and the model learned from counts: name a layer of raw counts with `layer=`, or pass "
                "`measured=False` to use the model alone."
            )
            raise ValueError(msg)
    elif rna is not None:
        msg = f"The RNA modality lacks {int((found[positions] < 0).sum()):,} of the {len(positions):,} genes, so measured expression is not used."
        warnings.warn(msg, UserWarning, stacklevel=3)
    return Cells(matrix, projection, model.network.folded(), atac.obs_names, batch, measured, total)


def _frame(
    names: list[str],
    peaks: pd.DataFrame,
    atac: AnnData,
    pairs: Pairs,
    places: pd.DataFrame,
    group: str,
    by_embedding: np.ndarray,
    by_measurement: np.ndarray,
    n_open: np.ndarray,
    pvalue: np.ndarray,
) -> pd.DataFrame:
    own = np.flatnonzero(~pairs.is_control)
    gene, peak = pairs.gene[own], pairs.peak[own]
    effect = (by_embedding + by_measurement)[own]
    frame: dict[str, Any] = {
        "gene": np.asarray(names, dtype=object)[gene],
        "peak": atac.var_names.to_numpy()[peak],
        "chrom": peaks["chrom"].to_numpy()[peak],
        "start": peaks["start"].to_numpy()[peak],
        "end": peaks["end"].to_numpy()[peak],
        "tss": transcription_start(places)[gene],
        "distance": pairs.distance[own],
        "group": group,
        "effect": effect,
        "by_embedding": by_embedding[own],
        "by_measurement": by_measurement[own],
        "direction": np.select([effect > 0, effect < 0], ["activating", "repressing"], "none"),
        "n_cells": n_open[own],
        "pvalue": pvalue[own],
        "qvalue": stratified_qvalues(pvalue[own], pairs.distance[own]),
    }
    return pd.DataFrame(frame).sort_values(["gene", "pvalue"], kind="stable")
