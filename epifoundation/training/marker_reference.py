"""Labels from marker genes: types of the clusters of a model, and a head for simulated cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .._keys import UNKNOWN_LABEL
from .._warn import warn
from ..models import EpiFoundation
from .components import PER_CELL, same_bits
from .marker_table import Markers, read_markers
from .model_clusters import ModelClusters, clusters_of

ENOUGH = 1.0  # evidence that a type needs, in standard deviations
SHARPNESS = 3.0  # of the softmax: a deviation more makes a type 20 times as probable
N_CELLS, HELD = 6_000, 3  # simulated cells, of which each third is for calibration
MIN_DEVIATION = 0.05  # of the expression of a gene, so that genes that hardly vary do not count
MIN_CELLS = 10  # of a type, simulated


def with_marker_labels(
    model: EpiFoundation, markers: Markers, rng: np.random.Generator
) -> tuple[EpiFoundation, dict[str, Any]]:
    """`model` with a head for types that are defined by markers, and a report.

    Raises
    ------
    ValueError
        What :func:`.marker_table.read_markers` raises; the model has no clusters with expression;
        no cluster has enough evidence for a type.
    """
    clusters = clusters_of(model, "a reference of markers")
    table = read_markers(markers, model.genes)
    types = list(dict.fromkeys(table["type"]))
    shares = clusters.shares
    with same_bits():
        expression = standardized_expression(clusters)
        likely = type_probabilities(evidence_of(expression, table, types))
    names = [*types, UNKNOWN_LABEL]
    cluster_of = rng.choice(len(shares), N_CELLS, p=shares)
    codes = (likely[cluster_of].cumsum(axis=1) > rng.random((N_CELLS, 1))).argmax(axis=1)
    is_held = np.arange(N_CELLS) % HELD == 0
    found = np.bincount(codes[~is_held], minlength=len(names)) >= MIN_CELLS
    absent = [name for name, is_found in zip(types, found, strict=False) if not is_found]
    if found[:-1].sum() < 1 or found.sum() < 2:
        msg = f"No more than {int(found.sum())} of {names} have evidence in the model "
        msg += f"{model.name!r}: its cells may be of other types. Use markers of the tissue of the "
        msg += "model, or more of them."
        raise ValueError(msg)
    if absent:
        warn(
            f"In no cells of the model is the evidence for {absent} enough or the best: these "
            "types are not assigned. Add markers, or use a model with such cells."
        )
    kept = found[codes]
    new = found.cumsum() - 1
    fitted = clusters.with_labels(
        np.eye(len(shares))[cluster_of[kept]],
        new[codes[kept]],
        is_held[kept],
        [name for name, is_found in zip(names, found, strict=True) if is_found],
        rng,
    )
    return fitted, {
        "reference": "markers",
        "markers": contributions(expression, table, likely, shares),
        "types_without_cells": absent,
        "evidence_threshold": ENOUGH,
        "calibrated_on": "nothing: there are no labelled cells. Probabilities are those that the "
        "markers give to clusters of the model, and say how well open peaks tell these apart",
    }


def standardized_expression(clusters: ModelClusters) -> np.ndarray:
    """Expression of the clusters, each gene standardized over the cells of the model.

    Of ``log1p`` of counts per 10,000 (of a model of values, of values), (n_clusters, n_genes).
    """
    profiles, shares = clusters.profiles(np.arange(len(clusters.model.genes))), clusters.shares
    if clusters.is_of_counts:
        profiles = np.log1p(PER_CELL * profiles)
    around = profiles - shares @ profiles
    return around / (np.sqrt(shares @ around**2) + MIN_DEVIATION)


def evidence_of(expression: np.ndarray, table: pd.DataFrame, types: list[str]) -> np.ndarray:
    """Weighted mean of the expression of the markers, (n_clusters, n_types).

    Over the weights of positive markers: negative ones are subtracted from their mean.
    """
    evidence = []
    for name in types:
        rows = table[table["type"] == name]
        weights = rows["weight"].to_numpy()
        evidence.append(
            expression[:, rows["position"]]
            @ weights
            / (weights.clip(min=0).sum() or -weights.sum())
        )
    return np.stack(evidence, axis=1)


def type_probabilities(evidence: np.ndarray) -> np.ndarray:
    """Softmax of the evidence; the last column is for no type, whose evidence is `ENOUGH`."""
    every = np.column_stack([evidence, np.full(len(evidence), ENOUGH)])
    every = np.exp(SHARPNESS * (every - every.max(axis=1, keepdims=True)))
    return every / every.sum(axis=1, keepdims=True)


def contributions(
    expression: np.ndarray, table: pd.DataFrame, likely: np.ndarray, shares: np.ndarray
) -> pd.DataFrame:
    """The markers, with their mean standardized expression in the clusters of their type.

    ``expression`` is in standard deviations over the cells of the model; ``contribution`` is its
    product with the weight: a marker with a negative one speaks against its type. NaN for types
    without clusters.
    """
    types = list(dict.fromkeys(table["type"]))
    share = likely[:, :-1] * shares[:, None]
    total = share.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(total[:, None] > 1e-3, share.T @ expression / total[:, None], np.nan)
    rows = [types.index(name) for name in table["type"]]
    found = means[rows, table["position"]]
    return pd.DataFrame(
        {
            "cell_type": table["type"].to_numpy(object),
            "gene": table["gene"].to_numpy(object),
            "weight": table["weight"].to_numpy(),
            "expression": found,
            "contribution": found * table["weight"].to_numpy(),
        },
        index=np.arange(len(table)).astype(str),
    )
