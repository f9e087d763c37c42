"""What is told to be unknown, and what sets of labels hold: a held-out batch of SNARE-seq cortex, from ATAC alone.

    python benchmarks/annotation.py --folds 09A 09C 09G

The encoder learns from seven batches with their RNA, and its penalties are chosen on another one (`splits.py`). `ep.tl.annotate` learns the labels from the seven,
and calibrates on that other one. Each of the most frequent labels is left out of the reference (training and calibration) in turn; the area under the
ROC curve of "not in the reference" by the novelty score, and by the maximum softmax of the same head. The encoder saw these cells, without labels.
"""

import argparse
import warnings

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from splits import snare
from threadpoolctl import threadpool_limits

import epifoundation as ep


def main():
    """Read arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", nargs="+", default=["09A", "09C", "09G"])
    parser.add_argument("--left-out", type=int, default=5, help="labels that are left out in turn")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(1, user_api="blas")
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    tables = {fold: run(snare(fold), args.left_out) for fold in args.folds}
    for table in zip(*tables.values(), strict=True):
        print(
            pd.concat(table, keys=args.folds).to_string(float_format="{:.3f}".format, na_rep=""),
            end="\n\n",
        )


def run(split, n_left_out):
    """Sets and what is called unknown with all labels in the reference, and the unknown without each of some, as two tables."""
    query, reference = split.atac[split.test].copy(), split.atac[split.known].copy()
    model = ep.tl.pretrain(
        split.known_data(),
        batch_key=split.batch_key,
        validation=split.validation,
        genome=split.genome,
        rng=0,
    )
    true, labels = (atac.obs["cell_type"].astype(str).to_numpy() for atac in (query, reference))
    options = {
        "label_key": "cell_type",
        "batch_key": split.batch_key,
        "calibration": split.validation,
        "copy": True,
    }
    ep.tl.embed(reference, model, expression=False)
    told = ep.tl.annotate(query, model, reference=reference, **options).obs
    covered, size = ep.metrics.conformal_coverage(true, told["epifoundation_set"].to_numpy())
    unknown = (told["epifoundation_cell_type"] == "unknown").mean()
    sets = pd.Series(
        {"sets hold the truth": covered, "labels a set": size, "called unknown": unknown}
    )

    left_out = {}
    for label in pd.Series(labels).value_counts().index[:n_left_out]:
        told = ep.tl.annotate(
            query, model, reference=reference[labels != label].copy(), **options
        ).obs
        flagged = told["epifoundation_cell_type"] == "unknown"
        left_out[label] = {
            "novelty": roc_auc_score(true == label, told["epifoundation_novelty"]),
            "maximum softmax": roc_auc_score(true == label, -told["epifoundation_confidence"]),
            "called unknown": flagged[true == label].mean(),
            "others called unknown": flagged[true != label].mean(),
        }
    table = pd.DataFrame(left_out).T
    table.loc["mean"] = table.mean()
    return sets, table


if __name__ == "__main__":
    main()
