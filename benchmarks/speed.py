"""Speed and memory of `ep.tl.embed`, end to end, on simulated cells.

    python benchmarks/speed.py                      # 20,000 cells x 200,000 peaks, median 4,000 open
    python benchmarks/speed.py --cells 2000 --peaks 50000

Cells are simulated once, written, and each size is read and embedded in a process of its own, whose peak resident
memory is told (everything included: Python, torch, the cells, the results). Beside it, in the same process, the bare
`embedding_bag` on the same tokens: what share of the hardware's speed is left. The model has random weights, d = 128
and 2,000 genes; speed does not depend on what it learned.
"""

import argparse
import multiprocessing as mp
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import epifoundation as ep
from epifoundation.nn import Network, Sizes, pool


def main():
    """Simulate, then measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--peaks", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--open", type=int, default=4_000, help="median number of open peaks")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("spawn")
        with context.Pool(1) as process:
            process.apply(prepare, (folder, args))
        rows = []
        for n_cells in (args.cells // 4, args.cells // 2, args.cells):
            with context.Pool(1) as process:
                rows.append(process.apply(measure, (folder, n_cells, args)))
    table = pd.DataFrame(rows).set_index("cells")
    print(f"{args.peaks:,} peaks, {args.genes:,} genes, d = {args.dim}, {args.threads} threads, {args.device}")
    print(table.to_string(float_format="{:,.2f}".format))
    print("linear: seconds a cell, largest size over smallest:", end=" ")
    per_cell = table["embed s"] / table.index
    print(f"{per_cell.iloc[-1] / per_cell.iloc[0]:.2f}")


def prepare(folder, args):
    """Write the cells and a model."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    # A cell's fragments fall on somewhat fewer peaks than there are fragments.
    mdata = ep.datasets.simulate_multiome(args.cells, args.peaks, 2, median_fragments=int(1.05 * args.open))
    atac = mdata["atac"]
    atac.write_h5ad(Path(folder) / "atac.h5ad")
    torch.manual_seed(0)
    network = Network(ep.ModelConfig(dim=args.dim), Sizes(args.peaks, args.genes))
    torch.nn.init.normal_(network.encoder.prior, std=0.2)
    genes = ep.GeneVocabulary([f"gene{i}" for i in range(args.genes)])
    ep.EpiFoundation(network, ep.PeakVocabulary.from_var(atac.var), genes).save_pretrained(Path(folder) / "model")


def measure(folder, n_cells, args):
    """Embed the first cells: seconds, cells/s, memory, and the bare sum over the same tokens."""
    import anndata

    torch.set_num_threads(args.threads)
    ep.settings.progress = False
    atac = anndata.read_h5ad(Path(folder) / "atac.h5ad", backed="r")[:n_cells].to_memory()
    model = ep.models.from_pretrained(Path(folder) / "model", device=args.device)
    began = time.perf_counter()
    ep.tl.embed(atac, model, device=args.device)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    tokens = atac.X.indptr
    table = model.network.encoder.fold()
    bare = 0.0
    for start in range(0, n_cells, 2048):
        stop = min(start + 2048, n_cells)
        ids = torch.from_numpy(atac.X.indices[tokens[start] : tokens[stop]]).to(args.device)
        offsets = torch.from_numpy(tokens[start : stop + 1] - tokens[start]).to(args.device)
        began = time.perf_counter()
        sums = pool(table, ids, offsets)
        if sums.is_cuda:
            torch.cuda.synchronize()
        bare += time.perf_counter() - began

    some = slice(0, 64)  # the training path on a few cells
    ids = torch.from_numpy(atac.X.indices[: tokens[64]].astype(np.int64)).to(args.device)
    offsets = torch.from_numpy(tokens[:65].astype(np.int64)).to(args.device)
    with torch.inference_mode():
        unfolded = model.network.encode(ids, offsets).cpu().numpy()
    return {
        "cells": n_cells,
        "median open": float(np.median(np.diff(tokens))),
        "embed s": seconds,
        "cells/s": n_cells / seconds,
        "bare cells/s": n_cells / bare,
        "share of bare": bare / seconds,
        "peak GB": memory,
        "folded - training path": f"{np.abs(unfolded - atac.obsm['X_epifoundation'][some]).max():.1e}",
    }


if __name__ == "__main__":
    main()
