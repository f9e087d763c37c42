"""``ep.pp.count_fragments``: from a fragments file to cells x peaks, without peak calling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._option_types import checked
from .._validate import integer, one_of
from .._warn import warn
from ..models._peaks import Peaks, resolve_peaks
from ._cell_threshold import cell_threshold
from ._fragment_counter import Counting, FragmentCounter
from ._read_barcodes import read_barcodes
from ._read_fragments import check_fragments_file, read_fragments


@checked
def count_fragments(
    fragments: str | Path | Mapping[str, str | Path],
    peaks: Peaks,
    *,
    barcodes: Iterable[str] | AnnData | str | Path | None = None,
    min_fragments: int | None = None,
    counting: Counting = "insertion",
    separator: str = "_",
) -> AnnData:
    """Count the fragments of cells on the peaks of a model, or on other peaks.

    No peak calling is needed: the result has the peaks that the model reads. The file is read once
    from start to end; it needs no index (tabix) and no sorting, and the memory is that of the
    result and one block of lines. Each line counts once: the fifth column (number of reads) is
    ignored. Intervals are 0-based and half-open.

    Parameters
    ----------
    fragments
        A fragments file (``fragments.tsv.gz``): chromosome, start, end, barcode, as written by 10x,
        SnapATAC2 and others; bgzip, gzip or plain, with or without comment lines. For several
        samples, a mapping from sample names to files.
    peaks
        A model, its name or directory (see :func:`epifoundation.models.from_pretrained`), None for
        the bundled model; a BED file; a :class:`~epifoundation.PeakVocabulary`; a table of peaks
        such as ``adata.var``; or ``"encode-ccre-hg38"`` or ``"encode-ccre-mm10"``, the cCREs of
        ENCODE, which are downloaded once.
    barcodes
        Barcodes of the cells, an AnnData, MuData or table that is indexed by them, or a file with
        one per line (such as ``barcodes.tsv.gz``): the rows of the result, in this order. For
        several samples, with their prefix, or a mapping by sample. Default: all barcodes with at
        least `min_fragments`, sorted.
    min_fragments
        Minimal number of fragments of a cell in the file. Default: 0 with `barcodes`, else the
        number that separates cells from background, for each sample (see Notes).
    counting
        ``"insertion"``: number of cuts in the peak, up to two per fragment, at its first and its
        last base. ``"fragment"``: number of fragments that overlap the peak, even if both cuts are
        outside.
    separator
        Joins sample and barcode in the names of the cells: ``sample_barcode``.

    Returns
    -------
    AnnData of cells x peaks:

    - ``X``: counts, float32, CSR;
    - ``obs``: ``n_fragments`` (in the file), ``fraction_in_peaks`` (of these, those counted in a
      peak; NaN without fragments), and for several samples ``sample`` and ``barcode``;
    - ``var``: ``chrom``, ``start``, ``end``;
    - ``uns["epifoundation_fragments"]``: ``files``, ``counting``, ``genome``, and ``n_fragments``,
      ``in_cells``, ``in_peaks`` and ``unknown_contigs`` (on contigs without a peak);
      ``min_fragments`` (of each sample), and ``left_out``, the number of barcodes with fewer;
    - ``uns["files"]["fragments"]``, for one sample: the file, where muon looks for it (TSS
      enrichment, nucleosome signal).

    Raises
    ------
    FileNotFoundError
        A file does not exist.
    ValueError
        A line is not a fragment (the error gives its number); the file is truncated or empty; it
        is of another genome build than the peaks; no barcode is found or has enough fragments; or
        no fragment lies on a contig of the peaks.

    See Also
    --------
    epifoundation.pp.map_peaks : for cells that are already counted on other peaks.

    Notes
    -----
    The default of `min_fragments` is the lowest point between two peaks of the density of log10 of
    the fragments of a barcode, those of the background and of the cells. If there is no such
    point, a warning is issued: then it is 1,000 if 90 % of the fragments are in barcodes with as
    many, else all barcodes are kept. A warning is also issued if a given `min_fragments` leaves out
    most of what the default would keep. Where the RNA of the same cells, or the software of the
    instrument, says which barcodes are cells, pass those as `barcodes`.

    Examples
    --------
    >>> import tempfile
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:50].copy()
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = ep.datasets.simulate_fragments(atac, f"{folder.name}/fragments.tsv.gz")
    >>> counted = ep.pp.count_fragments(path, "pbmc-51loci", barcodes=atac.obs_names)
    >>> counted.shape, bool(((counted.X > 0) != (atac.X > 0)).nnz)
    ((50, 5724), False)
    """
    one_of(counting, get_args(Counting), "counting")
    if min_fragments is not None:
        integer(min_fragments, "min_fragments", minimum=0)
    files = files_by_prefix(fragments, separator)
    vocabulary = resolve_peaks(peaks)
    counter = FragmentCounter(vocabulary, read_barcodes(barcodes, list(files), separator), counting)
    for prefix, path in files.items():
        for block in read_fragments(path):
            counter.add(block, prefix)
    counter.check(list(files), kept="left out" if min_fragments else "empty")
    counts = counter.counts()
    names = pd.Index(list(counter.rows), dtype=object)
    minima = _minima(counter, names, list(files), min_fragments)
    is_cell = np.zeros(len(names), bool)
    for prefix, minimum in minima.items():
        is_cell |= _is_of(names, prefix) & (counter.n_fragments >= minimum)
    kept = np.flatnonzero(is_cell)
    if not len(kept):
        best = int(counter.n_fragments.argmax())
        msg = (
            f"None of the {len(names):,} barcodes has {min_fragments:,} fragments "
            f"(`min_fragments`): the most, {counter.n_fragments[best]:,}, has {names[best]!r}. "
            "Lower it, or name the cells with `barcodes=`."
        )
        raise ValueError(msg)
    if barcodes is None:
        kept = kept[np.argsort(names[kept])]  # independent of the order of the lines
    n_fragments, n_in_peaks = counter.n_fragments[kept], counter.n_in_peaks[kept]
    obs = pd.DataFrame({"n_fragments": n_fragments}, index=names[kept])
    in_peaks = n_in_peaks / np.maximum(n_fragments, 1)
    obs["fraction_in_peaks"] = np.where(n_fragments > 0, in_peaks, np.nan)
    if isinstance(fragments, Mapping):
        prefix = pd.Series("", index=obs.index, dtype=object)
        for name in files:
            prefix[obs.index.str.startswith(name)] = name
        samples = [str(sample) for sample in fragments]
        obs["sample"] = pd.Categorical(prefix.str.removesuffix(separator), samples)
        obs["barcode"] = [name[len(start) :] for name, start in prefix.items()]
    var = vocabulary.intervals.set_axis(vocabulary.names)
    atac = AnnData(counts[kept].astype(np.float32), obs=obs, var=var)
    paths = [str(path) for path in files.values()]
    atac.uns[Keys().fragments] = {
        "files": paths,
        "counting": counting,
        "genome": vocabulary.genome,
        "n_fragments": counter.n_lines,
        "in_cells": int(n_fragments.sum()),
        "in_peaks": int(n_in_peaks.sum()),
        "unknown_contigs": counter.n_unknown,
        "min_fragments": list(minima.values()),
        "left_out": len(names) - len(kept),
    }
    if len(paths) == 1:
        atac.uns["files"] = {"fragments": paths[0]}
    return atac


def _minima(
    counter: FragmentCounter, names: pd.Index, prefixes: list[str], given: int | None
) -> dict[str, int]:
    """The minimal number of fragments of the cells of each sample."""
    if counter.requested is not None:
        return dict.fromkeys(prefixes, given or 0)
    minima = {}
    for prefix in prefixes:
        n_fragments = counter.n_fragments[_is_of(names, prefix)]
        found, is_separate = cell_threshold(n_fragments)
        minima[prefix] = found if given is None else given
        cells = n_fragments[n_fragments >= minima[prefix]]
        of = f" of {prefix!r}" if prefix else ""
        if given is None and not is_separate:
            msg = (
                f"Cells and background{of} do not differ in their number of fragments: the "
                f"{len(cells):,} of {len(n_fragments):,} barcodes with at least {found:,} are "
                "kept. Name the cells with `barcodes=`, or choose `min_fragments=`."
            )
            warn(msg)
        suggested = n_fragments[n_fragments >= found]
        if given is not None and is_separate and 2 * len(cells) < len(suggested):
            msg = (
                f"`min_fragments={given}` keeps {len(cells):,} of {len(n_fragments):,} barcodes"
                f"{of}. Their numbers of fragments suggest `min_fragments={found}`, which keeps "
                f"{len(suggested):,}."
            )
            warn(msg)
    return minima


def _is_of(names: pd.Index, prefix: str) -> np.ndarray:
    """Whether each name is of a sample."""
    return names.str.startswith(prefix) if prefix else np.ones(len(names), bool)


def files_by_prefix(fragments: Any, separator: str) -> dict[str, Path]:
    """The file of each sample, by the prefix of its cell names."""
    if isinstance(fragments, str | Path):
        return {"": check_fragments_file(Path(fragments))}
    if not isinstance(fragments, Mapping) or not fragments:
        msg = "`fragments` must be a path, or a mapping from sample names to paths such as "
        msg += f"{{'donor1': 'fragments.tsv.gz'}}, got {fragments!r}."
        raise TypeError(msg)
    files = {
        f"{sample}{separator}": check_fragments_file(Path(path))
        for sample, path in fragments.items()
    }
    if len(files) < len(fragments):
        msg = f"Sample names must differ as text, got {list(fragments)}."
        raise ValueError(msg)
    for one in files:
        for other in files:
            if one != other and other.startswith(one):
                msg = f"Cells of the samples {one!r} and {other!r} cannot be distinguished: "
                msg += "choose another `separator`."
                raise ValueError(msg)
    return files
