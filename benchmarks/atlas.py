"""The human atlas on cells that it has never seen: labels, clusters, expression, prior, cost.

    python benchmarks/atlas.py                    # all tables, results/atlas.json, docs page
    python benchmarks/atlas.py --tables labels    # some tables only, printed

Bone marrow (Granja 2019, one donor, 10,000 peaks of hg19) is in nothing that the atlas was made
from. Probabilities were calibrated on the PBMC (both tables of one experiment), so their
calibration error there is not that of new data.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "2")
warnings.filterwarnings("ignore")

import anndata  # noqa: E402
import mudata  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scanpy as sc  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import torch  # noqa: E402
from sklearn.decomposition import TruncatedSVD  # noqa: E402
from sklearn.metrics import f1_score, normalized_mutual_info_score  # noqa: E402

import epifoundation as ep  # noqa: E402
from epifoundation.genome import lift_over, read_intervals  # noqa: E402

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
RESULTS = HERE / "results" / "atlas.json"
PAGE = HERE.parent / "docs" / "measured" / "atlas.md"
CHAIN = SHARED / "annotation" / "hg19ToHg38.over.chain.gz"
DATA = ("bone marrow", "PBMC, whole genome", "PBMC, 51 loci")
# Labels of the atlas and of the data by class
CLASSES = {"MPP": "HSC", "LMPP": "CMP", "MEP": "CMP"}
MARROW = {
    "01": "HSC",
    "05": "CMP",
    "06": "CLP",
    "15": "CLP",
    "07": "GMP",
    "11": "monocyte",
    "12": "monocyte",
    "16": "B",
    "17": "B",
    "20": "CD4 T",
    "21": "CD4 T",
    "22": "CD4 T",
    "19": "CD8 T",
    "23": "CD8 T",
    "24": "CD8 T",
    "25": "NK",
}
BLOOD = {"CD4": "CD4 T", "CD8": "CD8 T", "NK": "NK", "Mono": "monocyte", "pDC": "pDC", "cDC": "mDC"}
BLOOD |= {"naive B": "B", "memory B": "B", "Plasma": "B"}
MARKERS = {
    "HSC": ["CD34", "AVP", "HLF", "CRHBP", "MECOM"],
    "CMP": ["GATA2", "MPL", "TAL1", "CD34", "MYCN"],
    "CLP": ["DNTT", "IL7R", "FLT3", "VPREB1", "IGLL1"],
    "GMP": ["MPO", "ELANE", "AZU1", "PRTN3", "CEBPE"],
    "monocyte": ["CD14", "LYZ", "FCN1", "VCAN", "CSF1R"],
    "B": ["MS4A1", "CD79A", "PAX5", "CD19", "BANK1"],
    "CD4 T": ["CD4", "CD3E", "CCR7", "LEF1", "IL7R"],
    "CD8 T": ["CD8A", "CD8B", "CD3E", "GZMK", "CRTAM"],
    "NK": ["NKG7", "GNLY", "KLRD1", "NCAM1", "KLRF1"],
    "mDC": ["FCER1A", "CD1C", "CLEC10A", "ITGAX"],
    "pDC": ["CLEC4C", "IL3RA", "TCF4", "LILRA4"],
}
SIZES = 100, 300, 1_000, 5_000
N_TEST = 3_000


def main():
    """Make the tables, print them, and write the results and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args()
    torch.set_num_threads(2)
    ep.settings.progress = False
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.tables:
        found[name] = TABLES[name]().round(4).to_dict("records")
        print(f"\n{name}\n{pd.DataFrame(found[name]).to_string()}", flush=True)
        found = {name: found[name] for name in TABLES if name in found}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))


def load(name):
    """Cells with a column `class` (empty if unknown), and options of the mapping of peaks."""
    if name == "bone marrow":
        atac = anndata.read_h5ad(SHARED / "data" / "granja_bmmc_atac_hg19.h5ad")
        atac.obs["class"] = [MARROW[str(label)[:2]] for label in atac.obs["cell_type"]]
        return atac, ep.PeakMapping(liftover=CHAIN)
    file = "pbmc10k_100cells" if name == "PBMC, whole genome" else "pbmc10k_51loci"
    atac = mudata.read_h5mu(SHARED / "data" / f"{file}_hg38.h5mu")["atac"]
    atac.obs["class"] = [
        next((kind for part, kind in BLOOD.items() if part in str(label)), "")
        for label in atac.obs["cell_type"]
    ]
    return atac, None


