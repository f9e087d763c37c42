"""``ep.tl.gene_activity``: counts over and near genes, the simple way to expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from tqdm import tqdm

from .._settings import settings
from .._validate import Data, check_values, get_atac, get_matrix, integer
from ..cells.tokens import CELLS_PER_READ, read_rows, row_reader
from ..genome import BUILDS, detect_build, overlaps, read_intervals
from ..genome._gene_table import gene_table
from ..inference.expression import rna_of


def gene_activity(
    data: Data,
    *,
    annotation: str | Path | pd.DataFrame | None = None,
    promoter: int = 2000,
    max_distance: int = 100_000,
    decay: int = 5000,
    layer: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
) -> AnnData:
    r"""Sum the counts of peaks over each gene and near it: the baseline of predicted expression, without any model.

    A peak that overlaps the gene body or the promoter counts in full, one at a distance of ``d`` bases from them by :math:`e^{-d / \mathrm{decay}}`.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks. Not changed.
    annotation
        Where genes are, on the genome build of the peaks: a GTF, GFF3 or BED file or a table (:func:`epifoundation.genome.read_genes`). None: ``var``
        of the RNA modality; of the intervals that 10x writes there, gene bodies are not known.
    promoter
        Bases before the transcription start site that belong to the gene; on both sides where the strand is unknown.
    max_distance
        Peaks farther from the gene do not count.
    decay
        Bases over which the weight of a peak falls to 37 %.
    layer
        Layer with the counts; None: ``X``.
    modality, rna_modality
        Names in the MuData.

    Returns
    -------
    A new AnnData, cells x genes: ``X`` weighted counts (CSR, float32), ``obs`` as in `data`, ``var`` with ``chrom``, ``start``, ``end``, ``strand`` and
    ``n_peaks``, the number of peaks that count. For comparison with expression, normalise it as that.

    Raises
    ------
    ValueError
        No positions of genes, an annotation of another genome build, negative or NaN counts.

    Notes
    -----
    Weights as in the gene scores of Granja et al. 2021, without their bounds at neighbouring genes.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(50, 500, 10)
    >>> ep.tl.gene_activity(mdata).shape
    (50, 10)
    """
    for name, value, least in (
        ("promoter", promoter, 0),
        ("max_distance", max_distance, 0),
        ("decay", decay, 1),
    ):
        integer(value, name, least=least)
    atac = get_atac(data, modality)
    genes = gene_table(annotation, rna_of(data, rna_modality))
    peaks = read_intervals(atac.var)
    _check_build(genes, peaks)
    weights = _weights(genes, peaks, promoter, max_distance, decay)
    matrix, parts = row_reader(get_matrix(atac, layer)), []
    with tqdm(
        total=atac.n_obs, desc="Gene activity", unit=" cells", disable=not settings.progress
    ) as bar:
        for start in range(0, atac.n_obs, CELLS_PER_READ):
            rows = read_rows(matrix, start, min(start + CELLS_PER_READ, atac.n_obs))
            check_values(
                rows.data,
                rows.indptr,
                atac.obs_names[start : start + CELLS_PER_READ],
                "The ATAC matrix",
            )
            parts.append(sp.csr_matrix(rows.astype(np.float32) @ weights))
            bar.update(rows.shape[0])
    activity = (
        sp.vstack(parts, format="csr")
        if parts
        else sp.csr_matrix((0, len(genes)), dtype=np.float32)
    )
    return AnnData(activity, obs=atac.obs.copy(), var=genes.assign(n_peaks=weights.getnnz(axis=0)))


def _weights(
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


def _check_build(genes: pd.DataFrame, peaks: pd.DataFrame) -> None:
    """Both must have a build in common, where they tell one."""
    ours, theirs = detect_build(peaks), detect_build(genes.reset_index(drop=True))
    if ours and theirs and not set(ours) & set(theirs):
        msg = f"The annotation is of {' or '.join(theirs)}, the peaks are of {' or '.join(ours)}; builds are told by the lengths of chromosomes ({list(BUILDS)})."
        raise ValueError(msg)
