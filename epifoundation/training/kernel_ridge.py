"""Kernel ridge regression with landmarks (the Nyström method of Williams & Seeger 2001), in closed form."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..nn import KernelReadout, kernel
from .components import same_bits

CHUNK = 1024
WIDTHS = (0.5, 1.0, 2.0)  # that are tried on validation cells
PENALTIES = (1.0, 3.0, 10.0, 30.0)
DEFAULT = 1.0, 1.0  # width and penalty, where there are too few validation cells to choose
MIN_HELD = 10  # validation cells to choose on
CELLS_PER_LANDMARK = (
    10  # at least: with more landmarks, cells that were fitted lie apart from new ones
)
MIN_LANDMARKS = 20
TRIED = 3_000, 300  # cells and landmarks that serve for the choice
JITTER = 1e-8  # of the trace, so that landmarks may be equal


@torch.no_grad()
def choose(
    learned: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    *,
    n_landmarks: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Width and penalty of the least squared error on validation cells; `DEFAULT` for fewer than `MIN_HELD` of them.

    Parameters
    ----------
    learned, held
        Inputs and targets of training and validation cells.
    n_landmarks
        As for :func:`fit_kernel_ridge`; a few hundred serve for the choice.
    rng
        Source of randomness.
    """
    if len(held[0]) < MIN_HELD:
        return DEFAULT
    seed, losses = int(rng.integers(2**31)), {}
    n_cells, most = TRIED
    (inputs, targets), (held_inputs, held_targets) = (
        [part[:: -(-len(part) // n_cells)] for part in parts] for parts in (learned, held)
    )
    for width in WIDTHS:
        rng = np.random.default_rng(seed)
        fits = fit_kernel_ridge(
            inputs, targets, PENALTIES, n_landmarks=min(n_landmarks, most), width=width, rng=rng
        )
        for penalty, readout in zip(PENALTIES, fits, strict=True):
            losses[width, penalty] = float(
                (readout(held_inputs) - held_targets).double().square().sum()
            )
    return min(losses, key=losses.__getitem__)


@torch.no_grad()
def fit_kernel_ridge(
    inputs: Tensor,
    targets: Tensor,
    penalties: Sequence[float],
    *,
    n_landmarks: int,
    width: float,
    rng: np.random.Generator,
) -> list[KernelReadout]:
    r"""Fit ``targets`` by a radial kernel of the standardized ``inputs``, once for each penalty.

    Minimizes :math:`|K W - (Y - \bar Y)|^2 + \lambda\, \mathrm{tr}(W^T K_{LL} W)` with the kernel K between cells and
    landmarks.

    Parameters
    ----------
    inputs, targets
        (n_cells, n_inputs) and (n_cells, n_outputs), float32.
    penalties
        Weights of the norm of the solution.
    n_landmarks
        Cells, drawn at random, that others are compared with; at most one of ten.
    width
        Of the kernel, in units of the number of inputs, which is half the mean squared distance of two cells.
    rng
        Source of randomness.
    """
    n_landmarks = min(n_landmarks, max(len(inputs) // CELLS_PER_LANDMARK, MIN_LANDMARKS))
    n_inputs = inputs.shape[1]
    drawn = np.sort(rng.permutation(len(inputs))[:n_landmarks])
    readout = KernelReadout(n_inputs, len(drawn), targets.shape[1]).to(inputs.device)
    readout.center.copy_(inputs.double().mean(dim=0))
    readout.scale.copy_(inputs.double().std(dim=0, correction=0) + 1e-9)
    readout.scale[readout.scale < 1e-8] = 1  # a column that is the same in all cells
    readout.width.fill_(width * n_inputs)
    readout.base.copy_(targets.double().mean(dim=0))
    readout.landmarks.copy_(
        (inputs[torch.from_numpy(drawn).to(inputs.device)] - readout.center) / readout.scale
    )
    inner = torch.zeros(len(drawn), len(drawn), dtype=torch.float64, device=inputs.device)
    cross = torch.zeros(len(drawn), targets.shape[1], dtype=torch.float64, device=inputs.device)
    found = []
    with same_bits():
        for some, wanted in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
            similar = readout.similarities(
                some
            ).double()  # float32 products would change the solution by 1e-3
            inner += similar.T @ similar
            cross += similar.T @ (wanted - readout.base).double()
        landmarks = (
            readout.landmarks.double()
        )  # rounded to float32, similarities may not be positive definite
        between = kernel(landmarks, landmarks, readout.width.double())
        inner.diagonal().add_(JITTER * float(inner.trace()))
        for penalty in penalties:
            fitted = copy.deepcopy(readout)
            fitted.weight.copy_(
                torch.cholesky_solve(cross, torch.linalg.cholesky(inner + penalty * between))
            )
            found.append(fitted)
    return found
