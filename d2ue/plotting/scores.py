"""Pictures of scores and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2ue.ensemble import Ensemble
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    FONT,
    METHOD_TITLES,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
)


def score_histograms(
    scores: Mapping[str, np.ndarray], labels: np.ndarray, bins: int = 30
) -> Figure:
    """How the image scores of normal and abnormal images overlap, one panel a method.

    Args:
        scores: by score method, float [n], higher = more abnormal.
        labels: [n], 0 or 1.
        bins: bars between the smallest score and the 99th percentile; higher ones fall in the last.
    """
    with plt.rc_context(FONT):
        figure, axes = axes_grid(1, len(scores), (4.2 * len(scores), 3.2))
        for axis, (method, values) in zip(axes[0], scores.items(), strict=True):
            edges = np.linspace(values.min(), np.quantile(values, 0.99), bins + 1)
            for label, name, colour in (
                (0, "normal", NORMAL_COLOUR),
                (1, "abnormal", ABNORMAL_COLOUR),
            ):
                own = np.clip(values[labels == label], edges[0], edges[-1])
                axis.hist(own, edges, alpha=0.6, color=colour, label=f"{name} (n = {len(own)})")
            axis.set(title=METHOD_TITLES.get(method, method), xlabel="score (last bar: or higher)")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 2))
        axes[0, 0].set_ylabel("images")
        axes[0, 0].legend(fontsize=10)
        sns.despine(figure)
    return figure


def training_curves(ensembles: Mapping[str, Ensemble]) -> Figure:
    """Loss and similarity to the seniors by epoch, a colour a learner, a line style an ensemble.

    Args:
        ensembles: by name, at least one.
    """
    styles = ("-", "--", ":", "-.")
    with plt.rc_context(FONT):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
        for (name, ensemble), style in zip(ensembles.items(), styles, strict=False):
            for number, epochs in enumerate(ensemble.history, 1):
                look = {"color": PALETTE[(number - 1) % len(PALETTE)], "linestyle": style}
                look["marker"] = "o" if len(epochs) <= 20 else ""
                x = range(1, len(epochs) + 1)
                label = f"learner {number}, {name}"
                left.plot(x, [e["loss"] for e in epochs], **look, label=label)
                if number > 1 and ensemble.config.repels:
                    right.plot(x, [e["similarity"] for e in epochs], **look, label=label)
        left.set(xlabel="epoch", ylabel="reconstruction loss", title="reconstruction, L_orig")
        right.set(xlabel="epoch", ylabel="similarity", title="similarity to the seniors, L_sim")
        left.legend(fontsize=9)
        if right.lines:
            right.set_ylim(bottom=0)
            right.legend(fontsize=9)
        for axis in (left, right):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        sns.despine(figure)
    return figure


#: How the scores look in `mirror_dots`: colour and shape.
SCORE_LOOKS = {
    "Unc": ("black", "s"),
    "DSU": (PALETTE[3], "o"),
    "input only": (PALETTE[0], "D"),
    "Ens": ("0.55", "X"),
}


def mirror_dots(runs: pd.DataFrame, selections: Sequence[str]) -> Figure:
    """Every score's AUC on the anomalies that one score misses: small, a seed; large, the mean.

    Args:
        runs: as `d2ue.statistics.agreement.among_lowest_by_run` gives it.
        selections: values of its column "selected"; a panel each.
    """
    lines = list(dict.fromkeys(zip(runs["backbone"], runs["repulsion"], strict=True)))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            1,
            len(selections),
            (1.6 + 4.2 * len(selections), 1.4 + 0.62 * len(lines)),
            sharey=True,
            sharex=True,
        )
        for axis, selected in zip(axes[0], selections, strict=True):
            part = runs[runs["selected"] == selected]
            for y, (backbone, repulsion) in enumerate(lines):
                own = part[(part["backbone"] == backbone) & (part["repulsion"] == repulsion)]
                for shift, (name, (colour, marker)) in enumerate(SCORE_LOOKS.items()):
                    values = own.loc[own["judged"] == name, "AUC"]
                    at = y + 0.2 * (shift - 1.5)
                    axis.plot(values, [at] * len(values), marker, color=colour, markersize=4)
                    axis.plot(values.mean(), at, marker, color=colour, markersize=9, alpha=0.6)
                if y:
                    axis.axhline(y - 0.5, color="0.85", linewidth=1)
            axis.axvline(50, color="0.6", linewidth=1, linestyle=":")
            axis.set_title("all anomalies" if selected == "all" else f"quarter {selected}")
            axis.set_xlabel("AUC, percent (dotted: chance)")
        names = [f"{backbone}, repulsion {repulsion}" for backbone, repulsion in lines]
        axes[0, 0].set_yticks(range(len(lines)), names)
        axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
        handles = [
            plt.Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
            for name, (colour, marker) in SCORE_LOOKS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, title="AUC of")
        sns.despine(figure)
    return figure


def localisation(
    table: pd.DataFrame, names: Mapping[str, str], controls: Sequence[str] = ()
) -> Figure:
    """Every measure of every kind of map with its interval, chance dotted; a panel a measure.

    Every axis starts at 0; where it ends is up to the measure.

    Args:
        table: as `d2ue.lessons.localisation.compare` gives it.
        names: what to call each map; those left out keep their names.
        controls: maps that know nothing of learners; drawn in grey.
    """
    measures, maps = (list(dict.fromkeys(table[column])) for column in ("measure", "map"))
    columns = min(len(measures), 3)
    rows = -(-len(measures) // columns)
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            rows, columns, (2.4 + 3.1 * columns, rows * (1.0 + 0.32 * len(maps))), sharey=True
        )
        for axis, measure in zip(axes.flat, measures, strict=False):
            own = table[table["measure"] == measure].set_index("map")
            for y, name in enumerate(maps):
                colour, marker = ("0.45", "s") if name in controls else (NORMAL_COLOUR, "o")
                row = 100 * own.loc[name, ["value", "low", "high"]].astype(float)
                axis.plot(row[["low", "high"]], [y, y], color=colour, linewidth=2)
                axis.plot(row["value"], y, marker, color=colour)
            axis.axvline(100 * own["chance"].iloc[0], color="0.3", linewidth=1, linestyle=":")
            axis.set_title(measure)
            axis.set_xlim(0, min(103, 110 * own[["high", "chance"]].max(axis=None)))
            axis.grid(axis="x", alpha=0.3)
        for axis in axes[-1]:
            axis.set_xlabel("percent (dotted: chance)")
        axes[0, 0].set_yticks(range(len(maps)), [names.get(name, name) for name in maps])
        axes[0, 0].set_ylim(len(maps) - 0.5, -0.5)  # the first row on top
        sns.despine(figure)
    return figure
