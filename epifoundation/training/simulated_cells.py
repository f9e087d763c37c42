"""Open peaks of cells of known memberships, simulated with the peak vectors of a model."""

from __future__ import annotations

from typing import cast

import numpy as np
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import ENCODER, MeasuredPeakHead, SetEncoder

SPREAD = 0.8  # standard deviation of the logarithm of the depth of cells
MIN_DEPTH = 5.0


def mean_depth(model: EpiFoundation) -> float:
    """Mean number of open peaks of the training cells of a model fitted in closed form."""
    count = cast("SetEncoder", model.network.encoder).vectors.count
    known = model.cells.get(ENCODER)
    numbers = [model.training.get(name, 0) for name in ("cells", "validation_cells")]
    n_cells = sum(numbers) if known is None else len(known)
    return float(count.double().sum() / max(n_cells, float(count.max()), 1.0))


@torch.inference_mode()
def simulate_peaks(
    model: EpiFoundation, memberships: np.ndarray, rng: np.random.Generator
) -> sp.csr_matrix:
    """Open peaks of the model, ones, sparse int8 (n_cells, n_peaks).

    A cluster is drawn for each cell by its memberships, and fragments from the peaks of this
    cluster: memberships say which cluster a cell may belong to, and a cell belongs to one. (If
    fragments were drawn from all clusters, cells would be easier to label than real ones.) Depth is
    distributed log-normally around that of the training cells.
    """
    n_cells, n_clusters = memberships.shape
    head = cast("MeasuredPeakHead", model.network.peaks)
    cluster_of = (memberships.cumsum(axis=1) > rng.random((n_cells, 1))).argmax(axis=1)
    noise = rng.standard_normal(n_cells) * SPREAD - SPREAD**2 / 2
    depth = np.maximum(mean_depth(model) * np.exp(noise), MIN_DEPTH)
    n_fragments = np.maximum(rng.poisson(depth), 1)
    rows, columns = [], []
    for cluster in range(n_clusters):
        cells = np.flatnonzero(cluster_of == cluster)
        n = n_fragments[cells]
        if len(cells):
            one = torch.zeros(1, model.config.width, device=model.device)
            one[0, cluster] = 1
            rates = head(one)[0].double().softmax(dim=0).cpu().numpy()
            ends = rates.cumsum()
            at = np.searchsorted(ends, rng.random(n.sum()) * ends[-1], side="right")
            columns.append(np.minimum(at, len(ends) - 1))
            rows.append(np.repeat(cells, n))
    ones = np.ones(sum(map(len, rows)), np.int64)
    places = tuple(np.concatenate(part or [np.zeros(0, int)]) for part in (rows, columns))
    found = sp.csr_matrix((ones, places), shape=(n_cells, len(model.peaks)))
    found.data = np.ones(found.nnz, np.int8)
    return found
