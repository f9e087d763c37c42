"""Texts of the benchmark pages."""

OURS = "EpiFoundation"
CORTEX, SIMULATED = "SNARE-seq cortex", "simulated, 200 fragments"

DATA = {
    CORTEX: "7,000 cells of mouse cortex (GSE126074): nine batches, 22 labels, 1,677 genes and "
    "25,734 peaks, of which about 100 are open in a cell. One batch is held out, another one is "
    "used for validation and calibration, and seven are used for training (eight by the set "
    "encoders of EpiFoundation, whose final fit includes the validation batch). The three folds "
    "hold out batches 09A, 09C and 09G; no option was chosen on them.",
    "PBMC 51 loci": "5,000 blood cells of one donor (bundled with the package). A fixed random "
    "quarter of the cells is held out, so there is **no** held-out batch. RNA is smoothed and "
    "log-transformed.",
    "bone marrow": "10,335 cells of one donor, ATAC alone (GSE139369). A random 30 % of the cells "
    "is held out, so there is **no** held-out batch.",
    "simulated, 50 fragments": "2,000 simulated cells with a median of 50 fragments: 2,000 peaks, "
    "100 genes, 8 cell types, four batches, one of which is held out.",
    SIMULATED: "The same with a median of 200 fragments.",
    "simulated, 800 fragments": "The same with a median of 800 fragments.",
    "simulated, planted links": "2,000 simulated cells with planted links; candidates are all "
    "peaks within 100 kb of a gene.",
}
# The data sets of the first page; all other tables are on the second one
FIRST = {
    "annotation": (CORTEX,),
    "clustering": (CORTEX,),
    "expression": (CORTEX,),
    "robustness": (CORTEX,),
    "integration": (CORTEX, SIMULATED),
    "links": ("simulated, planted links",),
    "cost": (CORTEX,),
}
TITLES = {
    "annotation": "Annotation",
    "clustering": "Clustering",
    "expression": "Expression",
    "robustness": "Robustness",
    "integration": "Integration",
    "links": "Peak-gene links",
    "cost": "Cost",
}
COLUMNS = {
    "annotation": "Labels of the held-out cells, predicted from ATAC. For methods that give an "
    "embedding, labels are predicted by logistic regression, with the penalty and temperature "
    "chosen on the validation cells. ECE is the expected calibration error. Risk–coverage is the "
    "area under the curve of the error among the most confident cells.",
    "clustering": "Leiden clusters of the held-out cells (resolution 1, 15 nearest neighbours) "
    "are compared with the labels by NMI and ARI. The 15-NN columns predict the label from the "
    "nearest training cells. The last two columns measure whether training cells are separated "
    "from held-out cells: the fraction of training cells among the 15 nearest neighbours of a "
    "held-out cell, relative to their fraction of all cells (1 is perfect mixing), and the area "
    "under the ROC curve of a random forest that distinguishes them within a cell type (0.5 is "
    "perfect mixing). The embedding of EpiFoundation contains columns for the labels of the "
    "training cells; the other embeddings are made without labels.",
    "expression": "Correlation of predicted and measured expression (`log1p` of counts per "
    "10,000) in the held-out cells: over the cells of a gene (genes expressed in at least 30 "
    "cells), over the genes of a cell, over all entries, and over the means of cell types. AUROC "
    "is for a gene being expressed. *Per cell* and *pooled* are high even for the mean of each "
    "gene; compare methods by the other columns.",
    "robustness": "Accuracy of the labels if held-out cells have fewer fragments, or if each of "
    "their peaks is shifted by up to 100 bp. For methods with a fixed peak set, shifted peaks are "
    "mapped by overlap.",
    "integration": "Scores of scib-metrics for 1,200 random cells, training and held-out. These "
    "methods embed a held-out batch without having seen it.",
    "links": "Planted links among all pairs of a gene and a peak within 100 kb. AUPRC is the area "
    "under the precision-recall curve. *Model alone* ranks pairs by the effect of the peak "
    "through the embedding; *correlation* ranks them by the correlation of accessibility and "
    "expression.",
    "cost": "One thread per process, two processes at a time. Training includes all steps before "
    "cells can be embedded, and the label head. All cells are embedded; speed depends on the "
    "number of open peaks per cell.",
}
# Description and training of each method
METHODS = {
    OURS: "`ep.tl.pretrain` on ATAC, RNA and labels, with default options; one pass",
    "EpiFoundation, 64 clusters": "the same with `ModelConfig(dim=64)`; one pass",
    "EpiFoundation, ATAC alone": '`objective="peaks"`, labels, no RNA; one pass',
    "EpiFoundation, ATAC and labels": "the previous model after `ep.tl.finetune` with the same "
    "labels; two passes",
    "EpiFoundation, transformer": "the encoder of the paper in a small version: width 64, two "
    "layers; gradient descent, about 80,000 cells seen",
    "EpiFoundation, measured scale": 'the first model with `predict_expression(scale="measured")`, '
    "the mean of `log1p`",
    "label mean, EpiFoundation": "mean expression of each label, weighted by the predicted "
    "probabilities",
    "15-NN mean": "mean expression of the 15 nearest training cells",
    "LSI": "latent semantic indexing with muon: TF-IDF, 51 components without the first; ridge "
    "regression for expression",
    "Harmony on LSI": "harmonypy on the LSI of all cells, including the held-out ones; default "
    "options",
    "linear SVM, logistic regression": "on binary peaks, with the penalty chosen on the validation "
    "cells; one fit per penalty (4 and 3)",
    "PeakVI, PoissonVI, MultiVI": "scvi-tools with default options except the number of epochs, on "
    "the ATAC of all cells, including the held-out ones; PeakVI and PoissonVI also get the "
    "batches; 100,000 cells seen, 14 epochs of the cortex",
    "gene activity": "`ep.tl.gene_activity`: counts over and near each gene",
    "gene mean": "the mean of each gene in the training cells",
}
# Names of jobs in ``side_by_side.json``, if they differ from those in the tables
JOBS = {
    "epifoundation": OURS,
    "epifoundation_bundled": "the bundled model",
    "epifoundation_peaks": "EpiFoundation, ATAC alone",
    "epifoundation_transformer": "EpiFoundation, transformer",
    "lsi": "LSI",
}
# Epochs of the scvi-tools models, which are shown with their name
EPOCHS = {CORTEX: 14, "bone marrow": 10, SIMULATED: 50}
SCVI = ("PeakVI", "PoissonVI", "MultiVI")

