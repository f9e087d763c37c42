"""Data as deep as a 10x multiome: what training takes, and whether cells that a model learned from lie apart from new ones.

    python benchmarks/deep.py                 # 8,000 cells x 120,000 peaks x 20,000 genes, 14 types of unequal size, 4 donors, one held out
    python benchmarks/deep.py --cells 1000    # fewer, to try it
    python benchmarks/deep.py --jobs svd rna  # of: svd, rna (ATAC and RNA), atac (ATAC alone)

Each job is a process of its own. Seconds are also given in units of scikit-learn's randomised SVD (50 components) of the TF-IDF of the same matrix
in the same run. Labels, unknown cells and the random forest are of all cells together, embedded and annotated in one call.
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
JUDGED = 3_000  # cells that the random forest sees
JOBS = ("svd", "rna", "atac")


def simulate(n_cells, path):
    """Types whose sizes fall as one over their rank."""
    import epifoundation as ep
    import epifoundation.tl  # before a clock starts

    weights = 1 / np.arange(1, N_TYPES + 1)
    options = {"n_types": N_TYPES, "n_batches": N_DONORS, "type_weights": weights}
    depth = {"median_fragments": 7_200, "median_counts": 5_000}
    ep.datasets.simulate_multiome(n_cells, N_PEAKS, N_GENES, **options, **depth, rng=0).write(path)


def learned_from(mdata):
    return (mdata["atac"].obs["batch"] != HELD).to_numpy()


def svd(mdata):
    from sklearn.utils.extmath import randomized_svd

    X = sp.csr_matrix(mdata["atac"].X[learned_from(mdata)] > 0, dtype=np.float32)
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
    import epifoundation.tl  # before a clock starts

    known = learned_from(mdata)
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
    called, true = (
        atac.obs[name].astype(str).to_numpy() for name in ("epifoundation_cell_type", "cell_type")
    )
    for name, cells in (("learned from", known), ("held out", ~known)):
        found[f"accuracy, {name}"] = float((called == true)[cells].mean())
        found[f"unknown, {name}"] = float((called == "unknown")[cells].mean())
    rng = np.random.default_rng(0)
    n_each = min(JUDGED // 2, known.sum(), (~known).sum())
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(side), n_each, replace=False) for side in (known, ~known)]
    )
    forest = RandomForestClassifier(200, n_jobs=int(THREADS), random_state=0)
    scores = cross_val_score(
        forest, atac.obsm["X_epifoundation"][rows], known[rows], cv=5, scoring="roc_auc"
    )
    return found | {"AUROC, learned from": float(scores.mean())}


def work(job, path, device):
    import epifoundation as ep
    import epifoundation.tl  # before a clock starts

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
    parser.add_argument("--minutes", type=float, default=45, help="after which a job is ended")
    parser.add_argument(
        "--device",
        default="cpu",
        help="that the models are measured on; the SVD is always of the CPU",
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
        table.insert(1, "in SVDs", table["seconds"] / rows["svd"]["seconds"])
    print(
        f"\n{options.cells:,} cells; {THREADS} threads, {options.device}\n{table.round(3).to_string()}"
    )


if __name__ == "__main__":
    main()
