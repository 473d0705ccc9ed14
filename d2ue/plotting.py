"""Every picture of the notebooks: plain arrays in, a matplotlib figure out.

Palettes can be told apart by colour-blind readers, one kind of map has one colour scale, and fonts
are large enough for a projector. Normal is blue and abnormal is orange throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from d2ue.ensemble import Ensemble
from d2ue.toy import BANDS, SPAN, View

PALETTE = sns.color_palette("colorblind")
NORMAL_COLOUR, ABNORMAL_COLOUR = PALETTE[0], PALETTE[1]
OUTLINE = "#56ff9b"  # light green: visible on grey images and on the maps' purple and yellow
FONT = {"font.size": 12, "axes.titlesize": 12, "axes.labelsize": 12, "figure.dpi": 80}
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
        options: of matplotlib.pyplot.subplots: sharex, sharey ...
    """
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **options)


def image_rows(
    rows: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """Rows of grey images, all on the scale 0 to 255, abnormal pixels outlined.

    Args:
        rows: by title, uint8 [n, 1, H, W]; rows may differ in n.
        masks: by the same titles, bool [n, 1, H, W]; rows without one get no outline.
    """
    columns = max(len(images) for images in rows.values())
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            len(rows), columns, (1.6 * columns, 1.75 * len(rows)), layout="compressed"
        )
        for line, (title, images) in zip(axes, rows.items(), strict=True):
            for i, axis in enumerate(line):
                if i >= len(images):
                    axis.axis("off")
                    continue
                _show(axis, images[i, 0], 0, 255, "gray")
                _outline(axis, None if masks is None or title not in masks else masks[title][i, 0])
            line[0].set_ylabel(title)
    return figure


def reconstructions(
    images: np.ndarray,
    outputs: np.ndarray,
    titles: Sequence[str],
    masks: np.ndarray | None = None,
) -> Figure:
    """Each image beside what every learner makes of it, all on the images' scale [-1, 1].

    Args:
        images: uint8 [n, 1, H, W], one row each.
        outputs: [N, n, 1, H, W], the learners' reconstructions in [-1, 1].
        titles: n names of the rows.
        masks: bool [n, 1, H, W] or None.
    """
    n, learners = len(images), len(outputs)
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            n, learners + 2, (1.8 * (learners + 2), 1.62 * n + 0.3), layout="compressed"
        )
        worst = np.abs(images / 127.5 - 1 - outputs.mean(0)).max()
        for row in range(n):
            x = images[row, 0] / 127.5 - 1
            _show(axes[row, 0], x, -1, 1, "gray")
            _outline(axes[row, 0], None if masks is None else masks[row, 0])
            axes[row, 0].set_ylabel(titles[row])
            for i in range(learners):
                _show(axes[row, i + 1], outputs[i, row, 0], -1, 1, "gray")
            error = np.abs(x - outputs[:, row, 0].mean(0))
            shown = _show(axes[row, -1], error, 0, worst, "magma")
        heads = ["image", *(f"learner {i + 1}" for i in range(learners)), "error of mean"]
        for axis, head in zip(axes[0], heads, strict=True):
            axis.set_title(head)
        figure.colorbar(shown, ax=axes[:, -1], shrink=0.8, label="|image - mean|")
    return figure


