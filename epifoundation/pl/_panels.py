"""Panels that have room for their legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LINE = 0.2  # height of a line of a legend in inches
PAD = 0.15  # between panels, in inches


def fit_panels(axes: Sequence[Any], n_columns: int) -> None:
    """Enlarge the figure of the panels until none covers another or is cut.

    Panels keep their size; each column and row has the room of its widest and highest legend.
    """
    from matplotlib.transforms import Bbox

    figure = axes[0].figure
    figure.draw_without_rendering()
    bars = [_colorbar(ax) for ax in axes]
    in_inches = figure.dpi_scale_trans.inverted()
    boxes = [ax.get_window_extent().transformed(in_inches) for ax in axes]
    width, height = (min(getattr(box, side) for box in boxes) for side in ("width", "height"))
    for ax in axes:
        _fold_legend(ax, height)
    figure.draw_without_rendering()
    places = [divmod(i, n_columns) for i in range(len(axes))]
    left, right = [0.0] * n_columns, [0.0] * n_columns
    above, below = ([0.0] * (places[-1][0] + 1) for _ in range(2))
    offsets = []
    for ax, bar, box, (row, column) in zip(axes, bars, boxes, places, strict=True):
        parts = [part.get_tightbbox() for part in (ax, bar) if part is not None]
        whole = Bbox.union([part for part in parts if part is not None]).transformed(in_inches)
        left[column] = max(left[column], box.x0 - whole.x0)
        right[column] = max(right[column], whole.x1 - box.x1)
        above[row] = max(above[row], whole.y1 - box.y1)
        below[row] = max(below[row], box.y0 - whole.y0)
        extent = None if bar is None else bar.get_window_extent().transformed(in_inches)
        offsets.append((0.0, 0.0) if extent is None else (extent.x0 - box.x1, extent.width))
    total_width = sum(left) + sum(right) + n_columns * (width + 2 * PAD)
    total_height = sum(above) + sum(below) + len(above) * (height + 2 * PAD)
    figure.set_size_inches(total_width, total_height)
    for ax, bar, offset, (row, column) in zip(axes, bars, offsets, places, strict=True):
        x = sum(left[: column + 1]) + sum(right[:column]) + column * (width + 2 * PAD) + PAD
        y = total_height - sum(above[: row + 1]) - sum(below[:row])
        y -= (row + 1) * height + row * 2 * PAD + PAD
        size = (width / total_width, height / total_height)
        ax.set_position([x / total_width, y / total_height, *size])
        if bar is not None:
            start, bar_width = offset
            place = (x + width + start) / total_width, y / total_height
            bar.set_axes_locator(None)
            bar.set_position([*place, bar_width / total_width, size[1]])


def _colorbar(ax: Any) -> Any:
    """The axes of the colour bar of a panel, or None."""
    found = (getattr(each, "colorbar", None) for each in ax.collections)
    return next((bar.ax for bar in found if bar is not None), None)


def _fold_legend(ax: Any, height: float) -> None:
    """Give a legend beside a panel as few columns as fit its height."""
    legend = ax.get_legend()
    if legend is None or not legend.get_bbox_to_anchor().x0 >= ax.bbox.x1 - 1:
        return
    handles, names = ax.get_legend_handles_labels()
    ax.legend(
        handles,
        names,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        ncol=max(round(len(names) * LINE / height + 0.3), 1),
        prop=legend.get_texts()[0].get_fontproperties(),
    )
