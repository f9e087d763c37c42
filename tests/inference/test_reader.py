"""A new result column needs a readout only: objects, new files and input files get it."""

from dataclasses import dataclass

import anndata
import numpy as np
import pytest

from epifoundation._keys import Keys
from epifoundation.inference import plan
from epifoundation.inference.reader import BlockReadout, Reader, Readout
from epifoundation.inference.runner import apply


@dataclass(frozen=True)
class KnownPeaks(Readout):
    """Number of open peaks that the model knows."""

    def begin(self, block, batches):
        return KnownPeaksOfBlock(len(block.names))


class KnownPeaksOfBlock(BlockReadout):
    def __init__(self, n_cells):
        self.n_known = np.zeros(n_cells, np.int32)

    def add(self, rows, tokens, embedding):
        self.n_known[rows] = tokens.n_known

    def write(self, atac, rna):
        atac.obs["n_known"] = self.n_known


@pytest.fixture
def run(model):
    def run(data, output=None):
        options = {"modality": "atac", "rna_modality": "rna", "mapping": None, "copy": False}
        reader = Reader(model, Keys(), [KnownPeaks()])
        return apply(reader, data, output=output, overwrite=False, **options)

    return run


def test_a_new_column_is_written_wherever_results_go(mdata, model, run, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_CELLS", 64)
    atac = mdata["atac"]
    path, output = tmp_path / "a.h5ad", tmp_path / "out.zarr"
    atac.write_h5ad(path)
    expected = (atac.X > 0).toarray()[:, atac.var_names.isin(model.peaks.names)].sum(axis=1)
    run(path, output)
    run(path)
    run(atac)
    for found in (atac, anndata.read_h5ad(path), anndata.read_zarr(output)):
        assert found.obs["n_known"].tolist() == expected.tolist()
