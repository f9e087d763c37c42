"""`docs/benchmarks.md` and its figure, of what `side_by_side.py` measured. Nothing on that page is typed but the sentences here."""

from pathlib import Path

import numpy as np
import pandas as pd

DOCS = Path(__file__).parents[1] / "docs"
LESS_IS_BETTER = (
    "ECE",
    "risk–coverage",
    "training s",
    "peak memory GB",
    "model MB",
    "false among q ≤ 0.1",
    "known against new, AUC",
)
OURS = "EpiFoundation"
README = DOCS.parent / "README.md"
MARKS = "<!-- made by benchmarks/page.py -->", "<!-- to here -->"
SUMMARISED = (OURS, "EpiFoundation, ATAC alone", "Harmony on LSI", "LSI", "linear SVM", "gene activity", "MultiVI", "PoissonVI", "PeakVI")  # fmt: skip
SUMMARY = {
    "accuracy": "accuracy",
    "macro-F1": "macro-F1",
    "ECE": "calibration error",
    "per gene": "expression, r per gene",
    "NMI": "clusters, NMI",
    "training s": "training, s",
    "embed cells/s": "cells/s",
}
DEFAULT = {
    "bone marrow": "EpiFoundation, ATAC alone"
}  # the default of a data set, where it is not `OURS`

