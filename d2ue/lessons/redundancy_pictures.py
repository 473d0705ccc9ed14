"""The pictures of the lesson on redundancy; `lessons.redundancy` makes their tables.

House style as in `d2ue.plotting`. A dot is one measurement unless the picture says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from d2ue.backbones import Autoencoder, forward
from d2ue.lessons.equivalent import TRANSFORMATIONS, output_difference
from d2ue.plotting.style import FONT, PALETTE, axes_grid
from d2ue.similarity import SIMILARITIES


def copies(networks: Mapping[str, Autoencoder], x: Tensor) -> tuple[Figure, dict[str, float]]:
    """Fig. 3: above, the feature z of one image in a learner and its copies; below, the outputs.

    Args:
        networks: by name, the learner first, each R = 1.
        x: images [B, 1, H, W] in [-1, 1]; the first is shown, all are compared.

    Returns:
        The figure and, by copy, the largest difference of its outputs to the learner's.
    """
    results = {name: forward(network, x[:1], "z") for name, network in networks.items()}
    image = x[0, 0].numpy()
    features = {name: result.feature[0, 0].numpy() for name, result in results.items()}
    outputs = {name: result.mean[0, 0, 0].numpy() for name, result in results.items()}
    first, *others = networks
    differences = {n: output_difference(networks[first], networks[n], x) for n in others}
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(
            2,
            len(features) + 1,
            figsize=(2.05 * (len(features) + 1), 4.5),
            height_ratios=(1, 1.35),
            layout="constrained",
        )
        axes[0, 0].axis("off")
        largest = max(np.abs(values).max() for values in features.values())
        for axis, (name, values) in zip(axes[0, 1:], features.items(), strict=True):
            axis.bar(range(1, len(values) + 1), values, color=PALETTE[0], width=0.8)
            axis.axhline(0, color="0.4", linewidth=0.8)
            axis.set(title=name, ylim=(-1.05 * largest, 1.05 * largest), xlabel="neuron")
            axis.set_xticks([1, len(values)])
            if axis is not axes[0, 1]:
                axis.set_yticklabels([])
        axes[0, 1].set_ylabel("value")
        grey = {"cmap": "gray", "vmin": -1, "vmax": 1, "interpolation": "nearest"}
        axes[1, 0].imshow(image, **grey)
        axes[1, 0].set_title("image")
        for axis, (name, values) in zip(axes[1, 1:], outputs.items(), strict=True):
            axis.imshow(values, **grey)
            if name in differences:
                axis.set_xlabel(f"max. difference\n{differences[name]:.0e}")
        axes[1, 1].set_title("output")
        for axis in axes[1]:
            axis.set_xticks([])
            axis.set_yticks([])
        sns.despine(figure)
    return figure, differences


def survival(table: pd.DataFrame) -> Figure:
    """Where each transformation keeps the function: one panel a network, layers against kinds.

    Args:
        table: as `d2ue.lessons.redundancy.survival` gives it.
    """
    networks = list(dict.fromkeys(table["network"]))
    layers = list(dict.fromkeys(table["layer"]))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(
            1, len(networks), (3.7 * len(networks) + 0.8, 0.5 * len(layers) + 1.6), sharey=True
        )
        for axis, network in zip(axes[0], networks, strict=True):
            part = table[table["network"] == network]
            wide = part.pivot(index="layer", columns="transformation", values="difference")
            wide = wide.loc[layers, list(TRANSFORMATIONS)]
            shown = np.log10(wide.clip(lower=1e-17))
            sns.heatmap(
                shown,
                ax=axis,
                vmin=-17,
                vmax=1,
                cmap="cividis",
                annot=wide.map(lambda value: f"{value:.0e}" if value else "0"),
                fmt="",
                annot_kws={"fontsize": 10},
                linewidths=1,
                cbar=axis is axes[0, -1],
                cbar_kws={"label": "log10 of the largest difference"},
            )
            axis.set(title=network, xlabel="", ylabel="")
            axis.tick_params(axis="x", rotation=30)
            axis.tick_params(axis="y", rotation=0)
        axes[0, 0].set_ylabel("layer, input to output")
    return figure


def fooled(table: pd.DataFrame) -> Figure:
    """What each similarity gives for copies of a learner: mean (and range) over the draws.

    Args:
        table: as `d2ue.lessons.redundancy.similarity_to_copies` gives it.
    """
    repelling = [name for name in SIMILARITIES if name != "none"]
    kinds = list(dict.fromkeys(table["transformation"]))
    values = table.groupby(["transformation", "similarity"])["value"]
    mean, low, high = (
        summary.unstack().loc[kinds, repelling]
        for summary in (values.mean(), values.min(), values.max())
    )
    text = pd.DataFrame(
        [[_cell(mean.at[k, s], low.at[k, s], high.at[k, s]) for s in repelling] for k in kinds]
    )
    with plt.rc_context(FONT):
        figure, axis = plt.subplots(
            figsize=(1.75 * len(repelling) + 1.6, 0.8 * len(kinds) + 0.9), layout="constrained"
        )
        sns.heatmap(
            mean,
            ax=axis,
            vmin=0,
            vmax=1,
            cmap="cividis",
            annot=text,
            fmt="",
            annot_kws={"fontsize": 11},
            linewidths=1,
            cbar_kws={"label": "similarity, mean"},
        )
        axis.set(xlabel="", ylabel="")
        axis.tick_params(axis="y", rotation=0)
    return figure


def _cell(mean: float, low: float, high: float) -> str:
    if high - low < 0.005:
        return f"{mean:.2f}".replace("-0.00", "0.00")
    return f"{mean:.2f}\n{low:.2f} to {high:.2f}".replace("-0.00", "0.00")


def bias(table: pd.DataFrame) -> Figure:
    """Biased and debiased CKA of independent features against width: mean and standard deviation.

    Args:
        table: as `d2ue.lessons.redundancy.bias` gives it.
    """
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), sharey=True, layout="constrained")
        markers = ("o", "s", "D", "^", "v")
        shifts = (0.9, 1.0, 1.11, 0.8, 1.25)  # side by side where they would hide each other
        for (batch, part), colour, marker, shift in zip(
            table.groupby("batch"), PALETTE, markers, shifts, strict=False
        ):
            by_width = part.groupby("width")
            for axis, name in zip(axes, ("cka", "debiased-cka"), strict=True):
                mean, std = by_width[name].mean(), by_width[name].std()
                look = {"color": colour, "marker": marker, "capsize": 3, "linestyle": "none"}
                x = mean.index * (1.0 if name == "cka" else shift)
                axis.errorbar(x, mean, std, **look, label=f"B = {batch}")
            dense = np.geomspace(part["width"].min(), part["width"].max(), 100)
            axes[0].plot(dense, dense / (batch + dense), color=colour, linewidth=1)
        axes[1].axhline(0, color="0.4", linewidth=1)
        widths = sorted(table["width"].unique())
        for axis, title in zip(axes, ("cka, biased", "debiased-cka"), strict=True):
            axis.set(xscale="log", xlabel="width d of the features", title=title)
            axis.set_xticks(widths, [str(w) for w in widths])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.legend(fontsize=10)
        axes[0].plot([], [], color="0.3", linewidth=1, label="d / (B + d)")
        axes[0].legend(fontsize=10)
        axes[0].set_ylabel("CKA of independent features")
        sns.despine(figure)
    return figure


def bias_by_layer(table: pd.DataFrame) -> Figure:
    """CKA between two learners at every layer, on the same and on unrelated images.

    Args:
        table: as `d2ue.lessons.redundancy.bias_by_layer` gives it.
    """
    layers = table.drop_duplicates("layer")
    looks = {
        ("cka", "same"): ("cka", PALETTE[0], "o"),
        ("debiased-cka", "same"): ("debiased-cka", PALETTE[1], "s"),
        ("cka", "unrelated"): ("cka, unrelated images", PALETTE[0], "^"),
        ("debiased-cka", "unrelated"): ("debiased-cka, unrelated images", PALETTE[1], "v"),
    }
    with plt.rc_context(FONT):
        figure, axis = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
        x = np.arange(len(layers))
        for shift, ((column, images), (label, colour, marker)) in zip(
            (-0.15, 0.15, -0.15, 0.15), looks.items(), strict=True
        ):
            part = table[table["images"] == images].groupby("layer", sort=False)[column]
            look = {"color": colour, "marker": marker, "capsize": 3, "linestyle": "none"}
            axis.errorbar(x + shift, part.mean(), part.std(), **look, label=label)
        axis.plot(
            x,
            layers["expected"],
            "_",
            color="black",
            markersize=26,
            label="bias if Gaussian, d / (B + d)",
        )
        axis.axhline(0, color="0.4", linewidth=1)
        labels = [f"{a}\nd = {d}" for a, d in zip(layers["layer"], layers["width"], strict=True)]
        axis.set_xticks(x, labels)
        axis.set(ylabel="CKA between two learners", ylim=(-0.1, 1.05))
        axis.legend(fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        sns.despine(figure)
    return figure


def start_gradients(tables: Mapping[str, pd.DataFrame], floor: float = 1e-24) -> Figure:
    """How hard each similarity pushes at the first step, by reading; one panel a layer.

    Args:
        tables: by layer, as `d2ue.lessons.redundancy.start_gradients` gives them.
        floor: where ratios below it are drawn, as crosses: mostly exact zeros.
    """
    rows = [name for name in SIMILARITIES if name != "none"]
    readings = list(dict.fromkeys(r for table in tables.values() for r in table["reading"]))
    looks = dict(zip(readings, zip(("D", "o", "s", "^", "v"), PALETTE, strict=False), strict=False))
    offsets = np.linspace(0.28, -0.28, len(readings))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(1, len(tables), (5.6 * len(tables), 4.9), sharey=True)
        for axis, (layer, table) in zip(axes[0], tables.items(), strict=True):
            for y, name in enumerate(rows):
                if y:
                    axis.axhline(y - 0.5, color="0.9", linewidth=1)
                of = table[table["similarity"] == name].groupby("reading")["ratio"]
                for reading, ratios in of:
                    shift = offsets[readings.index(reading)] if of.ngroups > 1 else 0.0
                    _ratios(axis, ratios.to_numpy(), y - shift, floor, *looks[reading])
            axis.axvline(1, color="0.3", linewidth=1, linestyle="--")
            axis.set(xscale="log", xlim=(floor / 20, 100), title=f"layer {layer}")
            axis.set_xlabel("gradient of the similarity / gradient of L_orig")
            ticks = [10.0**e for e in range(int(np.log10(floor)), 2, 6)]
            axis.set_xticks(
                ticks,
                [
                    "0 (under-\nflow)"
                    if t == ticks[0]
                    else f"1e{np.log10(t):.0f}"
                    if t < 1
                    else "1"
                    for t in ticks
                ],
            )
            axis.xaxis.set_minor_locator(NullLocator())
        axes[0, 0].set_yticks(range(len(rows)), rows)
        axes[0, 0].invert_yaxis()
        handles = [
            plt.Line2D([], [], color=c, marker=m, linestyle="none", label=r)
            for r, (m, c) in looks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=10)
        sns.despine(figure)
    return figure


def _ratios(axis, ratios: np.ndarray, y: float, floor: float, marker: str, colour) -> None:  # type: ignore[no-untyped-def]
    gone = ratios < floor
    axis.plot(ratios[~gone], [y] * (~gone).sum(), marker, color=colour, markersize=5, alpha=0.75)
    axis.plot([floor] * gone.sum(), [y] * gone.sum(), "x", color=colour, markersize=8)


def rescaled_neurons(curves: Mapping[str, np.ndarray], factors: Sequence[float]) -> Figure:
    """CKA of a learner with its copy in which one neuron was made louder: a line a neuron.

    Args:
        curves: by layer, [neurons, len(factors)].
        factors: the factors.
    """
    with plt.rc_context(FONT):
        figure, axes = axes_grid(1, len(curves), (5.4 * len(curves), 3.8), sharey=True)
        for axis, (layer, values) in zip(axes[0], curves.items(), strict=True):
            axis.plot(factors, values.T, color=PALETTE[0], linewidth=0.9, alpha=0.6)
            axis.plot(
                factors, np.median(values, 0), color="black", linewidth=2, label="median neuron"
            )
            axis.set(xscale="log", ylim=(0, 1.03), title=f"layer {layer}, {len(values)} neurons")
            axis.set_xlabel("factor a on one neuron")
            axis.plot([], [], color=PALETTE[0], label="one neuron")
        axes[0, 0].set_ylabel("CKA with the original")
        axes[0, 0].legend(fontsize=10, loc="lower left")
        sns.despine(figure)
    return figure
