"""Annotations by name: positions of genes of GENCODE, downloaded once by pooch."""

from __future__ import annotations

import gzip
import logging
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from .._files import DECODE_ERRORS, sha256
from .._settings import settings
from ._builds import canonical_build, detect_build

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "https://ftp.ebi.ac.uk/pub/databases/gencode"
PARSE_ERRORS: tuple[type[Exception], ...] = (*DECODE_ERRORS, ValueError)
TIMEOUT = 60  # seconds without an answer of the server


class Release(NamedTuple):
    """A file of GENCODE, GFF3, and its sha256."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


RELEASES = {
    "hg38": Release(
        f"{SERVER}/Gencode_human/release_41/gencode.v41.basic.annotation.gff3.gz",
        "b82a655bdb736ca0e463a8f5d00242bedf10fa88ce9d651a017f135c7c4e9285",
    ),
    "hg19": Release(
        f"{SERVER}/Gencode_human/release_19/gencode.v19.annotation.gff3.gz",
        "bb292f6df072e78116c74e3545d8fd8ec7adb4bed2f22fb2715e794400b5c460",
    ),
    "mm10": Release(
        f"{SERVER}/Gencode_mouse/release_M25/gencode.vM25.basic.annotation.gff3.gz",
        "e8ed48bef6a44fdf0db7c10a551d4398aa341318d00fbd9efd69530593106846",
    ),
    "mm39": Release(
        f"{SERVER}/Gencode_mouse/release_M30/gencode.vM30.basic.annotation.gff3.gz",
        "6f433e2676e26569a678ce78b37e94a64ddd50a09479e433ad6f75e37dc82e48",
    ),
}
GENOME = "genome"  # in ``attrs`` of a table of genes: the build, if it is known by name


def is_name(source: object) -> bool:
    """Whether `source` can only be the name of an annotation: not a path, nor an existing file."""
    if not isinstance(source, str) or Path(source).is_file():
        return False
    return canonical_build(source) in RELEASES or not set(source) & set("./\\~")


def named_genes(name: str) -> pd.DataFrame:
    """Positions of the genes of a genome build, as :func:`read_genes` returns them.

    Of several genes of one name, the protein-coding one is kept, then the longest; of genes on both
    X and Y, that on X.

    Raises
    ------
    ValueError
        Unknown name, or a file with a wrong checksum.
    ConnectionError
        The file is not in the cache and could not be downloaded.
    """
    build = canonical_build(name)
    if build not in RELEASES:
        msg = (
            f"{name!r} is neither a file nor the name of an annotation; available: "
            f"{list(RELEASES)}."
        )
        raise ValueError(msg)
    genes = _parse(fetch(RELEASES[build])).copy()
    genes.attrs[GENOME] = build
    return genes


def check_genome(genes: pd.DataFrame, peaks: pd.DataFrame) -> None:
    """Raise ValueError if genes that were taken by name are of another build than the peaks."""
    name, possible = genes.attrs.get(GENOME), detect_build(peaks)
    if name is not None and possible and name not in possible:
        msg = (
            f"`annotation={name!r}` is of another genome build than the peaks, which fit "
            f"{' or '.join(possible)} by the lengths of chromosomes; available: {list(RELEASES)}."
        )
        raise ValueError(msg)


def fetch(release: Release) -> Path:
    """The file of a release in the cache; downloaded if it is missing or damaged."""
    import pooch

    folder = settings.cache_dir / "annotation"
    path = folder / release.file
    if path.is_file() and sha256(path) == release.sha256:
        return path
    cure = f"Call again, or put {release.url} into {str(folder)!r}."
    try:
        with _quiet(pooch.get_logger()):
            pooch.retrieve(
                release.url,
                f"sha256:{release.sha256}",
                fname=release.file,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=settings.progress, timeout=TIMEOUT),
            )
    except ValueError as error:
        msg = f"{release.url} has a wrong sha256 and was not kept. {cure}"
        raise ValueError(msg) from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise  # an error of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"Could not download {release.url} ({reason}). {cure}"
        raise ConnectionError(msg) from error
    return path


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@cache
def _parse(path: Path) -> pd.DataFrame:
    """Genes of a GFF3 file, read line by line: it has millions of transcripts and exons."""
    rows = []
    try:
        with gzip.open(path, "rt") as lines:
            for line in lines:
                fields = line.rstrip("\n").split("\t")
                if len(fields) == 9 and fields[2] == "gene":
                    values = dict(
                        pair.split("=", 1) for pair in fields[8].split(";") if "=" in pair
                    )
                    rows.append((fields[0], int(fields[3]) - 1, int(fields[4]), fields[6], values))
    except PARSE_ERRORS as error:
        msg = f"{str(path)!r} is not a GFF3 file: {error}."
        raise ValueError(msg) from error
    if not rows:
        msg = f"{str(path)!r} has no lines of the feature 'gene'."
        raise ValueError(msg)
    genes = pd.DataFrame(
        [row[:4] for row in rows],
        columns=["chrom", "start", "end", "strand"],
        index=[row[4].get("gene_name") or row[4]["gene_id"] for row in rows],
    )
    is_coding = np.array([row[4].get("gene_type") == "protein_coding" for row in rows])
    length = (genes["end"] - genes["start"]).to_numpy()
    ranked = np.lexsort([(genes["chrom"] == "chrY").to_numpy(), -length, ~is_coding])
    best = ranked[~genes.index[ranked].duplicated()]
    return genes.iloc[np.sort(best)]
