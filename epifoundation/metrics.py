"""Scores of annotations and predicted expression: arrays in, floats out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._keys import SEPARATOR


def accuracy(true: ArrayLike, predicted: ArrayLike) -> float:
    """Fraction of cells with the right label.

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
    """Mean over labels of the F1 score, so that rare labels count as much as frequent ones.

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
    """Mean over genes of the correlation, across cells, of true and predicted expression.

    Parameters
    ----------
    true, predicted
        Expression, (n_cells, n_genes).
    min_cells
        Leave out genes with a true value above zero in fewer cells.

    Returns
    -------
    A number in [-1, 1]. A gene that is constant in the truth is left out; one that is constant in the
    prediction counts as 0.

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
    kept = ((true > 0).sum(axis=0) >= min_cells) & (true.std(axis=0) > 0)
    if not kept.any():
        msg = f"No gene varies and is expressed in at least `min_cells` ({min_cells}) of the {len(true)} cells."
        raise ValueError(msg)
    a, b = (x[:, kept] - x[:, kept].mean(axis=0) for x in (true, predicted))
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(np.mean((a * b).sum(axis=0) / np.maximum(norm, 1e-12)))


def expected_calibration_error(
    true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, *, n_bins: int = 15
) -> float:
    """Mean distance between confidence and accuracy, over bins of equal width (Guo et al. 2017).

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


def risk_coverage(true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Error among the surest cells, for every number of them (El-Yaniv & Wiener 2010).

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,).
    confidence
        How sure each prediction is, on any scale, (n_cells,).

    Returns
    -------
    Coverage, the fraction of the cells that is annotated, and risk, the fraction of these that is wrong; both (n_cells,). Cells that are
    equally sure are taken together, so the order of the cells does not matter.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.metrics.risk_coverage(["B", "T", "T", "B"], ["B", "T", "B", "T"], [0.9, 0.8, 0.7, 0.6])[1].round(2)
    array([0.  , 0.  , 0.33, 0.5 ])
    """
    true, predicted = _same_shape(true, predicted)
    confidence = np.asarray(confidence, dtype=np.float64)
    _same_shape(true, confidence)
    _, tie, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(tie, true != predicted)
    # Within a tie the error rises evenly: that is its mean over all orders.
    steps = np.repeat(wrong / size, size)
    taken = np.arange(1, len(true) + 1)
    return taken / len(true), np.cumsum(steps) / taken


def area_under_risk_coverage(true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike) -> float:
    """Mean risk over all coverages (:func:`risk_coverage`): low when the surest predictions are right.

    Parameters
    ----------
    true, predicted
        Labels, (n_cells,).
    confidence
        How sure each prediction is, on any scale, (n_cells,).

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
    """How often sets of labels hold the true one, and how large they are.

    Parameters
    ----------
    true
        Labels, (n_cells,).
    sets
        Labels with " | " between them, as :func:`epifoundation.tl.annotate` writes them, (n_cells,).

    Returns
    -------
    The fraction of cells whose set holds the true label, and the mean number of labels in a set.

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
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not a.size:
        msg = f"Expected two arrays of the same shape with entries, got {a.shape} and {b.shape}."
        raise ValueError(msg)
    return a, b
