"""``mapping=``: options of mapping peaks, recorded in the data, given to tools, from files."""

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.peaks.options import OPTIONS

TOOLS = [
    name
    for name in ep.tl.__all__
    if "mapping" in inspect.signature(getattr(ep.tl, name)).parameters
]
EMBEDDING = "X_epifoundation"


@pytest.fixture
def moved(mdata):
    """Cells with every second peak shifted by 400 of its 500 bases."""
    atac = mdata["atac"]
    table = ep.genome.read_intervals(atac.var)
    table.loc[::2, ["start", "end"]] += 400
    atac.var = pd.DataFrame(index=[f"{c}:{s}-{e}" for c, s, e in table.itertuples(index=False)])
    return atac


@pytest.fixture
def strict(model):
    """Options that change the mapping of `moved`."""
    return ep.PeakMapping(min_overlap=0.5, min_coverage=0.0)


def n_matched(atac):
    return atac.uns["epifoundation"]["peaks"]["matched"]


def test_options_are_those_of_map_peaks():
    default = inspect.signature(ep.pp.map_peaks).parameters
    options = inspect.signature(ep.PeakMapping).parameters
    assert list(options) == list(OPTIONS)
    assert all(options[name].default == default[name].default for name in OPTIONS)


def test_tools_use_what_map_peaks_recorded(moved, model, strict):
    given, recorded, default = moved.copy(), moved.copy(), moved.copy()
    ep.tl.embed(given, model, mapping=strict)
    ep.pp.map_peaks(recorded, model, min_overlap=0.5, min_coverage=0.0)
    assert recorded.uns["epifoundation"]["peaks"]["options"] == strict.options
    ep.tl.embed(recorded, model)
    ep.tl.embed(default, model, mapping=ep.PeakMapping(min_coverage=0.0))
    np.testing.assert_array_equal(recorded.obsm[EMBEDDING], given.obsm[EMBEDDING])
    assert n_matched(recorded) == n_matched(given) < n_matched(default)
    # An explicit mapping replaces the recorded one, and is recorded in turn
    ep.tl.embed(recorded, model, mapping=ep.PeakMapping(min_coverage=0.0))
    assert n_matched(recorded) == n_matched(default)
    assert recorded.uns["epifoundation"]["peaks"]["options"] == {"min_coverage": 0.0}


def test_options_of_another_model_are_not_used(moved, model, strict):
    other = replace(model, name="other")
    ep.pp.map_peaks(moved, other, min_overlap=0.5, min_coverage=0.0)
    ep.tl.embed(moved, model)
    assert "options" not in moved.uns["epifoundation"]["peaks"]


@pytest.mark.parametrize("kind", [".h5ad", ".zarr"])
def test_recorded_options_survive_a_file(moved, model, strict, tmp_path, kind):
    expected = moved.copy()
    ep.tl.embed(expected, model, mapping=strict)
    ep.pp.map_peaks(moved, model, min_overlap=0.5, min_coverage=0.0)
    path = tmp_path / f"a{kind}"
    moved.write_zarr(path) if kind == ".zarr" else moved.write_h5ad(path)
    knocked = ep.tl.knock_out(path, model, peaks=moved.var_names[1], genes=["gene3"])
    again = ep.tl.knock_out(moved, model, peaks=moved.var_names[1], genes=["gene3"])
    pd.testing.assert_frame_equal(knocked.expression, again.expression, check_names=False)
    ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    import anndata

    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(found.obsm[EMBEDDING], expected.obsm[EMBEDDING], atol=1e-6)
    assert found.uns["epifoundation"]["peaks"]["options"] == strict.options


def test_of_files_the_mapping_is_returned_with_a_report(moved, mdata, model, tmp_path):
    files = {"one": tmp_path / "one.h5ad", "two": tmp_path / "two.h5mu"}
    moved[:50].copy().write_h5ad(files["one"])
    mdata[50:90].copy().write_h5mu(files["two"])
    mapping = ep.pp.map_peaks(files, model, min_overlap=0.5, min_coverage=0.0)
    assert mapping == ep.PeakMapping(min_overlap=0.5, min_coverage=0.0)
    assert list(mapping.report.index) == ["one", "two"]
    ep.tl.embed(files, model, mapping=mapping, output=tmp_path / "out.h5ad")
    with pytest.raises(ValueError, match="`copy=True` is for objects in memory"):
        ep.pp.map_peaks(files, model, copy=True)
    alone = moved[:50].copy()
    ep.pp.map_peaks(alone, model, min_overlap=0.5, min_coverage=0.0)
    assert mapping.report.loc["one", "matched"] == n_matched(alone)


@pytest.mark.parametrize("name", TOOLS)
def test_old_options_are_accepted_with_a_warning(name, mdata, model):
    tool = getattr(ep.tl, name)
    options = {
        "annotate": {},
        "finetune": {"label_key": "cell_type"},
        "impute_accessibility": {"groupby": "cell_type"},
        "knock_out": {"peaks": mdata["atac"].var_names[0]},
        "link_peaks": {"genes": "gene3", "max_distance": 50_000},
        "scan_knock_outs": {"genes": "gene3"},
    }.get(name, {})
    with pytest.warns(FutureWarning, match=rf"`{name}\(min_overlap=0.2\)`.*mapping=ep.PeakMapping"):
        tool(mdata.copy(), model, min_overlap=0.2, **options)
    with pytest.raises(TypeError, match="Both `mapping` and min_overlap=0.2"):
        tool(mdata.copy(), model, mapping=ep.PeakMapping(), min_overlap=0.2, **options)


def test_the_warning_is_at_the_line_of_the_caller(mdata, model):
    with pytest.warns(FutureWarning) as caught:
        ep.tl.embed(mdata, model, min_coverage=0.1)
    assert caught[0].filename == __file__


def test_bad_options_are_refused_when_they_are_given():
    with pytest.raises(ValueError, match="`min_overlap` must lie between 0 and 1, got 2"):
        ep.PeakMapping(min_overlap=2)
    with pytest.raises(ValueError, match="`min_coverage` must lie between 0 and 1, got -1"):
        ep.PeakMapping(min_coverage=-1)
