"""`make demo`: embed the bundled multiome with the bundled model, score and plot the results.

Scores are computed on the test cells of the model, and compared with LSI (50) and logistic
regression fitted to the same training cells. Writes `demo/umap.png`, `demo/report.html` and
`demo/pbmc_annotated.h5mu`.
"""

import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from baselines import logistic, lsi, ridge
from threadpoolctl import threadpool_limits

mpl.use("Agg")
# Deprecations within scanpy and mudata
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=PendingDeprecationWarning)

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import scanpy as sc  # noqa: E402

import epifoundation as ep  # noqa: E402
import epifoundation.tl  # noqa: E402 # imported before timing

FOLDER = Path("demo")


def main():
    """Embed, cluster, score and plot."""
    mdata = ep.datasets.pbmc_multiome()
    began = time.perf_counter()
    ep.tl.embed(mdata, "pbmc-51loci")
    seconds = time.perf_counter() - began

    atac = mdata["atac"]
    print("Neighbours, UMAP and Leiden with scanpy ...", flush=True)
    sc.pp.neighbors(atac, use_rep="X_epifoundation", random_state=0)
    sc.tl.umap(atac, random_state=0)
    sc.tl.leiden(atac, flavor="igraph", n_iterations=2, random_state=0)

    print("LSI and logistic regression for comparison ...", flush=True)
    train = (mdata.obs["split"] == "train").to_numpy()
    labels, expression = atac.obs["cell_type"].astype(str).to_numpy(), np.asarray(mdata["rna"].X)
    with threadpool_limits(1, user_api="blas"):
        components = lsi(atac.X, train)
        theirs = logistic(components, labels, train)
        theirs_expression = ridge(components, expression, train)
    ours = atac.obs["epifoundation_cell_type"].astype(str).to_numpy()[~train]
    ours_expression = mdata["rna"].layers["epifoundation"][~train]

    scores = pd.DataFrame(
        {
            "accuracy": [ep.metrics.accuracy(labels[~train], guess) for guess in (ours, theirs)],
            "macro-F1": [ep.metrics.macro_f1(labels[~train], guess) for guess in (ours, theirs)],
            "Pearson per gene": [
                ep.metrics.pearson_per_gene(expression[~train], guess)
                for guess in (ours_expression, theirs_expression)
            ],
        },
        index=["epifoundation", "LSI + logistic regression / ridge"],
    )
    peaks = atac.uns["epifoundation"]["peaks"]
    packages = ("epifoundation", "anndata", "mudata", "scanpy", "pandas", "zarr", "torch")
    print(
        f"\nPython {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    print(f"\ncells            {atac.n_obs:,} ({int((~train).sum()):,} test cells)")
    print(f"peaks matched    {peaks['matched']:,} of {peaks['data']:,}")
    speed = f"{seconds:.2f} s, {atac.n_obs / seconds:,.0f} cells/s, including loading the model"
    print(f"embedding        {speed}")
    print(f"Leiden clusters  {atac.obs['leiden'].nunique()}")
    print("\ntest cells (a random quarter of the same sample):")
    print(f"{scores.round(3).to_string()}\n")

    FOLDER.mkdir(exist_ok=True)
    draw(atac, FOLDER / "umap.png")
    mdata.write_h5mu(FOLDER / "pbmc_annotated.h5mu")
    report = ep.pl.report(
        mdata, FOLDER / "report.html", label_key="cell_type", title="Blood cells", overwrite=True
    )
    print(f"wrote {FOLDER / 'umap.png'}, {FOLDER / 'pbmc_annotated.h5mu'} and {report}")
    print("open the report in a browser")


def draw(atac, path):
    """UMAPs of cell types from RNA, annotation, confidence and clusters."""
    titles = {
        "cell_type": "cell type (from RNA)",
        "epifoundation_cell_type": "annotation (from ATAC)",
        "epifoundation_confidence": "confidence",
        "leiden": "Leiden clusters",
    }
    types = atac.obs["cell_type"].cat.categories
    palette = dict(zip(types, sc.pl.palettes.default_20, strict=False))
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.4), layout="constrained")
    for ax, (column, title) in zip(axes.flat, titles.items(), strict=True):
        options = {"palette": palette} if "cell_type" in column else {}
        if column == "cell_type":  # same colours as the annotation: one legend
            options["legend_loc"] = None
        sc.pl.umap(
            atac, color=column, ax=ax, show=False, title=title, frameon=False, size=14, **options
        )
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
