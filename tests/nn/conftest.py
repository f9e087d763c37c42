"""A network with a set encoder whose weights are random, and packed tokens."""

import numpy as np
import pytest
import torch

from epifoundation.nn import ModelConfig, Network, Sizes

N_PEAKS, DIM, N_LABELS = 50, 8, 3


def fill(module, seed=0):
    """Give random weights to a module, with vectors of peaks as if they had been measured."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for name, tensor in state.items():
        end = name.rpartition(".")[2]
        values = torch.randn(tensor.shape, generator=generator)
        if end == "count":
            values = (20 * values.abs()).round() + 1
        elif end == "base":
            values = values.abs() / values.abs().sum() + 0.01
        elif end == "pseudocount":
            values = torch.tensor(5.0)
        elif end == "width":
            values = torch.tensor(2.0 * state[name.replace("width", "landmarks")].shape[1])
        elif end in ("scale", "deviation"):
            values = 0.5 * values.abs() + 0.7
        elif end in ("center", "read", "along", "shift"):
            values = 0.3 * values
        tensor.copy_(values)
    return module.eval().requires_grad_(False)


@pytest.fixture
def filled():
    """Gives random weights to a module."""
    return fill


@pytest.fixture
def measured():
    """Makes networks with a set encoder, with or without labels and batches."""

    def make(*, labels=True, n_removed=2, seed=0):
        of_labels = {"n_labels": N_LABELS, "n_label_landmarks": 5} if labels else {}
        sizes = Sizes(
            N_PEAKS, 6, n_encoder_landmarks=7, n_removed=n_removed, has_measured=True, **of_labels
        )
        return fill(Network(ModelConfig(dim=DIM), sizes), seed)

    return make


@pytest.fixture
def pack():
    """Ids and offsets of cells, which are lists of peaks."""

    def packed(cells):
        ids = torch.tensor([peak for cell in cells for peak in cell], dtype=torch.int64)
        return ids, torch.tensor([0, *np.cumsum([len(cell) for cell in cells])])

    return packed


@pytest.fixture
def some_cells():
    """Lists of peaks of six cells, one of them with a single peak and one with all."""
    rng = np.random.default_rng(0)
    return [rng.permutation(N_PEAKS)[:n].tolist() for n in (20, 1, 30, 50, 2, 12)]


@pytest.fixture
def known():
    """What is known of six cells: some were counted, with and without a label, some were not."""
    generator = torch.Generator().manual_seed(5)
    clusters = torch.rand(6, DIM, generator=generator).softmax(dim=1)
    labels = torch.eye(N_LABELS)[[0, 1, 2, 0, 1, 2]]
    clusters[[1, 4]] = torch.nan
    labels[[1, 2, 4]] = torch.nan
    return {"encoder": clusters, "labels": labels}
