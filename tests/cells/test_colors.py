"""Colours of labels are read from objects and files, by position of their category."""

import pytest
from mudata import MuData

import epifoundation as ep
from epifoundation.cells.colors import read_colors


@pytest.mark.parametrize("suffix", [None, "h5ad", "zarr"])
def test_colours_are_read_from_objects_and_files(tmp_path, suffix):
    atac = ep.datasets.simulate_multiome(30, 60, 5)["atac"]
    atac.obs["label"] = ["b", "a", "b"] * 10
    place = tmp_path / f"cells.{suffix}"

    def stored():
        if suffix is None:
            return atac
        atac.write_h5ad(place) if suffix == "h5ad" else atac.write_zarr(place)
        return place

    assert read_colors(stored(), "label", "atac") == {}
    atac.obs["label"] = atac.obs["label"].astype("category")
    atac.uns["label_colors"] = ["#000001", "#000002"]
    assert read_colors(stored(), "label", "atac") == {"a": "#000001", "b": "#000002"}
    atac.uns["label_colors"] = ["#000001"]  # of an earlier state of the column
    assert read_colors(stored(), "label", "atac") == {}


def test_colours_of_another_modality():
    mdata = ep.datasets.simulate_multiome(30, 60, 5)
    rna = mdata["rna"].copy()
    rna.obs["label"] = ["b", "a", "b"] * 10
    rna.obs["label"] = rna.obs["label"].astype("category")
    rna.uns["label_colors"] = ["#000001", "#000002"]
    both = MuData({"atac": mdata["atac"].copy(), "rna": rna})
    assert read_colors(both, "rna:label", "atac") == {"a": "#000001", "b": "#000002"}
