"""The genome build that the header of a VCF names."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from ._builds import ALIASES, canonical_build
from ._chromosome_lengths import BUILDS, chromosome_lengths
from ._intervals import with_prefix

# Names of files of the Broad Institute and of the 1000 Genomes Project, and of bwa.kit
OTHER_NAMES = {"assembly19": "hg19", "assembly38": "hg38", "g1k_v37": "hg19", "hs38dh": "hg38"}
_NAMES = "|".join(map(re.escape, [*BUILDS, *ALIASES, *OTHER_NAMES]))
_BUILD = re.compile(rf"(?<![a-z0-9])(?:homo_sapiens_)?({_NAMES})(?![a-z0-9])", re.IGNORECASE)
_CONTIG = re.compile(r"##contig=<(.*)>")
_FIELD = re.compile(r'(\w+)=("[^"]*"|[^,]*)')


def build_of_header(lines: Iterable[str]) -> tuple[str | None, str]:
    """The build of the lengths of ``##contig``, else of a name, and where it is written.

    Returns
    -------
    One of ``BUILDS`` and the evidence, or None and an empty string.
    """
    lengths: dict[str, int] = {}
    named: list[tuple[str, str]] = []
    for line in lines:
        contig = _CONTIG.match(line)
        fields = dict(_FIELD.findall(contig[1])) if contig else {}
        if fields.get("length", "").isdigit() and "ID" in fields:
            lengths[fields["ID"]] = int(fields["length"])
        text = fields.get("assembly", "")
        if line.lower().startswith("##reference="):
            text = line.partition("=")[2]
        if match := _BUILD.search(text):
            name = match[1].lower()
            named.append((OTHER_NAMES.get(name) or canonical_build(name), f"`{line[:80]}`"))
    return _build_of_lengths(lengths) or (named[0] if named else (None, ""))


def _build_of_lengths(lengths: dict[str, int]) -> tuple[str, str] | None:
    """The build with chromosomes of these lengths."""
    names = with_prefix(pd.Series(list(lengths), dtype=object))
    given = dict(zip(names, lengths.values(), strict=True))
    given.pop("chrM", None)  # that of hg19 is not that of GRCh37
    for build in BUILDS:
        known = chromosome_lengths(build)
        shared = [name for name in given if name in known]
        if shared and all(given[name] == known[name] for name in shared):
            return build, f"`##contig`: {shared[0]} has {given[shared[0]]:,} bases"
    return None
