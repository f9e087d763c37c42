"""Fixtures: small simulated data, a small trained model, and the data beside the checkout."""

import warnings
from pathlib import Path

import pytest
import torch
from forks import Server
from hub import Hub
from hypothesis import settings

import epifoundation as ep

SHARED = Path(__file__).resolve().parents[2] / "shared"

# The machine is shared: how long an example takes says nothing about it.
settings.register_profile("shared", deadline=None, max_examples=50)
settings.load_profile("shared")


@pytest.fixture(autouse=True, scope="session")
def _calm():
    ep.settings.progress = False
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def simulated():
    """Cells of four types in two batches; do not change it."""
    return ep.datasets.simulate_multiome(400, 600, 40, n_types=4, rng=1)


@pytest.fixture
def mdata(simulated):
    """A copy to write into."""
    return simulated.copy()


@pytest.fixture(scope="session")
def model(simulated):
    """A model with all heads, trained on the simulated cells; do not change it."""
    return ep.tl.pretrain(
        simulated,
        config=ep.ModelConfig(dim=32, n_heads=4),
        training=ep.TrainingConfig(max_epochs=8, lr=5e-3),
        batch_key="batch",
        label_key="cell_type",
        genome="hg38",
    )


@pytest.fixture(scope="session")
def shared_data():
    """The folder with real data; tests that need it are skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture
def quick_scib(exact_neighbors, monkeypatch):
    """That, and without the metric that takes half a minute to compile; one test has it."""
    import scib_metrics

    monkeypatch.setattr(scib_metrics, "kbet_per_label", lambda *args, **kwargs: 0.5)


@pytest.fixture
def exact_neighbors(monkeypatch):
    """scib-metrics with an exact search for neighbours: the approximate one takes a minute to compile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from scib_metrics import nearest_neighbors
        from scib_metrics.benchmark import _core
    from sklearn.neighbors import NearestNeighbors

    def search(X, n_neighbors, random_state=0, n_jobs=1):
        distances, indices = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(X).kneighbors(X)
        return nearest_neighbors.NeighborsResults(indices=indices, distances=distances)

    for module in (_core, nearest_neighbors):
        monkeypatch.setattr(module, "pynndescent", search)


@pytest.fixture(scope="session")
def forks():
    """Starts scripts in processes that need not import the package first."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one folder on this machine, and an empty cache."""
    from epifoundation import _hub

    monkeypatch.setattr(ep.settings, "cache_dir", tmp_path / "cache")
    made = Hub(tmp_path / "hub")
    made.folder.mkdir()
    with made.serve() as address:
        monkeypatch.setattr(_hub, "ENDPOINT", address)
        yield made


@pytest.fixture
def offline(monkeypatch):
    """Call it to lose the network: nothing listens at the hub's address any more."""
    from epifoundation import _hub

    return lambda: monkeypatch.setattr(_hub, "ENDPOINT", "http://127.0.0.1:9")
