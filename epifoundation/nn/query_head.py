"""The paper's expression decoder: gene vectors query a small network of the cell."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .expression_head import Expression, of_batch
from .transformer_encoder import TokenTable

WIDTH = 128  # of the query and of the hidden layer
BLOCK = 2**22  # hidden values in memory in inference: 16 MB


class QueryHead(Expression):
    """The "concat query" decoder: ``fc2(PReLU(fc1([cell, batch, sigmoid(gene2query(gene))])))``.

    The first layer is linear, so it is a sum of a term of the cell, one of its batch and one of the
    gene (`keys`), which is computed once for all cells.

    ``"binary"`` has a logit for each of `n_bins` bins of expression, of which the first is "not
    expressed"; the other objectives have one output per gene. `values` adds a second decoder, for
    values, which :meth:`predict` then uses.
    """

    def __init__(
        self,
        dim: int,
        n_genes: int,
        n_batches: int,
        objective: str,
        *,
        n_chromosomes: int = 0,
        n_bins: int = 2,
        dropout: float = 0.0,
        values: bool = False,
    ) -> None:
        super().__init__(n_genes, objective)
        self.genes = TokenTable(n_genes, dim, n_chromosomes, dropout)
        self.batch = nn.Embedding(n_batches, dim) if n_batches else None
        self.batch_norm = nn.LayerNorm(dim) if n_batches else None
        n_outputs, with_batch = n_bins if objective == "binary" else 1, n_batches > 0
        self.decoder = QueryDecoder(dim, n_outputs, with_batch=with_batch)
        self.values = QueryDecoder(dim, 1, with_batch=with_batch) if values else None

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (of being expressed, for ``"binary"``), (n_cells, n_genes)."""
        return self.to_logits(self.outputs(embedding, batch))

    def outputs(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """All outputs, (n_cells, n_genes, n_outputs); for ``"binary"``, a logit for each bin."""
        keys = self.decoder.keys(self._gene_vectors())
        return self.decoder(embedding, keys, self.batch_vectors(batch))

    def predicted_values(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Output of the decoder for values, (n_cells, n_genes)."""
        if self.values is None:
            msg = "The model has no decoder for values."
            raise ValueError(msg)
        keys = self.values.keys(self._gene_vectors())
        return self.values(embedding, keys, self.batch_vectors(batch)).squeeze(-1)

    def predict(
        self, embedding: Tensor, genes: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes)); values with their decoder."""
        return self.predictor(genes)(embedding, batch)

    def predictor(
        self, genes: Tensor | None = None, *, link: bool = False
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        """A function of embedding and batch that predicts the same genes, encoded once."""
        decoder = self.decoder if self.values is None else self.values
        keys = decoder.keys(self._gene_vectors())
        if self.values is None and self.objective == "binary":  # each gene by itself
            keys = keys if genes is None else keys[genes]

            def logits(embedding: Tensor, batch: Tensor | None) -> Tensor:
                return self.to_logits(decoder(embedding, keys, self.batch_vectors(batch)))

            return logits if link else lambda embedding, batch: logits(embedding, batch).sigmoid_()

        def predict(embedding: Tensor, batch: Tensor | None) -> Tensor:
            outputs = decoder(embedding, keys, self.batch_vectors(batch)).squeeze(-1)
            if self.values is not None:
                return outputs if genes is None else outputs[:, genes]
            return self.scaled(outputs, genes, link=link)

        return predict

    def to_logits(self, outputs: Tensor) -> Tensor:
        """One logit per gene, from outputs."""
        if self.objective != "binary":
            return outputs.squeeze(-1)
        silent, expressed = outputs[..., 0], outputs[..., 1:]
        is_one = expressed.shape[-1] == 1
        return (expressed.squeeze(-1) if is_one else expressed.logsumexp(dim=-1)) - silent

    def batch_vectors(self, batch: Tensor | None) -> Tensor | None:
        """Batch vector of each cell, (n_cells, dim), see :func:`of_batch`; None without batches."""
        if self.batch is None or self.batch_norm is None:
            return None
        return of_batch(self.batch_norm(self.batch.weight), batch)

    @torch.no_grad()
    def start_from(self, other: QueryHead) -> None:
        """Copy all but the batches; predictions for the mean batch do not change."""
        self.genes.load_state_dict(other.genes.state_dict())
        self.mean.copy_(other.mean)
        self.deviation.copy_(other.deviation)
        for decoder, source in ((self.decoder, other.decoder), (self.values, other.values)):
            if decoder is None or source is None:
                continue
            for name in ("gene", "cell", "query", "activation", "output"):
                getattr(decoder, name).load_state_dict(getattr(source, name).state_dict())
            vector = other.batch_vectors(None)
            if source.batch is not None and vector is not None:
                decoder.cell.bias.add_(source.batch(vector)[0].to(decoder.cell.bias.device))
            if decoder.batch is not None:
                nn.init.zeros_(decoder.batch.weight)

    def _gene_vectors(self) -> Tensor:
        weight = self.genes.embedding.weight
        return self.genes(torch.arange(len(weight), device=weight.device))


class QueryDecoder(nn.Module):
    """The small network that gene vectors query."""

    def __init__(self, dim: int, n_outputs: int, *, with_batch: bool) -> None:
        super().__init__()
        self.gene = nn.Linear(dim, WIDTH)
        self.cell = nn.Linear(dim, WIDTH)
        self.batch = nn.Linear(dim, WIDTH, bias=False) if with_batch else None
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.activation = nn.PReLU()
        self.output = nn.Linear(WIDTH, n_outputs)

    def keys(self, genes: Tensor) -> Tensor:
        """Term of the first layer for each gene vector, (n_genes, WIDTH)."""
        return self.query(self.gene(genes).sigmoid())

    def forward(self, cells: Tensor, keys: Tensor, batches: Tensor | None) -> Tensor:
        """Outputs, (n_cells, n_genes, n_outputs)."""
        hidden = self.cell(cells[:, : self.cell.in_features])  # without columns for labels
        if self.batch is not None and batches is not None:
            hidden = hidden + self.batch(batches)
        if torch.is_grad_enabled() and (hidden.requires_grad or keys.requires_grad):
            return self._outputs(hidden, keys)
        block = BLOCK if keys.device.type == "cpu" else 16 * BLOCK  # few and large calls for a GPU
        at_a_time = max(block // max(keys.numel(), 1), 1)
        return torch.cat([self._outputs(part, keys) for part in hidden.split(at_a_time)])

    def _outputs(self, hidden: Tensor, keys: Tensor) -> Tensor:
        return self.output(F.prelu(hidden[:, None] + keys, self.activation.weight))
