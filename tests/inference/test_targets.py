"""An object is as it was if an error occurs while results are written into it."""

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.inference.labels import LabelledCells
from epifoundation.inference.predicted import ExpressedCells


class WriteError(Exception):
    """An error while results are written."""


def parts_of(adata):
    """All annotations, in their order."""
    parts = ("obsm", "varm", "obsp", "varp", "layers", "uns")
    return {part: dict(getattr(adata, part)) for part in parts}


@pytest.mark.parametrize("kind", ["AnnData", "MuData"])
@pytest.mark.parametrize("where", [LabelledCells, ExpressedCells])
@pytest.mark.parametrize("error", [WriteError, KeyboardInterrupt, MemoryError])
def test_an_error_while_results_are_written(mdata, model, monkeypatch, kind, where, error):
    """Also where results of an earlier run, by another model, were there."""
    data = mdata if kind == "MuData" else mdata["atac"]
    ep.tl.annotate(data, model)
    ep.tl.embed(data, ep.tl.pretrain(mdata, label_key="cell_type", rng=1))
    adatas = list(mdata.mod.values())
    before = [(parts_of(each), each.obs.copy(), each.var.copy()) for each in adatas]
    other = mdata["atac"].obsm["X_epifoundation"].copy()
    write = where.write

    def fail(self, atac, rna):
        write(self, atac, rna)
        raise error

    monkeypatch.setattr(where, "write", fail)
    with pytest.raises(error):
        ep.tl.embed(data, model)
    for adata, (parts, obs, var) in zip(adatas, before, strict=True):
        found = parts_of(adata)
        for part, values in parts.items():
            assert list(found[part]) == list(values)
            assert all(np.shape(found[part][name]) == np.shape(values[name]) for name in values)
        pd.testing.assert_frame_equal(adata.obs, obs)
        pd.testing.assert_frame_equal(adata.var, var)
    np.testing.assert_array_equal(mdata["atac"].obsm["X_epifoundation"], other)
    monkeypatch.setattr(where, "write", write)
    ep.tl.embed(data, model)  # nothing is in the way
