"""Write the benchmark pages, their figure and the table of the README from the results.

All numbers come from ``side_by_side.json``; the sentences are in ``page_text.py``.
"""

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from page_figure import figure
from page_text import (
    ABLATION,
    ABLATION_METRICS,
    CHANGES,
    COLUMNS,
    CORTEX,
    DATA,
    EPOCHS,
    FIRST,
    JOBS,
    METHODS,
    OURS,
    REASONS,
    SCVI,
    TITLES,
)

DOCS = Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"
LESS_IS_BETTER = (
    "ECE",
    "risk–coverage",
    "training s",
    "peak memory GB",
    "model MB",
    "FDR at q ≤ 0.1",
    "training vs. test, AUROC",
)
DEFAULT = {"bone marrow": "EpiFoundation, ATAC alone"}  # `OURS` needs RNA
MARKS = "<!-- made by benchmarks/page.py -->", "<!-- to here -->"
SUMMARY = {
    "accuracy": "accuracy",
    "macro-F1": "macro-F1",
    "ECE": "calibration error",
    "NMI": "clusters, NMI",
    "per gene": "expression, r per gene",
    "training s": "training, s",
    "embed cells/s": "cells/s",
}
SUMMARISED = (
    OURS,
    "EpiFoundation, ATAC alone",
    "Harmony on LSI",
    "LSI",
    "linear SVM",
    "logistic regression",
    "gene activity",
)


def write(results):
    """Write both pages, the figure and the table of the README."""
    figure(results, DOCS / "_static" / "benchmarks.png")
    (DOCS / "benchmarks.md").write_text(first_page(results))
    (DOCS / "benchmarks_all.md").write_text(second_page(results))
    README.write_text(with_summary(README.read_text(), results))


def with_summary(readme, results):
    """The README with the summary between its two marks."""
    before, rest = readme.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{excerpt(results)}{MARKS[1]}{rest.split(MARKS[1])[1]}"


def excerpt(results):
    """One row per method and one column per task, for the held-out batches of the cortex."""
    rows = pd.DataFrame(results["rows"])
    tasks = ["annotation", "clustering", "expression", "cost"]
    cortex = rows[(rows["data"] == CORTEX) & rows["task"].isin(tasks)]
    mean = cortex.groupby(["method", "metric"])["value"].mean().unstack()
    lines = header(["", *SUMMARY.values()])
    for method in (name for name in SUMMARISED if name in mean.index):
        lines.append(row([method, *(number(m, mean.loc[method, m]) for m in SUMMARY)]))
    return "\n".join(lines) + "\n"


def first_page(results):
    """Methods and settings, and the tables of `FIRST`."""
    meta = results["meta"]
    versions = ", ".join(f"{name} {number}" for name, number in meta["versions"].items())
    methods = header(["method", "description and training"])
    methods += [row([name, about]) for name, about in METHODS.items()]
    text = f"""# Benchmarks

EpiFoundation and other methods on held-out cells: annotation, clustering, expression, integration,
peak-gene links and cost. This page has the data set with held-out batches, and simulated cells for
integration and links. [All other data sets and the ablations](benchmarks_all.md) are on a second
page. `make bench` measures everything again.

```{{image}} _static/benchmarks.png
:alt: Accuracy of annotation by method; error by coverage; accuracy by fraction of lost fragments
```

Values are means ± standard deviations of three folds. The best value of a column is bold. Below a
table are the methods that are better than the default, except other versions of EpiFoundation.

{wrapped(f"**{CORTEX}.** {DATA[CORTEX]}")}

PeakVI, PoissonVI and MultiVI are not trained to convergence: the number of epochs is given with
their names, and the default is 500. Their rows show what they reach in about 200 seconds on one
thread. Training with their default options would take hours per fold on this machine.
[Methods](#methods) describes each row.

"""
    parts = [text]
    for task in TITLES:
        parts += [f"## {TITLES[task]}\n\n{wrapped(COLUMNS[task])}\n"]
        for data in FIRST[task]:
            if len(FIRST[task]) > 1:
                parts.append(f"### {TITLES[task]}: {data}\n")
            parts.append(table(results, task, data))
    again = "; ".join(JOBS.get(name, name) for name in meta["measured again"])
    machine = f"{meta['machine']}; {meta['threads']}; {meta['minutes']:.0f} minutes in total, on "
    machine += f"{meta['date']}. The seed is the number of the fold. After the first complete run, "
    machine += f"these parts were measured again with later revisions: {again}. Results are in "
    machine += f"`benchmarks/results/side_by_side.json`. Python {meta['python']}, {versions}."
    return (
        "\n".join(parts)
        + f"""
## Methods

{chr(10).join(methods)}

## How it was measured

{wrapped(machine)}
"""
    )


def second_page(results):
    """All other tables, by data set; ablations; methods that could not be run."""
    parts = [
        "# Other data sets and ablations\n",
        (
            "These tables complete the [benchmarks](benchmarks.md), which describe the methods and "
            "the columns.\n"
        ),
    ]
    for data, about in DATA.items():
        found = [(task, table(results, task, data)) for task in TITLES if data not in FIRST[task]]
        found = [(task, text) for task, text in found if text]
        if found:
            parts.append(f"## {data[0].upper()}{data[1:]}\n\n{wrapped(about)}\n")
            parts += [f"### {TITLES[task]}: {data}\n\n{text}" for task, text in found]
    parts += [f"## Ablations\n\n{wrapped(ABLATION)}\n", ablation(results)]
    return "\n".join([*parts, failures(pd.DataFrame(results["rows"]))])


