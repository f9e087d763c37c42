"""Probabilities of types from their bulk profiles, by log-ratios of rates at open peaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .packed import add_up


class BulkHead(nn.Module):
    r"""A softmax over sums of log-ratios.

    The score of a type is

    .. math::
        z_t = \frac{1}{\sqrt n} \sum_p \log \frac{r_{pt}}{\bar r_p}

    over the :math:`n` open peaks :math:`p` of a cell that are in a profile, with the rate :math:`r`
    of a peak in the type and its mean :math:`\bar r` over types. Divided by :math:`\sqrt n`, not
    :math:`n`, and not a plain sum, as cells differ from bulk samples by more than noise: the
    evidence of many peaks is weaker than if they were independent.

    Parameters
    ----------
    n_peaks, n_types
        Peaks of the profiles, types.
    n_calibration
        Simulated cells whose scores are kept.

    Attributes
    ----------
    peaks
        Positions of the peaks in the vocabulary of the model, ascending, (n_peaks,).
    weight
        Log-ratios, centred over types and scaled to variance 1 of the scores of a cell whose peaks
        are drawn from the mean of the types, (n_peaks, n_types).
    sharpness
        Factor of the scores, ().
    conformal, novelty
        Scores of the simulated cells, ascending, (n_calibration,).
    moments
        Mean and standard deviation of the energy in these cells, (2,).
    """

    peaks: Tensor
    weight: Tensor
    sharpness: Tensor
    conformal: Tensor
    novelty: Tensor
    moments: Tensor

    def __init__(self, n_peaks: int, n_types: int, n_calibration: int) -> None:
        super().__init__()
        self.register_buffer("peaks", torch.arange(n_peaks))
        self.register_buffer("weight", torch.zeros(n_peaks, n_types))
        self.register_buffer("sharpness", torch.ones(()))
        self.register_buffer("conformal", torch.zeros(n_calibration))
        self.register_buffer("novelty", torch.zeros(n_calibration))
        self.register_buffer("moments", torch.tensor([0.0, 1.0]))

    def scores(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Scores of packed tokens, (n_cells, n_types); NaN without a peak of a profile."""
        place = torch.searchsorted(self.peaks, ids.long()).clamp_(max=len(self.peaks) - 1)
        is_known = self.peaks[place] == ids
        before = torch.cat([is_known.new_zeros(1, dtype=torch.int64), is_known.cumsum(0)])
        ends = before[offsets.long()]
        sums = add_up(self.weight, place[is_known], ends)
        return sums / ends.diff().to(sums).sqrt()[:, None]

    def forward(self, scores: Tensor) -> Tensor:
        """Probabilities, (n_cells, n_types)."""
        return (self.sharpness * scores).softmax(dim=1)

    def energy(self, scores: Tensor) -> Tensor:
        """Low if there is much evidence for a type (Liu et al. 2020), (n_cells,)."""
        return -(self.sharpness * scores).logsumexp(dim=1)

    def score_novelty(self, scores: Tensor) -> Tensor:
        """The energy, in standard deviations of the simulated cells, (n_cells,)."""
        return (self.energy(scores) - self.moments[0]) / self.moments[1]
