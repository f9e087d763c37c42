"""Which files a data set of CELLxGENE has, from the service that lists them.

Addresses and answers are those of the CELLxGENE Discover API, ``curation-api.yml`` in
github.com/chanzuckerberg/single-cell-data-portal (``backend/curation/api``); answers are read as
in ``notebooks/curation_api/python_raw`` of github.com/chanzuckerberg/single-cell-curation.
Fragments are described there in ``schema/7.1.0/schema.md``, "scATAC-seq assets": bgzip, on GRCh38
or GRCm39, with names of ``obs`` in the fourth column, and of primary data only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from .._downloads import fetch_json, write_whole
from .._settings import settings

IDENTIFIER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
FILE_NAME = re.compile(r"\w[\w.-]*")
TABLE, FRAGMENTS = "H5AD", "ATAC_FRAGMENT"
GENOMES = {"NCBITaxon:9606": "hg38", "NCBITaxon:10090": "mm39"}
ABOUT = ("title", "schema_version", "collection_id")


@dataclass(frozen=True)
class Asset:
    """A file to download; `size` in bytes, if it is known."""

    url: str
    file: str
    size: int | None


@dataclass(frozen=True)
class Version:
    """A published version of a data set.

    Attributes
    ----------
    table, fragments
        The .h5ad and the fragments.
    organism, genome
        Name of the organism and its genome build, or ``"unknown"``.
    about
        Identifiers, title and version of the schema.
    """

    table: Asset
    fragments: Asset
    organism: str
    genome: str
    about: dict[str, str]


def find_version(dataset_id: str, folder: Path) -> Version:
    """The newest version of a data set, or the version with this identifier.

    What the service answers is kept in `folder`, and read where there is no network.
    """
    if not isinstance(dataset_id, str):
        msg = f"`dataset_id` must be a string, got {dataset_id!r} ({type(dataset_id).__name__})."
        raise TypeError(msg)
    if not IDENTIFIER.fullmatch(dataset_id):
        msg = (
            f"`dataset_id` must be an identifier such as '01234567-89ab-cdef-0123-456789abcdef', "
            f"got {dataset_id!r}. It is in the address of the data set in the Explorer, "
            "https://cellxgene.cziscience.com/e/<id>.cxg/."
        )
        raise ValueError(msg)
    dataset_id = dataset_id.lower()
    kept = folder / f"{dataset_id}.json"
    try:
        record = _ask(dataset_id)
    except (HTTPError, ConnectionError) as error:
        status = error.code if isinstance(error, HTTPError) else None
        if status == 410:
            msg = f"The data set {dataset_id!r} was withdrawn from CELLxGENE; choose another."
            raise ValueError(msg) from error
        if status in (403, 404):
            msg = f"CELLxGENE has no published data set {dataset_id!r}: check `dataset_id`."
            raise ValueError(msg) from error
        if not kept.is_file():
            msg = (
                f"Could not look up the data set {dataset_id!r} at {settings.cellxgene_url} "
                f"({error}). Call again with a network; after that, the files in {str(folder)!r} "
                "are used without one."
            )
            raise ConnectionError(msg) from error
        record = json.loads(kept.read_text(encoding="utf-8"))
    version = _version(record, dataset_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(record))
    return version


def _ask(dataset_id: str) -> Any:
    server = f"{settings.cellxgene_url.rstrip('/')}/curation/v1"
    try:
        versions = fetch_json(f"{server}/datasets/{dataset_id}/versions")  # the newest is first
    except HTTPError as error:
        if error.code not in (403, 404):
            raise
        return fetch_json(f"{server}/dataset_versions/{dataset_id}")
    return versions[0] if isinstance(versions, list) and versions else versions


def _version(record: Any, dataset_id: str) -> Version:
    """A version from what the service answers."""
    try:
        assets = {str(asset["filetype"]): asset for asset in record["assets"]}
        found = {kind: _asset(assets[kind]) for kind in (TABLE, FRAGMENTS) if kind in assets}
        organisms = record.get("organism") or []
        names = [str(organism["label"]) for organism in organisms]
        genomes = {GENOMES.get(organism["ontology_term_id"], "unknown") for organism in organisms}
        about = {key: str(record[key]) for key in ("dataset_id", "dataset_version_id")}
        about |= {key: record[key] for key in ABOUT if isinstance(record.get(key), str)}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = (
            f"The answer of {settings.cellxgene_url} about the data set {dataset_id!r} is not as "
            f"documented ({type(error).__name__}: {error}). Upgrade epifoundation, or check "
            "`ep.settings.cellxgene_url`."
        )
        raise ValueError(msg) from error
    for kind, what in ((FRAGMENTS, "fragments"), (TABLE, "table of cells")):
        if kind not in found:
            msg = (
                f"The data set {dataset_id!r} ({about.get('title', '')!r}) has no {what} ({kind}): "
                f"its files are {sorted(assets)}. Choose one of scATAC-seq or multiome for which "
                "CELLxGENE offers fragments."
            )
            raise ValueError(msg)
    genome = genomes.pop() if len(genomes) == 1 else "unknown"
    return Version(found[TABLE], found[FRAGMENTS], " and ".join(names), genome, about)


def _asset(asset: dict[str, Any]) -> Asset:
    """A file; ValueError if its address has no name that can be one here."""
    url, size = asset["url"], asset.get("filesize")
    file = unquote(urlsplit(url).path).rpartition("/")[2]
    if not FILE_NAME.fullmatch(file):
        msg = f"{url!r} is no address of a file"
        raise ValueError(msg)
    # The service answers -1 for an unknown size
    return Asset(url, file, int(size) if isinstance(size, int | float) and size > 0 else None)
