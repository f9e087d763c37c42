"""Adapters: the changes that fine-tuning made to a base model, as a small set of tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..nn import ModelConfig, Network, Sizes
from ._weights import described, filled

if TYPE_CHECKING:
    from ._model import EpiFoundation

LEFT, RIGHT = ".left", ".right"  # suffixes of the two factors of a low-rank update
HALF_PRECISION = ("label_columns.vectors.weight",)  # large: one row per peak


@dataclass(frozen=True, eq=False)
class Adapter:
    """Difference between a network and that of its base model.

    Attributes
    ----------
    base, revision
        Name and revision of the base model.
    tensors
        By name of the weight: its new value, or the two half-precision factors of a low-rank
        update, with the suffixes ``.left`` and ``.right``.
    """

    base: str
    revision: str
    tensors: dict[str, Tensor]

    @classmethod
    def between(
        cls, base: EpiFoundation, tuned: Network, factors: dict[str, tuple[Tensor, Tensor]]
    ) -> Adapter:
        """The adapter from `base` to `tuned`; `factors` are the low-rank updates by weight."""
        before, after = base.network.state_dict(), tuned.state_dict()
        tensors: dict[str, Tensor] = {}
        for name, tensor in after.items():
            if _is_same(before.get(name), tensor):
                continue
            if name in factors:
                left, right = factors[name]
                tensors |= {name + LEFT: left.half().cpu(), name + RIGHT: right.half().cpu()}
            else:
                tensors[name] = tensor.cpu().half() if name in HALF_PRECISION else tensor.cpu()
        return cls(base.name, base.revision, tensors)

    def apply(self, base: Network, config: ModelConfig, sizes: Sizes) -> Network:
        """A new network on the CPU: `base` with the changes.

        The sum of products of half-precision numbers is exact in double precision, as long as it
        is below 32, so that each machine computes the same weights.

        Raises
        ------
        ValueError
            A tensor is missing, unexpected, or has the wrong shape or type.
        """
        before = {name: tensor.cpu() for name, tensor in base.state_dict().items()}
        network = described(config, sizes)
        state: dict[str, Tensor] = {}
        used: set[str] = set()
        for name, expected in network.state_dict().items():
            if name in self.tensors:
                tensor = self.tensors[name]
                _check(name, tensor, expected, half=name in HALF_PRECISION)
                state[name] = tensor.to(expected.dtype, copy=True)
                used.add(name)
            elif name + LEFT in self.tensors and name + RIGHT in self.tensors and name in before:
                left, right = (self.tensors[name + side] for side in (LEFT, RIGHT))
                _check_factors(name, left, right, expected)
                update = (left.double() @ right.double()).float()
                _check(name, before[name], expected)
                state[name] = before[name] + update
                used |= {name + LEFT, name + RIGHT}
            elif name in before:
                _check(name, before[name], expected)
                state[name] = before[name].clone()
            else:
                msg = f"The adapter does not fit: missing {name}."
                raise ValueError(msg)
        if unexpected := sorted(set(self.tensors) - used):
            msg = f"The adapter does not fit: unexpected tensors {unexpected[:5]}."
            raise ValueError(msg)
        return filled(network, state)


def _check(name: str, tensor: Tensor, expected: Tensor, *, half: bool = False) -> None:
    shapes = tuple(tensor.shape), tuple(expected.shape)
    if shapes[0] != shapes[1]:
        msg = f"The adapter does not fit: expected {name} with shape {shapes[1]}, got {shapes[0]}."
        raise ValueError(msg)
    dtypes = (torch.float16, torch.float32) if half else (expected.dtype,)
    if tensor.dtype not in dtypes:
        msg = f"The adapter does not fit: expected {name} with type {dtypes[0]}, "
        raise ValueError(f"{msg}got {tensor.dtype}.")


def _check_factors(name: str, left: Tensor, right: Tensor, expected: Tensor) -> None:
    shapes, wanted = (tuple(left.shape), tuple(right.shape)), tuple(expected.shape)
    has_rank = left.ndim == right.ndim == len(wanted) == 2 and left.shape[1] == right.shape[0]
    if not has_rank or (left.shape[0], right.shape[1]) != wanted:
        msg = f"The adapter does not fit: expected two factors of {name} with shape {wanted}, "
        raise ValueError(f"{msg}got {shapes[0]} and {shapes[1]}.")
    if {left.dtype, right.dtype} != {torch.float16}:
        msg = f"The adapter does not fit: expected factors of {name} with type torch.float16, "
        raise ValueError(f"{msg}got {left.dtype} and {right.dtype}.")


def adapted(
    base: EpiFoundation, tuned: EpiFoundation, factors: dict[str, tuple[Tensor, Tensor]]
) -> EpiFoundation:
    """`tuned` with its adapter, and with the network that will be read, to the last bit."""
    adapter = Adapter.between(base, tuned.network, factors)
    network = adapter.apply(base.network, tuned.config, tuned.network.sizes)
    return replace(tuned, network=network, adapter=adapter)


def _is_same(before: Tensor | None, after: Tensor) -> bool:
    return (
        before is not None
        and before.shape == after.shape
        and torch.equal(before.cpu(), after.cpu())
    )
