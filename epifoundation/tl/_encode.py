"""Cells to embeddings, chunk by chunk: what every tool that reads cells begins with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._settings import settings
from ..models import EpiFoundation
from ..nn import FoldedSet, FoldedTransformer
from ..tokens import Tokens, iter_tokens


def encode_cells(
    model: EpiFoundation,
    matrix: Any,
    projection: sp.csr_matrix | None,
    names: pd.Index,
    *,
    chunk: int | None = None,
    show: bool = True,
    dtype: torch.dtype = torch.float32,
    folded: FoldedSet | FoldedTransformer | None = None,
) -> Iterator[tuple[slice, Tokens, torch.Tensor]]:
    """Rows, their tokens, and their embedding (float32, on the model's device); `folded` where that was made before."""
    folded = folded or model.network.folded(dtype)
    with tqdm(total=len(names), desc="Embedding", unit=" cells", disable=not (show and settings.progress)) as bar:
        for rows, tokens in iter_tokens(matrix, projection, names, chunk=chunk or folded.chunk):
            ids, offsets = _tensor(tokens.ids), _tensor(tokens.offsets)
            with torch.inference_mode():  # not around `yield`: the caller may leave in between
                embedding = folded.encode(ids.to(model.device), offsets.to(model.device))
            yield rows, tokens, embedding
            bar.update(len(tokens))


def embedding_of(
    model: EpiFoundation, matrix: Any, projection: sp.csr_matrix | None, names: pd.Index, *, show: bool = True
) -> np.ndarray:
    """Embedding of all cells, float32 (n_cells, d); with `show`, a progress bar where those are shown."""
    parts = [part.cpu().numpy() for *_, part in encode_cells(model, matrix, projection, names, show=show)]
    return np.concatenate([np.zeros((0, model.config.dim), np.float32), *parts])


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # memory maps may be read-only
