"""Pairs of elements and genes that were tested by CRISPRi, and their features in the atlas."""

import gzip
import re
import shlex
import sys
import zlib

import numpy as np
import pandas as pd

import epifoundation as ep
from epifoundation.genome import detect_build, transcription_start
from epifoundation.genome._chromosome_lengths import chromosome_lengths
from epifoundation.genome._intervals import with_prefix
from epifoundation.links.atlas_levels import AtlasLevels
from epifoundation.links.pair_features import Landscape, promoters, strongest

COLUMNS = (
    "chrom",
    "chromStart",
    "chromEnd",
    "measuredGeneSymbol",
    "startTSS",
    "distanceToTSS",
    "Regulated",
    "CellType",
)
POSITIONS = ("chromStart", "chromEnd", "startTSS")
NUMBERS = ("distanceToTSS", "DHS.RPM", "H3K27ac.RPM")  # may be missing, the last two as columns
IS_TRUE = {"TRUE": True, "1": True, "1.0": True, "FALSE": False, "0": False, "0.0": False}
BUILD = "hg38"  # of the atlas
MAX_OFFSET = 2000  # bases between the stated distance and that to the stated site
INDUCED = ["E021", "E022", "Ips_Duke"]
# Samples of cell types whose names are not those of the samples
ALIASES = {"wtc11": INDUCED, "ipsc": INDUCED, "hesc": ["H1hesc_UwDuke"], "h1": ["H1hesc_UwDuke"]}


def read_pairs(path):
    """The valid pairs of a table of the ENCODE CRISPR benchmark.

    Pairs without a position, gene or result are left out, which is printed. Missing distances are
    computed.

    Raises
    ------
    ValueError
        The file is no such table, lacks a column, has values of another type or positions on
        another genome build, or not both regulated and other pairs.
    """
    pairs = _read_table(path)
    missing = [name for name in COLUMNS if name not in pairs.columns]
    if missing:
        msg = f"{str(path)!r} lacks the columns {missing}: expected a table of pairs of "
        msg += f"EngreitzLab/CRISPR_comparison with {list(COLUMNS)}."
        raise ValueError(msg)
    if "ValidConnection" in pairs.columns:
        pairs = pairs[pairs["ValidConnection"].map(_flag).eq(True)]
    for name in (*POSITIONS, *NUMBERS):
        if name in pairs.columns:
            pairs = pairs.assign(**{name: _numbers(pairs[name], name, path)})
    needed = ["chrom", *POSITIONS, "measuredGeneSymbol", "Regulated"]
    is_whole = pairs[needed].notna().all(axis=1)
    if not is_whole.all():
        names = [name for name in needed if pairs[name].isna().any()]
        text = f"{int((~is_whole).sum()):,} pairs without a value in {names} are left out."
        print(text, file=sys.stderr)
    pairs = pairs[is_whole].reset_index(drop=True)
    regulated = pairs["Regulated"].map(_flag)
    if regulated.isna().any():
        first = pairs["Regulated"][regulated.isna()].iloc[0]
        msg = f"{str(path)!r}: `Regulated` must be TRUE or FALSE, got {str(first)!r}."
        raise ValueError(msg)
    if regulated.nunique() < 2:
        msg = f"{str(path)!r} has {len(pairs):,} valid pairs, {int(regulated.sum()):,} of "
        msg += "them regulated: both kinds are needed."
        raise ValueError(msg)
    positions = {name: pairs[name].astype(np.int64) for name in POSITIONS}
    cell_type = pairs["CellType"].astype(object).where(pairs["CellType"].notna(), "unknown")
    pairs = pairs.assign(
        **positions,
        chrom=with_prefix(pairs["chrom"].astype(str)),
        Regulated=regulated.to_numpy(bool),
        CellType=cell_type.astype(str),
    )
    _check_positions(pairs, path)
    middle = (pairs["chromStart"] + pairs["chromEnd"]) // 2
    computed = (pairs["startTSS"] - middle).abs()
    return pairs.assign(distanceToTSS=pairs["distanceToTSS"].abs().fillna(computed))


def _read_table(path):
    """A table separated by tabs or commas; ValueError in one line if it is none."""
    try:
        table = pd.read_csv(path, sep="\t", low_memory=False)
        if table.shape[1] == 1:
            table = pd.read_csv(path, low_memory=False)
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        msg = f"{str(path)!r} is not a table separated by tabs: {reason}."
        raise ValueError(msg) from error
    return table