def score_maps(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
    masks: np.ndarray | None = None,
    quantile: float = 0.995,
    means: np.ndarray | None = None,
) -> Figure:
    """Images and their score maps; one colour scale a column, so rows can be compared.

    Args:
        images: uint8 [n, 1, H, W], one row each.
        maps: by score method, float [n, 1, H, W].
        titles: n names of the rows.
        masks: bool [n, 1, H, W] or None; drawn as outlines on image and maps.
        quantile: the share of a column's pixels that the colour scale spans from 0; the few above
            it are drawn in the last colour.
        means: the learners' mean reconstructions in [-1, 1], float [n, 1, H, W], shown beside the
            images; None leaves them out.
    """
    n, first = len(images), 1 if means is None else 2
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            n, len(maps) + first, (2.4 * (len(maps) + first), 2.4 * n + 0.9), layout="compressed"
        )
        for row in range(n):
            _show(axes[row, 0], images[row, 0], 0, 255, "gray")
            axes[row, 0].set_ylabel(titles[row])
            if means is not None:
                _show(axes[row, 1], means[row, 0], -1, 1, "gray")
                axes[0, 1].set_title("mean reconstruction")
        axes[0, 0].set_title("image and truth" if masks is not None else "image")
        for column, (method, values) in enumerate(maps.items(), first):
            top = float(np.quantile(values, quantile)) or 1.0
            for row in range(n):
                shown = _show(axes[row, column], values[row, 0], 0, top, "magma")
            axes[0, column].set_title(METHOD_TITLES.get(method, method))
            bar = figure.colorbar(
                shown, ax=axes[:, column], location="bottom", shrink=0.85, aspect=18, extend="max"
            )
            bar.ax.xaxis.set_major_locator(MaxNLocator(3))
            bar.ax.ticklabel_format(style="sci", scilimits=(-2, 2))
        for line, mask in zip(axes, masks if masks is not None else [None] * n, strict=True):
            for axis in line:
                _outline(axis, None if mask is None else mask[0])
    return figure


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


#: Learners of the toy; none has the colour of a class or of a score.
TOY_LEARNERS = [PALETTE[i] for i in (2, 4, 5, 8, 6, 9)]
#: The toy's scores along x: name, and a line that can be told apart without its colour.
TOY_LINES = {
    "output": ("Unc, std f", {"color": "black", "linestyle": "--"}),
    "dual": ("DSU, std L ∇L", {"color": PALETTE[3], "linestyle": "-"}),
    "slope": ("slopes alone, std f'", {"color": PALETTE[0], "linestyle": "-."}),
    "ensemble": ("error alone, |mean f - y|", {"color": "0.5", "linestyle": ":"}),
}


def toy_view(view: View) -> Figure:
    """The 1-D regression and one abnormal point; below it, Unc and DSU along x.

    Args:
        view: as `d2ue.toy.view` gives it.
    """
    with plt.rc_context(FONT):
        figure, (above, below) = plt.subplots(
            2, 1, figsize=(9, 6.2), sharex=True, height_ratios=(1.2, 1), layout="constrained"
        )
        _toy_curves(above, view)
        above.set(ylabel="y", title=_toy_verdict(view))
        _legend_beside(above)
        _toy_along(below, view, ("output", "dual"))
        sns.despine(figure)
    return figure


def toy_parts(view: View) -> Figure:
    """DSU along x beside its parts: the learners' slopes alone, and their error alone."""
    with plt.rc_context(FONT):
        figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
        _toy_along(axis, view, ("dual", "slope", "ensemble"))
        sns.despine(figure)
    return figure


def toy_views(views: Mapping[str, View], columns: int = 3) -> Figure:
    """Small multiples of the regression alone, each with its point's scores in the title.

    Args:
        views: by title.
        columns: panels a row.
    """
    rows = -(-len(views) // columns)
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            rows, columns, (3.7 * columns, 2.75 * rows), sharex=True, sharey=True
        )
        for axis, (title, view) in zip(axes.flat, views.items(), strict=False):
            _toy_curves(axis, view)
            axis.set_title(f"{title}\n{_toy_verdict(view)}", fontsize=11)
        for axis in axes.flat[len(views) :]:
            axis.axis("off")
            axis.legend(*axes[0, 0].get_legend_handles_labels(), loc="center left", fontsize=11)
        for axis in axes[-1]:
            axis.set_xlabel("x")
        for line in axes:
            line[0].set_ylabel("y")
        sns.despine(figure)
    return figure


