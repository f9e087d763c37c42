"""Checkpoints of the original implementation (Wu et al. 2025), read into our own model."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..nn import ModelConfig, Network, Sizes
from ..nn.query_head import WIDTH
from ..nn.transformer_encoder import CLS, N_SPECIAL, UNKNOWN
from ..vocabulary import GeneVocabulary, PeakVocabulary
from ._model import EpiFoundation

SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")
# What the original calls each vocabulary, and what it names
KINDS = {
    "atac": "peaks",
    "rna": "genes",
    "chr": "chromosomes",
    "cell": "cell types",
    "batch": "batches",
    "gene2chr": "the chromosome of each gene",
}
BLOCK = "encoder.transformer_encoder.layers."
PAPER_HEADS = 8


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
    content, state = _read_checkpoint(path)
    dims = _Dimensions.of(state, path)
    state = dims.check(state, path)
    sources = _find(vocabularies)
    tables = {kind: _read_vocabulary(sources, kind, vocabularies) for kind in dims.kinds(labels=labels)}
    for kind, (tensor, part) in VOCABULARY_OF.items():
        if kind in tables and len(tables[kind]) != len(state[tensor]):
            msg = (
                f"{_source(sources, kind)} names {len(tables[kind]):,} {KINDS[kind]}, but {tensor} of {path.name!r} has "
                f"{len(state[tensor]):,} {part}; these files do not belong together."
            )
            raise ValueError(msg)
    heads = n_heads if n_heads is not None else _heads(vocabularies, path)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or dims.dim % heads:
        msg = f"`n_heads` must be a divisor of the width {dims.dim} of {path.name!r}, got {heads!r}; the original's config calls it `head_num`."
        raise ValueError(msg)

    peak_names, gene_names = (_without_special(tables[kind], _source(sources, kind)) for kind in ("atac", "rna"))
    try:
        peaks = PeakVocabulary.from_names(peak_names, genome=genome)
    except ValueError as error:
        msg = f"{_source(sources, 'atac')}: {error}"
        raise ValueError(msg) from error
    names = list(tables["cell"]) if "cell" in tables else []
    sizes = Sizes(
        len(peaks),
        len(gene_names),
        len(names),
        len(tables.get("batch", ())),
        len(_without_special(tables["chr"], _source(sources, "chr"))) if "chr" in tables else 0,
        max(dims.n_bins, 2),
        dims.n_label_layers if names else 0,
    )
    config = ModelConfig(
        encoder="transformer",
        dim=dims.dim,
        n_heads=heads,
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
    weights = network.state_dict() | _translate(state, dims, tables, labels=bool(names))
    if dims.chromosomes:
        known = tables["chr"]
        chromosomes = _positions(known, _source(sources, "chr"))
        of_peaks = [
            name.split("-")[0] if name.split("-")[0] in known else chrom
            for name, chrom in zip(peak_names, peaks.intervals["chrom"], strict=True)
        ]
        of_genes = _gene_chromosomes(gene_names, tables["gene2chr"], _source(sources, "gene2chr"))
        # A chromosome that the vocabulary lacks has the padding token's vector.
        codes = [chromosomes.get(name, UNKNOWN) for name in of_peaks]
        weights["encoder.tokens.chromosome_of"] = torch.tensor([*codes, CLS])
        weights["expression.genes.chromosome_of"] = torch.tensor([chromosomes.get(name, UNKNOWN) for name in of_genes])
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


@dataclass(frozen=True)
class _Dimensions:
    """What the tensors tell of the architecture."""

    dim: int
    n_layers: int
    feedforward: int
    n_bins: int
    n_label_layers: int
    chromosomes: bool
    batches: bool
    values: bool
    cell_types: bool

    @classmethod
    def of(cls, state: dict[str, Tensor], path: Path) -> _Dimensions:
        telling = ["atac_emb.embedding.weight", f"{BLOCK}0.linear1.weight", "mvc_decoder.fc2.weight"]
        missing = [name for name in telling if name not in state or state[name].ndim != 2]
        if missing:
            msg = (
                f"{str(path)!r} is no checkpoint of EpiFoundation: it lacks {missing}; its {len(state)} tensors are "
                f"{sorted(state)[:3]}, ..."
            )
            raise ValueError(msg)
        layers = {
            int(name.removeprefix(BLOCK).split(".")[0]) for name in state if re.match(re.escape(BLOCK) + r"\d+\.", name)
        }

        def has(prefix: str) -> bool:
            return any(name.startswith(prefix) for name in state)

        return cls(
            dim=state["atac_emb.embedding.weight"].shape[1],
            n_layers=max(layers) + 1,
            feedforward=state[f"{BLOCK}0.linear1.weight"].shape[0],
            n_bins=state["mvc_decoder.fc2.weight"].shape[0],
            n_label_layers=sum(
                bool(re.fullmatch(r"cls_decoder\._decoder\.\d+\.weight", name)) and tensor.ndim == 2
                for name, tensor in state.items()
            ),
            chromosomes=has("chr_emb."),
            batches=has("batch_emb."),
            values=has("value_decoder."),
            cell_types=has("cls_decoder."),
        )

    def kinds(self, *, labels: bool) -> list[str]:
        """The vocabularies that are needed."""
        return [
            "atac",
            "rna",
            *(("chr", "gene2chr") if self.chromosomes else ()),
            *(("batch",) if self.batches else ()),
            *(("cell",) if self.cell_types and labels else ()),
        ]

    def check(self, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The tensors in float32, or an error that names each one that is missing, unexpected or ill-shaped."""
        expected = self._shapes()
        optional = {"bn_atac.num_batches_tracked", "bn_rna.num_batches_tracked"}
        problems = [f"missing {name}" for name in expected if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in expected and name not in optional]
        for name, shape in expected.items():
            found = tuple(state[name].shape) if name in state else shape
            if len(found) != len(shape) or any(
                want is not None and want != got for want, got in zip(shape, found, strict=True)
            ):
                wanted = tuple("any" if size is None else size for size in shape)
                problems.append(f"{name} has shape {found} rather than {wanted}")
        if problems:
            msg = f"The tensors of {str(path)!r} are not those of EpiFoundation: {'; '.join(problems)}."
            raise ValueError(msg)
        return {name: state[name].to(torch.float32) for name in expected}

    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        d = self.dim
        shapes: dict[str, tuple[int | None, ...]] = {}

        def norm(name: str) -> None:
            shapes.update({f"{name}.weight": (d,), f"{name}.bias": (d,)})

        def linear(name: str, n_out: int | None, n_in: int) -> None:
            shapes.update({f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)})

        embeddings = ["atac_emb", "rna_emb", *(["chr_emb"] * self.chromosomes), *(["batch_emb"] * self.batches)]
        for name in embeddings:
            shapes[f"{name}.embedding.weight"] = (None, d)
            norm(f"{name}.enc_norm")
        for name in ("bn_atac", "bn_rna"):
            norm(name)
            shapes.update({f"{name}.running_mean": (d,), f"{name}.running_var": (d,)})
        for i in range(self.n_layers):
            linear(f"{BLOCK}{i}.self_attn.Wqkv", 3 * d, d)
            linear(f"{BLOCK}{i}.self_attn.out_proj", d, d)
            linear(f"{BLOCK}{i}.linear1", self.feedforward, d)
            linear(f"{BLOCK}{i}.linear2", d, self.feedforward)
            norm(f"{BLOCK}{i}.norm1")
            norm(f"{BLOCK}{i}.norm2")
        norm("norm")
        for name, n_outputs in (("mvc_decoder", self.n_bins), *([("value_decoder", 1)] * self.values)):
            linear(f"{name}.gene2query", WIDTH, d)
            linear(f"{name}.fc1", WIDTH, d + d * self.batches + WIDTH)
            shapes[f"{name}.hidden_activation.weight"] = (1,)
            linear(f"{name}.fc2", n_outputs, WIDTH)
        if self.cell_types:
            for i in range(self.n_label_layers):
                linear(f"cls_decoder._decoder.{3 * i}", d, d)
                norm(f"cls_decoder._decoder.{3 * i + 2}")
            linear("cls_decoder.out_layer", None, d)
        return shapes


