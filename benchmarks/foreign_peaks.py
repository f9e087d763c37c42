"""Label accuracy of the bundled model when the data's peaks are not the model's.

    python benchmarks/foreign_peaks.py

The bundled blood cells that the model never saw, with their peaks moved by up to some bases, merged to windows of 1 kb, or
thinned: the counts stay, the intervals change. Accuracy of the label head, and as a fraction of that on the model's own peaks.
Mean of five draws.
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
    """Embed the cells with each change and print the table."""
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    mdata = ep.datasets.pbmc_multiome()
    atac = mdata["atac"][(mdata.obs["split"] == "test").to_numpy()].copy()
    atac.obs["cell_type"] = mdata.obs["cell_type"].reindex(atac.obs_names)
    changes = {"none": lambda a, rng: a}
    changes |= {
        f"moved by up to {most} bp": (lambda a, rng, most=most: moved(a, most, rng))
        for most in (50, 100, 250)
    }
    changes |= {"merged to 1 kb": lambda a, rng: merged(a, 1000)}
    changes |= {
        f"thinned to {share:.0%}": (lambda a, rng, share=share: thinned(a, share, rng))
        for share in (0.75, 0.5, 0.25)
    }
    rows = []
    for name, change in changes.items():
        for seed in SEEDS:
            changed = change(atac, np.random.default_rng(seed))
            ep.tl.embed(changed, expression=False)
            report = changed.uns["epifoundation"]["peaks"]
            right = changed.obs["epifoundation_cell_type"].astype(str) == changed.obs[
                "cell_type"
            ].astype(str)
            rows.append(
                {
                    "peaks": name,
                    "model's peaks reached": report["vocabulary_matched"] / report["vocabulary"],
                    "counts in known peaks": report["counts_fraction_matched"],
                    "accuracy": right.mean(),
                }
            )
    table = pd.DataFrame(rows).groupby("peaks", sort=False).mean()
    table["of unchanged"] = table["accuracy"] / table.loc["none", "accuracy"]
    print(table.to_string(float_format="{:.3f}".format))


def moved(atac, most, rng):
    """Each peak shifted by itself."""
    frame = read_intervals(atac.var)
    shift = rng.integers(-most, most + 1, len(frame))
    return renamed(
        atac.X, frame.assign(start=frame["start"] + shift, end=frame["end"] + shift), atac.obs
    )


def merged(atac, width):
    """Counts added up in windows of `width`, which do not begin where the model's peaks do."""
    frame = read_intervals(atac.var)
    start = frame["start"] // width * width
    windows = pd.DataFrame({"chrom": frame["chrom"], "start": start, "end": start + width})
    unique, codes = (
        windows.drop_duplicates().reset_index(drop=True),
        windows.groupby(["chrom", "start"], sort=False).ngroup(),
    )
    onto = sp.csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)))
    return renamed(atac.X @ onto, unique, atac.obs)


def thinned(atac, share, rng):
    """Some of the peaks."""
    kept = np.sort(rng.permutation(atac.n_vars)[: round(share * atac.n_vars)])
    return atac[:, kept].copy()


def renamed(X, frame, obs):
    """Cells with these peaks."""
    frame = frame.reset_index(drop=True)
    names = frame["chrom"] + ":" + frame["start"].astype(str) + "-" + frame["end"].astype(str)
    first = ~names.duplicated().to_numpy()
    return AnnData(
        sp.csr_matrix(X)[:, first], obs=obs.copy(), var=pd.DataFrame(index=names[first].to_numpy())
    )


if __name__ == "__main__":
    main()
