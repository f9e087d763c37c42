"""Signal of groups of cells in a region: from bigWig files, fragments, or open peaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from .._memory import in_memory
from .._validate import get_matrix
from ..genome import BUILDS, overlaps
from ..genome._chromosome_lengths import chromosome_lengths
from ..genome._intervals import with_prefix
from ..pp._count_fragments import files_by_prefix
from ..pp._read_barcodes import check_found
from ..pp._read_region import read_region

N_BINS = 800  # of a region
WINDOW = 1 << 20  # bases of a bigWig file in memory


class Region(NamedTuple):
    """A part of a chromosome."""

    chrom: str
    start: int
    end: int


class Signal(NamedTuple):
    """Values of groups: intervals x groups, and their unit."""

    start: np.ndarray
    end: np.ndarray
    values: pd.DataFrame
    unit: str


def signal_of_peaks(
    atac: AnnData, peaks: pd.DataFrame, groups: pd.Series, region: Region
) -> Signal:
    """Fraction of the cells of each group with an open peak."""
    values = accessibility_of(atac, peaks, groups, pd.DataFrame([region]))
    start, end = (values.index.get_level_values(side).to_numpy() for side in ("start", "end"))
    return Signal(start, end, values.reset_index(drop=True), "of cells")


def accessibility_of(
    atac: AnnData, peaks: pd.DataFrame, groups: pd.Series, regions: pd.DataFrame
) -> pd.DataFrame:
    """Fraction of cells with an open peak, peaks in the regions x groups of cells."""
    here = np.unique(overlaps(regions, peaks)[:, 1])
    matrix = get_matrix(atac, None)
    is_open = (in_memory(matrix) if atac.isbacked else matrix)[:, here] > 0
    codes, names = pd.factorize(groups.astype(str).where(groups.notna()), sort=True)
    values = {}
    for i, name in enumerate(names):
        fraction = is_open[np.flatnonzero(codes == i)].mean(axis=0)
        values[str(name)] = np.asarray(fraction, dtype=float).ravel()
    return pd.DataFrame(values, index=pd.MultiIndex.from_frame(peaks.iloc[here]))


def signal_of_fragments(fragments: Any, groups: pd.Series, region: Region) -> Signal:
    """Cuts of each group by bin, per 1,000 bases and 1,000 cells."""
    files = files_by_prefix(fragments, "_")
    known = groups[groups.notna()].astype(str)
    codes, names = pd.factorize(known, sort=True)
    cells = pd.Index(known.index.astype(str), dtype=object)
    edges = _edges(region)
    counts = np.zeros((len(edges) - 1, len(names)))
    is_found, first = np.zeros(len(cells), bool), dict.fromkeys(files, "")
    for prefix, path in files.items():
        for block in read_region(path, *region):
            first[prefix] = first[prefix] or next(iter(block.barcodes), "")
            row = cells.get_indexer(prefix + block.barcodes)
            is_found[row[row >= 0]] = True
            row = row[block.barcode]
            for cut in (block.start, block.end - 1):
                is_in = (row >= 0) & (cut >= region.start) & (cut < region.end)
                bins = np.searchsorted(edges, cut[is_in], side="right") - 1
                np.add.at(counts, (bins, codes[row[is_in]]), 1)
    if any(first.values()):  # there are fragments near
        check_found(cells, is_found, first, [prefix for prefix in files if first[prefix]])
    n_cells = np.bincount(codes, minlength=len(names))
    values = counts * 1e6 / (np.diff(edges)[:, None] * n_cells)
    unit = "cuts per kb and 1,000 cells"
    return Signal(edges[:-1], edges[1:], pd.DataFrame(values, columns=names), unit)


def signal_of_tracks(tracks: Any, region: Region, builds: list[str]) -> Signal:
    """Mean of bigWig files in bins; `builds` are those that fit the peaks."""
    if not isinstance(tracks, Mapping) or not tracks:
        msg = "`tracks` must be a mapping from names of groups to bigWig files, as "
        msg += f"`ep.pp.group_coverage` returns, got {tracks!r}."
        raise TypeError(msg)
    edges = _edges(region)
    values = {str(name): _read_bigwig(path, region, edges, builds) for name, path in tracks.items()}
    return Signal(edges[:-1], edges[1:], pd.DataFrame(values), "coverage")


def _edges(region: Region) -> np.ndarray:
    n_bins = min(N_BINS, region.end - region.start)
    return np.linspace(region.start, region.end, n_bins + 1).round().astype(np.int64)


def _read_bigwig(path: Any, region: Region, edges: np.ndarray, builds: list[str]) -> np.ndarray:
    """The mean of each bin."""
    if not isinstance(path, str | Path):
        msg = f"`tracks` must have paths of bigWig files, got {path!r}."
        raise TypeError(msg)
    with _open_bigwig(Path(path)) as file:
        lengths = dict(file.chroms())
        names = dict(zip(with_prefix(pd.Series(list(lengths))), lengths, strict=True))
        _check_build(str(path), {name: lengths[given] for name, given in names.items()}, builds)
        if region.chrom not in names:
            msg = f"{str(path)!r} has no chromosome {region.chrom}; it has {list(lengths)[:5]}. "
            msg += "Is it of another genome build or organism?"
            raise ValueError(msg)
        name = names[region.chrom]
        if region.start >= lengths[name]:
            msg = f"`region` starts at {region.start:,}, past the end of {region.chrom} at "
            msg += f"{lengths[name]:,} in {str(path)!r}."
            raise ValueError(msg)
        end = min(region.end, lengths[name])
        sums = np.zeros(len(edges) - 1)
        for start in range(region.start, end, WINDOW):
            stop = min(start + WINDOW, end)
            values = file.values(name, start, stop, fillna=0.0)
            up_to = np.append(0, np.cumsum(values, dtype=float))  # each base
            sums += np.diff(up_to[np.clip(edges, start, stop) - start])
    return sums / np.diff(edges)


def _open_bigwig(path: Path) -> Any:
    try:
        import pybigtools
    except ImportError as error:
        msg = "Reading bigWig files needs the package `pybigtools`: "
        msg += "`pip install 'epifoundation[tracks]'`."
        raise ImportError(msg) from error
    if not path.is_file():
        msg = f"The bigWig file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    try:
        file = pybigtools.open(str(path))
    except (ValueError, OSError, pybigtools.BBIReadError) as error:
        msg = f"{str(path)!r} is not a bigWig file, or is damaged: {error}."
        raise ValueError(msg) from error
    if not file.is_bigwig:
        file.close()
        msg = f"{str(path)!r} is a bigBed file; expected a bigWig file with coverage."
        raise ValueError(msg)
    return file


def _check_build(path: str, lengths: dict[str, int], builds: list[str]) -> None:
    """Raise ValueError if the lengths of chromosomes are those of another build."""
    own = [
        build
        for build in BUILDS
        if any(lengths.get(name) == n for name, n in chromosome_lengths(build).items() if n > 1e6)
    ]
    if own and builds and not set(own) & set(builds):
        msg = f"{path!r} is of {' or '.join(own)}, by the lengths of chromosomes, but the peaks "
        msg += f"fit {' or '.join(builds)}. Make it again with the build of the peaks."
        raise ValueError(msg)


def check_region(region: Region, builds: list[str]) -> None:
    """Raise ValueError if a region lies past the end of its chromosome in each possible build."""
    lengths = {build: chromosome_lengths(build) for build in builds}
    known = {
        build: table[region.chrom] for build, table in lengths.items() if region.chrom in table
    }
    if known and all(region.start >= length for length in known.values()):
        build, length = next(iter(known.items()))
        msg = f"`region` starts at {region.start:,}, past the end of {region.chrom} at {length:,} "
        msg += f"in {build}, the genome build of the peaks."
        raise ValueError(msg)
