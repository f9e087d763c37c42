"""Counts of cells and open peaks, and warnings about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

import numpy as np

from .._warn import warn
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from .expression import warn_of_batches


@dataclass
class Tally:
    """Counts for some cells; tallies of blocks add up."""

    cells: int = 0
    empty: int = 0  # without a known open peak
    limited: int = 0  # with more open peaks than the model reads
    in_unknown_batch: int = 0  # of a batch that the model does not know
    unknown_batches: list[str] = field(default_factory=list)
    labelled_unknown: int = 0  # by annotation
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
        return Tally(**summed | {"unknown_batches": sorted(set(summed["unknown_batches"]))})

    def warn(self, model: EpiFoundation, batch_key: str | None) -> None:
        """Warn about cells without known peaks, above the limit, or of unknown batches."""
        if self.in_unknown_batch:
            warn_of_batches(
                self.in_unknown_batch, self.cells, self.unknown_batches, str(batch_key), model
            )
        if self.empty:
            msg = (
                f"{self.empty:,} of {self.cells:,} cells have no open peak that the model knows; "
                "their results are NaN."
            )
            warn(msg)
        if self.limited:
            msg = (
                f"{self.limited:,} of {self.cells:,} cells have more than the "
                f"{model.config.max_peaks:,} open peaks that the model reads "
                "(`config.max_peaks`); a fixed subset of this size is read of each."
            )
            warn(msg)
