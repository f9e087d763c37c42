"""``ep.pp.group_coverage``: tracks of groups of cells for genome browsers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from tqdm import tqdm

from .._option_types import checked
from .._settings import settings
from .._validate import integer, one_of
from .._warn import warn
from ..genome import Axis, read_intervals
from ..genome._chromosome_sizes import read_chromosome_sizes
from ..peaks.bed import read_bed
from ._bedgraph import BedGraphWriter
from ._bigwig import MAX_CONTIGS, BigWigWriter
from ._count_fragments import files_by_prefix
from ._coverage_counter import CoverageCounter
from ._fragment_counter import Counting
from ._read_barcodes import check_found
from ._read_fragments import read_fragments
from ._read_groups import read_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

Normalization = Literal["CPM", "RPKM", "BPM"]
TrackFormat = Literal["bigwig", "bedgraph", "bedgraph.gz"]
SUFFIXES = {"bigwig": ".bw", "bedgraph": ".bedgraph", "bedgraph.gz": ".bedgraph.gz"}
MAX_SMOOTH = 1000  # bins
MAX_NAME = 60  # characters of the name of a file; of up to four bytes each


@checked
def group_coverage(
    fragments: str | Path | Mapping[str, str | Path],
    groups: pd.Series | Mapping[str, Any] | str | Path,
    *,
    genome: str | Path | Mapping[str, int],
    directory: str | Path,
    bin_size: int = 10,
    counting: Counting = "insertion",
    normalization: Normalization | None = "CPM",
    smooth: int | None = None,
    blacklist: str | Path | pd.DataFrame | None = None,
    format: TrackFormat = "bigwig",  # noqa: A002
    separator: str = "_",
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write the coverage of groups of cells as tracks for genome browsers, one file per group.

    The fragments file is read once from start to end; it needs no index (tabix) and no sorting.
    Memory depends neither on its size nor on the number of groups: sums are sorted in temporary
    files in `directory`, up to 16 bytes per cut, which are deleted at the end. Each line counts
    once: the fifth column (number of reads) is ignored.

    Parameters
    ----------
    fragments
        A fragments file (``fragments.tsv.gz``), sorted or not, or a mapping from sample names to
        files; as for :func:`epifoundation.pp.count_fragments`.
    groups
        The group of each cell: a column of ``obs`` such as ``adata.obs["cell_type"]``, a mapping
        from barcodes to groups or from groups to barcodes, or a file with barcodes and groups in
        the first two columns. Cells without a group are left out. For several samples, barcodes
        have the prefix of their sample.
    genome
        Lengths of the chromosomes: the name of a build (``"hg38"``, ``"hg19"``, ``"hs1"``,
        ``"mm10"``, ``"mm39"``, ``"mm9"``), a mapping, or a ``chrom.sizes`` file. Fragments on other
        contigs are left out.
    directory
        Folder for the files, which is made if it does not exist.
    bin_size
        Length of the bins in bases.
    counting
        ``"insertion"``: number of cuts in the bin, two per fragment, at its first and its last
        base. ``"fragment"``: number of fragments that overlap the bin.
    normalization
        ``"CPM"``: per million of the cuts or fragments of the group. ``"RPKM"``: also per 1,000
        bases of a bin. ``"BPM"``: per million of the sum over all bins of the group. None: counts.
    smooth
        Length in bases of a window around each bin whose mean is the value of the bin, rounded to
        an odd number of bins. If None, bins are not smoothed.
    blacklist
        Regions, as a BED file or a table: cuts in them, or fragments that overlap them, are not
        counted.
    format
        ``"bigwig"``, ``"bedgraph"`` or ``"bedgraph.gz"``.
    separator
        Joins sample and barcode in the names of the cells.
    overwrite
        Replace existing files, once all are complete.

    Returns
    -------
    The file of each group, in the order of the groups: its name, with other characters than
    letters, digits and ``+-._`` replaced by ``_``. Groups without a fragment have no file, and a
    warning names them.

    Raises
    ------
    FileNotFoundError, FileExistsError, PermissionError
        A file does not exist, or exists without `overwrite`; the folder cannot be written to.
    ValueError
        A line is not a fragment; no cell has a group, or none of the barcodes is in the file; or
        the fragments are of another genome build.

    See Also
    --------
    epifoundation.pl.links : draws the files at a locus.

    Examples
    --------
    >>> import tempfile
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:50].copy()
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = ep.datasets.simulate_fragments(atac, f"{folder.name}/fragments.tsv.gz")
    >>> groups = atac.obs["cell_type"]
    >>> tracks = ep.pp.group_coverage(path, groups, genome="hg38", directory=folder.name)
    >>> tracks["CD14+ Monocytes"].name
    'CD14+_Monocytes.bw'
    """
    one_of(counting, get_args(Counting), "counting")
    one_of(normalization, [*get_args(Normalization), None], "normalization")
    one_of(format, get_args(TrackFormat), "format")
    integer(bin_size, "bin_size", minimum=1)
    if smooth is not None:
        integer(smooth, "smooth", minimum=bin_size)
        if smooth > MAX_SMOOTH * bin_size:
            msg = f"`smooth` must be at most {MAX_SMOOTH:,} times `bin_size`, which is "
            msg += f"{MAX_SMOOTH * bin_size:,}, got {smooth!r}. Pass larger bins."
            raise ValueError(msg)
    files = files_by_prefix(fragments, separator)
    sizes = read_chromosome_sizes(genome)
    if format == "bigwig" and len(sizes) > MAX_CONTIGS:
        msg = f"A bigWig file has at most {MAX_CONTIGS:,} contigs, `genome` has {len(sizes):,}: "
        msg += "pass the lengths of the chromosomes, or write `format='bedgraph.gz'`."
        raise ValueError(msg)
    cells = read_groups(groups, list(files))
    names = [f"{name}{SUFFIXES[format]}" for name in _file_names(cells.names)]
    with _temporary(Path(directory), names, overwrite=overwrite) as folder:
        counter = CoverageCounter(
            cells,
            sizes,
            folder,
            bin_size=bin_size,
            counting=counting,
            smooth=smooth,
            blacklist=_axis(blacklist),
        )
        for prefix, path in files.items():
            for block in read_fragments(path):
                counter.add(block, prefix)
        counter.finish()
        _check(counter, list(files))
        scale = _scales(counter, normalization)
        written = [i for i in range(len(names)) if counter.n_counted[i]]
        progress = tqdm(written, desc="groups", unit="group", disable=not settings.progress)
        for i in progress:
            with _writer(folder / names[i], sizes, bin_size) as writer:
                for contig in range(len(sizes)):
                    for start, end, coverage in counter.intervals(i, contig):
                        writer.add(contig, start, end, coverage * scale[i])
        return {
            cells.names[i]: (folder / names[i]).replace(Path(directory) / names[i]) for i in written
        }


