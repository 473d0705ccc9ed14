"""Every picture of the notebooks: plain arrays in, a matplotlib figure out.

Palettes can be told apart by colour-blind readers, one kind of map has one colour scale, and fonts
are large enough for a projector. Normal is blue and abnormal is orange throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2ue.ensemble import Ensemble

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
        figure, axes = plt.subplots(
            len(rows),
            columns,
            figsize=(1.6 * columns, 1.75 * len(rows)),
            squeeze=False,
            layout="compressed",
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
        figure, axes = plt.subplots(
            n,
            learners + 2,
            figsize=(1.8 * (learners + 2), 1.62 * n + 0.3),
            squeeze=False,
            layout="compressed",
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
        figure, axes = plt.subplots(
            n,
            len(maps) + first,
            figsize=(2.4 * (len(maps) + first), 2.4 * n + 0.9),
            squeeze=False,
            layout="compressed",
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
        figure, axes = plt.subplots(
            1, len(scores), figsize=(4.2 * len(scores), 3.2), squeeze=False, layout="constrained"
        )
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
        figure, axes = plt.subplots(
            1,
            len(methods),
            figsize=(3.2 * len(methods), 3.2),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
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
        figure, axes = plt.subplots(
            1,
            len(names),
            figsize=(2.6 + 5.2 * len(names), 1.3 + 0.34 * len(lines)),
            sharey=True,
            squeeze=False,
            layout="constrained",
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
        axes[0, 0].invert_yaxis()
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
        axis.invert_yaxis()
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
