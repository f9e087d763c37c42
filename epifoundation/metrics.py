"""Metrics of annotations and of predicted expression: arrays in, floats out.

Entries are compared in their order. Tables of pandas must have the same index (or a RangeIndex, or
none on one side), and no value may be missing; otherwise, a ValueError is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ._keys import SEPARATOR


def accuracy(true: ArrayLike, predicted: ArrayLike) -> float:
    """Fraction of cells with the correct label.

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,).

    Returns
    -------
    A number in [0, 1].

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.metrics.accuracy(["B", "T", "T", "NK"], ["B", "T", "B", "NK"])
    0.75
    """
    true, predicted = _same_shape(true, predicted)
    return float(np.mean(true == predicted))


def macro_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean F1 score over labels, so that rare labels count as much as frequent ones.

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,). Labels that occur in either are counted.

    Returns
    -------
    A number in [0, 1].

    Examples
    --------
    >>> import epifoundation as ep
    >>> round(ep.metrics.macro_f1(["B", "T", "T"], ["B", "T", "B"]), 3)
    0.667
    """
    from sklearn.metrics import f1_score

    true, predicted = _same_shape(true, predicted)
    return float(f1_score(true, predicted, average="macro", zero_division=0))


def pearson_per_gene(true: ArrayLike, predicted: ArrayLike, *, min_cells: int = 0) -> float:
    """Mean over genes of the correlation across cells of true and predicted expression.

    Parameters
    ----------
    true, predicted
        Expression, (n_cells, n_genes).
    min_cells
        Genes with a true value above zero in fewer cells are ignored.

    Returns
    -------
    A number in [-1, 1]. A gene that is constant in the truth is ignored; one that is constant in
    the prediction counts as 0.

    Raises
    ------
    ValueError
        Shapes differ, or no gene is left.

    Examples
    --------
    >>> import epifoundation as ep
    >>> round(ep.metrics.pearson_per_gene([[0, 1], [1, 0], [2, 5]], [[0, 2], [1, 1], [2, 4]]), 3)
    0.995
    """
    true, predicted = (np.asarray(a, dtype=np.float64) for a in _same_shape(true, predicted))
    (a, varies), (b, _) = _standardise(true), _standardise(predicted)
    kept = ((true > 0).sum(axis=0) >= min_cells) & varies
    if not kept.any():
        msg = f"No gene varies and is expressed in at least `min_cells` ({min_cells}) of the "
        msg += f"{len(true)} cells."
        raise ValueError(msg)
    return float((a * b).mean(axis=0)[kept].mean())


def _standardise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns with mean 0 and deviation 1, and which of them vary; constant columns are zeros."""
    deviation = values.std(axis=0)
    # The standard deviation of a constant column may differ from 0 by rounding
    varies = deviation > 1e-12 * np.abs(values).max(axis=0)
    return (values - values.mean(axis=0)) / np.where(varies, deviation, np.inf), varies


def pearson_per_cell(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over cells of the correlation across genes of true and predicted expression.

    Predicting the mean of each gene already scores high, since genes differ more than cells do;
    compare with :func:`pearson_per_gene`.

    Parameters
    ----------
    true, predicted
        Expression, (n_cells, n_genes).

    Returns
    -------
    A number in [-1, 1]. A cell that is constant in the truth is ignored; one that is constant in
    the prediction counts as 0.

    Raises
    ------
    ValueError
        Shapes differ, or no cell varies.

    Examples
    --------
    >>> import epifoundation as ep
    >>> round(ep.metrics.pearson_per_cell([[0, 1, 2], [1, 0, 3]], [[0, 2, 4], [1, 1, 4]]), 3)
    0.972
    """
    true, predicted = _same_shape(true, predicted)
    return pearson_per_gene(true.T, predicted.T)


def pearson_pooled(true: ArrayLike, predicted: ArrayLike) -> float:
    """Correlation over all entries of cells x genes.

    Parameters
    ----------
    true, predicted
        Expression, (n_cells, n_genes).

    Returns
    -------
    A number in [-1, 1]; dominated by differences between genes.

    Raises
    ------
    ValueError
        Shapes differ, or all entries of the truth are the same.

    Examples
    --------
    >>> import epifoundation as ep
    >>> round(ep.metrics.pearson_pooled([[0, 1], [1, 0], [2, 5]], [[0, 2], [1, 1], [2, 4]]), 3)
    0.939
    """
    true, predicted = _same_shape(true, predicted)
    return pearson_per_gene(true.reshape(-1, 1), predicted.reshape(-1, 1))


