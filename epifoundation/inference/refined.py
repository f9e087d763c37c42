"""The labels of an atlas, refined on the cells of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch

from .._keys import Keys
from ..cells.content import hash_of
from ..cells.formats import opened
from ..cells.source import Inputs, as_sources
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import ProfileEncoder, ProfileLabelHead
from ..nn.profile_encoder import CLOSED
from ..peaks.counted import hash_tokens
from ..peaks.options import PeakMapping
from ..pp._map_peaks import map_source
from .encode import encode_cells
from .labellers import HeadLabeller
from .refinement import Refinement

MAX_CELLS, MAX_TOKENS = 20_000, 10_000_000  # that a refinement is fitted to


class RefinedLabeller(HeadLabeller):
    """The label head of an atlas, and a mixture that was fitted to the cells of the data.

    Parameters
    ----------
    model
        The atlas.
    refinement
        The mixture.
    n_cells
        Number of cells to which it was fitted.
    """

    def __init__(self, model: EpiFoundation, refinement: Refinement, n_cells: int) -> None:
        super().__init__(model, model)
        self.refinement, self.n_cells = refinement, n_cells

    @property
    def dim(self) -> int:
        """Columns of the embedding, and of the refined probabilities after them."""
        return super().dim + len(self.labels)

    @property
    def revision(self) -> str:
        """Revision of the model, and what identifies the cells of the mixture."""
        refinement = self.refinement
        content = hash_of(refinement.kept, refinement.peaks, refinement.hashes, refinement.opened)
        return f"{super().revision} {content}"

    @property
    def report(self) -> Mapping[str, Any]:
        """Labels that were refined, and their share of the cells."""
        labels: Sequence[str] = self.labels
        share = zip(self.refinement.kept, self.refinement.share, strict=True)
        return {
            "refined": True,
            "refined_on_cells": self.n_cells,
            "refined_shares": {labels[i]: float(part) for i, part in share},
        }

    def embed(self, tokens: Tokens, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding and refined probabilities."""
        first = self.head(embedding).cpu().numpy()
        hashes = hash_tokens(tokens.ids, tokens.offsets, self.model._keys)
        refined = self.refinement.apply(tokens.ids, tokens.offsets, first, hashes)
        return torch.cat([embedding, torch.from_numpy(refined).to(embedding)], dim=1)

    def probabilities(self, embedding: torch.Tensor) -> torch.Tensor:
        """Refined probabilities, (n_cells, n_labels)."""
        return embedding[:, -len(self.labels) :]

    def novelty(self, embedding: torch.Tensor) -> torch.Tensor:
        """Novelty by the atlas, (n_cells,)."""
        return self.head.score_novelty(embedding[:, : -len(self.labels)])


def refined_labeller(
    data: Inputs,
    model: EpiFoundation,
    *,
    modality: str,
    mapping: PeakMapping | None,
    keys: Keys,
    rng: np.random.Generator,
) -> RefinedLabeller:
    """Fit a mixture to the cells of the data, or to a random part of many.

    Raises
    ------
    ValueError
        The labels of the model are not those of an atlas; no cell has a known open peak.
    """
    head = model.network.label
    if not isinstance(head, ProfileLabelHead):
        msg = f"`refine=True` needs the labels of an atlas, such as 'human-atlas'; {model.name!r} "
        msg += "has others: leave it out."
        raise ValueError(msg)
    named = as_sources(data)
    sizes = []
    for name, place in named.items():
        with opened(place, modality, name) as source:
            sizes.append(source.n_obs)
    is_chosen = np.zeros(sum(sizes), bool)
    is_chosen[rng.permutation(len(is_chosen))[:MAX_CELLS]] = True
    first, parts, found = 0, [], []
    for (name, place), size in zip(named.items(), sizes, strict=True):
        with opened(place, modality, name) as source:
            projection = map_source(source, model, mapping, keys).projection
            for rows, tokens, embedding in encode_cells(model, source, projection):
                kept = np.flatnonzero(is_chosen[first:][rows] & (np.diff(tokens.offsets) > 0))
                shape = (len(tokens), len(model.peaks))
                ones = np.ones(len(tokens.ids), np.float32)
                parts.append(sp.csr_matrix((ones, tokens.ids, tokens.offsets), shape=shape)[kept])
                with torch.inference_mode():
                    found.append(head(embedding).cpu().numpy()[kept])
        first += size
    cells, probabilities = sp.vstack(parts, format="csr"), np.concatenate(found)
    if not cells.nnz:
        msg = "No cell has an open peak that the model knows: `refine=True` has nothing to learn "
        msg += "from."
        raise ValueError(msg)
    order = rng.permutation(cells.shape[0])
    n_used = max(int((np.cumsum(np.diff(cells.indptr)[order]) <= MAX_TOKENS).sum()), 1)
    if n_used < cells.shape[0]:
        used = np.sort(order[:n_used])
        cells, probabilities = cells[used], probabilities[used]
    hashes = hash_tokens(cells.indices, cells.indptr, model._keys)
    ratios = atlas_ratios(model, np.unique(cells.indices))
    return RefinedLabeller(
        model, Refinement.fit(cells, probabilities, ratios, hashes), cells.shape[0]
    )


@torch.inference_mode()
def atlas_ratios(model: EpiFoundation, peaks: np.ndarray) -> np.ndarray:
    """Rate of peaks in each label over its mean over labels, (n_peaks, n_labels).

    From the levels that the atlas has of them. Sorted populations and other types are of different
    tables: each is compared with the mean of its table.
    """
    head = cast("ProfileLabelHead", model.network.label)
    encoder = cast("ProfileEncoder", model.network.encoder)
    levels = encoder.levels(torch.from_numpy(peaks).to(model.device)).cpu()
    type_of, label_of = head.populations.type_of.cpu(), head.label_of.cpu()
    n_first = int(label_of.max()) + 1
    is_other = type_of >= 0
    tables = [
        _means_by(levels[:, : encoder.n_sorted], label_of, n_first),
        _means_by(levels[:, is_other], type_of[is_other], len(model.labels) - n_first),
    ]
    rates = (table + CLOSED for table in tables)
    return torch.cat([rate / rate.mean(dim=1, keepdim=True) for rate in rates], dim=1).numpy()


def _means_by(levels: torch.Tensor, groups: torch.Tensor, n_groups: int) -> torch.Tensor:
    sums = levels.new_zeros(len(levels), n_groups).index_add_(1, groups, levels)
    return sums / torch.bincount(groups, minlength=n_groups).clamp(min=1)