def tables(results):
    """All tables, for the terminal."""
    found = [(task, data, table(results, task, data)) for data in DATA for task in TITLES]
    return "\n".join(f"{TITLES[task]}: {data}\n\n{text}" for task, data, text in found if text)


def table(results, task, data):
    """The table of a task and data set, and where a method of others is better; or no text."""
    rows = pd.DataFrame(results["rows"])
    rows = rows[(rows["task"] == task) & (rows["data"] == data) & rows["value"].notna()]
    if task == "cost":  # methods without a model, and without training
        rows = rows[~rows["method"].isin(["gene activity", "gene mean"])]
        rows = rows[(rows["metric"] != "model MB") | (rows["value"] > 0)]
    if rows.empty:
        return ""
    mean, spread = summary(rows)
    if task == "cost":
        order = ["training s", "embed cells/s", "peak memory GB", "model MB"]
        mean, spread = mean[order], spread[order]
    first = mean.columns[0]
    order = mean[first].sort_values(ascending=first in LESS_IS_BETTER).index
    text = markdown(mean.loc[order], spread, lambda name: shown(name, data))
    return text if task == "cost" else f"{text}{better(mean, spread, data)}"


def ablation(results):
    """The default and its changes, with a description of each."""
    rows = pd.DataFrame(results["rows"])
    rows = rows[(rows["task"] == "ablation") & rows["metric"].isin(ABLATION_METRICS)]
    mean, spread = summary(rows)
    changes = [name for name in CHANGES if name in mean.index]
    text = markdown(mean.loc[[f"{OURS}, default", *changes]], spread)
    items = [wrapped(f"* **{name}**: {CHANGES[name]}.", "  ") for name in changes]
    return "\n".join([text, *items]) + "\n"


def wrapped(text, indent=""):
    """Text in lines of at most 100 columns."""
    return fill(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def summary(rows):
    """Mean and standard deviation over folds, methods x metrics."""
    metrics = list(dict.fromkeys(rows["metric"]))
    by = rows.groupby(["method", "metric"])["value"]
    return by.mean().unstack()[metrics], by.std(ddof=1).unstack()[metrics]


def markdown(mean, spread, name_of=str):
    """A table of means and standard deviations; the best of each column is bold."""
    best = {m: mean[m].min() if m in LESS_IS_BETTER else mean[m].max() for m in mean}
    lines = header(["", *mean.columns])
    for method in mean.index:
        cells = [
            number(m, mean.loc[method, m], spread.loc[method, m], mean.loc[method, m] == best[m])
            for m in mean
        ]
        lines.append(row([name_of(method), *cells]))
    return "\n".join([":::{container} numbers", *lines, ":::"]) + "\n"


def header(names):
    """The head of a Markdown table: text on the left, numbers on the right."""
    return [row(names), "|---" * len(names) + "|"]


def row(cells):
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |".replace("|  |", "| |", 1)


def shown(method, data):
    """The name of a method, with the epochs if these are not its default."""
    return f"{method} ({EPOCHS[data]} epochs)" if method in SCVI else method


def number(metric, mean, spread=np.nan, is_best=False):
    """A number and its spread in one cell, which does not break."""
    if not np.isfinite(mean):
        return "–"
    if metric == "training s" and mean < 0.001:  # not trained
        return "–"
    digits = 3 if abs(mean) < 10 else 1 if abs(mean) < 1000 else 0
    if metric == "training s":
        digits = 1
    text = f"{mean:,.{digits}f}"
    if np.isfinite(spread):
        text += f"\u00a0±\u00a0{spread:,.{digits}f}"
    return f"**{text}**" if is_best else text


def better(mean, spread, data):
    """A line for each column in which methods of others are better than the default."""
    default = DEFAULT.get(data, OURS)
    if default not in mean.index:
        return ""
    lines = []
    for metric in mean:
        sign = -1 if metric in LESS_IS_BETTER else 1
        gaps = (sign * (mean[metric] - mean.loc[default, metric])).dropna()
        gaps = gaps[[name for name in gaps.index if not name.startswith(OURS)]]
        gaps = gaps[gaps >= 5e-4].sort_values(ascending=False)
        if gaps.empty:
            continue
        names = [f"{shown(name, data)} {mean.loc[name, metric]:.3f}" for name in gaps.index[:3]]
        names += [f"{len(gaps) - 3} more"] * (len(gaps) > 3)
        text = f"* {metric} ({default} {mean.loc[default, metric]:.3f}): {'; '.join(names)}"
        noise = spread.loc[[gaps.index[0], default], metric].max()
        text += " (within one standard deviation)" if gaps.iloc[0] <= noise else ""
        why = REASONS.get((data, metric)) or REASONS.get(gaps.index[0], "")
        lines.append(f"{text}. {why}".rstrip() if why not in "".join(lines) else f"{text}.")
    lines = [wrapped(line, "  ") for line in lines]
    return f"\nBetter than {default}:\n\n" + "\n".join(lines) + "\n" if lines else ""


def failures(rows):
    """The methods that could not be run, with the reason."""
    rows = rows[rows["why"].notna()] if "why" in rows else rows[:0]
    if rows.empty:
        return ""
    rows = rows.assign(task=rows["task"].fillna("all"))
    keys = rows.groupby(["data", "method", "task", "why"], sort=False).size().index
    lines = ["## Methods that could not be run", "", *header(["data", "method", "task", "reason"])]
    return "\n".join(lines + [row(key) for key in keys]) + "\n"
