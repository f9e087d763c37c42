"""The figure of the benchmark page."""

import numpy as np
import pandas as pd
from page_text import CORTEX

SHOWN = (
    "EpiFoundation",
    "EpiFoundation, ATAC alone",
    "Harmony on LSI",
    "LSI",
    "linear SVM",
    "logistic regression",
)
DEPTHS = [50, 200, 800]


def figure(results, path):
    """Draw annotation by fold, risk-coverage curves, lost fragments, and depth."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = pd.DataFrame(results["rows"])
    cortex = rows[rows["data"] == CORTEX]
    drawn, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    for i, name in enumerate(SHOWN):
        ours = cortex[cortex["method"] == name]
        style = {"color": f"C{i}", "label": name}
        accuracy = of(ours, "annotation", "accuracy")
        for offset, metric, marker in ((-0.12, "accuracy", "o"), (0.12, "macro-F1", "s")):
            values = of(ours, "annotation", metric)
            axes[0].plot(values, [i + offset] * len(values), marker, ms=4, **style)
        curves = ours.loc[ours["task"] == "risk curve", "values"]
        if len(curves):
            axes[1].plot(np.arange(0.05, 1.001, 0.05), np.mean(list(curves), axis=0), **style)
        thinned = [
            of(ours, "robustness", f"{lost}% fewer fragments").mean() for lost in (50, 75, 90)
        ]
        if np.isfinite(thinned).all():
            axes[2].plot([0, 50, 75, 90], [accuracy.mean(), *thinned], "o-", ms=3, **style)
        depth = [
            of(rows[rows["method"] == name], "annotation", "accuracy", f"simulated, {n} fragments")
            for n in DEPTHS
        ]
        axes[3].plot(DEPTHS, [values.mean() for values in depth], "o-", ms=3, **style)
    axes[0].set_yticks(range(len(SHOWN)), SHOWN)
    axes[0].invert_yaxis()
    axes[0].set(title="cortex, held-out batches", xlim=(0, 1))
    axes[0].set_xlabel("accuracy (circles), macro-F1 (squares)")
    axes[1].set(title="risk-coverage", xlabel="fraction of cells, by confidence", ylabel="error")
    axes[1].set_ylim(0, None)
    axes[2].set(title="cortex, lost fragments", xlabel="% of fragments lost", ylabel="accuracy")
    axes[2].set_ylim(0, None)
    axes[3].set(title="simulated cells", xlabel="median fragments", ylabel="accuracy")
    axes[3].set(xscale="log", ylim=(0, 1.02))
    axes[3].set_xticks(DEPTHS, [str(n) for n in DEPTHS])
    axes[3].minorticks_off()
    axes[3].legend(fontsize=7, frameon=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    drawn.savefig(path, dpi=130)
    plt.close(drawn)


def of(rows, task, metric, data=CORTEX):
    """The values of a metric, one per fold."""
    return rows.loc[
        (rows["task"] == task) & (rows["metric"] == metric) & (rows["data"] == data), "value"
    ]
