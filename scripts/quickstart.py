"""Check an installed package: the first example of the README, and a report."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import scanpy as sc

import epifoundation as ep

EMPTY = "1 of 5,000 cells have no open peak that the model knows"
LINEAGES = {"CD4": "T and NK cell", "CD8": "T and NK cell", "NK": "T and NK cell"}
LINEAGES |= {"Mono": "monocyte and dendritic", "B": "B cell"}


def main():
    with warnings.catch_warnings(record=True) as shown:  # with the default filters of Python
        first_example()
        other_model()
    others = [str(each.message) for each in shown if not str(each.message).startswith(EMPTY)]
    assert not others, others


def first_example():
    """The first example of the README, without its report."""
    mdata = ep.datasets.pbmc_multiome()
    ep.tl.annotate(mdata, refine=True)
    ep.tl.predict_expression(mdata)
    atac = mdata["atac"]
    atac = atac[atac.obs["epifoundation_coverage"] > 0].copy()
    sc.pp.neighbors(atac, use_rep="X_epifoundation")
    sc.tl.umap(atac)
    ep.pl.umap(atac)
    names = mdata.obs["cell_type"].astype(str).reindex(atac.obs_names)
    kinds = [next((LINEAGES[part] for part in LINEAGES if part in name), "") for name in names]
    kinds = np.array(kinds)
    right = (atac.obs["epifoundation_lineage"].astype(str) == kinds)[kinds != ""].mean()
    assert right > 0.8
    print(f"lineages without a reference: {right:.0%} of {atac.n_obs:,} cells")


def other_model():
    mdata = ep.datasets.pbmc_multiome()
    ep.tl.embed(mdata, "pbmc-51loci")
    atac = mdata["atac"]
    sc.pp.neighbors(atac, use_rep="X_epifoundation")
    sc.tl.umap(atac)
    with tempfile.TemporaryDirectory() as folder:
        report = ep.pl.report(mdata, Path(folder) / "report.html", label_key="cell_type")
        size = report.stat().st_size
    accuracy = (
        atac.obs["epifoundation_cell_type"].astype(str) == mdata.obs["cell_type"].astype(str)
    )[mdata.obs["split"] == "test"].mean()
    assert np.isfinite(atac.obsm["X_epifoundation"]).all()
    assert accuracy > 0.6
    assert size < 3e6
    print(f"{ep.__file__}: {atac.n_obs:,} cells, accuracy on test cells {accuracy:.0%}")
    print(f"report: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
