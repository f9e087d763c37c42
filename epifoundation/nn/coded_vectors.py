"""Fixed peak vectors that are stored with 8 bits a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .packed import add_up
from .peak_vectors import PeakVectors

MIDDLE = 128  # the code of `shift`
AT_ONCE = 2**16  # peaks decoded at a time, so that temporary arrays stay small


class CodedVectors(nn.Module):
    """One vector for each peak: ``scale * (code - 128) + shift`` with codes from 0 to 255.

    Parameters
    ----------
    n_peaks
        Number of peaks.
    width
        Number of columns.

    Attributes
    ----------
    codes
        uint8 (width, n_peaks): columns compress better one after the other.
    scale, shift
        Of each column, (width,).
    """

    codes: Tensor
    scale: Tensor
    shift: Tensor

    divisor = staticmethod(PeakVectors.divisor)

    def __init__(self, n_peaks: int, width: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.full((width, n_peaks), MIDDLE, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("shift", torch.zeros(width))
        self._decoded: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The vectors, (n_peaks, width), decoded on first use and kept."""
        if self._decoded is None:
            n_peaks = self.codes.shape[1]
            decoded = self.scale.new_empty(n_peaks, len(self.scale))
            for start in range(0, n_peaks, AT_ONCE):
                part = slice(start, start + AT_ONCE)
                decoded[part] = self._decode(self.codes[:, part])
            self._decoded = decoded
        return self._decoded

    def rows(self, ids: Tensor) -> Tensor:
        """The vectors of some peaks, (n_ids, width), without decoding the others."""
        return self._decode(self.codes[:, ids])

    def _decode(self, codes: Tensor) -> Tensor:
        return (codes.T.to(self.scale) - MIDDLE) * self.scale + self.shift

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Columns of packed tokens, (n_cells, width); NaN for a cell without open peaks."""
        return self.sums(ids, offsets) / self.divisor(offsets.diff())[:, None]

    def sums(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Sums of the vectors of packed tokens, (n_cells, width)."""
        return add_up(self.weight, ids, offsets)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._decoded = None  # of another device
        return super()._apply(fn, recurse)
