"""``ep.tl.link_variants``: elements, genes and cell types of variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._docs import documented
from .._keys import Keys
from .._link_table import links_of, passes
from .._option_types import checked
from .._validate import Data, get_atac, integer
from .._warn import warn
from ..cells.rows import iter_rows
from ..cells.source import InMemory
from ..cells.tokens import open_peaks
from ..genome import BUILDS, detect_build, overlaps, read_intervals
from ..genome._variant_build import check_build, check_places, check_reference, lift_variants
from ..genome._variants import read_variants

# Of the table of links; the first three are missing in older ones
NUMBERS = ("score", "pip", "credible_set", "effect", "pvalue", "qvalue")
TEXTS = ("gene", "group", "direction")


@documented
@checked
def link_variants(
    variants: str | Path | pd.DataFrame,
    data: Data,
    *,
    groupby: str | None = None,
    window: int = 0,
    max_qvalue: float | None = None,
    min_score: float | None = 0.1,
    linked_only: bool = False,
    liftover: str | Path | None = None,
    fasta: str | Path | None = None,
    modality: str = "atac",
    key_added: str | None = None,
) -> pd.DataFrame:
    """List the elements that variants lie in, and their linked genes, for an object in memory.

    An element is a peak of the data. A variant lies in it if any base of REF does; an insertion has
    the base before it.

    Parameters
    ----------
    variants
        A VCF, BED, TSV or CSV file, plain, gzip or bgzip; or a table. Tables have the columns
        ``chrom`` and ``pos`` (1-based), or ``chrom``, ``start`` and ``end`` (0-based, half-open),
        and if known ``id`` (or ``rsid``), ``ref`` and ``alt``. rsIDs without positions are not
        looked up.
    data
        A MuData or AnnData after :func:`epifoundation.tl.link_peaks`, in memory. It is not changed.
    groupby
        Column of ``obs`` with groups of cells, such as cell types: adds the fraction of the cells
        of each group in which the element is open.
    window
        Also list elements that are at most this many bases away.
    max_qvalue
        Leave out links with a larger q-value; if None, keep all, including untested ones.
    min_score
        Leave out links with a smaller ``score``, the probability that the element regulates the
        gene; if None, keep all. In CRISPRi data, 0.1 keeps four of five regulated pairs.
    linked_only
        Leave out variants without a linked gene.
    liftover
        UCSC chain file from the build of the variants to that of the peaks, such as
        ``hg19ToHg38.over.chain.gz``.
    fasta
        Genome of the peaks, FASTA with an index (``samtools faidx``), to compare with REF.
    {modality}
    {results_key}

    Returns
    -------
    One row per variant (each allele of a VCF), element, gene and group of the links, in the order
    of `variants` and with their index (files: number of the record), those with the highest score
    first. Columns:

    - ``id``, ``chrom``, ``pos`` (1-based), ``ref``, ``alt``: the variant, on the build of the
      peaks. With `liftover`, ``lifted_from``, the position in the input, and ``lift``:
      ``"lifted"``, ``"lost"`` or ``"split"``.
    - ``peak``: the element, and ``distance`` to it in bases (0: inside).
    - ``gene``, ``group``, ``direction``, ``effect``, ``pvalue``, ``qvalue``, and if known
      ``score``, ``pip`` and ``credible_set``: the link, as :func:`epifoundation.tl.link_peaks`
      writes it; ``tss_distance``, from the variant to the transcription start site.
    - With `groupby`: ``open_in``, the group in which the element is open most often, and
      ``fraction_open`` in it; ``open:<group>``, the fraction in each group.

    Variants without an element, and elements without a link, have missing values there.

    Raises
    ------
    FileNotFoundError
        A file does not exist.
    ValueError
        No links; no variants or positions; variants on another genome build, or outside of the
        genome; an allele that is none; REF is not that of `fasta`.

    Notes
    -----
    After `liftover`, alleles on a reversed strand are reverse-complemented. Insertions and
    deletions are not aligned to the left again. ``*`` and symbols such as ``<DEL>`` are kept;
    symbols reach to ``END`` of ``INFO``, else by ``SVLEN``. The alleles ``<NON_REF>`` and ``<*>``
    of gVCF are not variants.

    Examples
    --------
    >>> import pandas as pd
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(400, 600, 20)
    >>> ep.tl.link_peaks(mdata, ep.tl.pretrain(mdata), genes="gene3", max_distance=50_000)
    >>> peak = mdata["atac"].uns["epifoundation_links"].iloc[0]
    >>> variants = pd.DataFrame({"chrom": peak["chrom"], "pos": [peak["end"]]}, index=["rs1"])
    >>> found = ep.tl.link_variants(variants, mdata, min_score=None, groupby="cell_type")
    >>> found[["gene", "distance"]]
          gene  distance
    rs1  gene3         0
    """
    atac = get_atac(data, modality)
    links = links_of(data, modality, key_added)
    window = integer(window, "window", minimum=0)
    links = links[passes(links, max_qvalue=max_qvalue, min_score=min_score)]
    if "score" in links:
        links = links.sort_values("score", ascending=False, kind="stable")
    peaks, found = read_intervals(atac.var), read_variants(variants)
    builds, lifted = (
        _builds(atac.uns.get(Keys.of(key_added).links_report), peaks),
        liftover is not None,
    )
    check_build(found, builds, lifted=lifted)
    given = found.table.reset_index(drop=True)
    placed, status = (given, None) if liftover is None else lift_variants(given, liftover)
    check_places(placed, builds, lifted=lifted)
    if fasta is not None:
        check_reference(placed, fasta, lifted=lifted)
    if len(placed) and not placed["chrom"].isin(peaks["chrom"]).any():
        named = [sorted(each["chrom"].unique())[:3] for each in (placed, peaks)]
        warn(f"No chromosome has both variants ({named[0]}, ...) and peaks ({named[1]}, ...).")
    pairs = _pairs(len(given), placed, peaks, window)
    table, link = _with_links(pairs, links, atac.var_names, linked_only=linked_only)
    shown = _variant_columns(given, placed, status).iloc[table["variant"]].reset_index(drop=True)
    has_peak = table["peak"].to_numpy() >= 0
    names = np.array([*atac.var_names, None], dtype=object)
    shown["peak"] = names[table["peak"]]
    shown["distance"] = table["distance"].astype("Int64").where(has_peak)
    shown = _with_values(shown, link)
    if groupby is not None:
        open_in = _fractions(
            InMemory(data, modality, "the data"), groupby, table["peak"].to_numpy()
        )
        shown = pd.concat([shown, open_in], axis=1)
    return shown.set_axis(found.table.index[table["variant"]], axis=0)


def _builds(report: Any, peaks: pd.DataFrame) -> list[str]:
    """The build of the peaks if it is known, else those that they fit."""
    mapping = report.get("peaks") if isinstance(report, Mapping) else None
    build = mapping.get("data_genome") if isinstance(mapping, Mapping) else None
    return [build] if isinstance(build, str) and build in BUILDS else detect_build(peaks)


def _pairs(n: int, placed: pd.DataFrame, peaks: pd.DataFrame, window: int) -> pd.DataFrame:
    """Each variant with each peak within the window, the nearest first; -1 if there is none."""
    wide = placed.assign(start=placed["start"] - window, end=placed["end"] + window)
    i, peak = overlaps(wide, peaks).T
    start, end = (placed[side].to_numpy(np.int64)[i] for side in ("start", "end"))
    first, last = (peaks[side].to_numpy(np.int64)[peak] for side in ("start", "end"))
    distance = np.maximum(0, np.maximum(first - end + 1, start - last + 1))
    variant = placed.index.to_numpy(np.int64)[i]
    alone = np.setdiff1d(np.arange(n), variant)
    none = np.full(len(alone), -1)
    columns = {
        "variant": np.concatenate([variant, alone]),
        "peak": np.concatenate([peak, none]),
        "distance": np.concatenate([distance, none]),
    }
    return pd.DataFrame(columns).sort_values(["variant", "distance", "peak"], ignore_index=True)


def _with_links(
    pairs: pd.DataFrame, links: pd.DataFrame, names: pd.Index, *, linked_only: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row of `pairs` for each link of its peak, and the link, which is missing if it has none."""
    peak_of_link = names.get_indexer(pd.Index(links["peak"].astype(str)))
    n_unknown = int((peak_of_link < 0).sum())
    if n_unknown:
        msg = f"{n_unknown:,} of {len(links):,} links have a peak that the data lack, first "
        msg += f"{links['peak'].iloc[int(np.argmin(peak_of_link))]!r}: they are left out."
        warn(msg)
    order = np.argsort(peak_of_link, kind="stable")[n_unknown:]
    n_links = np.bincount(peak_of_link[order], minlength=len(names))
    n_links, first = np.append(n_links, 0), np.append(np.cumsum(n_links) - n_links, 0)
    peak = pairs["peak"].to_numpy()
    n_rows = n_links[peak] if linked_only else np.maximum(n_links[peak], 1)
    row = np.repeat(np.arange(len(pairs)), n_rows)
    within = np.arange(len(row)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    is_linked = n_links[peak[row]] > 0
    link = np.full(len(row), -1)
    link[is_linked] = order[(first[peak[row]] + within)[is_linked]]
    rows = links.reset_index(drop=True).reindex(link).reset_index(drop=True)  # -1 is missing
    return pairs.iloc[row].reset_index(drop=True), rows


def _variant_columns(
    given: pd.DataFrame, placed: pd.DataFrame, status: np.ndarray | None
) -> pd.DataFrame:
    """The columns that describe variants, on the build of the peaks."""
    now = placed if status is None else placed.reindex(given.index)
    first = now["start"] + 1
    columns: dict[str, Any] = {
        "id": given["id"],
        "chrom": now["chrom"],
        "pos": first if status is None else first.astype("Int64"),
        "ref": given["ref"].where(now["chrom"].isna(), now["ref"]),
        "alt": given["alt"].where(now["chrom"].isna(), now["alt"]),
    }
    if status is not None:
        columns["lifted_from"] = given["chrom"] + ":" + (given["start"] + 1).astype(str)
        columns["lift"] = status
    return pd.DataFrame(columns)


def _with_values(shown: pd.DataFrame, link: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of links; those that older tables lack are missing values."""
    columns: dict[str, Any] = {}
    for name in (*TEXTS, *NUMBERS):
        values = link[name] if name in link else pd.Series(np.nan, index=link.index)
        columns[name] = values.astype(object) if name in TEXTS else values.astype(float)
    if "credible_set" not in link:  # of no link
        columns["credible_set"] = columns["credible_set"].mask(link["gene"].notna(), 0)
    columns["credible_set"] = columns["credible_set"].astype("Int64")
    position = shown["pos"].astype("Int64") - 1
    columns["tss_distance"] = (position - link["tss"].astype("Int64")).abs()
    return pd.concat([shown, pd.DataFrame(columns)], axis=1)


def _fractions(source: InMemory, groupby: str, peak: np.ndarray) -> pd.DataFrame:
    """Fraction of the cells of each group in which the peak of each row is open."""
    groups = source.column(groupby, "groupby")
    codes, found = pd.factorize(groups.astype(str).where(groups.notna()), sort=True)
    if not len(found):
        msg = f"`groupby={groupby!r}` is missing for every cell."
        raise ValueError(msg)
    hit = np.unique(peak[peak >= 0])
    cells = np.flatnonzero(codes >= 0)
    shape = (len(found), source.n_obs)
    member = sp.csr_matrix((np.ones(len(cells), np.float32), (codes[cells], cells)), shape=shape)
    n_open = np.zeros((len(found), len(hit)))
    for at, rows in iter_rows(source):
        n_open += (member[:, at] @ open_peaks(rows)[:, hit]).toarray()
    fraction_open = (n_open / np.diff(member.indptr)[:, None]).T.astype(np.float32)
    row = np.searchsorted(hit, peak)
    missing = np.full((1, len(found)), np.nan, np.float32)
    values = np.vstack([fraction_open, missing])[np.where(peak >= 0, row, len(hit))]
    has_peak = peak >= 0
    names = np.array([*map(str, found), None], dtype=object)
    best = np.where(has_peak, values.argmax(axis=1), -1)
    columns = {
        "open_in": names[best],
        "fraction_open": values[np.arange(len(values)), best],
        **{f"open:{name}": values[:, i] for i, name in enumerate(found)},
    }
    return pd.DataFrame(columns)