def labels():
    """Labels without a reference: per cell, refined, and two plain methods."""
    rows = []
    for name in DATA:
        atac, mapping = load(name)
        ep.tl.annotate(atac, mapping=mapping)
        by_cell = by_class(ep.get.probabilities(atac))
        known = (atac.obs["class"] != "").to_numpy() & by_cell.notna().all(axis=1).to_numpy()
        scores = {"by cell": (by_cell, atac.obs["epifoundation_cell_type"] == "unknown")}
        scores["plain sum"] = by_class(plain_sum(atac)), None
        if (markers := marker_scores(atac, name)) is not None:
            scores["marker genes, gene activity"] = markers, None
        ep.tl.annotate(atac, mapping=mapping, refine=True)
        refined = by_class(ep.get.probabilities(atac))
        scores["refined"] = refined, atac.obs["epifoundation_cell_type"] == "unknown"
        truth = atac.obs["class"].to_numpy(str)
        for method in ("by cell", "refined", "plain sum", "marker genes, gene activity"):
            if method in scores:
                table, unknown = scores[method]
                rows.append({"data": name, "method": method} | score(table, unknown, truth, known))
    return pd.DataFrame(rows)


def by_class(probabilities):
    """Probabilities added up by class."""
    names = [CLASSES.get(label, label) for label in probabilities.columns]
    return probabilities.T.groupby(names).sum(min_count=1).T


def score(table, unknown, truth, known):
    """Accuracy, macro-F1, calibration and risk; unknown cells count with their likeliest class."""
    table, truth = table[known], truth[known]
    found = table.columns.to_numpy(str)[table.to_numpy().argmax(axis=1)]
    confidence = table.to_numpy().max(axis=1)
    one = {"CD4 T": "T", "CD8 T": "T"}
    as_t = [np.array([one.get(kind, kind) for kind in each]) for each in (found, truth)]
    row = {
        "cells": int(known.sum()),
        "accuracy": float((found == truth).mean()),
        "T cells as one": float((as_t[0] == as_t[1]).mean()),
        "macro-F1": float(f1_score(truth, found, labels=np.unique(truth), average="macro")),
    }
    if unknown is None:
        return row
    right = found == truth
    row |= {
        "ECE": ep.metrics.expected_calibration_error(truth, found, confidence),
        "risk–coverage": ep.metrics.area_under_risk_coverage(truth, found, confidence),
        "unknown": float(unknown.to_numpy()[known].mean()),
    }
    order = np.argsort(-confidence)
    for part in (0.5, 0.8):
        row[f"accuracy of the surest {part:.0%}"] = float(
            right[order[: int(part * len(order))]].mean()
        )
    return row


def plain_sum(atac):
    """Levels of the open peaks in each sorted population less their mean, added up."""
    model = ep.models.from_pretrained("human-atlas")
    head = model.network.label
    scores = torch.from_numpy(atac.obsm["X_epifoundation"]) @ head.populations.contrasts
    first = [model.labels[i] for i in head.label_of]
    return pd.DataFrame(scores.numpy(), atac.obs_names, first).T.groupby(level=0).max().T


def marker_scores(atac, name):
    """Mean of standardised gene activity of known marker genes."""
    build = "hg19" if name == "bone marrow" else "hg38"
    path = SHARED / "annotation" / f"{build}_genes.bed.gz"
    genes = pd.read_csv(path, sep="\t", names=["chrom", "start", "end", "gene", "strand"])
    genes = genes.drop_duplicates("gene").set_index("gene")
    activity = ep.tl.gene_activity(atac, annotation=genes)
    sc.pp.normalize_total(activity, target_sum=1e4)
    sc.pp.log1p(activity)
    kinds = set(atac.obs["class"]) - {""}
    scores = {}
    for kind, markers in MARKERS.items():
        found = [gene for gene in markers if gene in activity.var_names]
        if kind not in kinds or not found:
            continue
        values = activity[:, found].X
        values = values.toarray() if sp.issparse(values) else np.asarray(values)
        values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)
        scores[kind] = values.mean(axis=1)
    return pd.DataFrame(scores, index=atac.obs_names) if len(scores) > 1 else None


