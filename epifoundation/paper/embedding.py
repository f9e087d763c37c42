"""Embedding of cells in memory by a model, for what is fitted to it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from ..models import EpiFoundation
from ..training.components import packed


def embedding_of(model: EpiFoundation, pattern: sp.csr_matrix) -> np.ndarray:
    """Embedding of cells by their open peaks, float32 (n_cells, d)."""
    folded = model.network.folded()
    found = np.zeros((pattern.shape[0], model.network.dim), np.float32)
    for start in range(0, len(found), folded.chunk):
        ids, offsets, _ = packed(pattern[start : start + folded.chunk], model.device)
        found[start : start + folded.chunk] = folded.encode(ids, offsets).cpu().numpy()
    return found
