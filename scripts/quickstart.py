"""Check an installed package: the first example of the README, and a report."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import scanpy as sc

import epifoundation as ep


def main():
    with warnings.catch_warnings(record=True) as shown:  # with the default filters of Python
        run()
    assert not shown, [str(each.message) for each in shown]


def run():
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
