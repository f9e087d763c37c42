"""What fine-tuning changed of a model, without the model: the few numbers that are saved beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..nn import ModelConfig, Network, Sizes

if TYPE_CHECKING:
    from ._model import EpiFoundation

LEFT, RIGHT = ".left", ".right"
IN_HALF = ("label_columns.vectors.weight",)  # a row for each peak


@dataclass(frozen=True, eq=False)
class Adapter:
    """The difference of a network from that of a base model; that of cells which are recognized is saved beside it.

    Attributes
    ----------
    base, revision
        Name and revision of the base model.
    tensors
        By the name of a weight: its value where it was replaced; where it was updated with low rank, two factors in half
        precision, with ``.left`` and ``.right`` behind the name.
    """

    base: str
    revision: str
    tensors: dict[str, Tensor]

    @classmethod
    def between(
        cls, base: EpiFoundation, tuned: Network, factors: dict[str, tuple[Tensor, Tensor]]
    ) -> Adapter:
        """What turns the network of `base` into `tuned`, of which some matrices were updated by products of `factors`."""
        before, after = base.network.state_dict(), tuned.state_dict()
        tensors: dict[str, Tensor] = {}
        for name, tensor in after.items():
            if _is_same(before.get(name), tensor):
                continue
            if name in factors:
                left, right = factors[name]
                tensors |= {name + LEFT: left.half().cpu(), name + RIGHT: right.half().cpu()}
            else:
                tensors[name] = tensor.cpu().half() if name in IN_HALF else tensor.cpu()
        return cls(base.name, base.revision, tensors)

    def cell_bytes(self, model: EpiFoundation) -> bytes:
        """Cells of the labels of `model`, in safetensors format."""
        return replace(
            model, cells={block: each for block, each in model.cells.items() if block == "labels"}
        ).cell_bytes

    def apply(self, base: Network, config: ModelConfig, sizes: Sizes) -> Network:
        """The network that `base` becomes.

        Raises
        ------
        ValueError
            A tensor is missing, unexpected or of another shape.
        """
        before = base.state_dict()
        with torch.random.fork_rng():
            network = Network(config, sizes)
        wanted = network.state_dict()
        state, used = {}, set()
        for name, tensor in wanted.items():
            if name in self.tensors:
                state[name] = self.tensors[name].to(tensor.dtype)
                used.add(name)
            elif name + LEFT in self.tensors and name + RIGHT in self.tensors and name in before:
                left, right = (self.tensors[name + side].to(before[name]) for side in (LEFT, RIGHT))
                state[name] = before[name] + left @ right
                used |= {name + LEFT, name + RIGHT}
            elif name in before:
                state[name] = before[name]
            fits = name in state and state[name].shape == tensor.shape
            if not fits:
                found = tuple(state[name].shape) if name in state else "missing"
                msg = f"The adapter does not fit: {name} should have shape {tuple(tensor.shape)}, it is {found}."
                raise ValueError(msg)
        if set(self.tensors) - used:
            msg = f"The adapter does not fit: unexpected {sorted(set(self.tensors) - used)[:5]}."
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