def pearson_pseudobulk(true: ArrayLike, predicted: ArrayLike, groups: ArrayLike) -> float:
    """Mean over genes of the correlation across groups of cells of true and predicted means.

    Parameters
    ----------
    true, predicted
        Expression, (n_cells, n_genes).
    groups
        Group of each cell, such as its type, (n_cells,).

    Returns
    -------
    A number in [-1, 1]; high if cell types are distinguished, whatever happens within them.

    Raises
    ------
    ValueError
        Shapes differ, a cell has no group, there are fewer than two groups, or no gene varies
        between them.

    Examples
    --------
    >>> import epifoundation as ep
    >>> true, predicted = [[0, 1], [1, 0], [2, 5]], [[0, 2], [1, 1], [2, 4]]
    >>> round(ep.metrics.pearson_pseudobulk(true, predicted, ["B", "B", "T"]), 3)
    1.0
    """
    true, predicted = _same_shape(true, predicted)
    if n_missing := int(pd.isna(np.asarray(groups)).sum()):
        msg = f"{n_missing} of {len(true)} cells have no group: drop them."
        raise ValueError(msg)
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(codes) != len(true) or len(names) < 2:
        msg = f"Expected the groups of {len(true)} cells, two or more of them; "
        msg += f"got {len(codes)} cells in {len(names)} groups."
        raise ValueError(msg)
    return pearson_per_gene(_group_means(true, codes), _group_means(predicted, codes))


def compare_expression(
    true: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    groups: ArrayLike,
    *,
    train: ArrayLike,
    train_groups: ArrayLike,
    predicted_groups: ArrayLike,
    features: ArrayLike | None = None,
    train_features: ArrayLike | None = None,
    penalty: float = 10.0,
    min_cells: int = 0,
) -> pd.DataFrame:
    """Four correlations of predictions and of baselines, since each alone is misleading.

    Parameters
    ----------
    true
        Measured expression of the test cells, (n_cells, n_genes).
    predicted
        Predictions for the test cells by name, each (n_cells, n_genes).
    groups
        Group of each test cell, for pseudobulk, (n_cells,).
    train
        Measured expression of the training cells, (n_train, n_genes).
    train_groups
        Their labels, (n_train,).
    predicted_groups
        Predicted label of each test cell, (n_cells,); or probabilities of the labels in sorted
        order, (n_cells, n_labels).
    features, train_features
        Input of ridge regression, such as LSI: (n_cells, d) and (n_train, d); None omits it.
    penalty
        Penalty of the ridge regression.
    min_cells
        For the correlation per gene, see :func:`pearson_per_gene`.

    Returns
    -------
    DataFrame with one row per prediction, then ``"mean of the gene"``, ``"mean of the predicted
    label"`` (weighted by probabilities, if given) and ``"ridge"``; columns ``per gene``,
    ``per cell``, ``pooled``, ``pseudobulk``.

    Raises
    ------
    ValueError
        Shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import epifoundation as ep
    >>> rng = np.random.default_rng(0)
    >>> true, kind = rng.random((20, 5)), np.repeat(["B", "T"], 10)
    >>> table = ep.metrics.compare_expression(
    ...     true,
    ...     {"noise": rng.random((20, 5))},
    ...     kind,
    ...     train=true,
    ...     train_groups=kind,
    ...     predicted_groups=kind,
    ... )
    >>> list(table.index)
    ['noise', 'mean of the gene', 'mean of the predicted label']
    """
    for each in predicted.values():
        _check_same_names(true, each)
    of_cells: list[ArrayLike | None] = [groups, predicted_groups, features]
    for of_test in of_cells:
        _check_same_names(true, of_test, columns=False)
    for of_training in (train_groups, train_features):
        _check_same_names(train, of_training, columns=False)
    _check_same_names(true, train, index=False)
    true, train = np.asarray(true, dtype=np.float64), np.asarray(train, dtype=np.float64)
    names, codes = np.unique(np.asarray(train_groups), return_inverse=True)
    labels = np.asarray(predicted_groups)
    if labels.ndim == 1:
        labels = (labels[:, None] == names).astype(float)  # a label without training cells: 0
    if len(codes) != len(train) or labels.shape != (len(true), len(names)):
        msg = (
            f"Expected labels of {len(train)} training cells and, of {len(true)} cells, one label "
            f"or {len(names)} probabilities each; got {len(codes)} and {labels.shape}."
        )
        raise ValueError(msg)
    rows = {name: np.asarray(values, dtype=np.float64) for name, values in predicted.items()}
    rows["mean of the gene"] = np.tile(train.mean(axis=0), (len(true), 1))
    rows["mean of the predicted label"] = labels @ _group_means(train, codes)
    if features is not None and train_features is not None:
        from sklearn.linear_model import Ridge

        rows["ridge"] = Ridge(penalty).fit(train_features, train).predict(features)
    return pd.DataFrame(
        {
            name: {
                "per gene": pearson_per_gene(true, values, min_cells=min_cells),
                "per cell": pearson_per_cell(true, values),
                "pooled": pearson_pooled(true, values),
                "pseudobulk": pearson_pseudobulk(true, values, groups),
            }
            for name, values in rows.items()
        }
    ).T


