"""Annotation of ATAC by a reference of RNA alone, on held-out batches of SNARE-seq cortex.

    python benchmarks/rna_reference.py --folds 09A 09C 09G

Of the eight batches that are not the test batch, four are paired and without labels, and an encoder
is fitted to them (the last one is for validation). The other four are the reference (the last one
is for calibration). Methods use, of the reference, RNA and labels only:

- RNA reference: `ep.tl.annotate(reference=)` with an AnnData of RNA;
- gene activity: logistic regression, fitted to RNA and applied to `ep.tl.gene_activity`, each gene
  standardized in the reference and in the test batch; penalty and temperature from the calibration
  batch.

For comparison, the same reference with its open peaks, and with the RNA of the test batch (a
logistic regression between RNA and RNA: what labels can be known from expression). Markers are the
ten genes that stand out most in the RNA of each label of the reference: in `ep.tl.annotate`, and as
mean standardized gene activity. `unknown` by novelty is not used; cells that are `unknown` by
markers count as wrong. The table is printed and written to `results/rna_reference.json`.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from baselines import tempered_logistic
from mudata import MuData
from splits import Split, log_scale, snare

import epifoundation as ep

N_MARKERS, MIN_CELLS = 10, 20  # markers of a label, and cells that it needs
RESULTS = Path(__file__).parent / "results" / "rna_reference.json"


def main():
    """Run all folds, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", nargs="+", default=["09A", "09C", "09G"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    rows = [row for fold in options.folds for row in run(snare(fold), fold, options.seed)]
    table = pd.DataFrame(rows)
    columns = [name for name in table if name not in ("fold", "method")]
    print(table.groupby("method", sort=False)[columns].mean().round(3).to_string())
    options.output.write_text(json.dumps(rows, indent=1) + "\n")


def run(split: Split, fold: str, seed: int = 0) -> list[dict]:
    """A row of scores for each method."""
    batch = split.atac.obs["batch"].astype(str).to_numpy()
    names = sorted(set(batch))
    at = names.index(fold)
    others = names[at + 1 :] + names[:at]
    paired, known = others[0::2], others[1::2]
    cells = np.isin(batch, paired)
    model = ep.tl.pretrain(
        MuData({"atac": split.atac[cells].copy(), "rna": split.rna[cells].copy()}),
        batch_key="batch",
        validation=[paired[-1]],
        genome=split.genome,
        rng=seed,
    )
    is_reference = np.isin(batch, known)
    obs = pd.DataFrame({"cell_type": split.labels, "batch": batch}, index=split.atac.obs_names)
    query = AnnData(split.atac.X[split.test], obs=obs[["batch"]][split.test], var=split.atac.var)
    references = {"RNA reference": split.rna, "the same cells with ATAC": split.atac}
    rows, true = [], split.labels[split.test]
    for name, part in references.items():
        reference = AnnData(part.X[is_reference], obs=obs[is_reference], var=part.var)
        found = ep.tl.annotate(
            query,
            model,
            reference=reference,
            label_key="cell_type",
            batch_key="batch",
            calibration=[known[-1]],
            rng=seed,
            copy=True,
        )
        table = ep.get.probabilities(found)
        row = scores(true, table.columns.to_numpy(), table.to_numpy())
        sets = found.obs["epifoundation_set"].to_numpy()
        row["coverage of sets"], row["labels per set"] = ep.metrics.conformal_coverage(true, sets)
        row["unknown"] = float((found.obs["epifoundation_cell_type"] == "unknown").mean())
        rows.append({"fold": fold, "method": name, **row})

    held = batch[is_reference] == known[-1]
    activity = ep.tl.gene_activity(query, annotation=split.annotation)
    place = activity.var_names.get_indexer(split.rna.var_names)
    measured = log_scale(split.rna.X.toarray())
    for name, genes, values in (
        ("gene activity", place >= 0, log_scale(activity.X.toarray()[:, place[place >= 0]])),
        ("RNA of the test batch", place >= -1, measured[split.test]),
    ):
        learned = standardized(measured[is_reference][:, genes])
        classes, probabilities = tempered_logistic(learned, split.labels[is_reference], ~held, held)
        row = scores(true, classes, probabilities(standardized(values)))
        rows.append({"fold": fold, "method": name, **row})
    markers = markers_of(measured[is_reference], split.labels[is_reference], split.rna.var_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ep.tl.annotate(query, model, reference=markers, rng=seed, copy=True)
    table = ep.get.probabilities(found)
    row = scores(true, table.columns.to_numpy(), table.to_numpy())
    row["unknown"] = float((found.obs["epifoundation_cell_type"] == "unknown").mean())
    rows.append({"fold": fold, "method": "markers", **row})
    values = pd.DataFrame(standardized(log_scale(activity.X.toarray())), columns=activity.var_names)
    means = {
        name: values[values.columns.intersection(genes)].mean(axis=1)
        for name, genes in markers.items()
    }
    guess = pd.DataFrame(means).idxmax(axis=1).to_numpy()
    row = {"accuracy": ep.metrics.accuracy(true, guess)}
    row["macro-F1"] = ep.metrics.macro_f1(true, guess)
    rows.append({"fold": fold, "method": "markers on gene activity", **row})
    return rows


def markers_of(expression: np.ndarray, labels: np.ndarray, genes: pd.Index) -> dict[str, list]:
    """The genes that stand out most in each label with enough cells."""
    found, deviation = {}, expression.std(axis=0) + 0.1
    for name, n_cells in zip(*np.unique(labels, return_counts=True), strict=True):
        if n_cells >= MIN_CELLS:
            inside = labels == name
            change = expression[inside].mean(axis=0) - expression[~inside].mean(axis=0)
            found[str(name)] = list(genes[np.argsort(-change / deviation)[:N_MARKERS]])
    return found


def scores(true: np.ndarray, classes: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy and calibration of the most probable labels."""
    guess, confidence = classes[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    return {
        "accuracy": ep.metrics.accuracy(true, guess),
        "macro-F1": ep.metrics.macro_f1(true, guess),
        "ECE": ep.metrics.expected_calibration_error(true, guess, confidence),
        "confidence": float(confidence.mean()),
    }


def standardized(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1 over these cells."""
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)


if __name__ == "__main__":
    main()
