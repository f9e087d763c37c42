"""Simulated batches: what an embedding keeps of cell identity and of batches, by scib-metrics (Luecken et al. 2022).

    pip install -e ".[demo,bench]"
    python benchmarks/integration.py --strengths 0.3 1.0 2.0

The strength is the standard deviation of the log shift that each batch gives to each peak and gene (markers of a type have 2). All methods learn from all
cells, ours with a random tenth to choose the epoch; PeakVI and Harmony are told the batches. (SNARE-seq is in `side_by_side.py`.)

`epifoundation` learns from paired RNA, `ATAC alone` from the same peaks as the others; `fine-tuned` goes on from the first with batches only.
"""

import argparse
import time
import warnings

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
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.3, 1.0], help="of batch effects")
    parser.add_argument("--peakvi-epochs", type=int, default=40, help="0 leaves PeakVI out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(1, user_api="blas")
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    for strength in args.strengths:
        mdata = ep.datasets.simulate_multiome(
            4000, 5000, 300, n_types=8, n_batches=4, batch_effect=strength, median_fragments=400, rng=args.seed
        )
        report(strength, mdata, args)


def report(strength, mdata, args):
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

    options = {"batch_key": "batch", "validation": 0.1, "rng": args.seed}
    models = {}

    def ours(name, train):
        models[name] = train()
        return ep.tl.embed(atac, models[name], expression=False, copy=True).obsm["X_epifoundation"]

    everything = np.ones(atac.n_obs, bool)
    add("LSI", lambda: lsi(sp.csr_matrix(atac.X), everything))
    add("Harmony on LSI", lambda: harmony(atac.obsm["LSI"], atac.obs, "batch"))
    if args.peakvi_epochs:
        add("PeakVI", lambda: peakvi(atac, everything, args.seed, batch_key="batch", max_epochs=args.peakvi_epochs))
    add("epifoundation", lambda: ours("paired", lambda: ep.tl.pretrain(mdata, **options)))
    add("  fine-tuned", lambda: ours("tuned", lambda: ep.tl.finetune(mdata, models["paired"], **options)))
    add("  ATAC alone", lambda: ours("alone", lambda: ep.tl.pretrain(mdata["atac"], objective="peaks", **options)))  # fmt: skip
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
    print(
        f"\nstrength {strength}: {atac.n_obs:,} cells, {atac.obs['batch'].nunique()} batches; directions taken out: {removed}"
    )
    print(table.to_string(float_format="{:.3f}".format), flush=True)


if __name__ == "__main__":
    main()
