"""Fit the score of links on pairs that were tested by CRISPRi.

    python scripts/links/fit_score.py ../shared

Reads `links/` (pairs in K562, ENCODE; genes) and the bundled atlas, and writes
`epifoundation/links/crispr_score.json`: logistic regressions on all pairs, and on those of all
chromosomes but one, with the features of the atlas and without.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

import epifoundation as ep
from epifoundation.links.pair_features import ATLAS_FEATURES, FEATURES
from epifoundation.links.score import WITH_ATLAS, WITHOUT_ATLAS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from crispr_pairs import PairFeatures, read_pairs  # noqa: E402

PAIRS = "EPCrisprBenchmark_training_K562_hg38.tsv.gz"
GENES = "CollapsedGeneBounds_hg38_GENCODEv43.bed.gz"
SAMPLES = ["K562_UwDuke"]
SETS = {WITH_ATLAS: (*FEATURES, *ATLAS_FEATURES), WITHOUT_ATLAS: FEATURES}


def main():
    """Fit, print the cross-validated areas, and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shared", type=Path, help="folder with links/")
    output = ROOT / "epifoundation" / "links" / "crispr_score.json"
    parser.add_argument("--output", type=Path, default=output)
    args = parser.parse_args()
    pairs = read_pairs(args.shared / "links" / PAIRS)
    features = PairFeatures(ep.genome.read_genes(args.shared / "links" / GENES))
    table, regulated = features.of(pairs, SAMPLES), pairs["Regulated"].to_numpy()
    chrom = pairs["chrom"].to_numpy()
    limits = {
        name: [round(float(end), 3) for end in table[name].quantile([0.01, 0.99])]
        for name in table.columns.drop("distance")
    }
    for name, ends in limits.items():
        table[name] = table[name].clip(*ends)
    stored = {
        "provenance": {
            "pairs": "ENCODE-rE2G training pairs in K562 (Gschwind et al. 2025; Gasperini et al. "
            "2019, Nasser et al. 2021, Fulco et al. 2019, Schraivogel et al. 2020), hg38",
            "n_pairs": len(pairs),
            "n_regulated": int(regulated.sum()),
            "accessibility": f"human-atlas, sample {SAMPLES[0]}",
            "method": "logistic regression on standardised features, L2 penalty 1 / 2",
        },
        "limits": limits,
        "all": {name: fit(table[list(columns)], regulated) for name, columns in SETS.items()},
        "left_out": {},
    }
    for one in sorted(set(chrom)):
        kept = chrom != one
        stored["left_out"][one] = {
            name: fit(table.loc[kept, list(columns)], regulated[kept])
            for name, columns in SETS.items()
        }
    for name in SETS:
        scores = np.zeros(len(pairs))
        for one, fits in stored["left_out"].items():
            rows, found = chrom == one, fits[name]
            weights = pd.Series(found["coefficients"])
            scores[rows] = table.loc[rows, weights.index] @ weights + found["intercept"]
        area = average_precision_score(regulated, scores)
        stored["provenance"][f"area_{name}"] = round(float(area), 4)
        print(name, stored["all"][name], f"area by chromosome {area:.3f}")
    args.output.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def fit(table, regulated):
    """Intercept and coefficients on the features as they are."""
    scaler = StandardScaler().fit(table)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(table), regulated)
    slope = model.coef_[0] / scaler.scale_
    intercept = float(model.intercept_[0] - slope @ scaler.mean_)
    coefficients = {
        name: round(float(value), 5) for name, value in zip(table.columns, slope, strict=True)
    }
    return {"intercept": round(intercept, 5), "coefficients": coefficients}


if __name__ == "__main__":
    main()
