"""Simulate a fragments file from cells x peaks."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._validate import RNG, Data, check_values, get_atac, get_matrix, integer
from ..genome import overlaps, read_intervals


def simulate_fragments(
    data: Data,
    path: str | Path,
    *,
    modality: str = "atac",
    background: float = 0.2,
    n_empty: int = 0,
    rng: RNG = 0,
) -> Path:
    """Write a fragments file with known counts, for tests, benchmarks and tutorials.

    A count c becomes c / 2 fragments, rounded up, with both cuts inside the peak: when the file is
    counted again, the same peaks are open, with one fragment or two insertions for each of these.

    Parameters
    ----------
    data
        Cells x peaks: an AnnData, or a MuData with the modality `modality`.
    path
        File to write, gzip if it ends in ``.gz``; sorted, after a comment line.
    modality
        Name in the MuData.
    background
        Fragments between the first and the last peak of each contig, as a fraction of those in
        peaks; those that overlap a peak are dropped.
    n_empty
        Number of barcodes without a cell (``empty0``, ``empty1``, ...), with about ten fragments.
    rng
        Seed or generator.

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        `background` is negative, or `n_empty` is not a number of barcodes.

    Examples
    --------
    >>> import tempfile
    >>> import epifoundation as ep
    >>> atac = ep.datasets.simulate_multiome(20, 100, 5)["atac"]
    >>> folder = tempfile.TemporaryDirectory()
    >>> ep.datasets.simulate_fragments(atac, f"{folder.name}/fragments.tsv.gz").name
    'fragments.tsv.gz'
    """
    if not background >= 0:
        msg = f"`background` must not be negative, got {background!r}."
        raise ValueError(msg)
    integer(n_empty, "n_empty", minimum=0)
    atac = get_atac(data, modality)
    rng, path = np.random.default_rng(rng), Path(path)
    counts = sp.csr_matrix(get_matrix(atac.to_memory() if atac.isbacked else atac, None))
    check_values(counts.data, counts.indptr, atac.obs_names, "`X`")
    counts = counts.tocoo()
    peaks = read_intervals(atac.var)
    code, contigs = pd.factorize(peaks["chrom"])
    first, last = peaks["start"].to_numpy(), peaks["end"].to_numpy()

    copies = np.ceil(counts.data / 2).astype(np.int64)
    n_cells, n_extra = atac.n_obs, 10 * n_empty
    extra_peaks = rng.integers(len(peaks), size=n_extra)
    extra_cells = n_cells + rng.integers(max(n_empty, 1), size=n_extra)
    peak = np.concatenate([np.repeat(counts.col, copies), extra_peaks])
    cell = np.concatenate([np.repeat(counts.row, copies), extra_cells])
    inside = _draw_inside(first[peak], last[peak], rng)

    n_outside = int(background * len(peak))
    low = pd.Series(first).groupby(code).min().to_numpy()
    high = pd.Series(last).groupby(code).max().to_numpy()
    contig = rng.choice(len(contigs), size=n_outside, p=(high - low) / (high - low).sum())
    start = rng.integers(low[contig], high[contig])
    end = start + rng.integers(30, 500, n_outside)
    outside = pd.DataFrame({"chrom": contigs[contig], "start": start, "end": end})
    free = np.setdiff1d(np.arange(n_outside), overlaps(outside, peaks)[:, 0])

    names = np.array([*atac.obs_names, *(f"empty{i}" for i in range(n_empty))], dtype=object)
    table = pd.DataFrame(
        {
            "contig": np.concatenate([code[peak], contig[free]]),
            "start": np.concatenate([inside[0], start[free]]),
            "end": np.concatenate([inside[1], outside["end"].to_numpy()[free]]),
            "cell": np.concatenate([cell, rng.choice(cell, len(free))]) if len(cell) else cell,
        }
    ).sort_values(["contig", "start", "end", "cell"])
    lines = pd.DataFrame(
        {
            "chrom": contigs[table["contig"]],
            "start": table["start"],
            "end": table["end"],
            "barcode": names[table["cell"]],
        }
    )
    text = "# made by epifoundation.datasets.simulate_fragments\n"
    text += lines.assign(count=1).to_csv(sep="\t", header=False, index=False)
    # A fixed time makes the bytes reproducible
    content = text.encode()
    is_gzip = path.suffix == ".gz"
    path.write_bytes(gzip.compress(content, compresslevel=4, mtime=0) if is_gzip else content)
    return path


def _draw_inside(
    first: np.ndarray, last: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random interval inside each interval."""
    cuts = np.sort(rng.integers(first, last, size=(2, len(first))), axis=0)
    return cuts[0], cuts[1] + 1
