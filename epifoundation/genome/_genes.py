"""Positions of genes, from GTF, BED or the table of an RNA modality."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from .._files import read_columns
from ._intervals import COLUMNS, parse_intervals, read_intervals
from ._named import is_name, named_genes

STRANDS = ("+", "-", ".")
NAME_KEYS = ("gene_name", "Name", "gene_id")  # attributes with the name of a gene
# Of GTF, `key "value";`, or GFF3, `key=value;`: quoted, with any `;`, or up to the next `;`
_ATTRIBUTE = re.compile(
    r"""(?:^|;)\s*([^\s=;"]+)(\s*=\s*|\s+)(?:"((?:[^"\\]|\\.)*)"\s*(?=;|$)|([^;]*))"""
)


def read_genes(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Read the positions of genes.

    Parameters
    ----------
    source
        A GTF or GFF3 file (lines of the feature ``gene``, named by ``gene_name``, else ``Name``,
        else ``gene_id``) or a BED file with names in column 4 and strands in column 5 or 6; plain
        or gzip. Or a table indexed by gene with columns ``chrom``, ``start``, ``end`` and, if
        known, ``strand``, or with a column ``interval`` as 10x writes it; genes without a position
        are dropped. Or ``"hg38"``, ``"hg19"``, ``"mm10"`` or ``"mm39"``: the genes of GENCODE v41,
        v19, M25 or M30, downloaded once into ``settings.cache_dir`` and checked by their sha256. A
        file of this name goes first.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open) and ``strand`` (``+``, ``-``, or
    ``.`` if unknown), indexed by name. Of several positions of a name, the longest is kept; of
    GENCODE, a protein-coding gene before others.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ConnectionError
        An annotation by name could not be downloaded.
    ValueError
        The file is not GTF, GFF3 or BED with names, the table has no positions, the name is
        unknown, or a downloaded file has a wrong checksum.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(20, 300, 3)
    >>> list(ep.genome.read_genes(mdata["rna"].var).columns)
    ['chrom', 'start', 'end', 'strand']
    """
    if is_name(source):
        return named_genes(str(source))
    if isinstance(source, pd.DataFrame):
        genes = _from_table(source)
    else:
        name = Path(source).name.lower().removesuffix(".gz").removesuffix(".bgz")
        is_gtf = name.endswith((".gtf", ".gff", ".gff3"))
        genes = _from_gtf(source) if is_gtf else _from_bed(source)
    if not len(genes):
        name = "The table" if isinstance(source, pd.DataFrame) else repr(str(source))
        msg = f"{name} has no gene with a position."
        raise ValueError(msg)
    length = (genes["end"] - genes["start"]).to_numpy()
    longest = np.zeros(len(genes), dtype=bool)
    order = np.argsort(-length, kind="stable")
    longest[order[~genes.index[order].duplicated()]] = True
    return genes[longest]


def transcription_start(genes: pd.DataFrame) -> np.ndarray:
    """Position of the transcription start site of each gene.

    Parameters
    ----------
    genes
        As returned by :func:`read_genes`.

    Returns
    -------
    The first base on the strand of the gene, (n_genes,); the middle of the interval if the strand
    is unknown, since 10x writes intervals around the site.

    Examples
    --------
    >>> import pandas as pd
    >>> import epifoundation as ep
    >>> genes = pd.DataFrame({"chrom": "chr1", "start": 100, "end": 200, "strand": ["+", "-", "."]})
    >>> ep.genome.transcription_start(genes).tolist()
    [100, 199, 149]
    """
    start, last = genes["start"].to_numpy(np.int64), genes["end"].to_numpy(np.int64) - 1
    strand = genes["strand"].to_numpy()
    return np.select([strand == "+", strand == "-"], [start, last], (start + last) // 2)


def _from_table(frame: pd.DataFrame) -> pd.DataFrame:
    if set(COLUMNS) <= set(frame.columns):
        has_position = frame[COLUMNS].notna().all(axis=1).to_numpy()
    elif "interval" in frame.columns:
        # 10x writes NA for genes without a position
        has_position = frame["interval"].astype(str).str.contains(r"\d-\d|\d_\d").to_numpy()
    else:
        msg = (
            f"The table of genes has no positions: expected the columns {COLUMNS} (and 'strand'), "
            f"or 'interval' as 10x writes it; available: {list(frame.columns)}. "
            "Pass a GTF or BED file of the genome build."
        )
        raise ValueError(msg)
    kept = frame[has_position]
    has_columns = set(COLUMNS) <= set(frame.columns)
    intervals = read_intervals(kept) if has_columns else parse_intervals(kept["interval"])
    strand = kept["strand"].astype(str) if "strand" in kept.columns else ["."] * len(kept)
    return _table(intervals, kept.index, np.array(strand, dtype=object))


def _from_bed(path: str | Path) -> pd.DataFrame:
    rows = read_columns(path, 4, at_most=6)
    table = pd.DataFrame([row[:3] for row in rows], columns=COLUMNS)
    # BED has a score before the strand, which tables of genes often lack
    strands = [next((field for field in row[4:][::-1] if field in STRANDS), ".") for row in rows]
    names = pd.Index([row[3] for row in rows], dtype=object)
    return _table(read_intervals(table), names, np.array(strands, dtype=object))


def _from_gtf(path: str | Path) -> pd.DataFrame:
    rows = [row for row in read_columns(path, 9) if row[2] == "gene"]
    if not rows:
        msg = f"{str(path)!r} has no lines of the feature 'gene'."
        raise ValueError(msg)
    frame = pd.DataFrame(rows)
    names = pd.Series([gene_name(attributes) for attributes in frame[8]], dtype=object)
    if names.isna().any():
        line = frame[8][names.isna()].iloc[0][:80]
        msg = f"{str(path)!r}: a gene has none of {list(NAME_KEYS)}: {line!r}."
        raise ValueError(msg)
    first = pd.to_numeric(frame[3], errors="coerce") - 1  # 1-based
    table = pd.DataFrame({"chrom": frame[0], "start": first, "end": frame[4]})
    index = pd.Index(names.to_numpy(), dtype=object)
    return _table(read_intervals(table), index, frame[6].to_numpy())


def gene_name(attributes: str) -> str | None:
    """The value of the first of ``NAME_KEYS`` that is not empty."""
    found: dict[str, str] = {}
    for key, separator, quoted, bare in _ATTRIBUTE.findall(attributes):
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
        value = unquote(value) if "=" in separator else value  # GFF3 writes ; as %3B
        if value.strip():
            found.setdefault(key, value.strip())
    return next((found[key] for key in NAME_KEYS if key in found), None)


def _table(intervals: pd.DataFrame, names: pd.Index, strand: np.ndarray) -> pd.DataFrame:
    known = pd.Series(normalized_strands(strand), dtype=object)
    frame = intervals.assign(strand=known).set_index(names.astype(str))
    frame.index.name = None
    return frame


def normalized_strands(strand: Iterable[object]) -> np.ndarray:
    """Strands as ``+``, ``-``, or ``.`` if unknown."""
    signs = {"1": "+", "+1": "+", "1.0": "+", "-1": "-", "-1.0": "-"}  # Ensembl
    names = [signs.get(str(one), str(one)) for one in strand]
    return np.array([name if name in STRANDS else "." for name in names], dtype=object)
