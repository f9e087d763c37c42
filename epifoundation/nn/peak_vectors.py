"""Vectors of peaks computed from training cells, summed over the open peaks of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .packed import add_up, take

ENCODER, LABELS = "encoder", "labels"  # blocks of columns
Known: TypeAlias = Mapping[str, Tensor]  # memberships by block, see `Network.encode`


class PeakVectors(nn.Module):
    r"""One vector for each peak: the shrunk mean memberships of the cells in which it is open.

    With :math:`k_i` the memberships of cell :math:`i` (in clusters or labels), :math:`\mu` their
    mean over all training cells, :math:`n_p` the number of training cells in which peak :math:`p`
    is open, and a pseudocount :math:`c`,

    .. math::
        x_p = \frac{\sum_{i \ni p} (k_i - \mu)}{n_p + c} , \qquad
        z = \frac{1}{\sqrt{n}} \sum_{p} x_p

    for a cell with :math:`n` open peaks. The standard deviation of a sum over independent peaks
    grows as the square root of their number, so noise is of the same size in cells of any depth.

    A training cell contributes to the vectors of its own peaks. It is left out of them exactly:
    without cell :math:`i`, the vector of one of its peaks is :math:`x_p + s_p (x_p - (k_i - \mu))`
    with :math:`s_p = 1 / (n_p + c - 1)`.

    Parameters
    ----------
    n_peaks
        Number of peaks.
    width
        Number of columns, such as clusters.

    Attributes
    ----------
    weight
        Vectors, (n_peaks, width).
    count
        Number of training cells in which each peak is open, (n_peaks,).
    base
        Mean memberships of all training cells, (width,).
    pseudocount
        Pseudocount by which means are shrunk, ().
    """

    weight: Tensor
    count: Tensor
    base: Tensor
    pseudocount: Tensor

    def __init__(self, n_peaks: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_peaks, width))
        self.register_buffer("count", torch.zeros(n_peaks))
        self.register_buffer("base", torch.zeros(width))
        self.register_buffer("pseudocount", torch.ones(()))

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Columns z of packed tokens, (n_cells, width); NaN for a cell without open peaks."""
        return self.sums(ids, offsets, known) / self.divisor(offsets.diff())[:, None]

    @staticmethod
    def divisor(n_open: Tensor) -> Tensor:
        """Number that a sum over `n_open` peaks is divided by."""
        return n_open.sqrt()

    def sums(
        self,
        ids: Tensor,
        offsets: Tensor,
        known: Tensor | None = None,
        left_out: Tensor | None = None,
    ) -> Tensor:
        """Sums of the vectors of packed tokens, (n_cells, width).

        Parameters
        ----------
        ids, offsets
            Positions of open peaks (n_tokens,) and the start of each cell (n_cells + 1,).
        known
            Memberships of training cells, which are left out, (n_cells, width); else NaN.
        left_out
            :meth:`left_out_table`, if it was computed before.
        """
        is_counted = torch.zeros(0, dtype=torch.bool) if known is None else known[:, 0].isfinite()
        if known is None or not is_counted.any():
            return add_up(self.weight, ids, offsets)
        if is_counted.all():
            total = add_up(self.left_out_table() if left_out is None else left_out, ids, offsets)
            return total[:, :-1] - total[:, -1:] * (known - self.base)
        total = self.weight.new_empty(len(known), self.weight.shape[1], dtype=torch.float32)
        for cells, profiles in (
            (is_counted.nonzero()[:, 0], known),
            ((~is_counted).nonzero()[:, 0], None),
        ):
            some = None if profiles is None else profiles[cells]
            total[cells] = self.sums(*take(ids, offsets, cells), some, left_out)
        return total

    def left_out_table(self, out: Tensor | None = None) -> Tensor:
        """For each peak ``x + s x``, and ``s`` in the last column, (n_peaks, width + 1).

        Sums of these rows leave a training cell out. Written into `out`, if it is given.
        """
        if out is None:
            out = self.weight.new_empty(len(self.weight), self.weight.shape[1] + 1)
        torch.mul(self.weight, (1 + self.share)[:, None].to(self.weight), out=out[:, :-1])
        out[:, -1] = self.share
        return out

    @property
    def share(self) -> Tensor:
        """Weight s of one cell in the vector of each peak without it, (n_peaks,)."""
        return 1 / (self.count + self.pseudocount - 1).clamp(min=1e-3)
