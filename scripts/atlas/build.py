"""Make the bundled model of the human atlas from tables of bulk accessibility and expression.

    python scripts/atlas/build.py ../shared

The folder has `atlas/` (DNase of 164 samples; ATAC and RNA of sorted blood populations; hg19),
`annotation/` (chain file to hg38) and `data/` (PBMC, on which probabilities are calibrated). Writes
`epifoundation/models/bundled/human-atlas`. The tables `labels.tsv` and `samples.tsv` beside this
script assign samples to labels, lineages and terms of the Cell Ontology.
"""

import argparse
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from calibrate import calibrate, calibration_cells, family_sharpness

import epifoundation as ep
from epifoundation.genome import lift_over, overlaps
from epifoundation.nn import PROFILES, CodedVectors, ModelConfig, Network, Sizes
from epifoundation.nn.coded_vectors import MIDDLE
from epifoundation.nn.profile_encoder import MEAN_UNITS

HERE = Path(__file__).parent
MODEL = Path(ep.__file__).parent / "models" / "bundled" / "human-atlas"
N_SORTED_COLUMNS, N_COLUMNS = 17, 64
CLOSED = 0.3  # level that is added to all, as closed elements have some reads
# Steps of the codes, in standard deviations of a column: of blood, of DNase
STEPS = 0.06, 0.5
MIN_CPM = 1.0  # in one population, for a gene to be predicted
LABELS = {"Mono": "monocyte", "mDC": "mDC", "Mega": "megakaryocyte", "Ery": "erythroid"}
LABELS |= {"CD4": "CD4 T", "CD8": "CD8 T"}


