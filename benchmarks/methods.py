"""The compared methods. Each is fitted to the known cells of a split and applied to other cells.

`METHODS` maps a name to a function ``(split, seed) -> {name of a row: Fitted}``; one training can
give several rows.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from baselines import harmony as corrected_by_harmony
from baselines import tempered_logistic
from mudata import MuData
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import LinearSVC
from splits import Split, log_scale

import epifoundation as ep
import epifoundation.tl  # imported before timing


@dataclass
class Fitted:
    """Functions of the ATAC of any cells, with the peaks of the split or shifted ones.

    A function is None if a method does not provide it. `labels` returns names and the probabilities
    of all `classes` (or None).
    """

    embed: Callable[[AnnData], np.ndarray] | None = None
    labels: Callable[[AnnData], tuple[np.ndarray, np.ndarray | None]] | None = None
    expression: Callable[[AnnData], np.ndarray] | None = None
    classes: np.ndarray | None = None
    n_bytes: int = 0


# --- ours


def ours(
    split: Split,
    seed: int,
    *,
    rna: bool = True,
    config: ep.ModelConfig | None = None,
    training: ep.TrainingConfig | None = None,
    label_key: str | None = "cell_type",
    cells: bool = True,
) -> tuple[Fitted, ep.EpiFoundation]:
    """One call of `ep.tl.pretrain`, and the functions of its model.

    Without `label_key`, labels are predicted from the embedding by logistic regression, as for
    other methods. Without `cells`, the model does not recognize its training cells.
    """
    data = split.known_data()
    alone = not (rna and isinstance(data, MuData))
    objective = "peaks" if alone else None if split.counts else "gaussian"
    model = ep.tl.pretrain(
        data["atac"] if alone and isinstance(data, MuData) else data,
        objective=objective,
        config=config,
        training=training,
        batch_key=split.batch_key,
        validation=split.validation,
        label_key=label_key,
        genome=split.genome,
        rng=seed,
    )
    if not cells:
        model = replace(model, cells={})
    fitted = of_model(model, split)
    if label_key is None:
        fitted = replace(with_probes(fitted, split, ridge=False), expression=fitted.expression)
    return fitted, model


def of_model(model: ep.EpiFoundation, split: Split) -> Fitted:
    def embed(atac: AnnData) -> np.ndarray:
        return ep.tl.embed(bare(atac), model, expression=False, annotation=False, copy=True).obsm[
            "X_epifoundation"
        ]

    def labels(atac: AnnData) -> tuple[np.ndarray, np.ndarray]:
        result = ep.tl.annotate(bare(atac), model, unknown=0, copy=True)
        table = result.obsm["epifoundation_probabilities"]
        return result.obs["epifoundation_cell_type"].astype(str).to_numpy(), table.to_numpy()

    def expression(atac: AnnData, scale: str = "mean") -> np.ndarray:
        result = bare(atac)
        ep.tl.predict_expression(result, model, scale=scale)
        found = ep.get.expression(result).to_df()
        return found.reindex(columns=split.rna.var_names).fillna(0).to_numpy()

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model")
        n_bytes = sum(file.stat().st_size for file in Path(folder, "model").iterdir())
    return Fitted(
        embed, labels, expression if len(model.genes) else None, np.array(model.labels), n_bytes
    )


def epifoundation(split: Split, seed: int) -> dict[str, Fitted]:
    """The default, its second scale, and means of training cells found by its embedding."""
    needs_rna(split)
    fitted, _ = ours(split, seed)
    rows = {"EpiFoundation": fitted}
    if split.counts:
        rows["EpiFoundation, measured scale"] = Fitted(
            expression=lambda atac: fitted.expression(atac, scale="measured")
        )
    return rows | means_of(split, fitted, "EpiFoundation")


def epifoundation_peaks(split: Split, seed: int) -> dict[str, Fitted]:
    """The same encoder without RNA, before and after `ep.tl.finetune`."""
    fitted, model = ours(split, seed, rna=False)
    options = {
        "label_key": "cell_type",
        "batch_key": split.batch_key,
        "validation": split.validation,
        "rng": seed,
    }
    tuned = ep.tl.finetune(split.atac[split.known].copy(), model, **options)
    return {
        "EpiFoundation, ATAC alone": fitted,
        "EpiFoundation, ATAC and labels": of_model(tuned, split),
    }


def epifoundation_transformer(split: Split, seed: int) -> dict[str, Fitted]:
    """A small version of the encoder of the paper, trained by gradient descent."""
    needs_rna(split)
    config = ep.ModelConfig(
        encoder="transformer",
        dim=64,
        n_layers=2,
        objective="counts" if split.counts else "gaussian",
    )
    return {"EpiFoundation, transformer": ours(split, seed, config=config)[0]}


def epifoundation_bundled(split: Split, seed: int) -> dict[str, Fitted]:
    """With 64 clusters, as the bundled model (`scripts/bundle.py`)."""
    needs_rna(split)
    fitted, _ = ours(split, seed, config=ep.ModelConfig(dim=64))
    return {"EpiFoundation, 64 clusters": fitted}


# --- other methods


def lsi(split: Split, seed: int) -> dict[str, Fitted]:
    """Latent semantic indexing by muon, with the loadings applied to other cells."""
    import muon

    known = split.atac[split.train].copy()
    known.X = sp.csr_matrix(known.X, dtype=np.float64)
    idf = np.log1p(known.n_obs / np.maximum(np.asarray(known.X.sum(axis=0)).ravel(), 1))
    muon.atac.pp.tfidf(known, scale_factor=1e4)
    np.random.seed(seed)  # noqa: NPY002 # muon starts its SVD from there
    muon.atac.tl.lsi(known, n_comps=51)
    loadings = known.varm["LSI"][:, 1:]
    inner = known.X @ loadings
    mean, deviation = inner.mean(axis=0), inner.std(axis=0)

    def embed(atac: AnnData) -> np.ndarray:
        counts = onto(atac, split)
        fraction = sp.diags(1 / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)) @ counts
        weighted = sp.csr_matrix(fraction * 1e4).log1p() @ sp.diags(idf)
        return (weighted @ loadings - mean) / deviation

    fitted = with_probes(Fitted(embed, n_bytes=4 * (loadings.size + len(idf))), split)
    return {"LSI": fitted} | (
        {} if split.rna is None else means_of(split, fitted, "LSI", by_label=False)
    )


def harmony(split: Split, seed: int) -> dict[str, Fitted]:
    """Harmony on the LSI of all cells, including the test cells: it cannot embed new cells."""
    if split.batch_key is None:
        raise UnfitError("no batches")
    components = lsi(split, seed)["LSI"].embed(split.atac)
    corrected = corrected_by_harmony(components, split.atac.obs, split.batch_key, seed)
    return {"Harmony on LSI": with_probes(Fitted(looked_up(split, corrected)), split)}


def svm(split: Split, seed: int) -> dict[str, Fitted]:
    """Linear SVM on open peaks, with the best penalty on the held cells."""
    del seed
    return {
        "linear SVM": _linear(
            split, lambda strength: LinearSVC(C=strength), (1e-4, 1e-3, 1e-2, 1e-1)
        )
    }


def logistic(split: Split, seed: int) -> dict[str, Fitted]:
    """Logistic regression on open peaks, with the best penalty on the held cells."""
    del seed

    def make(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=300)

    return {"logistic regression": _linear(split, make, (1e-3, 1e-2, 1e-1))}


def _linear(split: Split, make: Callable, strengths: tuple[float, ...]) -> Fitted:
    X, labels = binary(split.atac.X), split.labels
    fitted = [make(strength).fit(X[split.train], labels[split.train]) for strength in strengths]
    best = max(
        fitted, key=lambda model: np.mean(model.predict(X[split.held]) == labels[split.held])
    )

    def predict(atac: AnnData) -> tuple[np.ndarray, np.ndarray | None]:
        rows = binary(onto(atac, split))
        return best.predict(rows), best.predict_proba(rows) if hasattr(
            best, "predict_proba"
        ) else None

    return Fitted(labels=predict, classes=best.classes_, n_bytes=4 * best.coef_.size)


def peakvi(split: Split, seed: int) -> dict[str, Fitted]:
    """PeakVI (Ashuach et al. 2022)."""
    return {"PeakVI": _scvi(split, seed, "PEAKVI")}


def poissonvi(split: Split, seed: int) -> dict[str, Fitted]:
    """PoissonVI (Martens et al. 2024) on fragment counts, half of the insertions."""
    return {"PoissonVI": _scvi(split, seed, "POISSONVI")}


def epochs(data: AnnData | MuData) -> int:
    """Number of epochs in which 100,000 cells are seen, so that everything takes about an hour."""
    return round(100_000 / data.n_obs)


def _scvi(split: Split, seed: int, name: str) -> Fitted:
    """Train on the ATAC of all cells, including the test cells, with their batches."""
    import scvi

    scvi.settings.seed = seed
    kind = scvi.model.PEAKVI if name == "PEAKVI" else scvi.external.POISSONVI

    def ready(atac: AnnData) -> AnnData:
        counts = sp.csr_matrix(onto(atac, split), dtype=np.float32)
        if name == "POISSONVI":
            counts.data = np.ceil(counts.data / 2)
        return AnnData(counts, obs=atac.obs.copy(), var=pd.DataFrame(index=split.atac.var_names))

    data = ready(split.atac)
    kind.setup_anndata(data, batch_key=split.batch_key)
    model = kind(data)
    model.train(max_epochs=epochs(data), accelerator="cpu", enable_progress_bar=False)
    n_bytes = sum(4 * tensor.numel() for tensor in model.module.state_dict().values())
    fitted = Fitted(
        lambda atac: np.asarray(model.get_latent_representation(ready(atac))), n_bytes=n_bytes
    )
    return with_probes(fitted, split)


def multivi(split: Split, seed: int) -> dict[str, Fitted]:
    """MultiVI (Ashuach et al. 2023) on paired known cells and the ATAC of the others."""
    needs_rna(split)
    if not split.counts:
        raise UnfitError("needs counts, but this RNA is smoothed log values")
    import scvi

    scvi.settings.seed = seed

    def ready(atac: AnnData, expression: sp.csr_matrix | None = None) -> MuData:
        cells = AnnData(
            sp.csr_matrix(onto(atac, split), dtype=np.float32),
            obs=atac.obs.copy(),
            var=pd.DataFrame(index=split.atac.var_names),
        )
        empty = sp.csr_matrix(
            (atac.n_obs, split.rna.n_vars), dtype=np.float32
        )  # MultiVI treats these as cells without RNA
        rna = AnnData(
            empty if expression is None else expression,
            obs=pd.DataFrame(index=atac.obs_names),
            var=split.rna.var[[]].copy(),
        )
        both = MuData({"rna": rna, "atac": cells})
        both.obs["_indices"] = np.arange(
            both.n_obs
        )  # required by MultiVI, which does not add it for new cells
        return both

    shown = sp.csr_matrix(
        sp.diags(split.known.astype(np.float32)) @ sp.csr_matrix(split.rna.X, dtype=np.float32)
    )
    data = ready(split.atac, shown)
    scvi.model.MULTIVI.setup_mudata(data, modalities={"rna_layer": "rna", "atac_layer": "atac"})
    model = scvi.model.MULTIVI(data, n_genes=split.rna.n_vars, n_regions=split.atac.n_vars)
    model.train(max_epochs=epochs(data), accelerator="cpu", enable_progress_bar=False)

    def expression(atac: AnnData) -> np.ndarray:
        mean = np.asarray(model.get_normalized_expression(ready(atac), return_numpy=True))
        depths = np.asarray(split.rna.X[split.train].sum(axis=1)).ravel()
        return ep.metrics.expected_log1p(
            np.log1p(1e4 * mean / mean.sum(axis=1, keepdims=True)), depths
        )

    n_bytes = sum(4 * tensor.numel() for tensor in model.module.state_dict().values())
    fitted = Fitted(
        lambda atac: np.asarray(model.get_latent_representation(ready(atac))), n_bytes=n_bytes
    )
    return {"MultiVI": replace(with_probes(fitted, split, ridge=False), expression=expression)}


def gene_activity(split: Split, seed: int) -> dict[str, Fitted]:
    """Sums of counts over and near each gene."""
    del seed
    needs_rna(split)
    annotation = split.annotation if split.annotation is not None else split.rna.var

    def expression(atac: AnnData) -> np.ndarray:
        activity = ep.tl.gene_activity(bare(atac), annotation=annotation)
        place = activity.var_names.get_indexer(split.rna.var_names)
        values = activity.X.toarray()[:, place] * (place >= 0)
        return log_scale(values)

    return {"gene activity": Fitted(expression=expression)}


def gene_mean(split: Split, seed: int) -> dict[str, Fitted]:
    """Predict the mean of the training cells."""
    del seed
    needs_rna(split)
    mean = split.expression[split.train].mean(axis=0)
    return {"gene mean": Fitted(expression=lambda atac: np.tile(mean, (atac.n_obs, 1)))}


class UnfitError(Exception):
    """A method is not applicable to a data set; reported with the reason."""


def needs_rna(split: Split) -> None:
    if split.rna is None:
        raise UnfitError("no RNA")


METHODS: dict[str, Callable[[Split, int], dict[str, Fitted]]] = {
    "epifoundation": epifoundation,
    "epifoundation_peaks": epifoundation_peaks,
    "epifoundation_transformer": epifoundation_transformer,
    "epifoundation_bundled": epifoundation_bundled,
    "lsi": lsi,
    "harmony": harmony,
    "peakvi": peakvi,
    "poissonvi": poissonvi,
    "multivi": multivi,
    "svm": svm,
    "logistic": logistic,
    "gene_activity": gene_activity,
    "gene_mean": gene_mean,
}

# The default with one change: options of `ours`, or a change of the package if there is no option.
# Each runs in a separate process
ABLATIONS: dict[str, Callable[[], dict]] = {
    "EpiFoundation, default": dict,
    "without leave-one-out": lambda: left_in(),
    "32 clusters": lambda: {"config": ep.ModelConfig(dim=32)},
    "64 clusters": lambda: {"config": ep.ModelConfig(dim=64)},
    "256 clusters": lambda: {"config": ep.ModelConfig(dim=256)},
    "memberships with twice the temperature": lambda: {"training": ep.TrainingConfig(softness=1.0)},
    "pseudocount 15": lambda: {"training": ep.TrainingConfig(pseudocount=15.0)},
    "200 landmarks": lambda: {"training": ep.TrainingConfig(landmarks=200)},
    "2,000 landmarks": lambda: many_landmarks(),
    "sample of 2,000 cells": lambda: {"training": ep.TrainingConfig(sample=2_000)},
    "binary objective": lambda: {"config": ep.ModelConfig(objective="binary")},
    "without label columns": lambda: {"label_key": None},
    "label head without class weights": lambda: unweighted(),
}


def left_in() -> dict:
    """Training cells contribute to the vectors of their peaks, in fitting and afterwards."""
    from epifoundation.training import stages

    columns_of = stages.columns_of

    def whole(blocks, pattern, known, device):
        return columns_of(blocks, pattern, [np.full_like(each, np.nan) for each in known], device)

    stages.columns_of = whole
    return {"cells": False}


def many_landmarks() -> dict:
    """More landmarks than a tenth of the cells that a regression is fitted to."""
    from epifoundation.training import kernel_ridge

    kernel_ridge.CELLS_PER_LANDMARK = 2
    return {"training": ep.TrainingConfig(landmarks=2_000)}


def unweighted() -> dict:
    """A label head without class weights."""
    from epifoundation.training import label_head

    label_head.BALANCE = 0.0
    return {}


# --- shared


def bare(atac: AnnData) -> AnnData:
    """A copy with only the matrix, `obs` and `var`."""
    return AnnData(atac.X, obs=atac.obs.copy(), var=atac.var.copy())


def onto(atac: AnnData, split: Split) -> sp.csr_matrix:
    """Counts in the peaks of the split; other peaks are mapped by overlap."""
    if atac.var_names.equals(split.atac.var_names):
        return sp.csr_matrix(atac.X)
    projection = ep.PeakVocabulary.from_names(split.atac.var_names, genome=split.genome).projection(
        ep.genome.parse_intervals(atac.var_names)
    )
    return sp.csr_matrix(sp.csr_matrix(atac.X) @ projection)


def binary(X: sp.csr_matrix) -> sp.csr_matrix:
    """Binarize counts."""
    return sp.csr_matrix(X > 0, dtype=np.float32)


def looked_up(split: Split, embedding: np.ndarray) -> Callable[[AnnData], np.ndarray]:
    """The embedding of the cells of the split, for methods that cannot embed other cells."""
    table = pd.DataFrame(embedding, index=split.atac.obs_names)

    def embed(atac: AnnData) -> np.ndarray:
        if "changed" in atac.uns:
            raise UnfitError("cannot embed new cells")
        return table.loc[atac.obs_names].to_numpy()

    return embed


def with_probes(fitted: Fitted, split: Split, *, ridge: bool = True) -> Fitted:
    """Add labels by logistic regression and expression by ridge regression on the embedding.

    Penalty and temperature of the labels are the best on the held cells.
    """
    inner = fitted.embed(split.atac)
    mean, deviation = inner[split.train].mean(axis=0), inner[split.train].std(axis=0) + 1e-9

    def scaled(atac: AnnData) -> np.ndarray:
        return (fitted.embed(atac) - mean) / deviation

    inner = (inner - mean) / deviation
    classes, probabilities = tempered_logistic(inner, split.labels, split.train, split.held)

    def labels(atac: AnnData) -> tuple[np.ndarray, np.ndarray]:
        table = probabilities(scaled(atac))
        return classes[table.argmax(axis=1)], table

    expression = None
    if ridge and split.rna is not None:
        regression = Ridge(10.0).fit(inner[split.train], split.expression[split.train])

        def expression(atac: AnnData) -> np.ndarray:
            return regression.predict(scaled(atac))

    return replace(fitted, labels=labels, expression=expression, classes=classes)


def means_of(
    split: Split, fitted: Fitted, name: str, *, by_label: bool = True
) -> dict[str, Fitted]:
    """Expression as the mean of the 15 nearest training cells, or of the predicted label."""
    inner, measured = fitted.embed(split.atac)[split.train], split.expression[split.train]
    neighbours = NearestNeighbors(n_neighbors=15).fit(inner)
    rows = {
        f"15-NN mean, {name}": Fitted(
            expression=lambda atac: measured[
                neighbours.kneighbors(fitted.embed(atac), return_distance=False)
            ].mean(axis=1)
        )
    }
    if by_label:
        labels = split.labels[split.train]
        means = np.stack([measured[labels == label].mean(axis=0) for label in fitted.classes])
        rows[f"label mean, {name}"] = Fitted(expression=lambda atac: fitted.labels(atac)[1] @ means)
    return rows
