"""Read the files of a model directory with checks."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load as load_arrays
from safetensors.torch import load as load_tensors
from torch import Tensor

from .._files import DECODE_ERRORS, open_text, sha256
from ..genome import COLUMNS
from ..nn import ModelConfig, Network, Sizes
from ..peaks.bed import read_bed
from ..peaks.counted import CountedCells
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._checks import check_cells, check_labels, check_tensors, check_terms
from ._config import CARD, CELLS, GENES, LABELS, PEAKS, about, read_json
from ._saving import locate
from ._weights import described, filled

READ_ERRORS_OF_TABLES: tuple[type[Exception], ...] = (
    *DECODE_ERRORS,
    ValueError,
    TypeError,
    OSError,
)
MAX_LINE = 1_000  # bytes of a line of a BED file: a few bytes can expand to gigabytes


def check_hash(directory: Path, file: str, expected: str) -> None:
    """Raise an error unless the file exists and has the expected sha256."""
    path = locate(directory, file)
    if not path.is_file():
        msg = f"The model in {str(directory)!r} lacks {file!r}; download or save the model again."
        raise FileNotFoundError(msg)
    found = sha256(path)
    if found != expected:
        msg = (
            f"{str(path)!r} is truncated or altered: its sha256 is {found[:12]}…, expected "
            f"{expected[:12]}… ({path.stat().st_size:,} bytes); download or save the model again."
        )
        raise ValueError(msg)


def read_peaks(directory: Path, genome: str, n_peaks: int, *, is_atlas: bool) -> PeakVocabulary:
    """The peaks, of which there should be `n_peaks`."""
    path, limit = locate(directory, PEAKS), MAX_LINE * (n_peaks + 1_000)
    with about(path):
        _check_length(path, limit)
        return PeakVocabulary(_intervals(path), genome, is_atlas)


def _intervals(path: Path) -> pd.DataFrame:
    """The intervals of a BED file; those of a million peaks as written by this package in 1 s."""
    columns = {"chrom": object, "start": np.int64, "end": np.int64}
    try:
        return pd.read_csv(
            path,
            sep="\t",
            names=list(columns),
            dtype=columns,
            compression="gzip",
            na_filter=False,
            quoting=csv.QUOTE_NONE,
        )
    except READ_ERRORS_OF_TABLES:
        # Of another format, or damaged: read line by line, which says what is wrong
        return read_bed(path)[COLUMNS].drop_duplicates()


def _check_length(path: Path, limit: int) -> None:
    """Raise ValueError if the text of a compressed file is far longer than it should be."""
    total = 0
    with suppress(*DECODE_ERRORS), path.open("rb") as raw:  # reading the file says more
        text = open_text(raw, path)
        while total <= limit and (part := text.read(2**20)):
            total += len(part)
    if total > limit:
        msg = f"it contains more than {limit:,} bytes of text"
        raise ValueError(msg)


def read_genes(directory: Path) -> GeneVocabulary:
    """The genes."""
    path = locate(directory, GENES)
    with about(path):
        return GeneVocabulary.read_tsv(path)


def read_labels(directory: Path) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The labels, and the lineages and ontology identifiers of them, if there are any."""
    path = locate(directory, LABELS)
    content = read_json(path)
    with about(path):
        is_list = not isinstance(content, dict)
        terms = {"labels": content} if is_list else content
        labels = check_labels(terms.get("labels"))
        if unknown := sorted(set(terms) - {"labels", "lineages", "ontology"}):
            msg = f"it has the unknown keys {unknown[:3]}"
            raise ValueError(msg)
        lineages, ontology = terms.get("lineages", {}), terms.get("ontology", {})
        check_terms(labels, lineages, ontology)
        return labels, lineages, ontology


def read_card(directory: Path) -> str:
    """The model card."""
    path = locate(directory, CARD)
    with about(path):
        return path.read_text(encoding="utf-8")


def _load[T](path: Path, load: Callable[[bytes], T]) -> T:
    try:
        return load(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # of safetensors, or KeyError for unknown types
        msg = f"{str(path)!r} is not a safetensors file ({error}); "
        msg += "download or save the model again."
        raise ValueError(msg) from error


def read_tensors(directory: Path, file: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return _load(locate(directory, file), load_tensors)


def read_network(directory: Path, file: str, config: ModelConfig, sizes: Sizes) -> Network:
    """A network with the weights of a file; the error lists all that does not fit."""
    tensors = read_tensors(directory, file)
    path = locate(directory, file)
    try:
        network = filled(described(config, sizes), tensors)
    except ValueError as error:
        msg = f"The weights in {str(path)!r} do not fit config.json: {error}; "
        msg += "download or save the model again."
        raise ValueError(msg) from error
    with about(path):
        check_tensors(network)
    return network


def read_counted_cells(
    directory: Path, config: ModelConfig, n_labels: int
) -> dict[str, CountedCells]:
    """The training cells, by block of columns."""
    path = locate(directory, CELLS)
    arrays: dict[str, Any] = _load(path, load_arrays)
    parts = ("hashes", "codes", "weights")
    blocks = sorted({name.rpartition(".")[0] for name in arrays})
    with about(path):
        for name in (f"{block}.{part}" for block in blocks for part in parts):
            if name not in arrays:
                msg = f"it lacks {name!r}"
                raise ValueError(msg)
        if unexpected := sorted(set(arrays) - {f"{b}.{part}" for b in blocks for part in parts}):
            msg = f"it has the unexpected arrays {unexpected[:5]}"
            raise ValueError(msg)
        cells = {
            block: CountedCells(*(arrays[f"{block}.{part}"] for part in parts)) for block in blocks
        }
        check_cells(cells, config, n_labels)
    return cells