ABOUT = {
    "SNARE-seq cortex": "7,000 cells of mouse cortex in nine batches, 25,734 peaks of which a cell has about 100 open, 1,677 genes, 22 labels (GSE126074). "
    "One batch is held out, another chooses and calibrates, seven are learned from.",
    "PBMC 51 loci": "5,000 blood cells of one donor (bundled), a fixed quarter held out; RNA is smoothed log values. A random split of cells, so **not** held-out figures.",
    "bone marrow": "10,335 cells of one donor, ATAC alone (GSE139369), a random 30 % held out: again **not** held-out figures.",
    "simulated, 50 fragments": "2,000 simulated cells, 2,000 peaks, 100 genes, 8 types, one of four batches held out; a median of 50 fragments a cell.",
    "simulated, 200 fragments": "The same with 200 fragments.",
    "simulated, 800 fragments": "The same with 800 fragments.",
}
TASKS = {
    "annotation": (
        "Annotation",
        ("Labels of the cells held out, from ATAC alone. For an embedding: logistic regression on the training cells, penalty and temperature chosen on the calibration cells, for "
        "all methods. ECE: expected calibration error; risk–coverage: area under the share of wrong labels among the surest cells."),
    ),
    "clustering": (
        "Clusters and neighbours",
        (
            "Leiden clusters of the cells held out, resolution 1 on 15 nearest neighbours for all methods, "
            "against the labels; and labels by the 15 nearest known cells. The embedding of EpiFoundation has "
            "columns for the labels of known cells, those of other methods are made without labels. Whether "
            "known cells lie apart from those held out: their share among the 15 nearest of a held-out cell, "
            "over their share of all cells (1: mixed), and the area under the ROC curve of a random forest that "
            "tells one from the other within a type (0.5: it cannot)."
        ),
    ),
    "expression": (
        "Expression",
        ("Correlation of predicted with measured expression of the cells held out (log1p of counts per 10,000): over the cells of a gene (those expressed in 30 of them), over the genes of a cell, "
        "over all entries, over cell types; AUROC of a gene being expressed. Only the first and the last two ask anything of a method: the mean of the gene has the others for free."),
    ),
    "robustness": ("Robustness", "Accuracy when cells to be annotated have fewer fragments, or peaks moved by up to 100 bases. Methods that read columns are given ours, matched by overlap."),
    "integration": (
        "Integration",
        "Scores of scib-metrics over 1,200 cells drawn at random, known and held out. Harmony, PeakVI, PoissonVI and MultiVI see all cells, PeakVI and PoissonVI with their batches; the others embed a batch that is new to them.",
    ),
    "links": ("Peak–gene links", "Planted links in 2,000 simulated cells, among peaks within 100 kb of a gene."),
    "cost": (
        "Cost",
        "One thread a process, two processes side by side. Training includes all that a method does before it can embed, and the label head; embedding is of all cells. Harmony and gene activity have no model.",
    ),
    "ablation": ("What the parts are worth", "The default with one choice made otherwise."),
}  # fmt: skip
# Why another is ahead: by data set and metric, or by who is ahead
PLANTED = "Simulated types are independent shifts of many peaks, which is what latent semantic indexing takes cells for."
REASONS: dict[tuple[str, str] | str, str] = {
    **{
        (f"simulated, {depth} fragments", metric): PLANTED
        for depth in (50, 800)
        for metric in ("accuracy", "macro-F1", "risk–coverage")
    },
    (
        "SNARE-seq cortex",
        "ECE",
    ): "It names a quarter of the cells rightly, and says as much: near the frequencies of labels, calibration is easy.",
    (
        "PBMC 51 loci",
        "risk–coverage",
    ): "Cells of one donor, split at random, have no new batch in them, which is where ours gains; why the order of its surest cells is worse we do not know.",
    (
        "PBMC 51 loci",
        "NMI",
    ): "RNA divides cells more finely than these labels do (CD4 and CD8 T cells by state), and so do clusters that were measured on it.",
    ("PBMC 51 loci", "ARI"): "The same.",
    (
        "PBMC 51 loci",
        "AUROC",
    ): "Expressed is taken to be above the median of a smoothed value, and neighbours keep more of the order of cells around it than a line does.",
    "EpiFoundation, transformer": "That is the paper's kind of encoder, trained by gradient, at many times the cost.",
    "EpiFoundation, measured scale": "That is the second head of the same model. It gives the mean of log1p of single cells, which is what is scored; the default says what the expression of a cell is, and the logarithm of a mean lies above the mean of logarithms.",
    "mean of the label by EpiFoundation": "It is made of our labels: where cells of one label are alike, means of labels are hard to beat, and they need labels.",
    "EpiFoundation, bundled recipe": "That is the default with 64 clusters.",
    "EpiFoundation, ATAC alone": "That is the same kind of encoder, whose clusters are of open peaks instead of RNA.",
    "EpiFoundation, ATAC and labels": "That is the same encoder, whose columns for labels were measured once more by `ep.tl.finetune`.",
}
# What was made otherwise in each row of the ablations
CHANGES: dict[str, str] = {
    "cells stay in the vectors of their peaks": (
        "no cell is left out of the vectors of its own peaks while regressions and heads are fitted."
    ),
    "32 clusters": "a quarter as many clusters as by default, for a smaller and faster model.",
    "64 clusters": "half as many clusters as by default.",
    "256 clusters": "twice as many clusters as by default.",
    "memberships twice as soft": (
        "memberships in clusters fall off half as fast with the squared distance."
    ),
    "pseudocount 15 instead of 5": (
        "vectors of peaks that are open in few cells are shrunken by more."
    ),
    "200 landmarks": "regressions compare a cell with fewer others.",
    "2,000 landmarks, up to every second cell": (
        "regressions compare a cell with more others than a tenth of those that they are fitted to."
    ),
    "2,000 cells sampled": (
        "components, clusters and regressions are fitted to fewer cells; vectors of peaks are "
        "measured on all, as always."
    ),
    "expressed or not, instead of counts": (
        "RNA is reduced to expressed or not, and a probability is predicted, which is nearer to "
        "log1p of shallow cells than the logarithm of a mean is; counts have the measured scale "
        "for that."
    ),
    "no columns for labels": (
        "pretrained without labels; these are read off the embedding by logistic regression, as for other methods."
    ),
    "label head: each cell counts the same": (
        "frequent labels count for more than by default, where a cell counts as the number of "
        "cells of its label to the power of -1/4."
    ),
}


def write(told):
    """The page, its figure, and the few rows of it that are in the README."""
    figure(told, DOCS / "_static" / "benchmarks.png")
    (DOCS / "benchmarks.md").write_text(head(told["meta"]) + tables(told))
    README.write_text(with_summary(README.read_text(), told))


def with_summary(readme, told):
    """A README with the main figures between its two marks."""
    before, rest = readme.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{excerpt(told)}{MARKS[1]}{rest.split(MARKS[1])[1]}"


