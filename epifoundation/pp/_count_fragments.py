"""``ep.pp.count_fragments``: from a fragments file to cells x peaks, without calling peaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from .._files import read_columns
from .._keys import Keys
from .._validate import check_unique, integer, one_of
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..vocabulary import PeakVocabulary
from ._fragment_counter import Counting, FragmentCounter
from ._read_fragments import check_file, read_fragments

Peaks: TypeAlias = EpiFoundation | PeakVocabulary | pd.DataFrame | str | Path | None
MIN_FRAGMENTS = 1000  # of a barcode in a whole genome, below which it is taken for background


def count_fragments(
    fragments: str | Path | Mapping[str, str | Path],
    peaks: Peaks,
    *,
    barcodes: Iterable[str] | str | Path | None = None,
    min_fragments: int | None = None,
    counting: Counting = "insertion",
    separator: str = "_",
) -> AnnData:
    """Count the fragments of cells on the peaks of a model, or on any others.

    No peaks need to be called: the cells come out on the peaks that the model reads. The file is read once from front to end; an
    index (tabix) is not needed, the lines may be in any order, and the memory is that of the result and of one block of lines.
    Each line counts once: the fifth column (how often it was sequenced) is not used. Intervals are 0-based and half-open.

    Parameters
    ----------
    fragments
        A fragments file (``fragments.tsv.gz``): chromosome, start, end, barcode, as 10x, SnapATAC2 and others write it; bgzip, gzip or
        plain, with or without comment lines. Several samples: a mapping from their names to their files.
    peaks
        A model, its name or directory (see :func:`epifoundation.models.from_pretrained`), None for the bundled one; a BED file; a
        :class:`~epifoundation.PeakVocabulary`; or a table of peaks such as ``adata.var``.
    barcodes
        Those of the cells, or a file with one a line (such as ``barcodes.tsv.gz``): the rows of the result, in this order. With several
        samples, their names as they come out, or a mapping by sample. Default: all with at least `min_fragments`, by name.
    min_fragments
        Least fragments of a cell, in the whole file. Default: 1,000 without `barcodes`, else 0.
    counting
        ``"insertion"``: cuts in the peak, up to two a fragment, at its first and its last base. ``"fragment"``: fragments that overlap
        the peak, if only between their cuts.
    separator
        Stands between sample and barcode in the names of the cells: ``sample_barcode``.

    Returns
    -------
    AnnData of cells x peaks:

    - ``X``: counts, float32, CSR;
    - ``obs``: ``n_fragments`` (in the file), ``fraction_in_peaks`` (of these, with a count in any peak; NaN without any), with several
      samples also ``sample`` and ``barcode``;
    - ``var``: ``chrom``, ``start``, ``end``;
    - ``uns["epifoundation_fragments"]``: ``files``, ``counting``, ``genome``, and ``n_fragments``, ``in_cells``, ``in_peaks`` and
      ``unknown_contigs`` (on contigs without a peak);
    - ``uns["files"]["fragments"]``, with one sample: the file, where muon looks for it (TSS enrichment, nucleosome signal).

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        A line is no fragment (its number is told), the file is truncated or empty, it is of another genome build than the peaks,
        no barcode is found or has enough fragments, no fragment lies on a contig of the peaks.

    See Also
    --------
    epifoundation.pp.map_peaks : for cells that have been counted already, on other peaks.

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
    least = MIN_FRAGMENTS if min_fragments is None and barcodes is None else 0
    least = least if min_fragments is None else integer(min_fragments, "min_fragments", least=0)
    files = _by_prefix(fragments, separator)
    vocabulary = _vocabulary(peaks)
    counter = FragmentCounter(vocabulary, _names(barcodes, files, separator), counting)
    for prefix, path in files.items():
        for block in read_fragments(path):
            counter.add(block, prefix)
    counter.check(list(files), kept="left out" if least else "empty")
    counts = counter.counts()
    names = pd.Index(list(counter.rows), dtype=object)
    kept = np.flatnonzero(counter.n_fragments >= least)
    if not len(kept):
        most = int(counter.n_fragments.argmax())
        msg = (
            f"None of the {len(names):,} barcodes has {least:,} fragments (`min_fragments`): the most, {counter.n_fragments[most]:,}, has "
            f"{names[most]!r}. Lower it, or name the cells with `barcodes=`."
        )
        raise ValueError(msg)
    if barcodes is None:
        kept = kept[np.argsort(names[kept])]  # by name, whatever the order of the lines
    n_fragments, n_in_peaks = counter.n_fragments[kept], counter.n_in_peaks[kept]
    obs = pd.DataFrame({"n_fragments": n_fragments}, index=names[kept])
    obs["fraction_in_peaks"] = np.where(n_fragments > 0, n_in_peaks / np.maximum(n_fragments, 1), np.nan)
    if isinstance(fragments, Mapping):
        prefix = pd.Series("", index=obs.index, dtype=object)
        for name in files:
            prefix[obs.index.str.startswith(name)] = name
        obs["sample"] = pd.Categorical(prefix.str.removesuffix(separator), [str(sample) for sample in fragments])
        obs["barcode"] = [name[len(start) :] for name, start in prefix.items()]
    atac = AnnData(counts[kept].astype(np.float32), obs=obs, var=vocabulary.intervals.set_axis(vocabulary.names))
    paths = [str(path) for path in files.values()]
    report = {"files": paths, "counting": counting, "genome": vocabulary.genome, "n_fragments": counter.n_lines}
    report |= {
        "in_cells": int(n_fragments.sum()),
        "in_peaks": int(n_in_peaks.sum()),
        "unknown_contigs": counter.n_unknown,
    }
    atac.uns[Keys().fragments] = report
    if len(paths) == 1:
        atac.uns["files"] = {"fragments": paths[0]}
    return atac


