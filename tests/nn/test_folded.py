"""Networks for inference: the same function, in parts, with peaks removed, in low precision."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epifoundation.nn import FoldedSums, FoldedTransformer, ModelConfig, Network, Sizes
from epifoundation.nn.folded import MIN_REMAINING
from epifoundation.nn.packed import take


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("is_known", [False, True])
def test_it_is_the_function_of_the_network(measured, pack, some_cells, known, labels, is_known):
    network = measured(labels=labels)
    cells = pack(some_cells)
    given_known = known if is_known else None
    folded = network.folded()
    assert isinstance(folded, FoldedSums)
    expected = network.encode(*cells, given_known)
    torch.testing.assert_close(folded.encode(*cells, given_known), expected, atol=1e-5, rtol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)), at_a_time=st.integers(1, 6))
def test_parts_and_order_do_not_matter(measured, pack, some_cells, known, order, at_a_time):
    """A cell by itself gives the same numbers as among others, counted or not."""
    folded = measured().folded()
    expected = folded.encode(*pack(some_cells), known)
    for start in range(0, 6, at_a_time):
        rows = list(order[start : start + at_a_time])
        of_rows = {name: values[rows] for name, values in known.items()}
        found = folded.encode(*pack([some_cells[row] for row in rows]), of_rows)
        torch.testing.assert_close(found, expected[rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("is_known", [False, True])
def test_removed_peaks_are_subtracted(measured, pack, some_cells, known, labels, is_known):
    """Sums without some tokens are sums of the others; a counted cell stays left out."""
    folded = measured(labels=labels).folded()
    given_known = known if is_known else None
    removed = [cell[: len(cell) // 3] for cell in some_cells]
    left = [cell[len(cell) // 3 :] for cell in some_cells]
    sums = folded.sums(*pack(some_cells), given_known)
    without, enough = folded.subtract(sums, *pack(removed), given_known)
    assert enough.all()
    torch.testing.assert_close(without, folded.sums(*pack(left), given_known), atol=1e-5, rtol=1e-5)
    expected = folded.encode(*pack(left), given_known)
    torch.testing.assert_close(folded.readout(without), expected, atol=1e-4, rtol=1e-4)


def test_a_difference_is_not_accurate_where_little_remains(measured, pack):
    folded = measured().folded()
    cells = [list(range(50))] * 4
    sums = folded.sums(*pack(cells))
    removed = [cell[n:] for cell, n in zip(cells, (50, 3, 2, 0), strict=True)]  # 0.05 of 50 is 2.5
    _, enough = folded.subtract(sums, *pack(removed))
    assert enough.tolist() == [True, True, False, False]
    assert MIN_REMAINING == 0.05


def test_the_number_of_peaks_is_the_last_column(measured, pack, some_cells):
    sums = measured().folded().sums(*pack(some_cells))
    assert sums.shape == (6, 8 + 3 + 1)
    assert sums[:, -1].tolist() == [len(cell) for cell in some_cells]


def test_a_cell_without_peaks_is_nan_and_changes_no_other(measured, pack):
    folded = measured().folded()
    some = folded.encode(*pack([[1, 2], [], [3]]))
    assert some[1].isnan().all()
    torch.testing.assert_close(some[[0, 2]], folded.encode(*pack([[1, 2], [3]])))
    assert folded.encode(*pack([[]])).isnan().all()
    assert folded.encode(*pack([])).shape == (0, 11)


def test_tokens_of_either_width_give_the_same(measured, pack, some_cells, known):
    folded = measured().folded()
    ids, offsets = pack(some_cells)
    expected = folded.encode(ids, offsets, known)
    assert torch.equal(folded.encode(ids.int(), offsets.int(), known), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_points_the_same_way(measured, pack, some_cells, known, dtype):
    """And leaves the network as it was."""
    network = measured()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rough = network.folded(dtype).encode(*pack(some_cells), known)
    exact = network.encode(*pack(some_cells), known)
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(rough, exact).min() > 0.999
    assert not torch.equal(rough, exact)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_transformer_is_read_with_columns_for_labels(pack, some_cells, known, filled):
    config = ModelConfig(encoder="transformer", dim=8, n_layers=1)
    network = Network(config, Sizes(50, n_labels=3, n_label_landmarks=4))
    network.eval().requires_grad_(False)
    filled(network.label_columns)
    folded = network.folded()
    assert isinstance(folded, FoldedTransformer)
    expected = network.encode(*pack(some_cells), known)
    assert expected.shape == (6, 11)
    found = folded.encode(*pack(some_cells), known)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain = folded.encode(*pack(some_cells))
    assert torch.equal(plain[:, :8], found[:, :8])
    assert (plain[:, 8:] - found[:, 8:]).abs().amax(dim=1)[[0, 3, 5]].min() > 1e-3


@given(st.lists(st.lists(st.integers(0, 99), max_size=8), min_size=1, max_size=8), st.data())
def test_taking_cells_out_of_packed_tokens(cells, data):
    offsets = torch.tensor([0, *itertools.accumulate(len(cell) for cell in cells)])
    ids = torch.tensor([peak for cell in cells for peak in cell], dtype=torch.int64)
    rows = data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=8))
    some, starts = take(ids, offsets, torch.tensor(rows, dtype=torch.int64))
    parts = [some[start:stop].tolist() for start, stop in itertools.pairwise(starts)]
    assert parts == [cells[row] for row in rows]
