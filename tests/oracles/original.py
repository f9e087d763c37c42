"""A plain implementation of the paper's model: padded cells, all layers, no folding.

Its tensors have the names of the original, so its state dict is an original checkpoint. Conversion
and speed of :class:`epifoundation.nn.TransformerEncoder` are compared with it.
"""

import torch
import torch.nn.functional as F
from torch import nn

SPECIAL = ["<pad>", "<mask>", "<cls>", "<eos>"]
PAD, CLS = 0, 2


class Embedded(nn.Module):
    """LayerNorm of an embedding."""

    def __init__(self, n, dim):
        super().__init__()
        self.embedding = nn.Embedding(n, dim)
        self.enc_norm = nn.LayerNorm(dim)

    def forward(self, ids):
        """Vectors of tokens."""
        return self.enc_norm(self.embedding(ids))


class Layer(nn.Module):
    """Post-norm transformer block."""

    def __init__(self, dim, n_heads, feedforward, unpad):
        super().__init__()
        self.n_heads, self.unpad = n_heads, unpad
        self.self_attn = nn.ModuleDict(
            {"Wqkv": nn.Linear(dim, 3 * dim), "out_proj": nn.Linear(dim, dim)}
        )
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x, real):
        """States (n_cells, length, dim); `real` tells tokens from padding."""
        n, length, dim = x.shape
        q, k, v = (
            self.self_attn["Wqkv"](x).view(n, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        )
        if self.unpad:  # without the padding, as flash-attn does between padded layers
            attended = torch.zeros_like(q)
            for i, n_tokens in enumerate(real.sum(1).tolist()):
                some = (slice(i, i + 1), slice(None), slice(n_tokens))
                attended[some] = F.scaled_dot_product_attention(q[some], k[some], v[some])
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
        x = self.norm1(
            x + self.self_attn["out_proj"](attended.transpose(1, 2).reshape(n, length, dim))
        )
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Decoder(nn.Module):
    """The "concat query" decoder."""

    def __init__(self, dim, d_in, n_outputs):
        super().__init__()
        self.gene2query, self.fc1 = nn.Linear(dim, 128), nn.Linear(d_in + 128, 128)
        self.hidden_activation, self.fc2 = nn.PReLU(), nn.Linear(128, n_outputs)

    def forward(self, cells, genes):
        """Outputs of all genes for all cells."""
        query = self.gene2query(genes).sigmoid()
        both = torch.cat(
            [cells[:, None].expand(-1, query.shape[1], -1), query.expand(len(cells), -1, -1)], dim=2
        )
        return self.fc2(self.hidden_activation(self.fc1(both)))


class Original(nn.Module):
    """EpiFoundation in evaluation mode.

    `peak_chromosomes` and `gene_chromosomes` are rows of the chromosome table, one per token of the
    vocabulary with the four special ones; None for a model without chromosomes. With `unpad`,
    attention skips the padding.
    """

    def __init__(
        self,
        n_peaks,
        n_genes,
        *,
        dim=512,
        n_heads=8,
        n_layers=6,
        feedforward=1024,
        n_chromosomes=0,
        peak_chromosomes=None,
        gene_chromosomes=None,
        n_batches=0,
        n_types=0,
        n_bins=2,
        values=False,
        unpad=False,
    ):
        super().__init__()
        self.chromosomes = (peak_chromosomes, gene_chromosomes)
        self.rna_emb, self.atac_emb = Embedded(n_genes + 4, dim), Embedded(n_peaks + 4, dim)
        self.batch_emb = Embedded(n_batches, dim) if n_batches else None
        self.chr_emb = Embedded(n_chromosomes + 4, dim) if n_chromosomes else None
        layers = nn.ModuleList(Layer(dim, n_heads, feedforward, unpad) for _ in range(n_layers))
        self.encoder = nn.ModuleDict({"transformer_encoder": nn.ModuleDict({"layers": layers})})
        self.norm = nn.LayerNorm(dim)
        self.cls_decoder = None
        if n_types:
            hidden = [
                part
                for _ in range(2)
                for part in (nn.Linear(dim, dim), nn.ReLU(), nn.LayerNorm(dim))
            ]
            decoder = {"_decoder": nn.Sequential(*hidden), "out_layer": nn.Linear(dim, n_types)}
            self.cls_decoder = nn.ModuleDict(decoder)
        d_in = dim * (2 if n_batches else 1)
        self.mvc_decoder = Decoder(dim, d_in, n_bins)
        self.bn_atac, self.bn_rna = (nn.BatchNorm1d(dim, eps=6.1e-5) for _ in range(2))
        self.value_decoder = Decoder(dim, d_in, 1) if values else None
        self.eval().requires_grad_(False)

    def randomise(self, seed):
        """Weights that leave no part of the function without effect."""
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in self.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif ("norm" in name and name.endswith("weight")) or (
                name.startswith("bn_") and name.endswith("weight")
            ):
                tensor.normal_(1, 0.2, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2, generator=generator)
        return self

    def forward(self, ids, batch=None):
        """Outputs for padded token ids (n_cells, length), CLS first."""
        x = self._tokens(self.atac_emb, ids, self.chromosomes[0], self.bn_atac)
        for layer in self.encoder["transformer_encoder"]["layers"]:
            x = layer(x, ids != PAD)
        cell = self.norm(x)[:, 0]
        genes = torch.arange(4, self.rna_emb.embedding.num_embeddings, device=ids.device)[None]
        genes = self._tokens(self.rna_emb, genes, self.chromosomes[1], self.bn_rna)
        asked = cell if self.batch_emb is None else torch.cat([cell, self.batch_emb(batch)], dim=1)
        outputs = {"cell_emb": cell, "mvc_pred": self.mvc_decoder(asked, genes)}
        if self.value_decoder is not None:
            outputs["value_pred"] = self.value_decoder(asked, genes).squeeze(2)
        if self.cls_decoder is not None:
            outputs["cell_pred"] = self.cls_decoder["out_layer"](self.cls_decoder["_decoder"](cell))
        return outputs

    def _tokens(self, table, ids, chromosomes, norm):
        x = table(ids)
        if self.chr_emb is not None:
            x = x + self.chr_emb(chromosomes[ids])
        return norm(x.transpose(1, 2)).transpose(1, 2)


def pad(ids, offsets, length):
    """Packed peaks, 0-based, as padded token ids (n_cells, length) with CLS first."""
    padded = torch.full((len(offsets) - 1, length), PAD)
    padded[:, 0] = CLS
    for i, (start, stop) in enumerate(
        zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ):
        padded[i, 1 : 1 + stop - start] = ids[start:stop].long() + 4
    return padded
