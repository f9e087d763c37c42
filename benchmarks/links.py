"""Peak-gene links on simulated and real data, and the cost of knock-outs.

    python benchmarks/links.py --simulate 0 1 2
    python benchmarks/links.py --snare ../shared/data/snare_cortex_mm10.h5mu \
        --annotation ../shared/annotation/mm10_genes.bed.gz
    python benchmarks/links.py --pbmc --annotation ../shared/annotation/hg38_genes.bed.gz
    python benchmarks/links.py --knock-outs

Simulated: 2,000 cells, 2,000 peaks, 100 genes with one to four planted links each. Scores are the
area under the precision-recall curve of our p-values and effect sizes, of the correlation of peak
and gene (as in Signac, on binary and on normalized counts), and of distance; the fraction of links
at q <= 0.1 that were not planted; and, with RNA shuffled among the cells of a type and batch, the
fraction of genes that have a link. Of inclusion probabilities: their precision-recall curve, how
many of the credible sets contain a planted peak, and the fraction of peaks that are planted by
probability. `--cells`, `--fragments` and `--counts` change the size of the data, `--overdispersion`
adds gamma noise to the RNA, and `--confounder` lets the RNA of each gene depend on the depth of the
ATAC.
"""

import argparse
import resource
import time
import warnings

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.stats import beta
from sklearn.metrics import average_precision_score

import epifoundation as ep
import epifoundation.tl  # imported before timing
from epifoundation.nn import Network, Sizes


