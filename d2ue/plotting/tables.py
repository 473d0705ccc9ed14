"""Pictures of tables and verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2ue.datasets.registry import marked
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    CHANCE,
    CHART,
    METHOD_TITLES,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
    legend_below,
    legend_entry,
    name_rows,
)


@plt.rc_context(CHART)
def table_dots(frame: pd.DataFrame, title: str = "") -> Figure:
    """A table as a picture: every row's AUC, seed by seed, beside the paper's.

    Args:
        frame: as `d2ue.experiments.rows.long_table` gives it; one panel a data set. Rows with
            nothing to show, neither ours nor the paper's, are left out.
        title: above the panels.
    """
    has_value = (frame["n_seeds"] > 0) | frame["paper_AUC"].notna()
    frame = frame[has_value.groupby([frame["group"], frame["row"]]).transform("any")]
    if frame.empty:
        return _nothing(title)
    names = list(dict.fromkeys(frame["dataset"]))
    lines = list(dict.fromkeys(zip(frame["group"], frame["row"], strict=True)))
    size = (2.6 + 5.2 * len(names), 1.3 + 0.34 * len(lines))
    figure, axes = axes_grid(1, len(names), size, sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        part = frame[frame["dataset"] == name].set_index(["group", "row"])
        for y, line in enumerate(lines):
            _dots(axis, y, part.loc[line])
        axis.axvline(50, **CHANCE)
        axis.set_title(name)
        axis.set_xlabel("AUC, percent (dotted: chance)")
        axis.grid(axis="x", alpha=0.3)
    _name_grouped_rows(axes[0], lines)
    entries = [
        legend_entry("one seed", "o", NORMAL_COLOUR),
        legend_entry("mean, interval", "|", "black", markersize=12),
    ]
    if frame["paper_AUC"].notna().any():
        entries.append(legend_entry("paper", "D", ABNORMAL_COLOUR))
    if frame["code_AUC"].notna().any():
        entries.append(legend_entry("released code", "x", "0.4"))
    legend_below(figure, entries)
    if title:
        width = 12 + 60 * len(names)  # what fits above the panels
        figure.suptitle(textwrap.fill(title, width, break_on_hyphens=False))
    return figure


def _nothing(title: str) -> Figure:
    """The picture of what was not run: says so."""
    figure, axes = axes_grid(1, 1, (6, 1.5))
    axes[0, 0].text(0.5, 0.5, "not run", ha="center", va="center")
    axes[0, 0].set_axis_off()
    axes[0, 0].set_title(title)
    return figure


def _dots(axis: Axes, y: int, line: pd.Series) -> None:
    if line["n_seeds"]:
        values = [float(text.split(":")[1]) for text in line["AUC_by_seed"].split()]
        axis.plot([line["AUC_low"], line["AUC_high"]], [y, y], color="black", linewidth=1)
        axis.plot(line["AUC"], y, "|", color="black", markersize=12)
        axis.plot(values, [y] * len(values), "o", color=NORMAL_COLOUR, markersize=4, alpha=0.8)
    axis.plot(line["paper_AUC"], y, "D", color=ABNORMAL_COLOUR, markersize=5)
    axis.plot(line["code_AUC"], y, "x", color="0.4", markersize=6)


def _name_grouped_rows(axes: Sequence[Axes] | np.ndarray, lines: list[tuple[str, str]]) -> None:
    """Rows named by (group, row), with a line between groups."""
    name_rows(axes[0], [f"{group}  {row}" if group else row for group, row in lines])
    for y in range(1, len(lines)):
        if lines[y][0] != lines[y - 1][0]:
            for axis in axes:
                axis.axhline(y - 0.5, color="0.8", linewidth=1)


#: Colour of a verdict; the same in every picture, told apart by their shape too.
VERDICT_LOOKS = {
    "holds": (PALETTE[2], "o"),
    "does not hold": (PALETTE[3], "s"),
    "no effect": (PALETTE[0], "v"),
    "cannot tell": ("0.5", "D"),
}


@plt.rc_context(CHART)
def verdict_intervals(verdicts: pd.DataFrame, about: str = "") -> Figure:
    """Claims as differences with their intervals and every seed's value (the small strokes).

    Args:
        verdicts: as `d2ue.experiments.claims` gives them; the column "factor" is drawn around 1,
            "difference" (AUC points) around 0.
        about: what they are of, for the head; "" = the data sets' names.
    """
    about = about or ", ".join(map(marked, verdicts["dataset"].unique()))
    run = verdicts[verdicts["verdict"] != "not run"]
    if run.empty:
        return _nothing(about)
    column, neutral, title = (
        ("factor", 1, "factor: with / without repulsion")
        if "factor" in run
        else ("difference", 0, "difference in AUC, points")
    )
    figure, axes = axes_grid(1, 1, (10, 1.1 + 0.33 * len(run)))
    axis = axes[0, 0]
    for y, line in enumerate(run.to_dict("records")):
        key = next((k for k in VERDICT_LOOKS if line["verdict"].startswith(k)), "cannot tell")
        colour, marker = VERDICT_LOOKS[key]
        axis.plot([line["low"], line["high"]], [y, y], color=colour, linewidth=2)
        axis.plot(line[column], y, marker, color=colour)
        seeds = [float(value) for value in line["per_seed"].split()]
        axis.plot(seeds, [y] * len(seeds), "|", color=colour, markersize=10)
    many = run["dataset"].nunique() > 1
    name_rows(axis, run["dataset"] + ": " + run["claim"] if many else run["claim"])
    counts = sorted({len(text.split()) for text in run["per_seed"]})
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    head = f"{about}: 95 % intervals, {span} {'seed' if counts == [1] else 'seeds'}"
    # Long claims leave no room right of the axis.
    axis.set_title(textwrap.fill(head, 110, break_on_hyphens=False), loc="right")
    axis.axvline(neutral, color="0.6", linewidth=1)
    axis.set_xlabel(title)
    entries = [
        legend_entry(name, marker, colour, linestyle="-")
        for name, (colour, marker) in VERDICT_LOOKS.items()
    ]
    legend_below(figure, [*entries, legend_entry("one seed", "|", "0.3", markersize=10)])
    return figure


@plt.rc_context(CHART)
def published_against_cleaned(frame: pd.DataFrame, title: str = "") -> Figure:
    """Every row's AUC with and without the test images that have a near duplicate in train.

    Args:
        frame: as `d2ue.experiments.published_and_cleaned` gives it; rows that were not run are
            left out.
        title: above the panels.
    """
    run = frame[frame["n_seeds"] > 0].reset_index(drop=True)
    size = (13, 1.6 + 0.34 * max(len(run), 1))
    figure, axes = axes_grid(1, 2, size, sharey=True, width_ratios=(3, 2))
    left, right = axes[0]
    for split, colour, marker, shift in (
        ("published", NORMAL_COLOUR, "o", -0.13),
        ("cleaned", ABNORMAL_COLOUR, "s", 0.13),
    ):
        y, ends = run.index + shift, (run[f"AUC_low_{split}"], run[f"AUC_high_{split}"])
        left.hlines(y, *ends, colors=[colour], linewidth=1.5)
        sizes = f"{run[f'n_normal_{split}'].max()} + {run[f'n_abnormal_{split}'].max()}"
        look = {"color": colour, "markersize": 5, "label": f"{split} ({sizes} test images)"}
        left.plot(run[f"AUC_{split}"], y, marker, **look)
    right.hlines(run.index, run["change_low"], run["change_high"], colors="0.3", linewidth=1.5)
    right.plot(run["change"], run.index, "D", color="0.3", markersize=5)
    left.axvline(50, **CHANCE)
    right.axvline(0, color="0.6", linewidth=1)
    left.set_xlabel("AUC, percent (dotted: chance), 95 % interval")
    right.set_xlabel("published - cleaned, points, 95 % interval")
    _name_grouped_rows(axes[0], list(zip(run["group"], run["row"], strict=True)))
    for axis in axes[0]:
        axis.grid(axis="x", alpha=0.3)
    legend_below(figure, left.get_legend_handles_labels()[0])
    if title:
        figure.suptitle(title)
    return figure


def auc_by_seed(table: pd.DataFrame, groups: Mapping[float, str]) -> Figure:
    """`paired_by_seed` of every score's AUC in a table of `d2ue.experiments.score_table`.

    `groups` names the repulsion weights, 0 first.
    """
    methods = {method: METHOD_TITLES.get(method, method) for method in table["method"].unique()}
    keys = ["seed", "repulsion_weight"]
    wide = table.pivot(index=keys, columns="method", values="AUC").reset_index()
    figure = paired_by_seed(wide, methods, sharey=True)
    for axis in figure.axes[: len(methods)]:
        axis.axhline(50, **CHANCE)
        axis.set_xticks(range(len(groups)), list(groups.values()))
    figure.axes[0].set_ylabel("AUC, percent\n(dotted: chance)")
    return figure


@plt.rc_context(CHART)
def paired_by_seed(table: pd.DataFrame, columns: Mapping[str, str], **options: Any) -> Figure:
    """What repulsion changes, a panel a quantity: each line is one seed, without and with.

    Args:
        table: a row an ensemble, with the columns seed, repulsion_weight and those named next.
        columns: titles by column.
        options: of `axes_grid`.
    """
    wide = 3 if len(columns) % 3 == 0 else 4
    tall = -(-len(columns) // wide)
    figure, axes = axes_grid(tall, wide, (3.3 * wide, 2.5 * tall + 0.5), **options)
    for axis in axes.flat[len(columns) :]:
        axis.axis("off")
    for axis, (column, title) in zip(axes.flat, columns.items(), strict=False):
        for (seed, pair), colour in zip(table.groupby("seed"), cycle(PALETTE), strict=False):
            pair = pair.sort_values("repulsion_weight")
            x = (pair["repulsion_weight"] > 0).astype(int)
            axis.plot(x, pair[column], "o-", color=colour, label=f"seed {seed}")
        axis.set_xticks([0, 1], ["none", "repulsion"])
        axis.set_xlim(-0.35, 1.35)
        axis.set_title(title)
    seeds = axes.flat[0].get_legend_handles_labels()[0]
    figure.legend(handles=seeds, loc="outside lower center", ncols=min(len(seeds), 8), fontsize=10)
    return figure
