"""Expression of a held-out batch of SNARE-seq cortex from ATAC alone, by what people would use instead.

    python benchmarks/expression.py ../shared/data/snare_cortex_mm10.h5mu --annotation ../shared/annotation/mm10_genes.bed.gz

Pretrained on 09A-09G, epoch chosen on 09H, tested on 09I (as benchmarks/quality.py). The other methods learn from the same training cells. Four correlations
with log1p of counts per 10,000: over the cells of a gene (genes expressed in 30 of them), over the genes of a cell, over all entries, over cell types.
"""

import argparse
import time
import warnings

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from baselines import lsi
from sklearn.linear_model import LogisticRegression
from splits import log_scale
from threadpoolctl import threadpool_limits

import epifoundation as ep


def main():
    """Read arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--annotation", required=True)
    parser.add_argument("--train", nargs="+", default=["09A", "09B", "09C", "09D", "09E", "09F", "09G"])
    parser.add_argument("--validate", nargs="+", default=["09H"])
    parser.add_argument("--test", nargs="+", default=["09I"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--multivi-epochs", type=int, default=60, help="0 leaves MultiVI out (it needs scvi-tools)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads, user_api="blas")
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    tables = [run(args, seed) for seed in args.seeds]
    print(f"train {args.train}, validate {args.validate}, test {args.test}, seeds {args.seeds}")
    table = pd.concat(tables).groupby(level=0, sort=False).mean()
    print(table.to_string(float_format="{:.3f}".format, na_rep=""))


def run(args, seed):
    """One table of all methods."""
    mdata = mudata.read_h5mu(args.path)
    obs = mdata["atac"].obs
    kept = obs["batch"].isin([*args.train, *args.validate, *args.test]) & (obs["cell_type"] != "Mis")
    mdata = mdata[(kept & (mdata["atac"].X.getnnz(axis=1) > 0)).to_numpy()].copy()
    batch = mdata["atac"].obs["batch"]
    is_test, is_train = batch.isin(args.test).to_numpy(), batch.isin(args.train).to_numpy()
    began = time.perf_counter()
    model = ep.tl.pretrain(mdata[~is_test].copy(), batch_key="batch", validation=args.validate, genome="mm10", rng=seed)
    query = mdata["atac"][is_test].copy()
    ep.tl.predict_expression(query, model)
    seconds = {"epifoundation": time.perf_counter() - began}
    genes = mdata["rna"].var_names
    predicted = {"epifoundation": told(query, genes)}

    began = time.perf_counter()
    activity = ep.tl.gene_activity(query, annotation=args.annotation)
    there = activity.var_names.get_indexer(genes)
    values = activity.X.toarray()[:, there] * (there >= 0)
    predicted["gene activity"], seconds["gene activity"] = log_scale(values), time.perf_counter() - began
    if args.multivi_epochs:
        began = time.perf_counter()
        try:
            predicted["MultiVI"] = multivi(mdata, is_train, is_test, args.multivi_epochs, seed)
        except Exception as error:  # a method that fails is a row that says so
            print(f"MultiVI failed: {error!r}")
        seconds["MultiVI"] = time.perf_counter() - began

    # As written they are log1p of a mean; a measured cell, and a mean of measured cells, has the mean of log1p at its depth
    ep.tl.predict_expression(query, model, scale="measured")
    predicted["epifoundation, scale measured"] = told(query, genes)
    depths = mdata["rna"].X[is_train].sum(axis=1)
    for name in ("epifoundation", "MultiVI"):
        if name in predicted:
            predicted[f"{name}, expected_log1p"] = ep.metrics.expected_log1p(predicted[name], depths)

    # The label is predicted from our embedding; its probabilities weigh the means of the training cells
    both = mdata["atac"].copy()
    ep.tl.embed(both, model, expression=False)
    embedding = both.obsm["X_epifoundation"]
    labels = both.obs["cell_type"].astype(str).to_numpy()
    classifier = LogisticRegression(max_iter=1000).fit(embedding[is_train], labels[is_train])
    fit = is_train | is_test
    components = lsi(both.X.tocsr()[fit], is_train[fit])
    true = log_scale(mdata["rna"].X.toarray())
    table = ep.metrics.compare_expression(
        true[is_test],
        predicted,
        labels[is_test],
        train=true[is_train],
        train_groups=labels[is_train],
        predicted_groups=classifier.predict_proba(embedding[is_test]),
        features=components[is_test[fit]],
        train_features=components[is_train[fit]],
        min_cells=30,
    )
    table = table.rename(index={"ridge": "ridge on LSI"})
    table["per gene / ridge"] = table["per gene"] / table.loc["ridge on LSI", "per gene"]
    table["s"] = pd.Series(seconds)
    return table


def told(query, genes):
    """What was predicted of `genes`; 0 of those that the model does not know."""
    return query.obsm["epifoundation_expression"].reindex(columns=genes).fillna(0).to_numpy()


def multivi(mdata, is_train, is_test, epochs, seed):
    """Expression of the test cells by MultiVI, trained on paired training cells and the ATAC of the test cells."""
    import scvi

    scvi.settings.seed = seed
    data = mdata[is_train | is_test].copy()
    rows = np.flatnonzero(is_test[is_train | is_test])
    for name in ("rna", "atac"):
        data[name].X = sp.csr_matrix(data[name].X, dtype=np.float32)
    hidden = data["rna"].X.tolil()
    hidden[rows] = 0  # cells without counts are taken for cells without RNA
    data["rna"].X = hidden.tocsr()
    data.obs["batch"] = data["atac"].obs["batch"].astype(str).to_numpy()
    scvi.model.MULTIVI.setup_mudata(data, modalities={"rna_layer": "rna", "atac_layer": "atac"})
    model = scvi.model.MULTIVI(data, n_genes=data["rna"].n_vars, n_regions=data["atac"].n_vars)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    share = np.asarray(model.get_normalized_expression(data, indices=rows, return_numpy=True))
    return np.log1p(1e4 * share / share.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    main()