def _vocabulary(peaks: Peaks) -> PeakVocabulary:
    """The peaks that the user means."""
    if isinstance(peaks, pd.DataFrame):
        peaks = PeakVocabulary.from_var(peaks)
    elif isinstance(peaks, str | Path) and Path(peaks).is_file():
        peaks = PeakVocabulary.read_bed(peaks)
    elif peaks is None or isinstance(peaks, str | Path | EpiFoundation):
        peaks = resolve_model(peaks, None).peaks
    if isinstance(peaks, PeakVocabulary):
        if len(peaks):
            return peaks
        msg = "`peaks` is empty."
        raise ValueError(msg)
    msg = f"`peaks` must be a model, its name or path, a BED file, a PeakVocabulary or a table, got {type(peaks).__name__}."
    raise TypeError(msg)


def _by_prefix(fragments: Any, separator: str) -> dict[str, Path]:
    """The file of each sample, by what the names of its cells begin with."""
    if isinstance(fragments, str | Path):
        return {"": check_file(Path(fragments))}
    if not isinstance(fragments, Mapping) or not fragments:
        msg = f"`fragments` must be a path, or a mapping from sample names to paths such as {{'donor1': 'fragments.tsv.gz'}}, got {fragments!r}."
        raise TypeError(msg)
    files = {f"{sample}{separator}": check_file(Path(path)) for sample, path in fragments.items()}
    if len(files) < len(fragments):
        msg = f"Names of samples must differ as text, got {list(fragments)}."
        raise ValueError(msg)
    for one in files:
        for other in files:
            if one != other and other.startswith(one):
                msg = f"Cells of the samples {one!r} and {other!r} could not be told apart: choose another `separator`."
                raise ValueError(msg)
    return files


def _names(barcodes: Any, files: dict[str, Path], separator: str) -> pd.Index | None:
    """Names of the cells that are asked for; None is all."""
    if barcodes is None:
        return None
    if isinstance(barcodes, Mapping):
        given = {f"{sample}{separator}": part for sample, part in barcodes.items()}
        if set(given) != set(files):
            msg = f"`barcodes` names the samples {sorted(given)}, `fragments` {sorted(files)}."
            raise ValueError(msg)
        listed = [prefix + name for prefix, part in given.items() for name in _read_barcodes(part)]
    else:
        listed = _read_barcodes(barcodes)
    names = pd.Index(listed, dtype=object)
    if not len(names):
        msg = "`barcodes` is empty."
        raise ValueError(msg)
    check_unique(names, "barcodes", "drop the copies")
    stray = names[~names.str.startswith(tuple(files))]
    if len(stray):
        msg = f"{len(stray):,} of {len(names):,} barcodes begin with no sample name, first {stray[0]!r}; expected one of {list(files)}."
        raise ValueError(msg)
    return names


def _read_barcodes(barcodes: Iterable[str] | str | Path) -> list[str]:
    if isinstance(barcodes, pd.DataFrame):  # obs
        barcodes = barcodes.index
    if not isinstance(barcodes, str | Path):
        return [name.decode() if isinstance(name, bytes) else str(name) for name in barcodes]
    if not Path(barcodes).is_file():
        msg = f"`barcodes` is a list of names or a file with one a line; the file {str(barcodes)!r} is not there."
        raise FileNotFoundError(msg)
    return [name for (name,) in read_columns(barcodes, 1)]
