"""Training time on data as deep as a 10x multiome, and separation of training from new cells.

    python benchmarks/deep.py                 # all jobs, 8,000 cells
    python benchmarks/deep.py --cells 1000    # fewer cells, for a test
    python benchmarks/deep.py --jobs svd rna  # some of: svd, rna (ATAC and RNA), atac (ATAC alone)

Simulated cells: 120,000 peaks, 20,000 genes, 14 types of unequal size, four donors, one held out.
Each job runs in a separate process. Times are also given relative to scikit-learn's randomized SVD
(50 components) of the TF-IDF of the same matrix in the same run. All cells are embedded and
annotated in one call; a random forest then predicts from the embedding whether a cell was used for
training.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", THREADS)
warnings.filterwarnings("ignore")

import mudata  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from scaling import peak_memory  # noqa: E402

FOLDER = Path(__file__).parents[1] / "build"
N_PEAKS, N_GENES, N_TYPES, N_DONORS = 120_000, 20_000, 14, 4
HELD, VALIDATION = "batch3", "batch2"
FOREST_CELLS = 3_000  # of the random forest
JOBS = ("svd", "rna", "atac")


def simulate(n_cells, path):
    """Simulate cells; the size of a type is proportional to one over its rank."""
    import epifoundation as ep
    import epifoundation.tl  # imported before timing

    weights = 1 / np.arange(1, N_TYPES + 1)
    options = {"n_types": N_TYPES, "n_batches": N_DONORS, "type_weights": weights}
    depth = {"median_fragments": 7_200, "median_counts": 5_000}
    ep.datasets.simulate_multiome(n_cells, N_PEAKS, N_GENES, **options, **depth, rng=0).write(path)


def is_training(mdata):
    return (mdata["atac"].obs["batch"] != HELD).to_numpy()


def svd(mdata):
    from sklearn.utils.extmath import randomized_svd

    X = sp.csr_matrix(mdata["atac"].X[is_training(mdata)] > 0, dtype=np.float32)
    began = time.perf_counter()
    frequency = np.asarray(X.mean(axis=0)).ravel()
    scaled = (
        sp.diags(1 / np.asarray(X.sum(axis=1)).ravel())
        @ X
        @ sp.diags(np.log1p(1 / np.maximum(frequency, 1e-6)))
    )
    randomized_svd(scaled.astype(np.float32), 50, random_state=0)
    return {"seconds": time.perf_counter() - began, "peak GB": peak_memory()}


def train(mdata, device, *, with_rna):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    import epifoundation as ep
    import epifoundation.tl  # imported before timing

    known = is_training(mdata)
    data = mdata[known].copy() if with_rna else mdata["atac"][known].copy()
    options = {} if with_rna else {"objective": "peaks"}
    began = time.perf_counter()
    model = ep.tl.pretrain(
        data,
        batch_key="batch",
        label_key="cell_type",
        validation=[VALIDATION],
        genome="hg38",
        device=device,
        **options,
    )
    found = {"seconds": time.perf_counter() - began, "peak GB": peak_memory()}
    del data
    atac = mdata["atac"]
    ep.tl.annotate(atac, model)
    ep.tl.embed(atac, model, expression=False)
    predicted, true = (
        atac.obs[name].astype(str).to_numpy() for name in ("epifoundation_cell_type", "cell_type")
    )
    for name, cells in (("training", known), ("held out", ~known)):
        found[f"accuracy, {name}"] = float((predicted == true)[cells].mean())
        found[f"unknown, {name}"] = float((predicted == "unknown")[cells].mean())
    rng = np.random.default_rng(0)
    n_each = min(FOREST_CELLS // 2, known.sum(), (~known).sum())
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(side), n_each, replace=False) for side in (known, ~known)]
    )
    forest = RandomForestClassifier(200, n_jobs=int(THREADS), random_state=0)
    scores = cross_val_score(
        forest, atac.obsm["X_epifoundation"][rows], known[rows], cv=5, scoring="roc_auc"
    )
    return found | {"AUROC, training cells": float(scores.mean())}


def work(job, path, device):
    import epifoundation as ep
    import epifoundation.tl  # imported before timing

    ep.settings.progress = False
    mdata = mudata.read_h5mu(path)
    found = svd(mdata) if job == "svd" else train(mdata, device, with_rna=job == "rna")
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=8_000)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--minutes", type=float, default=45, help="time limit of a job")
    parser.add_argument(
        "--device",
        default="cpu",
        help="device for pretraining and annotation; the SVD uses the CPU",
    )
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]), options.device)
        return
    path = FOLDER / f"deep_{options.cells}.h5mu"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        simulate(options.cells, path)
    rows = {}
    for job in options.jobs:
        command = [sys.executable, __file__, "--device", options.device, "--work", job, str(path)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60 * options.minutes, check=True
            )
            rows[job] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            rows[job] = {"seconds": float("inf")}
        print(job, rows[job], flush=True)
    table = pd.DataFrame(rows).T
    if "svd" in rows:
        table.insert(1, "relative to SVD", table["seconds"] / rows["svd"]["seconds"])
    print(f"\n{options.cells:,} cells; {THREADS} threads, {options.device}")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
