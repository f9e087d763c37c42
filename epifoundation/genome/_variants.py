"""Read variants from VCF, BED, text tables and data frames."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .._file_kinds import check_text
from .._files import read_columns, read_lines
from ._alleles import check_alleles, check_lengths, is_symbolic
from ._intervals import with_prefix
from ._vcf_header import build_of_header

COLUMNS = ["chrom", "start", "end", "id", "ref", "alt"]
ALIASES = {  # names of columns, in lower case
    "chrom": ("chrom", "#chrom", "chr", "#chr", "chromosome", "seqnames", "contig"),
    "pos": ("pos", "position", "bp", "base_pair_location"),
    "start": ("start", "chromstart"),
    "end": ("end", "chromend", "stop"),
    "id": ("id", "rsid", "rs_id", "snp", "snpid", "variant_id", "name"),
    "ref": ("ref", "reference", "ref_allele"),
    "alt": ("alt", "alternate", "alt_allele"),
}
EXPECTED = (
    "`chrom` and `pos` (1-based), or `chrom`, `start` and `end` (0-based, half-open), and if known "
    "`id`, `ref` and `alt`"
)
MISSING = ("", ".", "na", "nan", "none", "<na>")
NOT_VARIANTS = ("<NON_REF>", "<*>")  # of gVCF: any other allele
_RSID = re.compile(r"rs\d+", re.IGNORECASE)
_ACCESSION = re.compile(r"NC_0000(\d\d)\.\d+|(NC_012920)\.\d+")  # as dbSNP names chromosomes


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
        found = Variants(_from_table(source, "The table of variants"))
    elif isinstance(source, str | Path):
        found = _from_file(Path(source))
    else:
        only_ids = isinstance(source, Sequence) and all(_is_rsid(one) for one in source)
        hint = f" {_no_lookup()}" if only_ids and len(source) else ""
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
        if _is_rsid(str(path)):
            msg = f"`variants={str(path)!r}` is not a file. {_no_lookup()}"
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
    return Variants(_from_table(table, repr(str(path))))


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
    found = _from_table(table, repr(str(path)))
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
        _find_columns(pd.DataFrame(columns=names), repr(str(path)))  # it may be no such table
        msg = f"{str(path)!r}: row {wrong + 1:,} has {len(rows[wrong])} fields, the header "
        msg += f"{len(names)}: {str(rows[wrong])[:80]}."
        raise ValueError(msg)
    return pd.DataFrame(rows, columns=names, dtype=object)


def _from_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The columns of `Variants` from a table with other names of columns."""
    columns = _find_columns(frame, name)
    index = frame.index
    texts = {key: _texts(frame[columns[key]]) for key in ("id", "ref", "alt") if key in columns}
    chrom = _chromosomes(_texts(frame[columns["chrom"]]))
    if "pos" in columns:
        start = _numbers(frame[columns["pos"]]) - 1
        end = start + 1
    else:
        start, end = (_numbers(frame[columns[side]]) for side in ("start", "end"))
    found = pd.DataFrame({"chrom": chrom, "start": start, "end": end}, index=index)
    for key in ("id", "ref", "alt"):
        found[key] = texts.get(key, np.full(len(frame), None, dtype=object))
    _check_positions(found, name)
    found[["start", "end"]] = found[["start", "end"]].astype(np.int64)
    check_alleles(found, name)
    bases = found["ref"].map(len, na_action="ignore").fillna(1).to_numpy(np.int64)
    if "pos" in columns:
        found["end"] = found["start"] + np.maximum(bases, 1)
    else:
        check_lengths(found, bases, name)
    # Between two bases: at the one before, as in VCF
    between = (found["start"] == found["end"]).to_numpy()
    found.loc[between, "start"] = np.maximum(found["start"] - 1, 0)[between]
    found.loc[between, "end"] = found["start"][between] + 1
    return found[COLUMNS]


