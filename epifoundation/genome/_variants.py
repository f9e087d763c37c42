"""Read variants from VCF, BED, text tables and data frames."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .._file_kinds import check_text
from .._files import read_columns, read_lines
from ._alleles import is_symbolic
from ._variant_table import EXPECTED, describe, find_columns, is_rsid, no_lookup, variant_columns
from ._vcf_header import build_of_header

NOT_VARIANTS = ("<NON_REF>", "<*>")  # of gVCF: any other allele


class Variants(NamedTuple):
    """Variants, and the genome build that their file names.

    Parameters
    ----------
    table
        Columns ``chrom``, ``start``, ``end`` (0-based, half-open), ``id``, ``ref``, ``alt``; NaN
        where there is no value. A row for each allele, indexed as the input.
    build
        One of ``BUILDS``; None if the file names none.
    evidence
        Where the file names it.
    """

    table: pd.DataFrame
    build: str | None = None
    evidence: str = ""


def read_variants(source: str | Path | pd.DataFrame) -> Variants:
    """Variants of a VCF, BED, TSV or CSV file, plain, gzip or bgzip, or of a table.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        There are no variants, or no positions; or a position or allele is not valid.
    TypeError
        The source is neither a path nor a table.
    """
    if isinstance(source, pd.DataFrame):
        found = Variants(variant_columns(source, "The table of variants"))
    elif isinstance(source, str | Path):
        found = _from_file(Path(source))
    else:
        only_ids = isinstance(source, Sequence) and all(is_rsid(one) for one in source)
        hint = f" {no_lookup()}" if only_ids and len(source) else ""
        msg = "`variants` must be the path of a VCF, BED, TSV or CSV file, or a table with "
        msg += f"{EXPECTED}; got {type(source).__name__}.{hint}"
        raise TypeError(msg)
    if not len(found.table):
        name = "The table" if isinstance(source, pd.DataFrame) else repr(str(source))
        msg = f"{name} has no variants: it is empty, or has a header alone."
        raise ValueError(msg)
    return found


def _from_file(path: Path) -> Variants:
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:  # no file can have this path
        msg = f"`variants` cannot be the path of a file ({error})."
        raise ValueError(msg) from error
    if not is_file:
        if is_rsid(str(path)):
            msg = f"`variants={str(path)!r}` is not a file. {no_lookup()}"
            raise ValueError(msg)
        msg = f"The file {str(path)!r} {'is a folder' if is_folder else 'does not exist'}; "
        msg += "`variants` must be the path of a VCF, BED, TSV or CSV file, or a table."
        raise FileNotFoundError(msg)
    check_text(path, "a table of variants")
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    first = next(read_lines(path), "")
    if name.endswith(".vcf") or first.startswith("##fileformat=VCF"):
        return _from_vcf(path)
    if name.endswith(".bed"):
        rows = [[*row, ""][:4] for row in read_columns(path, 3, at_most=4)]
        table = pd.DataFrame(rows, columns=["chrom", "start", "end", "id"], dtype=object)
    else:
        table = _read_text_table(path)
    return Variants(variant_columns(table, repr(str(path))))


def _from_vcf(path: Path) -> Variants:
    """A row for each alternative allele, indexed by the number of the record."""
    header: list[str] = []
    infos: dict[int, dict[str, str]] = {}
    # Lists of text: a list for each of millions of lines takes several times as long
    columns: dict[str, list[str]] = {name: [] for name in ("chrom", "pos", "id", "ref", "alt")}
    chroms, positions, ids, refs, alts = columns.values()
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith("#"):
            header.append(line)
            continue
        fields = line.split("\t", 8)
        if len(fields) < 5:
            if not line.strip():
                continue
            msg = f"{str(path)!r}, line {number:,}: {len(fields)} of at least 5 tab-separated "
            msg += f"columns (CHROM, POS, ID, REF, ALT), in {line[:80]!r}."
            raise ValueError(msg)
        if len(fields) > 7 and ("END=" in fields[7] or "<" in fields[4]):
            infos[len(alts)] = dict(part.partition("=")[::2] for part in fields[7].split(";"))
        chroms.append(fields[0])
        positions.append(fields[1])
        ids.append(fields[2])
        refs.append(fields[3])
        alts.append(fields[4])
    table = pd.DataFrame(columns, dtype=object)
    n_alleles = [alt.count(",") + 1 for alt in alts]
    table = table.iloc[np.repeat(np.arange(len(alts)), n_alleles)]
    table["alt"] = np.array([each for alt in alts for each in alt.split(",")], dtype=object)
    table = table[~table["alt"].isin(NOT_VARIANTS).to_numpy()]
    found = variant_columns(table, repr(str(path)))
    _extend(found, infos, repr(str(path)))
    return Variants(found, *build_of_header(header))


def _extend(table: pd.DataFrame, infos: dict[int, dict[str, str]], name: str) -> None:
    """Extend symbolic alleles to their END or length; of others, check the END."""
    if not infos:
        return
    symbolic, end = is_symbolic(table["alt"]), table["end"].to_numpy(copy=True)
    for i in map(int, np.flatnonzero(table.index.isin(list(infos)))):
        info, start = infos[table.index[i]], int(table["start"].iloc[i])
        lengths = [part.lstrip("-") for part in info.get("SVLEN", "").split(",")]
        given = info.get("END", "")
        if given and not (given.isdigit() and int(given) > start):
            msg = f"{name}: END={given!r} of {describe(table, i)} is not a position from its POS "
            msg += "on: correct the field END of INFO."
            raise ValueError(msg)
        if symbolic[i] and given:
            end[i] = int(given)
        elif symbolic[i] and lengths[0].isdigit() and not table["alt"].iloc[i].startswith("<INS"):
            end[i] = start + 1 + int(lengths[0])
        elif given and int(given) != end[i] and pd.notna(table["alt"].iloc[i]):
            msg = f"{name}: {describe(table, i)} has a REF of {end[i] - start} bases, but "
            msg += f"END={given} in INFO: correct one of them."
            raise ValueError(msg)
    table["end"] = end


def _read_text_table(path: Path) -> pd.DataFrame:
    """A table of text with a header, separated by tabs, commas or semicolons."""
    lines = (line for line in read_lines(path) if line.strip() and not line.startswith("##"))
    header = next(lines, "")
    separator = max("\t,; ", key=header.count)
    rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=separator == " "))
    names = [one.strip() for one in next(csv.reader([header], delimiter=separator), [])]
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(names)), None)
    if wrong is not None:
        find_columns(pd.DataFrame(columns=names), repr(str(path)))  # it may be no such table
        msg = f"{str(path)!r}: row {wrong + 1:,} has {len(rows[wrong])} fields, the header "
        msg += f"{len(names)}: {str(rows[wrong])[:80]}."
        raise ValueError(msg)
    return pd.DataFrame(rows, columns=names, dtype=object)
