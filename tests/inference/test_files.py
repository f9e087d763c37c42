"""Tools take files where they say so: the results are those of cells in memory."""

import inspect

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep

FILES = {"Inputs", "Located"}


@pytest.fixture(params=[".h5mu", ".zarr"])
def path(request, mdata, tmp_path):
    path = tmp_path / f"cells{request.param}"
    mdata.write_zarr(path) if request.param == ".zarr" else mdata.write_h5mu(path)
    return path


def test_a_tool_that_takes_no_files_says_so_first():
    for name in ep.tl.__all__:
        tool = getattr(ep.tl, name)
        first = inspect.getdoc(tool).split("\n")[0]
        takes_files = inspect.signature(tool).parameters["data"].annotation in FILES
        assert takes_files != ("in memory" in first), name


@pytest.mark.filterwarnings("ignore:.*consolidated metadata.*")
def test_knock_outs(path, mdata, model):
    options = {"peaks": list(mdata["atac"].var_names[:3]), "genes": ["gene3", "gene20"]}
    found = ep.tl.knock_out(path, model, batch_key="batch", **options)
    expected = ep.tl.knock_out(mdata, model, batch_key="batch", **options)
    pd.testing.assert_frame_equal(found.expression, expected.expression, check_names=False)
    assert found.n_removed.tolist() == expected.n_removed.tolist()
    both = [list(ep.tl.scan_knock_outs(each, model, **options)) for each in (path, mdata)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one.cells, other.cells)
        np.testing.assert_array_equal(one.change, other.change)
    assert sum(len(piece.cells) for piece in both[0]) > 10


@pytest.mark.filterwarnings("ignore:.*consolidated metadata.*")
def test_gene_activity(path, mdata):
    found, expected = ep.tl.gene_activity(path), ep.tl.gene_activity(mdata)
    assert (found.X != expected.X).nnz == 0
    assert list(found.obs_names) == list(expected.obs_names)
    with pytest.raises(ValueError, match=r"no modality 'gex' \(`rna_modality=`\)"):
        ep.tl.gene_activity(path, rna_modality="gex")


@pytest.mark.filterwarnings("ignore:.*consolidated metadata.*")
def test_finetune_and_a_reference(path, mdata, model):
    options = {"label_key": "cell_type", "batch_key": "batch", "rng": 1}
    found, expected = (ep.tl.finetune(each, model, **options) for each in (path, mdata))
    assert found.revision == expected.revision
    one, other = mdata.copy(), mdata.copy()
    options = {"label_key": "cell_type", "batch_key": "batch", "calibration": ["batch1"]}
    batches = mdata.obs["batch"] if "batch" in mdata.obs else mdata["atac"].obs["batch"]
    options["calibration"] = [str(batches.iloc[0])]
    ep.tl.annotate(one, model, reference=path, **options)
    ep.tl.annotate(other, model, reference=mdata, **options)
    pd.testing.assert_frame_equal(one["atac"].obs, other["atac"].obs)
    halves = [mdata[:200].copy(), mdata[200:].copy()]
    several = ep.tl.finetune(halves, model, label_key="cell_type", batch_key="batch", rng=1)
    assert several.revision == expected.revision
