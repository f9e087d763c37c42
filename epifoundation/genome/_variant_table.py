"""Columns of variants in a table with any names of columns, and checks of their values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from ._alleles import check_alleles, check_lengths
from ._intervals import with_prefix

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
_RSID = re.compile(r"rs\d+", re.IGNORECASE)
_ACCESSION = re.compile(r"NC_0000(\d\d)\.\d+|(NC_012920)\.\d+")  # as dbSNP names chromosomes


def variant_columns(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The columns of `Variants` from a table with other names of columns."""
    columns = find_columns(frame, name)
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


def find_columns(frame: pd.DataFrame, name: str) -> dict[str, Any]:
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
    hint = f" {no_lookup()}" if len(ids) and is_rsid(ids.iloc[0]) else ""
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


def is_rsid(value: object) -> bool:
    return isinstance(value, str) and _RSID.fullmatch(value.strip()) is not None


def no_lookup() -> str:
    return (
        "rsIDs alone are not looked up, as no network is used: add their positions, for example "
        "from the VCF of dbSNP or from Ensembl BioMart."
    )
