"""The tasks: functions of a split and a fitted method that return ``{metric: value}``."""

import time
import warnings

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from methods import Fitted, bare
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from splits import Split

import epifoundation as ep

MIN_CELLS = 30  # genes expressed in fewer cells are not scored
INTEGRATION_CELLS = 1_200  # all cells would take up to eleven minutes per fold


def annotation(split: Split, fitted: Fitted) -> dict[str, float]:
    """Accuracy and calibration of the labels of the test cells."""
    true = split.labels[split.test]
    guess, probabilities = fitted.labels(split.atac[split.test].copy())
    row = {
        "accuracy": ep.metrics.accuracy(true, guess),
        "macro-F1": ep.metrics.macro_f1(true, guess),
    }
    if probabilities is not None:
        confidence = np.nan_to_num(probabilities.max(axis=1))
        row["ECE"] = ep.metrics.expected_calibration_error(true, guess, confidence)
        row["risk–coverage"] = ep.metrics.area_under_risk_coverage(true, guess, confidence)
    return row


def risk_curve(split: Split, fitted: Fitted) -> list[float] | None:
    """Error among the most confident 5, 10, ..., 100 % of the cells."""
    true = split.labels[split.test]
    guess, probabilities = fitted.labels(split.atac[split.test].copy())
    if probabilities is None:
        return None
    coverage, risk = ep.metrics.risk_coverage(true, guess, np.nan_to_num(probabilities.max(axis=1)))
    return [
        float(risk[np.searchsorted(coverage, at - 1e-9)]) for at in np.arange(0.05, 1.001, 0.05)
    ]


def clustering(split: Split, fitted: Fitted) -> dict[str, float]:
    """Leiden clusters of the test cells (resolution 1, 15 neighbours) against the labels."""
    cells = AnnData(obs=split.atac.obs[split.test].copy())
    cells.obsm["X"] = np.nan_to_num(fitted.embed(split.atac[split.test].copy())).astype(np.float32)
    sc.pp.neighbors(cells, use_rep="X", n_neighbors=15, random_state=0)
    sc.tl.leiden(cells, resolution=1.0, flavor="igraph", n_iterations=2, random_state=0)
    true, found = split.labels[split.test], cells.obs["leiden"].to_numpy()
    row = {
        "NMI": normalized_mutual_info_score(true, found),
        "ARI": adjusted_rand_score(true, found),
    }
    return row | neighbours(split, np.nan_to_num(fitted.embed(split.atac.copy())))


def neighbours(split: Split, embedding: np.ndarray) -> dict[str, float]:
    """Labels by the 15 nearest known cells, and separation of known from test cells.

    Separation is the fraction of known cells among the 15 nearest neighbours of test cells,
    relative to their fraction of all cells; and the AUROC of a random forest that distinguishes
    them within a type, averaged over the four types with most test cells.
    """
    known, test, labels = split.known, split.test, split.labels
    guess = KNeighborsClassifier(15).fit(embedding[known], labels[known]).predict(embedding[test])
    near = (
        NearestNeighbors(n_neighbors=16)
        .fit(embedding)
        .kneighbors(embedding[test], return_distance=False)[:, 1:]
    )
    areas, rng = [], np.random.default_rng(0)
    for label in pd.Series(labels[test]).value_counts().index[:4]:
        new, old = (
            np.flatnonzero(test & (labels == label)),
            np.flatnonzero(known & (labels == label)),
        )
        rows = np.concatenate([new, rng.permutation(old)[: 2 * len(new)]])
        forest = RandomForestClassifier(100, random_state=0)
        likely = cross_val_predict(
            forest, embedding[rows], known[rows], cv=5, method="predict_proba"
        )[:, 1]
        areas.append(roc_auc_score(known[rows], likely))
    return {
        "15-NN accuracy": ep.metrics.accuracy(labels[test], guess),
        "15-NN macro-F1": ep.metrics.macro_f1(labels[test], guess),
        "training cells among neighbours": float(known[near].mean() / known.mean()),
        "training vs. test, AUROC": float(np.mean(areas)),
    }