def _translate(
    state: dict[str, Tensor], dims: _Dimensions, tables: dict[str, dict[str, Any]], *, labels: bool
) -> dict[str, Tensor]:
    """Tensors of the original under our names, in our order of rows and parts."""
    ours: dict[str, Tensor] = {}

    def move(theirs: str, name: str, parts: Iterable[str] = ("weight", "bias")) -> None:
        ours.update({f"{name}.{part}": state[f"{theirs}.{part}"] for part in parts})

    def rows(kind: str, *, cls: bool) -> Tensor:
        table = tables[kind]
        tokens = [index for token, index in table.items() if token not in SPECIAL]
        return state[f"{kind}_emb.embedding.weight"][tokens + [table["<cls>"]] * cls]

    for kind, name in (("atac", "encoder.tokens"), ("rna", "expression.genes")):
        ours[f"{name}.embedding.weight"] = rows(kind, cls=kind == "atac")
        move(f"{kind}_emb.enc_norm", f"{name}.norm")
        move(f"bn_{kind}", f"{name}.batch_norm", ("weight", "bias", "running_mean", "running_var"))
        if dims.chromosomes:
            table = state["chr_emb.embedding.weight"]
            special = table[[tables["chr"]["<pad>"], tables["chr"]["<cls>"]]]
            ours[f"{name}.chromosome.weight"] = torch.cat([special, rows("chr", cls=False)])
            move("chr_emb.enc_norm", f"{name}.chromosome_norm")
    for i in range(dims.n_layers):
        move(f"{BLOCK}{i}.self_attn.Wqkv", f"encoder.blocks.{i}.qkv")
        move(f"{BLOCK}{i}.self_attn.out_proj", f"encoder.blocks.{i}.out")
        for part in ("linear1", "linear2", "norm1", "norm2"):
            move(f"{BLOCK}{i}.{part}", f"encoder.blocks.{i}.{part}")
    move("norm", "encoder.norm")
    if dims.batches:
        move("batch_emb.embedding", "expression.batch", ["weight"])
        move("batch_emb.enc_norm", "expression.batch_norm")
    for theirs, name in (
        ("mvc_decoder", "expression.decoder"),
        *([("value_decoder", "expression.values")] * dims.values),
    ):
        first = state[f"{theirs}.fc1.weight"]
        move(f"{theirs}.gene2query", f"{name}.gene")
        ours[f"{name}.cell.weight"], ours[f"{name}.query.weight"] = first[:, : dims.dim], first[:, -WIDTH:]
        ours[f"{name}.cell.bias"] = state[f"{theirs}.fc1.bias"]
        if dims.batches:
            ours[f"{name}.batch.weight"] = first[:, dims.dim : 2 * dims.dim]
        move(f"{theirs}.hidden_activation", f"{name}.activation", ["weight"])
        move(f"{theirs}.fc2", f"{name}.output")
    if labels:
        for i in range(dims.n_label_layers):
            for k in (3 * i, 3 * i + 2):
                move(f"cls_decoder._decoder.{k}", f"label.hidden.{k}")
        move("cls_decoder.out_layer", "label.linear")
    return ours


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of the file, and its state dict without the prefixes of parallel training."""
    if not path.is_file():
        what = "is a directory; pass the .pth file in it" if path.is_dir() else "is not there"
        msg = f"The checkpoint {str(path)!r} {what}."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        reason = str(error).strip().split("\n")
        detail = next((line.strip() for line in reason if "Unsupported" in line or "GLOBAL" in line), reason[0])
        msg = (
            f"{str(path)!r} is refused: it is no torch checkpoint, or unpickling it would run code ({detail}). "
            "Save it again with tensors, numbers and strings alone: `torch.save({'model': model.state_dict()}, path)`."
        )
        raise ValueError(msg) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).split("\n")[0]
        msg = f"{str(path)!r} is no torch checkpoint, or is truncated ({path.stat().st_size:,} bytes): {first}"
        raise ValueError(msg) from error
    if not isinstance(content, Mapping):
        msg = f"{str(path)!r} holds a {type(content).__name__}; expected a dictionary with the weights under 'model'."
        raise ValueError(msg)
    state = content.get("model", content)
    is_state = isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())
    if not is_state:
        msg = (
            f"{str(path)!r} holds no weights: its entries are {sorted(map(str, content))}; expected a state dict under 'model'. "
            "A checkpoint with the state of the training alone cannot be converted."
        )
        raise ValueError(msg)
    return dict(content), {re.sub(r"^((module|_orig_mod)\.)+", "", str(name)): tensor for name, tensor in state.items()}


def _find(vocabularies: Any) -> dict[str, Any]:
    """Where each vocabulary is: a path or its content."""
    if isinstance(vocabularies, Mapping):
        unknown = sorted(set(vocabularies) - set(KINDS))
        if unknown:
            msg = f"Unknown vocabularies {unknown}; the names are {list(KINDS)}."
            raise ValueError(msg)
        return {kind: value if isinstance(value, Mapping) else Path(value) for kind, value in vocabularies.items()}
    directory = Path(vocabularies)
    if not directory.is_dir():
        what = "is a file; pass the directory that holds it, or a mapping" if directory.is_file() else "is not there"
        msg = f"The directory of vocabularies {str(directory)!r} {what}."
        raise FileNotFoundError(msg)
    return dict(find_vocabularies(directory.glob("*.json")))


def find_vocabularies(paths: Iterable[Path]) -> dict[str, Path]:
    """Tell vocabularies by the names of their files: ``atac_vocab.json``, or the only one with ``atac`` in it."""
    paths = sorted(paths)
    found = {}
    for kind in KINDS:
        wanted = f"{kind}.json" if kind == "gene2chr" else f"{kind}_vocab.json"
        exact = [path for path in paths if path.name == wanted]
        like = [path for path in paths if kind in path.name and ("gene2chr" in path.name) == (kind == "gene2chr")]
        candidates = exact or like
        if len(candidates) == 1:
            found[kind] = candidates[0]
    return found


def _read_vocabulary(sources: dict[str, Any], kind: str, given: Any) -> dict[str, Any]:
    """A vocabulary by ascending index."""
    if kind not in sources:
        wanted = f"{kind}.json" if kind == "gene2chr" else f"{kind}_vocab.json"
        place = "the mapping" if isinstance(given, Mapping) else repr(str(given))
        cure = ", or pass `labels=False`" if kind == "cell" else ""
        msg = f"No {wanted!r} ({KINDS[kind]}) in {place}, and the checkpoint needs it; add it{cure}."
        raise FileNotFoundError(msg)
    source, named = sources[kind], _source(sources, kind)
    if isinstance(source, Mapping):
        table = dict(source)
    else:
        if not source.is_file():
            msg = f"The vocabulary {str(source)!r} ({KINDS[kind]}) is not there."
            raise FileNotFoundError(msg)
        try:
            table = json.loads(source.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{named} is no JSON, or is truncated: {error}"
            raise ValueError(msg) from error
    if not isinstance(table, dict):
        msg = f"{named} holds a {type(table).__name__}; expected one JSON object."
        raise ValueError(msg)
    if kind == "gene2chr":
        return table
    if sorted(table.values(), key=repr) != sorted(range(len(table)), key=repr):
        msg = f"{named} must number its {len(table):,} tokens from 0 without gaps or copies."
        raise ValueError(msg)
    return dict(sorted(table.items(), key=lambda item: item[1]))


def _source(sources: dict[str, Any], kind: str) -> str:
    source = sources.get(kind)
    return repr(str(source)) if isinstance(source, Path) else f"The vocabulary {kind!r}"


def _without_special(table: dict[str, Any], named: str) -> list[str]:
    missing = [token for token in ("<pad>", "<cls>") if token not in table]
    if missing:
        msg = f"{named} lacks the special tokens {missing}; it begins with {list(table)[:3]}."
        raise ValueError(msg)
    return [token for token in table if token not in SPECIAL]


def _positions(table: dict[str, Any], named: str) -> dict[str, int]:
    """Row of each chromosome in our table."""
    return {name: N_SPECIAL + i for i, name in enumerate(_without_special(table, named))}


def _gene_chromosomes(genes: list[str], table: dict[str, Any], named: str) -> list[str]:
    missing = [gene for gene in genes if gene not in table]
    if missing:
        msg = f"{named} lacks {len(missing):,} of the {len(genes):,} genes, first {missing[0]!r}."
        raise ValueError(msg)
    return [str(table[gene]) for gene in genes]


def _heads(vocabularies: Any, path: Path) -> int:
    """Heads as a configuration beside the files says, else the paper's."""
    folders = [] if isinstance(vocabularies, Mapping) else [Path(vocabularies)]
    for folder in [*folders, path.parent]:
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["head_num"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return found
    return PAPER_HEADS
