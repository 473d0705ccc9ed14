"""Pictures of scores and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2ue.ensemble import Ensemble
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    CHANCE,
    CHART,
    METHOD_TITLES,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
    legend_entry,
    name_rows,
)


@plt.rc_context(CHART)
def score_histograms(scores: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    """How the image scores of normal and abnormal images overlap, one panel a method.

    30 bars lie between the smallest score and the 99th percentile; higher ones fall in the last.

    Args:
        scores: by score method, float [n], higher = more abnormal.
        labels: [n], 0 or 1.
    """
    figure, axes = axes_grid(1, len(scores), (4.2 * len(scores), 3.2))
    classes = ((0, "normal", NORMAL_COLOUR), (1, "abnormal", ABNORMAL_COLOUR))
    for axis, (method, values) in zip(axes[0], scores.items(), strict=True):
        edges = np.linspace(values.min(), np.quantile(values, 0.99), 31)
        for label, name, colour in classes:
            shown = np.clip(values[labels == label], edges[0], edges[-1])
            axis.hist(shown, edges, alpha=0.6, color=colour, label=f"{name} (n = {len(shown)})")
        axis.set(title=METHOD_TITLES.get(method, method), xlabel="score (last bar: or higher)")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 2))
    axes[0, 0].set_ylabel("images")
    axes[0, 0].legend(fontsize=10)
    return figure


@plt.rc_context(CHART)
def training_curves(ensembles: Mapping[str, Ensemble]) -> Figure:
    """Loss and similarity to the seniors by epoch, a colour a learner, a line style an ensemble."""
    figure, axes = axes_grid(1, 2, (11, 3.4))
    left, right = axes[0]
    for (name, ensemble), style in zip(ensembles.items(), ("-", "--", ":", "-."), strict=False):
        for number, epochs in enumerate(ensemble.history, 1):
            look = {"color": PALETTE[(number - 1) % len(PALETTE)], "linestyle": style}
            look |= {
                "marker": "o" if len(epochs) <= 20 else "",
                "label": f"learner {number}, {name}",
            }
            history = pd.DataFrame(epochs, index=range(1, len(epochs) + 1))
            left.plot(history["loss"], **look)
            if number > 1 and ensemble.config.repels:
                right.plot(history["similarity"], **look)
    left.set(xlabel="epoch", ylabel="reconstruction loss", title="reconstruction, L_orig")
    right.set(xlabel="epoch", ylabel="similarity", title="similarity to the seniors, L_sim")
    left.legend(fontsize=9)
    if right.lines:
        right.set_ylim(bottom=0)
        right.legend(fontsize=9)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


#: How the scores look in `mirror_dots`: colour and shape.
SCORE_LOOKS = {
    "Unc": ("black", "s"),
    "DSU": (PALETTE[3], "o"),
    "input only": (PALETTE[0], "D"),
    "Ens": ("0.55", "X"),
}


@plt.rc_context(CHART)
def mirror_dots(runs: pd.DataFrame, selections: Sequence[str]) -> Figure:
    """Every score's AUC on the anomalies that one score misses: small, a seed; large, the mean.

    Args:
        runs: as `d2ue.statistics.agreement.among_lowest_by_run` gives it.
        selections: values of its column "selected"; a panel each.
    """
    lines = list(dict.fromkeys(zip(runs["backbone"], runs["repulsion"], strict=True)))
    size = (1.6 + 4.2 * len(selections), 1.4 + 0.62 * len(lines))
    figure, axes = axes_grid(1, len(selections), size, sharey=True, sharex=True)
    by = runs.set_index(["selected", "backbone", "repulsion", "judged"]).sort_index()["AUC"]
    for axis, selected in zip(axes[0], selections, strict=True):
        for y, line in enumerate(lines):
            for shift, (name, (colour, marker)) in enumerate(SCORE_LOOKS.items()):
                values, at = by.loc[(selected, *line, name)], y + 0.2 * (shift - 1.5)
                axis.plot(values, [at] * len(values), marker, color=colour, markersize=4)
                axis.plot(values.mean(), at, marker, color=colour, markersize=9, alpha=0.6)
            if y:
                axis.axhline(y - 0.5, color="0.85", linewidth=1)
        axis.axvline(50, **CHANCE)
        axis.set_title("all anomalies" if selected == "all" else f"quarter {selected}")
        axis.set_xlabel("AUC, percent (dotted: chance)")
    name_rows(axes[0, 0], [f"{backbone}, repulsion {repulsion}" for backbone, repulsion in lines])
    entries = [legend_entry(name, marker, colour) for name, (colour, marker) in SCORE_LOOKS.items()]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, title="AUC of")
    return figure


@plt.rc_context(CHART)
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
    size = (2.4 + 3.1 * columns, rows * (1.0 + 0.32 * len(maps)))
    figure, axes = axes_grid(rows, columns, size, sharey=True)
    for axis, measure in zip(axes.flat, measures, strict=False):
        part = table[table["measure"] == measure].set_index("map")
        for y, name in enumerate(maps):
            colour, marker = ("0.45", "s") if name in controls else (NORMAL_COLOUR, "o")
            row = 100 * part.loc[name, ["value", "low", "high"]].astype(float)
            axis.plot(row[["low", "high"]], [y, y], color=colour, linewidth=2)
            axis.plot(row["value"], y, marker, color=colour)
        axis.axvline(100 * part["chance"].iloc[0], color="0.3", linewidth=1, linestyle=":")
        axis.set_title(measure)
        axis.set_xlim(0, min(103, 110 * part[["high", "chance"]].max(axis=None)))
        axis.grid(axis="x", alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("percent (dotted: chance)")
    name_rows(axes[0, 0], [names.get(name, name) for name in maps])
    return figure
