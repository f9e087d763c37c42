"""Calibrate the probabilities of the atlas on labelled cells."""

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.optimize import minimize_scalar

import epifoundation as ep
from epifoundation.nn import conformal_scores

SEED = 0
N_CELLS = 1000  # of the loci, and of all peaks together
BACKGROUND = 0.15  # fraction of the open elements of a simulated cell that are of no sample
DEPTHS = (100, 300, 1000)
LABELS = {
    "B": "B",
    "CD4": "CD4 T",
    "CD8": "CD8 T",
    "NK": "NK",
    "Mono": "monocyte",
    "pDC": "pDC",
    "cDC": "mDC",
}


def label_of(name):
    """The label of the atlas for one of the PBMC tables; empty if there is none."""
    first = [key for key in ("CD4", "CD8", "NK", "Mono", "pDC", "cDC") if key in name]
    if first:
        return LABELS[first[0]]
    return "B" if name in ("naive B", "memory B", "Plasma") else ""


def calibration_cells(model, shared):
    """Embeddings and labels of PBMC: cells with peaks of the whole genome, and of 51 loci."""
    rng = np.random.default_rng(SEED)
    genome = labelled(shared / "data" / "pbmc10k_100cells_hg38.h5mu")
    loci = labelled(shared / "data" / "pbmc10k_51loci_hg38.h5mu")
    loci = loci[np.sort(rng.permutation(loci.n_obs)[:N_CELLS])].copy()
    cells = []
    for fraction in (1.0, 0.5, 0.25):
        thin = genome.copy()
        counts = sp.csr_matrix(thin.X > 0).astype(np.float32)
        counts.data *= rng.random(counts.nnz) < fraction
        counts.eliminate_zeros()
        thin.X = counts
        cells.append(thin)
    parts = []
    for atac in (*cells, loci):
        ep.tl.embed(atac, model, expression=False, annotation=False)
        z = atac.obsm["X_epifoundation"]
        codes = np.array([model.labels.index(label) for label in atac.obs["label"]])
        is_known = np.isfinite(z[:, 0])
        weight = 1 / is_known.sum() / (len(cells) if atac is not loci else 1)
        parts.append((z[is_known], codes[is_known], np.full(is_known.sum(), weight)))
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def labelled(path):
    """The ATAC modality of cells that have a label of the atlas."""
    atac = mudata.read_h5mu(path)["atac"]
    labels = [label_of(str(name)) for name in atac.obs["cell_type"]]
    atac = anndata.AnnData(
        sp.csr_matrix(atac.X),
        obs=pd.DataFrame({"label": labels}, index=atac.obs_names),
        var=atac.var[["chrom", "start", "end"]] if "chrom" in atac.var else atac.var[[]],
    )
    return atac[[bool(label) for label in labels]].copy()


def family_sharpness(model, dnase, type_of, embedding):
    """Sharpness of the first step, on cells of the family and on simulated ones of other types.

    These are drawn from samples whose type has another one, mostly of another laboratory or donor,
    and their own profile is left out.
    """
    rng = np.random.default_rng(SEED)
    populations = model.network.label.populations
    n_sorted = populations.contrasts.shape[1]
    open_ = (dnase > 0).astype(np.float64)
    base = open_.mean(axis=1)
    base /= base.sum()
    cells, own, target = [], [], []
    for sample, kind in enumerate(type_of):
        if kind < 0 or (type_of == kind).sum() < 2:
            continue
        rate = (1 - BACKGROUND) * dnase[:, sample] / dnase[:, sample].sum() + BACKGROUND * base
        total = np.cumsum(rate)
        for depth in DEPTHS:
            for _ in range(3):
                cells.append(np.unique(np.searchsorted(total, rng.random(depth) * total[-1])))
                own.append(n_sorted + sample)
                target.append(kind)
    offsets = np.cumsum([0, *map(len, cells)])
    tokens = torch.from_numpy(np.concatenate(cells)), torch.from_numpy(offsets)
    n_types = int(type_of.max()) + 1
    populations.sharpness.fill_(1)
    simulated = populations.evidence(model.network.encode(*tokens))
    simulated[torch.arange(len(own)), torch.tensor(own)] = -torch.inf
    in_family = populations.evidence(torch.from_numpy(embedding))
    rows, target = torch.arange(len(target)), torch.tensor(target)

    def loss(log_sharpness):
        both = (
            populations.types(np.exp(log_sharpness) * e, n_types) for e in (simulated, in_family)
        )
        first, second = both
        return float(
            -(first[rows, target] + 1e-9).log().mean() - (second[:, -1] + 1e-9).log().mean()
        )

    return float(np.exp(minimize_scalar(loss, bounds=(-6, 4), method="bounded").x))


def calibrate(model, cells, first_step):
    """Sharpness of both steps, and scores of the calibration cells, as tensors of the heads."""
    z, codes, weight = torch.from_numpy(cells[0]), torch.from_numpy(cells[1]), cells[2]
    head = model.network.label
    sharpness = head.populations.sharpness
    rows, weight = torch.arange(len(z)), torch.from_numpy(weight / weight.sum())

    def loss(log_sharpness):
        sharpness.copy_(torch.tensor([first_step, np.exp(log_sharpness)]))
        return float(-(weight * (head(z)[rows, codes] + 1e-9).log()).sum())

    with torch.no_grad():
        best = float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))
        sharpness.copy_(torch.tensor([first_step, best]))
        likely = head(z)
        conformal = conformal_scores(likely)[rows, codes].sort().values
        unexplained = head.populations.unexplained(z)
        moments = torch.stack([unexplained.mean(), unexplained.std()])
        novelty = ((unexplained - moments[0]) / moments[1]).sort().values
    tensors = {
        "label.conformal": conformal,
        "label.novelty": novelty,
        "label.moments": moments,
        "label.populations.sharpness": sharpness.clone(),
        "expression.populations.sharpness": sharpness.clone(),
    }
    numbers = {
        "cells": len(z),
        "sharpness": [first_step, best],
        "accuracy": float((likely.argmax(dim=1) == codes).float().mean()),
    }
    return tensors, numbers