def excerpt(told):
    """Batches of the cortex held out: one row a method, one figure a task."""
    rows = pd.DataFrame(told["rows"])
    cortex = rows[
        (rows["data"] == "SNARE-seq cortex")
        & rows["task"].isin(["annotation", "clustering", "expression", "cost"])
    ]
    mean = cortex.groupby(["method", "metric"])["value"].mean().unstack()
    lines = ["| | " + " | ".join(SUMMARY.values()) + " |", "|---" * (len(SUMMARY) + 1) + "|"]
    for method in (name for name in SUMMARISED if name in mean.index):
        cells = [number(mean.loc[method, metric], np.nan, False) for metric in SUMMARY]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def head(meta):
    again = (
        f"; measured again afterwards: {', '.join(meta['measured again']).replace('_', ' ')}"
        if "measured again" in meta
        else ""
    )
    versions = ", ".join(f"{name} {number}" for name, number in meta["versions"].items())
    return f"""# Benchmarks

Every method on every task, in one run: `make bench`. This page is made of its results (`benchmarks/results/side_by_side.json`); {meta["date"]}, {meta["machine"]}, Python
{meta["python"]}, {versions}; {meta["minutes"]:.0f} minutes, {meta["threads"]}{again}. A figure is the mean of three folds ± their standard deviation; the seed is the number of the fold. Bold
is the best of a column. What is meant by EpiFoundation without more is `ep.tl.pretrain` with its defaults, then `ep.tl.annotate` and `ep.tl.predict_expression`.

EpiFoundation counts each cell once; the rows of its transformer are trained by gradient and see about 80,000 cells. PeakVI, PoissonVI and MultiVI see 100,000 cells in training (14 epochs of
the cortex), and the ATAC of all cells, those held out included: their defaults (500 epochs, or until nothing improves) would take hours here.

```{{image}} _static/benchmarks.png
:alt: Annotation of held-out batches by method; wrong labels against coverage; accuracy against fragments lost; accuracy and correlation against depth
```

"""


def tables(told):
    """All tables, as markdown."""
    rows = pd.DataFrame(told["rows"])
    scored = rows[rows["value"].notna()]
    parts = []
    for task, (title, text) in TASKS.items():
        some = scored[scored["task"] == task]
        if some.empty:
            continue
        parts.append(f"## {title}\n\n{text}\n")
        for data in some["data"].unique():
            if task == "annotation":
                parts.append(f"### {data}\n\n{ABOUT.get(data, '')}\n")
            else:
                parts.append(f"### {title}: {data}\n")
            part = some[some["data"] == data]
            parts.append(table(part, keep_order=task == "ablation"))
            parts.append(
                changes(part)
                if task == "ablation"
                else told_of_others(part, data)
                if task != "cost"
                else ""
            )
    if "why" in rows:
        parts.append(failures(rows[rows["why"].notna()]))
    return "\n".join(part for part in parts if part)


def summary(part):
    """Mean and standard deviation over folds, methods x metrics, in the order in which they were measured."""
    metrics = list(dict.fromkeys(part["metric"]))
    by = part.groupby(["method", "metric"])["value"]
    return by.mean().unstack()[metrics], by.std(ddof=1).unstack()[metrics]


def table(part, *, keep_order=False):
    mean, spread = summary(part)
    first = mean.columns[0]
    order = mean[first].sort_values(ascending=first in LESS_IS_BETTER).index
    if keep_order:
        order = [f"{OURS}, default", *(name for name in order if name != f"{OURS}, default")]
    best = {
        metric: mean[metric].min() if metric in LESS_IS_BETTER else mean[metric].max()
        for metric in mean
    }
    lines = ["| | " + " | ".join(mean.columns) + " |", "|---" * (len(mean.columns) + 1) + "|"]
    for method in order:
        cells = [
            number(mean.loc[method, m], spread.loc[method, m], mean.loc[method, m] == best[m])
            for m in mean
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def number(mean, spread, is_best):
    if not np.isfinite(mean):
        return "–"
    digits = 3 if abs(mean) < 10 else 1 if abs(mean) < 1000 else 0
    text = f"{mean:,.{digits}f}" + (f" ± {spread:,.{digits}f}" if np.isfinite(spread) else "")
    return f"**{text}**" if is_best else text


def told_of_others(part, data):
    """A sentence for each column in which our default is not first."""
    mean, spread = summary(part)
    default = DEFAULT.get(data, OURS)
    if default not in mean.index:
        return ""
    sentences = []
    for metric in mean:
        values = mean[metric].dropna()
        if default not in values:
            continue
        sign = -1 if metric in LESS_IS_BETTER else 1
        leader = (sign * values).idxmax()
        if leader == default or abs(values[leader] - values[default]) < 5e-4:
            continue
        gap = abs(values[leader] - values[default])
        noise = np.nanmax([spread.loc[leader, metric], spread.loc[default, metric]])
        within = (
            ""
            if not np.isfinite(noise)
            else " (within the spread)"
            if gap <= noise
            else " (outside the spread)"
        )
        why = REASONS.get((data, metric)) or REASONS.get(leader, "")
        sentences.append(
            f"* {metric}: {leader} has {values[leader]:.3f}, {default} {values[default]:.3f}{within}. {why}".rstrip()
        )
    return (
        "Not first:\n\n" + "\n".join(sentences) + "\n"
        if sentences
        else f"{default} is first in every column.\n"
    )


def changes(part):
    there = set(part["method"])
    lines = [f"* **{name}**: {what}" for name, what in CHANGES.items() if name in there]
    return "\n".join(lines) + "\n" if lines else ""


def failures(rows):
    told = (
        rows.assign(task=rows["task"].fillna(""))
        .groupby(["data", "method", "task", "why"], sort=False)
        .size()
    )
    lines = ["## What could not be run", "", "| data | method | task | why |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(key)} |" for key in told.index]) + "\n"


