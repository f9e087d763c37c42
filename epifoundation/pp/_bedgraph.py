"""Write bedGraph files from arrays."""

from __future__ import annotations

import gzip
import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd


class BedGraphWriter(ExitStack):
    """A bedGraph file, gzip if it ends in ``.gz``; used as :class:`._bigwig.BigWigWriter`."""

    def __init__(self, path: Path, lengths: dict[str, int]) -> None:
        super().__init__()
        self.names = list(lengths)
        raw: Any = self.enter_context(path.open("wb"))
        if path.suffix == ".gz":  # without name and time: the same bytes each time
            raw = self.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
        self._text = self.enter_context(io.TextIOWrapper(raw, "utf-8", newline=""))

    def __enter__(self) -> Self:
        return self

    def add(self, contig: int, start: np.ndarray, end: np.ndarray, values: np.ndarray) -> None:
        """Add intervals of the contig with this number."""
        table = pd.DataFrame({"chrom": self.names[contig], "start": start, "end": end})
        table["value"] = values
        table.to_csv(self._text, sep="\t", header=False, index=False, float_format="%.6g")
