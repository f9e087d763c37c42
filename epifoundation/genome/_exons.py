"""Exons of genes, from GTF, GFF3, BED12 or an annotation by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from .._files import read_columns, read_lines
from ._builds import canonical_build
from ._genes import gene_name, normalized_strands
from ._intervals import COLUMNS, parse_intervals, read_intervals
from ._named import RELEASES, fetch, is_name

FEATURES = ("exon", "CDS")
_ID = re.compile(r"(?:^|;)\s*ID=([^;]+)")
_PARENT = re.compile(r"(?:^|;)\s*Parent=([^;,]+)")


def read_exons(source: str | Path, *, region: str | None = None) -> pd.DataFrame:
    """Read the exons of genes: the union over the transcripts of each gene.

    Parameters
    ----------
    source
        A GTF or GFF3 file (lines of the features ``exon`` and ``CDS``; genes are named as by
        :func:`read_genes`), a BED12 file (names in column 4, coding between ``thickStart`` and
        ``thickEnd``), plain or gzip; or the name of an annotation, as for :func:`read_genes`.
    region
        Region such as ``"chr1:1000-500000"``; exons that do not overlap it are left out. If None,
        all are read, which takes up to a minute for a whole genome.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), ``strand`` and ``feature``
    (``"exon"``, or ``"CDS"`` for the coding parts of exons), indexed by gene; intervals of a gene
    and feature do not overlap. Empty if a BED file has fewer than 12 columns.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ConnectionError
        An annotation by name could not be downloaded.
    ValueError
        The file is of another format, or the name is unknown.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import epifoundation as ep
    >>> fields = ["chr1", 0, 90, "SPI1", 0, "-", 20, 70, 0, 2, "30,20", "0,70"]
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "genes.bed"
    ...     _ = path.write_text(chr(9).join(map(str, fields)))
    ...     ep.genome.read_exons(path)
         chrom  start  end strand feature
    SPI1  chr1     20   30      -     CDS
    SPI1  chr1      0   30      -    exon
    SPI1  chr1     70   90      -    exon
    """
    if not isinstance(source, str | Path):
        msg = (
            f"`source` must be a GTF, GFF3 or BED12 file or a name such as 'hg38', got {source!r}."
        )
        raise TypeError(msg)
    shown = None if region is None else _place(region)
    path = Path(source)
    if is_name(source):
        build = canonical_build(str(source))
        if build not in RELEASES:
            msg = f"{str(source)!r} is neither a file nor the name of an annotation; available: "
            msg += f"{list(RELEASES)}."
            raise ValueError(msg)
        path = fetch(RELEASES[build])
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    is_gtf = name.endswith((".gtf", ".gff", ".gff3"))
    rows = list(_of_gtf(path, shown) if is_gtf else _of_bed(path))
    columns = ["gene", *COLUMNS, "strand", "feature"]
    table = pd.DataFrame(rows, columns=columns) if rows else pd.DataFrame(columns=columns)
    table[COLUMNS] = read_intervals(table[COLUMNS]) if rows else table[COLUMNS]
    if shown is not None:
        is_here = (table["chrom"] == shown["chrom"]) & (table["end"] > shown["start"])
        table = table[is_here & (table["start"] < shown["end"])]
    table = _union(table.reset_index(drop=True)).set_index("gene")
    table.index.name = None
    return table


def _place(region: str) -> pd.Series:
    try:
        return parse_intervals([region]).iloc[0]
    except ValueError as error:
        msg = "`region` must be a region such as 'chr1:1000-500000', with a start before its end, "
        msg += f"got {region!r}."
        raise ValueError(msg) from error


def _of_gtf(path: Path, shown: pd.Series | None) -> Iterator[tuple[str, ...]]:
    """Gene, interval, strand and feature of each exon."""
    if not path.is_file():
        msg = f"The file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    chroms: set[str] | None = None
    if shown is not None:  # names of files may lack the prefix
        bare = shown["chrom"].removeprefix("chr")
        chroms = {shown["chrom"], bare, bare.replace("M", "MT")}
    names: dict[str, str] = {}  # of genes, by the ID of the gene or of a transcript
    found = []
    for line in read_lines(path):
        if line.startswith("#") or (chroms is not None and line.split("\t", 1)[0] not in chroms):
            continue
        fields = line.split("\t")
        if len(fields) < 9:
            continue
        attributes, parent = fields[8], _PARENT.search(fields[8])
        if fields[2] in FEATURES:
            first = str(int(fields[3]) - 1) if fields[3].isdecimal() else fields[3]  # 1-based
            row = (fields[0], first, fields[4], fields[6], fields[2])
            found.append((attributes, parent[1] if parent else None, row))
        elif identity := _ID.search(attributes):
            above = names.get(parent[1]) if parent else None
            names[identity[1]] = above or gene_name(attributes) or ""
    for attributes, above, row in found:
        # Exons of GFF3 may have names of their own, those of GTF have that of the gene
        gene = names.get(above or "") or gene_name(attributes)
        if gene:
            yield (gene, *row)


def _of_bed(path: Path) -> Iterator[tuple[str, ...]]:
    """Gene, interval, strand and feature of each block of a BED12 file."""
    for row in read_columns(path, 4, at_most=12):
        if len(row) < 12:
            return
        sizes, starts = (_numbers(row[i], path) for i in (10, 11))
        left, *thick = (_numbers(row[i], path)[0] for i in (1, 6, 7))
        for size, start in zip(sizes, starts, strict=False):
            first, last = left + start, left + start + size
            yield (row[3], row[0], str(first), str(last), row[5], "exon")
            low, high = max(first, thick[0]), min(last, thick[1])
            if high > low:
                yield (row[3], row[0], str(low), str(high), row[5], "CDS")


def _numbers(text: str, path: Path) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not parts or not all(part.isdecimal() for part in parts):
        msg = f"{str(path)!r} is not a BED12 file: expected numbers separated by commas, got "
        msg += f"{text[:80]!r}."
        raise ValueError(msg)
    return list(map(int, parts))


def _union(table: pd.DataFrame) -> pd.DataFrame:
    """Merge overlapping intervals of a gene and feature."""
    keys = ["gene", "chrom", "strand", "feature"]
    table["strand"] = normalized_strands(table["strand"])
    table = table.sort_values([*keys, "start"], ignore_index=True)
    rows: list[list] = []
    for row in _records(table, [*keys, "start", "end"]):
        if rows and rows[-1][:4] == row[:4] and row[4] <= rows[-1][5]:
            rows[-1][5] = max(rows[-1][5], row[5])
        else:
            rows.append(row)
    merged = pd.DataFrame(rows, columns=[*keys, "start", "end"])
    return merged[["gene", *COLUMNS, "strand", "feature"]]


def _records(table: pd.DataFrame, columns: list[str]) -> Iterable[list]:
    return map(list, zip(*(table[column].tolist() for column in columns), strict=True))
