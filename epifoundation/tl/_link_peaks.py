"""``ep.tl.link_peaks``: peaks near a gene that are associated with its expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from .._docs import documented
from .._keys import Keys
from .._memory import copy_of
from .._option_types import checked
from .._settings import settings
from .._validate import RNG, Data, check_writable, generator_of, get_atac, integer, names_of
from .._version import __version__
from .._warn import warn
from ..cells.source import InMemory
from ..genome import read_intervals
from ..genome._gene_table import gene_table
from ..genome._named import check_genome
from ..inference.expression import expression_head, find_genes, rna_of
from ..links.cells import family_of, gather_cells
from ..links.genes import check_annotation, place_genes
from ..links.group import MIN_GROUP_CELLS, Candidates, link_group, n_steps, uses_rna
from ..links.pairs import find_pairs
from ..links.qvalues import weighted_qvalues
from ..links.scoring import make_scorer
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..peaks.options import PeakMapping, takes_mapping
from ..pp._map_peaks import map_source

EFFECTS = {
    "counts": "log of expression",
    "binary": "log odds of being expressed",
    "gaussian": "the scale of the training data",
}


@documented
@takes_mapping
@checked
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
    min_cells: int = 10,
    layer: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    mapping: PeakMapping | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
    copy: bool = False,
) -> Data | None:
    """Link peaks to nearby genes, for an object in memory (no files).

    Cells are read several times in random order, so the data must be in memory.

    The effect of a peak is the predicted expression of a gene with the peak open minus that without
    it. It has two parts. One goes through the embedding: the prediction for a cell minus that for
    the cell without the peak (:func:`epifoundation.tl.knock_out`). As an embedding describes the
    state of a cell rather than single peaks, this part is similar for all peaks of a cell type. If
    RNA was measured in the same cells, a second part is added: the effect of the peaks near a gene
    on its measured expression beyond the prediction for the cell, fitted for all of them together.
    Differences between cell types and batches that the model knows thus do not create links.

    The null distribution comes from peaks elsewhere on the chromosome: those near other genes,
    farther than `max_distance`, treated in the same way and compared among peaks that are open in a
    similar number of cells. Each part has a p-value; twice the smaller one is reported.

    Parameters
    ----------
    {data}
    {model}
    genes
        Names of genes that the model knows; if None, all that `annotation` has.
    annotation
        Positions of genes on the genome build of the peaks: a GTF, GFF3 or BED file, a table, or a
        name such as ``"hg38"`` (:func:`epifoundation.genome.read_genes`). If None, ``var`` of the
        RNA modality, with columns ``chrom``, ``start``, ``end`` or 10x's ``interval``. More genes
        give more controls.
    max_distance
        Maximal distance of transcription start site and peak, in bases.
    groupby
        Column of ``obs``: links are tested in each group of cells. If None, in all cells.
    measured
        Use the measured RNA of the same cells, if `data` has it; cells are matched by name, and
        those without RNA are used by the model only. False: the model alone.
    {model_batch_key}
    max_cells
        Cells of a group, drawn at random, in which peaks are removed; measured expression of all of
        them is used.
    min_cells
        Peaks that are open in fewer cells of a group are not tested in it.
    layer
        Layer of the RNA modality with values as in training (raw counts for most models); if None,
        ``X``.
    {modalities}
    {key_added}
    {mapping}
    {device}
    rng
        Seed or generator, for controls and `max_cells`.
    {copy}

    Returns
    -------
    None, or the copy. Written into ``uns`` of the ATAC modality:

    - ``"epifoundation_links"``: DataFrame, one row per group, gene and peak that the model knows.
      ``gene``, ``peak``, ``chrom``, ``start``, ``end``, ``tss``, ``distance`` (bases); ``group``;
      ``effect`` (unit: ``scale`` in the report), the sum of ``by_embedding`` and
      ``by_measurement``; ``direction``, ``"activating"`` if the gene is expressed more with the
      peak; ``n_cells`` of the group in which the peak is open; ``pvalue``, empirical, and
      ``qvalue``, of all pairs and groups together (Benjamini-Hochberg; see the notes);
      ``score``, the probability that the peak regulates the gene (see the notes). With measured
      RNA, ``pip``, the posterior probability that the peak has an effect of its own, and
      ``credible_set``, numbered from 1 within gene and group (0: none): each contains such a peak
      with a probability of 90 % or more.
    - ``"epifoundation_links_report"``: model, options, scale, numbers of pairs; ``"score"``: the
      features, and the sample of the atlas that is most similar to each group.

    Groups of fewer than 10 cells, and peaks that are open in fewer than `min_cells` cells of a
    group, are not tested: p- and q-values are NaN, as is ``pip``, also without measured RNA. Groups
    of fewer than 10 cells have no score.

    Raises
    ------
    ValueError
        Unknown genes (with similar names); genes without a position; a model that predicts no
        expression; an annotation of another genome build; no controls. `data` is then unchanged.

    Notes
    -----
    With ``x`` the open peaks and ``o`` the model's prediction on the scale of its likelihood,
    measured expression is fitted by ``g(E[y]) = o + b + x beta``, ``beta ~ N(0, 1/30)``, and
    ``beta`` is compared by size. For the embedding, the cosine of its change when the peak is open
    and the direction along which the gene rises is compared, two-sided.

    Inclusion probabilities are of a sum of single effects (SuSiE, Wang et al. 2020),
    ``g(E[y]) = o + z gamma + sum_l beta_l x[j_l]``: each effect is that of one peak, and each of
    them equally likely. The effects of depth and of principal components of the embedding ``z`` are
    free, and counts may be overdispersed. A credible set is the smallest set of peaks that reaches
    90 %. It is left out if its peaks are not correlated (all pairs above 0.5).

    Each test counts in the correction, so more genes or groups need smaller p-values. From about 60
    genes on, tests have weights by distance (up to 5, 25, 100 kb and beyond), with mean 1. The
    weights of a gene are learned from other genes (as in Ignatiadis & Huber 2021).

    The score starts from a logistic regression that was fitted on 10,356 pairs tested by CRISPRi in
    K562 (Gschwind et al. 2025): distance, accessibility of the peak in the group, accessibility
    around the gene, active genes between and nearer, and, for human peaks, usual accessibility of
    peak and promoter in the bundled atlas and their correlation over its samples. It is 0 for
    closed peaks and promoters. P-values then change it as much as their distribution in the group
    shows that they inform; without variation between cells, or untested, they do not.

    An effect is an association; only an experiment can show that the peak is its cause. With few
    open peaks per cell, ``measured=False`` finds more.

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
    max_distance = integer(max_distance, "max_distance", minimum=1)
    max_cells = integer(max_cells, "max_cells", minimum=1)
    min_cells = integer(min_cells, "min_cells", minimum=1)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    model = resolve_model(model, device)
    head = expression_head(model)
    generator = generator_of(rng)
    rna = rna_of(data, rna_modality)
    if genes is not None:
        genes = names_of(genes, "genes")
        find_genes(model, genes)  # errors before the work
    table = gene_table(annotation, None if rna is None else rna.var)
    source = InMemory(data, modality, "the data")
    peak_map = map_source(source, model, mapping, keys)
    is_lifted = "lifted" in peak_map.report
    check_annotation(table, peak_map.report["data_genome"], model, lifted=is_lifted)
    check_genome(table, read_intervals(atac.var))
    names, positions, places = place_genes(model, genes, table)
    peaks, projection = read_intervals(atac.var), peak_map.projection
    known = np.ones(len(peaks), bool) if projection is None else np.diff(projection.indptr) > 0
    pairs, n_elsewhere = find_pairs(places, table, peaks, known, max_distance, generator)
    if not len(pairs.gene):
        msg = (
            f"No peak that the model knows lies within {max_distance:,} bases of {names[:3]}: "
            "raise `max_distance`, or check the build of the annotation."
        )
        raise ValueError(msg)
    if not pairs.is_control.any():
        msg = (
            "There are no controls: no other gene with peaks lies farther than "
            f"{2 * max_distance:,} bases from {names[:3]}. Pass an `annotation` of all genes, or "
            "lower `max_distance`."
        )
        raise ValueError(msg)
    used_rna = rna if measured else None
    cells = gather_cells(
        source, used_rna, model, projection, positions, batch_key, layer, rna_modality
    )
    groups = pd.Series("all", index=range(atac.n_obs))
    if groupby is not None:
        groups = source.column(groupby, "groupby")
    if groups.isna().all():
        msg = f"`groupby={groupby!r}` is missing for every cell."
        raise ValueError(msg)
    scorer = make_scorer(model, places, table, peaks, pairs, peak_map.report)
    candidates = Candidates(
        names, positions, places, peaks, atac.var_names, pairs, max_distance, scorer
    )
    names_of_groups = groups.astype(str).where(groups.notna())
    rows_of = {
        one: np.flatnonzero(names_of_groups == one) for one in names_of_groups.dropna().unique()
    }
    n_loci = len(np.unique(pairs.locus))
    with_rna = {one for one, rows in rows_of.items() if uses_rna(cells.take(rows))}
    total = sum(
        n_steps(len(rows), n_loci if one in with_rna else 0, max_cells)
        for one, rows in rows_of.items()
    )
    parts, small, unmeasured = [], [], []
    with tqdm(total=total, desc="Links", unit=" steps", disable=not settings.progress) as bar:
        for group, rows in rows_of.items():
            if len(rows) < MIN_GROUP_CELLS:
                small.append(f"{group!r} ({len(rows)})")
            elif cells.measured is not None and group not in with_rna:
                unmeasured.append(f"{group!r} ({int(cells.has_rna[rows].sum())})")
            part = link_group(
                model,
                head,
                cells.take(rows),
                candidates,
                group=group,
                max_cells=max_cells,
                min_cells=min_cells,
                rng=generator,
                bar=bar,
            )
            parts.append(part)
    if small:
        warn(f"Groups of fewer than {MIN_GROUP_CELLS} cells are not tested: {', '.join(small)}.")
    if unmeasured:
        msg = f"Groups of fewer than {MIN_GROUP_CELLS} cells with RNA are tested with the model "
        msg += f"alone: {', '.join(unmeasured)}."
        warn(msg)
    links = pd.concat(parts, ignore_index=True)
    links.index = links.index.astype(str)
    tests = (links[name].to_numpy() for name in ("pvalue", "distance", "gene"))
    links["qvalue"] = weighted_qvalues(*tests)
    for name in ("score", "pip", "credible_set"):
        links[name] = links.pop(name)
    if links["pvalue"].isna().all() and len(small) < len(rows_of):
        warn(
            f"No pair was tested: no peak near a gene is open in {min_cells:,} cells "
            "(`min_cells`) of a group."
        )
    target = copy_of(data) if copy else data
    uns = get_atac(target, modality).uns
    uns[keys.links] = links
    uns[keys.links_report] = {
        "model": model.name,
        "revision": model.revision,
        "package_version": __version__,
        "scale": EFFECTS[family_of(model)],
        "measured": cells.measured is not None,
        "measured_cells": int(cells.has_rna.sum()),
        "max_distance": max_distance,
        "min_cells": min_cells,
        "groupby": groupby or "",
        "batch_key": batch_key or "",
        "genes": len(names),
        "pairs": int((~pairs.is_control).sum()),
        "tests": int(links["pvalue"].notna().sum()),
        "controls": int(pairs.is_control.sum()),
        "control_loci_of_other_chromosomes": n_elsewhere,
        "peaks": peak_map.report,
        "score": scorer.report,
    }
    return target if copy else None
