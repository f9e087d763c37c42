"""The table of :func:`epifoundation.tl.link_peaks`: found in an object, and filtered."""

from __future__ import annotations

from typing import Literal, TypeAlias

import pandas as pd

from ._keys import Keys
from ._validate import Data, fraction, get_atac, one_of

LinkValue: TypeAlias = Literal["effect", "score", "pip"]
VALUES = ("effect", "score", "pip")
PLACE = ("chrom", "start", "end")
PLACES = ("start", "end", "tss")  # never missing
COLUMNS = (*PLACE, "gene", "peak", "group", "tss", "effect", "qvalue")  # that are read
NUMBERS = ("start", "end", "tss", "effect", "pvalue", "qvalue", "score", "pip", "credible_set")
RESULTS = ("gene", "peak", "group", "pvalue", "qvalue")
# Of a pair that is linked in several groups; other columns are the same in all of them
OVER_GROUPS = {"effect": "mean", "score": "max", "pip": "max", "qvalue": "min"}


def links_of(data: Data, modality: str, key_added: str | None) -> pd.DataFrame:
    """The table of links; ValueError if `link_peaks` was not run, or the table was damaged."""
    key = Keys.of(key_added).links
    links = get_atac(data, modality).uns.get(key)
    if not isinstance(links, pd.DataFrame) or not set(COLUMNS) <= set(links.columns):
        msg = f"No links in `uns[{key!r}]`: run `epifoundation.tl.link_peaks` first."
        raise ValueError(msg)
    check_table(links, key)
    return links


def check_results(links: object, key: str) -> pd.DataFrame:
    """The table, of which places may be missing; ValueError if it has no results of tests."""
    if not isinstance(links, pd.DataFrame) or not set(RESULTS) <= set(links.columns):
        msg = f"`uns[{key!r}]` is no table of links with the columns {list(RESULTS)}: run "
        msg += "`epifoundation.tl.link_peaks` again, or delete it."
        raise ValueError(msg)
    check_table(links, key)
    return links


def check_table(links: pd.DataFrame, key: str) -> None:
    """Raise ValueError if a column of `uns` is not as `link_peaks` writes it."""
    wrong = links.columns[links.columns.duplicated()].tolist()
    wrong += [name for name in NUMBERS if name in links and not _has_numbers(links[name])]
    wrong += [name for name in PLACES if name in links and links[name].isna().to_numpy().any()]
    if wrong:
        msg = f"The column {wrong[0]!r} of `uns[{key!r}]` is not as `epifoundation.tl.link_peaks` "
        msg += "writes it (it occurs twice, or has missing or other values): run it again."
        raise ValueError(msg)


def _has_numbers(column: pd.Series | pd.DataFrame) -> bool:
    """Whether all values are real numbers; numbers of type object are from old files."""
    if isinstance(column, pd.DataFrame):  # a name that occurs twice
        return False
    kinds = ("integer", "floating", "mixed-integer-float", "empty")
    return pd.api.types.infer_dtype(column, skipna=True) in kinds


def filter_links(
    links: pd.DataFrame,
    *,
    value: str,
    max_qvalue: float | None,
    min_score: float | None,
    group: str | None,
) -> tuple[pd.DataFrame, str]:
    """Links that pass the filters and have a value, and a sentence on it if there are none.

    Raises
    ------
    ValueError
        An option is not valid, or the table has no such column.
    """
    one_of(value, VALUES, "value")
    if group is not None:
        one_of(group, sorted(links["group"].astype(str).unique()), "group")
        links = links[links["group"].astype(str) == group]
    keep = _column(links, value, "value").notna()
    keep &= passes(links, max_qvalue=max_qvalue, min_score=min_score)
    cure = f"`max_qvalue` is {max_qvalue}, `min_score` is {min_score}"
    if max_qvalue is not None and links["qvalue"].isna().all():
        cure = "none has a q-value, as they were not tested: pass `max_qvalue=None`"
    problem = "" if keep.any() else f"None of the {len(links):,} links is left: {cure}."
    return links[keep], problem


def passes(links: pd.DataFrame, *, max_qvalue: float | None, min_score: float | None) -> pd.Series:
    """Whether each link passes the filters; ValueError as :func:`filter_links`."""
    keep = pd.Series(True, index=links.index)
    if max_qvalue is not None:
        fraction(max_qvalue, "max_qvalue")
        keep &= links["qvalue"] <= max_qvalue
    if min_score is not None:
        fraction(min_score, "min_score")
        keep &= _column(links, "score", "min_score") >= min_score
    return keep


def _column(links: pd.DataFrame, name: str, option: str) -> pd.Series:
    """A column by name; ValueError if the table has no values of it."""
    is_empty = name in links and len(links) > 0 and links[name].isna().all()
    if name not in links or (name != "effect" and is_empty):
        known = [one for one in VALUES if one in links and links[one].notna().any()]
        msg = f"`{option}` needs the column {name!r}, of which these links have no values "
        msg += f"(available: {known}): run `epifoundation.tl.link_peaks` again, or pass None."
        raise ValueError(msg)
    return links[name]


def one_per_pair(links: pd.DataFrame) -> pd.DataFrame:
    """One row for each gene and peak: mean effect over groups, largest score, smallest q-value."""
    pairs = ["gene", "peak"]
    if not links.duplicated(pairs).any():
        return links
    names = [name for name in links if name not in pairs]
    how = {name: OVER_GROUPS.get(name, "first") for name in names}
    return links.groupby(pairs, sort=False, observed=True).agg(how).reset_index()
