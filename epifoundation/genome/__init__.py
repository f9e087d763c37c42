"""Genomic intervals, genome builds and genes. 0-based, half-open throughout."""

from ._builds import BUILDS, canonical_build, detect_build, lift_over, misplaced
from ._exons import read_exons
from ._genes import read_genes, transcription_start
from ._intervals import COLUMNS, Axis, overlaps, parse_intervals, read_intervals

__all__ = [
    "BUILDS",
    "COLUMNS",
    "Axis",
    "canonical_build",
    "detect_build",
    "lift_over",
    "misplaced",
    "overlaps",
    "parse_intervals",
    "read_exons",
    "read_genes",
    "read_intervals",
    "transcription_start",
]
