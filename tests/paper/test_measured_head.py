"""Expression on the measured scale: an independent kernel ridge, saved, refused if missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.kernel_ridge import KernelRidge

import epifoundation as ep
from epifoundation.nn import MeasuredHead
from epifoundation.paper.cells import Loaded
from epifoundation.paper.measured_head import HEAD_PENALTIES, N_LANDMARKS, fit_measured_head
from epifoundation.training.heads import HeadData

KEY = "epifoundation_expression"
DIM, N_GENES = 8, 12
SMALL = ep.ModelConfig(encoder="transformer", dim=DIM, n_layers=1)
QUICK = ep.TrainingConfig(max_epochs=1)


class Planted:
    """An embedding, and shallow counts that depend on it; every fifth cell is a validation cell."""

    def __init__(self, n_cells=300, seed=0):
        rng = np.random.default_rng(seed)
        self.embedding = rng.standard_normal((n_cells, DIM)).astype(np.float32)
        effect = np.random.default_rng(1).normal(0, 1.5, (2, N_GENES))
        share = np.exp(np.sin(2 * self.embedding[:, :2]) @ effect)
        share /= share.sum(axis=1, keepdims=True)
        self.counts = rng.poisson(rng.poisson(150, (n_cells, 1)) * share).astype(np.float32)

    def loaded(self):
        intervals = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [10]})
        rows = np.arange(len(self.counts))
        return Loaded(
            ep.PeakVocabulary(intervals),
            ep.GeneVocabulary([f"g{i}" for i in range(N_GENES)]),
            sp.csr_matrix(np.ones((len(rows), 1), np.int8)),
            sp.csr_matrix(self.counts),
            None,
            None,
            rows[rows % 5 > 0],
            rows[rows % 5 == 0],
            None,
            [],
            None,
        )

    def head(self, rng=0):
        data = self.loaded()
        tensors, sizes = fit_measured_head(self.cells(data, rng))
        head = MeasuredHead(DIM, sizes["n_landmarks"], N_GENES)
        head.load_state_dict(tensors)
        return head

    def cells(self, data, rng=0):
        rows = np.concatenate([data.train, data.held])
        is_held = np.arange(len(rows)) >= len(data.train)
        rng = np.random.default_rng(rng)
        return HeadData(data, SMALL, rows, is_held, lambda: self.embedding[rows], rng)


def log_counts(counts):
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def test_with_all_cells_as_landmarks_it_is_kernel_ridge_regression():
    planted = Planted()
    head, data = planted.head(), planted.loaded()
    assert len(head.landmarks) == len(data.train) == 240 <= N_LANDMARKS
    expression = log_counts(planted.counts)[data.train]
    base = expression.mean(axis=0)
    others = Planted(50, seed=7).embedding
    found = head(torch.from_numpy(others)).numpy()
    differences = []
    for penalty in HEAD_PENALTIES:
        oracle = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / float(head.width))
        oracle.fit(planted.embedding[data.train], expression - base)
        expected = np.maximum(base + oracle.predict(others), 0)
        differences.append(np.abs(expected - found).max())
    assert min(differences) < 0.02
    assert max(differences) > 0.1


def test_other_cells_are_nearer_than_the_mean():
    head, others = Planted(600).head(), Planted(300, seed=7)
    true = log_counts(others.counts)
    base = np.square(log_counts(Planted(600).counts).mean(axis=0) - true).mean()
    found = head(torch.from_numpy(others.embedding)).numpy()
    assert np.square(found - true).mean() < 0.85 * base


def test_where_there_is_nothing_to_find_it_is_the_mean():
    planted = Planted()
    planted.counts = np.random.default_rng(0).permutation(planted.counts)
    head, others = planted.head(), Planted(300, seed=7)
    found = head(torch.from_numpy(others.embedding)).numpy()
    true = log_counts(others.counts)
    base = np.square(log_counts(planted.counts).mean(axis=0) - true).mean()
    assert np.square(found - true).mean() < 1.03 * base


def test_equal_cells_are_solved_for():
    planted = Planted(60)
    planted.embedding = planted.embedding[np.arange(60) // 20]
    head = planted.head()
    assert all(tensor.isfinite().all() for tensor in head.state_dict().values())
    planted.embedding[:] = 1
    assert planted.head()(torch.ones(2, DIM)).isfinite().all()


def test_what_it_is_fitted_to(mdata):
    planted = Planted()
    data = planted.loaded()
    assert fit_measured_head(planted.cells(data)) is not None
    nothing = replace(data, target=None)
    some = replace(data, target=data.target[:, :5], gene_positions=np.arange(5))
    for other in (nothing, some):
        assert fit_measured_head(planted.cells(other)) is None
    cells = planted.cells(data)
    cells.config = replace(SMALL, objective="gaussian")
    assert fit_measured_head(cells) is None


@pytest.fixture(scope="module")
def shallow():
    """Cells of few counts, and a transformer that was trained on most of them for an epoch."""
    options = {"n_types": 4, "median_counts": 100, "rng": 4}
    data = ep.datasets.simulate_multiome(360, 600, 60, **options)
    training = ep.TrainingConfig(max_epochs=1)
    known = data[:300].copy()
    return data, ep.tl.pretrain(known, config=SMALL, training=training, label_key="cell_type")


def predicted(data, model, scale="measured", **options):
    options |= {"scale": scale, "copy": True}
    return ep.tl.predict_expression(data["atac"], model, **options).obsm[KEY]


def test_it_is_saved_and_named(shallow, tmp_path):
    data, model = shallow
    before = predicted(data, model, genes=["gene5", "gene2"])
    model.save_pretrained(tmp_path / "m")
    again = ep.models.from_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(predicted(data, again, genes=["gene5", "gene2"]), before)
    np.testing.assert_allclose(predicted(data, model)[["gene5", "gene2"]], before, atol=1e-5)
    ep.tl.predict_expression(data["atac"], model, scale="measured")
    assert data["atac"].uns[KEY]["scale"] == "mean of log1p of counts per 10,000"


def test_tuning_fits_it_anew_or_leaves_it_out(shallow):
    data, model = shallow
    quick = ep.TrainingConfig(max_epochs=1, peak_lr=0.2, warm_start=False)
    options = {"label_key": "cell_type", "training": quick}
    whole = ep.tl.finetune(data, model, rank=None, **options)
    assert not np.allclose(predicted(data, whole), predicted(data, model))
    for rank, of in ((4, data), (None, data["atac"])):
        tuned = ep.tl.finetune(of, model, rank=rank, **options)
        with pytest.raises(ValueError, match="does not support `scale='measured'`"):
            predicted(data, tuned)


def test_bad_input(shallow):
    data, model = shallow
    with pytest.raises(ValueError, match="`scale` must be one of"):
        predicted(data, model, "log")
    with pytest.raises(ValueError, match="leave out `batch_key`"):
        predicted(data, model, batch_key="batch")
    binary = ep.tl.pretrain(data, objective="binary", config=SMALL, training=QUICK)
    assert binary.network.measured is None
    with pytest.raises(ValueError, match=r"does not support `scale='measured'`.*trained on counts"):
        predicted(data, binary)
