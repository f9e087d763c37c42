"""Softmax attention within packed sequences, without padding if there is a kernel for that."""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOGIT = 60.0  # exp() of this, summed over a million keys, stays far below the largest float32
BLOCKED_FROM = 512  # tokens from which products in blocks are faster than the fused kernel
MAX_BUCKET = 4096  # tokens that are padded together, with pads; longer sequences are run alone


class PackedAttention:
    """Attention of the tokens of each sequence to all tokens of the same sequence.

    Three kernels compute the same function:

    - CUDA, half precision: :func:`torch.nn.attention.varlen.varlen_attn` on the packed tokens, if
      torch has it;
    - CPU, bfloat16, inference, long sequences: products in blocks of queries, see :func:`blocked`;
    - else :func:`torch.nn.functional.scaled_dot_product_attention` on sequences of similar length,
      padded and masked to the longest of them. A sequence without similar ones is not padded.

    Parameters
    ----------
    offsets
        Start of each sequence, and the end of the last, (n_sequences + 1,).
    """

    def __init__(self, offsets: Tensor) -> None:
        self.offsets = offsets
        self.lengths = offsets.diff()
        self.longest = int(self.lengths.max())
        self._buckets: list[Tensor] | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        query
            (n_tokens, n_heads, width), or (n_sequences, n_heads, width) for one query per sequence.
        key, value
            (n_tokens, n_heads, width).

        Returns
        -------
        The shape of `query`.
        """
        one = len(query) != len(key) or len(key) == len(self.lengths)
        if has_varlen(query):
            return self._varlen(query, key, value, one=one)
        if one:
            return self._one_query(query, key, value)
        return self._every_query(query, key, value)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, *, one: bool) -> Tensor:
        from torch.nn.attention import varlen

        ends = self.offsets.to(torch.int32)
        starts = torch.arange(len(ends), dtype=torch.int32, device=ends.device) if one else ends
        longest = 1 if one else self.longest
        return cast(
            "Tensor", varlen.varlen_attn(query, key, value, starts, ends, longest, self.longest)
        )

    def _every_query(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts, places = [], []
        in_blocks = (
            query.device.type == "cpu"
            and query.dtype == torch.bfloat16
            and not torch.is_grad_enabled()
        )
        if len(self.lengths) == 1:
            return _alone(query, key, value, in_blocks=in_blocks)
        for cells in self.buckets:
            rows, mask = self._rows(cells)
            if in_blocks and rows.shape[1] >= BLOCKED_FROM:
                for i, length in enumerate(self.lengths[cells].tolist()):
                    tokens = rows[i, :length]
                    part = slice(int(tokens[0]), int(tokens[-1]) + 1)
                    parts.append(_alone(query[part], key[part], value[part], in_blocks=True))
                    places.append(tokens)
                continue
            q, k, v = (tensor[rows].transpose(1, 2) for tensor in (query, key, value))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
            real = slice(None) if mask is None else mask[:, 0, 0]
            parts.append(attended[real].reshape(-1, *query.shape[1:]))
            places.append(rows[real].reshape(-1))
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _one_query(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = []
        for cells in self.buckets:
            rows, mask = self._rows(cells)
            k, v = (tensor[rows].transpose(1, 2) for tensor in (key, value))
            q = query[cells].unsqueeze(2)
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).squeeze(2))
        return torch.cat(parts)[torch.cat(self.buckets).argsort()]

    @property
    def buckets(self) -> list[Tensor]:
        """Sequences grouped by length, with at most an eighth of padding."""
        if self._buckets is None:
            lengths = self.lengths.tolist()
            groups: list[list[int]] = []
            for cell in sorted(range(len(lengths)), key=lengths.__getitem__):
                # A pad costs as much as a token, another bucket a few calls
                shortest = lengths[groups[-1][0]] if groups else 0
                fits = groups and lengths[cell] <= 1.125 * shortest + 4
                # The kernel of a sequence must not depend on the others
                fits = fits and (shortest < BLOCKED_FROM) == (lengths[cell] < BLOCKED_FROM)
                if fits and (len(groups[-1]) + 1) * lengths[cell] <= MAX_BUCKET:
                    groups[-1].append(cell)
                else:
                    groups.append([cell])
            self._buckets = [torch.tensor(group, device=self.offsets.device) for group in groups]
        return self._buckets

    def _rows(self, cells: Tensor) -> tuple[Tensor, Tensor | None]:
        """Row of each token of padded sequences, (n, longest), and mask of those that are real."""
        lengths = self.lengths[cells]
        places = torch.arange(int(lengths.max()), device=cells.device)
        rows = self.offsets[cells, None] + places
        if bool((lengths == lengths[0]).all()):
            return rows, None
        real = places < lengths[:, None]
        return torch.where(real, rows, self.offsets[cells, None]), real[:, None, None, :]


def has_varlen(tensor: Tensor) -> bool:
    """Whether the kernel for packed sequences supports this tensor."""
    if not tensor.is_cuda or tensor.dtype not in (torch.float16, torch.bfloat16):
        return False
    if tensor.shape[-1] % 8 or tensor.shape[-1] > 256:  # widths of the kernel
        return False
    if find_spec("torch.nn.attention.varlen") is None:  # torch < 2.10
        return False
    return has_bfloat16(tensor.device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on a device: on NVIDIA from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _alone(query: Tensor, key: Tensor, value: Tensor, *, in_blocks: bool) -> Tensor:
    """One sequence, (n_tokens, n_heads, width)."""
    if in_blocks and len(query) >= BLOCKED_FROM:
        return blocked(query, key, value)
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)


def blocked(query: Tensor, key: Tensor, value: Tensor, block: int = 256, heads: int = 2) -> Tensor:
    """Attention in blocks of queries and pairs of heads, (n_tokens, n_heads, width).

    In bfloat16 on a CPU, matrix products of this size are twice as fast as torch's fused kernel. If
    the longest query and key bound all logits (Cauchy-Schwarz), exp() needs no maximum subtracted
    and the sum is divided out after the second product.
    """
    scale = query.shape[-1] ** -0.5
    query, key, value = (tensor.transpose(0, 1) for tensor in (query * scale, key, value))
    bound = float(query.float().norm(dim=-1).max() * key.float().norm(dim=-1).max())
    transposed = key.transpose(1, 2).contiguous()
    value = value.contiguous()
    result = torch.empty_like(value)
    for h in range(0, len(query), heads):
        some = slice(h, h + heads)
        for start in range(0, query.shape[1], block):
            rows = slice(start, start + block)
            weights = torch.bmm(query[some, rows], transposed[some])
            if bound < MAX_LOGIT:
                weights.exp_()
                total = weights.sum(dim=-1, keepdim=True)
                result[some, rows] = torch.bmm(weights, value[some]) / total
            else:
                result[some, rows] = torch.bmm(weights.softmax(dim=-1), value[some])
    return result.transpose(0, 1)
