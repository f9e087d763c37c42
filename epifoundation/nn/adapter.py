"""Small updates of a network: low-rank ones of matrices (Hu et al. 2021), full ones of vectors."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .model import Network
from .transformer_encoder import TransformerEncoder

SMALL = 65_536  # entries of a matrix that is trained in full
# Scale of the random factor, relative to the matrix; the other factor then has the usual rate
GAIN = 10.0


class LowRank(nn.Module):
    """Adds ``left @ right`` to a matrix; `left` is initialised with zeros."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        noise = torch.randn(rank, weight.shape[1], device=weight.device)
        self.right = nn.Parameter(GAIN * weight.std() * noise)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.left @ self.right

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The two factors."""
        return self.left.detach(), self.right.detach()


class AdaptedEmbedding(nn.Module):
    """A table with a :class:`LowRank` update, computed for the rows that are looked up."""

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
    """Restrict training to few parameters, which make a small file; in place.

    Large matrices, such as the table of peaks, get a :class:`LowRank` update; batches, small
    matrices and vectors are trained in full. Anything else with a row for each peak (priors, the
    head for held-out peaks) is frozen: that head keeps the embedding in place.
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
            min_size = max(SMALL, 2 * rank * sum(parameter.shape))
            is_large = parameter.ndim == 2 and parameter.numel() > min_size
            if is_large and id(parameter) not in batches:
                parametrize.register_parametrization(module, name, LowRank(parameter, rank))
            elif parameter.shape[0] != n_peaks:
                parameter.requires_grad_(True)
    _set_table(network, AdaptedEmbedding(cast("nn.Embedding", table), rank))


@torch.no_grad()
def merge(network: Network) -> dict[str, tuple[Tensor, Tensor]]:
    """Add the updates to their matrices, in place, and return their factors by matrix name.

    The factors are rounded to half precision first, in which they are saved.
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
    """Tensors with a row for each batch."""
    both = (network.peaks, network.expression)
    heads = [head for head in both if head is not None and head.batch is not None]
    return [cast("Tensor", getattr(head.batch, "weight", head.batch)) for head in heads]


def blend(before: Network, after: Network, fraction: float) -> Network:
    """Interpolate the weights of two networks of the same configuration."""
    blended, start = copy.deepcopy(after), before.state_dict()
    state = after.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = torch.lerp(start[name].to(tensor), tensor, fraction)
    blended.load_state_dict(state)
    return blended


def _table_of(network: Network) -> str:
    """Name of the submodule with a vector for each peak."""
    return f"encoder.{cast('TransformerEncoder', network.encoder).table}"


def _set_table(network: Network, table: nn.Module) -> None:
    parent, _, name = _table_of(network).rpartition(".")
    setattr(network.get_submodule(parent), name, table)
