"""Columns and embeddings of cells in memory, for what is fitted to them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import ENCODER
from .components import packed


@torch.inference_mode()
def features_of(model: EpiFoundation, pattern: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the encoder and the embedding of cells, without label columns; float32.

    Training cells of a set encoder are left out of the vectors of their peaks. The columns of
    an encoder trained by gradient descent are the embedding.
    """
    network = model.network
    folded = network.folded()
    features, embedding = (
        np.zeros((pattern.shape[0], network.config.width), np.float32) for _ in range(2)
    )
    for start in range(0, len(features), folded.chunk):
        inside = slice(start, start + folded.chunk)
        some = pattern[inside]
        ids, offsets, _ = packed(some, model.device)
        if network.config.is_measured:
            known = model.known(some.indices, some.indptr)
            columns = network.encoder(ids, offsets, known.get(ENCODER))
            embedded = network.embed(columns, None)
        else:
            columns = embedded = folded.encode(ids, offsets)
        features[inside], embedding[inside] = columns.cpu().numpy(), embedded.cpu().numpy()
    return features, embedding


def embedding_of(model: EpiFoundation, pattern: sp.csr_matrix) -> np.ndarray:
    """Embedding of cells, without label columns, float32 (n_cells, d)."""
    return features_of(model, pattern)[1]
