"""MiniAtlas, the paper's corpus, from Hugging Face."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import anndata
from anndata import AnnData
from mudata import MuData

from .._hub import fetch
from .._pairing import CellNames, match_cells

REPOSITORY = "UCSC-VLAA/MiniAtlas"
CORPUS_NAMES = ("full", "mini", "all")  # "tissue" in the names of files with the whole corpus
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
_NAME = re.compile(
    r"^(?P<stem>.*?)[_-]?(?P<modality>atac|rna)(?P<rest>([_-].*)?)\.h5ad$", re.IGNORECASE
)


@dataclass(frozen=True)
class _File:
    """A file of the corpus, described by its path."""

    path: str
    modality: str
    tissue: str
    split: str | None
    rest: str

    @classmethod
    def of(cls, path: str) -> _File | None:
        found = _NAME.match(PurePosixPath(path).name)
        if found is None:
            return None
        folders = PurePosixPath(path).parent.parts
        stem, rest = found["stem"], found["rest"]
        words = [word.lower() for word in (*folders, *re.split(r"[_-]", stem + rest))]
        split = next((SPLITS[word] for word in words if word in SPLITS), None)
        ignored = {*SPLITS, "atlas", "paired"}
        tissue = "_".join(word for word in re.split(r"[_-]", stem.lower()) if word not in ignored)
        return cls(path, found["modality"].lower(), tissue or "all", split, rest.lower())


def mini_atlas(
    tissue: str | None = None,
    *,
    split: str | None = None,
    revision: str | None = None,
    in_memory: bool = False,
) -> MuData:
    """Load MiniAtlas (Wu et al. 2025): more than 100,000 cells with paired RNA and ATAC.

    The files of the tissue are downloaded from the Hugging Face data set ``UCSC-VLAA/MiniAtlas`` on
    first use, into the cache of huggingface_hub (``HF_HOME``). They are large (up to 11 GB).
    Matrices stay on disk unless `in_memory` is set.

    Parameters
    ----------
    tissue
        Prefix of the files: ``"kidney"`` for ``kidney_atlas_atac.h5ad``. If None, the whole corpus
        (``"full"``), or the only tissue. The error for an unknown tissue lists the known ones.
    split
        ``"train"``, ``"valid"`` or ``"test"``, if the files of a tissue are split, else None. The
        published files are not split: hold out batches of ``obs["batch"]``.
    revision
        Branch, tag or commit of the data set.
    in_memory
        Load the matrices.

    Returns
    -------
    MuData on hg38, ready for :func:`epifoundation.tl.pretrain`. ``mdata["atac"]``: peaks
    ``chr-start-end``, binary; ``mdata["rna"]``: expression in two or more bins. ``obs["annot"]``
    (cell type) and ``obs["batch"]`` of both modalities and of the MuData. Without `in_memory`, both
    modalities are backed.

    Raises
    ------
    ConnectionError
        The files are not in the cache and cannot be downloaded; the error says where to put them.
    ValueError
        Unknown tissue, split or revision; a file is damaged; or the cells are not paired.

    References
    ----------
    Wu et al. 2025, *EpiFoundation*, bioRxiv 10.1101/2025.02.05.636688.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.mini_atlas("kidney")  # doctest: +SKIP
    >>> model = ep.tl.pretrain(mdata, config="paper", batch_key="batch")  # doctest: +SKIP
    """

    def choose(paths: list[str]) -> list[str]:
        return list(_pair(paths, tissue, split))

    files = fetch(
        REPOSITORY,
        choose,
        repo_type="dataset",
        revision=revision,
        needed=f"the pair {tissue or '*'}_atac*.h5ad and {tissue or '*'}_rna*.h5ad",
    )
    atac, rna = (_read(path, in_memory=in_memory) for path in files.values())
    _check_paired(atac, rna)
    mdata = MuData({"rna": rna, "atac": atac})
    for key in ("annot", "batch"):
        if key in atac.obs:
            mdata.obs[key] = atac.obs[key]
    return mdata


def _pair(paths: list[str], tissue: str | None, split: str | None) -> tuple[str, str]:
    """Paths of the ATAC and the RNA file of a tissue and split."""
    files = [file for file in map(_File.of, paths) if file is not None]
    groups: dict[tuple[str, str | None], list[_File]] = {}
    for file in files:
        groups.setdefault((file.tissue, file.split), []).append(file)
    paired = {key for key, members in groups.items() if len({f.modality for f in members}) == 2}
    tissues = sorted({tissue for tissue, _ in paired})
    if tissue is None:
        only = tissues[0] if len(tissues) == 1 else None
        tissue = next((name for name in CORPUS_NAMES if name in tissues), only)
    if tissue is None or tissue.lower() not in tissues:
        msg = f"`tissue` must be one of {tissues}, got {tissue!r}."
        raise ValueError(msg)
    splits = sorted((key[1] for key in paired if key[0] == tissue.lower()), key=str)
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        msg = f"`split` must be one of {splits} for the tissue {tissue!r}, got {split!r}."
        if splits == [None]:
            msg = f"The files of {tissue!r} are not split, so `split` must be None, got {split!r}; "
            msg += "hold out batches instead."
        raise ValueError(msg)
    members = groups[tissue.lower(), split]
    atac = [file for file in members if file.modality == "atac"]
    rna = [file for file in members if file.modality == "rna"]
    # Expression comes in several numbers of bins: two are the paper's, as are files without number
    rna = (
        [file for file in rna if re.search(r"binn\w*[_-]2(\D|$)", file.rest)]
        or [file for file in rna if not re.search(r"\d", file.rest)]
        or rna
    )
    if len(atac) != 1 or len(rna) != 1:
        msg = f"Several files match {tissue!r}, {split!r}: {[file.path for file in members]}; "
        msg += "download the right pair and read it with anndata."
        raise ValueError(msg)
    return atac[0].path, rna[0].path


def _check_paired(atac: AnnData, rna: AnnData) -> None:
    """Raise ValueError unless both files have the same cells."""
    sides = CellNames(atac.obs_names, "atac.obs_names"), CellNames(rna.obs_names, "rna.obs_names")
    rows = match_cells(*sides, "Download the files again.", needed=True)
    if atac.n_obs != rna.n_obs or (rows < 0).any():
        msg = f"The files are not paired: {atac.n_obs:,} cells with ATAC, {rna.n_obs:,} with RNA, "
        msg += f"{int((rows >= 0).sum()):,} with both. Choose others with `revision=`."
        raise ValueError(msg)


def _read(path: Path, *, in_memory: bool) -> AnnData:
    try:
        adata = anndata.read_h5ad(path, backed=None if in_memory else "r")
    except (OSError, KeyError) as error:
        msg = f"{path.name!r} of MiniAtlas cannot be read ({error}); "
        msg += f"remove {str(path.resolve())!r} to download it again."
        raise ValueError(msg) from error
    if "features" in adata.var:  # the original code prefers these names
        adata.var_names = adata.var["features"].astype(str).to_numpy()
    return adata