# Why another method is better: by data set and metric, or by method
PLANTED = (
    "The simulated cell types differ by independent shifts of many peaks, which suits a linear "
    "decomposition."
)
REASONS: dict[tuple[str, str] | str, str] = {
    **{
        (f"simulated, {depth} fragments", metric): PLANTED
        for depth in (50, 200, 800)
        for metric in ("accuracy", "macro-F1", "risk–coverage")
    },
    (CORTEX, "ECE"): "PeakVI and PoissonVI label only a quarter of the cells correctly, with a "
    "confidence to match.",
    **{
        (data, metric): "The default is the logarithm of the mean count, which is above the mean "
        "of logarithms that is measured here. *Measured scale* predicts the latter."
        for data in (CORTEX, *(f"simulated, {depth} fragments" for depth in (50, 200, 800)))
        for metric in ("per cell", "pooled")
    },
    ("PBMC 51 loci", "AUROC"): "For smoothed values, expressed means above the median. Means of "
    "neighbours order cells around the median better than a linear decoder.",
    "label mean, EpiFoundation": "The label mean is hard to beat if cells of a label are similar, "
    "but it shows no differences within a label.",
}
ABLATION = "Each row changes one choice of the default, on the cortex."
ABLATION_METRICS = ("accuracy", "macro-F1", "ECE", "risk–coverage", "per gene", "AUROC")
CHANGES = {
    "without leave-one-out": "training cells contribute to the vectors of their own peaks",
    "32 clusters": "a quarter of the default number",
    "64 clusters": "half of the default number",
    "256 clusters": "twice the default number",
    "memberships with twice the temperature": "`TrainingConfig(softness=1)`",
    "pseudocount 15": "instead of 5: vectors of rare peaks are shrunk more",
    "200 landmarks": "fewer landmarks of the kernel regressions",
    "2,000 landmarks": "up to half of the sample, instead of a tenth",
    "sample of 2,000 cells": "components, clusters and regressions are fitted to fewer cells; peak "
    "vectors still use all cells",
    "binary objective": "RNA is binarized and a probability is predicted. For shallow cells, this "
    "is closer to measured `log1p` values than the logarithm of a mean; models of counts have "
    '`scale="measured"` for this purpose',
    "without label columns": "pretraining without labels; labels are predicted from the embedding "
    "by logistic regression, as for other methods",
    "label head without class weights": "the default weight is `n_label ** -0.25`",
}
