"""What an atlas knows of peaks, as a prior of their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from ..models import EpiFoundation
from ..models._atlas import bundled_atlas
from ..models._registry import DEFAULT_MODEL, resolve_model
from ..nn import PROFILES, PeakVectors, ProfileEncoder
from ..peaks.mapping import genome_build
from ..peaks.vocabulary import PeakVocabulary
from .statistics import CHUNK_PEAKS

if TYPE_CHECKING:
    from pathlib import Path

AUTO = "auto"
NO_PRIOR = "none"
FACTORS = 1, 4, 12, 40  # of the pseudocount, among which validation cells choose
USUAL_FACTOR = 12  # without validation cells
PENALTY = 0.01  # of the regression on the atlas, relative to the mean of its diagonal


@dataclass(frozen=True, eq=False)
class Prior:
    """Vectors of peaks in an atlas.

    Attributes
    ----------
    name, revision
        The atlas.
    vectors
        float32 (n_peaks, width); zero for peaks that the atlas does not know.
    """

    name: str
    revision: str
    vectors: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, atlas: EpiFoundation, peaks: PeakVocabulary) -> Prior:
        """The vectors of `peaks` in an atlas, each that of the nearest overlapping element."""
        encoder = cast("ProfileEncoder", atlas.network.encoder)
        pairs = atlas.peaks.projection(peaks.intervals).tocoo()
        vectors = torch.zeros(len(peaks), atlas.config.width)
        ids = torch.from_numpy(pairs.col.astype(np.int64)).to(atlas.device)
        vectors[torch.from_numpy(pairs.row.astype(np.int64))] = (
            encoder.vectors.rows(ids) @ encoder.whitening
        ).cpu()
        return cls(atlas.name, atlas.revision, vectors)

    @property
    def is_known(self) -> Tensor:
        """Peaks that the atlas knows, boolean (n_peaks,)."""
        return (self.vectors != 0).any(dim=1)


def atlas_for(
    prior: EpiFoundation | str | Path | None, peaks: PeakVocabulary
) -> EpiFoundation | None:
    """The atlas for a user's argument; with ``"auto"``, the bundled one if it knows the peaks."""
    if prior is None or prior == NO_PRIOR:
        return None
    if prior == AUTO:
        return bundled_atlas(peaks.intervals, genome_build(peaks))
    atlas = resolve_model(prior, None)
    if atlas.config.encoder != PROFILES:
        msg = f"`prior` must be an atlas, such as 'human-atlas', got {atlas.name!r}, whose encoder "
        msg += f"is {atlas.config.encoder!r}."
        raise ValueError(msg)
    build, expected = genome_build(peaks), atlas.peaks.genome
    if build not in (expected, "unknown"):
        msg = f"The peaks are of {build}, and the prior {atlas.name!r} is of {expected}: pass "
        msg += "`prior=None`."
        raise ValueError(msg)
    if not atlas.peaks.projection(peaks.intervals).nnz:
        msg = f"The prior {atlas.name!r} ({expected}) knows none of the {len(peaks):,} peaks, "
        msg += f"first {peaks.names[0]}: pass `prior=None`."
        raise ValueError(msg)
    return atlas


def prior_of_model(model: EpiFoundation) -> Prior | None:
    """The prior for label columns of a model: its atlas, or itself if it is one."""
    if model.config.encoder == PROFILES:
        return Prior.of(model, model.peaks)
    used = model.training.get("prior")
    if not isinstance(used, dict) or used.get("model") != DEFAULT_MODEL:
        return None
    return Prior.of(resolve_model(DEFAULT_MODEL, None), model.peaks)


def expected_sums(around: Tensor, count: Tensor, prior: Tensor) -> Tensor:
    """Mean deviations of memberships that the prior expects at each peak, (n_peaks, width).

    The regression of the means ``around / count`` on the vectors of the prior, in which a peak
    counts as the number of cells in which it is open.

    Parameters
    ----------
    around
        Sums of memberships less their mean over the cells in which each peak is open.
    count
        Number of these cells, (n_peaks,).
    prior
        Vectors, (n_peaks, n_columns).
    """
    gram = torch.zeros(prior.shape[1], prior.shape[1], dtype=torch.float64)
    product = torch.zeros(prior.shape[1], around.shape[1], dtype=torch.float64)
    for part, weight, wanted in zip(
        prior.split(CHUNK_PEAKS), count.split(CHUNK_PEAKS), around.split(CHUNK_PEAKS), strict=True
    ):
        vectors = part.double()
        gram += vectors.T @ (vectors * weight.cpu().double()[:, None])
        product += vectors.T @ wanted.cpu().double()
    ridge = PENALTY * gram.diagonal().mean() + 1e-9
    weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), product)
    return (prior @ weights.float()).to(around.device)


def shrink_to(expected: Tensor, vectors: PeakVectors, pseudocount: float) -> None:
    """Turn sums of deviations into means that are shrunk to what the prior expects, in place."""
    vectors.pseudocount.fill_(pseudocount)
    parts = (each.split(CHUNK_PEAKS) for each in (vectors.weight, vectors.count, expected))
    for weight, count, wanted in zip(*parts, strict=True):
        weight.add_(wanted, alpha=pseudocount).div_(count[:, None] + pseudocount)


def best_pseudocount(
    around: Tensor,
    count: Tensor,
    expected: Tensor,
    held: tuple[Tensor, Tensor],
    candidates: Sequence[float],
) -> float:
    """The pseudocount whose vectors are nearest to the means in validation cells.

    `held` are `around` and `count` of these cells.
    """
    if not bool(held[1].any()):
        return candidates[FACTORS.index(USUAL_FACTOR)]
    losses = []
    for pseudocount in candidates:
        loss = 0.0
        parts = (each.split(CHUNK_PEAKS) for each in (around, count, expected, *held))
        for a, n, e, held_a, held_n in zip(*parts, strict=True):
            vectors = (a + pseudocount * e) / (n[:, None] + pseudocount)
            loss += float((vectors.square() * held_n[:, None] - 2 * vectors * held_a).sum())
        losses.append(loss)
    return candidates[int(np.argmin(losses))]
