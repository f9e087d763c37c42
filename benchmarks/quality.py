"""Quality on a held-out batch: pretrain on some batches of SNARE-seq cortex, embed another from ATAC alone.

    python benchmarks/quality.py ../shared/data/snare_cortex_mm10.h5mu
    python benchmarks/quality.py DATA.h5mu --train 09A 09B --validate 09C --test 09D

LSI (50), the classifiers on both embeddings and ridge are fitted on the same training cells in the same run; the
validation batch serves to choose our epoch, and nothing else, unless `--fit-on-validation`. Labels without `Mis`. Expression is log1p of counts per
10,000, and per 1,000 beside it. Prints a table with the ratio to LSI.
"""

import argparse
import multiprocessing as mp
import resource
import tempfile
import time
import warnings
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import torch
from baselines import logistic, lsi, nearest, ridge, standardise
from threadpoolctl import threadpool_limits

import epifoundation as ep

SCALES = (1e4, 1e3)  # counts a cell is scaled to before the logarithm


def main():
    """Read arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--train", nargs="+", default=["09A", "09B", "09C", "09D", "09E", "09F", "09G"])
    parser.add_argument("--validate", nargs="+", default=["09H"])
    parser.add_argument("--test", nargs="+", default=["09I"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--fit-on-validation", action="store_true", help="give LSI, ridge and the probes that batch too"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(1, user_api="blas")  # small regressions; what is timed runs in a process of its own
    warnings.filterwarnings("ignore", category=FutureWarning)
    ep.settings.progress = False
    mdata = read(args.path, [*args.train, *args.validate, *args.test])
    fitted = [*args.train, *args.validate] if args.fit_on_validation else args.train
    tables = [run(mdata, fitted, args.validate, args.test, seed) for seed in args.seeds]
    table = pd.concat(tables).groupby(level=0, sort=False).mean()
    print(f"\ntrain {args.train}, validate {args.validate}, test {args.test}, seeds {args.seeds}")
    print(f"LSI, ridge and probes fitted on {fitted}")
    print(table.to_string(float_format="{:.3f}".format))


def read(path, batches):
    """Cells of the batches that have a label and open peaks."""
    mdata = mudata.read_h5mu(path)
    obs = mdata["atac"].obs
    keep = obs["batch"].isin(batches) & (obs["cell_type"] != "Mis") & (mdata["atac"].X.getnnz(axis=1) > 0)
    return mdata[keep.to_numpy()].copy()


def run(mdata, train, validate, test, seed):
    """Scores of both methods, and their ratio, as a table; `train` is what LSI, ridge and the probes are fitted on."""
    folder = Path(tempfile.mkdtemp())
    mdata[~mdata["atac"].obs["batch"].isin(test).to_numpy()].copy().write_h5mu(folder / "known.h5mu")
    with mp.get_context("spawn").Pool(1) as pool:  # a process of its own, so that its memory can be told
        seconds, gigabytes = pool.apply(pretrain, (folder, validate, seed, torch.get_num_threads()))
    model = ep.models.from_pretrained(folder / "model")

    mdata = mdata[mdata["atac"].obs["batch"].isin([*train, *test]).to_numpy()].copy()
    atac, counts = mdata["atac"].copy(), mdata["rna"].X.toarray()
    is_train = atac.obs["batch"].isin(train).to_numpy()
    labels = atac.obs["cell_type"].astype(str).to_numpy()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    measured = {scale: np.log1p(scale * share) for scale in SCALES}

    components = lsi(atac.X.tocsr(), is_train)
    theirs = {scale: ridge(components, measured[scale], is_train) for scale in SCALES}
    ep.tl.embed(atac, model)
    embedding = standardise(atac.obsm["X_epifoundation"], is_train)
    predicted = atac.obsm["epifoundation_expression"].reindex(columns=mdata["rna"].var_names).fillna(0)[~is_train]
    ours = {scale: np.log1p(scale / 1e4 * np.expm1(predicted.to_numpy())) for scale in SCALES}
    rows = {
        "LSI": scores(components, theirs, labels, measured, is_train),
        "epifoundation": scores(embedding, ours, labels, measured, is_train),
    }
    rows["epifoundation"] |= {"train s": seconds, "train GB": gigabytes}
    table = pd.DataFrame(rows).T
    table.loc["ratio"] = table.loc["epifoundation"] / table.loc["LSI"]
    return table


def pretrain(folder, validate, seed, threads):
    """Pretrain and save; give back the seconds and the peak memory of this process in GB."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    ep.settings.progress = False
    known = mudata.read_h5mu(folder / "known.h5mu")
    began = time.perf_counter()
    model = ep.tl.pretrain(known, batch_key="batch", validation=validate, genome="mm10", rng=seed)
    seconds = time.perf_counter() - began
    model.save_pretrained(folder / "model")
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def scores(embedding, predicted, labels, measured, is_train):
    """Annotation by two classifiers on the embedding, and correlation of the predicted expression."""
    true, row = labels[~is_train], {}
    for name, classify in (("LR", logistic), ("15-NN", nearest)):
        guess = classify(embedding, labels, is_train)
        row |= {f"{name} acc": ep.metrics.accuracy(true, guess), f"{name} F1": ep.metrics.macro_f1(true, guess)}
    for scale in SCALES:
        truth = measured[scale][~is_train]
        row[f"Pearson {scale:.0e}"] = ep.metrics.pearson_per_gene(truth, predicted[scale], min_cells=30)
    return row


if __name__ == "__main__":
    main()
