"""A small atlas with planted profiles, and cells drawn from them."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

import epifoundation as ep
from epifoundation.nn import PROFILES, ModelConfig, Network, Sizes

N_PEAKS, SORTED, OTHERS = 900, ["A1", "A2", "B"], ["liver", "liver", "K1"]
LABELS = ["A", "B", "liver", "K1"]
N_COLUMNS = 6


def levels(rng):
    """Levels of six profiles: a part of the peaks is open in all, another in one only."""
    found = np.zeros((N_PEAKS, 6), np.float32)
    found[:150] = 1
    for profile in range(6):
        found[150 + 120 * profile : 270 + 120 * profile, profile] = 2
    found[510:630, 4] = found[630:750, 3] = 1.5  # both of the liver
    return found[rng.permutation(N_PEAKS)]


def make(seed=0, **options):
    """The model, and its levels."""
    rng = np.random.default_rng(seed)
    table = levels(rng)
    rate = (table + 0.1) / (table + 0.1).sum(axis=0)
    base = rate.mean(axis=1)
    centred = table - table.mean(axis=1, keepdims=True)
    x = np.linalg.svd(centred, full_matrices=False)[0]
    x = x[:, :N_COLUMNS] * np.sqrt(N_PEAKS)
    scale = np.abs(x).max(axis=0) / 120
    codes = np.rint(x / scale) + 128
    x = (codes - 128) * scale
    covariance = ((x - base @ x) * base[:, None]).T @ (x - base @ x) + 1e-6 * np.eye(N_COLUMNS)
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(values) @ vectors.T
    directions = (rate.T @ x - base @ x) @ whitening
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    loadings = np.linalg.lstsq(x, centred, rcond=None)[0]
    contrasts = np.linalg.solve(whitening, loadings[:, :3])
    heads = {"profiles": 6, "sorted_populations": 3, "populations_with_rna": 2}
    heads["calibration_cells"] = 50
    sizes = Sizes(N_PEAKS, n_genes=5, n_labels=len(LABELS), heads=heads)
    network = Network(ModelConfig(encoder=PROFILES, dim=N_COLUMNS), sizes)
    populations = {
        "directions": directions,
        "contrasts": contrasts,
        "type_of": np.array([-1, -1, -1, 0, 0, 1]),
        "sharpness": np.array([1.0, 2.0]),
    }
    arrays = {
        "encoder.vectors.codes": codes.T.astype(np.uint8),
        "encoder.vectors.scale": scale,
        "encoder.whitening": whitening,
        "encoder.loadings": loadings,
        "encoder.means": np.rint(np.stack([table.mean(axis=1)] * 2) * 64).astype(np.uint8),
        "label.label_of": np.array([0, 0, 1]),
        "label.conformal": np.linspace(0, 0.9, 50),
        "label.novelty": np.linspace(-2, 2, 50),
        "label.moments": np.array([0.3, 0.15]),
        "expression.mean": np.arange(10).reshape(2, 5),
        "expression.sorted_of": np.array([0, 2]),
    }
    for head in ("label", "expression"):
        arrays |= {f"{head}.populations.{name}": array for name, array in populations.items()}
    state = network.state_dict()
    for name, array in arrays.items():
        state[name] = torch.from_numpy(np.ascontiguousarray(array)).to(state[name].dtype)
    network.load_state_dict(state)
    start = np.arange(N_PEAKS) * 1000
    peaks = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 500})
    model = ep.EpiFoundation(
        network,
        ep.PeakVocabulary(peaks, "hg38", is_atlas=True),
        ep.GeneVocabulary([f"gene{i}" for i in range(5)]),
        LABELS,
        lineages={"A": "blood", "B": "blood", "liver": "organ", "K1": "line"},
        ontology={"A": "CL:0000001", "B": "CL:0000002"},
        **options,
    )
    return model, table


def draw(table, profiles, n_open, rng, background=0.1):
    """Cells with ones at open peaks, as an AnnData with the profile of each."""
    rate = (1 - background) * table / table.sum(axis=0) + background / len(table)
    rows = [rng.choice(len(table), size=n_open, replace=False, p=rate[:, k]) for k in profiles]
    indptr = np.arange(len(rows) + 1) * n_open
    ones = np.ones(indptr[-1], np.float32)
    matrix = sp.csr_matrix((ones, np.concatenate(rows), indptr), shape=(len(rows), len(table)))
    matrix.sort_indices()
    start = np.arange(len(table)) * 1000
    names = [f"chr1:{first}-{first + 500}" for first in start]
    obs = pd.DataFrame({"profile": profiles}, index=[f"cell{i}" for i in range(len(rows))])
    return AnnData(matrix, obs=obs, var=pd.DataFrame(index=names))
