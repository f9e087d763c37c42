"""Peak sets by name: cCREs of the ENCODE registry, downloaded once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import pandas as pd

from .._downloads import download, fetch_json, write_whole
from .._files import READ_ERRORS, sha256
from .._settings import settings

PARSE_ERRORS: tuple[type[Exception], ...] = (*READ_ERRORS, ValueError)


class PeakSet(NamedTuple):
    """A file of the ENCODE portal."""

    accession: str
    genome: str

    @property
    def path(self) -> Path:
        """The downloaded file."""
        return settings.cache_dir / "peaks" / f"{self.accession}.bed.gz"


# Registry V4 (Moore et al., Nature 2026), all elements of all biosamples: annotations ENCSR800VNX
# and ENCSR412JPD of https://www.encodeproject.org. Addresses of files and records are those of
# https://www.encodeproject.org/help/rest-api
PEAK_SETS = {
    "encode-ccre-hg38": PeakSet("ENCFF420VPZ", "hg38"),
    "encode-ccre-mm10": PeakSet("ENCFF167FJQ", "mm10"),
}


def is_peak_set(source: object) -> bool:
    """Whether `source` is the name of a peak set, and not that of an existing file."""
    return isinstance(source, str) and source in PEAK_SETS and not Path(source).is_file()


def read_peak_set(name: str) -> tuple[pd.DataFrame, str]:
    """Columns ``chrom``, ``start`` and ``end`` of a peak set, and its genome build.

    Raises
    ------
    ValueError
        Unknown name; or the file has another checksum than that of the portal, or is no BED file.
    ConnectionError
        The file is not in the cache and could not be downloaded.
    """
    if name not in PEAK_SETS:
        msg = f"There is no peak set {name!r}; available: {list(PEAK_SETS)}."
        raise ValueError(msg)
    path = _fetch(PEAK_SETS[name])
    try:
        # Millions of lines, of which the first columns are read
        peaks = pd.read_csv(
            path,
            sep="\t",
            header=None,
            usecols=[0, 1, 2],
            names=["chrom", "start", "end"],
            dtype={"chrom": str, "start": "int64", "end": "int64"},
            compression="infer",
            engine="c",
        )
        if not len(peaks):
            raise ValueError("it is empty")
    except PARSE_ERRORS as error:
        msg = f"{str(path)!r} is not a BED file, gzip ({error}). Delete it, and call again to "
        msg += "download it."
        raise ValueError(msg) from error
    return peaks.drop_duplicates(ignore_index=True), PEAK_SETS[name].genome


def _fetch(peak_set: PeakSet) -> Path:
    """The file of a peak set, downloaded if it is missing or was changed.

    The md5 that the portal publishes is compared at the download. The sha256 found then is written
    to a file beside it, and compared whenever the peaks are read. Of a file that users put there
    themselves, the first one counts.
    """
    path = peak_set.path
    record = Path(f"{path}.sha256")
    if path.is_file():
        found = sha256(path)
        if not record.is_file():
            write_whole(record, found)
        if record.read_text().strip() == found:
            return path
        path.unlink()  # damaged
    record.unlink(missing_ok=True)
    server = settings.encode_url.rstrip("/")
    page = f"{server}/files/{peak_set.accession}/"
    about = _about(f"{page}?format=json", path)
    size, md5 = about.get("file_size"), about.get("md5sum")
    download(
        f"{page}@@download/{path.name}",
        path,
        size=size if isinstance(size, int) else None,
        md5=md5 if isinstance(md5, str) else None,
    )
    write_whole(record, sha256(path))
    return path


def _about(url: str, path: Path) -> dict[str, object]:
    """The record of a file; empty where a mirror has files but no records."""
    try:
        found = fetch_json(url)
    except (HTTPError, ConnectionError) as error:
        if isinstance(error, HTTPError) and error.code == 404:
            return {}
        raise ConnectionError(_cure(f"{url}: {error}", path)) from error
    return found if isinstance(found, dict) else {}


def _cure(reason: object, path: Path) -> str:
    return (
        f"Could not download the peaks ({reason}). Call again, or put the file "
        f"{settings.encode_url.rstrip('/')}/files/{path.name.split('.')[0]}/@@download/{path.name} "
        f"there yourself as {str(path)!r}."
    )