def expected_log1p(predicted: ArrayLike, totals: ArrayLike) -> np.ndarray:
    """Expected ``log1p`` of counts per 10,000 of cells with few counts.

    A denoised prediction is the ``log1p`` of a mean, whereas measurements have a mean of ``log1p``.
    In shallow cells the two are far apart, and differently for each gene: of a gene with 1 count
    per 10,000, a cell of 250 counts shows 0 or 3.7. This brings predictions to the scale of
    measured cells, or of their means, to compare them.

    Parameters
    ----------
    predicted
        ``log1p`` of counts per 10,000, of any shape, as models of counts predict it.
    totals
        Total counts of cells with the depths of the measured ones, such as all training cells,
        (n_cells,). Seven quantiles represent them.

    Returns
    -------
    The mean of ``log1p(1e4 * count / total)`` over Poisson counts at these depths, with the shape
    of `predicted`; NaN stays NaN.

    Raises
    ------
    ValueError
        No total above 0, or a prediction below 0.

    Examples
    --------
    >>> import numpy as np
    >>> import epifoundation as ep
    >>> ep.metrics.expected_log1p(np.log1p([0.0, 1.0, 100.0]), [250]).round(2)
    array([0.  , 0.09, 4.18])
    """
    from scipy.stats import poisson

    values = np.asarray(predicted, dtype=np.float64)
    depths = np.asarray(totals, dtype=np.float64).ravel()
    depths = depths[depths > 0]
    if not len(depths) or (values < 0).any():
        msg = "Expected totals above 0 and `predicted` as log1p of counts per 10,000, at least 0; "
        msg += f"got {len(depths)} such totals and values from {np.nanmin(values, initial=0):.3g}."
        raise ValueError(msg)
    fraction = np.concatenate([[0.0], np.geomspace(1e-8, 1, 400)])
    # Above 1,000 expected counts, log of the mean and mean of the log agree to a thousandth
    count = np.arange(1_400)
    curve = np.zeros(len(fraction))
    quantiles = np.quantile(depths, np.linspace(0.05, 0.95, 7))
    quantiles, n = np.unique(quantiles, return_counts=True)
    for depth, weight in zip(quantiles, n / n.sum(), strict=True):
        few = fraction * depth < 1_000
        mean = poisson.pmf(count, fraction[few, None] * depth) @ np.log1p(1e4 * count / depth)
        curve[few] += weight * mean
        curve[~few] += weight * np.log1p(1e4 * fraction[~few])
    return np.interp(values, np.log1p(1e4 * fraction), curve)


