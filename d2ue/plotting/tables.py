"""Pictures of tables and verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2ue.datasets.registry import marked
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    FONT,
    METHOD_TITLES,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
)


def auc_by_seed(table: pd.DataFrame, groups: Mapping[float, str]) -> Figure:
    """Every seed's AUC by score method, without and with repulsion; lines join one seed.

    Args:
        table: as `d2ue.experiments.score_table` gives it.
        groups: name of each repulsion weight, in the order to draw.
    """
    methods = list(dict.fromkeys(table["method"]))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(1, len(methods), (3.2 * len(methods), 3.2), sharey=True)
        for axis, method in zip(axes[0], methods, strict=True):
            part = table[table["method"] == method]
            wide = part.pivot(index="seed", columns="repulsion_weight", values="AUC")
            wide = wide[[weight for weight in groups if weight in wide.columns]]
            for (seed, values), colour in zip(wide.iterrows(), cycle(PALETTE), strict=False):
                axis.plot(range(len(values)), values, "o-", color=colour, label=f"seed {seed}")
            axis.axhline(50, color="0.6", linewidth=1, linestyle=":")
            axis.set_xticks(range(wide.shape[1]), [groups[w] for w in wide.columns])
            axis.set_xlim(-0.4, wide.shape[1] - 0.6)
            axis.set_title(METHOD_TITLES.get(method, method))
        axes[0, 0].set_ylabel("AUC, percent (dotted: chance)")
        axes[0, -1].legend(fontsize=10)
        sns.despine(figure)
    return figure


def table_dots(frame: pd.DataFrame, title: str = "") -> Figure:
    """A table as a picture: every row's AUC, seed by seed, beside the paper's.

    Args:
        frame: as `d2ue.experiments.rows.long_table` gives it; one panel a data set. Rows with
            nothing to show, neither ours nor the paper's, are left out.
        title: above the panels.
    """
    shown_rows = (frame["n_seeds"] > 0) | frame["paper_AUC"].notna()
    frame = frame[shown_rows.groupby([frame["group"], frame["row"]]).transform("any")]
    if frame.empty:
        return _nothing(title)
    names = list(dict.fromkeys(frame["dataset"]))
    lines = list(dict.fromkeys(zip(frame["group"], frame["row"], strict=True)))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            1, len(names), (2.6 + 5.2 * len(names), 1.3 + 0.34 * len(lines)), sharey=True
        )
        for axis, name in zip(axes[0], names, strict=True):
            own = frame[frame["dataset"] == name].set_index(["group", "row"])
            for y, line in enumerate(lines):
                _dots(axis, y, own.loc[line])
            axis.axvline(50, color="0.6", linewidth=1, linestyle=":")
            axis.set_title(name)
            axis.set_xlabel("AUC, percent (dotted: chance)")
            axis.grid(axis="x", alpha=0.3)
        labels = [f"{group}  {row}" if group else row for group, row in lines]
        axes[0, 0].set_yticks(range(len(lines)), labels)
        axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # the first row on top
        for y in (i for i in range(1, len(lines)) if lines[i][0] != lines[i - 1][0]):
            for axis in axes[0]:
                axis.axhline(y - 0.5, color="0.8", linewidth=1)
        handles = [
            plt.Line2D([], [], marker="o", color=NORMAL_COLOUR, linestyle="", label="one seed"),
            plt.Line2D([], [], marker="|", markersize=12, color="black", label="mean, interval"),
            plt.Line2D([], [], marker="D", color=ABNORMAL_COLOUR, linestyle="", label="paper"),
            plt.Line2D([], [], marker="x", color="0.4", linestyle="", label="released code"),
        ]
        shown = [True, True, frame["paper_AUC"].notna().any(), frame["code_AUC"].notna().any()]
        kept = [handle for handle, is_shown in zip(handles, shown, strict=True) if is_shown]
        figure.legend(handles=kept, loc="outside lower center", ncols=len(kept), fontsize=10)
        if title:
            width = 12 + 60 * len(names)  # what fits above the panels
            figure.suptitle(textwrap.fill(title, width, break_on_hyphens=False))
        sns.despine(figure)
    return figure


def _nothing(title: str) -> Figure:
    """The picture of what was not run: says so."""
    with plt.rc_context(FONT):
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


#: Colour of a verdict; the same in every picture, told apart by their shape too.
VERDICT_LOOKS = {
    "holds": (PALETTE[2], "o"),
    "does not hold": (PALETTE[3], "s"),
    "no effect": (PALETTE[0], "v"),
}


def verdict_intervals(verdicts: pd.DataFrame, about: str = "") -> Figure:
    """Claims as differences with their intervals and every seed's value (the small strokes).

    Args:
        verdicts: as `d2ue.experiments.claims` gives them; the column "factor" is drawn around 1,
            "difference" (AUC points) around 0.
        about: what they are of, for the head; "" = the data sets' names.
    """
    run = verdicts[verdicts["verdict"] != "not run"]
    if run.empty:
        return _nothing(about or _names(verdicts))
    column = "factor" if "factor" in run else "difference"
    many = run["dataset"].nunique() > 1
    with plt.rc_context(FONT):
        figure, axis = plt.subplots(figsize=(10, 1.1 + 0.33 * len(run)), layout="constrained")
        for y, line in enumerate(run.to_dict("records")):
            key = next((key for key in VERDICT_LOOKS if line["verdict"].startswith(key)), "")
            colour, marker = VERDICT_LOOKS.get(key, ("0.5", "D"))
            axis.plot([line["low"], line["high"]], [y, y], color=colour, linewidth=2)
            axis.plot(line[column], y, marker, color=colour)
            seeds = [float(value) for value in line["per_seed"].split()]
            axis.plot(seeds, [y] * len(seeds), "|", color=colour, markersize=10)
        names = [
            f"{line['dataset']}: {line['claim']}" if many else line["claim"]
            for line in run.to_dict("records")
        ]
        axis.set_yticks(range(len(run)), names)
        axis.set_ylim(len(run) - 0.5, -0.5)
        # Long claims leave no room right of the axis.
        axis.set_title(_whose(run, about), loc="right")
        if column == "factor":
            axis.axvline(1, color="0.6", linewidth=1)
            axis.set_xlabel("factor: with / without repulsion")
        else:
            axis.axvline(0, color="0.6", linewidth=1)
            axis.set_xlabel("difference in AUC, points")
        looks = {**VERDICT_LOOKS, "cannot tell": ("0.5", "D")}
        handles = [
            plt.Line2D([], [], color=colour, marker=marker, label=name)
            for name, (colour, marker) in looks.items()
        ]
        seed = {"marker": "|", "markersize": 10, "linestyle": "", "color": "0.3"}
        handles.append(plt.Line2D([], [], **seed, label="one seed"))
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=10)
        sns.despine(figure)
    return figure


def _whose(verdicts: pd.DataFrame, about: str) -> str:
    """The images and seeds that verdicts come from: "brain-mri: 95 % intervals, 3 seeds"."""
    counts = sorted({len(text.split()) for text in verdicts["per_seed"]})
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    seeds = f"{span} {'seed' if counts == [1] else 'seeds'}"
    head = f"{about or _names(verdicts)}: 95 % intervals, {seeds}"
    return textwrap.fill(head, 110, break_on_hyphens=False)


def _names(verdicts: pd.DataFrame) -> str:
    return ", ".join(map(marked, verdicts["dataset"].unique()))


def published_against_cleaned(frame: pd.DataFrame, title: str = "") -> Figure:
    """Every row's AUC with and without the test images that have a near duplicate in train.

    Args:
        frame: as `d2ue.experiments.published_and_cleaned` gives it; rows that were not run are
            left out.
        title: above the panels.
    """
    run = frame[frame["n_seeds"] > 0].reset_index(drop=True)
    looks = {"published": (NORMAL_COLOUR, "o", -0.13), "cleaned": (ABNORMAL_COLOUR, "s", 0.13)}
    with plt.rc_context(FONT):
        figure, (left, right) = plt.subplots(
            1,
            2,
            figsize=(13, 1.6 + 0.34 * max(len(run), 1)),
            sharey=True,
            width_ratios=(3, 2),
            layout="constrained",
        )
        for split, (colour, marker, shift) in looks.items():
            y = run.index + shift
            left.hlines(
                y, run[f"AUC_low_{split}"], run[f"AUC_high_{split}"], colors=[colour], linewidth=1.5
            )
            sizes = f"{run[f'n_normal_{split}'].max()} + {run[f'n_abnormal_{split}'].max()}"
            left.plot(
                run[f"AUC_{split}"],
                y,
                marker,
                color=colour,
                markersize=5,
                label=f"{split} ({sizes} test images)",
            )
        right.hlines(run.index, run["change_low"], run["change_high"], colors="0.3", linewidth=1.5)
        right.plot(run["change"], run.index, "D", color="0.3", markersize=5)
        left.axvline(50, color="0.6", linewidth=1, linestyle=":")
        right.axvline(0, color="0.6", linewidth=1)
        left.set_xlabel("AUC, percent (dotted: chance), 95 % interval")
        right.set_xlabel("published - cleaned, points, 95 % interval")
        lines = list(zip(run["group"], run["row"], strict=True))
        left.set_yticks(run.index, [f"{group}  {row}" if group else row for group, row in lines])
        left.set_ylim(len(run) - 0.4, -0.6)
        for y in (i for i in range(1, len(lines)) if lines[i][0] != lines[i - 1][0]):
            for axis in (left, right):
                axis.axhline(y - 0.5, color="0.8", linewidth=1)
        for axis in (left, right):
            axis.grid(axis="x", alpha=0.3)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10)
        if title:
            figure.suptitle(title)
        sns.despine(figure)
    return figure


def paired_by_seed(table: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """What repulsion changes, a panel a quantity: each line is one seed, without and with.

    Args:
        table: a row an ensemble, with the columns seed, repulsion_weight and those named next.
        columns: titles by column.
    """
    wide = 3 if len(columns) % 3 == 0 else 4
    tall = -(-len(columns) // wide)
    with plt.rc_context(FONT):
        figure, axes = axes_grid(tall, wide, (3.3 * wide, 2.5 * tall))
        for axis in axes.flat[len(columns) :]:
            axis.axis("off")
        for axis, (column, title) in zip(axes.flat, columns.items(), strict=False):
            for (seed, own), colour in zip(table.groupby("seed"), cycle(PALETTE), strict=False):
                own = own.sort_values("repulsion_weight")
                x = (own["repulsion_weight"] > 0).astype(int)
                axis.plot(x, own[column], "o-", color=colour, label=f"seed {seed}")
            axis.set_xticks([0, 1], ["none", "repulsion"])
            axis.set_xlim(-0.35, 1.35)
            axis.set_title(title)
        handles, names = axes.flat[0].get_legend_handles_labels()
        place = {"loc": "outside lower center", "ncols": min(len(names), 8)}
        figure.legend(handles, names, **place, fontsize=10)
        sns.despine(figure)
    return figure
