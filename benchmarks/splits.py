"""The data sets of the comparison, each with what may be learned from, what chooses, and what is judged on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import mudata
import numpy as np
from anndata import AnnData
from mudata import MuData

import epifoundation as ep

SHARED = Path(__file__).parents[2] / "shared"


@dataclass
class Split:
    """Cells of which some are known, some of these held out to choose and to calibrate with, and the others judged on.

    `atac` and `rna` (or None) are of all cells, `known`, `held` and `test` masks over them. `validation` and `batch_key` are what a user would tell
    `ep.tl.pretrain`; `counts` is whether the RNA are counts.
    """

    atac: AnnData
    rna: AnnData | None
    test: np.ndarray
    held: np.ndarray
    genome: str
    batch_key: str | None = None
    validation: list[str] | None = None
    counts: bool = True
    annotation: Path | None = None

    @property
    def known(self) -> np.ndarray:
        """Cells that may be learned from or chosen with."""
        return ~self.test

    @property
    def train(self) -> np.ndarray:
        """Cells that are learned from."""
        return ~self.test & ~self.held

    @property
    def labels(self) -> np.ndarray:
        """Cell types."""
        return self.atac.obs["cell_type"].astype(str).to_numpy()

    @property
    def expression(self) -> np.ndarray:
        """As it is scored: log1p of counts per 10,000, or the values of data that are on a log scale already."""
        values = self.rna.X.toarray() if hasattr(self.rna.X, "toarray") else np.asarray(self.rna.X)
        return log_scale(values) if self.counts else values

    def known_data(self) -> MuData | AnnData:
        """What is learned from."""
        atac = self.atac[self.known].copy()
        return (
            atac if self.rna is None else MuData({"atac": atac, "rna": self.rna[self.known].copy()})
        )


def log_scale(counts: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000."""
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12))


def snare(fold: str) -> Split:
    """SNARE-seq mouse cortex with the batch `fold` held out; the one after it chooses. Without the junk class."""
    mdata = mudata.read_h5mu(SHARED / "data" / "snare_cortex_mm10.h5mu")
    keep = (mdata["atac"].obs["cell_type"] != "Mis") & (mdata["atac"].X.getnnz(axis=1) > 0)
    mdata = mdata[keep.to_numpy()].copy()
    batch = mdata["atac"].obs["batch"].astype(str).to_numpy()
    names = sorted(set(batch))
    chooses = names[(names.index(fold) + 1) % len(names)]
    return Split(
        *(mdata["atac"], mdata["rna"]),
        *(batch == fold, batch == chooses),
        genome="mm10",
        batch_key="batch",
        validation=[chooses],
        annotation=SHARED / "annotation" / "mm10_genes.bed.gz",
    )


def pbmc(fold: str) -> Split:
    """The bundled blood cells with their fixed split; `fold` is a seed. RNA is smoothed log values, not counts."""
    mdata = ep.datasets.pbmc_multiome()
    test = (mdata.obs["split"] == "test").to_numpy()
    annotation = SHARED / "annotation" / "hg38_genes.bed.gz"
    for name in ("atac", "rna"):
        mdata[name].obs["cell_type"] = mdata.obs["cell_type"].to_numpy()
    return Split(
        *(mdata["atac"], mdata["rna"]),
        *(test, _tenth(~test, int(fold))),
        genome="hg38",
        counts=False,
        annotation=annotation if annotation.exists() else None,
    )


def granja(fold: str) -> Split:
    """Bone marrow of one donor, ATAC alone; a random 30 % of the cells is judged on, drawn with the seed `fold`: not a held-out batch."""
    atac = anndata.read_h5ad(SHARED / "data" / "granja_bmmc_atac_hg19.h5ad")
    atac = atac[atac.X.getnnz(axis=1) > 0].copy()
    test = np.random.default_rng(int(fold)).random(atac.n_obs) < 0.3
    return Split(atac, None, test, _tenth(~test, int(fold)), genome="hg19")


def simulated(median_fragments: int) -> Callable[[str], Split]:
    """Cells of known truth at some depth, one of four batches held out; `fold` is a seed."""

    def of(fold: str) -> Split:
        mdata = ep.datasets.simulate_multiome(
            2000,
            2000,
            100,
            n_types=8,
            n_batches=4,
            median_fragments=median_fragments,
            rng=100 + int(fold),
        )
        mdata = mdata[(mdata["atac"].X.getnnz(axis=1) > 0)].copy()
        batch = mdata["atac"].obs["batch"].astype(str).to_numpy()
        names = sorted(set(batch))
        return Split(
            *(mdata["atac"], mdata["rna"]),
            *(batch == names[0], batch == names[1]),
            genome="simulated",
            batch_key="batch",
            validation=[names[1]],
        )

    return of


def _tenth(known: np.ndarray, seed: int) -> np.ndarray:
    held = np.zeros(len(known), bool)
    rows = np.flatnonzero(known)
    held[np.random.default_rng(seed).choice(rows, len(rows) // 10, replace=False)] = True
    return held


# Folds of SNARE-seq on which no choice was made; the package was developed on 09B, 09E and 09H
DATA: dict[str, tuple[Callable[[str], Split], tuple[str, ...]]] = {
    "SNARE-seq cortex": (snare, ("09A", "09C", "09G")),
    "PBMC 51 loci": (pbmc, ("0", "1", "2")),
    "bone marrow": (granja, ("0", "1", "2")),
    "simulated, 50 fragments": (simulated(50), ("0", "1", "2")),
    "simulated, 200 fragments": (simulated(200), ("0", "1", "2")),
    "simulated, 800 fragments": (simulated(800), ("0", "1", "2")),
}