def main():
    """Read the tables, make the model, calibrate it and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shared", type=Path, help="folder with atlas/, annotation/ and data/")
    parser.add_argument("--output", type=Path, default=MODEL)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    torch.set_num_threads(2)
    terms = pd.read_csv(HERE / "labels.tsv", sep="\t", keep_default_na=False)
    samples = pd.read_csv(HERE / "samples.tsv", sep="\t", keep_default_na=False)
    peaks, blood, dnase, populations = elements(args.shared)
    assert list(dnase_ids(args.shared)) == list(samples["id"])
    tensors = vectors(blood, dnase)
    labels = list(terms["label"])
    label_of = np.array([labels.index(label_name(name)) for name in populations])
    n_families = label_of.max() + 1
    type_of = np.array(
        [-1] * len(populations)
        + [labels.index(label) - n_families if label else -1 for label in samples["label"]]
    )
    tensors |= profiles(blood, dnase, tensors)
    means = np.stack([levels.mean(axis=1) for levels in (blood, dnase)])
    tensors["means"] = torch.from_numpy(np.rint(means * MEAN_UNITS).clip(0, 255).astype(np.uint8))
    genes, mean, sorted_of = expression(args.shared, populations)
    heads = {
        "profiles": len(type_of),
        "sorted_populations": len(populations),
        "populations_with_rna": len(mean),
    }
    part = {
        "populations.directions": tensors.pop("directions"),
        "populations.contrasts": tensors.pop("contrasts"),
        "populations.type_of": torch.from_numpy(type_of),
    }
    state = {f"encoder.{name}": value for name, value in tensors.items()}
    state |= {f"label.{name}": value for name, value in part.items()}
    state |= {f"expression.{name}": value for name, value in part.items()}
    state["label.label_of"] = torch.from_numpy(label_of)
    state["expression.mean"] = torch.from_numpy(mean.astype(np.float32))
    state["expression.sorted_of"] = torch.from_numpy(sorted_of)

    def model(n_calibration, more, **options):
        sizes = Sizes(
            len(peaks),
            n_genes=len(genes),
            n_labels=len(labels),
            heads={**heads, "calibration_cells": n_calibration},
        )
        network = Network(ModelConfig(encoder=PROFILES, dim=N_COLUMNS), sizes)
        network.load_state_dict({**network.state_dict(), **state, **more})
        return ep.EpiFoundation(
            network,
            peaks,
            ep.GeneVocabulary(genes),
            labels,
            lineages=dict(zip(terms["label"], terms["lineage"], strict=True)),
            ontology={row.label: row.ontology for row in terms.itertuples() if row.ontology},
            **options,
        )

    first = model(1, {})
    cells = calibration_cells(first, args.shared)
    first_step = family_sharpness(first, dnase, type_of[len(populations) :], cells[0])
    more, numbers = calibrate(first, cells, first_step)
    names = [*populations, *samples["id"]]
    training = {"calibration": numbers, "profiles": names}
    card = (HERE / "card.md").read_text(encoding="utf-8")
    final = model(len(more["label.conformal"]), more, training=training, card=card)
    final.save_pretrained(args.output, overwrite=True)
    for path in sorted(args.output.iterdir()):
        print(f"{path.name} {path.stat().st_size / 1e6:.1f} MB")
    print(numbers)
    print(final)


def label_name(population):
    """The label of a sorted population: those of GMP are one."""
    name = "GMP" if population.startswith("GMP") else population
    return LABELS.get(name, name)


def dnase_ids(shared):
    """Names of the samples, in the order of the columns."""
    return pd.read_csv(shared / "atlas" / "dnase164_samples.tsv", sep="\t")["id"]


def elements(shared):
    """One vocabulary of both tables on hg38, with the levels of each.

    All peaks of the blood table, and the DNase elements that overlap none of them. A blood peak has
    the highest level of the DNase elements that overlap it.
    """
    chain = shared / "annotation" / "hg19ToHg38.over.chain.gz"

    def lifted(intervals, levels):
        found, status = lift_over(intervals, chain)
        kept = np.flatnonzero(np.asarray(status) == "lifted")
        width = (found["end"] - found["start"]).to_numpy()
        is_good = (width >= 100) & (width <= 1000) & ~found.duplicated().to_numpy()
        is_good &= ~found["chrom"].str.contains("_").to_numpy()
        return found[is_good].reset_index(drop=True), levels[kept[is_good]]

    table = anndata.read_h5ad(shared / "atlas" / "heme18_bulk_atac_hg19.h5ad")
    intervals = table.var[["chrom", "start", "end"]].reset_index(drop=True)
    matrix = table.X.toarray() if sp.issparse(table.X) else np.asarray(table.X)
    blood_peaks, blood = lifted(intervals.astype({"chrom": str}), matrix.T.astype(np.uint8))
    stored = np.load(shared / "atlas" / "dnase164_1m_hg19.npz", allow_pickle=True)
    packed = stored["levels_packed"]
    levels = np.stack([(packed >> (2 * j)) & 3 for j in range(4)], axis=2)
    levels = levels.reshape(len(packed), -1)[:, : len(dnase_ids(shared))]
    centre = stored["centre"].astype(np.int64)
    chrom = stored["chroms"].astype(str)[stored["chrom_code"]]
    intervals = pd.DataFrame({"chrom": chrom, "start": centre - 150, "end": centre + 150})
    others, dnase = lifted(intervals, levels)
    pairs = overlaps(blood_peaks, others)
    in_blood = np.zeros((len(blood_peaks), dnase.shape[1]), np.uint8)
    np.maximum.at(in_blood, pairs[:, 0], dnase[pairs[:, 1]])
    rest = np.setdiff1d(np.arange(len(others)), pairs[:, 1])
    all_peaks = pd.concat([blood_peaks, others.iloc[rest]], ignore_index=True)
    order = np.lexsort([all_peaks[name] for name in ("end", "start", "chrom")])
    blood = np.concatenate([blood, np.zeros((len(rest), blood.shape[1]), np.uint8)])
    dnase = np.concatenate([in_blood, dnase[rest]])
    peaks = ep.PeakVocabulary(all_peaks.iloc[order].reset_index(drop=True), "hg38", is_atlas=True)
    return peaks, blood[order], dnase[order], list(table.obs_names)


def components(levels, n_columns):
    """Coordinates of the elements along the main components of the samples."""
    centred = levels.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0)
    values, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = axes[:, np.argsort(-values)[:n_columns]]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_columns)])  # one sign for all
    return centred @ axes.astype(np.float32)


def rates(levels):
    """Probability that an open element is this one, by sample, (n_elements, n_samples)."""
    open_ = levels.astype(np.float32) + CLOSED
    return open_ / open_.sum(axis=0)


def vectors(blood, dnase):
    """Codes of the peak vectors, and the whitening of sums of them."""
    parts = components(blood, N_SORTED_COLUMNS), components(dnase, N_COLUMNS - N_SORTED_COLUMNS)
    in_blood = (blood > 0).any(axis=1)
    deviation = np.concatenate([parts[0][in_blood].std(axis=0), parts[1].std(axis=0)])
    steps = np.repeat(STEPS, [part.shape[1] for part in parts])
    scale = (steps * deviation).astype(np.float32)
    # The many elements that are no peak of blood have exact values
    shift = np.concatenate([parts[0][~in_blood][0], np.zeros(parts[1].shape[1], np.float32)])
    codes = np.rint((np.concatenate(parts, axis=1) - shift) / scale) + MIDDLE
    codes = codes.clip(0, 255).astype(np.uint8)
    # A cell whose peaks are open in many tissues is at zero in the columns of DNase
    middle = rates(dnase).mean(axis=1) @ ((codes.astype(np.float32) - MIDDLE) * scale)
    shift[N_SORTED_COLUMNS:] = -middle[N_SORTED_COLUMNS:]
    return {
        "vectors.codes": torch.from_numpy(np.ascontiguousarray(codes.T)),
        "vectors.scale": torch.from_numpy(scale),
        "vectors.shift": torch.from_numpy(shift),
    }


def profiles(blood, dnase, tensors):
    """Whitening, directions of all profiles, and contrasts of the sorted populations."""
    table = CodedVectors(len(blood), N_COLUMNS)
    table.load_state_dict({name.partition(".")[2]: value for name, value in tensors.items()})
    x = table.weight.numpy()
    of_blood, of_dnase = rates(blood), rates(dnase)
    base = (of_blood.mean(axis=1) + of_dnase.mean(axis=1)) / 2
    centred = x - base @ x
    covariance = ((centred * base[:, None]).T @ centred).astype(np.float64)
    values, axes = np.linalg.eigh(covariance)
    whitening = (axes / np.sqrt(np.maximum(values, 1e-9 * values.max()))) @ axes.T
    means = np.concatenate([of_blood.T @ x, of_dnase.T @ x]) - base @ x
    directions = means @ whitening
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Levels of the sorted populations over their mean, as a linear function of the vectors
    level = blood.astype(np.float32)
    level -= level.mean(axis=1, keepdims=True)
    level -= level.mean(axis=0)
    first = x[:, :N_SORTED_COLUMNS].astype(np.float64)
    contrasts = np.zeros((N_COLUMNS, level.shape[1]))
    contrasts[:N_SORTED_COLUMNS] = np.linalg.solve(first.T @ first, first.T @ level)
    contrasts = np.linalg.solve(whitening, contrasts)
    loadings, offsets = np.zeros((N_COLUMNS, len(means))), np.zeros(len(means))
    first, last = slice(None, N_SORTED_COLUMNS), slice(N_SORTED_COLUMNS, None)
    for columns, of, table in (
        (first, slice(None, blood.shape[1]), blood),
        (last, slice(blood.shape[1], None), dnase),
    ):
        loadings[columns, of], offsets[of] = regression(x[:, columns], table)
    arrays = {
        "directions": directions,
        "contrasts": contrasts,
        "whitening": whitening,
        "loadings": loadings,
        "offsets": offsets,
    }
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def regression(vectors, levels):
    """Coefficients and intercepts of levels less their mean over the table, on vectors."""
    level = levels.astype(np.float32)
    level -= level.mean(axis=1, keepdims=True)
    middle, mean = vectors.mean(axis=0, dtype=np.float64), level.mean(axis=0, dtype=np.float64)
    centred = vectors - middle.astype(np.float32)
    gram = (centred.T @ centred).astype(np.float64)
    coefficients = np.linalg.solve(gram, (centred.T @ level).astype(np.float64))
    return coefficients, mean - middle @ coefficients


def expression(shared, populations):
    """Genes, their expression in each population with RNA, and which populations these are."""
    table = anndata.read_h5ad(shared / "atlas" / "heme16_bulk_rna_hg19.h5ad")
    counts = table.X.toarray() if sp.issparse(table.X) else np.asarray(table.X)
    fraction = counts / counts.sum(axis=1, keepdims=True)
    is_kept = (fraction.max(axis=0) * 1e6 >= MIN_CPM) & ~table.var_names.duplicated()
    sorted_of = np.array([populations.index(name) for name in table.obs_names])
    return list(table.var_names[is_kept]), np.log1p(fraction[:, is_kept] * 1e4), sorted_of


if __name__ == "__main__":
    main()
