"""``ep.get.network``: transcription factors, the peaks with their motifs, and linked genes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from .._docs import documented
from .._link_table import LinkValue, filter_links, links_of, one_per_pair
from .._option_types import checked
from .._validate import get_atac, one_of
from ._motif_hits import motif_hits
from ._results import DataOrFile, read_results

SEPARATOR = ";"  # between the names of peaks


@documented
@checked
def network(
    data: DataOrFile,
    *,
    motifs: pd.DataFrame | str,
    target: Literal["gene", "peak"] = "gene",
    value: LinkValue = "effect",
    max_qvalue: float | None = 0.1,
    min_score: float | None = None,
    group: str | None = None,
    modality: str = "atac",
    key_added: str | None = None,
) -> pd.DataFrame:
    """Network of transcription factors and genes, or peaks, for decoupler.

    A transcription factor (TF) has a gene as its target if a peak with its motif is linked to the
    gene (:func:`epifoundation.tl.link_peaks`). Motifs are matched by other packages, see the guide.

    Parameters
    ----------
    {results_or_file}
    motifs
        Which peaks have the motif of which TF:

        - a table of peaks x TFs, true or positive where the motif occurs;
        - a table of one row per hit, with columns ``source`` and ``target``, or ``tf`` and
          ``peak``;
        - a key of ``varm`` with such a table of peaks x TFs, or with an array whose names are in
          ``uns["motif_name"]``: after ``pychromvar.match_motif``, ``"motif_match"``. Identifiers of
          JASPAR are removed from these names (``"MA0080.7.SPI1"`` is ``"SPI1"``).

        Several motifs of the same name are one TF.
    target
        ``"gene"``: genes that are linked to peaks with the motif. ``"peak"``: all peaks with the
        motif, for accessibility; links and their options are not used.
    value
        Weight of a link: its ``"effect"``, or its ``"score"`` or ``"pip"`` with the sign of the
        effect.
    {link_filters}
    group
        Links of this group; if None, of all, and the effect of a pair is its mean over groups.
    {modality}
    {results_key}

    Returns
    -------
    A table sorted by TF and target: ``source``, the TF; ``target``, a gene or peak; ``weight``, the
    sum over the peaks that link them (1 for peaks). For genes, also ``n_peaks`` and ``peaks``,
    names separated by semicolons. No pair occurs twice.

    Raises
    ------
    ValueError
        No links, or none is left; peaks in `motifs` that are not those of the data; no peak with a
        motif is linked.

    See Also
    --------
    epifoundation.tl.write_links : Links for SCENIC+ and CellOracle.

    Examples
    --------
    >>> import epifoundation as ep
    >>> import pandas as pd
    >>> mdata = ep.datasets.simulate_multiome(400, 600, 20)
    >>> ep.tl.link_peaks(mdata, ep.tl.pretrain(mdata), genes="gene3", max_distance=50_000)
    >>> hits = pd.DataFrame({"tf": "GATA1", "peak": mdata["atac"].var_names[::2]})
    >>> network = ep.get.network(mdata, motifs=hits, max_qvalue=None)
    >>> network["source"].tolist(), network["target"].tolist()
    (['GATA1'], ['gene3'])
    """
    one_of(target, ("gene", "peak"), "target")
    data = read_results(data)
    hits = motif_hits(get_atac(data, modality), motifs)
    if target == "peak":
        given = [n for n, v in (("group", group), ("min_score", min_score)) if v is not None]
        if given:
            msg = f"`{given[0]}` is for links, which `target='peak'` does not use: leave it out."
            raise ValueError(msg)
        return hits.rename(columns={"peak": "target"}).assign(weight=1.0)
    links, problem = filter_links(
        links_of(data, modality, key_added),
        value=value,
        max_qvalue=max_qvalue,
        min_score=min_score,
        group=group,
    )
    if problem:
        raise ValueError(problem)
    links = one_per_pair(links)
    weight = links[value].to_numpy() * (
        1 if value == "effect" else np.sign(links["effect"].fillna(0))
    )
    pairs = pd.DataFrame(
        {
            "peak": links["peak"].astype(str).to_numpy(),
            "target": links["gene"].astype(str).to_numpy(),
            "weight": np.asarray(weight, dtype=float),
        }
    )
    edges = hits.merge(pairs, on="peak")
    if not len(edges):
        msg = f"None of the {pairs['peak'].nunique():,} linked peaks has a motif; "
        msg += f"{hits['peak'].nunique():,} other peaks have one, of {hits['source'].nunique():,} "
        msg += "TFs. Keep more links (`max_qvalue`, `min_score`), or match more motifs."
        raise ValueError(msg)
    by_pair = edges.groupby(["source", "target"], sort=True)
    return by_pair.agg(
        weight=("weight", "sum"), n_peaks=("peak", "size"), peaks=("peak", SEPARATOR.join)
    ).reset_index()
