"""Alleles of variants: which texts are alleles, their lengths, and their reverse complement."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

BASES = re.compile(r"[ACGTN]+", re.IGNORECASE)
# `<DEL>`; `*`, an allele that another deletion removed; breakends such as `G]17:198982]` and `G.`
SYMBOLS = re.compile(
    r"<[^<>]+>|\*|[ACGTN.]*[\[\]][^\[\]]+[\[\]][ACGTN.]*|\.[ACGTN]+|[ACGTN]+\.", re.IGNORECASE
)
NOTHING = "-"  # an empty allele, as Ensembl writes insertions and deletions
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def is_symbolic(alleles: pd.Series) -> np.ndarray:
    """Whether alleles are such as ``<DEL>``."""
    return (
        alleles.astype(object)
        .map(lambda one: isinstance(one, str) and one[0] == "<")
        .to_numpy(bool)
    )


def check_alleles(table: pd.DataFrame, name: str) -> None:
    """Write bases in upper case; ValueError if a text is no allele."""
    for column in ("ref", "alt"):
        codes, alleles = pd.factorize(table[column])
        valid = [
            BASES.fullmatch(one) is not None
            or one == NOTHING
            or (column == "alt" and all(SYMBOLS.fullmatch(each) or BASES.fullmatch(each)
                                        for each in one.split(",")))
            for one in alleles
        ]  # fmt: skip
        wrong = ~np.array([*valid, True])[codes]
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            others = " or a symbol such as <DEL>" if column == "alt" else ""
            msg = (
                f"{name}: {int(wrong.sum()):,} of {len(table):,} values of {column.upper()} are no "
                f"alleles, first {str(table[column].iloc[i])[:40]!r} at {table['chrom'].iloc[i]}:"
                f"{int(table['start'].iloc[i]) + 1:,}. Expected the letters A, C, G, T and N"
                f"{others}; write '.' where it is not known."
            )
            raise ValueError(msg)
        upper = [one.upper() if BASES.fullmatch(one) else one for one in alleles]
        table[column] = np.array([*upper, None], dtype=object)[codes]


def check_lengths(table: pd.DataFrame, bases: np.ndarray, name: str) -> None:
    """Raise ValueError if a REF is not as long as its interval."""
    length = (table["end"] - table["start"]).to_numpy()
    is_known = table["ref"].notna().to_numpy() & (table["ref"] != NOTHING).to_numpy()
    wrong = is_known & (length != bases) & ~is_symbolic(table["alt"])
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        row = table.iloc[i]
        msg = (
            f"{name}: {int(wrong.sum()):,} of {len(table):,} variants have a REF of another length "
            f"than their interval, first {row['ref'][:40]!r} at {row['chrom']}:{row['start']}-"
            f"{row['end']}. `start` and `end` are 0-based and half-open, so `end - start` is the "
            "number of bases of REF; pass the column `pos` for positions from 1."
        )
        raise ValueError(msg)


def reverse_complement(alleles: pd.Series) -> pd.Series:
    """Alleles on the other strand; symbols and missing ones are unchanged."""

    def turned(allele: object) -> object:
        is_bases = isinstance(allele, str) and BASES.fullmatch(allele) is not None
        return allele.translate(_COMPLEMENT)[::-1] if is_bases else allele  # type: ignore[attr-defined]

    return alleles.map(turned)
