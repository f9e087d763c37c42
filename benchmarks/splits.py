"""The data sets of the comparison, split into training, held (validation) and test cells."""

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
    """A data set with masks of the cells.

    Methods are fitted to `known` cells, of which the `held` cells are for validation and
    calibration, and tested on `test` cells. `validation` and `batch_key` are options of
    `ep.tl.pretrain`; `counts` says whether the RNA consists of counts.
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
        """Cells for training and validation."""
        return ~self.test

    @property
    def train(self) -> np.ndarray:
        """Cells for training."""
        return ~self.test & ~self.held

    @property
    def labels(self) -> np.ndarray:
        """Cell types."""
        return self.atac.obs["cell_type"].astype(str).to_numpy()

    @property
    def expression(self) -> np.ndarray:
        """Expression for scoring: log1p of counts per 10,000, unless already transformed."""
        values = self.rna.X.toarray() if hasattr(self.rna.X, "toarray") else np.asarray(self.rna.X)
        return log_scale(values) if self.counts else values

    def known_data(self) -> MuData | AnnData:
        """The known cells."""
        atac = self.atac[self.known].copy()
        return (
            atac if self.rna is None else MuData({"atac": atac, "rna": self.rna[self.known].copy()})
        )


def log_scale(counts: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000."""
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12))


def snare(fold: str) -> Split:
    """SNARE-seq mouse cortex: `fold` is the test batch, the next one is for validation."""
    mdata = mudata.read_h5mu(SHARED / "data" / "snare_cortex_mm10.h5mu")
    keep = (mdata["atac"].obs["cell_type"] != "Mis") & (mdata["atac"].X.getnnz(axis=1) > 0)
    mdata = mdata[keep.to_numpy()].copy()
    batch = mdata["atac"].obs["batch"].astype(str).to_numpy()
    names = sorted(set(batch))
    validation = names[(names.index(fold) + 1) % len(names)]
    return Split(
        *(mdata["atac"], mdata["rna"]),
        *(batch == fold, batch == validation),
        genome="mm10",
        batch_key="batch",
        validation=[validation],
        annotation=SHARED / "annotation" / "mm10_genes.bed.gz",
    )


def pbmc(fold: str) -> Split:
    """The bundled blood cells with their fixed split; `fold` is a seed. RNA is smoothed."""
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
    """Bone marrow of one donor, ATAC alone; `fold` is the seed of a random 30 % test cells."""
    atac = anndata.read_h5ad(SHARED / "data" / "granja_bmmc_atac_hg19.h5ad")
    atac = atac[atac.X.getnnz(axis=1) > 0].copy()
    test = np.random.default_rng(int(fold)).random(atac.n_obs) < 0.3
    return Split(atac, None, test, _tenth(~test, int(fold)), genome="hg19")


def simulated(median_fragments: int) -> Callable[[str], Split]:
    """Simulated cells, one of four batches for testing; `fold` is a seed."""

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


# The package was developed on the SNARE-seq batches 09B, 09E and 09H, which are not test batches
DATA: dict[str, tuple[Callable[[str], Split], tuple[str, ...]]] = {
    "SNARE-seq cortex": (snare, ("09A", "09C", "09G")),
    "PBMC 51 loci": (pbmc, ("0", "1", "2")),
    "bone marrow": (granja, ("0", "1", "2")),
    "simulated, 50 fragments": (simulated(50), ("0", "1", "2")),
    "simulated, 200 fragments": (simulated(200), ("0", "1", "2")),
    "simulated, 800 fragments": (simulated(800), ("0", "1", "2")),
}
