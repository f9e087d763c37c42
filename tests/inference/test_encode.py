"""Embedding by chunks: threads and chunks change nothing, rows come in order."""

import numpy as np
import pytest
import torch

from epifoundation.cells.source import InMemory
from epifoundation.inference.encode import encode_cells, tensors, threads


@pytest.fixture
def with_threads():
    """Sets the number of threads of torch, and sets it back at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def atac(simulated, model):
    """Cells with exactly the peaks of the model."""
    return simulated["atac"][:, model.peaks.names].copy()


def embed(model, data, **options):
    """All cells; rows are in order, and each embedding is that of its tokens."""
    parts, at = [], 0
    source = InMemory(data, "atac", "the data")
    for rows, tokens, embedding in encode_cells(model, source, None, show=False, **options):
        assert rows.start == at
        assert rows.stop - rows.start == len(tokens) == len(embedding)
        is_open = data[rows].X.toarray() > 0
        assert np.diff(tokens.offsets).tolist() == is_open.sum(axis=1).tolist()
        at = rows.stop
        parts.append(embedding.numpy())
    assert at == data.n_obs
    return np.concatenate(parts)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_and_chunks_do_not_matter(atac, model, with_threads, monkeypatch, n_threads):
    with_threads(1)
    expected = embed(model, atac)
    with_threads(n_threads)
    folded = model.network.folded()
    monkeypatch.setattr(folded, "chunk", 30)  # more chunks than threads
    np.testing.assert_allclose(embed(model, atac, folded=folded), expected, atol=1e-6)
    for chunk in (1, 64, 10_000):
        np.testing.assert_allclose(embed(model, atac[:70], chunk=chunk), expected[:70], atol=1e-6)
    assert torch.get_num_threads() == n_threads


@pytest.mark.parametrize("n_threads", [0, 3])
def test_calls_give_their_results_and_errors(with_threads, n_threads):
    with_threads(2)
    done = []

    def work(i):
        if i == 7:
            raise ValueError("seven")
        done.append(i)
        return i * i

    with threads(n_threads) as submit:
        results = [submit(work, i) for i in range(8)]
        if not n_threads:
            assert done == []  # not before the result is requested
        assert [result() for result in results[:7]] == [i * i for i in range(7)]
        with pytest.raises(ValueError, match="seven"):
            results[7]()
    assert sorted(done) == list(range(7))
    assert torch.get_num_threads() == 2


def test_each_thread_has_the_number_of_torch_threads_that_it_is_given(with_threads):
    with_threads(4)
    with threads(2, 3) as submit:
        assert submit(torch.get_num_threads)() == 3
    assert torch.get_num_threads() == 4


def test_read_only_arrays_are_copied(atac, model):
    """Arrays of memory maps cannot be written to, and torch warns about such."""
    source = InMemory(atac, "atac", "the data")
    _, tokens, _ = next(encode_cells(model, source, None, show=False))
    for array in (tokens.ids, tokens.offsets):
        array.flags.writeable = False
    for tensor, array in zip(tensors(model, tokens), (tokens.ids, tokens.offsets), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert not np.shares_memory(tensor.numpy(), array)
