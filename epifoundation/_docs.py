"""Descriptions of parameters that several functions share, written once.

A line ``{name}`` of a docstring stands for ``PARAMETERS[name]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

PARAMETERS = {
    "data": """
        data
            A MuData with the modality `modality`, or an AnnData of cells x peaks.""",
    "data_or_files": """
        data
            A MuData with the modality `modality`, or an AnnData of cells x peaks; or the path of
            one (``.h5ad``, ``.h5mu``, zarr, 10x ``.h5``), a list of paths, or a mapping from names
            of samples to paths, which are read in blocks (10x files into memory).""",
    "data_or_file": """
        data
            A MuData with the modality `modality`, or an AnnData of cells x peaks; or the path of
            one, which is read in blocks. Not changed.""",
    "model": """
        model
            A model, its name or directory (:func:`epifoundation.models.from_pretrained`). If None,
            the bundled ``"pbmc-51loci"``.""",
    "modality": """
        modality
            Name of the ATAC modality in a MuData.""",
    "modalities": """
        modality, rna_modality
            Names of the ATAC and the RNA modality in a MuData. Cells are matched by name.""",
    "key_added": """
        key_added
            Replaces ``epifoundation`` in the names of all results.""",
    "model_batch_key": """
        batch_key
            Column of ``obs`` with batches that the model was trained on: expression is predicted
            for the batch of each cell. If None, for the mean over batches.""",
    "mapping": """
        mapping
            A :class:`~epifoundation.PeakMapping`, for example with a chain file for another genome
            build. If None, the options that :func:`epifoundation.pp.map_peaks` or a tool recorded
            in the data for this model (under the same `key_added`), else the defaults.""",
    "batch_size": """
        batch_size
            Number of cells per block. Affects memory and speed, not results.""",
    "device": """
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ...""",
    "output": """
        output
            File for the results, ``.zarr`` or ``.h5ad``: an AnnData of the cells of all files in
            their order, without peaks; predicted genes are its ``var``, predicted expression is
            ``layers["epifoundation"]``. Memory does not grow with the number of cells. Finished
            blocks are kept in ``<output>.partial`` until the results are complete: the same call
            resumes after an interruption, and several processes divide the blocks among
            themselves. If None, results are written into `data`; a file is modified.
        overwrite
            Replace an existing `output`, once the results are complete.""",
    "copy": """
        copy
            Return a copy with the results and leave `data` unchanged; for objects in memory.""",
    "results_key": """
        key_added
            The `key_added` with which the results were written.""",
    "results_or_file": """
        data
            A MuData or AnnData with the results, or the path of one (``.h5ad``, ``.h5mu``, zarr),
            which is read into memory.""",
    "link_filters": """
        max_qvalue
            Leave out links with a larger q-value; if None, keep all, including untested ones.
        min_score
            Leave out links with a smaller ``score``, a probability; if None, keep all.""",
    "ax": """
        ax
            Matplotlib axes to draw into; if None, a new figure.""",
    "figure": """
        figure
            Matplotlib figure or subfigure to draw into; if None, a new figure.""",
}
LINE = re.compile(r"^( *)\{(\w+)\}$", re.MULTILINE)


def fill(text: str) -> str:
    """Replace each line ``{name}`` by the description of that parameter, at its indentation."""
    return LINE.sub(lambda match: _indented(PARAMETERS[match[2]], match[1]), text)


def documented[F: Callable[..., Any]](function: F) -> F:
    """Complete the docstring of a function; see :func:`fill`."""
    function.__doc__ = fill(function.__doc__ or "")
    return function


def _indented(text: str, indent: str) -> str:
    return "\n".join(indent + line[8:] for line in text.strip("\n").split("\n"))
