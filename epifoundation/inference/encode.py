"""Embed cells chunk by chunk, as all tools that read cells do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._settings import settings
from ..cells.source import Source
from ..cells.tokens import Tokens, ahead, iter_tokens
from ..models import EpiFoundation
from ..nn import Folded, FoldedSums


def encode_cells(
    model: EpiFoundation,
    cells: Source,
    projection: sp.csr_matrix | None,
    *,
    chunk: int | None = None,
    show: bool = True,
    folded: Folded | None = None,
) -> Iterator[tuple[slice, Tokens, torch.Tensor]]:
    """Yield rows, their tokens and their embedding (float32, on the device of the model).

    Training cells of the model are recognized, and left out of the vectors of their peaks.
    `folded` is the encoder, if it was prepared before.
    """
    folded = folded or model.network.folded()
    n_threads = torch.get_num_threads()
    on_cpu = model.device.type == "cpu"
    in_threads = isinstance(folded, FoldedSums) and on_cpu and n_threads > 1 and chunk is None

    @torch.inference_mode()
    def encode(tokens: Tokens) -> torch.Tensor:
        return folded.encode(*tensors(model, tokens), model.known(tokens.ids, tokens.offsets))

    with (
        tqdm(
            total=cells.n_obs,
            desc="Embedding",
            unit=" cells",
            disable=not (show and settings.progress),
        ) as bar,
        closing(ahead(iter_tokens(cells, projection, chunk=chunk or folded.chunk))) as parts,
        threads(n_threads if in_threads else 0) as submit,
    ):
        pending: deque[tuple[slice, Tokens, Callable[[], torch.Tensor]]] = deque()
        for rows, tokens in parts:
            pending.append((rows, tokens, submit(encode, tokens)))
            if len(pending) > n_threads * in_threads:
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
    """Yield a function that submits calls and returns a function that gives their result.

    Without threads, the call is made when the result is requested. Each thread computes with
    `n_each` threads of torch: threads with separate work do not wait for the slowest, as those of
    one operation do.
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


def tensors(model: EpiFoundation, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed tokens on the device of a model."""
    return _writable(tokens.ids).to(model.device), _writable(tokens.offsets).to(model.device)


def _writable(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(
        array if array.flags.writeable else array.copy()
    )  # memory maps may be read-only
