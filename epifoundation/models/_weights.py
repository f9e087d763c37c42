"""Put the tensors of a file into a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..nn import ModelConfig, Network, Sizes


def described(config: ModelConfig, sizes: Sizes) -> Network:
    """A network without memory for its weights, whose shapes can be compared."""
    with torch.device("meta"):
        return Network(config, sizes)


def filled(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """The network of :func:`described` with its weights.

    Raises
    ------
    ValueError
        A tensor is missing, unexpected, or has another shape or type.
    """
    expected = network.state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    for name, tensor in expected.items():
        found = tensors.get(name, tensor)
        if found.shape != tensor.shape:
            shapes = tuple(found.shape), tuple(tensor.shape)
            problems.append(f"{name} has shape {shapes[0]} rather than {shapes[1]}")
        elif found.dtype != tensor.dtype:
            problems.append(f"{name} has the type {found.dtype} rather than {tensor.dtype}")
    if problems:
        more = f"; and {len(problems) - 10:,} more" if len(problems) > 10 else ""
        raise ValueError("; ".join(problems[:10]) + more)
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval().requires_grad_(False)
