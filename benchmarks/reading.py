"""Time to read rows of a sparse matrix by format and reader, relative to h5ad in the same run.

    python benchmarks/reading.py [cells] [open peaks per cell]

zarr v3 is sharded, as anndata 0.13 writes it. Readers: this package
(`epifoundation/cells/zarr_csr.py`), zarr through anndata, and the Rust codecs of `zarrs`, if
installed.
"""

import contextlib
import os
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

# Set before numpy is imported
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "2"))
warnings.filterwarnings("ignore")  # deprecations in anndata and pandas

import anndata as ad  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import zarr  # noqa: E402
from anndata.io import sparse_dataset, write_elem  # noqa: E402

from epifoundation.cells.matrix import read_rows  # noqa: E402
from epifoundation.cells.zarr_csr import StoredCsr  # noqa: E402

N_PEAKS, ROWS, REPEATS = 200_000, 2048, 5
RUST = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": THREADS}


def simulate(n_cells, n_open):
    rng = np.random.default_rng(0)
    per_cell = rng.poisson(n_open, n_cells)
    indices = np.concatenate([np.unique(rng.integers(N_PEAKS, size=n)) for n in per_cell]).astype(
        np.int32
    )
    cells = np.repeat(np.arange(n_cells), per_cell)[: len(indices)]
    return sp.csr_matrix(
        (np.ones(len(indices), np.float32), (np.sort(cells), indices)), shape=(n_cells, N_PEAKS)
    )


def write(X, folder):
    ad.AnnData(X, var=pd.DataFrame(index=np.arange(N_PEAKS).astype(str))).write_h5ad(
        folder / "cells.h5ad"
    )
    for zarr_format in (2, 3):
        write_elem(
            zarr.open_group(folder / f"v{zarr_format}.zarr", mode="w", zarr_format=zarr_format),
            "X",
            X,
        )


def readers(folder):
    """Format, reader, settings, and a function that opens the matrix."""
    yield (
        "h5ad",
        "anndata",
        contextlib.nullcontext(),
        lambda: sparse_dataset(h5py.File(folder / "cells.h5ad")["X"]),
    )
    for name in ("v2", "v3"):

        def group(name=name):
            return zarr.open_group(folder / f"{name}.zarr", mode="r")["X"]

        yield (
            f"zarr {name}",
            "this package",
            contextlib.nullcontext(),
            lambda group=group: StoredCsr.of(group(), tuple(group().attrs["shape"])),
        )
        yield (
            f"zarr {name}",
            "zarr",
            contextlib.nullcontext(),
            lambda group=group: sparse_dataset(group()),
        )
        if find_spec("zarrs"):
            yield (
                f"zarr {name}",
                "zarrs",
                zarr.config.set(RUST),
                lambda group=group: sparse_dataset(group()),
            )


def seconds(matrix):
    began = time.perf_counter()
    for start in range(0, matrix.shape[0], ROWS):
        stop = start + ROWS
        read_rows(matrix, start, stop) if isinstance(matrix, StoredCsr) else matrix[start:stop]
    return time.perf_counter() - began


def main():
    n_cells, n_open = (
        int(each) for each in (sys.argv[1:] + ["20000", "2000"][len(sys.argv) - 1 :])
    )
    with tempfile.TemporaryDirectory() as name:
        X = simulate(n_cells, n_open)
        write(X, Path(name))
        found = {}
        for _ in range(
            REPEATS
        ):  # readers take turns, so that other load on the machine affects all
            for stored, reader, configured, open_matrix in readers(Path(name)):
                with configured:
                    found.setdefault((stored, reader), []).append(seconds(open_matrix()))
    base = np.median(found["h5ad", "anndata"])
    print(
        f"{n_cells:,} cells, mean of {X.nnz / n_cells:,.0f} of {N_PEAKS:,} peaks open; "
        f"{THREADS} threads; median of {REPEATS}"
    )
    print("| stored as | read by | s | ratio to h5ad |\n|---|---|---|---|")
    for (stored, reader), values in found.items():
        print(f"| {stored} | {reader} | {np.median(values):.2f} | {np.median(values) / base:.2f} |")


if __name__ == "__main__":
    main()