def toy_effects(effects: pd.DataFrame) -> Figure:
    """Seed by seed, both uncertainties where output uncertainty is blind; a panel a height.

    Args:
        effects: as `d2ue.toy.effects` gives it, of one number of learners.
    """
    groups = list(effects.groupby("height", sort=False))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(1, len(groups), (5.2 * len(groups), 3.6), sharey=True)
        for axis, (height, own) in zip(axes[0], groups, strict=True):
            places = range(len(own))
            for name, marker in (("output", "s"), ("dual", "o")):
                label, look = TOY_LINES[name]
                values = own[f"{name}_level"]
                axis.plot(places, values, marker, color=look["color"], markersize=8, label=label)
            axis.vlines(places, own["output_level"], own["dual_level"], color="0.7", zorder=0)
            axis.axhline(1, color="0.3", linewidth=1)
            axis.set_xticks(places, own["seed"].astype(str))
            axis.set(yscale="log", xlabel="seed")
            axis.set_title(
                f"points {_above(float(height))}: holds in {own['holds'].sum()} of {len(own)}"
            )
        axes[0, 0].set_ylabel("median at blind places\n/ alarm level (95 % of normals)")
        _legend_beside(axes[0, -1])
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
        runs: as `d2ue.experiments.agreement.among_lowest_by_run` gives it.
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


def _toy_curves(axis: Axes, view: View) -> None:
    """Normal points, learners, and the abnormal point with the learners' tangents at it."""
    for low, high in BANDS:
        axis.axvspan(low, high, color=NORMAL_COLOUR, alpha=0.12, linewidth=0)
    axis.plot(*view.normals, ".", color=NORMAL_COLOUR, markersize=6, label="normal points")
    x = view.point[0]
    near = np.array([x - 0.8, x + 0.8])
    looks = zip(view.curves, view.tangents, cycle(TOY_LEARNERS), strict=False)
    for i, (curve, (f, slope), colour) in enumerate(looks, 1):
        axis.plot(view.x, curve, color=colour, linewidth=2, label=f"learner {i}")
        axis.plot(near, f + slope * (near - x), color=colour, linewidth=4, alpha=0.55)
    star = {"marker": "*", "markersize": 15, "linestyle": "", "markeredgecolor": "black"}
    axis.plot(*view.point, color=ABNORMAL_COLOUR, **star, label="abnormal point", zorder=5)
    axis.plot([x, x], [view.tangents[:, 0].mean(), view.point[1]], ":", color="0.3", linewidth=1)
    axis.set(xlim=SPAN, ylim=(-2.6, 3.1))


def _toy_along(axis: Axes, view: View, along: Sequence[str]) -> None:
    """Scores along x in multiples of their alarm levels, with the places that are blind to Unc."""
    blind = view.along["output"] <= 1
    for low, high in BANDS:
        blind &= (view.x < low) | (view.x > high)
        axis.axvspan(low, high, color=NORMAL_COLOUR, alpha=0.12, linewidth=0)
    span = {"color": "0.8", "linewidth": 0, "label": "blind to Unc, off the bands"}
    axis.fill_between(view.x, 0, 1, blind, transform=axis.get_xaxis_transform(), **span)
    for name in along:
        label, look = TOY_LINES[name]
        axis.plot(view.x, view.along[name], linewidth=2, label=label, **look)
    axis.axhline(1, color="0.3", linewidth=1)
    axis.axvline(view.point[0], color=ABNORMAL_COLOUR, linewidth=1)
    axis.set(
        yscale="log", ylim=(1e-2, 100), xlim=SPAN, xlabel=f"x of a point {_above(view.height)}"
    )
    axis.set_ylabel("score / its alarm level\n(95 % of normals)")
    _legend_beside(axis)


def _legend_beside(axis: Axes) -> None:
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=10, frameon=False)


