"""Annotation of a held-out batch from ATAC alone: how right, how well calibrated, and what is told to be unknown.

    python benchmarks/annotation.py ../shared/data/snare_cortex_mm10.h5mu
    python benchmarks/annotation.py DATA.h5mu --train 09A 09D --calibrate 09C --test 09B
    python benchmarks/annotation.py ../shared/data/granja_bmmc_atac_hg19.h5ad --atac-only

The encoder learns from the training batches with their RNA, and its epoch is chosen on the calibration batch. `ep.tl.annotate` learns
the labels from the training batches and calibrates on the calibration batch; the baselines learn from the same training cells, and
the softmax of LSI gets a temperature on the same calibration cells. Labels without `Mis`. PeakVI is there if scvi-tools is installed.

**Unknown**: each of the most frequent labels is left out of the reference (training and calibration) in turn; the area under the
ROC curve of "not in the reference" by the novelty score, and by the maximum softmax of the same head. The encoder saw these cells,
without labels.
"""

import argparse
import time
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from baselines import logistic, lsi, nearest, peakvi, standardise, svm, tempered
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import epifoundation as ep


def main():
    """Read arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument(
        "--atac-only", action="store_true", help="an AnnData: pretrain on peaks, then fine-tune for labels; see `alone`"
    )
    parser.add_argument("--train", nargs="+", default=["09A", "09B", "09C", "09D", "09E", "09F", "09G"])
    parser.add_argument("--calibrate", nargs="+", default=["09H"])
    parser.add_argument("--test", nargs="+", default=["09I"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--left-out", type=int, default=5, help="labels that are left out in turn")
    parser.add_argument("--peakvi-epochs", type=int, help="most epochs of PeakVI; default its own")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(1, user_api="blas")
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    if args.atac_only:
        tables = [alone(anndata.read_h5ad(args.path), seed) for seed in args.seeds]
        print(f"{args.path}, split and seeds {args.seeds}")
        print(pd.concat(tables).groupby(level=0, sort=False).mean().to_string(float_format="{:.3f}".format, na_rep=""))
        return
    mdata = mudata.read_h5mu(args.path)
    obs = mdata["atac"].obs
    batches = [*args.train, *args.calibrate, *args.test]
    keep = obs["batch"].isin(batches) & (obs["cell_type"] != "Mis") & (mdata["atac"].X.getnnz(axis=1) > 0)
    mdata = mdata[keep.to_numpy()].copy()
    is_test = mdata["atac"].obs["batch"].isin(args.test).to_numpy()
    runs = [run(mdata, is_test, args, seed) for seed in args.seeds]
    print(f"train {args.train}, calibrate {args.calibrate}, test {args.test}, seeds {args.seeds}")
    for tables in zip(*runs, strict=True):
        table = pd.concat(tables).groupby(level=0, sort=False).mean()
        print(table.to_string(float_format="{:.3f}".format, na_rep=""), end="\n\n")


def run(mdata, is_test, args, seed):
    """Scores of all methods, and of the unknown, as two tables."""
    known, query = mdata[~is_test].copy(), ATAC(mdata, is_test)
    model = ep.tl.pretrain(known, batch_key="batch", validation=args.calibrate, genome="mm10", rng=seed)
    true = query.obs["cell_type"].astype(str).to_numpy()
    reference = ATAC(mdata, ~is_test)
    options = {"label_key": "cell_type", "batch_key": "batch", "calibration": args.calibrate}
    ep.tl.embed(reference, model, expression=False)
    ep.tl.annotate(query, model, reference=reference, unknown=0, **options)
    rows = {"epifoundation": ours(query.obs, true)}
    marked = ep.tl.annotate(query, model, reference=reference, copy=True, **options).obs
    rows["  with 5 % unknown"] = ours(marked, true)
    rows |= baselines(mdata["atac"], is_test, args.calibrate, seed, args.peakvi_epochs)
    table = pd.DataFrame(rows).T
    table.loc["over LSI + LR"] = table.loc["epifoundation"] / table.loc["LSI + LR"]

    labels = reference.obs["cell_type"].astype(str)
    left_out = {}
    for label in labels.value_counts().index[: args.left_out]:
        part = ep.tl.annotate(
            query, model, reference=reference[(labels != label).to_numpy()].copy(), unknown=0.05, copy=True, **options
        ).obs
        flagged = part["epifoundation_cell_type"] == "unknown"
        left_out[label] = {
            "novelty": roc_auc_score(true == label, part["epifoundation_novelty"]),
            "maximum softmax": roc_auc_score(true == label, -part["epifoundation_confidence"]),
            "called unknown": flagged[true == label].mean(),
            "others called unknown": flagged[true != label].mean(),
        }
    unknown = pd.DataFrame(left_out).T
    unknown.loc["mean"] = unknown.mean()
    return table, unknown


def alone(atac, seed):
    """Cells of one donor without RNA: 60 % to learn from, 10 % to choose with and to calibrate on, 30 % to test."""
    part = np.random.default_rng(seed).choice(["train", "held", "test"], atac.n_obs, p=[0.6, 0.1, 0.3])
    atac.obs["part"] = part
    is_test, is_held = part == "test", part == "held"
    known, query = atac[~is_test].copy(), atac[is_test].copy()
    true, rows = query.obs["cell_type"].astype(str).to_numpy(), {}
    options = {"batch_key": "part", "validation": ["held"], "rng": seed}
    base = ep.tl.pretrain(known, objective="peaks", genome="hg19", **options)
    began = time.perf_counter()
    tuned = ep.tl.finetune(known, base, label_key="cell_type", **options)
    seconds = time.perf_counter() - began
    whole = ep.tl.finetune(known, base, label_key="cell_type", rank=None, **options)
    labels = atac.obs["cell_type"].astype(str).to_numpy()
    for name, model in (("pretrained on peaks", base), ("fine-tuned, rank 8", tuned), ("fine-tuned, whole", whole)):
        z = standardise(ep.tl.embed(atac, model, annotation=False, copy=True).obsm["X_epifoundation"], part == "train")
        rows[f"{name} + LR"] = scores(true, logistic(z[~is_held], labels[~is_held], ~is_test[~is_held]))
        if model.labels:
            told = ep.tl.annotate(query, model, unknown=0, copy=True).obs
            guess = told["epifoundation_cell_type"].astype(str)
            rows[f"{name}, own head"] = scores(true, guess, told["epifoundation_confidence"])
    rows["fine-tuned, rank 8, own head"]["s"] = seconds
    matrix = sp.csr_matrix(atac.X > 0, dtype=np.float32)
    components = lsi(matrix, part == "train")
    rows["LSI + LR"] = scores(true, logistic(components[~is_held], labels[~is_held], ~is_test[~is_held]))
    rows["linear SVM, binary peaks"] = scores(true, svm(matrix, labels, part == "train", is_held, is_test))
    return pd.DataFrame(rows).T


def ATAC(mdata, rows):  # noqa: N802
    """Cells without their RNA."""
    return mdata["atac"][rows].copy()


def ours(obs, true):
    """Scores of what `annotate` wrote."""
    guess = obs["epifoundation_cell_type"].astype(str).to_numpy()
    covered, size = ep.metrics.conformal_coverage(true, obs["epifoundation_set"].to_numpy())
    return scores(true, guess, obs["epifoundation_confidence"]) | {"sets cover": covered, "labels a set": size}


def scores(true, guess, confidence=None):
    """Accuracy, macro-F1 and, with a confidence, calibration and the area under risk and coverage."""
    row = {"accuracy": ep.metrics.accuracy(true, guess), "macro-F1": ep.metrics.macro_f1(true, guess)}
    if confidence is not None:
        row["ECE"] = ep.metrics.expected_calibration_error(true, guess, confidence)
        row["risk-coverage"] = ep.metrics.area_under_risk_coverage(true, guess, confidence)
    return row


def baselines(atac, is_test, calibrate, seed, max_epochs=None):
    """What people would use instead, on the same training cells."""
    labels, batch = atac.obs["cell_type"].astype(str).to_numpy(), atac.obs["batch"]
    is_held = batch.isin(calibrate).to_numpy()
    is_train = ~is_test & ~is_held
    fitted = is_train[~is_held]  # the calibration cells are left out of what is fitted
    matrix = sp.csr_matrix(atac.X)
    matrix.data[:] = 1
    components = lsi(matrix, is_train)
    true, rows = labels[is_test], {}
    guess, confidence = tempered(components, labels, is_train, is_held, is_test)
    rows["LSI + LR"] = scores(true, guess, confidence)
    rows["LSI + 15-NN"] = scores(true, nearest(components[~is_held], labels[~is_held], fitted))
    rows["linear SVM, binary peaks"] = scores(true, svm(matrix, labels, is_train, is_held, is_test))
    try:
        latent = peakvi(atac, is_train, seed, max_epochs=max_epochs)
    except ImportError:
        return rows
    rows["PeakVI + LR"] = scores(true, logistic(latent[~is_held], labels[~is_held], fitted))
    return rows


if __name__ == "__main__":
    main()
