"""The bundled multiome."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import mudata
from mudata import MuData


def pbmc_multiome() -> MuData:
    """Load the bundled human blood multiome: measured cells, 51 windows of the genome.

    A part of the 10x Genomics PBMC granulocyte-sorted 10k multiome (CC BY 4.0), as distributed with
    chromatinhd 0.4.3 (MIT): fragments in tiles of 500 bp in 51 windows of 200 kb around genes, and
    the expression of these genes. The attribution is in ``mdata.uns["provenance"]``.

    Returns
    -------
    MuData on hg38. ``mdata["atac"]``: counts (CSR) of 5,724 tiles. ``mdata["rna"]``: 51 genes,
    smoothed log values, not counts. ``obs["cell_type"]``: 13 types. ``obs["split"]``: ``"train"``,
    or ``"test"`` for cells that the bundled model was not trained on (a random quarter of the same
    sample, so not a held-out batch).

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> list(mdata.mod), mdata["rna"].n_vars, sorted(mdata.obs["split"].unique())
    (['rna', 'atac'], 51, ['test', 'train'])
    """
    return mudata.read_h5mu(Path(str(files("epifoundation.datasets"))) / "pbmc_multiome.h5mu")
