"""Small updates of a network: of low rank for its matrices (Hu et al. 2021), in full for its vectors."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .model import Network
from .transformer_encoder import TransformerEncoder

SMALL = 65_536  # numbers of a matrix that is learned in full
GAIN = 10.0  # of the factor that is drawn, over the matrix; so the other learns at the rate of everything else


class LowRank(nn.Module):
    """Adds ``left @ right`` to a matrix; `left` begins with zeros, so nothing changes at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.right = nn.Parameter(
            GAIN * weight.std() * torch.randn(rank, weight.shape[1], device=weight.device)
        )

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.left @ self.right

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """What is added, as two matrices."""
        return self.left.detach(), self.right.detach()


class AdaptedEmbedding(nn.Module):
    """A table with a :class:`LowRank` update of which only the rows that are asked for are made."""

    def __init__(self, table: nn.Embedding, rank: int) -> None:
        super().__init__()
        self.table = table
        self.update = LowRank(table.weight, rank)
        self.num_embeddings = table.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) + self.update.left[ids] @ self.update.right

    @property
    def weight(self) -> Tensor:
        """The table with its update, (n, dim)."""
        return self.update(self.table.weight)


def adapt(network: Network, rank: int) -> None:
    """Leave so few numbers of a network to learn that they make a small file; in place.

    Matrices get a :class:`LowRank` update, the table of peaks among them; batches, small matrices and vectors are learned in full. What
    else has a row for each peak (priors, the head for held-out peaks) stays: that head keeps the embedding in its place.
    """
    network.requires_grad_(False)
    table = network.get_submodule(_table_of(network))
    frozen = {table} if network.peaks is None else {table, network.peaks.linear}
    batches = {id(parameter) for parameter in batch_tables(network)}
    n_peaks = network.sizes.n_peaks
    for module in [*network.modules()]:
        if module in frozen:
            continue
        for name, parameter in [*module.named_parameters(recurse=False)]:
            is_large = parameter.ndim == 2 and parameter.numel() > max(
                SMALL, 2 * rank * sum(parameter.shape)
            )
            if is_large and id(parameter) not in batches:
                parametrize.register_parametrization(module, name, LowRank(parameter, rank))
            elif parameter.shape[0] != n_peaks:
                parameter.requires_grad_(True)
    _set_table(network, AdaptedEmbedding(cast("nn.Embedding", table), rank))


@torch.no_grad()
def merge(network: Network) -> dict[str, tuple[Tensor, Tensor]]:
    """Add the updates to what they update, in place, and give back their factors by the name of the matrix.

    The factors are rounded to half precision first, so that they can be kept in it.
    """
    for module in network.modules():
        if isinstance(module, LowRank):
            for factor in module.factors:
                factor.copy_(factor.half())
    adapted = cast("AdaptedEmbedding", network.get_submodule(_table_of(network)))
    adapted.table.weight.copy_(adapted.weight)
    _set_table(network, adapted.table)
    factors = {f"{_table_of(network)}.weight": adapted.update.factors}
    for path, module in [*network.named_modules()]:
        if not parametrize.is_parametrized(module):
            continue
        for name, updates in [*module.parametrizations.items()]:
            factors[f"{path}.{name}"] = updates[0].factors
            parametrize.remove_parametrizations(module, name)
    return factors


def batch_tables(network: Network) -> list[Tensor]:
    """What has a row for each batch."""
    heads = [
        head
        for head in (network.peaks, network.expression)
        if head is not None and head.batch is not None
    ]
    return [cast("Tensor", getattr(head.batch, "weight", head.batch)) for head in heads]


def blend(before: Network, after: Network, share: float) -> Network:
    """A network a `share` of the way from one to the other, which differ in their weights alone."""
    blended, start = copy.deepcopy(after), before.state_dict()
    state = {}
    for name, tensor in after.state_dict().items():
        state[name] = (
            torch.lerp(start[name].to(tensor), tensor, share)
            if tensor.is_floating_point()
            else tensor
        )
    blended.load_state_dict(state)
    return blended


def _table_of(network: Network) -> str:
    """Name of the submodule with a vector for each peak."""
    return f"encoder.{cast('TransformerEncoder', network.encoder).table}"


def _set_table(network: Network, table: nn.Module) -> None:
    parent, _, name = _table_of(network).rpartition(".")
    setattr(network.get_submodule(parent), name, table)
