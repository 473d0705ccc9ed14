"""House style of the pictures: palettes, fonts, axes.

Palettes can be told apart by colour-blind readers, and fonts are large enough for a projector.
Normal is blue and abnormal is orange throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

PALETTE = sns.color_palette("colorblind")
NORMAL_COLOUR, ABNORMAL_COLOUR = PALETTE[0], PALETTE[1]
OUTLINE = "#56ff9b"  # light green: visible on grey images and on the maps' purple and yellow
#: Settings of every picture, and of those with axes: `@plt.rc_context(CHART)`.
FONT = {"font.size": 12, "axes.titlesize": 12, "axes.labelsize": 12, "figure.dpi": 80}
CHART = FONT | {"axes.spines.top": False, "axes.spines.right": False}
CHANCE = {"color": "0.6", "linewidth": 1, "linestyle": ":"}  # a line at an AUC of 50
#: What a score method is called in pictures.
METHOD_TITLES = {
    "ensemble": "Ens: error of the mean",
    "output": "Unc: output space (Eq. 5)",
    "dual": "DSU: dual space (Eq. 6)",
    "input": "input gradient only",
}


def axes_grid(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    layout: str = "constrained",
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches and its axes, [rows, columns] also where one of these is 1.

    Args:
        rows: panels below one another.
        columns: panels side by side.
        size: width and height of the figure.
        layout: matplotlib's engine that keeps labels apart; "compressed" for images.
        options: of matplotlib.pyplot.subplots.
    """
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **options)


def legend_beside(axis: Axes) -> None:
    """The legend at the right of an axis, where it hides nothing."""
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=10, frameon=False)


def legend_entry(label: str, marker: str, colour: Any, **look: Any) -> Line2D:
    """What a marker means, for `legend_below`."""
    return Line2D([], [], **{"linestyle": ""} | look, marker=marker, color=colour, label=label)


def legend_below(figure: Figure, entries: Sequence[Line2D], size: float = 10) -> None:
    """One line of entries below all panels."""
    place = "outside lower center"
    figure.legend(handles=entries, loc=place, ncols=len(entries), fontsize=size)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Row i of a chart is at y = i, the first on top, with half a row of air at either end."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def heat_table(axis: Axes, values: pd.DataFrame, text: pd.DataFrame, **look: Any) -> None:
    """A table as colours with `text` in its cells; the axis keeps its labels."""
    labels = {"xlabel": axis.get_xlabel(), "ylabel": axis.get_ylabel()}
    sns.heatmap(values, ax=axis, annot=text, fmt="", cmap="cividis", **look)
    axis.set(**labels)
    axis.tick_params(axis="y", rotation=0)


def show_image(axis: Axes, image: np.ndarray, low: float, high: float, palette: str) -> AxesImage:
    """Draw an image [H, W] pixel by pixel, `low` to `high` over the palette, without ticks."""
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(image, cmap=palette, vmin=low, vmax=high, interpolation="nearest")


def outline_mask(axis: Axes, mask: np.ndarray | None) -> None:
    """Draw the edge of a mask [H, W] of truths, if there is one that has an edge."""
    if mask is not None and mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors=OUTLINE, linewidths=1.3)
