"""What is counted while cells are read, and the warnings about it."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from ..cells.tokens import Tokens
from ..models import EpiFoundation
from .expression import warn_of_batches


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
        """Warn of cells that the model cannot read as it should."""
        if self.foreign:
            warn_of_batches(
                self.foreign, self.cells, self.unseen, str(batch_key), model, stacklevel + 1
            )
        if self.empty:
            msg = f"{self.empty:,} of {self.cells:,} cells have no open peak that the model knows; their results are NaN."
            warnings.warn(msg, UserWarning, stacklevel=stacklevel)
        if self.limited:
            msg = (
                f"{self.limited:,} of {self.cells:,} cells have more than the {model.config.max_peaks:,} open peaks that the model reads "
                "(`config.max_peaks`); each is read by a fixed choice of so many."
            )
            warnings.warn(msg, UserWarning, stacklevel=stacklevel)