def main():
    """Run the selected benchmarks and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulate", nargs="*", type=int, default=[], help="seeds")
    parser.add_argument("--distances", nargs="+", type=int, default=[50_000, 100_000, 250_000])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--fragments", type=int, default=200, help="median of a cell")
    parser.add_argument("--counts", type=int, default=2000, help="median of a cell")
    parser.add_argument("--overdispersion", type=float, default=0, help="squared variation")
    parser.add_argument("--confounder", type=float, default=0, help="deviation of its effects")
    parser.add_argument("--snare")
    parser.add_argument("--pbmc", action="store_true")
    parser.add_argument("--annotation")
    parser.add_argument("--knock-outs", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    if args.simulate:
        parts = [simulated(seed, args) for seed in args.simulate]
        table = pd.concat([rows for rows, _ in parts], ignore_index=True)
        print(table.to_string(float_format="{:.3f}".format, index=False))
        mean = table.drop(columns="seed").groupby("within").mean()
        print("\nmean of the seeds", mean.to_string(float_format="{:.3f}".format), sep="\n")
        print("", *inclusion(pd.concat([pairs for _, pairs in parts])), sep="\n")
    if args.snare:
        snare(args.snare, args.annotation)
    if args.pbmc:
        pbmc(args.annotation)
    if args.knock_outs:
        for n_model in (50, 2000):
            knock_outs(n_model=n_model)


def simulated(seed, args):
    """Scores of one simulation, one row per maximum distance of candidate peaks; and all pairs."""
    mdata = ep.datasets.simulate_multiome(
        args.cells,
        2000,
        100,
        median_fragments=args.fragments,
        median_counts=args.counts,
        rng=1000 + seed,
    )
    rng = np.random.default_rng(seed)
    shuffled = mdata.copy()
    shuffled["rna"].X = shuffled["rna"].X[within(mdata["rna"].obs, rng)]
    for each in (mdata, shuffled):
        disturb(each, args, rng)
    model = ep.tl.pretrain(mdata, batch_key="batch", genome="simulated", rng=seed)
    by_chance = ep.tl.pretrain(shuffled, batch_key="batch", genome="simulated", rng=seed)
    planted = pd.MultiIndex.from_frame(mdata.uns["truth"]["links"][["gene", "peak"]])
    fraction, is_open = normalised(mdata["atac"].X), (mdata["atac"].X > 0).astype(float)
    expression = np.log1p(1e4 * normalised(mdata["rna"].X).toarray())
    rows, pairs = [], []
    for distance in args.distances:
        options = {"genes": None, "max_distance": distance, "batch_key": "batch"}
        began = time.perf_counter()
        ep.tl.link_peaks(mdata, model, **options)
        seconds = time.perf_counter() - began
        links = mdata["atac"].uns["epifoundation_links"]
        true = pd.MultiIndex.from_frame(links[["gene", "peak"]]).isin(planted)
        found = (links["qvalue"] <= 0.1).to_numpy()
        ep.tl.link_peaks(shuffled, by_chance, **options)
        none = shuffled["atac"].uns["epifoundation_links"]
        gene, peak = (
            mdata["rna"].var_names.get_indexer(links["gene"]),
            mdata["atac"].var_names.get_indexer(links["peak"]),
        )
        rows.append(
            {
                "seed": seed,
                "within": distance,
                "pairs": len(links),
                "planted": true.sum(),
                "by p-value": average_precision_score(true, -links["pvalue"].fillna(1)),
                "by score": average_precision_score(true, links["score"].fillna(0)),
                "by PIP": average_precision_score(true, links["pip"].fillna(0)),
                "by effect": average_precision_score(true, links["effect"].abs()),
                "model alone": average_precision_score(true, links["by_embedding"].abs()),
                "correlation": average_precision_score(
                    true, np.abs(correlation(expression, fraction)[gene, peak])
                ),
                "corr. binary": average_precision_score(
                    true, np.abs(correlation(expression, is_open)[gene, peak])
                ),
                "distance": average_precision_score(true, -links["distance"]),
                "links": found.sum(),
                "false": 1 - true[found].mean(),
                "recall": true[found].sum() / true.sum(),
                "genes linked, shuffled": none.loc[none["qvalue"] <= 0.1, "gene"].nunique()
                / mdata["rna"].n_vars,
                "s": seconds,
            }
        )
        for name, table in (("planted", links), ("shuffled", none)):
            columns = table[["gene", "pip", "credible_set"]].fillna({"pip": 0})
            columns["true"] = true if name == "planted" else False
            pairs.append(columns.assign(within=distance, seed=seed, rna=name))
    return pd.DataFrame(rows), pd.concat(pairs)


def disturb(mdata, args, rng):
    """Add noise to the RNA, or let it depend on the depth of the ATAC, in place."""
    if not args.overdispersion and not args.confounder:
        return
    rate = mdata["rna"].X.toarray().astype(float)
    depth = np.log(np.maximum(np.asarray(mdata["atac"].X.sum(axis=1)), 1))
    rate *= np.exp((depth - depth.mean()) * rng.normal(0, args.confounder, rate.shape[1]))
    if args.overdispersion:
        rate *= rng.gamma(1 / args.overdispersion, args.overdispersion, rate.shape)
    mdata["rna"].X = sp.csr_matrix(rng.poisson(rate).astype(np.float32))


def inclusion(pairs):
    """Credible sets, and inclusion probabilities compared with the fraction planted, as text."""
    in_sets = pairs[pairs["credible_set"] > 0]
    sets = in_sets.groupby(["within", "rna", "seed", "gene", "credible_set"]).agg(
        contains=("true", "any"), size=("true", "size"), claimed=("pip", "sum")
    )
    table = sets.groupby(["within", "rna"]).agg(
        sets=("size", "size"),
        claimed=("claimed", "mean"),
        contain=("contains", "mean"),
        median=("size", "median"),
        mean=("size", "mean"),
    )
    # Exact binomial interval (Clopper-Pearson)
    n, k = table["sets"], (table["contain"] * table["sets"]).round()
    table["low"] = np.where(k > 0, beta.ppf(0.025, k, n - k + 1), 0)
    table["high"] = np.where(k < n, beta.ppf(0.975, k + 1, n - k), 1)
    yield "credible sets that contain a planted peak, with a 95 % interval"
    yield table.to_string(float_format="{:.3f}".format)
    level = pd.cut(pairs["pip"], [0, 0.01, 0.1, 0.5, 0.9, 1], include_lowest=True)
    table = pairs.groupby(["within", "rna", level], observed=True).agg(
        pairs=("pip", "size"), pip_mean=("pip", "mean"), planted=("true", "mean")
    )
    yield "\ninclusion probabilities"
    yield table.to_string(float_format="{:.3f}".format)


def within(obs, rng):
    """Permutation of rows within each cell type and batch."""
    order = np.arange(len(obs))
    for rows in obs.groupby(["cell_type", "batch"], observed=True).indices.values():
        order[rows] = rng.permutation(rows)
    return order


def normalised(matrix):
    """Counts divided by the total of the cell."""
    return sp.csr_matrix(
        sp.diags(1 / np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1)) @ matrix
    )


def correlation(expression, accessibility):
    """Pearson correlation of each gene and peak, (n_genes, n_peaks)."""
    a = expression - expression.mean(axis=0)
    mean = np.asarray(accessibility.mean(axis=0)).ravel()
    square = np.asarray(accessibility.multiply(accessibility).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return (
        np.asarray(accessibility.T @ a).T
        / len(a)
        / np.maximum(a.std(axis=0), 1e-12)[:, None]
        / deviation
    )


def snare(path, annotation):
    """Print the enrichment of linked peaks near the transcription start site."""
    mdata = mudata.read_h5mu(path)
    obs = mdata["atac"].obs
    mdata = mdata[
        ((obs["cell_type"] != "Mis") & (mdata["atac"].X.getnnz(axis=1) > 0)).to_numpy()
    ].copy()
    model = ep.tl.pretrain(mdata, batch_key="batch", validation=["09H"], genome="mm10", rng=0)
    for measured in (True, False):
        began = time.perf_counter()
        ep.tl.link_peaks(
            mdata,
            model,
            genes=None,
            annotation=annotation,
            batch_key="batch",
            measured=measured,
            max_cells=len(mdata["atac"]),
        )
        links = mdata["atac"].uns["epifoundation_links"]
        links = links[links["pvalue"].notna()]
        found = (links["qvalue"] < 0.1).to_numpy()
        print(
            f"\nSNARE-seq, {'with measured expression' if measured else 'model alone'}: "
            f"{len(links):,} pairs within 250 kb, {found.sum():,} links at q < 0.1 of "
            f"{links.loc[found, 'gene'].nunique():,} genes, "
            f"{np.mean(links.loc[found, 'effect'] > 0):.2f} of them activating; "
            f"{time.perf_counter() - began:.0f} s"
        )
        # q-values and scores depend on the distance, p-values do not
        likely = (links["pvalue"] < 0.001).to_numpy()
        for name, linked in (
            ("q < 0.1", found),
            ("p < 0.001", likely),
            ("highest scores", (links["score"].rank(ascending=False) <= likely.sum()).to_numpy()),
        ):
            print(
                f"  {name} ({linked.sum():,}): "
                + "; ".join(enrichment(links, linked, near) for near in (5_000, 25_000, 100_000))
            )


def enrichment(links, linked, near):
    """Enrichment of nearby peaks among links, compared with candidates open in as many cells."""
    level = pd.qcut(links["n_cells"].rank(method="first"), 10, labels=False).to_numpy()
    size = np.bincount(level[~linked], minlength=10)
    weights = (np.bincount(level[linked], minlength=10) / size)[level[~linked]]
    is_near = (links["distance"] <= near).to_numpy()
    if not linked.any():
        return f"within {near // 1000} kb -"
    fraction, control = is_near[linked].mean(), np.average(is_near[~linked], weights=weights)
    kb = near // 1000
    return f"within {kb} kb {fraction:.2f} against {control:.2f}, {fraction / control:.2f} x"


def pbmc(annotation):
    """Print how often effects agree in sign with the correlation across cell types."""
    mdata = ep.datasets.pbmc_multiome()
    for name, options in {
        "with measured expression": {},
        "model alone": {"measured": False},
    }.items():
        ep.tl.link_peaks(mdata, genes=None, annotation=annotation, max_distance=100_000, **options)
        links = mdata["atac"].uns["epifoundation_links"]
        kinds = mdata["atac"].obs["cell_type"].astype("category")
        member = sp.csr_matrix((np.ones(len(kinds)), (kinds.cat.codes, np.arange(len(kinds)))))
        peaks = np.asarray((member @ (mdata["atac"].X > 0)).todense()) / np.asarray(
            member.sum(axis=1)
        )
        genes = np.asarray(member @ mdata["rna"].X) / np.asarray(member.sum(axis=1))
        genes = genes.toarray() if sp.issparse(genes) else np.asarray(genes)
        i, j = (
            mdata["atac"].var_names.get_indexer(links["peak"]),
            mdata["rna"].var_names.get_indexer(links["gene"]),
        )
        across = np.array(
            [np.corrcoef(peaks[:, p], genes[:, g])[0, 1] for p, g in zip(i, j, strict=True)]
        )
        agrees = np.sign(across) == np.sign(links["effect"])
        ok = np.isfinite(across) & (links["n_cells"] > 0).to_numpy()
        found = ok & (links["qvalue"] < 0.1).to_numpy()
        size = links["effect"].abs()
        large = ok & (size >= size[ok].quantile(0.9)).to_numpy()
        likely = ok & (links["pvalue"] < 0.01).to_numpy()
        subsets = {
            "links at q < 0.1": found,
            "p < 0.01": likely,
            "largest 10 % of effects": large,
            "all pairs": ok,
        }
        print(f"\nPBMC, 51 loci, {name}: fraction of effects with the sign of the correlation")
        for subset, rows in subsets.items():
            fraction = agrees[rows].mean() if rows.any() else np.nan
            print(f"  {subset}: {fraction:.3f} of {rows.sum():,}")


def knock_outs(n_cells=1000, n_peaks=200_000, n_open=4000, n_genes=50, n_model=50):
    """Time all single-peak knock-outs of cells with a median of 4,000 open peaks, on 50 genes."""
    rng = np.random.default_rng(0)
    open_peaks = np.minimum(rng.lognormal(np.log(n_open), 0.4, n_cells).astype(int), n_peaks // 4)
    rows = [np.sort(rng.choice(n_peaks, size, replace=False)) for size in open_peaks]
    indptr = np.append(0, np.cumsum(open_peaks))
    matrix = sp.csr_matrix(
        (np.ones(indptr[-1], np.float32), np.concatenate(rows), indptr), shape=(n_cells, n_peaks)
    )
    peaks = pd.DataFrame(
        {
            "chrom": "chr1",
            "start": np.arange(n_peaks) * 1000,
            "end": np.arange(n_peaks) * 1000 + 500,
        }
    )
    sizes = Sizes(n_peaks=n_peaks, n_genes=n_model, n_encoder_landmarks=1_000)
    network = Network(ep.ModelConfig(dim=128), sizes).eval()
    model = ep.EpiFoundation(
        network, ep.PeakVocabulary(peaks), ep.GeneVocabulary([f"g{i}" for i in range(n_model)])
    )
    atac = ep_anndata(matrix, model.peaks.names)
    began, total = time.perf_counter(), 0
    sums = np.zeros(n_genes)
    for piece in ep.tl.scan_knock_outs(atac, model, genes=model.genes.names[:n_genes]):
        total += len(piece.cells)
        sums += np.abs(piece.change).sum(axis=0)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    ep.tl.predict_expression(atac, model, genes=model.genes.names[:n_genes])
    once = time.perf_counter() - began
    print(
        f"\n{total:,} single-peak knock-outs of {n_cells:,} cells "
        f"(median {np.median(open_peaks):,.0f} open of {n_peaks:,} peaks), "
        f"{n_genes} of the model's {n_model:,} genes: {seconds:.1f} s, "
        f"{total / seconds:,.0f} per second, {seconds / once:.0f} x one prediction of the cells "
        f"({once:.2f} s), "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


def ep_anndata(matrix, names):
    """Cells x peaks as AnnData."""
    from anndata import AnnData

    return AnnData(matrix, var=pd.DataFrame(index=names))


if __name__ == "__main__":
    main()
