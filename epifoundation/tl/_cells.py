"""What a tool reads of cells, what it counts on the way, and how it is run on cells in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._memory import copy_of
from .._validate import Data, check_writable, get_atac, get_matrix, obs_column
from ..models import EpiFoundation
from ..nn import FoldedSums, FoldedTransformer
from ..pp._mapping import PeakMap, map_onto
from ..tokens import Tokens
from ._expression import rna_of, warn_of_batches


class Block(NamedTuple):
    """Cells: their matrix, their names, the batch of each, and the RNA modality whose genes are to be predicted."""

    matrix: Any
    names: pd.Index
    batch: pd.Series | None
    rna: AnnData | None
    show: bool = True  # a progress bar


@dataclass
class Tally:
    """What is counted in some cells; tallies of blocks add up."""

    cells: int = 0
    empty: int = 0  # without an open peak that the model knows
    limited: int = 0  # with more open peaks than the model reads
    foreign: int = 0  # of no batch that the model was trained on
    unseen: list[str] = field(default_factory=list)  # such batches
    unknown: int = 0  # annotated as unknown
    n_open: int = 0
    n_known: int = 0
    total: float = 0.0
    matched: float = 0.0

    def count(self, tokens: Tokens, max_peaks: int | None) -> None:
        """Add the tokens of some cells."""
        self.cells += len(tokens)
        self.empty += int((tokens.n_known == 0).sum())
        self.limited += int((np.diff(tokens.offsets) > (max_peaks or np.inf)).sum())
        self.n_open += int(tokens.n_open.sum())
        self.n_known += int(tokens.n_known.sum())
        self.total += tokens.total
        self.matched += tokens.matched

    def __add__(self, other: Tally) -> Tally:
        mine, theirs = asdict(self), asdict(other)
        summed = {each.name: mine[each.name] + theirs[each.name] for each in fields(self)}
        return Tally(**summed | {"unseen": sorted(set(summed["unseen"]))})

    def warn(self, model: EpiFoundation, batch_key: str | None, stacklevel: int) -> None:
        """Tell of cells that the model cannot read as it should."""
        if self.foreign:
            warn_of_batches(self.foreign, self.cells, self.unseen, str(batch_key), model, stacklevel + 1)
        if self.empty:
            msg = (
                f"{self.empty:,} of {self.cells:,} cells have no open peak that the model knows; their results are NaN."
            )
            warnings.warn(msg, UserWarning, stacklevel=stacklevel)
        if self.limited:
            msg = (
                f"{self.limited:,} of {self.cells:,} cells have more than the {model.config.max_peaks:,} open peaks that the model reads "
                "(`config.max_peaks`); each is read by a fixed choice of so many."
            )
            warnings.warn(msg, UserWarning, stacklevel=stacklevel)


class Tool(Protocol):
    """A public function of :mod:`epifoundation.tl`, with its options checked: from cells to what is written about them."""

    @property
    def model(self) -> EpiFoundation:
        """That computes."""

    @property
    def keys(self) -> Keys:
        """Names of what is written."""

    @property
    def batch_key(self) -> str | None:
        """Column of batches, for what is predicted."""

    @property
    def options(self) -> dict[str, Any]:
        """What the results depend on beside model and cells; JSON types."""

    @property
    def predicts(self) -> bool:
        """Whether expression is written."""

    @property
    def genes(self) -> Sequence[str]:
        """Genes that are predicted where there is no RNA."""

    @property
    def folded(self) -> FoldedSums | FoldedTransformer:
        """The encoder, made ready once for all blocks."""

    def compute(self, block: Block, mapping: PeakMap) -> Any:
        """Results of a block; called in several threads."""

    def write(self, found: Any, atac: AnnData, rna: AnnData | None) -> None:
        """Put them in their places in ``obs``, ``obsm`` and ``layers``."""

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """Places of what an earlier model left, such as ``"obs/name"``; ``"rna/layers/name"`` is of the RNA modality."""

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """What is told of the run, by key of ``uns``."""


class Matching(NamedTuple):
    """How peaks of data are mapped onto those of a model: see :func:`epifoundation.pp.map_peaks`."""

    min_overlap: float
    genome: str | None
    liftover: str | Path | None
    min_coverage: float

    def map(self, model: EpiFoundation, var: pd.DataFrame) -> PeakMap:
        """The mapping; an error or a warning where it covers too little."""
        mapping = map_onto(model.peaks, var, min_overlap=self.min_overlap, genome=self.genome, liftover=self.liftover)
        mapping.check(self.min_coverage)
        return mapping


def run(tool: Tool, data: Data, *, modality: str, rna_modality: str, matching: Matching, copy: bool) -> Data | None:
    """A tool on cells in memory, or backed: results are written when all of them are there."""
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    mapping = matching.map(tool.model, atac.var)
    rna = rna_of(data, rna_modality)
    batch = None if tool.batch_key is None else obs_column(data, atac, tool.batch_key, "batch_key")
    found = tool.compute(Block(get_matrix(atac, None), atac.obs_names, batch, rna), mapping)
    tally = found.tally
    tally.warn(tool.model, tool.batch_key, 4)
    mapping.count(tally.n_open, tally.n_known, tally.total, tally.matched)
    mapping.log()
    target = copy_of(data) if copy else data
    atac, rna = get_atac(target, modality), getattr(target, "mod", {}).get(rna_modality)
    for place in tool.stale(atac.uns):
        _remove(atac, rna, place)
    tool.write(found, atac, rna)
    drop_unused(atac, tool.keys)
    for key, told in tool.uns(mapping.report, tally).items():
        atac.uns[key] = told
    return target if copy else None


def drop_unused(atac: AnnData, keys: Keys) -> None:
    """Leave only the cell types that there are."""
    if keys.cell_type in atac.obs:
        atac.obs[keys.cell_type] = atac.obs[keys.cell_type].cat.remove_unused_categories()


def _remove(atac: AnnData, rna: AnnData | None, place: str) -> None:
    adata = atac
    if place.startswith("rna/"):
        if rna is None:
            return
        adata, place = rna, place.removeprefix("rna/")
    part, name = place.split("/", 1)
    if part == "var":
        adata.var = adata.var.drop(columns=name, errors="ignore")
    elif name in getattr(adata, part):
        del getattr(adata, part)[name]
