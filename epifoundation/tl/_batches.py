"""What batches leave in an embedding: found within groups of like cells, and taken out by the encoder itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import ExpressionHead, Network
from ._encode import embedding_of

RATIO = 0.1  # of the variance between groups: along a direction on which batches differ by more, they are taken out
LEAST = 10  # cells of a batch in a group, for their mean to count
N_GROUPS = 20
MOST = 20_000  # cells that directions are found with


def take_out_batches(
    model: EpiFoundation,
    pattern: sp.csr_matrix,
    rows: np.ndarray,
    batch: np.ndarray,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> EpiFoundation:
    """Return `model` with an encoder that is blind to the directions on which batches differ, or itself where there are none.

    The directions are found with the cells `rows` of `pattern`; `batch` codes, and `groups` of like cells (-1 for none), are those of all
    cells. Linear decoders get back for each batch what its cells had along those directions, on average.
    """
    rows = np.sort(rng.permutation(rows)[:MOST])
    embedding = embedding_of(model, pattern[rows], None, np.arange(len(rows)))
    codes = batch[rows]
    directions = batch_directions(embedding, codes, rng, None if groups is None else groups[rows])
    if not len(directions):
        return model
    there = [embedding[codes == code] for code in range(model.network.sizes.n_batches)]
    means = np.stack([(cells if len(cells) else embedding).mean(axis=0) for cells in there])
    network = _without(model.network, torch.from_numpy(directions), torch.from_numpy(means))
    return replace(model, network=network.to(model.device))


def batch_directions(
    embedding: np.ndarray, batch: np.ndarray, rng: np.random.Generator, groups: np.ndarray | None = None
) -> np.ndarray:
    """Orthonormal directions along which batches differ within groups of like cells, float32 (n_directions, d).

    Principal axes of the covariance of batch means around the mean of their group, less what would be expected of means of so
    many cells of one kind; of these, the ones on which this is more than a tenth of the variance of the groups' means. Where batches
    differ as much as groups do, and where they are alike, nothing is found: the first is biology, as far as can be told, the second
    nothing to take out.

    Without `groups`, they are clusters of the embedding after the differences of the batches' means are gone.
    """
    if groups is None:
        between, noise, _ = _covariances(embedding, batch, np.zeros(len(embedding), dtype=int))
        axes = np.linalg.eigh(between - noise)[1][:, ::-1][:, : len(np.unique(batch)) - 1]
        groups = _cluster(embedding - embedding @ axes @ axes.T, rng)
    between, noise, of_groups = _covariances(embedding, batch, groups)
    values, axes = np.linalg.eigh(between - noise)
    along = np.einsum("ij,ik,kj->j", axes, of_groups, axes)
    return axes[:, values > np.maximum(RATIO * along, 1e-9)].T[::-1].astype(np.float32)


def _covariances(
    embedding: np.ndarray, batch: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of batch means around the mean of their group, of that what chance makes, and of the groups' means; all (d, d)."""
    dim = embedding.shape[1]
    between, noise, n_cells = np.zeros((dim, dim)), np.zeros((dim, dim)), 0
    centres, sizes = [np.zeros((0, dim))], []
    for group in np.unique(groups[groups >= 0]):
        inside = groups == group
        parts = [embedding[inside & (batch == code)].astype(np.float64) for code in np.unique(batch[inside])]
        parts = [part for part in parts if len(part) >= LEAST]
        if not parts:
            continue
        means = np.stack([part.mean(axis=0) for part in parts])
        centres.append(means.mean(axis=0, keepdims=True))
        sizes.append(sum(map(len, parts)))
        if len(parts) == 1:
            continue
        counts = np.array([len(part) for part in parts])
        around = means - centres[-1]
        between += (around.T * counts) @ around
        noise += sum(np.cov(part.T) for part in parts) * (1 - 1 / len(parts))
        n_cells += counts.sum()
    stacked = np.concatenate(centres)
    of_groups = np.cov(stacked.T, aweights=sizes, ddof=0) if len(sizes) > 1 else np.zeros((dim, dim))
    return between / max(n_cells, 1), noise / max(n_cells, 1), of_groups


def _cluster(embedding: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from sklearn.cluster import KMeans

    n_groups = min(N_GROUPS, max(len(embedding) // (5 * LEAST), 1))
    return KMeans(n_groups, n_init=3, random_state=int(rng.integers(2**31))).fit_predict(embedding)


@torch.no_grad()
def _without(network: Network, directions: torch.Tensor, means: torch.Tensor) -> Network:
    """The network with more directions taken out of its embedding; `means` of the batches, (n_batches, d)."""
    before = network.encoder.norm
    n_removed = before.n_removed + len(directions)
    blind = Network(network.config, replace(network.sizes, n_removed=n_removed))
    along = (means @ directions.T) @ directions
    centre = along.mean(dim=0)
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    removed, shift = (state.get(f"encoder.norm.{name}") for name in ("removed", "shift"))
    state["encoder.norm.removed"] = directions if removed is None else torch.cat([removed, directions])
    state["encoder.norm.shift"] = centre if shift is None else centre + shift
    if network.peaks is not None and network.peaks.batch is not None:
        state["peaks.batch"] = state["peaks.batch"] + along - centre
    if isinstance(network.expression, ExpressionHead) and network.expression.batch is not None:
        weight = state["expression.linear.weight"]
        state["expression.batch"] = state["expression.batch"] + (along - centre) @ weight.T
    blind.load_state_dict(state)
    return blind.eval().requires_grad_(False)
