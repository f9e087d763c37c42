"""Kernel ridge regression with landmarks (Nyström, Williams & Seeger 2001), in closed form."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..nn import KernelReadout, kernel
from .components import same_bits

RIDGE_CHUNK = 1024
WIDTHS = (0.5, 1.0, 2.0)  # tried on validation cells, as are penalties
PENALTIES = (1.0, 3.0, 10.0, 30.0)
DEFAULT = 1.0, 1.0  # width and penalty with too few validation cells to choose
MIN_HELD = 10  # validation cells to choose on
CELLS_PER_LANDMARK = 10  # at least: more landmarks would separate fitted cells from new ones
MIN_LANDMARKS = 20
MAX_TRIED = 3_000, 300  # cells and landmarks for the choice
JITTER = 1e-8  # of the trace, so that landmarks may be equal


@torch.no_grad()
def choose(
    learned: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    *,
    n_landmarks: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Width and penalty of the least squared error on validation cells, or `DEFAULT` for too few.

    `learned` and `held` are inputs and targets of training and validation cells.
    """
    if len(held[0]) < MIN_HELD:
        return DEFAULT
    seed, losses = int(rng.integers(2**31)), {}
    n_cells, max_landmarks = MAX_TRIED
    n_landmarks = min(n_landmarks, max_landmarks)
    (inputs, targets), (held_inputs, held_targets) = (
        [part[:: -(-len(part) // n_cells)] for part in parts] for parts in (learned, held)
    )
    for width in WIDTHS:
        rng = np.random.default_rng(seed)
        fits = fit_kernel_ridge(
            inputs, targets, PENALTIES, n_landmarks=n_landmarks, width=width, rng=rng
        )
        for penalty, readout in zip(PENALTIES, fits, strict=True):
            error = readout(held_inputs) - held_targets
            losses[width, penalty] = float(error.double().square().sum())
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

    Minimizes :math:`|K W - (Y - \bar Y)|^2 + \lambda\, \mathrm{tr}(W^T K_{LL} W)` with the kernel K
    between cells and landmarks.

    Parameters
    ----------
    inputs, targets
        (n_cells, n_inputs) and (n_cells, n_outputs), float32.
    penalties
        Weights of the norm of the solution.
    n_landmarks
        Number of landmarks, which are cells drawn at random; at most a tenth of the cells.
    width
        Width of the kernel, in units of the number of inputs, which is half the mean squared
        distance of two cells.
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
        for some, wanted in zip(inputs.split(RIDGE_CHUNK), targets.split(RIDGE_CHUNK), strict=True):
            # Products in float32 would change the solution by 1e-3
            similar = readout.similarities(some).double()
            inner += similar.T @ similar
            cross += similar.T @ (wanted - readout.base).double()
        # Rounded to float32, similarities may not be positive definite
        landmarks = readout.landmarks.double()
        between = kernel(landmarks, landmarks, readout.width.double())
        inner.diagonal().add_(JITTER * float(inner.trace()))
        for penalty in penalties:
            fitted = copy.deepcopy(readout)
            factor = torch.linalg.cholesky(inner + penalty * between)
            fitted.weight.copy_(torch.cholesky_solve(cross, factor))
            found.append(fitted)
    return found
