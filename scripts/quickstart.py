"""What the README begins with, by an installed package: cells in, embedding, labels, expression and a report out."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import scanpy as sc

import epifoundation as ep


def main():
    with warnings.catch_warnings(record=True) as shown:  # as Python shows them by default
        run()
    assert not shown, [str(each.message) for each in shown]


def run():
    mdata = ep.datasets.pbmc_multiome()
    ep.tl.embed(mdata)
    atac = mdata["atac"]
    sc.pp.neighbors(atac, use_rep="X_epifoundation")
    sc.tl.umap(atac)
    with tempfile.TemporaryDirectory() as folder:
        report = ep.pl.report(mdata, Path(folder) / "report.html", label_key="cell_type")
        size = report.stat().st_size
    right = (atac.obs["epifoundation_cell_type"].astype(str) == mdata.obs["cell_type"].astype(str))[
        mdata.obs["split"] == "test"
    ].mean()
    assert np.isfinite(atac.obsm["X_epifoundation"]).all()
    assert right > 0.6
    assert size < 3e6
    print(
        f"{ep.__file__}: {atac.n_obs:,} cells, {right:.0%} of those held out are right; a report of {size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
