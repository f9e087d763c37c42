"""Convert checkpoints of the original implementation (Wu et al. 2025)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from .._warn import warn
from ..nn import ModelConfig, Network, Sizes
from ..nn.transformer_encoder import CLS, N_SPECIAL, UNKNOWN
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._model import EpiFoundation
from ._original_files import KINDS, SPECIAL, Vocabularies, read_checkpoint, read_n_heads
from ._original_tensors import Architecture, translate

# Tensor with one row (or output) per token of a vocabulary
VOCABULARY_OF = {
    "atac": ("atac_emb.embedding.weight", "rows"),
    "rna": ("rna_emb.embedding.weight", "rows"),
    "chr": ("chr_emb.embedding.weight", "rows"),
    "batch": ("batch_emb.embedding.weight", "rows"),
    "cell": ("cls_decoder.out_layer.weight", "outputs"),
}


def convert_original(
    checkpoint: str | Path,
    vocabularies: str | Path | Mapping[str, str | Path | Mapping[str, Any]],
    *,
    n_heads: int | None = None,
    labels: bool = True,
    max_peaks: int | None = 12_000,
    genome: str = "hg38",
) -> EpiFoundation:
    """Convert a checkpoint of the paper's code.

    The model gives the numbers of the original in evaluation mode (the documentation compares them
    point by point), on any device, and is saved in the format of this package.

    Parameters
    ----------
    checkpoint
        The ``.pth`` file: ``{"model": state_dict, ...}`` or a bare state dict. Read with
        ``weights_only=True``.
    vocabularies
        Directory with ``atac_vocab.json``, ``rna_vocab.json`` and, if the checkpoint has the part,
        ``chr_vocab.json`` and ``gene2chr.json``, ``cell_vocab.json``, ``batch_vocab.json``; or a
        mapping from ``"atac"``, ``"rna"``, ``"chr"``, ``"gene2chr"``, ``"cell"``, ``"batch"`` to a
        file or its content.
    n_heads
        Number of attention heads, which the tensors do not determine. If None, ``head_num`` in a
        ``config.json`` next to the vocabularies or the checkpoint, else the paper's 8.
    labels
        Keep the cell-type head. The paper's pretraining does not train it.
    max_peaks
        Maximum number of open peaks per cell; of more, a fixed subset is used. If None, all.
    genome
        Build of the peaks.

    Returns
    -------
    The model on the CPU. ``training["batches"]`` are the names of its batches.

    Raises
    ------
    FileNotFoundError
        The checkpoint or a vocabulary does not exist.
    ValueError
        The file is not a checkpoint of this model, is truncated or cannot be unpickled safely; a
        tensor is missing, unexpected or has the wrong shape; a vocabulary does not fit its tensor.

    References
    ----------
    Wu et al. 2025, *EpiFoundation*, bioRxiv 10.1101/2025.02.05.636688.

    Examples
    --------
    >>> import epifoundation as ep
    >>> model = ep.models.convert_original("checkpoint.pth", "vocabularies/")  # doctest: +SKIP
    >>> model.save_pretrained("epifoundation_paper")  # doctest: +SKIP
    """
    path = Path(checkpoint)
    content, state = read_checkpoint(path)
    architecture = Architecture.of(state, path)
    state = architecture.check(state, path)
    given = Vocabularies(vocabularies)
    tables = {kind: given.read(kind) for kind in architecture.vocabularies(labels=labels)}
    for kind, (tensor, unit) in VOCABULARY_OF.items():
        if kind in tables and len(tables[kind]) != len(state[tensor]):
            msg = (
                f"{given.name(kind)} names {len(tables[kind]):,} {KINDS[kind]}, but {tensor} of "
                f"{path.name!r} has {len(state[tensor]):,} {unit}; the files do not match."
            )
            raise ValueError(msg)
    heads = read_n_heads([*given.folders, path.parent]) if n_heads is None else n_heads
    is_integer = isinstance(heads, Integral) and not isinstance(heads, bool)
    if not is_integer or heads < 1 or architecture.dim % heads:
        msg = f"`n_heads` must be a divisor of the width {architecture.dim} of {path.name!r}, "
        msg += f"got {heads!r}; the original's config calls it `head_num`."
        raise ValueError(msg)

    names: dict[str, list[str]] = {
        kind: _regular_tokens(tables[kind], given.name(kind))
        for kind in ("atac", "rna", "chr")
        if kind in tables
    }
    for kind in ("atac", "rna"):
        if not names[kind]:
            msg = f"{given.name(kind)} names no {KINDS[kind]}, only special tokens."
            raise ValueError(msg)
    try:
        peaks = PeakVocabulary.from_names(names["atac"], genome=genome)
    except ValueError as error:
        msg = f"{given.name('atac')}: {error}"
        raise ValueError(msg) from error
    cell_types, batches = list(tables.get("cell", ())), list(tables.get("batch", ()))
    sizes = Sizes(
        len(peaks),
        len(names["rna"]),
        len(cell_types),
        len(batches),
        len(names.get("chr", ())),
        max(architecture.n_bins, 2),
        architecture.n_label_layers if cell_types else 0,
    )
    config = ModelConfig(
        encoder="transformer",
        dim=architecture.dim,
        n_heads=int(heads),
        n_layers=architecture.n_layers,
        feedforward=architecture.feedforward,
        dropout=0.15,
        objective="binary" if architecture.n_bins > 1 else "gaussian",
        decoder="query",
        max_peaks=max_peaks,
        values=architecture.has_values,
    )
    with torch.random.fork_rng(devices=[]):
        network = Network(config, sizes)
    weights = network.state_dict() | translate(state, architecture, tables)
    if architecture.has_chromosomes:
        of_peaks = [re.split("[:-]", name)[0] for name in names["atac"]]  # as the original does
        missing = [gene for gene in names["rna"] if gene not in tables["gene2chr"]]
        if missing:
            msg = f"{given.name('gene2chr')} lacks {len(missing):,} of the {len(names['rna']):,} "
            msg += f"genes, first {missing[0]!r}."
            raise ValueError(msg)
        of_genes = [str(tables["gene2chr"][gene]) for gene in names["rna"]]
        peak_rows = _chromosome_rows(of_peaks, names["chr"], "peak")
        gene_rows = _chromosome_rows(of_genes, names["chr"], "gene")
        weights["encoder.tokens.chromosome_of"] = torch.tensor([*peak_rows, CLS])
        weights["expression.genes.chromosome_of"] = torch.tensor(gene_rows)
    network.load_state_dict(weights)
    training = {
        "source": f"checkpoint {path.name!r} of the original implementation",
        **{key: content[key] for key in ("epoch", "steps") if isinstance(content.get(key), int)},
        "objective": config.objective,
        "batches": batches,
    }
    genes = GeneVocabulary(names["rna"])
    return EpiFoundation(network, peaks, genes, cell_types, training, path.stem)


def _regular_tokens(table: dict[str, Any], name: str) -> list[str]:
    """The tokens of a vocabulary except the special ones, which have to be there."""
    missing = [token for token in ("<pad>", "<cls>") if token not in table]
    if missing:
        msg = f"{name} lacks the special tokens {missing}; it begins with {list(table)[:3]}."
        raise ValueError(msg)
    return [token for token in table if token not in SPECIAL]


def _chromosome_rows(chromosomes: list[str], known: list[str], what: str) -> list[int]:
    """Row of each chromosome in our table; unknown ones have the vector of the padding token."""
    rows = {name: N_SPECIAL + i for i, name in enumerate(known)}
    found = [rows.get(name, UNKNOWN) for name in chromosomes]
    if all(row == UNKNOWN for row in found):
        msg = (
            f"No {what} lies on a chromosome of the chromosome vocabulary: {chromosomes[0]!r} "
            f"against {known[:3]}; all get the vector of the padding token. Check the names."
        )
        warn(msg)
    return found