def _toy_verdict(view: View) -> str:
    """The point's scores in multiples of their alarm levels, and which of them see it."""
    return ", ".join(
        f"{name} {view.at_point[key]:.2g} ({'alarm' if view.at_point[key] > 1 else 'no alarm'})"
        for key, name in (("output", "Unc"), ("dual", "DSU"))
    )


def _above(height: float) -> str:
    if height == 0:
        return "on the curve"
    return f"{abs(height):g} {'above' if height > 0 else 'below'} the curve"


def _show(axis: Axes, image: np.ndarray, low: float, high: float, palette: str):  # type: ignore[no-untyped-def]
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(image, cmap=palette, vmin=low, vmax=high, interpolation="nearest")


def _outline(axis: Axes, mask: np.ndarray | None) -> None:
    if mask is not None and mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors=OUTLINE, linewidths=1.3)


def table_dots(frame: pd.DataFrame, title: str = "") -> Figure:
    """A table as a picture: every row's AUC, seed by seed, beside the paper's.

    Args:
        frame: as `d2ue.experiments.tables.long_table` gives it; one panel a data set. Rows with
            nothing to show, neither ours nor the paper's, are left out.
        title: above the panels.
    """
    shown_rows = (frame["n_seeds"] > 0) | frame["paper_AUC"].notna()
    frame = frame[shown_rows.groupby([frame["group"], frame["row"]]).transform("any")]
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
            figure.suptitle(title)
        sns.despine(figure)
    return figure


def _dots(axis: Axes, y: int, line: pd.Series) -> None:
    if line["n_seeds"]:
        values = [float(text.split(":")[1]) for text in line["AUC_by_seed"].split()]
        axis.plot([line["AUC_low"], line["AUC_high"]], [y, y], color="black", linewidth=1)
        axis.plot(line["AUC"], y, "|", color="black", markersize=12)
        axis.plot(values, [y] * len(values), "o", color=NORMAL_COLOUR, markersize=4, alpha=0.8)
    axis.plot(line["paper_AUC"], y, "D", color=ABNORMAL_COLOUR, markersize=5)
    axis.plot(line["code_AUC"], y, "x", color="0.4", markersize=6)


#: Colour of a verdict; the same three in every picture, told apart by their shape too.
VERDICT_LOOKS = {"holds": (PALETTE[2], "o"), "does not hold": (PALETTE[3], "s")}


def verdict_intervals(verdicts: pd.DataFrame) -> Figure:
    """Claims as differences with their intervals and every seed's value (the small strokes).

    Args:
        verdicts: as `d2ue.experiments.claims` gives them; the column "factor" is drawn around 1,
            "difference" (AUC points) around 0.
    """
    run = verdicts[verdicts["verdict"] != "not run"]
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
        axis.set_title(_whose(run))
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
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=10)
        sns.despine(figure)
    return figure


def _whose(verdicts: pd.DataFrame) -> str:
    """The images and seeds that verdicts come from: "brain-mri: 95 % intervals, 3 seeds"."""
    counts = sorted({len(text.split()) for text in verdicts["per_seed"]})
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    seeds = f"{span} {'seed' if counts == [1] else 'seeds'}"
    return f"{', '.join(verdicts['dataset'].unique())}: 95 % intervals, {seeds}"


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


BOX_COLOUR = "#ff2a1f"  # the paper's red


