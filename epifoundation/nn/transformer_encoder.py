"""The paper's encoder: a transformer over a cell's open peaks, with a CLS token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import PackedAttention
from .folded import Folded
from .output_norm import OutputNorm
from .packed import take
from .peak_vectors import LABELS, Known

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes
    from .model import Network

EPS = 6.1e-5  # of the batch normalisation, as in the original
UNKNOWN, CLS = 0, 1  # rows of a chromosome table that are no chromosomes
N_SPECIAL = 2


class TokenTable(nn.Module):
    """Token vectors: ``BatchNorm(Dropout(LayerNorm(E) + LayerNorm(E_chromosome)))``.

    Tokens are peaks or genes.

    The chromosome of each token is part of the table (`chromosome_of`); tokens without one have
    ``UNKNOWN``. Without chromosomes (`n_chromosomes` 0) the second term is absent.
    """

    chromosome_of: Tensor

    def __init__(self, n_tokens: int, dim: int, n_chromosomes: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, dim)
        self.norm = nn.LayerNorm(dim)
        self.chromosome = nn.Embedding(N_SPECIAL + n_chromosomes, dim) if n_chromosomes else None
        self.chromosome_norm = nn.LayerNorm(dim) if n_chromosomes else None
        unknown = torch.full((n_tokens,), UNKNOWN) if n_chromosomes else None
        self.register_buffer("chromosome_of", unknown)
        self.dropout = nn.Dropout(dropout)
        self.batch_norm = nn.BatchNorm1d(dim, eps=EPS)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the tokens `ids`, (n, dim)."""
        x = self.norm(self.embedding(ids))
        if self.chromosome is not None and self.chromosome_norm is not None:
            x = x + self.chromosome_norm(self.chromosome(self.chromosome_of[ids]))
        x = self.dropout(x)
        norm = self.batch_norm
        if self.training and len(x) == 1:  # one token has no variance: use running statistics
            running = norm.running_mean, norm.running_var
            return F.batch_norm(x, *running, norm.weight, norm.bias, eps=norm.eps)
        return norm(x)

    @torch.no_grad()
    def fold(self) -> Callable[[Tensor], Tensor]:
        """The same function in evaluation mode, as one normalisation and one addition.

        Batch normalisation is affine by channel, so it is merged into the weights of the LayerNorm
        and the chromosome vectors. A table of all tokens would save one more normalisation, a
        hundredth of the cost of the blocks, but keep the largest tensor of the model twice.
        """
        norm = self.batch_norm
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018, S101
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        weight, bias = self.norm.weight * scale, self.norm.bias * scale
        has_chromosomes = self.chromosome is not None and self.chromosome_norm is not None
        bias = bias if has_chromosomes else bias + shift

        def normed(ids: Tensor) -> Tensor:
            x = self.embedding.weight[ids]
            return F.layer_norm(x, x.shape[1:], weight, bias, self.norm.eps)

        if self.chromosome is None or self.chromosome_norm is None:
            return normed
        chromosomes = self.chromosome_norm(self.chromosome.weight) * scale + shift
        return lambda ids: normed(ids).add_(chromosomes[self.chromosome_of[ids]])


class TransformerBlock(nn.Module):
    """Attention and a ReLU network, each added to its input and then normalised (post-norm)."""

    def __init__(self, dim: int, n_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, attend: PackedAttention) -> Tensor:
        """All tokens of packed cells, (n_tokens, dim)."""
        q, k, v = self.qkv(x).view(len(x), 3, self.n_heads, -1).unbind(1)
        return self._after(x, attend(q, k, v))

    def first_rows(self, x: Tensor, attend: PackedAttention) -> Tensor:
        """The first token of each cell, (n_cells, dim): the others of the last block are unused."""
        dim = x.shape[1]
        first = x[attend.offsets[:-1]]
        q = F.linear(first, self.qkv.weight[:dim], self.qkv.bias[:dim])
        q = q.view(len(first), self.n_heads, -1)
        kv = F.linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:])
        k, v = kv.view(len(x), 2, self.n_heads, -1).unbind(1)
        return self._after(first, attend(q, k, v))

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.out(attended.flatten(1))))
        hidden = self.dropout(F.relu(self.linear1(x), inplace=True))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class FoldedTransformer:
    """A network with a transformer prepared for inference, in a precision of choice.

    The token table is folded, the last block computed for the CLS tokens only, and cells are
    grouped by length.

    Attributes
    ----------
    chunk
        Number of cells to encode at a time, which keep the device busy.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        encoder = cast("TransformerEncoder", network.encoder)
        self.network, self.encoder, self.dtype = network, encoder, dtype
        self.tokens = encoder.tokens.fold()
        self.blocks = (
            encoder.blocks if dtype == torch.float32 else copy.deepcopy(encoder.blocks).to(dtype)
        )
        on_cpu = encoder.norm.weight.device.type == "cpu"
        self.group, self.chunk = (4_096, 64) if on_cpu else (131_072, 1_024)  # tokens, cells

    @torch.inference_mode()
    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, float32 (n_cells, dim); see :meth:`.model.Network.encode`."""
        features, labels = self._encode(ids, offsets), self.network.label_columns
        columns = None
        if labels is not None:
            columns = labels.vectors(ids, offsets, (known or {}).get(LABELS))
        return self.network.embed(features, columns)

    def _encode(self, ids: Tensor, offsets: Tensor) -> Tensor:
        ids, offsets = limit(ids.long(), offsets.long(), self.encoder.max_peaks)
        lengths, norm = offsets.diff(), self.encoder.norm
        result = torch.full((len(lengths), len(norm.weight)), torch.nan, device=ids.device)
        order = lengths.argsort()
        order = order[lengths[order] > 0]
        if not len(order):
            return result
        for cells in order.split(_group_sizes(lengths[order], self.group)):
            some, starts = self.encoder.with_cls(*take(ids, offsets, cells))
            states = run(self.blocks, self.tokens(some).to(self.dtype), starts)
            result[cells] = norm(states.float())
        return result


