"""The genome build of variants: compare it with that of peaks, lift them over, check their REF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .._warn import warn
from ._alleles import BASES, reverse_complement
from ._builds import count_misplaced, lift_with_strand, misplaced
from ._fasta import reference_bases
from ._intervals import COLUMNS
from ._variant_table import describe
from ._variants import Variants


def check_build(variants: Variants, builds: list[str], *, lifted: bool) -> None:
    """Raise ValueError if the file of the variants names another build than that of the peaks.

    With `lifted`, if it names that of the peaks.
    """
    if variants.build is None or not builds or (variants.build in builds) != lifted:
        return
    named = f"The variants are on {variants.build} ({variants.evidence})"
    if lifted and len(builds) > 1:
        return
    if lifted:
        msg = f"{named}, as the peaks are: leave out `liftover`."
    else:
        msg = (
            f"{named}, the peaks on {' or '.join(builds)}: pass `liftover=`, a chain file such as "
        )
        msg += f"{_chain(variants.build, builds[0])}, or variants on {builds[0]}."
    raise ValueError(msg)


def check_places(table: pd.DataFrame, builds: list[str], *, lifted: bool) -> None:
    """Raise ValueError if variants lie outside of the genome of the peaks."""
    wrong = [(misplaced(table, build), build) for build in builds]
    if not wrong or not all(outside.any() for outside, _ in wrong):
        return
    outside, build = min(wrong, key=lambda one: one[0].sum())
    i = int(np.flatnonzero(outside)[0])
    msg = (
        f"{int(outside.sum()):,} of {len(table):,} variants lie outside of {build}, the genome of "
        f"the peaks, first {describe(table, i)}. "
    )
    others = [name for name, n in count_misplaced(table).items() if n == 0 and name not in builds]
    if lifted:
        msg += "They were lifted over: pass the chain file from their build to that of the peaks."
    elif others:
        msg += f"They fit {' or '.join(others)}: pass `liftover=`, a chain file such as "
        msg += f"{_chain(others[0], build)}."
    else:
        msg += "They fit no known build: correct their positions, or leave them out."
    raise ValueError(msg)


def lift_variants(table: pd.DataFrame, chain: str | Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Move variants to another build.

    Returns
    -------
    The lifted ones, with alleles as they are read on the forward strand; and the status of each of
    `table`: ``"lifted"``, ``"split"`` (its bases are not together any more) or ``"lost"``.
    """
    intervals = table[COLUMNS].reset_index(drop=True)
    lifted, found = lift_with_strand(intervals, chain)
    status = found.to_numpy(dtype=object, copy=True)
    rows = lifted.index.to_numpy()
    # An insertion or deletion in it, or other sequence
    length = (intervals["end"] - intervals["start"]).to_numpy()[rows]
    same = (lifted["end"] - lifted["start"]).to_numpy() == length
    status[rows[~same]] = "split"
    lifted, rows = lifted[same], rows[same]
    moved = table.iloc[rows].copy()
    for column in COLUMNS:
        moved[column] = lifted[column].to_numpy()
    is_reversed = (lifted["strand"] == "-").to_numpy()
    for column in ("ref", "alt"):
        turned = reverse_complement(moved[column][is_reversed])
        moved.loc[is_reversed, column] = turned.to_numpy()
    n_lost = len(table) - len(moved)
    if n_lost:
        i = int(np.flatnonzero(status != "lifted")[0])
        warn(
            f"{n_lost:,} of {len(table):,} variants do not map to the build of the peaks "
            f"({int((status == 'lost').sum()):,} lost, {int((status == 'split').sum()):,} split), "
            f"first {describe(table, i)}: they have no position, element or gene."
        )
    return moved, status


def check_reference(table: pd.DataFrame, fasta: str | Path, *, lifted: bool) -> None:
    """Compare REF with the genome: ValueError if it differs, or a warning after lifting over."""
    texts = (
        table["ref"]
        .astype(object)
        .map(lambda ref: ref if isinstance(ref, str) and BASES.fullmatch(ref) else "")
    )
    n_bases = texts.map(len).to_numpy(np.int64)
    row = np.repeat(np.arange(len(table)), n_bases)
    within = np.arange(len(row)) - np.repeat(np.cumsum(n_bases) - n_bases, n_bases)
    given = np.frombuffer("".join(texts).encode(), dtype="S1")
    chrom, start = table["chrom"].reset_index(drop=True), table["start"].to_numpy()
    base = reference_bases(fasta, chrom.iloc[row], start[row] + within)
    absent = base == b""
    if absent.any():
        i = int(row[np.flatnonzero(absent)[0]])
        msg = f"{len(np.unique(row[absent])):,} of {len(table):,} variants are not in "
        msg += f"{str(fasta)!r}, first {describe(table, i)}: pass the genome of the peaks."
        raise ValueError(msg)
    other = (base != given) & (given != b"N") & (base != b"N")
    wrong = np.unique(row[other])
    if not len(wrong):
        return
    i = int(wrong[0])
    shown = b"".join(base[row == i]).decode()
    msg = (
        f"REF of {len(wrong):,} of {len(table):,} variants is not the sequence of the genome, "
        f"first {describe(table, i)}: REF is {texts.iloc[i][:40]!r}, {str(fasta)!r} has "
        f"{shown[:40]!r}."
    )
    if lifted:
        warn(f"{msg} The builds differ there.")
        return
    cure = "Is it of another build (`liftover=`), on the other strand, or counted from 0?"
    raise ValueError(f"{msg} {cure}")


def _chain(source: str, target: str) -> str:
    """The name of the chain file of UCSC."""
    return f"{source}To{target[0].upper()}{target[1:]}.over.chain.gz"
