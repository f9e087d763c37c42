"""Kernel ridge regression with landmarks: the readout of a set encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KernelReadout(nn.Module):
    r"""``base + exp(-|u - landmark|^2 / width) @ weight``, with ``u = (x - center) / scale``.

    The solution of a kernel ridge regression (Nyström approximation, Williams & Seeger 2001), which
    :func:`epifoundation.training.kernel_ridge.fit_kernel_ridge` computes in closed form.

    Parameters
    ----------
    n_inputs, n_outputs
        Columns of inputs and outputs.
    n_landmarks
        Number of landmarks, which cells are compared with.
    """

    center: Tensor
    scale: Tensor
    landmarks: Tensor
    width: Tensor
    weight: Tensor
    base: Tensor

    def __init__(self, n_inputs: int, n_landmarks: int, n_outputs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(n_inputs))
        self.register_buffer("landmarks", torch.zeros(n_landmarks, n_inputs))
        self.register_buffer("width", torch.ones(()))
        self.register_buffer("weight", torch.zeros(n_landmarks, n_outputs))
        self.register_buffer("base", torch.zeros(n_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs, (n_cells, n_outputs)."""
        return self.base + self.similarities(inputs) @ self.weight

    def similarities(self, inputs: Tensor) -> Tensor:
        """Kernel between cells and landmarks, (n_cells, n_landmarks)."""
        return kernel((inputs - self.center) / self.scale, self.landmarks, self.width)


def kernel(inputs: Tensor, landmarks: Tensor, width: Tensor) -> Tensor:
    """``exp(-|a - b|^2 / width)`` for all pairs of rows; NaN rows stay NaN."""
    square = inputs.square().sum(dim=1, keepdim=True) + landmarks.square().sum(dim=1)
    return square.addmm_(inputs, landmarks.T, alpha=-2).clamp_(min=0).div_(-width).exp_()
