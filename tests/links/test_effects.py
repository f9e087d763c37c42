"""Effects of peaks compared with networks that are run on edited cells."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tqdm import tqdm

from epifoundation.cells.source import InMemory
from epifoundation.links.cells import gather_cells
from epifoundation.links.direct_effects import direct_effects
from epifoundation.links.effects import (
    gene_directions,
    measured_cells,
    measured_effects,
    model_effects,
)
from epifoundation.links.pairs import Pairs

GENES = np.array([3, 20])


@pytest.fixture
def cells(simulated, model):
    """Cells that the model was not measured on: copies without some of their peaks."""
    atac = simulated["atac"][:40, model.peaks.names].copy()
    matrix = atac.X.toarray()
    matrix[:, ::7] = 0
    atac.X = sp.csr_matrix(matrix)
    source = InMemory(atac, "atac", "the data")
    return gather_cells(source, simulated["rna"], model, None, GENES, "batch", None)


def some_pairs(n_peaks):
    """Two genes with five peaks each, the first with a locus of controls."""
    rng = np.random.default_rng(0)
    gene, locus = np.repeat([0, 0, 1], 5), np.repeat([0, 1, 2], 5)
    peak = rng.choice(n_peaks, 15, replace=False)
    return Pairs(gene, peak, locus, np.zeros(15, int), locus == 1)


def run(model, matrix, batch):
    """Embedding and predicted genes on the link scale."""
    network = model.network
    ids = torch.from_numpy(np.nonzero(matrix)[1])
    offsets = torch.from_numpy(np.append(0, np.cumsum((matrix > 0).sum(axis=1))))
    with torch.inference_mode():
        embedding = network.encode(ids, offsets)
        predict = network.expression.predictor(torch.from_numpy(GENES), link=True)
        return embedding.numpy(), predict(embedding, batch).numpy()


def test_model_effects_are_mean_differences_of_edited_cells(model, cells):
    matrix = cells.matrix.toarray()
    pairs = some_pairs(matrix.shape[1])
    effect, moved = model_effects(
        model, model.network.expression, cells, GENES, pairs, tqdm(disable=True)
    )
    for i, (gene, peak) in enumerate(zip(pairs.gene, pairs.peak, strict=True)):
        rows = np.flatnonzero(matrix[:, peak] > 0)
        if not len(rows):
            assert effect[i] == 0
            assert (moved[peak] == 0).all()
            continue
        edited = matrix[rows].copy()
        edited[:, peak] = 0
        batch = torch.from_numpy(cells.batch[rows])
        before, after = run(model, matrix[rows], batch), run(model, edited, batch)
        np.testing.assert_allclose(moved[peak], (before[0] - after[0]).mean(axis=0), atol=1e-5)
        expected = (before[1] - after[1])[:, gene].mean()
        assert effect[i] == pytest.approx(expected, abs=1e-4)
    assert (effect != 0).sum() > 5


def test_a_gene_rises_most_along_its_direction_relative_to_others(model, cells):
    """Of predictions for the mean batch, as offsets of batches are not functions of embeddings."""
    cells = cells._replace(batch=None)
    directions = gene_directions(model, model.network.expression, cells)
    assert directions.shape == (len(model.genes), model.network.dim)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    embedding = run(model, cells.matrix.toarray(), None)[0].mean(axis=0)
    predict = model.network.expression.predictor(link=True)
    with torch.inference_mode():
        before, after = (
            predict(torch.from_numpy(embedding + shift).float(), None).numpy()
            for shift in (np.zeros_like(directions), directions)
        )
    rise = after - before
    relative = rise - rise.mean(axis=1, keepdims=True)  # direction x gene
    assert relative.argmax(axis=0).tolist() == list(range(len(model.genes)))


def test_measured_effects_are_fitted_by_locus_without_cells_without_rna(model, cells):
    matrix = cells.matrix.toarray()
    pairs = some_pairs(matrix.shape[1])
    measured = cells.measured.copy()
    measured[[3, 8]] = np.nan
    cells = cells._replace(measured=measured)
    prepared = measured_cells(model, model.network.expression, cells, GENES)
    found = measured_effects(prepared, pairs, tqdm(disable=True))
    used = np.setdiff1d(np.arange(40), [3, 8])
    _, predicted = run(model, matrix[used], torch.from_numpy(cells.batch[used]))
    offset = predicted + np.log(cells.total[used])[:, None]
    for locus in range(3):
        here = np.flatnonzero(pairs.locus == locus)
        gene = pairs.gene[here[0]]
        is_open = (matrix[used][:, pairs.peak[here]] > 0).astype(float)
        expected = direct_effects(measured[used, gene], offset[:, gene], is_open, "counts")
        np.testing.assert_allclose(found[here], expected, atol=1e-5)
    assert (found != 0).sum() > 5
