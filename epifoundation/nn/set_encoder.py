"""A sum over the set of a cell's open peaks, plain or weighed by attention (DESIGN 2a)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .output_norm import OutputNorm

# Logits lie in [-2 * MAX_SCALE, 0] plus the spread of the priors once their upper bound is taken off,
# so that the squares of exp() neither overflow nor lose a cell's whole denominator in float32.
MAX_SCALE = 10.0
STD = 0.02  # of the sums over peaks and the root of their number, at the start; `STD` becomes 1 in what is read
LEFT = 0.05  # of the squared weights of a cell, below which a subtraction is not trusted


class SetEncoder(nn.Module):
    r"""Encodes a cell as a sum over its open peaks, in units of its standard error.

    With token vectors ``x_p = E_p / 0.02``,

    .. math::
        z = \sum_p x_p \Big/ \sqrt{n} , \qquad \text{or with attention} \qquad
        z_{mh} = \sum_p e^{a_{pmh}} v_{ph} \Big/ \Big(\sum_p e^{2 a_{pmh}}\Big)^{1/2} , \quad
        a_{pmh} = s_h \cos(W_k x_p, q_{mh}) + b_p

    with values ``v``, keys and learned queries ``q_mh`` of unit length and a prior ``b_p`` for each peak. Independent peaks add up to a sum whose standard
    deviation is the root of that of their squared weights: few open peaks are little evidence, many are much, and noise is of one size in all cells.

    Nothing on the right depends on the cell but the set that is summed over. So each peak has one row of a
    table, ``[x | 1]`` or ``[exp(a) v | exp(2 a)]``, and a cell is a sum of rows and a division. Training makes the rows of
    the peaks in the batch, inference all of them once (:meth:`fold`); both are the same function.

    Vectors of peaks that were measured (:func:`epifoundation.warm_start.measure`) are means over the cells in which a peak is open, of what is known of these
    cells. A cell that was counted must not find itself in them while the rest learns: what is known of it, `own`, is taken out of the vectors of its
    peaks. ``share`` is what one cell weighs in the vector of a peak without it; 0 where nothing was measured.
    """

    share: Tensor

    table = "peak"  # the submodule with a vector for each peak

    def __init__(self, config: ModelConfig, n_peaks: int, n_removed: int = 0) -> None:
        super().__init__()
        dim, heads, seeds = config.dim, config.heads, config.n_seeds
        self.dim, self.n_heads, self.n_seeds = dim, max(heads, 1), seeds
        self.attends = heads > 0
        self.peak = nn.Embedding(n_peaks, dim)
        nn.init.normal_(self.peak.weight, std=STD)
        self.register_buffer("share", torch.zeros(n_peaks))
        if self.attends:
            self.prior = nn.Parameter(torch.zeros(n_peaks))
            self.key = nn.Linear(dim, dim)
            self.value = nn.Linear(dim, dim)
            self.query = nn.Parameter(torch.randn(seeds, heads, dim // heads))
            self.scale = nn.Parameter(torch.full((heads,), 6.0))
        self.output = nn.Linear(dim, dim)
        self.seed = nn.Parameter(torch.randn(seeds, dim) * 0.02)
        self.mix = nn.Sequential(*(_mixer(config) for _ in range(config.n_layers)))
        self.norm = OutputNorm(dim, n_removed)

    def forward(self, ids: Tensor, offsets: Tensor, own: Tensor | None = None) -> Tensor:
        """Embed packed cells: `ids` (n_tokens,), `offsets` (n_cells + 1,) -> (n_cells, dim).

        `own`, (n_cells, dim): what each cell gave to the vectors of its peaks and is taken out of them; NaN for a cell that was not counted.
        """
        if own is not None and self.attends:
            every = torch.arange(len(ids), device=ids.device)
            return self.readout(pool(self.rows(ids, own[torch.repeat_interleave(offsets.diff())]), every, offsets))
        unique, inverse = torch.unique(ids, return_inverse=True)
        rows = self.rows(unique)
        if own is None:
            return self.readout(pool(rows, inverse, offsets))
        # What is taken out of a plain sum is a sum, too: of share * (x - own).
        share = self.share[unique, None]
        sums = pool(torch.cat([rows, share * rows[:, : self.dim], share], dim=1), inverse, offsets)
        whole, shared, shares = sums.split([self.dim + 1, self.dim, 1], dim=1)
        left_out = (shared - shares * own / STD).nan_to_num(0.0)
        return self.readout(torch.cat([whole[:, : self.dim] + left_out, whole[:, self.dim :]], dim=1))

    @torch.no_grad()
    def fold(self, chunk: int = 4_096) -> Tensor:
        """The table of all peaks, (n_peaks, n_seeds * (dim + n_heads)), to be summed by :func:`pool`."""
        every = torch.arange(self.peak.num_embeddings, device=self.share.device)
        table = self.share.new_empty(len(every), self.n_seeds * (self.dim + self.n_heads))
        for part in every.split(chunk):
            table[part[0] : part[-1] + 1] = self.rows(part)
        return table

    def rows(self, ids: Tensor, own: Tensor | None = None) -> Tensor:
        """Rows of the table for the peaks `ids`; with attention, `own` of each can be taken out of its vector."""
        n, heads, width = len(ids), self.n_heads, self.dim // self.n_heads
        x = self.peak(ids)
        if own is not None:
            x = x + (self.share[ids, None] * (x - own)).nan_to_num(0.0)
        x = x / STD
        if not self.attends:
            return torch.cat([x, x.new_ones(n, 1)], dim=1)
        keys = F.normalize(self.key(x).view(n, heads, width), dim=-1)
        queries = F.normalize(self.query, dim=-1)
        scale = self.scale.clamp(-MAX_SCALE, MAX_SCALE)
        # The bound is one number a head for all peaks, so it cancels in the division.
        bound = scale.abs() + self.prior.detach().max()
        logits = torch.einsum("phw,mhw->pmh", keys, queries) * scale
        weights = torch.exp(logits + self.prior[ids][:, None, None] - bound)
        values = self.value(x).view(n, 1, heads, width)
        weighted = weights.unsqueeze(-1) * values
        return torch.cat([weighted.flatten(1), weights.square().flatten(1)], dim=1)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, share: Tensor) -> None:
        """Set the peak vectors, (n_peaks, dim), and what a cell weighs in each, (n_peaks,)."""
        self.peak.weight.copy_(vectors)
        self.share.copy_(share)

    @property
    def is_measured(self) -> bool:
        """Whether peaks have vectors that were measured, which need not be learned."""
        return bool(self.share.any())

    def readout(self, sums: Tensor) -> Tensor:
        """From the sums of rows to the cell embedding; a cell without peaks becomes NaN."""
        n, seeds, heads = len(sums), self.n_seeds, self.n_heads
        weighted, squares = sums.split([seeds * self.dim, seeds * heads], dim=1)
        pooled = weighted.view(n, seeds, heads, -1) / squares.view(n, seeds, heads, 1).sqrt()
        hidden = self.seed + self.output(pooled.flatten(2))
        return self.norm(self.mix(hidden).mean(dim=1))


class FoldedSet:
    """A :class:`SetEncoder` with the table of all its peaks made once.

    `chunk`: cells at a time. Their sums stay in the cache of a processor; another device is kept busy.
    """

    def __init__(self, encoder: SetEncoder, dtype: torch.dtype = torch.float32) -> None:
        self.encoder = encoder
        self.table = encoder.fold().to(dtype)
        self.chunk = 512 if self.table.device.type == "cpu" else 2048

    @torch.inference_mode()
    def encode(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Cell embeddings of packed tokens, float32 (n_cells, dim)."""
        return self.readout(self.sums(ids, offsets))

    def sums(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Sums of the rows of packed tokens, (n_cells, n_seeds * (dim + n_heads))."""
        return pool(self.table, ids, offsets).float()

    @torch.inference_mode()
    def readout(self, sums: Tensor) -> Tensor:
        """From sums of rows to cell embeddings."""
        if len(sums) == 1:  # one row takes another way through a matrix product, which rounds differently
            return self.encoder.readout(sums.expand(2, -1))[:1]
        return self.encoder.readout(sums)

    @torch.inference_mode()
    def subtract(self, sums: Tensor, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Sums without the rows of packed tokens that were in them, and for which of them that is accurate.

        Where next to nothing of the weight is left, what is left has lost its digits: sum that anew.
        """
        left = sums - self.sums(ids, offsets)
        n_weights = self.encoder.n_seeds * self.encoder.n_heads
        accurate = (left[:, -n_weights:] > LEFT * sums[:, -n_weights:]).all(dim=1)
        return left, accurate


def pool(table: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows of `table` over each packed cell: (n_cells, n_columns)."""
    return F.embedding_bag(ids, table, offsets.to(ids.dtype), mode="sum", include_last_offset=True)


def _mixer(config: ModelConfig) -> nn.Module:
    if config.n_seeds == 1:
        return ResidualMLP(config.dim, config.dropout)
    return nn.TransformerEncoderLayer(
        config.dim, config.heads, 2 * config.dim, config.dropout, "gelu", batch_first=True, norm_first=True
    )


class ResidualMLP(nn.Module):
    """``x + MLP(LayerNorm(x))``, the transformer layer that is left when there is one seed."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
