"""Pictures of how learners differ, and of what that has to do with their AUC."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2ue.plotting.style import (
    CHANCE,
    CHART,
    FONT,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
    heat_table,
    legend_below,
    legend_entry,
)

#: Learners of an embedding: neither blue nor orange, which mean normal and abnormal; and by shape.
LEARNER_LOOKS = ((PALETTE[2], "o"), (PALETTE[4], "s"), ("0.35", "^"), (PALETTE[5], "D"))
BACKBONE_LOOKS = ((PALETTE[0], "o"), (PALETTE[1], "s"), (PALETTE[2], "^"), (PALETTE[4], "D"))
#: Name, colour, line and marker without and with repulsion.
REPULSION_LOOKS = (("no repulsion", "0.45", "--", "o"), ("repulsion", PALETTE[2], "-", "s"))


@plt.rc_context(FONT)
def embeddings(panels: Mapping[tuple[str, str], np.ndarray], labels: np.ndarray) -> Figure:
    """Pictures of several learners' features, a panel an embedding; no axis has a unit.

    Args:
        panels: by (row title, column title), float [N, n, 2] as `features.embed` gives them.
        labels: [n], 0 (hollow) or 1 (filled).
    """
    figure, grid = _grid(panels, 2.55, 2.4)
    learners: dict[str, tuple] = {}
    for key, axis in grid.items():
        axis.set(xticks=[], yticks=[])
        for number, (points, look) in enumerate(zip(panels[key], cycle(LEARNER_LOOKS)), 1):
            learners[f"learner {number}"] = colour, marker = look
            for label, face in enumerate(("none", colour)):
                style = {"s": 22, "linewidths": 0.8, "edgecolors": [colour], "facecolors": face}
                axis.scatter(*points[labels == label].T, marker=marker, **style)
    entries = [legend_entry(name, marker, colour) for name, (colour, marker) in learners.items()]
    entries.append(legend_entry("normal image", "o", "0.2", markerfacecolor="none"))
    legend_below(figure, [*entries, legend_entry("abnormal image", "o", "0.2")], 11)
    return figure


@plt.rc_context(FONT)
def similarity_matrices(matrices: Mapping[tuple[str, str], np.ndarray], label: str) -> Figure:
    """Learner-by-learner similarities, every panel on one scale from 0 to 1, with the numbers.

    Args:
        matrices: by (row title, column title), [N, N].
        label: of the scale.
    """
    figure, grid = _grid(matrices, 2.5, 2.3)
    for key, axis in grid.items():
        numbers = range(1, len(matrices[key]) + 1)
        table = pd.DataFrame(matrices[key].round(2) + 0.0, numbers, numbers)  # no -0.00
        look = {"vmin": 0, "vmax": 1, "cbar": False, "square": True, "annot_kws": {"fontsize": 11}}
        heat_table(axis, table, table.map("{:.2f}".format), **look)
    axes = list(grid.values())
    figure.colorbar(axes[0].collections[0], ax=axes, label=label, shrink=0.85)
    figure.supxlabel("learner", fontsize=12)
    return figure


@plt.rc_context(CHART)
def similarity_by_epoch(table: pd.DataFrame) -> Figure:
    """`features.watch_training`: CKA with the seniors, without and with repulsion.

    A thin line is one seed's debiased CKA (mean over pairs), the thick one their mean, the dotted
    one the mean of biased CKA.
    """
    kinds = table["images"].unique()
    figure, axes = axes_grid(1, len(kinds), (5.2 * len(kinds), 3.7), sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        part = table[table["images"] == kind]
        _lines_by_seed(axis, part, "epoch", "debiased", ", debiased")
        for repelled, some in part.groupby(part["repulsion_weight"] > 0):
            name, colour, _, _ = REPULSION_LOOKS[repelled]
            look = {"color": colour, "linewidth": 1.6, "label": f"{name}, biased"}
            axis.plot(some.groupby("epoch")["cka"].mean(), ":", **look)
        axis.set(xlabel="epoch of the learner in training", title=f"on {kind} images")
        axis.set_ylim(min(0.0, float(table["debiased"].min())) - 0.03, 1.03)
    axes[0, 0].set_ylabel("CKA with the seniors")
    axes[0, -1].legend(fontsize=10)
    return figure


@plt.rc_context(CHART)
def learners_cost(table: pd.DataFrame, ys: Mapping[str, str]) -> Figure:
    """AUC against the number of learners and what they cost, without and with repulsion.

    Args:
        table: rows with the columns learners, cost (learner-epochs), seed, repulsion_weight and
            those of `ys`; thin lines are seeds, thick ones their means.
        ys: titles by column; AUC in percent.
    """
    figure, axes = axes_grid(1, len(ys), (4.3 * len(ys), 3.8), sharey=True)
    epochs = (table["cost"] / table["learners"]).iloc[0]
    for axis, (y, title) in zip(axes[0], ys.items(), strict=True):
        _lines_by_seed(axis, table, "learners", y)
        axis.axhline(50, **CHANCE)
        axis.set(xlabel="learners N", title=title)
        top = axis.secondary_xaxis(-0.28, functions=(lambda n: n * epochs, lambda c: c / epochs))
        top.set_xlabel("cost, learner-epochs")
    axes[0, 0].set_ylabel("AUC, percent (dotted: chance)")
    axes[0, -1].legend(fontsize=10)
    return figure


def _lines_by_seed(axis: Axes, table: pd.DataFrame, x: str, y: str, suffix: str = "") -> None:
    """Thin lines are seeds, the thick one is their mean; without and with repulsion."""
    for repelled, part in table.groupby(table["repulsion_weight"] > 0):
        name, colour, line, marker = REPULSION_LOOKS[repelled]
        seeds = part.pivot_table(index=x, columns="seed", values=y)
        axis.plot(seeds, color=colour, linewidth=0.8, alpha=0.7)
        look = {"color": colour, "linewidth": 2.5, "marker": marker, "label": name + suffix}
        axis.plot(seeds.mean(axis=1), line, **look)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


@plt.rc_context(CHART)
def diversity_scatter(
    table: pd.DataFrame, xs: Mapping[str, str], ys: Mapping[str, str], joined: pd.Series
) -> Figure:
    """Measured diversity against AUC; a thin line joins a seed without and with repulsion.

    Args:
        table: as `diversity.record_table` gives it; a backbone has a colour and a shape, filled =
            with repulsion.
        xs: titles of the columns of panels, by column of the table.
        ys: titles of the rows of panels, by column of the table; in percent.
        joined: which rows the lines join, such as `diversity.as_in_the_paper` names.
    """
    size = (3.7 * len(xs), 2.9 * len(ys) + 0.5)
    figure, axes = axes_grid(len(ys), len(xs), size, sharex="col", sharey="row")
    looks = dict(zip(table["backbone"].unique(), cycle(BACKBONE_LOOKS)))
    for line, (y, y_title) in zip(axes, ys.items(), strict=True):
        line[0].set_ylabel(y_title)
        for axis, x in zip(line, xs, strict=True):
            for (backbone, _), part in table.groupby(["backbone", "seed"], sort=False):
                colour, marker = looks[backbone]
                pair = part[joined[part.index]].sort_values("repulsion_weight")
                axis.plot(pair[x], pair[y], "-", color=colour, linewidth=0.7, alpha=0.6)
                for repelled, some in part.groupby(part["repulsion_weight"] > 0):
                    face = colour if repelled else "white"
                    look = {"color": colour, "markerfacecolor": face, "markersize": 7}
                    axis.plot(some[x], some[y], marker, linestyle="", **look)
    for axis, title in zip(axes[-1], xs.values(), strict=True):
        axis.set_xlabel(title)
    entries = [legend_entry(name, marker, colour) for name, (colour, marker) in looks.items()]
    entries.append(legend_entry("no repulsion", "o", "0.2", markerfacecolor="white"))
    legend_below(figure, [*entries, legend_entry("repulsion", "o", "0.2")], 11)
    return figure


@plt.rc_context(CHART)
def diversity_axes(panels: Mapping[str, pd.DataFrame], ys: Mapping[str, str]) -> Figure:
    """What each setting does to diversity and to AUC: a column an axis, a row a quantity.

    Args:
        panels: by the axis' title, a table with the columns setting (what stands on the x axis, in
            order of appearance), seed and those of `ys`.
        ys: titles by column.
    """
    size = (3.7 * len(panels), 2.3 * len(ys) + 0.4)
    figure, axes = axes_grid(len(ys), len(panels), size, sharey="row", sharex="col")
    for column, (title, table) in zip(axes.T, panels.items(), strict=True):
        place, settings = pd.factorize(table["setting"])
        for axis, y in zip(column, ys, strict=True):
            axis.plot(place, table[y], "o", color=NORMAL_COLOUR, markersize=5, alpha=0.6)
            look = {"color": "black", "marker": "_", "markersize": 16, "linewidth": 1.2}
            axis.plot(table[y].groupby(place).mean(), **look)
            axis.set_xlim(-0.5, len(settings) - 0.5)
        column[-1].set_xticks(range(len(settings)), map(str, settings))
        column[-1].set_xlabel(title)
    for axis, title in zip(axes[:, 0], ys.values(), strict=True):
        axis.set_ylabel(title)
    return figure


def _grid(
    panels: Mapping[tuple[str, str], np.ndarray], width: float, height: float
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A figure with a panel a (row title, column title), and its axes by those."""
    rows, columns = (list(dict.fromkeys(titles)) for titles in zip(*panels, strict=True))
    size = (width * len(columns) + 0.6, height * len(rows) + 0.7)
    figure, axes = axes_grid(len(rows), len(columns), size)
    grid = {}
    for (i, j), axis in np.ndenumerate(axes):
        key = rows[i], columns[j]
        if key in panels:
            grid[key] = axis
        else:
            axis.axis("off")
        axis.set(ylabel="" if j else key[0], title="" if i else key[1])
    return figure, grid