def expression(split: Split, fitted: Fitted) -> dict[str, float]:
    """Predicted against measured expression, on the scale of `Split.expression`."""
    true = split.expression[split.test]
    predicted = fitted.expression(split.atac[split.test].copy())
    lowest = true.min(axis=0)  # smoothed values are never 0: expressed means above the median
    is_on = true > lowest if split.counts else true > np.median(true, axis=0)
    scored = (is_on.sum(axis=0) >= MIN_CELLS) & (is_on.sum(axis=0) < len(true))
    return {
        "per gene": ep.metrics.pearson_per_gene(true, predicted, min_cells=MIN_CELLS),
        "per cell": ep.metrics.pearson_per_cell(true, predicted),
        "pooled": ep.metrics.pearson_pooled(true, predicted),
        "cell types": ep.metrics.pearson_pseudobulk(true, predicted, split.labels[split.test]),
        "AUROC": float(
            np.mean([roc_auc_score(is_on[:, g], predicted[:, g]) for g in np.flatnonzero(scored)])
        ),
    }


def robustness(split: Split, fitted: Fitted) -> dict[str, float]:
    """Accuracy if test cells have fewer fragments, or peaks shifted by up to 100 bp."""
    cells, true, row = split.atac[split.test].copy(), split.labels[split.test], {}
    changed = {f"{lost:.0%} fewer fragments": thinned(cells, lost) for lost in (0.5, 0.75, 0.9)}
    changed["shifted peaks"] = shifted(cells, 100)
    for name, others in changed.items():
        others.uns["changed"] = name
        row[name] = ep.metrics.accuracy(true, fitted.labels(others)[0])
    return row


def cost(split: Split, fitted: Fitted) -> dict[str, float]:
    """Size of the model, and cells embedded per second (all cells, the best of three runs)."""
    row = {"model MB": fitted.n_bytes / 1e6}
    if fitted.embed is not None and fitted.n_bytes:
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            fitted.embed(split.atac)
            seconds.append(time.perf_counter() - began)
        row["embed cells/s"] = split.atac.n_obs / min(seconds)
    return row


def integration(split: Split, embeddings: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Scores of scib-metrics on the same cells for all methods, with LSI as unintegrated."""
    drawn = np.sort(np.random.default_rng(0).permutation(split.atac.n_obs)[:INTEGRATION_CELLS])
    cells = bare(split.atac[drawn].copy())
    names = {f"method {i}": name for i, name in enumerate(embeddings)}
    for key, name in names.items():
        cells.obsm[key] = embeddings[name][drawn].astype(np.float32)
    cells.obsm["before"] = embeddings["LSI"][drawn].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ep.tl.score_integration(
            cells,
            batch_key="batch",
            label_key="cell_type",
            embeddings=list(names),
            unintegrated="before",
            n_jobs=1,
        )
    table = cells.uns["epifoundation_integration"].loc[list(names)]
    kept = ["Bio conservation", "Batch correction", "Total"]
    return {names[key]: {column: float(table.loc[key, column]) for column in kept} for key in names}


def thinned(atac: AnnData, lost: float) -> AnnData:
    """Remove each fragment with probability `lost`."""
    X = sp.csr_matrix(atac.X).copy()
    X.data = np.random.default_rng(0).binomial(X.data.astype(int), 1 - lost).astype(np.float32)
    X.eliminate_zeros()
    return AnnData(X, obs=atac.obs.copy(), var=atac.var.copy())


def shifted(atac: AnnData, bases: int) -> AnnData:
    """Shift each peak independently by up to `bases`."""
    frame = ep.genome.parse_intervals(atac.var_names)
    shift = np.random.default_rng(0).integers(-bases, bases + 1, len(frame))
    start, end = (
        np.maximum(frame[side].to_numpy() + shift, at) for side, at in (("start", 0), ("end", 1))
    )
    names = (
        frame["chrom"].astype(str)
        + ":"
        + pd.Series(start.astype(str))
        + "-"
        + pd.Series(end.astype(str))
    )
    first = ~names.duplicated().to_numpy()
    return AnnData(
        sp.csr_matrix(atac.X)[:, first],
        obs=atac.obs.copy(),
        var=pd.DataFrame(index=names[first].to_numpy()),
    )
