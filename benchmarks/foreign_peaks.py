"""Label accuracy of the bundled model on data with other peaks.

    python benchmarks/foreign_peaks.py

The test cells of the bundled data, with peaks that are shifted, merged into windows of 1 kb, or
removed at random. Accuracy of the label head, also relative to the accuracy with the peaks of the
model; mean of five draws.
"""

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import epifoundation as ep
from epifoundation.genome import read_intervals

SEEDS = range(5)


def main():
    """Embed the cells with each change of the peaks and print the table."""
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    mdata = ep.datasets.pbmc_multiome()
    atac = mdata["atac"][(mdata.obs["split"] == "test").to_numpy()].copy()
    atac.obs["cell_type"] = mdata.obs["cell_type"].reindex(atac.obs_names)
    changes = {"none": lambda a, rng: a}
    changes |= {
        f"shifted by up to {bases} bp": (lambda a, rng, bases=bases: shifted(a, bases, rng))
        for bases in (50, 100, 250)
    }
    changes |= {"merged to 1 kb": lambda a, rng: merged(a, 1000)}
    changes |= {
        f"{kept:.0%} of the peaks": (lambda a, rng, kept=kept: thinned(a, kept, rng))
        for kept in (0.75, 0.5, 0.25)
    }
    rows = []
    for name, change in changes.items():
        for seed in SEEDS:
            changed = change(atac, np.random.default_rng(seed))
            ep.tl.embed(changed, "pbmc-51loci", expression=False)
            report = changed.uns["epifoundation"]["peaks"]
            correct = changed.obs["epifoundation_cell_type"].astype(str) == changed.obs[
                "cell_type"
            ].astype(str)
            rows.append(
                {
                    "peaks": name,
                    "model peaks covered": report["vocabulary_matched"] / report["vocabulary"],
                    "counts in known peaks": report["counts_fraction_matched"],
                    "accuracy": correct.mean(),
                }
            )
    table = pd.DataFrame(rows).groupby("peaks", sort=False).mean()
    table["relative to unchanged"] = table["accuracy"] / table.loc["none", "accuracy"]
    print(table.to_string(float_format="{:.3f}".format))


def shifted(atac, bases, rng):
    """Shift each peak independently."""
    frame = read_intervals(atac.var)
    shift = rng.integers(-bases, bases + 1, len(frame))
    return renamed(
        atac.X, frame.assign(start=frame["start"] + shift, end=frame["end"] + shift), atac.obs
    )


def merged(atac, width):
    """Sum counts in windows of `width`, which are not aligned with the peaks of the model."""
    frame = read_intervals(atac.var)
    start = frame["start"] // width * width
    windows = pd.DataFrame({"chrom": frame["chrom"], "start": start, "end": start + width})
    unique, codes = (
        windows.drop_duplicates().reset_index(drop=True),
        windows.groupby(["chrom", "start"], sort=False).ngroup(),
    )
    onto = sp.csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)))
    return renamed(atac.X @ onto, unique, atac.obs)


def thinned(atac, fraction, rng):
    """Keep a random fraction of the peaks."""
    kept = np.sort(rng.permutation(atac.n_vars)[: round(fraction * atac.n_vars)])
    return atac[:, kept].copy()


def renamed(X, frame, obs):
    """Cells with other peak intervals."""
    frame = frame.reset_index(drop=True)
    names = frame["chrom"] + ":" + frame["start"].astype(str) + "-" + frame["end"].astype(str)
    first = ~names.duplicated().to_numpy()
    return AnnData(
        sp.csr_matrix(X)[:, first], obs=obs.copy(), var=pd.DataFrame(index=names[first].to_numpy())
    )


if __name__ == "__main__":
    main()
