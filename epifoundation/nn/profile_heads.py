"""The heads of an atlas: labels and expression from the probabilities of its populations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .populations import Populations
from .profile_encoder import N_PROFILES, N_SORTED

if TYPE_CHECKING:
    from .config import Sizes

MIN_KNOWN = 0.5  # probability of populations with RNA, below which expression is not predicted
N_RNA, N_CALIBRATION = "populations_with_rna", "calibration_cells"  # sizes in `Sizes.heads`
N_POPULATION_LABELS = "population_labels"  # calibration cells of labels of populations


class ProfileLabelHead(nn.Module):
    """Probabilities of the cell types of an atlas.

    The labels are the types of the sorted populations, then the other types. Conformal scores and
    novelty are those of the calibration cells, as in :class:`.label_head.LabelHead`.

    Attributes
    ----------
    label_of
        Label of each sorted population, (n_sorted,).
    conformal, novelty
        Scores of the calibration cells, ascending, (n_calibration,).
    moments
        Mean and standard deviation of the unexplained fraction in these cells, (2,).
    """

    label_of: Tensor
    conformal: Tensor
    novelty: Tensor
    moments: Tensor

    def __init__(self, dim: int, sizes: Sizes) -> None:
        super().__init__()
        self.populations = Populations(
            dim, sizes.heads.get(N_PROFILES, 0), sizes.heads.get(N_SORTED, 0)
        )
        self.register_buffer(
            "label_of", torch.zeros(sizes.heads.get(N_SORTED, 0), dtype=torch.int64)
        )
        n_calibration = sizes.heads.get(N_CALIBRATION, 0)
        self.register_buffer("conformal", torch.zeros(n_calibration))
        self.register_buffer("novelty", torch.zeros(n_calibration))
        self.register_buffer("moments", torch.tensor([0.0, 1.0]))
        self.n_labels = sizes.n_labels
        self.is_calibrated = bool(n_calibration)

    def forward(self, embedding: Tensor) -> Tensor:
        """Probabilities, (n_cells, n_labels)."""
        n_types = self.n_labels - int(self.label_of.max()) - 1
        populations, types = self.populations(embedding, n_types)
        labels = populations.new_zeros(len(populations), self.n_labels - n_types)
        return torch.cat([labels.index_add_(1, self.label_of, populations), types], dim=1)

    def score_novelty(self, embedding: Tensor) -> Tensor:
        """Fraction that no profile explains, in deviations of the calibration cells, (n_cells,)."""
        return (self.populations.unexplained(embedding) - self.moments[0]) / self.moments[1]


class PopulationLabelHead(ProfileLabelHead):
    """Labels of a reference, by their probabilities in the sorted populations of an atlas.

    Attributes
    ----------
    labels_in
        Probabilities of the labels in each population, (n_sorted, n_labels).
    other
        Label of cells of other types, ().
    """

    labels_in: Tensor
    other: Tensor

    def __init__(self, dim: int, sizes: Sizes) -> None:
        super().__init__(dim, sizes)
        del self.label_of
        shape = sizes.heads.get(N_SORTED, 0), sizes.n_labels
        self.register_buffer("labels_in", torch.zeros(shape))
        self.register_buffer("other", torch.zeros((), dtype=torch.int64))
        self.register_buffer("conformal", torch.zeros(sizes.heads.get(N_POPULATION_LABELS, 0)))

    def forward(self, embedding: Tensor) -> Tensor:
        """Probabilities, (n_cells, n_labels)."""
        n_types = int(self.populations.type_of.max()) + 1
        populations, types = self.populations(embedding, n_types)
        found = populations @ self.labels_in
        found[:, self.other] += types.sum(dim=1)
        return found


class ProfileExpressionHead(nn.Module):
    """The mean expression of the populations that have RNA, weighted by their probabilities.

    NaN for cells that are likely none of them.

    Attributes
    ----------
    mean
        Expression of each population with RNA, ``log1p`` of counts per 10,000, (n_rna, n_genes).
    sorted_of
        Position of each of them among the sorted populations, (n_rna,).
    """

    mean: Tensor
    sorted_of: Tensor

    def __init__(self, dim: int, sizes: Sizes) -> None:
        super().__init__()
        self.populations = Populations(
            dim, sizes.heads.get(N_PROFILES, 0), sizes.heads.get(N_SORTED, 0)
        )
        self.register_buffer("mean", torch.zeros(sizes.heads.get(N_RNA, 0), sizes.n_genes))
        self.register_buffer("sorted_of", torch.zeros(sizes.heads.get(N_RNA, 0), dtype=torch.int64))

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Expression of all genes, (n_cells, n_genes); batches are ignored."""
        return self.predictor()(embedding, batch)

    def predictor(
        self, genes: Tensor | None = None, *, link: bool = False
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        """A function of embedding and batch that predicts the same genes.

        With `link`, on the same scale: effects of peaks are additive on the logarithmic scale.
        """
        mean = self.mean if genes is None else self.mean[:, genes]
        n_types = int(self.populations.type_of.max()) + 1

        def predict(embedding: Tensor, _: Tensor | None) -> Tensor:
            weights = self.populations(embedding, n_types)[0][:, self.sorted_of]
            total = weights.sum(dim=1, keepdim=True)
            return torch.where(total >= MIN_KNOWN, (weights / total) @ mean, torch.nan)

        return predict
