"""The encoder of an atlas: sums of fixed peak vectors of the profiles of bulk samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .coded_vectors import CodedVectors
from .folded import Folded, FoldedSums
from .output_norm import Projection

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes

PROFILES = "profiles"  # its name among the encoders
N_PROFILES, N_SORTED = "profiles", "sorted_populations"  # sizes in `Sizes.heads`
MEAN_UNITS = 64  # of a level
CLOSED = 0.3  # rate of a closed element in units of a level: it has some reads


class ProfileEncoder(nn.Module):
    """Encodes a cell by the samples of an atlas in which its open peaks are open.

    The vector of a peak has its coordinates along the main components of the samples. The embedding
    is the sum over the open peaks of a cell, divided by the square root of their number, times
    `whitening`: for a cell whose peaks are drawn at random, its columns are uncorrelated and have
    variance 1.

    Attributes
    ----------
    loadings, offsets
        Of each profile: the difference of its level at a peak from the mean level of its table is
        the vector of the peak times `loadings` plus `offsets`; (dim, n_profiles), (n_profiles,).
    means
        Mean levels of each peak in the tables of sorted populations and of samples, in units of
        1 / 64, uint8 (2, n_peaks).
    """

    options: ClassVar[Mapping[str, Any]] = {"dim": None}
    is_measured: ClassVar[bool] = False
    is_trained: ClassVar[bool] = False
    folded: ClassVar[type[Folded]] = FoldedSums

    whitening: Tensor
    loadings: Tensor
    offsets: Tensor
    means: Tensor
    n_sorted: int

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        n_profiles, self.n_sorted = sizes.heads.get(N_PROFILES, 0), sizes.heads.get(N_SORTED, 0)
        self.vectors = CodedVectors(sizes.n_peaks, config.width)
        self.register_buffer("whitening", torch.eye(config.width))
        self.register_buffer("loadings", torch.zeros(config.width, n_profiles))
        self.register_buffer("offsets", torch.zeros(n_profiles))
        self.register_buffer("means", torch.zeros(2, sizes.n_peaks, dtype=torch.uint8))
        self.projection = Projection(config.width, sizes.n_removed)

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Columns of packed tokens, (n_cells, dim); no cell was counted, so none is `known`."""
        return self.features(self.vectors(ids, offsets))

    def features(self, columns: Tensor) -> Tensor:
        """Whitened columns without batch effects, from scaled sums of peak vectors."""
        return self.projection(columns @ self.whitening)

    def levels(self, ids: Tensor) -> Tensor:
        """Levels of some peaks in all profiles, at least 0, (n_ids, n_profiles).

        Sorted populations, the first `n_sorted`, have levels up to 2, samples up to 3.
        """
        mean = self.means[:, ids].float() / MEAN_UNITS
        n_samples = self.loadings.shape[1] - self.n_sorted
        table = torch.cat(
            [mean[0, :, None].expand(-1, self.n_sorted), mean[1, :, None].expand(-1, n_samples)], 1
        )
        return (table + self.vectors.rows(ids) @ self.loadings + self.offsets).clamp_(min=0)

    def embed(self, features: Tensor) -> Tensor:
        """Embedding from columns, (n_cells, dim)."""
        return features