def _group_means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of the rows of each group, (n_groups, n_columns)."""
    member = (codes == np.arange(codes.max() + 1)[:, None]).astype(np.float64)
    return member @ values / member.sum(axis=1, keepdims=True)


def expected_calibration_error(
    true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, *, n_bins: int = 15
) -> float:
    """Mean difference of confidence and accuracy, over bins of equal width (Guo et al. 2017).

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,).
    confidence
        Probability of the predicted label, (n_cells,).
    n_bins
        Number of bins of [0, 1].

    Returns
    -------
    A number in [0, 1]; 0 is perfect.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.metrics.expected_calibration_error(["B", "T"], ["B", "B"], [0.75, 0.75])
    0.25
    """
    true, predicted = _same_shape(true, predicted)
    confidence = np.asarray(confidence, dtype=np.float64)
    _same_shape(true, confidence)
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gap = np.bincount(bins, confidence - (true == predicted), minlength=n_bins)
    return float(np.abs(gap).sum() / len(true))


def risk_coverage(
    true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Error rate among the n most confident cells, for every n (El-Yaniv & Wiener 2010).

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,).
    confidence
        Confidence of each prediction, on any scale, (n_cells,).

    Returns
    -------
    Coverage, the fraction of cells that are annotated, and risk, the fraction of these that are
    wrong; both (n_cells,). Ties in confidence are averaged over all orders of the cells.

    Examples
    --------
    >>> import epifoundation as ep
    >>> true, predicted = ["B", "T", "T", "B"], ["B", "T", "B", "T"]
    >>> ep.metrics.risk_coverage(true, predicted, [0.9, 0.8, 0.7, 0.6])[1].round(2)
    array([0.  , 0.  , 0.33, 0.5 ])
    """
    true, predicted = _same_shape(true, predicted)
    confidence = np.asarray(confidence, dtype=np.float64)
    _same_shape(true, confidence)
    _, tie, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(tie, true != predicted)
    # Within a tie, errors accrue evenly: the mean over all orders
    steps = np.repeat(wrong / size, size)
    n_taken = np.arange(1, len(true) + 1)
    return n_taken / len(true), np.cumsum(steps) / n_taken


def area_under_risk_coverage(true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike) -> float:
    """Mean risk over all coverages (:func:`risk_coverage`); low if confident predictions are right.

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,).
    confidence
        Confidence of each prediction, on any scale, (n_cells,).

    Returns
    -------
    A number in [0, 1]; a constant confidence gives the error rate.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.metrics.area_under_risk_coverage(["B", "T"], ["B", "B"], [0.9, 0.6])
    0.25
    """
    return float(risk_coverage(true, predicted, confidence)[1].mean())


def conformal_coverage(true: ArrayLike, sets: ArrayLike) -> tuple[float, float]:
    """Coverage and mean size of prediction sets.

    Parameters
    ----------
    true
        Labels, (n_cells,).
    sets
        Labels separated by " | ", as :func:`epifoundation.tl.annotate` writes them, (n_cells,).

    Returns
    -------
    The fraction of cells whose set contains the true label, and the mean number of labels in a set.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.metrics.conformal_coverage(["B", "T"], ["B", "B | NK"])
    (0.5, 1.5)
    """
    true, sets = _same_shape(true, sets)
    members = [set(str(text).split(SEPARATOR)) - {""} for text in sets]
    inside = [str(label) in labels for label, labels in zip(true, members, strict=True)]
    return float(np.mean(inside)), float(np.mean([len(labels) for labels in members]))


def _same_shape(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    _check_same_names(a, b)
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not a.size:
        msg = f"Expected two arrays of the same shape with entries, got {a.shape} and {b.shape}."
        raise ValueError(msg)
    is_missing = pd.isna(a) | pd.isna(b)
    if is_missing.any():
        n_missing = int(is_missing.reshape(len(a), -1).any(axis=1).sum())
        msg = f"Values of {n_missing:,} of {len(a):,} cells are missing: leave these cells out."
        raise ValueError(msg)
    return a, b


def _check_same_names(a: Any, b: Any, *, index: bool = True, columns: bool = True) -> None:
    """Raise ValueError if two tables of pandas have different rows or columns."""
    pandas = pd.Series | pd.DataFrame
    if not isinstance(a, pandas) or not isinstance(b, pandas):
        return
    axes = [("index", a.index, b.index)] if index else []
    if columns and isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        axes.append(("columns", a.columns, b.columns))
    for name, one, other in axes:
        if any(isinstance(each, pd.RangeIndex) for each in (one, other)) or len(one) != len(other):
            continue
        differs = np.flatnonzero(np.asarray(one.astype(str) != other.astype(str)))
        if len(differs):
            i = int(differs[0])
            msg = f"{len(differs):,} of {len(one):,} names in `{name}` differ, first {one[i]!r} "
            msg += f"and {other[i]!r} (number {i}): take the rows and columns of one by the names "
            msg += "of the other, or pass arrays (`.to_numpy()`) if the order is the same."
            raise ValueError(msg)
