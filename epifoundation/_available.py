"""``ep.models.available``: the models that have a name; without torch, for the command line."""

from __future__ import annotations

import pandas as pd

PAPER = "UCSC-VLAA/EpiFoundation"

MODELS = pd.DataFrame(
    [
        {
            "name": "human-atlas",
            "source": "bundled",
            "genome": "hg38",
            "peaks": 1_017_598,
            "genes": 17_377,
            "labels": 73,
            "description": (
                "Human, whole genome, of bulk DNase, ATAC and RNA of 182 samples: the default model"
            ),
        },
        {
            "name": "pbmc-51loci",
            "source": "bundled",
            "genome": "hg38",
            "peaks": 5724,
            "genes": 51,
            "labels": 13,
            "description": "Human blood, 51 windows of 200 kb: for the demo and the tutorials",
        },
        {
            "name": PAPER,
            "source": "Hugging Face, converted",
            "genome": "hg38",
            "description": (
                "The checkpoint of Wu et al. 2025 (Apache-2.0), fetched and converted on first use"
            ),
        },
    ]
).set_index("name")
# <NA>: unknown before the download
MODELS = MODELS.astype({"peaks": "Int64", "genes": "Int64", "labels": "Int64"})


def available() -> pd.DataFrame:
    """List the models that :func:`from_pretrained` knows by name.

    Returns
    -------
    One row per model, indexed by name: ``source``, ``genome``, ``peaks``, ``genes``, ``labels``,
    ``description``.

    Examples
    --------
    >>> import epifoundation as ep
    >>> list(ep.models.available().index)
    ['human-atlas', 'pbmc-51loci', 'UCSC-VLAA/EpiFoundation']
    """
    return MODELS.copy()