def clusters():
    """NMI of Leiden clusters with the labels, for random cells of each size."""
    rows = []
    for name in DATA:
        atac, mapping = load(name)
        ep.tl.embed(atac, annotation=False, expression=False, mapping=mapping)
        is_used = np.isfinite(atac.obsm["X_epifoundation"][:, 0])
        is_used &= ~atac.obs["cell_type"].astype(str).isin(["unlabelled"]).to_numpy()
        atac = atac[is_used].copy()
        order = np.random.default_rng(0).permutation(atac.n_obs)
        for size in (100, 300, 1_000, atac.n_obs):
            if size > atac.n_obs:
                continue
            some = atac[order[:size]].copy()
            some.obsm["lsi"] = log_lsi(sp.csr_matrix(some.X > 0).astype(np.float32))
            row = {"data": name, "cells": size}
            for key, title in (("X_epifoundation", "atlas"), ("lsi", "LSI")):
                sc.pp.neighbors(some, n_neighbors=15, use_rep=key, transformer="sklearn")
                sc.tl.leiden(some, flavor="igraph", n_iterations=2, random_state=0)
                row[title] = normalized_mutual_info_score(some.obs["leiden"], some.obs["cell_type"])
            rows.append(row)
    return pd.DataFrame(rows)


def log_lsi(counts):
    """Latent semantic indexing with logarithms of TF-IDF, as Signac does by default."""
    counts = counts[:, np.flatnonzero(counts.getnnz(axis=0))]
    weights = sp.diags(counts.shape[0] / counts.getnnz(axis=0))
    scaled = sp.diags(1 / np.maximum(counts.getnnz(axis=1), 1)) @ counts @ weights
    scaled.data = np.log1p(scaled.data * 1e4)
    n_columns = min(30, counts.shape[0] - 2)
    return TruncatedSVD(n_columns, random_state=0).fit_transform(scaled)[:, 1:]


def expression():
    """Correlation of predicted and measured expression of genes, over cells."""
    rows = []
    for name, file in (
        ("PBMC, whole genome", "pbmc10k_100cells"),
        ("PBMC, 51 loci (smoothed RNA)", "pbmc10k_51loci"),
    ):
        mdata = mudata.read_h5mu(SHARED / "data" / f"{file}_hg38.h5mu")
        ep.tl.embed(mdata, annotation=False)
        rna = mdata["rna"]
        values = rna.X.toarray() if sp.issparse(rna.X) else np.asarray(rna.X)
        if file == "pbmc10k_100cells":
            values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
        predicted = rna.layers["epifoundation"]
        cells = np.isfinite(predicted).any(axis=1)
        genes = np.isfinite(predicted[cells]).all(axis=0)
        genes &= (values[cells] > 0).sum(axis=0) >= 10
        pair = (each[np.ix_(cells, genes)].astype(float) for each in (predicted, values))
        a, b = ((each - each.mean(axis=0)) / each.std(axis=0) for each in pair)
        found = (a * b).mean(axis=0)
        rows.append(
            {
                "data": name,
                "cells": int(cells.sum()),
                "cells without prediction": int((~cells).sum()),
                "genes in 10 cells": int(genes.sum()),
                "r per gene, mean": float(np.nanmean(found)),
                "r per gene, median": float(np.nanmedian(found)),
                "genes with r > 0.1": float(np.nanmean(found > 0.1)),
            }
        )
    return pd.DataFrame(rows)


def prior():
    """Labels of bone marrow from few labelled cells of the same donor, drawn at random."""
    atac, _ = load("bone marrow")
    lifted, status = lift_over(read_intervals(atac.var), CHAIN)
    kept = np.asarray(status) == "lifted"
    names = lifted["chrom"] + ":" + lifted["start"].astype(str) + "-" + lifted["end"].astype(str)
    atac = anndata.AnnData(
        sp.csr_matrix(atac.X)[:, kept], obs=atac.obs[["cell_type"]], var=pd.DataFrame(index=names)
    )
    atac = atac[:, ~atac.var_names.duplicated()].copy()
    rows = []
    for size in SIZES:
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(atac.n_obs)
            known, query = (atac[np.sort(part)].copy() for part in (order[:size], order[-N_TEST:]))
            truth = query.obs["cell_type"].astype(str).to_numpy()
            options = {"objective": "peaks", "label_key": "cell_type", "rng": seed}
            found = {}
            for method, chosen in (("without", None), ("with the atlas", "human-atlas")):
                model = ep.tl.pretrain(known, prior=chosen, **options)
                found[method] = annotated(query, model)
            found["atlas, cells as reference"] = annotated(
                query, "human-atlas", reference=known, label_key="cell_type", rng=seed
            )
            for method, labels_ in found.items():
                rows.append(
                    {
                        "training cells": size,
                        "method": method,
                        "accuracy": float((labels_ == truth).mean()),
                        "macro-F1": float(
                            f1_score(truth, labels_, labels=np.unique(truth), average="macro")
                        ),
                    }
                )
    table = pd.DataFrame(rows).groupby(["training cells", "method"], sort=False).mean()
    return table.reset_index()


