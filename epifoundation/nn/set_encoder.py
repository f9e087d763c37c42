"""The set encoder: sums of measured peak vectors, read by kernel ridge regression. No part of it is trained by gradient."""

from __future__ import annotations

from torch import Tensor, nn

from .kernel_readout import KernelReadout
from .output_norm import Projection
from .peak_vectors import PeakVectors


class SetEncoder(nn.Module):
    """Encodes a cell by the clusters of cells in which its open peaks are open.

    The columns are sums of :class:`PeakVectors` measured on memberships in clusters (of RNA, or of the latent semantic
    indexing of peaks where there is no RNA). What batches differ by is projected out of them, and a
    :class:`KernelReadout` turns them into the embedding: the expected memberships of the cell in the same clusters.

    Parameters
    ----------
    n_peaks
        Size of the vocabulary.
    dim
        Clusters: columns of the vectors and of the embedding.
    n_landmarks
        Cells that the readout compares with.
    n_removed
        Directions along which batches differ.
    """

    def __init__(self, n_peaks: int, dim: int, n_landmarks: int, n_removed: int = 0) -> None:
        super().__init__()
        self.vectors = PeakVectors(n_peaks, dim)
        self.projection = Projection(dim, n_removed)
        self.readout = KernelReadout(dim, n_landmarks, dim)

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Columns of packed tokens, (n_cells, dim), batch effects projected out; `known` as in :class:`PeakVectors`."""
        return self.features(self.vectors(ids, offsets, known))

    def features(self, columns: Tensor) -> Tensor:
        """Columns without batch effects, from sums over the root of the number of peaks."""
        return self.projection(columns)

    def embed(self, features: Tensor) -> Tensor:
        """Embedding from columns, (n_cells, dim)."""
        return self.readout(features)


class LabelColumns(nn.Module):
    """Columns for labels, beside those of any encoder: peak vectors measured on labels, and a readout of all columns.

    Parameters
    ----------
    n_peaks
        Size of the vocabulary.
    n_features
        Columns of the encoder.
    n_labels
        Labels.
    n_landmarks
        Cells that the readout compares with.
    """

    def __init__(self, n_peaks: int, n_features: int, n_labels: int, n_landmarks: int) -> None:
        super().__init__()
        self.vectors = PeakVectors(n_peaks, n_labels)
        self.readout = KernelReadout(n_features + n_labels, n_landmarks, n_labels)
