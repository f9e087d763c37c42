"""``ep.pl.annotation``: confidence of labels and, with true labels, their accuracy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from .._docs import documented
from .._keys import SEPARATOR, UNKNOWN_LABEL, Keys
from .._validate import Data, get_atac, integer, obs_column
from ..get import probabilities
from ..metrics import area_under_risk_coverage, expected_calibration_error, risk_coverage

CORRECT, WRONG = "#3b6fb6", "#c8553d"
MIN_SHARED = 0.5  # of the cells, whose true label must be one of the model for an accuracy
MAX_NUMBERED_LABELS = 16  # labels up to which the confusion matrix shows numbers


@documented
def annotation(
    data: Data,
    *,
    label_key: str | None = None,
    n_bins: int = 10,
    modality: str = "atac",
    key_added: str | None = None,
) -> Any:
    """Plot the confidence of an annotation and, with true labels, its accuracy and calibration.

    Without `label_key`, two panels show histograms of the confidence and of the sizes of the
    prediction sets. With `label_key`, four panels show the confusion matrix (rows are true labels
    and sum to one), the confidence of correct and wrong labels, a reliability diagram (accuracy by
    confidence), and the risk-coverage curve (error among the most confident cells). If labels were
    learned from some of the cells, the titles have the numbers of all cells, and of the others:
    only these say how good labels of new cells are. If the labels have other names than most of the
    true labels, only the confusion matrix compares them.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.annotate`.
    label_key
        Column of ``obs`` with true labels; cells without a label are ignored.
    n_bins
        Number of bins of the reliability diagram; the histogram has twice as many.
    {modality}
    {results_key}

    Returns
    -------
    The matplotlib figure.

    Raises
    ------
    ValueError
        The cells are not annotated, the column does not exist, or no cell has a true label.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> ep.tl.annotate(mdata)
    >>> figure = ep.pl.annotation(mdata, label_key="cell_type")
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    n_bins = integer(n_bins, "n_bins", minimum=2)
    missing = [name for name in (keys.cell_type, keys.confidence) if name not in atac.obs]
    if missing:
        msg = f"No {missing} in `obs`: run `epifoundation.tl.annotate` first, "
        msg += "or pass the `key_added=` of its results."
        raise ValueError(msg)
    cells = annotated_cells(data, atac, keys, label_key, modality)
    if label_key is None:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        _confidence(axes[0], cells, n_bins)
        _set_sizes(axes[1], atac, keys)
    else:
        n_labels = cells["true"].nunique() + cells["predicted"].nunique()
        height = float(np.clip(0.2 * n_labels, 6.5, 11))
        figure = plt.figure(figsize=(height + 4.2, height), layout="constrained")
        grid = figure.add_gridspec(3, 2, width_ratios=[height, 4])
        _confusion(figure.add_subplot(grid[:, 0]), cells)
        if is_comparable(cells):
            _confidence(figure.add_subplot(grid[0, 1]), cells, n_bins)
            _reliability(figure.add_subplot(grid[1, 1]), cells, n_bins)
            _risk_coverage(figure.add_subplot(grid[2, 1]), cells)
        else:
            _confidence(figure.add_subplot(grid[0, 1]), cells.assign(true=""), n_bins)
            _set_sizes(figure.add_subplot(grid[1, 1]), atac, keys)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def annotated_cells(
    data: Data, atac: AnnData, keys: Keys, label_key: str | None, modality: str
) -> pd.DataFrame:
    """Assigned, most probable and true labels, confidence, and whether labels were learned from it.

    Incomplete cells are dropped.
    """
    confidence = atac.obs[keys.confidence]
    cells = pd.DataFrame({"assigned": atac.obs[keys.cell_type].astype(object)})
    cells["confidence"] = confidence
    # Confidence refers to the most probable label, also for cells labelled as unknown
    has_confidence = confidence.notna()
    cells["predicted"] = cells["assigned"]
    names = set(cells["assigned"].dropna().astype(str)) - {UNKNOWN_LABEL}
    if keys.probabilities in atac.obsm:
        likely = probabilities(data, modality=modality, key_added=keys.key)[has_confidence]
        cells["predicted"] = likely.idxmax(axis=1).reindex(cells.index)
        names |= set(likely.columns.astype(str))
    cells["is_learned"] = False
    if keys.in_reference in atac.obs:
        cells["is_learned"] = atac.obs[keys.in_reference].to_numpy(dtype=bool)
    cells["true"] = ""
    if label_key is not None:
        cells["true"] = obs_column(data, atac, label_key, "label_key").astype(object)
    complete = has_confidence & cells["predicted"].notna() & cells["true"].notna()
    cells = cells[complete].astype({"predicted": str, "true": str})
    cells.attrs["labels"] = sorted(names)
    if cells.empty:
        needed = f" and a true label in `label_key={label_key!r}`" if label_key else ""
        msg = f"No cell has an annotation{needed}."
        raise ValueError(msg)
    return cells


def is_comparable(cells: pd.DataFrame) -> bool:
    """Whether most true labels are among the labels of the model, so that they can be right."""
    return bool(cells["true"].isin(cells.attrs["labels"]).mean() >= MIN_SHARED)


def _confusion(ax: Any, cells: pd.DataFrame) -> None:
    assigned = cells["assigned"].astype(str)
    table = pd.crosstab(cells["true"], assigned, normalize="index")
    # Shared labels come first, in the same order: correct labels are on the diagonal
    shared = [label for label in table.index if label in table.columns]
    only_true = [label for label in table.index if label not in shared]
    only_assigned = [label for label in table.columns if label not in (*shared, UNKNOWN_LABEL)]
    if UNKNOWN_LABEL in table.columns and UNKNOWN_LABEL not in shared:
        only_assigned.append(UNKNOWN_LABEL)
    table = table.reindex(index=shared + only_true, columns=shared + only_assigned)
    image = ax.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(table.shape[1]), table.columns, rotation=90, fontsize="small")
    ax.set_yticks(range(table.shape[0]), table.index, fontsize="small")
    ax.set(xlabel="annotated", ylabel="true")
    if max(table.shape) <= MAX_NUMBERED_LABELS:
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            if value >= 0.005:
                ax.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize="x-small",
                    color="w" if value > 0.5 else "k",
                )
    ax.figure.colorbar(image, ax=ax, shrink=0.4, label="fraction of cells with the true label")
    new = cells[~cells["is_learned"]]
    title = f"{len(cells):,} cells"
    if not is_comparable(cells):
        ax.set_title(f"{title}; the labels have other names than the true ones", fontsize="medium")
        return
    if len(new) < len(cells):
        title += f", {len(new):,} of them new to the model\n"
        title += f"new cells: accuracy {accuracy(new):.1%}, all" if len(new) else "all"
        title += " cells:"
    else:
        title += ","
    title += f" accuracy {accuracy(cells):.1%}"
    ax.set_title(title, fontsize="medium")


def accuracy(cells: pd.DataFrame) -> float:
    """Fraction of the cells with the true label; NaN if there are none."""
    return float((cells["assigned"].astype(str) == cells["true"]).mean())


def _scored(score: Callable[..., float], cells: pd.DataFrame) -> str:
    """A score of all cells and, if labels were learned from some of them, of the others."""
    columns = ("true", "predicted", "confidence")
    text = f"{score(*(cells[name].to_numpy() for name in columns)):.3f}"
    new = cells[~cells["is_learned"]]
    if len(new) in (0, len(cells)):
        return text
    return f"{text}, new cells {score(*(new[name].to_numpy() for name in columns)):.3f}"


def _confidence(ax: Any, cells: pd.DataFrame, n_bins: int) -> None:
    correct = (cells["predicted"] == cells["true"]).to_numpy()
    confidence = cells["confidence"].to_numpy(dtype=float)
    bins = np.linspace(0, 1, 2 * n_bins + 1)
    if (cells["true"] == "").all():
        ax.hist(confidence, bins=bins, color="0.4")
    else:
        ax.hist(
            [confidence[correct], confidence[~correct]],
            bins=bins,
            stacked=True,
            color=[CORRECT, WRONG],
            label=["correct", "wrong"],
        )
        ax.legend(frameon=False, fontsize="small", loc="upper left")
    ax.set(xlabel="confidence", ylabel="cells", xlim=(0, 1))
    n_unknown = int((cells["assigned"].astype(str) == UNKNOWN_LABEL).sum())
    title = f"mean confidence {confidence.mean():.2f}, {n_unknown:,} unknown"
    ax.set_title(title, fontsize="medium")


def _set_sizes(ax: Any, atac: AnnData, keys: Keys) -> None:
    if keys.prediction_set not in atac.obs:
        ax.set_axis_off()
        reason = "no prediction sets: run `epifoundation.tl.annotate`"
        ax.text(0.5, 0.5, reason, ha="center", transform=ax.transAxes)
        return
    sets = atac.obs[keys.prediction_set].astype(str)
    sizes = np.where(sets == "", 0, sets.str.count(re.escape(SEPARATOR)) + 1)
    if keys.probabilities in atac.obsm:
        likely = probabilities(atac, key_added=keys.key)
        if any(SEPARATOR in label for label in likely):
            order = likely.columns.to_numpy()[np.argsort(-likely.to_numpy(), axis=1)]
            sizes = np.array([_set_size(*each) for each in zip(sets, order, strict=True)])
    counts = np.bincount(sizes)
    ax.bar(range(len(counts)), counts, color="0.4")
    alpha = atac.uns.get(keys.annotation, {}).get("alpha")
    ax.set(xlabel="labels in the prediction set", ylabel="cells")
    level = "" if alpha is None else f" at {1 - alpha:.0%}"
    ax.set_title(f"mean size {sizes.mean():.2f}{level}", fontsize="medium")


def _set_size(text: str, labels: Iterable[str]) -> int:
    """Number of labels in a set, of which the names may contain the separator."""
    size = 0
    for label in labels:  # in the order in which they are joined
        if text == label or text.startswith(f"{label}{SEPARATOR}"):
            size, text = size + 1, text[len(label) + len(SEPARATOR) :]
    return size


def _reliability(ax: Any, cells: pd.DataFrame, n_bins: int) -> None:
    correct = (cells["predicted"] == cells["true"]).to_numpy()
    confidence = cells["confidence"].to_numpy(dtype=float)
    # Bins with equal numbers of cells, at least ten
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, max(min(n_bins, len(order) // 10), 1))
    x, y = np.array([[confidence[part].mean(), correct[part].mean()] for part in parts]).T
    spread = np.sqrt(y * (1 - y) / [len(part) for part in parts])
    ax.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
    ax.errorbar(x, y, yerr=spread, color=CORRECT, marker="o", ms=4, lw=1.2)
    error = _scored(expected_calibration_error, cells)
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    ax.set_title(f"expected calibration error {error}", fontsize="medium")


def _risk_coverage(ax: Any, cells: pd.DataFrame) -> None:
    columns = ("true", "predicted", "confidence")
    true, predicted, confidence = (cells[name].to_numpy() for name in columns)
    coverage, risk = risk_coverage(true, predicted, confidence)
    ax.plot(coverage, risk, color=CORRECT, lw=1.5)
    ax.axhline(float(np.mean(true != predicted)), color="0.7", lw=1, zorder=0)
    ax.set(xlabel="fraction of cells, by confidence", ylabel="error")
    ax.set(xlim=(0, 1), ylim=(0, None))
    area = _scored(area_under_risk_coverage, cells)
    ax.set_title(f"area under the curve {area}", fontsize="medium")
