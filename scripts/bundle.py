"""Make the bundled data and model from a seed.

    PYTHONPATH=benchmarks python scripts/bundle.py ../shared/data/pbmc10k_51loci_hg38.h5mu

The source is the PBMC granulocyte-sorted 10k multiome by 10x Genomics (CC BY 4.0), as distributed
with chromatinhd 0.4.3 (MIT). Writes `epifoundation/datasets/pbmc_multiome.h5mu` and
`epifoundation/models/bundled/pbmc-51loci`, and prints the model card.
"""

import argparse
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import mudata
import numpy as np
import scipy.sparse as sp
import torch
from baselines import logistic, lsi, ridge, standardise
from threadpoolctl import threadpool_limits

import epifoundation as ep

PACKAGE = Path(ep.__file__).parent
DATA = PACKAGE / "datasets" / "pbmc_multiome.h5mu"
MODEL = PACKAGE / "models" / "bundled" / "pbmc-51loci"
N_CELLS, TEST_FRACTION, SEED = 5000, 0.25, 0
PROVENANCE = (
    "PBMC from a Healthy Donor - Granulocytes Removed Through Cell Sorting (10k), Single Cell "
    "Multiome ATAC + Gene Expression, by 10x Genomics (10xgenomics.com/datasets), CC BY 4.0; 51 "
    "windows of 200 kb, tiles of 500 bp, smoothed log expression and labels as distributed with "
    "chromatinhd 0.4.3 (MIT). A random part of the cells with an open peak, expression rounded to "
    "three decimals."
)


def main():
    """Make the data, if a source is given, and the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", help="source data; without it, only the model is made")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(1, user_api="blas")
    warnings.filterwarnings("ignore", category=FutureWarning)
    ep.settings.progress = False
    if args.source:
        make_data(mudata.read_h5mu(args.source))
    make_model(ep.datasets.pbmc_multiome())


def make_data(source):
    """Write a random subset of the cells, with a fixed split."""
    rng = np.random.default_rng(SEED)
    covered = np.flatnonzero(source["atac"].X.getnnz(axis=1) > 0)
    keep = np.sort(rng.permutation(covered)[:N_CELLS])
    split = np.where(rng.random(N_CELLS) < TEST_FRACTION, "test", "train")
    modalities = {}
    for name in ("rna", "atac"):
        part = source[name][keep].copy()
        part.obs = part.obs[["cell_type"]].assign(split=split).astype("category")
        if name == "rna":
            part.X = np.round(part.X, 3)
        else:
            part.X = sp.csr_matrix(part.X).astype(np.uint8)
        modalities[name] = part
    mdata = mudata.MuData(modalities)
    mdata.obs = modalities["rna"].obs.copy()
    mdata.uns["provenance"] = PROVENANCE
    mdata.write_h5mu(DATA, compression="gzip", compression_opts=9)
    print(f"{DATA.name}: {DATA.stat().st_size / 1e6:.2f} MB, {mdata.n_obs} cells")


def make_model(mdata):
    """Fit the model to the training cells, score it on the test cells, write model and card."""
    is_test = (mdata.obs["split"] == "test").to_numpy()
    model = ep.tl.pretrain(
        mdata[~is_test].copy(),
        objective="gaussian",
        config=ep.ModelConfig(dim=64),
        label_key="cell_type",
        genome="hg38",
        rng=SEED,
    )
    atac = mdata["atac"].copy()
    ep.tl.embed(atac, model)
    labels, expression = atac.obs["cell_type"].astype(str).to_numpy(), np.asarray(mdata["rna"].X)
    baseline = lsi(atac.X, ~is_test)
    ours = standardise(atac.obsm["X_epifoundation"], ~is_test)
    true, confidence = labels[is_test], atac.obs["epifoundation_confidence"].to_numpy()[is_test]
    head = atac.obs["epifoundation_cell_type"].astype(str).to_numpy()[is_test]
    rows = [
        (
            "label head of this model",
            head,
            atac.obsm["epifoundation_expression"].to_numpy()[is_test],
        ),
        ("logistic regression on its embedding", logistic(ours, labels, ~is_test), None),
        (
            "LSI (50) + logistic regression / ridge",
            logistic(baseline, labels, ~is_test),
            ridge(baseline, expression, ~is_test),
        ),
    ]
    table = "| on the test cells | accuracy | macro-F1 | Pearson per gene |\n|---|---|---|---|\n"
    for name, guess, predicted in rows:
        pearson = (
            "–"
            if predicted is None
            else f"{ep.metrics.pearson_per_gene(expression[is_test], predicted):.3f}"
        )
        accuracy, macro_f1 = ep.metrics.accuracy(true, guess), ep.metrics.macro_f1(true, guess)
        table += f"| {name} | {accuracy:.3f} | {macro_f1:.3f} | {pearson} |\n"
    error = ep.metrics.expected_calibration_error(true, head, confidence)
    card = CARD.format(
        table=table, error=error, train=int((~is_test).sum()), test=int(is_test.sum())
    )
    model = replace(model, card=card)
    shutil.rmtree(MODEL, ignore_errors=True)
    model.save_pretrained(MODEL)
    size = sum(file.stat().st_size for file in MODEL.iterdir()) / 1e6
    print(f"{MODEL.name}: {size:.2f} MB\n{model.card}")


CARD = """# pbmc-51loci

A small EpiFoundation model for demonstration: human blood, 51 windows of 200 kb (hg38), 5,724
tiles of 500 bp. It reads scATAC-seq and predicts an embedding (memberships in 64 clusters and 13
labels), the expression of 51 genes, and one of 13 cell types. It recognizes its training cells by a
hash of their open peaks, and excludes each of them from the vectors of its open peaks.

## Training

{train:,} cells of `epifoundation.datasets.pbmc_multiome()` (10x Genomics PBMC 10k multiome, CC BY
4.0, as distributed with chromatinhd 0.4.3, MIT), by `scripts/bundle.py` with seed 0. Weights:
BSD-3-Clause, like the package.

## Evaluation

{test:,} test cells of the same sample: a random split of one donor, so **not** a held-out batch.
The expected calibration error of the label head is {error:.3f}.

{table}
## Limits

- 51 loci are about 0.3 % of the genome. Embeddings distinguish the main blood cell types, and
  little more.
- One healthy donor, one technology. Do not use it for other tissues, species, or diseased blood.
- Naive, memory and activated T cells are often confused; plasma cells (20 in the source) are too
  few to judge.
- Expression is on the smoothed log scale of the source, not counts.

For your own data, pretrain on your own peaks with `epifoundation.tl.pretrain`.
"""


if __name__ == "__main__":
    main()
