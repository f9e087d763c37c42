"""Data as gradient training reads them: which cells and peaks stay, in memory and from files."""

import numpy as np
import pytest
import scipy.sparse as sp

import epifoundation as ep
from epifoundation.paper.cells import load
from epifoundation.training.data import DataKeys, prepare

LEFT_OUT = "cells have no open peak or no RNA and are left out of training"


@pytest.fixture
def small(mdata):
    """Some cells, of which one has no open peak, one a peak that no other has, and one no RNA."""
    data = mdata[:80].copy()
    atac, rna = data["atac"].X.tolil(), data["rna"].X.tolil()
    atac[3] = atac[7] = atac[:, 5] = 0
    atac[7, 5] = 1
    rna[11] = 0
    data["atac"].X, data["rna"].X = atac.tocsr(), rna.tocsr()
    return data


@pytest.fixture(params=["memory", "files"])
def place(request, small, tmp_path):
    if request.param == "memory":
        return small
    paths = [tmp_path / "a.h5mu", tmp_path / "b.h5mu"]
    small[:30].copy().write(paths[0])
    small[30:].copy().write(paths[1])
    return paths


def loaded(place, objective="counts", *, min_cells=1, buffer=8192):
    rng = np.random.default_rng(0)
    keys = {"batch_key": "batch", "label_key": "cell_type"}
    data = prepare(place, objective, DataKeys(**keys), genome="hg38", rng=rng)
    training = ep.TrainingConfig(buffer=buffer)
    return load(data, objective, training, min_cells=min_cells, rng=rng), data


GONE = [("counts", {3, 11}), ("binary", {3}), ("peaks", {3, 7})]


@pytest.mark.parametrize(("objective", "gone"), GONE)
def test_cells_with_nothing_to_learn_from_are_left_out(place, objective, gone):
    """A peak to read, for counts RNA to predict, and without RNA another peak."""
    with pytest.warns(UserWarning, match=f"^{len(gone)} of 80 {LEFT_OUT}"):
        cells, data = loaded(place, objective)
    kept = sorted({*data.train, *data.held} - gone)
    assert len(kept) == 80 - len(gone)
    both = np.concatenate([cells.train, cells.held])
    np.testing.assert_array_equal(both, np.arange(len(kept)))
    assert cells.n_train == len(cells.train) == len(set(data.train) - gone)
    assert (np.diff(cells.pattern.indptr) > 0).all()
    assert (cells.target is None) == (objective == "peaks")


@pytest.mark.filterwarnings(f"ignore:.*{LEFT_OUT}")
def test_files_have_what_memory_has(small, tmp_path):
    small.write(tmp_path / "m.h5mu")
    (one, _), (other, _) = loaded(small), loaded(tmp_path / "m.h5mu")
    assert one.stored is None
    assert (one.pattern != other.pattern).nnz == 0
    assert (one.target != other.target).nnz == 0
    for name in ("train", "held", "batch_codes", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert len(other.stored.train) == len(one.train)
    assert one.peaks.same_as(other.peaks.intervals)


@pytest.mark.filterwarnings(f"ignore:.*{LEFT_OUT}")
def test_of_files_a_sample_is_in_memory_and_all_training_cells_are_read(small, tmp_path):
    small.write(tmp_path / "m.h5mu")
    cells, data = loaded(tmp_path / "m.h5mu", buffer=20)
    assert len(cells.train) == 20
    assert cells.n_train == len(cells.stored.train) == len(set(data.train) - {3, 11})
    assert set(cells.stored.train) <= set(data.train)
    data.close()


@pytest.mark.filterwarnings(f"ignore:.*{LEFT_OUT}")
def test_rare_peaks_are_left_out_by_the_training_cells(place, small):
    is_open = sp.csr_matrix(small["atac"].X) > 0
    cells, data = loaded(place, min_cells=8)
    often = is_open[data.train].getnnz(axis=0)
    kept = often >= 8
    assert 0 < kept.sum() < len(kept)
    names = small["atac"].var_names[kept]
    assert set(cells.peaks.names) == set(names)
    assert cells.pattern.shape[1] == len(cells.peaks) == kept.sum()
    # A cell has lost its only peak
    assert len(cells.train) + len(cells.held) == 80 - len({3, 7, 11})
    assert (np.diff(cells.pattern.indptr) > 0).all()
    whole, _ = loaded(place, min_cells=0)
    assert len(whole.peaks) == len(kept)
    data.close()


@pytest.mark.filterwarnings(f"ignore:.*{LEFT_OUT}")
def test_no_peak_is_open_often_enough(place):
    message = r"No peak is open in at least `min_cells` \(1000\) of the \d+ training cells"
    with pytest.raises(ValueError, match=message):
        loaded(place, min_cells=1000)


def test_normalised_values_stay_as_they_are(small):
    values = small["rna"].X.toarray().astype(np.float32)
    small["rna"].X = sp.csr_matrix(np.log1p(values) - 0.5 * (values > 0))
    with pytest.warns(UserWarning, match="^1 of 80"):
        cells, data = loaded(small, "gaussian")
    rows = np.sort(np.setdiff1d(data.train, [3]))
    expected = small["rna"].X.toarray()[rows]
    np.testing.assert_array_equal(cells.target[cells.train].toarray(), expected)
