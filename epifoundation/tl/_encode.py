"""Cells to embeddings, chunk by chunk: what every tool that reads cells begins with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._settings import settings
from ..models import EpiFoundation
from ..nn import FoldedSet, FoldedTransformer
from ..tokens import Tokens, ahead, iter_tokens

LEFT_OUT = 256  # cells at a time, of which each has peak vectors of its own where there is attention


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
    n_threads = torch.get_num_threads()
    shares = isinstance(folded, FoldedSet) and model.device.type == "cpu" and n_threads > 1 and chunk is None
    chunk = chunk or folded.chunk

    @torch.inference_mode()
    def encode(ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return folded.encode(ids.to(model.device), offsets.to(model.device))

    with (
        tqdm(total=len(names), desc="Embedding", unit=" cells", disable=not (show and settings.progress)) as bar,
        closing(ahead(_iter_tensors(matrix, projection, names, chunk))) as parts,
        threads(n_threads if shares else 0) as submit,
    ):
        pending: deque[tuple[slice, Tokens, Callable[[], torch.Tensor]]] = deque()
        for rows, tokens, ids, offsets in parts:
            pending.append((rows, tokens, submit(encode, ids, offsets)))
            if len(pending) > n_threads * shares:
                yield _done(pending, bar)
        while pending:
            yield _done(pending, bar)


def _done(pending: deque[tuple[slice, Tokens, Callable[[], torch.Tensor]]], bar: tqdm) -> Any:
    rows, tokens, result = pending.popleft()
    embedding = result()
    bar.update(len(tokens))
    return rows, tokens, embedding


@contextmanager
def threads(n_threads: int, n_each: int = 1) -> Iterator[Callable[..., Callable[[], Any]]]:
    """A function that calls another one at once (no threads), or in a thread that computes with `n_each`; it returns what gives the result.

    Threads that each have work of their own need not wait for the slowest of them, as those of one operation do.
    """
    if not n_threads:
        yield lambda function, *arguments: partial(function, *arguments)
        return
    of_caller = torch.get_num_threads()
    with ThreadPoolExecutor(n_threads, "compute", torch.set_num_threads, (n_each,)) as pool:
        try:
            yield lambda function, *arguments: pool.submit(function, *arguments).result
        finally:
            torch.set_num_threads(of_caller)  # what threads that are made later begin with


def _iter_tensors(
    matrix: Any, projection: sp.csr_matrix | None, names: pd.Index, chunk: int
) -> Iterator[tuple[slice, Tokens, torch.Tensor, torch.Tensor]]:
    for rows, tokens in iter_tokens(matrix, projection, names, chunk=chunk):
        yield rows, tokens, _tensor(tokens.ids), _tensor(tokens.offsets)


def embedding_of(
    model: EpiFoundation,
    matrix: Any,
    projection: sp.csr_matrix | None,
    names: pd.Index,
    *,
    show: bool = True,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Embedding of all cells, float32 (n_cells, d); with `show`, a progress bar where those are shown.

    With `own`, what cells gave to the vectors of peaks (NaN for those that gave nothing), they are embedded as if they had not: as new cells are.
    """
    embedding = np.zeros((len(names), model.config.dim), dtype=np.float32)
    is_new = np.ones(len(names), dtype=bool) if own is None else np.isnan(own[:, 0])
    as_new = np.flatnonzero(is_new)
    new = matrix if is_new.all() else matrix[as_new]
    for part, _, of_part in encode_cells(model, new, projection, names[as_new], show=show):
        embedding[as_new[part]] = of_part.cpu().numpy()
    if own is None:
        return embedding
    counted = np.flatnonzero(~is_new)
    for start in range(0, len(counted), LEFT_OUT):
        rows = counted[start : start + LEFT_OUT]
        for _, _, ids, offsets in _iter_tensors(matrix[rows], projection, names[rows], len(rows)):
            of_rows = torch.from_numpy(own[rows]).to(model.device)
            with torch.inference_mode():
                left_out = model.network.encode(ids.to(model.device), offsets.to(model.device), of_rows)
            embedding[rows] = left_out.cpu().numpy()
    return embedding


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # memory maps may be read-only
