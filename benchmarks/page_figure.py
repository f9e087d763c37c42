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
LOST = (50, 75, 90)  # % of the fragments


def figure(results, path):
    """Draw annotation by fold, risk-coverage curves, and accuracy with fewer fragments."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = pd.DataFrame(results["rows"])
    cortex = rows[rows["data"] == CORTEX]
    drawn, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for i, name in enumerate(SHOWN):
        method = cortex[cortex["method"] == name]
        style = {"color": f"C{i}", "label": name}
        for offset, metric, marker in ((-0.12, "accuracy", "o"), (0.12, "macro-F1", "s")):
            values = of(method, "annotation", metric)
            axes[0].plot(values, [i + offset] * len(values), marker, ms=4, **style)
        curves = method.loc[method["task"] == "risk curve", "values"]
        if len(curves):
            axes[1].plot(np.arange(0.05, 1.001, 0.05), np.mean(list(curves), axis=0), **style)
        accuracy = [of(method, "annotation", "accuracy").mean()]
        accuracy += [of(method, "robustness", f"{n}% fewer fragments").mean() for n in LOST]
        if np.isfinite(accuracy).all():
            axes[2].plot([0, *LOST], accuracy, "o-", ms=3, **style)
    axes[0].set_yticks(range(len(SHOWN)), SHOWN)
    axes[0].invert_yaxis()
    axes[0].set(title="annotation of held-out batches", xlim=(0, 1))
    axes[0].set_xlabel("accuracy (circles), macro-F1 (squares)")
    axes[1].set(title="risk-coverage", xlabel="fraction of cells, by confidence", ylabel="error")
    axes[1].set_ylim(0, None)
    axes[1].legend(fontsize=7, frameon=False)
    axes[2].set(title="fewer fragments", xlabel="% of fragments lost", ylabel="accuracy")
    axes[2].set_ylim(0, None)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    drawn.savefig(path, dpi=130)
    plt.close(drawn)


def of(rows, task, metric):
    """The values of a metric, one per fold."""
    return rows.loc[(rows["task"] == task) & (rows["metric"] == metric), "value"]