class TransformerEncoder(nn.Module):
    """Encodes a cell as the last state of a CLS token that attends to the cell's open peaks.

    Cells are packed: there are no padding tokens. A cell with more than `max_peaks` open peaks is
    read by a fixed choice of them, see :func:`limit`.
    """

    options: ClassVar[Mapping[str, Any]] = {
        "dim": 128,
        "n_heads": 2,
        "n_layers": 2,
        "dropout": 0.1,
        "feedforward": None,
        "max_peaks": None,
        "decoder": "linear",
    }
    is_measured: ClassVar[bool] = False
    is_trained: ClassVar[bool] = True
    folded: ClassVar[type[Folded]] = FoldedTransformer
    table: ClassVar[str] = "tokens.embedding"  # the submodule with a vector for each peak

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        dim, dropout = config.width, config.dropout or 0.0
        self.max_peaks = config.max_peaks
        # The last token is CLS
        self.tokens = TokenTable(sizes.n_peaks + 1, dim, sizes.n_chromosomes, dropout)
        if sizes.n_chromosomes:
            self.tokens.chromosome_of[-1] = CLS
        hidden = config.feedforward or 2 * dim
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, hidden, dropout)
            for _ in range(config.n_layers or 0)
        )
        self.norm = OutputNorm(dim, sizes.n_removed)

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Embedding of packed tokens, (n_cells, dim); NaN for a cell without open peaks."""
        empty = offsets.diff() == 0
        if not len(empty):
            return self.norm.weight.new_empty(0, len(self.norm.weight))
        ids, offsets = self.with_cls(*limit(ids.long(), offsets.long(), self.max_peaks))
        states = self.norm(run(self.blocks, self.tokens(ids), offsets).float())
        return states.masked_fill(empty[:, None], torch.nan)

    def with_cls(self, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Put a CLS token in front of each cell."""
        shifted = offsets + torch.arange(len(offsets), device=offsets.device)
        is_cls = torch.zeros(len(ids) + len(offsets) - 1, dtype=torch.bool, device=ids.device)
        is_cls[shifted[:-1]] = True
        tokens = torch.full_like(is_cls, self.tokens.embedding.num_embeddings - 1, dtype=ids.dtype)
        return tokens.masked_scatter(~is_cls, ids), shifted

    def embed(self, features: Tensor) -> Tensor:
        """The embedding is the output of the encoder."""
        return features

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Set the peak vectors, (n_peaks, dim), scaled as the random ones are."""
        table = self.tokens.embedding.weight
        table[:-1] = vectors * (table[:-1].std() / vectors.std().clamp(min=1e-12))


def run(blocks: nn.ModuleList, x: Tensor, offsets: Tensor) -> Tensor:
    """States of the first token of each cell after all blocks, (n_cells, dim)."""
    attend = PackedAttention(offsets)
    for block in blocks[:-1]:
        x = block(x, attend)
    return cast("TransformerBlock", blocks[-1]).first_rows(x, attend)


def limit(ids: Tensor, offsets: Tensor, max_peaks: int | None) -> tuple[Tensor, Tensor]:
    """Keep at most `max_peaks` peaks of each cell, the first ones in a fixed, scattered order.

    Peaks are ordered by a multiplicative hash of their position in the vocabulary. So the choice is
    the same each time and in each cell, is spread over the genome, and changes by one peak if one
    peak of the cell changes.
    """
    lengths = offsets.diff()
    if max_peaks is None or not len(lengths) or int(lengths.max()) <= max_peaks:
        return ids, offsets
    cells = torch.repeat_interleave(lengths)
    # 2**32 / golden ratio, odd: a bijection of 32-bit numbers that scatters neighbours
    rank = (cells << 32) | ((ids * 2_654_435_769) & 0xFFFFFFFF)
    order = rank.argsort()
    place = torch.arange(len(ids), device=ids.device) - offsets[:-1][cells]
    kept = order[place < max_peaks].sort().values
    return ids[kept], torch.cat([offsets[:1], lengths.clamp(max=max_peaks).cumsum(0)])


def _group_sizes(lengths: Tensor, max_tokens: int) -> list[int]:
    """Sizes of groups of cells, ascending in length, with at most `max_tokens` or one cell each."""
    sizes, tokens = [0], 0
    for length in lengths.tolist():
        if sizes[-1] and tokens + length > max_tokens:
            sizes.append(0)
            tokens = 0
        sizes[-1] += 1
        tokens += length
    return sizes
