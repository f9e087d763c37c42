"""Unknown cell types and prediction sets on a held-out batch of SNARE-seq cortex, from ATAC.

    python benchmarks/annotation.py --folds 09A 09C 09G

The encoder is fitted to seven batches with RNA, and its penalties are chosen on another one
(`splits.py`). `ep.tl.annotate` uses the labels of the seven batches and calibrates on the other
one. In turn, each of the most frequent labels is left out of the reference (training and
calibration). The score is the area under the ROC curve of "not in the reference", by novelty and by
the maximum softmax of the same head. The encoder was fitted to these cells without labels.
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
    """Run all folds and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", nargs="+", default=["09A", "09C", "09G"])
    parser.add_argument(
        "--left-out", type=int, default=5, help="number of labels to leave out, one by one"
    )
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
    """Prediction sets with all labels in the reference, and detection of each left-out label."""
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
    obs = ep.tl.annotate(query, model, reference=reference, **options).obs
    covered, size = ep.metrics.conformal_coverage(true, obs["epifoundation_set"].to_numpy())
    unknown = (obs["epifoundation_cell_type"] == "unknown").mean()
    sets = pd.Series(
        {"coverage of sets": covered, "labels per set": size, "labelled unknown": unknown}
    )

    left_out = {}
    for label in pd.Series(labels).value_counts().index[:n_left_out]:
        obs = ep.tl.annotate(
            query, model, reference=reference[labels != label].copy(), **options
        ).obs
        flagged = obs["epifoundation_cell_type"] == "unknown"
        left_out[label] = {
            "novelty": roc_auc_score(true == label, obs["epifoundation_novelty"]),
            "maximum softmax": roc_auc_score(true == label, -obs["epifoundation_confidence"]),
            "labelled unknown": flagged[true == label].mean(),
            "others labelled unknown": flagged[true != label].mean(),
        }
    table = pd.DataFrame(left_out).T
    table.loc["mean"] = table.mean()
    return sets, table


if __name__ == "__main__":
    main()
