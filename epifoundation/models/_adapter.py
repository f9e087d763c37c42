"""Adapters: the changes that fine-tuning made to a base model, as a small set of tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..nn import ModelConfig, Network, Sizes

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
        """A new network: `base` with the changes.

        Raises
        ------
        ValueError
            A tensor is missing, unexpected or has the wrong shape.
        """
        before = base.state_dict()
        with torch.random.fork_rng():
            network = Network(config, sizes)
        state, used = {}, set()
        for name, tensor in network.state_dict().items():
            if name in self.tensors:
                state[name] = self.tensors[name].to(tensor.dtype)
                used.add(name)
            elif name + LEFT in self.tensors and name + RIGHT in self.tensors and name in before:
                left, right = (self.tensors[name + side].to(before[name]) for side in (LEFT, RIGHT))
                state[name] = before[name] + left @ right
                used |= {name + LEFT, name + RIGHT}
            elif name in before:
                state[name] = before[name]
            found = tuple(state[name].shape) if name in state else "missing"
            if found != tuple(tensor.shape):
                msg = f"The adapter does not fit: expected {name} with shape "
                msg += f"{tuple(tensor.shape)}, got {found}."
                raise ValueError(msg)
        if unexpected := sorted(set(self.tensors) - used):
            msg = f"The adapter does not fit: unexpected tensors {unexpected[:5]}."
            raise ValueError(msg)
        network.load_state_dict(state)
        return network


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
