"""A fragments file made from cells x peaks."""

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
    """Write a fragments file of which the counts are known.

    An entry of c in the matrix becomes c / 2 fragments, rounded up, with both cuts inside the peak: counted again, the same peaks are
    open, with one fragment or two insertions for each of these. A file for tests, benchmarks and tutorials.

    Parameters
    ----------
    data
        Cells x peaks: an AnnData, or a MuData with the modality `modality`.
    path
        File to write, gzip if it ends in ``.gz``; sorted, with a comment line first.
    modality
        Name in the MuData.
    background
        Fragments outside the peaks, as a fraction of those inside, drawn between the first and the last peak of each contig; those that
        would meet a peak are left out.
    n_empty
        Further barcodes (``empty0``, ``empty1``, ...) with about ten fragments each, as droplets without a cell have.
    rng
        Seed or generator.

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        `background` is negative, or `n_empty` no such number.

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
    integer(n_empty, "n_empty", least=0)
    atac = get_atac(data, modality)
    rng, path = np.random.default_rng(rng), Path(path)
    counts = sp.csr_matrix(get_matrix(atac.to_memory() if atac.isbacked else atac, None))
    check_values(counts.data, counts.indptr, atac.obs_names, "`X`")
    counts = counts.tocoo()
    peaks = read_intervals(atac.var)
    code, contigs = pd.factorize(peaks["chrom"])
    first, last = peaks["start"].to_numpy(), peaks["end"].to_numpy()

    copies = np.ceil(counts.data / 2).astype(np.int64)
    peak = np.concatenate([np.repeat(counts.col, copies), rng.integers(len(peaks), size=10 * n_empty)])
    cell = np.concatenate(
        [np.repeat(counts.row, copies), atac.n_obs + rng.integers(max(n_empty, 1), size=10 * n_empty)]
    )
    inside = _draw(first[peak], last[peak], rng)

    n_outside = int(background * len(peak))
    low, high = (pd.Series(side).groupby(code).agg(how).to_numpy() for side, how in ((first, "min"), (last, "max")))
    contig = rng.choice(len(contigs), size=n_outside, p=(high - low) / (high - low).sum())
    start = rng.integers(low[contig], high[contig])
    outside = pd.DataFrame({"chrom": contigs[contig], "start": start, "end": start + rng.integers(30, 500, n_outside)})
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
    # The time is fixed: the same bytes each time.
    path.write_bytes(gzip.compress(text.encode(), compresslevel=4, mtime=0) if path.suffix == ".gz" else text.encode())
    return path


def _draw(first: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An interval inside of each interval."""
    cuts = np.sort(rng.integers(first, last, size=(2, len(first))), axis=0)
    return cuts[0], cuts[1] + 1
