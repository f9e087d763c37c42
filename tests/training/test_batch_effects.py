"""Directions of batches: planted ones are found, biology stays, decoders get back what is lost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.nn import ModelConfig, Network, Sizes
from epifoundation.training.batch_effects import batch_directions, batch_means, project_out

DIM = 12


def planted(rng, n_batches, shift, n_cells=1200, n_types=5):
    """Types in one half of the dimensions, batches along directions in the other."""
    kind, batch = rng.integers(n_types, size=n_cells), rng.integers(n_batches, size=n_cells)
    centres = np.zeros((n_types, DIM))
    centres[:, : DIM // 2] = rng.normal(0, 3, (n_types, DIM // 2))
    moved = np.zeros((n_batches, DIM))
    moved[:, DIM // 2 :] = rng.normal(0, shift, (n_batches, DIM // 2))
    return (
        (centres[kind] + moved[batch] + rng.normal(0, 0.5, (n_cells, DIM))).astype(np.float32),
        kind,
        batch,
        moved,
    )


def distances(z, codes, within):
    """How far means of `codes` lie apart among cells of one kind, in deviations of cells."""
    apart, spread = [], []
    for kind in np.unique(within):
        means = [z[(within == kind) & (codes == code)].mean(axis=0) for code in np.unique(codes)]
        apart.append(np.linalg.norm(np.subtract(means, np.mean(means, axis=0)), axis=1).max())
        spread.append(z[(within == kind) & (codes == codes[0])].std(axis=0).mean())
    return np.max(apart) / np.mean(spread)


@given(seed=st.integers(0, 2**31), n_batches=st.integers(2, 4), labelled=st.booleans())
def test_planted_batches_are_taken_out_and_types_stay_apart(seed, n_batches, labelled):
    rng = np.random.default_rng(seed)
    z, kind, batch, _ = planted(rng, n_batches, shift=3)
    read, along = batch_directions(z, batch, rng, kind if labelled else None)
    np.testing.assert_allclose(read @ along.T, np.eye(len(read)), atol=1e-4)
    without = z - (z @ read.T) @ along
    assert len(read) <= n_batches  # n_batches - 1 were planted, and one cluster may hold two types
    # Less than a tenth of the differences between groups, which may be more than those of cells
    assert distances(without, batch, kind) < min(0.2 * distances(z, batch, kind), 1.5)
    assert distances(without, kind, batch) > 0.6 * distances(z, kind, batch)


@given(seed=st.integers(0, 2**31), labelled=st.booleans())
def test_batches_that_are_alike_lose_nothing(seed, labelled):
    rng = np.random.default_rng(seed)
    z, kind, batch, _ = planted(rng, 3, shift=0)
    assert len(batch_directions(z, batch, rng, kind if labelled else None)[0]) == 0


def test_with_labels_batches_of_other_composition_lose_nothing():
    """What tells two batches of different cell types apart is biology."""
    rng = np.random.default_rng(0)
    z, kind, _, _ = planted(rng, 2, shift=0)
    batch = (rng.random(len(z)) < np.linspace(0.05, 0.95, 5)[kind]).astype(int)
    assert len(batch_directions(z, batch, rng, kind)[0]) == 0


def test_batches_farther_apart_than_types_are_found_without_labels():
    """Shifts of each type and batch: a cluster for each would have cells of one batch only."""
    rng = np.random.default_rng(0)
    z, kind, batch, _ = planted(rng, 2, shift=6)
    z = np.concatenate(
        [z, rng.normal(0, 0.7, (5, 2, 30))[kind, batch] + rng.normal(0, 0.5, (len(z), 30))], axis=1
    )
    read, along = batch_directions(z, batch, rng)
    without = z - (z @ read.T) @ along
    assert distances(without, batch, kind) < 0.2 * distances(z, batch, kind)
    assert distances(without, kind, batch) > 0.4 * distances(z, kind, batch)


def test_a_batch_of_few_cells_does_not_count():
    rng = np.random.default_rng(0)
    z, kind, _, _ = planted(rng, 2, shift=0)
    batch = np.zeros(len(z), dtype=int)
    batch[:20] = 1
    z[:20] += 50
    assert len(batch_directions(z, batch, rng, kind)[0]) == 0


@pytest.fixture(scope="module")
def strong():
    return ep.datasets.simulate_multiome(
        900, 600, 60, n_types=4, n_batches=3, batch_effect=1.2, median_fragments=150, rng=3
    )


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("label_key", [None, "cell_type"])
def test_a_model_that_knows_of_batches_does_not_embed_them(strong, supervised, label_key):
    data = strong if supervised else strong["atac"]
    options = {"config": ep.ModelConfig(dim=32), "label_key": label_key}
    if not supervised:
        options["objective"] = "peaks"
    explained = []
    for key in (None, "batch"):
        model = ep.tl.pretrain(data, batch_key=key, **options)
        atac = ep.tl.embed(strong["atac"], model, expression=False, copy=True)
        z, kind, batch = atac.obsm["X_epifoundation"], atac.obs["cell_type"], atac.obs["batch"]
        total = z.var(axis=0).sum()
        explained.append([of_means(z, column) / total for column in (batch, kind)])
    assert model.network.encoder.projection.n_removed > 0
    assert explained[0][0] > 2 * explained[1][0]
    assert explained[1][0] < 0.05
    assert explained[1][1] > explained[0][1]


def of_means(z, column):
    codes = column.cat.codes.to_numpy()
    means = np.stack([z[codes == code].mean(axis=0) for code in range(codes.max() + 1)])
    return means[codes].var(axis=0).sum()


def random_network(encoder, n_removed=0):
    torch.manual_seed(0)
    options = {} if encoder == "set" else {"encoder": encoder, "n_layers": 1}
    sizes = Sizes(
        60, 8, n_batches=2, n_encoder_landmarks=5, n_removed=n_removed, peaks_by_batch=True
    )
    network = Network(ModelConfig(dim=DIM, **options), sizes).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.startswith(("encoder.vectors.weight", "encoder.readout.", "encoder.peak.weight")):
            tensor.copy_(torch.rand_like(tensor))
        elif name.endswith((".batch", ".read", ".along", ".shift")):
            tensor.copy_(0.2 * torch.randn_like(tensor))
    return network


def random_directions(n, seed=1):
    rng = np.random.default_rng(seed)
    read = rng.standard_normal((n, DIM))
    return read, np.linalg.pinv(read).T


CELLS = torch.randint(60, (300,)), torch.arange(0, 301, 10)


@pytest.mark.parametrize("encoder", ["set", "set-1", "transformer"])
@pytest.mark.parametrize("n_removed", [0, 2])
def test_directions_are_projected_out_of_the_columns_of_any_encoder(encoder, n_removed):
    """Also where some were before; the mean of what batches had along them takes their place."""
    network = random_network(encoder, n_removed)
    read, along = random_directions(3)
    columns = network.encoder(*CELLS).double().numpy()
    batch = np.arange(30) % 2
    means = batch_means(columns, batch, 2)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    blind = project_out(network, read, along, means)
    assert blind.sizes.n_removed == n_removed + 3
    shift = ((means @ read.T) @ along).mean(axis=0)
    expected = columns - (columns @ read.T) @ along + shift
    np.testing.assert_allclose(blind.encoder(*CELLS), expected, atol=1e-4)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name  # not changed
    twice = project_out(blind, read, along, batch_means(expected, batch, 2))
    np.testing.assert_allclose(twice.encoder(*CELLS), expected, atol=1e-3)


@pytest.mark.parametrize("encoder", ["set-1", "transformer"])
def test_decoders_that_were_trained_get_back_what_a_batch_had_along_the_directions(encoder):
    """The mean over a batch of what linear decoders give for its cells does not change."""
    network = random_network(encoder)
    batch = np.arange(30) % 2
    columns = network.encoder(*CELLS).double().numpy()
    # The direction from one batch to the other, which makes them differ by chance
    read, along = (each[None] for each in _between(columns, batch))
    blind = project_out(network, read, along, batch_means(columns, batch, 2))
    before, after = (read_off(each, batch) for each in (network, blind))
    assert np.abs(np.subtract(*before[0]) @ read[0]) > 0.05
    assert np.abs(np.subtract(*after[0]) @ read[0]) < 1e-3
    for had, has in zip(before[1:], after[1:], strict=True):
        np.testing.assert_allclose(has, had, atol=1e-4)


def _between(columns, batch):
    apart = columns[batch == 1].mean(axis=0) - columns[batch == 0].mean(axis=0)
    unit = apart / np.linalg.norm(apart)
    return unit, unit


def read_off(network, batch):
    """Means over each batch of columns, expression and logits of peaks."""
    z, codes = network.encode(*CELLS), torch.from_numpy(batch)
    arrays = z, network.expression(z, codes), network.peaks(z, codes)
    return [
        np.stack([array[codes == code].mean(dim=0).numpy() for code in range(2)])
        for array in arrays
    ]


def test_decoders_that_were_measured_stay_as_they_are():
    """They read memberships, which are read off the columns without batch effects."""
    network = random_network("set")
    read, along = random_directions(2)
    blind = project_out(network, read, along, np.random.default_rng(2).random((2, DIM)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, blind.state_dict()[name]), name


def test_a_batch_without_cells_has_the_mean_of_all():
    columns = np.array([[0.0, 2.0], [2.0, 4.0], [7.0, 0.0]])
    found = batch_means(columns, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(found, [[1, 3], [3, 2], [7, 0]])


def test_one_batch_has_no_directions():
    z = np.random.default_rng(0).standard_normal((50, DIM))
    read, along = batch_directions(z, np.zeros(50, int), np.random.default_rng(0))
    assert read.shape == along.shape == (0, DIM)