def _flag(value):
    """True or False of a word or number; None of others."""
    return IS_TRUE.get(str(value).upper())


def _numbers(column, name, path):
    """A column as finite numbers; ValueError with the first value that is none."""
    values = pd.to_numeric(column, errors="coerce").replace([np.inf, -np.inf], np.nan)
    wrong = values.isna() & column.notna()
    if wrong.any():
        msg = f"{str(path)!r}: `{name}` must have numbers, got {str(column[wrong].iloc[0])!r}."
        raise ValueError(msg)
    return values


def _check_positions(pairs, path):
    """Raise ValueError if elements are no intervals, or not of the build of the atlas."""
    is_wrong = (pairs["chromStart"] < 0) | (pairs["chromEnd"] <= pairs["chromStart"])
    places = pairs[["chrom", "chromStart", "chromEnd"]].set_axis(["chrom", "start", "end"], axis=1)
    if is_wrong.any():
        chrom, start, end = places[is_wrong].iloc[0]
        msg = f"{str(path)!r}: {chrom}:{start}-{end} is no interval; `chromStart` must be 0 or "
        msg += "more and less than `chromEnd`."
        raise ValueError(msg)
    builds = detect_build(places)
    is_known = places["chrom"].isin(chromosome_lengths(BUILD)).any()
    if BUILD not in builds or not is_known:
        of = f" (they fit {' or '.join(builds)})" if builds and is_known else ""
        msg = f"{str(path)!r}: elements such as {places['chrom'].iloc[0]}:"
        msg += f"{places['start'].iloc[0]} lie outside of {BUILD}{of}: lift them over to {BUILD}."
        raise ValueError(msg)


def samples_of(cell_type, available, given=()):
    """Samples of the atlas for a cell type: the given ones, else those with its name.

    `given` are entries ``SAMPLE`` or ``CELL_TYPE=SAMPLE``, with several samples joined by commas.
    """
    chosen = ALIASES.get(_plain(cell_type), [])
    if not chosen:
        chosen = [name for name in available if _plain(name.split("_")[0]) == _plain(cell_type)]
    for entry in given:
        of, _, names = entry.rpartition("=")
        if of in ("", cell_type):
            chosen = names.split(",")
    unknown = [name for name in chosen if name not in available]
    if unknown or not chosen:
        which = f"knows no sample {unknown}" if unknown else f"has no sample of {cell_type!r}"
        option = shlex.quote(f"{cell_type}=NAME")
        msg = f"The atlas {which}: pass `--sample {option}`, one of {list(available)}."
        raise ValueError(msg)
    return chosen


def _plain(name):
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


class PairFeatures:
    """Features of pairs from the bundled atlas alone.

    Parameters
    ----------
    genes
        All genes (:func:`epifoundation.genome.read_genes`).
    """

    def __init__(self, genes):
        self.atlas = AtlasLevels(ep.models.from_pretrained("human-atlas"))
        at = transcription_start(genes)
        self.sites = pd.DataFrame({"chrom": genes["chrom"].to_numpy(), "start": at})

    def of(self, pairs, samples):
        """One row per pair, with the accessibility of some samples of the atlas."""
        elements = pd.DataFrame(
            {
                "chrom": pairs["chrom"].to_numpy(),
                "start": pairs["chromStart"].to_numpy(),
                "end": pairs["chromEnd"].to_numpy(),
            }
        )
        starts = pd.DataFrame({"chrom": elements["chrom"], "start": site_of(pairs)})
        level = self.atlas.in_samples(samples)
        landscape = Landscape(self.atlas.elements, level, self.sites)
        pair = np.repeat(np.arange(len(pairs))[:, None], 2, axis=1)
        activity = strongest(elements, self.atlas.elements, level)
        found = landscape.features(elements, activity, starts, pair)
        places = self.atlas.at(elements), self.atlas.at(promoters(starts))
        return pd.DataFrame(found | self.atlas.features(*places, pair))


def site_of(pairs):
    """Transcription start sites: the stated ones, or by distance where these disagree with it."""
    middle = (pairs["chromStart"] + pairs["chromEnd"]).to_numpy() // 2
    stated, distance = pairs["startTSS"].to_numpy(float), pairs["distanceToTSS"].to_numpy(float)
    side = np.where(stated > middle, 1, -1)
    wrong = ~(np.abs(np.abs(middle - stated) - distance) <= MAX_OFFSET)
    return np.maximum(np.where(wrong, middle + side * distance, stated), 0).astype(np.int64)
