"""Pairs of elements and genes that were tested by CRISPRi, and their features in the atlas."""

import re

import numpy as np
import pandas as pd

import epifoundation as ep
from epifoundation.genome import transcription_start
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
MAX_OFFSET = 2000  # bases between the stated distance and that to the stated site
INDUCED = ["E021", "E022", "Ips_Duke"]
# Samples of cell types whose names are not those of the samples
ALIASES = {"wtc11": INDUCED, "ipsc": INDUCED, "hesc": ["H1hesc_UwDuke"], "h1": ["H1hesc_UwDuke"]}


def read_pairs(path):
    """The valid pairs of a table of the ENCODE CRISPR benchmark; ValueError without a column."""
    pairs = pd.read_csv(path, sep="\t")
    missing = [name for name in COLUMNS if name not in pairs.columns]
    if missing:
        msg = f"{str(path)!r} lacks the columns {missing}: expected a table of pairs of "
        msg += f"EngreitzLab/CRISPR_comparison with {list(COLUMNS)}."
        raise ValueError(msg)
    if "ValidConnection" in pairs.columns:
        pairs = pairs[is_true(pairs["ValidConnection"])]
    pairs = pairs.assign(Regulated=is_true(pairs["Regulated"])).reset_index(drop=True)
    if pairs["Regulated"].nunique() < 2:
        msg = f"{str(path)!r} has {len(pairs):,} valid pairs, {int(pairs['Regulated'].sum()):,} of "
        msg += "them regulated: both kinds are needed."
        raise ValueError(msg)
    return pairs


def is_true(column):
    """Booleans of a column of TRUE and FALSE."""
    return column.astype(str).str.upper().isin(["TRUE", "1"]).to_numpy()


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
        msg = f"The atlas {which}: pass `--sample {cell_type}=NAME`, one of {list(available)}."
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
