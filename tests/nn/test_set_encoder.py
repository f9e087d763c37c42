"""The set encoder against its formulas written out cell by cell, and its invariances."""

import pytest
import torch


def columns_by_hand(vectors, cell, known=None):
    """Columns of one cell; of vectors without the cell, where something is known of it."""
    total = torch.zeros(vectors.weight.shape[1], dtype=torch.float64)
    for peak in cell:
        vector, count = vectors.weight[peak].double(), vectors.count[peak].double()
        if known is not None and known.isfinite().all():
            # What was summed over the cells of the peak, less what this cell gave
            n = count + vectors.pseudocount
            vector = (vector * n - (known - vectors.base)) / (n - 1)
        total += vector
    return total / len(cell) ** 0.5


def readout_by_hand(readout, inputs):
    standard = (inputs - readout.center) / readout.scale
    similar = torch.exp(-(standard - readout.landmarks).square().sum(dim=1) / readout.width)
    return readout.base + similar @ readout.weight.double()


def embedding_by_hand(network, cell, clusters=None, labels=None):
    """Of one cell, and what is known of it."""
    encoder = network.encoder
    columns = columns_by_hand(encoder.vectors, cell, clusters)
    if network.sizes.n_removed:
        projection = encoder.projection
        along = (columns @ projection.read.double().T) @ projection.along.double()
        columns = columns - along + projection.shift
    embedding = readout_by_hand(encoder.readout, columns)
    if network.label_columns is None:
        return embedding.float()
    beside = columns_by_hand(network.label_columns.vectors, cell, labels)
    expected = readout_by_hand(network.label_columns.readout, torch.cat([columns, beside]))
    return torch.cat([embedding, expected]).float()


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("n_removed", [0, 2])
def test_an_embedding_is_what_the_formulas_say(measured, pack, some_cells, labels, n_removed):
    network = measured(labels=labels, n_removed=n_removed)
    found = network.encode(*pack(some_cells))
    expected = torch.stack([embedding_by_hand(network, cell) for cell in some_cells])
    assert found.shape == (6, network.dim) == (6, 8 + 3 * labels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.std(dim=0).min() > 0.05  # cells differ


def test_counted_cells_are_left_out(measured, pack, some_cells, known):
    """Of the vectors of their peaks, block by block: a cell may be in one of them."""
    network = measured()
    found = network.encode(*pack(some_cells), known)
    of_cells = zip(some_cells, known["encoder"], known["labels"], strict=True)
    expected = [embedding_by_hand(network, *each) for each in of_cells]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)
    whole = network.encode(*pack(some_cells))
    assert torch.equal(found[[1, 4]], whole[[1, 4]])
    assert (found - whole).abs().amax(dim=1)[[0, 2, 3, 5]].min() > 1e-3


def test_what_is_known_of_one_block_changes_that_block(measured, pack, some_cells, known):
    """And the columns for labels, whose readout reads those of the encoder, too."""
    network = measured()
    whole = network.encode(*pack(some_cells))
    of_labels = network.encode(*pack(some_cells), {"labels": known["labels"]})
    assert torch.equal(of_labels[:, :8], whole[:, :8])
    assert not torch.allclose(of_labels[:, 8:], whole[:, 8:], atol=1e-3)
    of_clusters = network.encode(*pack(some_cells), {"encoder": known["encoder"]})
    assert not torch.allclose(of_clusters[:, :8], whole[:, :8], atol=1e-3)


def test_the_order_of_peaks_does_not_matter(measured, pack, some_cells):
    network = measured()
    turned = [cell[::-1] for cell in some_cells]
    torch.testing.assert_close(network.encode(*pack(turned)), network.encode(*pack(some_cells)))


def test_a_cell_without_peaks_is_nan_and_changes_no_other(measured, pack):
    network = measured()
    some = network.encode(*pack([[1, 2], [], [3]]))
    assert some[1].isnan().all()
    torch.testing.assert_close(some[[0, 2]], network.encode(*pack([[1, 2], [3]])))


def test_no_weight_is_trained(measured):
    """The encoder and the columns for labels have buffers, which no optimizer sees."""
    network = measured()
    assert not [*network.encoder.parameters(), *network.label_columns.parameters()]
    names = set(network.encoder.state_dict())
    parts = {"vectors": 4, "projection": 3, "readout": 6}
    assert {part: sum(name.startswith(part) for name in names) for part in parts} == parts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(measured, pack, some_cells, known):
    network = measured()
    ids, offsets = pack(some_cells)
    expected = network.encode(ids, offsets, known)
    network.to("cuda")
    there = {name: tensor.cuda() for name, tensor in known.items()}
    found = network.encode(ids.cuda(), offsets.cuda(), there).cpu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
