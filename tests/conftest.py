"""Fixtures: small simulated data, a small trained model, and the data next to the checkout."""

import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from forks import Server
from hub import Hub
from hypothesis import settings
from web import Web

import epifoundation as ep
from epifoundation.training.rows import Piece

SHARED = Path(__file__).resolve().parents[2] / "shared"

# The machine is shared: how long an example takes says nothing about it.
settings.register_profile("shared", deadline=None, max_examples=30)
settings.load_profile("shared")


def pytest_report_header():
    packages = (
        "epifoundation",
        "anndata",
        "mudata",
        "scanpy",
        "pandas",
        "numpy",
        "scipy",
        "zarr",
        "torch",
        "lightning",
    )
    return "with " + ", ".join(f"{name} {version(name)}" for name in packages)


def pytest_collection_modifyitems(items):
    """Those that take longest first, so that no process waits for another in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def _calm():
    ep.settings.progress = False
    # A process for each core, or two threads in one: more of both than cores take twice as long
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


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
    """A model with all heads, measured on the simulated cells; do not change it."""
    return ep.tl.pretrain(
        simulated,
        config=ep.ModelConfig(dim=32),
        batch_key="batch",
        label_key="cell_type",
        genome="hg38",
    )


@pytest.fixture(scope="session")
def shared_data():
    """The folder with real data; tests that need it are skipped if it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture
def quick_scores(monkeypatch):
    """Integration scores from two silhouettes; scib-metrics takes a minute to compile."""
    from sklearn.metrics import silhouette_score

    from epifoundation.tl import _score_integration

    def silhouettes(scored, names, unintegrated, n_jobs):
        rows = {}
        for name in names:
            bio, batch = (
                silhouette_score(scored.obsm[name], scored.obs[column])
                for column in ("label", "batch")
            )
            rows[name] = {"Bio conservation": (1 + bio) / 2, "Batch correction": 1 - abs(batch)}
        table = pd.DataFrame(rows).T
        return table.assign(Total=0.6 * table["Bio conservation"] + 0.4 * table["Batch correction"])

    monkeypatch.setattr(_score_integration, "_benchmark", silhouettes)


@pytest.fixture(scope="session")
def forks():
    """Starts scripts in processes that need not import the package first."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server of files on this machine in place of CELLxGENE and ENCODE, and an empty cache."""
    monkeypatch.setattr(ep.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    with Web().serve() as made:
        monkeypatch.setattr(ep.settings, "cellxgene_url", made.address)
        monkeypatch.setattr(ep.settings, "encode_url", made.address)
        yield made


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one folder on this machine, and empty caches."""
    from huggingface_hub import constants

    monkeypatch.setattr(ep.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    made = Hub(tmp_path / "hub")
    made.folder.mkdir()
    with made.serve() as address:
        _move_hub(monkeypatch, address)
        yield made


@pytest.fixture
def offline(monkeypatch):
    """Call it to lose the network: nothing listens at the hub's address any more."""
    return lambda: _move_hub(monkeypatch, "http://127.0.0.1:9")


def _move_hub(monkeypatch, address):
    """What the variable HF_ENDPOINT does when huggingface_hub is imported."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", address)
    for module in (constants, file_download):  # versions before 1.0 have a copy
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Three sources with other columns, two of them files, and the matrix that they make."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("parts")
    pieces, blocks = [], []
    for i, n in enumerate((70, 1, 130)):
        X = sp.random(n, 30 + i, 0.3, "csr", rng=rng)
        X.data = np.ceil(5 * X.data)
        projection = sp.random(30 + i, 25, 0.1, "csr", rng=rng)
        projection.data[:] = 1
        data = AnnData(X, obs={"x": np.arange(n)}, var={"x": np.arange(30 + i)})
        path = folder / f"{i}.h5ad"
        data.write_h5ad(path)
        place = data if i == 1 else path
        pieces.append(Piece(place, f"part {i}", "atac", n, projection.astype(np.float32)))
        blocks.append((X, projection))
    return pieces, blocks