def heat_maps(
    images: np.ndarray,
    means: np.ndarray,
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
    tops: Mapping[str, float],
    masks: np.ndarray | None = None,
    boxes: Sequence[np.ndarray] | None = None,
) -> Figure:
    """The paper's Fig. 4: image, truth, ensemble reconstruction, then a column a score map.

    Args:
        images: uint8 [n, 1, H, W], one row each.
        means: the learners' mean reconstructions in [-1, 1], [n, 1, H, W].
        maps: by score method, float [n, 1, H, W].
        titles: n names of the rows.
        tops: by score method, the value of the last colour; higher ones share it. Given, not
            computed, so that several figures have one scale.
        masks: bool [n, 1, H, W], outlined on the second column and thinly on the maps; None where
            there are none.
        boxes: n arrays [k, 4], fractions of width and height, drawn where there are no masks: in
            red on the second column, in thin green on the maps, where red would be lost.
    """
    n, columns = len(images), len(maps) + 3
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            n, columns, (1.5 * columns + 0.4, 1.5 * n + 1.0), layout="compressed"
        )
        for row, line in enumerate(axes):
            for axis in line[:2]:
                _show(axis, images[row, 0], 0, 255, "gray")
            _show(line[2], means[row, 0], -1, 1, "gray")
            line[0].set_ylabel(titles[row])
        for axis, title in zip(axes[0], ("image", "truth", "mean of\nlearners"), strict=False):
            axis.set_title(title)
        for column, (method, values) in enumerate(maps.items(), 3):
            for row in range(n):
                shown = _show(axes[row, column], values[row, 0], 0, tops[method], "magma")
            name, _, what = METHOD_TITLES.get(method, method).partition(": ")
            axes[0, column].set_title(f"{name}\n{what.replace(' (', chr(10) + '(')}", fontsize=11)
            bar = figure.colorbar(
                shown, ax=axes[:, column], location="bottom", shrink=0.85, aspect=16, extend="max"
            )
            bar.ax.xaxis.set_major_locator(MaxNLocator(2))
            bar.ax.ticklabel_format(style="sci", scilimits=(-2, 2))
        for row, line in enumerate(axes):
            for axis in (line[1], *line[3:]):
                if masks is not None:
                    _outline(axis, masks[row, 0])
                elif boxes is not None:
                    grey = axis is line[1]
                    look = (BOX_COLOUR, 2.0) if grey else (OUTLINE, 1.0)
                    for box in boxes[row]:
                        _box(axis, box, images.shape[2:], *look)
    return figure


def _box(
    axis: Axes, box: np.ndarray, shape: tuple[int, ...], colour: str, linewidth: float
) -> None:
    """A box in fractions on an image whose first pixel is centred at (0, 0)."""
    height, width = shape
    x0, y0, x1, y1 = box * (width, height, width, height) - 0.5
    look = {"fill": False, "color": colour, "linewidth": linewidth}
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **look))


def localisation(
    table: pd.DataFrame, names: Mapping[str, str], controls: Sequence[str] = ()
) -> Figure:
    """Every measure of every kind of map with its interval, chance dotted; a panel a measure.

    Every axis starts at 0; where it ends is up to the measure.

    Args:
        table: as `d2ue.localisation.compare` gives it.
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


#: Learners of an embedding: neither blue nor orange, which mean normal and abnormal; and by shape.
LEARNER_LOOKS = ((PALETTE[2], "o"), (PALETTE[4], "s"), ("0.35", "^"), (PALETTE[5], "D"))


#: Without and with repulsion.
REPULSION_LOOKS = {False: ("0.45", "--", "o"), True: (PALETTE[2], "-", "s")}


def embeddings(panels: Mapping[tuple[str, str], np.ndarray], labels: np.ndarray) -> Figure:
    """Pictures of several learners' features, a panel an embedding; no axis has a unit.

    Args:
        panels: by (row title, column title), float [N, n, 2] as `d2ue.diversity.embed` gives them.
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
        table: as `d2ue.diversity.watch_training` gives it. A thin line is one seed's debiased CKA
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


def diversity_scatter(
    table: pd.DataFrame,
    xs: Mapping[str, str],
    ys: Mapping[str, str],
    joined: pd.Series,
    hue: str = "backbone",
) -> Figure:
    """Measured diversity against AUC; a thin line joins a seed without and with repulsion.

    Args:
        table: as `d2ue.diversity.record_table` gives it.
        xs: titles of the columns of panels, by column of the table.
        ys: titles of the rows of panels, likewise; in percent.
        joined: which rows the lines join, such as `d2ue.diversity.as_in_the_paper` names.
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
