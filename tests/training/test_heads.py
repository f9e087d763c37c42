"""A head and an encoder added by name: fitted, saved, read and used without further code."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import epifoundation as ep
from epifoundation.nn import ENCODERS, HEADS, PeakVectors, SetEncoder, Sizes
from epifoundation.training.heads import HEAD_FITS

TRANSFORMER = ep.ModelConfig("transformer", dim=16, n_layers=1)
QUICK = ep.TrainingConfig(max_epochs=1)


class Depth(nn.Linear):
    """Logarithm of the number of open peaks, linear in the columns of the encoder."""

    def forward(self, embedding):
        return super().forward(embedding[:, : self.in_features])


def fit_depth(cells):
    """Least squares on the training cells."""
    train, dim = ~cells.is_held, cells.config.width
    depth = np.log(np.diff(cells.data.pattern[cells.rows[train]].indptr))
    inputs = np.column_stack([cells.embedding[train, :dim], np.ones(train.sum())])
    found = torch.from_numpy(np.linalg.lstsq(inputs, depth, rcond=1e-4)[0]).float()
    return {"weight": found[None, :-1], "bias": found[-1:]}, {"depth": dim}


@pytest.fixture
def with_depth(monkeypatch):
    def make(config, sizes):
        return Depth(sizes.heads["depth"], 1) if "depth" in sizes.heads else None

    monkeypatch.setitem(HEADS, "depth", make)
    monkeypatch.setitem(HEAD_FITS, "depth", fit_depth)


def read_again(model, folder):
    model.save_pretrained(folder)
    again = ep.models.from_pretrained(folder, device="cpu")
    assert again.revision == model.revision
    assert again.network.sizes == model.network.sizes
    return again


def test_a_head_of_a_set_encoder(with_depth, mdata, tmp_path):
    atac = mdata["atac"]
    n_open = np.asarray((atac.X > 0).sum(axis=1)).ravel()
    model = ep.tl.pretrain(atac, objective="peaks", config=ep.ModelConfig(dim=16))
    model = read_again(model, tmp_path / "a")
    assert model.network.sizes.heads == {"depth": 16}
    embedding = ep.tl.embed(atac, model, copy=True).obsm["X_epifoundation"]
    embedding = torch.from_numpy(np.asarray(embedding, np.float32))
    predicted = model.network.get_submodule("depth")(embedding)[:, 0].numpy()
    assert np.corrcoef(predicted, np.log(n_open))[0, 1] > 0.4
    tuned = read_again(ep.tl.finetune(atac, model, label_key="cell_type"), tmp_path / "b")
    assert tuned.network.sizes.heads == {"depth": 16}
    assert tuned.network.label is not None


def test_a_head_of_a_transformer(with_depth, mdata, tmp_path):
    model = ep.tl.pretrain(mdata, config=TRANSFORMER, training=QUICK)
    model = read_again(model, tmp_path / "a")
    tuned = ep.tl.finetune(mdata, model, label_key="cell_type", training=QUICK, rank=2)
    tuned.save_adapter(tmp_path / "b")
    again = ep.models.from_pretrained(tmp_path / "b", base=model, device="cpu")
    assert again.network.sizes.heads == {"depth": 16}
    assert again.revision == tuned.revision
    weights = [each.network.get_submodule("depth").weight for each in (tuned, again)]
    assert torch.equal(*weights)


def test_sizes_of_other_heads_are_saved_if_there_are_any(model, tmp_path):
    assert "heads" not in Sizes(3).to_dict()
    assert Sizes(3).updated({"n_genes": 2, "depth": 4}) == Sizes(3, 2, heads={"depth": 4})
    model.save_pretrained(tmp_path / "m")
    assert "heads" not in json.loads((tmp_path / "m" / "config.json").read_text())["sizes"]


class MeanVectors(PeakVectors):
    @staticmethod
    def divisor(n_open):
        return n_open.float()


class MeanEncoder(SetEncoder):
    """The mean of peak vectors, instead of the sum over the square root of their number."""

    vectors_class = MeanVectors


def test_an_encoder(monkeypatch, mdata, tmp_path):
    monkeypatch.setitem(ENCODERS, "mean", MeanEncoder)
    options = {"label_key": "cell_type", "batch_key": "batch"}
    models = [
        ep.tl.pretrain(mdata, config=ep.ModelConfig(name, dim=16), **options)
        for name in ("set", "mean")
    ]
    model = read_again(models[1], tmp_path / "m")
    assert model.config.encoder == "mean"
    assert not torch.allclose(model.network.encoder.vectors.weight, torch.tensor(0.0))
    ids, offsets = torch.arange(9), torch.tensor([0, 2, 9])
    plain, folded = model.network.encode(ids, offsets), model.network.folded().encode(ids, offsets)
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-5)
    vectors = model.network.encoder.vectors
    torch.testing.assert_close(vectors(ids, offsets)[0], vectors.weight[:2].mean(dim=0))
    annotated = ep.tl.annotate(mdata["atac"], model, copy=True).obs.astype(str)
    assert (annotated["epifoundation_cell_type"] == annotated["cell_type"]).mean() > 0.8
    assert models[0].revision != models[1].revision


def test_options_of_other_encoders_are_refused(monkeypatch):
    monkeypatch.setitem(ENCODERS, "mean", MeanEncoder)
    with pytest.raises(ValueError, match="`n_heads=2` does not apply to the encoder 'mean'"):
        ep.ModelConfig("mean", n_heads=2)
    with pytest.raises(ValueError, match=r"one of \['set', 'transformer', 'profiles', 'mean'\]"):
        ep.ModelConfig("median")