@contextmanager
def _temporary(directory: Path, names: list[str], *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder inside of `directory`; after an error, nothing is left of both."""
    existing = [name for name in names if (directory / name).exists()]
    if existing and not overwrite:
        msg = f"{str(directory / existing[0])!r} exists ({len(existing):,} of {len(names):,} "
        msg += "files): pass `overwrite=True` or another `directory`."
        raise FileExistsError(msg)
    folder = next((name for name in existing if (directory / name).is_dir()), None)
    if folder is not None:
        msg = f"{str(directory / folder)!r} is a folder: pass another `directory`."
        raise FileExistsError(msg)
    if directory.exists() and not directory.is_dir():
        msg = f"`directory={str(directory)!r}` is a file; pass a folder."
        raise FileExistsError(msg)
    parents = [each for each in (directory, *directory.parents) if not each.exists()]
    with ExitStack() as stack:
        for parent in reversed(parents):
            try:
                parent.mkdir()
            except OSError as error:
                msg = f"`directory={str(directory)!r}` cannot be made ({error.strerror})."
                raise type(error)(msg) from error
            stack.callback(_remove, parent)
        if not os.access(directory, os.W_OK):
            msg = f"`directory={str(directory)!r}` cannot be written to; pass another folder."
            raise PermissionError(msg)
        with TemporaryDirectory(prefix=".", dir=directory) as folder_name:
            yield Path(folder_name)
        stack.pop_all()


def _remove(folder: Path) -> None:
    """Remove a folder unless another program wrote into it."""
    with suppress(OSError):
        folder.rmdir()


def _writer(path: Path, sizes: dict[str, int], bin_size: int) -> BigWigWriter | BedGraphWriter:
    if path.suffix == SUFFIXES["bigwig"]:
        return BigWigWriter(path, sizes, bin_size)
    return BedGraphWriter(path, sizes)


def _scales(counter: CoverageCounter, normalization: str | None) -> np.ndarray:
    """What the coverage of each group is multiplied by."""
    window = 2 * counter.n_beside + 1
    if normalization is None:
        return np.full(len(counter.n_counted), 1 / window)
    total = counter.n_binned if normalization == "BPM" else counter.n_counted
    per = counter.bin_size / 1000 if normalization == "RPKM" else 1
    return 1e6 / (np.maximum(total, 1) * per * window)


def _axis(blacklist: str | Path | pd.DataFrame | None) -> Axis | None:
    if blacklist is None:
        return None
    is_table = isinstance(blacklist, pd.DataFrame)
    regions = read_intervals(blacklist if is_table else read_bed(blacklist))
    return Axis(regions) if len(regions) else None


def _file_names(groups: list[str]) -> list[str]:
    """Names of files, different also where upper and lower case are the same."""
    names: dict[str, None] = {}
    for group in groups:
        name = re.sub(r"[^\w+.-]+", "_", group)[:MAX_NAME].lstrip(".") or "group"
        taken, unique, i = {each.lower() for each in names}, name, 2
        while unique.lower() in taken:
            unique, i = f"{name}_{i}", i + 1
        names[unique] = None
    return list(names)


def _check(counter: CoverageCounter, prefixes: list[str]) -> None:
    """Raise ValueError if nothing was counted; warn of cells and groups without fragments."""
    groups = counter.groups
    missing = check_found(groups.cells, counter.is_found, counter.first, prefixes)
    if not counter.n_counted.any():
        msg = f"None of the {counter.n_lines:,} fragments was counted"
        if counter.n_unknown:
            msg += f"; {counter.n_unknown:,} are on contigs that `genome` lacks: "
            msg += f"{list(counter.contigs)[:3]}, it has {list(counter.chroms[:3])}. Pass the "
            msg += "build that the fragments were aligned to."
        else:
            msg += ": all those of cells with a group are in the regions of `blacklist`."
        raise ValueError(msg)
    if len(missing):
        msg = f"{len(missing):,} of {len(groups.cells):,} barcodes have no fragment, "
        msg += f"first {missing[0]!r}."
        warn(msg)
    empty = [name for name, n in zip(groups.names, counter.n_counted, strict=True) if not n]
    if empty:
        warn(f"Groups without a fragment have no file: {empty}.")
