"""Checkpoints of the original implementation (Wu et al. 2025), read into our own model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from ..nn import ModelConfig, Network, Sizes
from ..nn.transformer_encoder import CLS, N_SPECIAL, UNKNOWN
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._model import EpiFoundation
from ._original_files import KINDS, find, read_checkpoint, read_heads, read_vocabulary, source_of
from ._original_tensors import SPECIAL, Dimensions, translate


def convert_original(
    checkpoint: str | Path,
    vocabularies: str | Path | Mapping[str, str | Path | Mapping[str, Any]],
    *,
    n_heads: int | None = None,
    labels: bool = True,
    max_peaks: int | None = 12_000,
    genome: str = "hg38",
) -> EpiFoundation:
    """Read a checkpoint of the paper's own code.

    The model computes what the original computes in evaluation mode (the documentation compares them point by point),
    on any device, and saves in our format.

    Parameters
    ----------
    checkpoint
        The ``.pth`` file: ``{"model": state_dict, ...}`` or a bare state dict. Read with ``weights_only=True``.
    vocabularies
        The directory with ``atac_vocab.json``, ``rna_vocab.json`` and, where the checkpoint has the part that they name,
        ``chr_vocab.json`` and ``gene2chr.json``, ``cell_vocab.json``, ``batch_vocab.json``; or a mapping from
        ``"atac"``, ``"rna"``, ``"chr"``, ``"gene2chr"``, ``"cell"``, ``"batch"`` to a file or its content.
    n_heads
        Attention heads: the one dimension that no tensor tells. None: ``head_num`` of a ``config.json`` beside the
        vocabularies or the checkpoint, else the paper's 8.
    labels
        Keep the cell-type head. A pretraining checkpoint has one that the paper's objective does not train.
    max_peaks
        A cell with more open peaks is read by a fixed choice of so many; None reads all.
    genome
        Build of the peaks.

    Returns
    -------
    The model on the CPU. ``training["batches"]`` are the names of its batches.

    Raises
    ------
    FileNotFoundError
        The checkpoint or a vocabulary is not there.
    ValueError
        The file is no checkpoint of this model, is truncated or needs more than tensors to be unpickled; a tensor is missing,
        unexpected or of the wrong shape; a vocabulary does not fit its tensor.

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
    dims = Dimensions.of(state, path)
    state = dims.check(state, path)
    sources = find(vocabularies)
    tables = {
        kind: read_vocabulary(sources, kind, vocabularies) for kind in dims.kinds(labels=labels)
    }
    for kind, (tensor, part) in VOCABULARY_OF.items():
        if kind in tables and len(tables[kind]) != len(state[tensor]):
            msg = (
                f"{source_of(sources, kind)} names {len(tables[kind]):,} {KINDS[kind]}, but {tensor} of {path.name!r} has "
                f"{len(state[tensor]):,} {part}; these files do not belong together."
            )
            raise ValueError(msg)
    folders = [source.parent for source in sources.values() if isinstance(source, Path)]
    heads = n_heads if n_heads is not None else read_heads([*dict.fromkeys(folders)], path)
    if isinstance(heads, bool) or not isinstance(heads, Integral) or heads < 1 or dims.dim % heads:
        msg = f"`n_heads` must be a divisor of the width {dims.dim} of {path.name!r}, got {heads!r}; the original's config calls it `head_num`."
        raise ValueError(msg)

    peak_names, gene_names = (
        _without_special(tables[kind], source_of(sources, kind)) for kind in ("atac", "rna")
    )
    for kind, found in (("atac", peak_names), ("rna", gene_names)):
        if not found:
            msg = f"{source_of(sources, kind)} names no {KINDS[kind]}, only special tokens."
            raise ValueError(msg)
    try:
        peaks = PeakVocabulary.from_names(peak_names, genome=genome)
    except ValueError as error:
        msg = f"{source_of(sources, 'atac')}: {error}"
        raise ValueError(msg) from error
    names = list(tables["cell"]) if "cell" in tables else []
    sizes = Sizes(
        len(peaks),
        len(gene_names),
        len(names),
        len(tables.get("batch", ())),
        len(_without_special(tables["chr"], source_of(sources, "chr"))) if "chr" in tables else 0,
        max(dims.n_bins, 2),
        dims.n_label_layers if names else 0,
    )
    config = ModelConfig(
        encoder="transformer",
        dim=dims.dim,
        n_heads=int(heads),
        n_layers=dims.n_layers,
        feedforward=dims.feedforward,
        dropout=0.15,
        objective="binary" if dims.n_bins > 1 else "gaussian",
        decoder="query",
        max_peaks=max_peaks,
        values=dims.values,
    )
    with torch.random.fork_rng(devices=[]):
        network = Network(config, sizes)
    weights = network.state_dict() | translate(state, dims, tables, labels=bool(names))
    if dims.chromosomes:
        of_peaks = [
            re.split("[:-]", name)[0] for name in peak_names
        ]  # as it is written: the original's way
        of_genes = _gene_chromosomes(gene_names, tables["gene2chr"], source_of(sources, "gene2chr"))
        peak_rows, gene_rows = (
            _rows(names, tables["chr"], what)
            for names, what in ((of_peaks, "peak"), (of_genes, "gene"))
        )
        weights["encoder.tokens.chromosome_of"] = torch.tensor([*peak_rows, CLS])
        weights["expression.genes.chromosome_of"] = torch.tensor(gene_rows)
    network.load_state_dict(weights)
    training = {
        "source": f"checkpoint {path.name!r} of the original implementation",
        **{key: content[key] for key in ("epoch", "steps") if isinstance(content.get(key), int)},
        "objective": config.objective,
        "batches": list(tables.get("batch", ())),
    }
    return EpiFoundation(network, peaks, GeneVocabulary(gene_names), names, training, path.stem)


# The tensor that a vocabulary has one row of for each of its tokens, and what to call the rows
VOCABULARY_OF = {
    "atac": ("atac_emb.embedding.weight", "rows"),
    "rna": ("rna_emb.embedding.weight", "rows"),
    "chr": ("chr_emb.embedding.weight", "rows"),
    "batch": ("batch_emb.embedding.weight", "rows"),
    "cell": ("cls_decoder.out_layer.weight", "outputs"),
}


def _without_special(table: dict[str, Any], named: str) -> list[str]:
    missing = [token for token in ("<pad>", "<cls>") if token not in table]
    if missing:
        msg = f"{named} lacks the special tokens {missing}; it begins with {list(table)[:3]}."
        raise ValueError(msg)
    return [token for token in table if token not in SPECIAL]


def _rows(chromosomes: list[str], table: dict[str, Any], what: str) -> list[int]:
    """Row of each chromosome in our table; one that the vocabulary lacks has the padding token's vector."""
    rows = {
        name: N_SPECIAL + i
        for i, name in enumerate(token for token in table if token not in SPECIAL)
    }
    found = [rows.get(name, UNKNOWN) for name in chromosomes]
    if all(row == UNKNOWN for row in found):
        msg = (
            f"No {what} lies on a chromosome of the chromosome vocabulary: {chromosomes[0]!r} against {list(rows)[:3]}; "
            "all get the vector of the padding token. Are the names written alike?"
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
    return found


def _gene_chromosomes(genes: list[str], table: dict[str, Any], named: str) -> list[str]:
    missing = [gene for gene in genes if gene not in table]
    if missing:
        msg = f"{named} lacks {len(missing):,} of the {len(genes):,} genes, first {missing[0]!r}."
        raise ValueError(msg)
    return [str(table[gene]) for gene in genes]