def annotated(query, model, **options):
    """The likeliest labels of cells."""
    query = query.copy()
    ep.tl.annotate(query, model, unknown=0, **options)
    return query.obs["epifoundation_cell_type"].astype(str).to_numpy()


def coverage():
    """Peaks of called lists that the atlas knows."""
    lists = {
        "PBMC, multiome, whole genome": SHARED
        / "annotation"
        / "pbmc_unsorted_10k_peaks_hg38.bed.gz"
    }
    model = ep.models.from_pretrained("human-atlas")
    rows = []
    for name, path in lists.items():
        peaks = ep.PeakVocabulary.read_bed(path, genome="hg38")
        known = model.peaks.projection(peaks.intervals).getnnz(axis=1) > 0
        rows.append({"peaks of": name, "peaks": len(peaks), "known": float(known.mean())})
    for name in DATA:
        atac, mapping = load(name)
        ep.tl.embed(atac, annotation=False, expression=False, mapping=mapping)
        report = atac.uns["epifoundation"]["peaks"]
        known = report["matched"] / report["data"]
        rows.append({"peaks of": name, "peaks": report["data"], "known": known})
    return pd.DataFrame(rows)


FIRST_CALL = """
import pathlib, time
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
start = time.perf_counter()
import epifoundation as ep
mdata = ep.datasets.pbmc_multiome()
loaded = time.perf_counter()
before = peak()
ep.tl.annotate(mdata)
first = time.perf_counter()
ep.tl.annotate(mdata)
second = time.perf_counter()
after = peak()
print(loaded - start, first - loaded, second - first, before / 1e6, after / 1e6)
"""


def cost():
    """Seconds and memory of the first call in a new process, of 5,000 cells."""
    out = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True
    )
    names = ["import and data, s", "first call, s", "second call, s"]
    names += ["memory before, GB", "peak memory, GB"]
    row = dict(zip(names, map(float, out.stdout.split()), strict=True))
    folder = Path(ep.__file__).parent / "models" / "bundled" / "human-atlas"
    row["model on disk, MB"] = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return pd.DataFrame([row])


def quantisation():
    """What storing the vectors with 8 bits changes."""
    sys.path.insert(0, str(HERE.parent / "scripts" / "atlas"))
    import build

    model = ep.models.from_pretrained("human-atlas")
    _, blood, dnase, _ = build.elements(SHARED)
    parts = build.components(blood, build.N_SORTED_COLUMNS)
    parts = parts, build.components(dnase, build.N_COLUMNS - build.N_SORTED_COLUMNS)
    encoder = model.network.encoder
    exact = torch.from_numpy(np.concatenate(parts, axis=1))
    exact[:, build.N_SORTED_COLUMNS :] += encoder.vectors.shift[build.N_SORTED_COLUMNS :]
    rows = []
    for name in DATA:
        atac, mapping = load(name)
        atac = ep.pp.map_peaks(atac, model, liftover=None if mapping is None else CHAIN, copy=True)
        tokens = sp.csr_matrix(atac.obsm["epifoundation_peaks"])
        tokens = tokens[np.diff(tokens.indptr) > 0]
        depth = torch.from_numpy(np.sqrt(np.diff(tokens.indptr))).float()[:, None]
        z = [
            torch.from_numpy(np.asarray(tokens @ table.numpy())) / depth @ encoder.whitening
            for table in (exact, encoder.vectors.weight)
        ]
        found = [model.network.label(each).argmax(dim=1) for each in z]
        r = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(each.numpy().T for each in z), strict=True)]
        changed = float((found[0] != found[1]).float().mean())
        rows.append(
            {
                "data": name,
                "r of columns, least": min(r),
                "r of columns, mean": np.mean(r),
                "labels changed": changed,
            }
        )
    return pd.DataFrame(rows)


TABLES = {
    "labels": labels,
    "clusters": clusters,
    "expression": expression,
    "prior": prior,
    "coverage": coverage,
    "cost": cost,
    "quantisation": quantisation,
}
TITLES = {
    "labels": "Labels without a reference",
    "clusters": "Clusters without training: NMI of Leiden clusters with the labels",
    "expression": "Expression that was never seen",
    "prior": "Few labelled cells of bone marrow, with and without the atlas as prior",
    "coverage": "Peaks that the atlas knows",
    "cost": "The first call",
    "quantisation": "Vectors of 8 bits against full precision",
}


def page(found):
    """The tables as Markdown."""
    parts = []
    for name, title in TITLES.items():
        if name not in found:
            continue
        table = pd.DataFrame(found[name])
        lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * table.shape[1]]
        lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
        parts.append(f"### {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def cell(value):
    """A number or a text in a table."""
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