def figure(told, path):
    """Four panels: annotation by fold, risk and coverage, thinning, depth."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = pd.DataFrame(told["rows"])
    cortex = rows[rows["data"] == "SNARE-seq cortex"]
    shown = [
        OURS,
        "EpiFoundation, ATAC alone",
        "linear SVM",
        "logistic regression",
        "LSI",
        "PeakVI",
        "MultiVI",
    ]
    shown = [name for name in shown if name in set(cortex["method"])]
    colours = {name: f"C{i}" for i, name in enumerate(shown)}
    drawn, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")

    for offset, metric, marker in ((-0.12, "accuracy", "o"), (0.12, "macro-F1", "s")):
        for at, name in enumerate(shown):
            some = cortex[
                (cortex["task"] == "annotation")
                & (cortex["method"] == name)
                & (cortex["metric"] == metric)
            ]
            axes[0].plot(
                some["value"], [at + offset] * len(some), marker, color=colours[name], ms=4
            )
    axes[0].set_yticks(range(len(shown)), shown)
    axes[0].invert_yaxis()
    axes[0].set(
        title="cortex, batches held out", xlabel="accuracy (round), macro-F1 (square)", xlim=(0, 1)
    )

    for name in shown:
        curves = cortex[(cortex["task"] == "risk curve") & (cortex["method"] == name)].get("values")
        if curves is not None and len(curves):
            axes[1].plot(
                np.arange(0.05, 1.001, 0.05),
                np.mean(list(curves), axis=0),
                color=colours[name],
                label=name,
            )
    axes[1].set(
        title="wrong among the surest",
        xlabel="share of cells",
        ylabel="share wrong",
        ylim=(0, None),
    )

    lost = {"50% fewer fragments": 50, "75% fewer fragments": 75, "90% fewer fragments": 90}
    for name in shown:
        mine = cortex[cortex["method"] == name]
        whole = mine[(mine["task"] == "annotation") & (mine["metric"] == "accuracy")][
            "value"
        ].mean()
        thin = mine[mine["task"] == "robustness"].groupby("metric")["value"].mean()
        if len(thin):
            axes[2].plot(
                [0, *lost.values()],
                [whole, *(thin[key] for key in lost)],
                "o-",
                color=colours[name],
                ms=3,
            )
    axes[2].set(title="fragments lost", xlabel="% of fragments", ylabel="accuracy", ylim=(0, None))

    for name in shown:
        points = []
        for depth in (50, 200, 800):
            mine = rows[
                (rows["data"] == f"simulated, {depth} fragments") & (rows["method"] == name)
            ]
            points.append(
                mine[(mine["task"] == "annotation") & (mine["metric"] == "accuracy")][
                    "value"
                ].mean()
            )
        axes[3].plot([50, 200, 800], points, "o-", color=colours[name], ms=3, label=name)
    axes[3].set(
        title="simulated cells",
        xlabel="median fragments",
        ylabel="accuracy",
        xscale="log",
        ylim=(0, 1.02),
    )
    axes[3].set_xticks([50, 200, 800], ["50", "200", "800"])
    axes[3].minorticks_off()
    axes[3].legend(fontsize=7, frameon=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    drawn.savefig(path, dpi=130)
    plt.close(drawn)
