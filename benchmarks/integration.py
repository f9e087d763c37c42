"""Batches: what an embedding keeps of cell identity and of batches, by scib-metrics (Luecken et al. 2022).

    pip install -e ".[demo,bench]"
    python benchmarks/integration.py ../shared/data/snare_cortex_mm10.h5mu
    python benchmarks/integration.py --simulate 0.3 1.0 2.0

**SNARE-seq**, all nine batches without `Mis`. Ours learns from the training batches, its epoch is chosen on the validation batch, and the
test batch is new to it; embedding a cell needs no batch. LSI, Harmony and PeakVI learn from all nine, the last two with their batches.
**Simulated** batches, whose effect is the standard deviation of the log shift that each batch gives to each peak and gene (markers of a
type have 2): all methods learn from all cells, ours with a random tenth to choose the epoch.

`epifoundation` learns from paired RNA, `ATAC alone` from the same peaks as the others; `fine-tuned` goes on from the first with batches only.
"""

import argparse
import time
import warnings

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from baselines import harmony, lsi, peakvi
from threadpoolctl import threadpool_limits

import epifoundation as ep


def main():
    """Read arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--validate", nargs="+", default=["09H"])
    parser.add_argument("--test", nargs="+", default=["09I"])
    parser.add_argument("--simulate", nargs="*", type=float, default=[], help="strengths of batch effects")
    parser.add_argument("--peakvi-epochs", type=int, default=40, help="0 leaves PeakVI out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(1, user_api="blas")
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    if args.path:
        mdata = mudata.read_h5mu(args.path)
        keep = (mdata["atac"].obs["cell_type"] != "Mis") & (mdata["atac"].X.getnnz(axis=1) > 0)
        mdata = mdata[keep.to_numpy()].copy()
        known = ~mdata["atac"].obs["batch"].isin(args.test).to_numpy()
        report("SNARE-seq", mdata, known, args.validate, "mm10", args)
    for strength in args.simulate:
        mdata = ep.datasets.simulate_multiome(
            4000, 5000, 300, n_types=8, n_batches=4, batch_effect=strength, median_fragments=400, rng=args.seed
        )
        report(f"simulated, {strength}", mdata, np.ones(mdata.n_obs, bool), 0.1, "unknown", args)


def report(title, mdata, known, validation, genome, args):
    """Embed by all methods and print their scores."""
    atac, seconds = mdata["atac"].copy(), {}

    def add(name, embed):
        began = time.perf_counter()
        try:
            atac.obsm[name] = embed()
        except ImportError as error:  # a method that cannot run is told, not hidden
            print(f"{name}: {error}")
            return
        seconds[name] = time.perf_counter() - began

    options = {"batch_key": "batch", "validation": validation, "rng": args.seed}
    models = {}

    def ours(name, train):
        models[name] = train()
        return ep.tl.embed(atac, models[name], expression=False, copy=True).obsm["X_epifoundation"]

    everything = np.ones(atac.n_obs, bool)
    part = mdata[known].copy()
    add("LSI", lambda: lsi(sp.csr_matrix(atac.X), everything))
    add("Harmony on LSI", lambda: harmony(atac.obsm["LSI"], atac.obs, "batch"))
    if args.peakvi_epochs:
        add("PeakVI", lambda: peakvi(atac, everything, args.seed, batch_key="batch", max_epochs=args.peakvi_epochs))
    add("epifoundation", lambda: ours("paired", lambda: ep.tl.pretrain(part, genome=genome, **options)))
    add("  fine-tuned", lambda: ours("tuned", lambda: ep.tl.finetune(part, models["paired"], **options)))
    add("  ATAC alone", lambda: ours("alone", lambda: ep.tl.pretrain(part["atac"], objective="peaks", genome=genome, **options)))  # fmt: skip
    ep.tl.score_integration(
        atac,
        batch_key="batch",
        label_key="cell_type",
        embeddings=list(seconds),
        unintegrated="LSI",
        n_jobs=args.threads,
    )
    table = atac.uns["epifoundation_integration"]
    table.insert(0, "s", pd.Series(seconds))
    removed = {name: model.network.sizes.n_removed for name, model in models.items()}
    print(f"\n{title}: {atac.n_obs:,} cells, {atac.obs['batch'].nunique()} batches; directions taken out: {removed}")
    print(table.to_string(float_format="{:.3f}".format), flush=True)


if __name__ == "__main__":
    main()