def _find_columns(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """The column of `frame` for each of ``ALIASES`` that it has."""
    lower = [str(each).strip().lower() for each in frame.columns]
    columns = {}
    for key, aliases in ALIASES.items():
        places = [lower.index(alias) for alias in aliases if alias in lower]
        if places:
            columns[key] = frame.columns[places[0]]
            if list(frame.columns).count(columns[key]) > 1:
                msg = f"{name} has several columns {columns[key]!r}: rename or drop the copies."
                raise ValueError(msg)
    if "chrom" in columns and ("pos" in columns or {"start", "end"} <= set(columns)):
        return columns
    ids = frame[columns["id"]] if "id" in columns else pd.Series(frame.index)
    hint = f" {_no_lookup()}" if len(ids) and _is_rsid(ids.iloc[0]) else ""
    msg = f"{name} has no positions: expected the columns {EXPECTED}; available: "
    msg += f"{list(map(str, frame.columns))[:12]}.{hint}"
    raise ValueError(msg)


def _check_positions(table: pd.DataFrame, name: str) -> None:
    """Raise ValueError unless each variant has a chromosome and a valid position."""
    start, end = table["start"], table["end"]
    missing = (table["chrom"].isna() | start.isna() | end.isna()).to_numpy()
    valid = (start % 1 == 0) & (end % 1 == 0) & (start >= 0) & (end >= start) & (end < 2**53)
    for wrong, what, cure in (
        (missing, "have no chromosome, or no position that is a number", "Drop or complete them"),
        (~valid.to_numpy(), "have a position that is none",
         "Expected whole numbers: `pos` from 1 on, or `start` from 0 on and not after `end`"),
    ):  # fmt: skip
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            chrom, at, name_of = (table[key].iloc[i] for key in ("chrom", "start", "id"))
            shown = f"{chrom}:{at + 1:.0f}" if pd.notna(at) else f"on {chrom}"
            shown += f", {name_of}" if pd.notna(name_of) else ""
            msg = f"{name}: {int(wrong.sum()):,} of {len(table):,} variants {what}, first in row "
            msg += f"{i + 1:,} ({shown}). {cure}."
            raise ValueError(msg)


def describe(table: pd.DataFrame, i: int) -> str:
    """A variant in an error: its name and position."""
    chrom, start, name = (table[key].iloc[i] for key in ("chrom", "start", "id"))
    return f"{chrom}:{start + 1:,}" + (f" ({name})" if isinstance(name, str) else "")


def _chromosomes(values: np.ndarray) -> np.ndarray:
    """Names with ``chr``; accessions of the human chromosomes by their number."""
    codes, names = pd.factorize(values)
    known = {"23": "X", "24": "Y"}
    full = []
    for name in (re.sub(r"^(\d+)\.0$", r"\1", each) for each in names):  # numbers may be floats
        match = _ACCESSION.fullmatch(name)
        number = "" if match is None else "MT" if match[2] else str(int(match[1]))
        full.append(known.get(number, number) or name)
    prefixed = with_prefix(pd.Series(full, dtype=object)).to_numpy()
    return np.array([*prefixed, None], dtype=object)[codes]


def _texts(column: pd.Series) -> np.ndarray:
    """Text without blanks around it; None where it is missing."""
    try:
        codes, values = pd.factorize(column.astype(object))  # -1 where missing
    except TypeError as error:
        msg = f"The column {column.name!r} of `variants` must be text or numbers: {error}."
        raise TypeError(msg) from error
    texts = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in values]
    texts = [one.strip() for one in texts]
    known = [None if one.lower() in MISSING else one for one in texts]
    return np.array([*known, None], dtype=object)[codes]


def _numbers(column: pd.Series) -> np.ndarray:
    """Numbers as float64, which is exact up to 2^53; NaN where there is none."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf":
        return column.to_numpy(np.float64)
    texts = column.astype(object).map(
        lambda one: one.replace(",", "") if isinstance(one, str) else one
    )
    return pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _is_rsid(value: object) -> bool:
    return isinstance(value, str) and _RSID.fullmatch(value.strip()) is not None


def _no_lookup() -> str:
    return (
        "rsIDs alone are not looked up, as no network is used: add their positions, for example "
        "from the VCF of dbSNP or from Ensembl BioMart."
    )
