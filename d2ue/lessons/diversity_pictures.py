"""Pictures of how learners differ, and of what that has to do with their AUC."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2ue.plotting.style import FONT, NORMAL_COLOUR, PALETTE, axes_grid

#: Learners of an embedding: neither blue nor orange, which mean normal and abnormal; and by shape.
LEARNER_LOOKS = ((PALETTE[2], "o"), (PALETTE[4], "s"), ("0.35", "^"), (PALETTE[5], "D"))
#: Without and with repulsion.
REPULSION_LOOKS = {False: ("0.45", "--", "o"), True: (PALETTE[2], "-", "s")}


def embeddings(panels: Mapping[tuple[str, str], np.ndarray], labels: np.ndarray) -> Figure:
    """Pictures of several learners' features, a panel an embedding; no axis has a unit.

    Args:
        panels: by (row title, column title), float [N, n, 2] as `diversity.embed` gives them.
        labels: [n], 0 (hollow) or 1 (filled).
    """
    with plt.rc_context(FONT):
        figure, grid = _grid(panels, 2.55, 2.4)
        for key, axis in grid.items():
            axis.set(xticks=[], yticks=[])
            for number, points in enumerate(panels[key]):
                colour, marker = LEARNER_LOOKS[number % len(LEARNER_LOOKS)]
                for label in (0, 1):
                    own = points[labels == label]
                    face = colour if label else "none"
                    look = {"marker": marker, "s": 22, "linewidths": 0.8, "edgecolors": [colour]}
                    axis.scatter(*own.T, facecolors=face, **look)
        handles = []
        for number in range(len(next(iter(panels.values())))):
            colour, marker = LEARNER_LOOKS[number % len(LEARNER_LOOKS)]
            look = {"marker": marker, "linestyle": "", "color": colour}
            handles.append(plt.Line2D([], [], **look, label=f"learner {number + 1}"))
        look = {"marker": "o", "linestyle": "", "color": "0.2"}
        handles.append(plt.Line2D([], [], **look, markerfacecolor="none", label="normal image"))
        handles.append(plt.Line2D([], [], **look, label="abnormal image"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=11)
    return figure


def similarity_matrices(matrices: Mapping[tuple[str, str], np.ndarray], label: str) -> Figure:
    """Learner-by-learner similarities, every panel on one scale from 0 to 1, with the numbers.

    Args:
        matrices: by (row title, column title), [N, N].
        label: of the scale.
    """
    with plt.rc_context(FONT):
        figure, grid = _grid(matrices, 2.5, 2.3)
        for key, axis in grid.items():
            matrix = matrices[key]
            shown = axis.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
            ticks = range(len(matrix))
            axis.set_xticks(ticks, [i + 1 for i in ticks])
            axis.set_yticks(ticks, [i + 1 for i in ticks])
            for (i, j), value in np.ndenumerate(matrix):
                colour = "black" if value > 0.5 else "white"
                text = f"{value + 0.0:.2f}".replace("-0.00", "0.00")
                axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=11)
        figure.colorbar(shown, ax=list(grid.values()), label=label, shrink=0.85)
        figure.supxlabel("learner", fontsize=12)
    return figure


def similarity_by_epoch(table: pd.DataFrame) -> Figure:
    """How similarity moves while learners are trained, without and with repulsion.

    Args:
        table: as `diversity.watch_training` gives it. A thin line is one seed's debiased CKA
            (mean over pairs), the thick one their mean, the dotted one the mean of biased CKA.
    """
    kinds = list(dict.fromkeys(table["images"]))
    with plt.rc_context(FONT):
        size = (5.2 * len(kinds), 3.7)
        figure, axes = axes_grid(1, len(kinds), size, sharey=True)
        for axis, kind in zip(axes[0], kinds, strict=True):
            own = table[table["images"] == kind]
            for repelled, part in own.groupby(own["repulsion_weight"] > 0):
                colour, line, marker = REPULSION_LOOKS[bool(repelled)]
                name = "repulsion" if repelled else "no repulsion"
                by_seed = part.groupby(["epoch", "seed"])[["cka", "debiased"]].mean()
                for _, curve in by_seed["debiased"].groupby("seed"):
                    axis.plot(curve.droplevel("seed"), color=colour, linewidth=0.8, alpha=0.7)
                mean = by_seed.groupby("epoch").mean()
                look = {"color": colour, "linewidth": 2.5}
                axis.plot(mean["debiased"], line, marker=marker, **look, label=f"{name}, debiased")
                look["linewidth"] = 1.6
                axis.plot(mean["cka"], ":", **look, label=f"{name}, biased")
            axis.set(xlabel="epoch of the learner in training", title=f"on {kind} images")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_ylim(min(0.0, float(table["debiased"].min())) - 0.03, 1.03)
        axes[0, 0].set_ylabel("CKA with the seniors")
        axes[0, -1].legend(fontsize=10)
        sns.despine(figure)
    return figure


def diversity_scatter(
    table: pd.DataFrame,
    xs: Mapping[str, str],
    ys: Mapping[str, str],
    joined: pd.Series,
    hue: str = "backbone",
) -> Figure:
    """Measured diversity against AUC; a thin line joins a seed without and with repulsion.

    Args:
        table: as `d2ue.lessons.diversity.record_table` gives it.
        xs: titles of the columns of panels, by column of the table.
        ys: titles of the rows of panels, likewise; in percent.
        joined: which rows the lines join, such as `d2ue.lessons.diversity.as_in_the_paper` names.
        hue: column that gives colour and shape; filled = with repulsion.
    """
    looks = [(PALETTE[0], "o"), (PALETTE[1], "s"), (PALETTE[2], "^"), (PALETTE[4], "D")]
    names = list(dict.fromkeys(table[hue]))
    with plt.rc_context(FONT):
        size = (3.7 * len(xs), 2.9 * len(ys) + 0.5)
        figure, axes = axes_grid(len(ys), len(xs), size, sharex="col", sharey="row")
        for name, (colour, marker) in zip(names, cycle(looks), strict=False):
            for _, own in table[table[hue] == name].groupby("seed"):
                own = own.sort_values("repulsion_weight")
                pair = own[joined[own.index]]
                for line, y in zip(axes, ys, strict=True):
                    for axis, x in zip(line, xs, strict=True):
                        axis.plot(pair[x], pair[y], "-", color=colour, linewidth=0.7, alpha=0.6)
                        for repelled, part in own.groupby(own["repulsion_weight"] > 0):
                            face = colour if repelled else "white"
                            look = {"color": colour, "markerfacecolor": face, "markersize": 7}
                            axis.plot(part[x], part[y], marker, linestyle="", **look)
        for axis, title in zip(axes[-1], xs.values(), strict=True):
            axis.set_xlabel(title)
        for line, title in zip(axes, ys.values(), strict=True):
            line[0].set_ylabel(title)
        handles = [
            plt.Line2D([], [], marker=marker, color=colour, linestyle="", label=str(name))
            for name, (colour, marker) in zip(names, cycle(looks), strict=False)
        ]
        look = {"marker": "o", "linestyle": "", "color": "0.2"}
        handles.append(plt.Line2D([], [], **look, markerfacecolor="white", label="no repulsion"))
        handles.append(plt.Line2D([], [], **look, label="repulsion"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=11)
        sns.despine(figure)
    return figure


def diversity_axes(panels: Mapping[str, pd.DataFrame], ys: Mapping[str, str]) -> Figure:
    """What each setting does to diversity and to AUC: a column an axis, a row a quantity.

    Args:
        panels: by the axis' title, a table with the columns setting (what stands on the x axis, in
            order of appearance), seed and those of `ys`.
        ys: titles by column.
    """
    with plt.rc_context(FONT):
        size = (3.7 * len(panels), 2.3 * len(ys) + 0.4)
        figure, axes = axes_grid(len(ys), len(panels), size, sharey="row", sharex="col")
        for column, (title, table) in enumerate(panels.items()):
            settings = list(dict.fromkeys(table["setting"]))
            for axis, (y, y_title) in zip(axes[:, column], ys.items(), strict=True):
                place = table["setting"].map(settings.index)
                axis.plot(place, table[y], "o", color=NORMAL_COLOUR, markersize=5, alpha=0.6)
                means = table.groupby("setting", sort=False)[y].mean()
                look = {"color": "black", "marker": "_", "markersize": 16, "linewidth": 1.2}
                axis.plot(range(len(settings)), means[settings], **look)
                axis.set_xlim(-0.5, len(settings) - 0.5)
                if column == 0:
                    axis.set_ylabel(y_title)
            axes[-1, column].set_xticks(range(len(settings)), [str(s) for s in settings])
            axes[-1, column].set_xlabel(title)
        sns.despine(figure)
    return figure


def learners_cost(table: pd.DataFrame, ys: Mapping[str, str]) -> Figure:
    """AUC against the number of learners and what they cost, without and with repulsion.

    Args:
        table: rows with the columns learners, cost (learner-epochs), seed, repulsion_weight and
            those of `ys`; thin lines are seeds, thick ones their means.
        ys: titles by column; AUC in percent.
    """
    with plt.rc_context(FONT):
        figure, axes = axes_grid(1, len(ys), (4.3 * len(ys), 3.8), sharey=True)
        epochs = (table["cost"] / table["learners"]).iloc[0]
        for axis, (y, title) in zip(axes[0], ys.items(), strict=True):
            for repelled, part in table.groupby(table["repulsion_weight"] > 0):
                colour, line, marker = REPULSION_LOOKS[bool(repelled)]
                for _, own in part.groupby("seed"):
                    axis.plot(own["learners"], own[y], color=colour, linewidth=0.7, alpha=0.7)
                look = {"color": colour, "linewidth": 2.5, "marker": marker}
                name = "repulsion" if repelled else "no repulsion"
                axis.plot(part.groupby("learners")[y].mean(), line, **look, label=name)
            axis.axhline(50, color="0.6", linewidth=1, linestyle=":")
            axis.set(xlabel="learners N", title=title)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            top = axis.secondary_xaxis(
                -0.28, functions=(lambda n: n * epochs, lambda cost: cost / epochs)
            )
            top.set_xlabel("cost, learner-epochs")
        axes[0, 0].set_ylabel("AUC, percent (dotted: chance)")
        axes[0, -1].legend(fontsize=10)
        sns.despine(figure)
    return figure


def _grid(panels: Mapping[tuple[str, str], np.ndarray], width: float, height: float):  # type: ignore[no-untyped-def]
    """A figure with a panel a (row title, column title), and its axes by those."""
    rows, columns = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    figure, axes = axes_grid(
        len(rows), len(columns), (width * len(columns) + 0.6, height * len(rows) + 0.7)
    )
    grid = {}
    for line, row in zip(axes, rows, strict=True):
        line[0].set_ylabel(row)
        for axis, column in zip(line, columns, strict=True):
            if (row, column) in panels:
                grid[row, column] = axis
            else:
                axis.axis("off")
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column)
    return figure, grid
