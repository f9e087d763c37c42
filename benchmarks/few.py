"""Annotation with few labelled cells: bone marrow, ATAC alone.

    python benchmarks/few.py                       # 100, 300, 1,000 and 3,000 cells, three draws
    python benchmarks/few.py --sizes 100 --seeds 5

EpiFoundation, LSI with logistic regression, and a linear SVM on open peaks, as in `methods.py`, are
trained on some cells and tested on all others. Each method chooses its penalty on the same tenth of
the training cells. Cells are drawn at random, so there is no held-out batch.
"""

import argparse
import os
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "2")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from methods import METHODS  # noqa: E402
from scores import annotation  # noqa: E402
from splits import Split, granja  # noqa: E402

import epifoundation as ep  # noqa: E402

SHOWN = {"epifoundation_peaks": "EpiFoundation, ATAC alone", "lsi": "LSI", "svm": "linear SVM"}


def split_of(whole: Split, size: int, seed: int) -> Split:
    """Random training cells, a tenth of them for validation."""
    order = np.random.default_rng(seed).permutation(whole.atac.n_obs)
    test, held = np.ones(len(order), bool), np.zeros(len(order), bool)
    test[order[:size]] = False
    held[order[: max(size // 10, 1)]] = True
    return Split(whole.atac, None, test, held, genome=whole.genome)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1_000, 3_000])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ep.settings.progress = False
    whole, rows = granja("0"), []
    for size in options.sizes:
        for seed in range(options.seeds):
            split = split_of(whole, size, seed)
            for method, name in SHOWN.items():
                score = annotation(split, METHODS[method](split, seed)[name])
                rows.append(
                    {
                        "cells": size,
                        "method": name,
                        "accuracy": score["accuracy"],
                        "macro-F1": score["macro-F1"],
                    }
                )
        table = pd.DataFrame(rows).groupby(["cells", "method"]).agg(["mean", "std"]).loc[[size]]
        print(table.round(3).to_string(header=size == options.sizes[0]), flush=True)


if __name__ == "__main__":
    main()
