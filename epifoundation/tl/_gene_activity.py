"""``ep.tl.gene_activity``: counts in and near genes, a baseline of predicted expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from tqdm import tqdm

from .._docs import documented
from .._option_types import checked
from .._settings import settings
from .._validate import integer
from ..cells.formats import opened
from ..cells.rows import iter_rows
from ..cells.source import InMemory, Located
from ..genome import BUILDS, detect_build, overlaps, read_intervals
from ..genome._gene_table import gene_table
from ..genome._named import check_genome


@documented
@checked
def gene_activity(
    data: Located,
    *,
    annotation: str | Path | pd.DataFrame | None = None,
    promoter: int = 2000,
    max_distance: int = 100_000,
    decay: int = 5000,
    layer: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
) -> AnnData:
    r"""Sum the counts of peaks in and near each gene, as a baseline of predicted expression.

    A peak that overlaps the gene body or the promoter has weight 1, one at a distance of ``d``
    bases has weight :math:`e^{-d / \mathrm{decay}}`.

    Parameters
    ----------
    {data_or_file}
    annotation
        Positions of genes on the genome build of the peaks: a GTF, GFF3 or BED file, a table, or a
        name such as ``"hg38"`` (:func:`epifoundation.genome.read_genes`). If None, ``var`` of the
        RNA modality; intervals of 10x lack gene bodies.
    promoter
        Bases before the transcription start site that belong to the gene; on both sides if the
        strand is unknown.
    max_distance
        Peaks farther from the gene have weight 0.
    decay
        Bases over which the weight of a peak falls to 37 %.
    layer
        Layer with the counts; if None, ``X``.
    {modalities}

    Returns
    -------
    A new AnnData, cells x genes: ``X`` weighted counts (CSR, float32), ``obs`` as in `data` (only
    names, for a file), ``var`` with ``chrom``, ``start``, ``end``, ``strand`` and ``n_peaks``, the
    number of peaks with a weight. Normalise it like expression before comparing the two.

    Raises
    ------
    ValueError
        No positions of genes, an annotation of another genome build, negative or NaN counts.

    Notes
    -----
    Weights as in the gene scores of Granja et al. 2021, without boundaries at neighbouring genes.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(50, 500, 10)
    >>> ep.tl.gene_activity(mdata).shape
    (50, 10)
    """
    for name, value, minimum in (
        ("promoter", promoter, 0),
        ("max_distance", max_distance, 0),
        ("decay", decay, 1),
    ):
        integer(value, name, minimum=minimum)
    with opened(data, modality, "the data") as source:
        rna = source.other(rna_modality)
        if rna is None and rna_modality != "rna":
            msg = f"{source.name} has no modality {rna_modality!r} (`rna_modality=`)."
            raise ValueError(msg)
        genes = gene_table(annotation, None if rna is None else rna.var)
        peaks = read_intervals(source.var)
        _check_same_build(genes, peaks)
        weights = _distance_weights(genes, peaks, promoter, max_distance, decay)
        parts = []
        with tqdm(
            total=source.n_obs, desc="Gene activity", unit=" cells", disable=not settings.progress
        ) as bar:
            for _, rows in iter_rows(source, layer=layer, what="The ATAC matrix"):
                parts.append(sp.csr_matrix(rows.astype(np.float32) @ weights))
                bar.update(rows.shape[0])
        obs = pd.DataFrame(index=source.names(0, source.n_obs))
        if isinstance(source, InMemory):
            obs = source.adata.obs.copy()
    no_cells = sp.csr_matrix((0, len(genes)), dtype=np.float32)
    activity = sp.vstack(parts, format="csr") if parts else no_cells
    return AnnData(activity, obs=obs, var=genes.assign(n_peaks=weights.getnnz(axis=0)))


def _distance_weights(
    genes: pd.DataFrame, peaks: pd.DataFrame, promoter: int, max_distance: int, decay: int
) -> sp.csr_matrix:
    """Peaks x genes."""
    strand = genes["strand"].to_numpy()
    first = genes["start"].to_numpy(np.int64) - np.where(strand != "-", promoter, 0)
    last = genes["end"].to_numpy(np.int64) + np.where(strand != "+", promoter, 0)
    near = pd.DataFrame(
        {
            "chrom": genes["chrom"].to_numpy(),
            "start": np.maximum(first - max_distance, 0),
            "end": last + max_distance,
        }
    )
    gene, peak = overlaps(near, peaks).T
    start, end = (peaks[side].to_numpy(np.int64)[peak] for side in ("start", "end"))
    gap = np.maximum(np.maximum(start - last[gene], first[gene] - end) + 1, 0)
    weight = np.exp(-gap / decay).astype(np.float32)
    return sp.csr_matrix((weight, (peak, gene)), shape=(len(peaks), len(genes)))


def _check_same_build(genes: pd.DataFrame, peaks: pd.DataFrame) -> None:
    """Raise ValueError if genes and peaks fit no common build."""
    check_genome(genes, peaks)
    ours, theirs = detect_build(peaks), detect_build(genes.reset_index(drop=True))
    if ours and theirs and not set(ours) & set(theirs):
        msg = (
            f"The annotation is of {' or '.join(theirs)}, the peaks are of {' or '.join(ours)}, by "
            f"the lengths of chromosomes; known builds: {list(BUILDS)}."
        )
        raise ValueError(msg)
