"""Probabilities of the populations of an atlas, from the embedding of a cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OTHER = -1  # in `type_of`: a profile of the family of the sorted populations


class Populations(nn.Module):
    r"""Two steps: the family or tissue of a cell, and its population within the family.

    In the first, the evidence of a profile is

    .. math::
        e = \frac{a}{2} \, \frac{c_+^2}{1 + |z|^2 / s}

    with :math:`c` the projection of the embedding :math:`z` on the direction of the profile. For
    few open peaks this is the log-likelihood ratio of a cell that has an unknown amount of the
    profile, as the noise of :math:`z` has variance 1. For many, cells differ from bulk samples by
    more than noise, and it depends on the angle only. A softmax over all profiles gives the
    probability of each; profiles of one type are added up. In the second step, the probability of
    the family, the sorted populations of one tissue, is divided by a softmax over linear contrasts
    of these populations.

    Parameters
    ----------
    dim
        Columns of the embedding.
    n_profiles
        Profiles of the first step; the first `n_sorted` are of the sorted populations.
    n_sorted
        Sorted populations.

    Attributes
    ----------
    directions
        Unit vectors of the profiles, (n_profiles, dim).
    type_of
        Type of each profile, from 0, or -1 for those of the family, (n_profiles,).
    contrasts
        Contrasts of the sorted populations, (dim, n_sorted).
    sharpness
        Factors of the evidence in both steps, fitted on labelled cells, (2,).
    saturation
        s, ().
    prior
        Probability of the family before a cell is seen; that of all other types is equal, ().
    """

    directions: Tensor
    type_of: Tensor
    contrasts: Tensor
    sharpness: Tensor
    saturation: Tensor
    prior: Tensor

    def __init__(self, dim: int, n_profiles: int, n_sorted: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(n_profiles, dim))
        self.register_buffer("type_of", torch.full((n_profiles,), OTHER))
        self.register_buffer("contrasts", torch.zeros(dim, n_sorted))
        self.register_buffer("sharpness", torch.ones(2))
        self.register_buffer("saturation", torch.tensor(30.0))
        self.register_buffer("prior", torch.tensor(0.5))

    def similarity(self, embedding: Tensor) -> Tensor:
        """Projections on the profiles, at least 0, (n_cells, n_profiles)."""
        return (embedding @ self.directions.T).clamp_(min=0)

    def forward(self, embedding: Tensor, n_types: int) -> tuple[Tensor, Tensor]:
        """Probabilities of sorted populations (n_cells, n_sorted) and types (n_cells, n_types)."""
        by_type = self.types(self.evidence(embedding), n_types)
        within = (embedding @ self.contrasts).mul_(self.sharpness[1]).softmax(dim=1)
        return by_type[:, -1:] * within, by_type[:, :-1]

    def evidence(self, embedding: Tensor) -> Tensor:
        """Evidence of each profile, (n_cells, n_profiles)."""
        limit = 1 + embedding.square().sum(dim=1, keepdim=True) / self.saturation
        return self.similarity(embedding).square_().mul_(self.sharpness[0] / 2).div_(limit)

    def types(self, evidence: Tensor, n_types: int) -> Tensor:
        """Probabilities of the types, and of the family as the last, (n_cells, n_types + 1)."""
        column = torch.where(self.type_of < 0, n_types, self.type_of)
        prior = ((1 - self.prior) / max(n_types, 1)).repeat(n_types + 1)
        prior[-1] = self.prior
        log_prior = (prior / torch.bincount(column, minlength=n_types + 1)).log()
        profiles = (evidence + log_prior[column]).softmax(dim=1)
        return profiles.new_zeros(len(profiles), n_types + 1).index_add_(1, column, profiles)

    def unexplained(self, embedding: Tensor) -> Tensor:
        """Fraction of the squared embedding that no single profile explains, (n_cells,)."""
        nearest = self.similarity(embedding).amax(dim=1).square_()
        return 1 - nearest / embedding.square().sum(dim=1)
