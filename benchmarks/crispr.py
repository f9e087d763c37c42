"""Links of elements and genes against CRISPRi experiments.

    python benchmarks/crispr.py ../shared/links/EPCrisprBenchmark_training_K562_hg38.tsv.gz
    python benchmarks/crispr.py PAIRS.tsv.gz --sample WTC11=E021,E022 --genes GENES.bed.gz

PAIRS is a table of the ENCODE CRISPR benchmark (EngreitzLab/CRISPR_comparison); pairs with
`ValidConnection` TRUE are used. The column `CellType` picks the sample of the bundled atlas, or
`--sample` does. Printed, for each cell type and for all together: area under the precision-recall
curve with 95 % bootstrap intervals (genes are resampled), and precision at 70 % recall.

"ours" has the coefficients in the package, for each pair those fitted without its chromosome (in
K562); "refitted" is fitted on these pairs, chromosome by chromosome. Both see distance, genes and
the DNase of the atlas, and no column of the table but positions.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from crispr_pairs import PairFeatures, read_pairs, samples_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import epifoundation as ep
from epifoundation.links.score import crispr_score

GENES = "CollapsedGeneBounds_hg38_GENCODEv43.bed.gz"
RECALL = 0.7
MIN_REGULATED = 20  # pairs, for a fit


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--sample", nargs="*", default=[], metavar="[CELL_TYPE=]SAMPLE[,SAMPLE]")
    parser.add_argument("--genes", help=f"annotation; by default {GENES} beside PAIRS, else hg38")
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="file for the tables")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    torch.set_num_threads(2)
    beside = [
        folder / GENES
        for folder in (args.pairs.parent, Path(__file__).parents[2] / "shared" / "links")
    ]
    genes = args.genes or next((path for path in beside if path.is_file()), "hg38")
    try:
        if args.output and not args.output.absolute().parent.is_dir():
            msg = f"--output: the folder of {str(args.output)!r} does not exist."
            raise FileNotFoundError(msg)
        pairs = read_pairs(args.pairs)
        reader = PairFeatures(ep.genome.read_genes(genes))
        samples = {
            str(one): samples_of(one, reader.atlas.samples, args.sample)
            for one in pairs["CellType"].unique()
        }
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    scores = {}
    for cell_type, chosen in samples.items():
        rows = np.flatnonzero(pairs["CellType"].astype(str) == cell_type)
        part = pairs.iloc[rows].reset_index(drop=True)
        scores[cell_type] = scores_of(part, reader.of(part, chosen)).set_index(rows)
    texts = []
    for cell_type, table in scores.items():
        title = f"{cell_type} (sample {', '.join(samples[cell_type])})"
        texts.append(report(title, pairs.loc[table.index], table, args.bootstraps))
    if len(scores) > 1:
        table = pd.concat(scores.values()).sort_index()
        texts.append(report("All cell types", pairs, table, args.bootstraps))
    text = "\n".join(texts)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


def scores_of(pairs, features):
    """One column per method, higher for pairs that are more likely regulated."""
    distance = np.maximum(pairs["distanceToTSS"].to_numpy(float), 1)
    chrom = pairs["chrom"].to_numpy()
    found = {}
    for name, atlas in {
        "ours, DNase of the atlas": True,
        "ours, without co-accessibility and usual levels": False,
    }.items():
        found[name] = np.zeros(len(pairs))
        for one in np.unique(chrom):
            rows = chrom == one
            score = crispr_score(atlas=atlas, left_out=one)
            found[name][rows] = score.probability(features[rows])
    refitted = by_chromosome(features, pairs["Regulated"].to_numpy(), chrom)
    if refitted is not None:
        found["ours, refitted"] = refitted
    found["1 / distance"] = 1 / distance
    activity = features["activity"].to_numpy()
    found["DNase of the atlas / distance^0.9"] = activity / distance**0.9
    if "DHS.RPM" in pairs.columns:
        dnase = pairs["DHS.RPM"].to_numpy(float)
        found["DNase / distance^0.9"] = dnase / distance**0.9
        if "H3K27ac.RPM" in pairs.columns:
            both = np.sqrt(dnase * pairs["H3K27ac.RPM"].to_numpy(float))
            found["H3K27ac and DNase / distance"] = both / distance
    found["nearest expressed gene"] = (features["nearer_genes"] == 0).to_numpy(float)
    return pd.DataFrame(found).fillna(0)


def by_chromosome(features, regulated, chrom):
    """Probabilities from fits to the pairs of other chromosomes; None if there are too few."""
    scores = np.zeros(len(features))
    for one in np.unique(chrom):
        rows = chrom == one
        if regulated[~rows].sum() < MIN_REGULATED:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(features[~rows], regulated[~rows])
        scores[rows] = model.predict_proba(features[rows])[:, 1]
    return scores


def report(title, pairs, scores, n_bootstraps):
    """A table in Markdown."""
    regulated = pairs["Regulated"].to_numpy()
    if regulated.all() or not regulated.any():
        return (
            f"{title}: {int(regulated.sum()):,} of {len(pairs):,} pairs are regulated: no areas.\n"
        )
    gene = pd.factorize(pairs["measuredGeneSymbol"])[0]
    # An area needs a regulated pair
    draws = [rows for rows in bootstrap(gene, n_bootstraps) if regulated[rows].any()]
    heading = f"{title}: {len(pairs):,} pairs, {regulated.sum():,} regulated "
    heading += f"({regulated.mean():.3f}), {gene.max() + 1:,} genes"
    lines = [
        heading,
        "",
        f"| method | area | 95 % interval | precision at {RECALL:.0%} recall |",
        "|---|---|---|---|",
    ]
    for name, score in scores.items():
        values = score.to_numpy()
        areas = [average_precision_score(regulated[rows], values[rows]) for rows in draws]
        low, high = np.quantile(areas, [0.025, 0.975]) if areas else (np.nan, np.nan)
        area = average_precision_score(regulated, values)
        lines.append(
            f"| {name} | {area:.3f} | {low:.3f}–{high:.3f} | {precision(regulated, values):.3f} |"
        )
    return "\n".join([*lines, ""])


def bootstrap(gene, n):
    """Rows of genes that are drawn with replacement."""
    rng = np.random.default_rng(0)
    rows_of = np.split(np.argsort(gene, kind="stable"), np.cumsum(np.bincount(gene))[:-1])
    return [
        np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        for _ in range(n)
    ]


def precision(regulated, values):
    """Highest precision at a recall of 70 % or more."""
    found, recall, _ = precision_recall_curve(regulated, values)
    return found[recall >= RECALL].max()


if __name__ == "__main__":
    main()
