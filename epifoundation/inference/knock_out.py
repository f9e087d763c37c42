"""Changes of predictions if peaks are closed, and their summary by group of cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}


@dataclass(frozen=True)
class KnockOut:
    """Predicted changes when peaks are closed.

    Parameters
    ----------
    expression
        Change of the predicted expression, cells x genes, in the unit `scale`.
    probabilities
        Change of the calibrated probability of each label, cells x labels.
    n_removed
        Number of the peaks that were open in each cell. Without any, changes are 0; if no peak that
        the model knows remains, NaN.
    peaks
        Names of the peaks that were closed.
    scale
        Unit of `expression`.
    summary
        With `groupby`, one row per ``group``, ``kind`` (``"expression"`` or ``"probability"``) and
        ``name`` of a gene or label: ``n_cells`` of the group, ``n_open`` of them in which a peak
        was open, and over these cells the ``mean`` change, its standard error ``sem``, and the
        quartiles ``q25``, ``median``, ``q75``. NaN without such cells. Else None.
    """

    expression: pd.DataFrame
    probabilities: pd.DataFrame
    n_removed: pd.Series
    peaks: list[str]
    scale: str
    summary: pd.DataFrame | None = None


def summarize(
    changes: dict[str, pd.DataFrame], n_removed: pd.Series, groups: pd.Series
) -> pd.DataFrame:
    """Mean, standard error and quartiles of changes over the cells in which a peak was closed.

    Parameters
    ----------
    changes
        Kinds of prediction, cells x predicted.
    n_removed
        Number of peaks that were closed in each cell.
    groups
        Group of each cell; cells without one are left out.
    """
    names = groups.astype(str).where(groups.notna()).to_numpy()
    was_open = n_removed.to_numpy() > 0
    parts = []
    for group in pd.unique(names[groups.notna().to_numpy()]):
        here = names == group
        for kind, change in changes.items():
            values = change.to_numpy(np.float64)[here & was_open]
            values = values[~np.isnan(values).any(axis=1)]  # no peak remains
            n, size = len(values), change.shape[1]
            missing = np.full(size, np.nan)
            columns = {"mean": values.mean(axis=0) if n else missing}
            columns["sem"] = values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else missing
            for name, q in QUANTILES.items():
                columns[name] = np.quantile(values, q, axis=0) if n else missing
            cells = {"n_cells": int(here.sum()), "n_open": int((here & was_open).sum())}
            parts.append(
                pd.DataFrame(
                    {"group": group, "kind": kind, "name": change.columns.astype(str)}
                    | cells
                    | columns
                )
            )
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values("group", kind="stable", ignore_index=True)
