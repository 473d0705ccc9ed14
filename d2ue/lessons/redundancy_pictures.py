"""The pictures of the lesson on redundancy; `lessons.redundancy` makes their tables.

House style as in `d2ue.plotting`. A dot is one measurement unless the picture says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from d2ue.backbones import Autoencoder, forward
from d2ue.lessons.equivalent import TRANSFORMATIONS, output_difference
from d2ue.plotting.style import (
    CHART,
    PALETTE,
    axes_grid,
    heat_table,
    legend_below,
    legend_entry,
    show_image,
)
from d2ue.similarity import SIMILARITIES

REPELLING = [name for name in SIMILARITIES if name != "none"]


@plt.rc_context(CHART)
def copies(networks: Mapping[str, Autoencoder], x: Tensor) -> tuple[Figure, dict[str, float]]:
    """Fig. 3: above, the feature z of one image in a learner and its copies; below, the outputs.

    Args:
        networks: by name, the learner first, each R = 1.
        x: images [B, 1, H, W] in [-1, 1]; the first is shown, all are compared.

    Returns:
        The figure and, by copy, the largest difference of its outputs to the learner's.
    """
    results = {name: forward(network, x[:1], "z") for name, network in networks.items()}
    features = {name: result.feature[0, 0].numpy() for name, result in results.items()}
    first, *others = networks
    differences = {n: output_difference(networks[first], networks[n], x) for n in others}
    columns = len(networks) + 1
    figure, axes = axes_grid(2, columns, (2.05 * columns, 4.5), height_ratios=(1, 1.35))
    axes[0, 0].axis("off")
    largest = max(np.abs(values).max() for values in features.values())
    for axis, (name, values) in zip(axes[0, 1:], features.items(), strict=True):
        axis.bar(range(1, len(values) + 1), values, color=PALETTE[0], width=0.8)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set(title=name, ylim=(-1.05 * largest, 1.05 * largest), xlabel="neuron")
        axis.set_xticks([1, len(values)])
        if name != first:
            axis.set_yticklabels([])
    axes[0, 1].set_ylabel("value")
    images = [x[0, 0], *(result.mean[0, 0, 0] for result in results.values())]
    for axis, image in zip(axes[1], images, strict=True):
        show_image(axis, image.numpy(), -1, 1, "gray")
    axes[1, 0].set_title("image")
    axes[1, 1].set_title("output")
    for axis, difference in zip(axes[1, 2:], differences.values(), strict=True):
        axis.set_xlabel(f"max. difference\n{difference:.0e}")
    return figure, differences


@plt.rc_context(CHART)
def survival(table: pd.DataFrame) -> Figure:
    """`redundancy.survival`: one panel a network, layers against kinds of transformation."""
    networks, layers = table["network"].unique(), table["layer"].unique()
    size = (3.7 * len(networks) + 0.8, 0.5 * len(layers) + 1.6)
    figure, axes = axes_grid(1, len(networks), size, sharey=True)
    for axis, network in zip(axes[0], networks, strict=True):
        part = table[table["network"] == network]
        wide = part.pivot(index="layer", columns="transformation", values="difference")
        wide = wide.loc[layers, list(TRANSFORMATIONS)]
        text = wide.map(lambda value: f"{value:.0e}" if value else "0")
        limits = {"vmin": -17, "vmax": 1, "annot_kws": {"fontsize": 10}}
        bar = {
            "cbar": axis is axes[0, -1],
            "cbar_kws": {"label": "log10 of the largest difference"},
        }
        heat_table(axis, np.log10(wide.clip(lower=1e-17)), text, linewidths=1, **limits, **bar)
        axis.set_title(network)
        axis.tick_params(axis="x", rotation=30)
    axes[0, 0].set_ylabel("layer, input to output")
    return figure


@plt.rc_context(CHART)
def fooled(table: pd.DataFrame) -> Figure:
    """`redundancy.similarity_to_copies`: mean (and range) over the draws."""
    kinds = table["transformation"].unique()
    values = table.groupby(["transformation", "similarity"])["value"].agg(["mean", "min", "max"])
    cells = values.apply(lambda v: _cell(v["mean"], v["min"], v["max"]), axis=1)
    mean, text = (part.unstack().loc[kinds, REPELLING] for part in (values["mean"], cells))
    size = (1.75 * len(REPELLING) + 1.6, 0.8 * len(kinds) + 0.9)
    figure, axes = axes_grid(1, 1, size)
    look = {"annot_kws": {"fontsize": 11}, "cbar_kws": {"label": "similarity, mean"}}
    heat_table(axes[0, 0], mean, text, vmin=0, vmax=1, linewidths=1, **look)
    return figure


def _cell(mean: float, low: float, high: float) -> str:
    text = f"{mean:.2f}" if high - low < 0.005 else f"{mean:.2f}\n{low:.2f} to {high:.2f}"
    return text.replace("-0.00", "0.00")


@plt.rc_context(CHART)
def bias(table: pd.DataFrame) -> Figure:
    """`redundancy.bias`, biased and debiased, against width: mean and standard deviation."""
    figure, axes = axes_grid(1, 2, (11, 3.9), sharey=True)
    left, right = axes[0]
    shifts = (0.9, 1.0, 1.11, 0.8, 1.25)  # side by side where they would hide each other
    looks = zip(PALETTE, ("o", "s", "D", "^", "v"), shifts, strict=False)
    for (batch, part), (colour, marker, shift) in zip(table.groupby("batch"), looks, strict=False):
        by_width = part.groupby("width")[["cka", "debiased-cka"]].agg(["mean", "std"])
        look = {"color": colour, "marker": marker, "capsize": 3, "linestyle": "none"}
        for axis, name, apart in ((left, "cka", 1.0), (right, "debiased-cka", shift)):
            mean, std = by_width[name]["mean"], by_width[name]["std"]
            axis.errorbar(mean.index * apart, mean, std, **look, label=f"B = {batch}")
        dense = np.geomspace(part["width"].min(), part["width"].max(), 100)
        left.plot(dense, dense / (batch + dense), color=colour, linewidth=1)
    left.plot([], [], color="0.3", linewidth=1, label="d / (B + d)")
    right.axhline(0, color="0.4", linewidth=1)
    widths = sorted(table["width"].unique())
    for axis, title in ((left, "cka, biased"), (right, "debiased-cka")):
        axis.set(xscale="log", xlabel="width d of the features", title=title)
        axis.set_xticks(widths, [str(w) for w in widths])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.legend(fontsize=10)
    left.set_ylabel("CKA of independent features")
    return figure


@plt.rc_context(CHART)
def bias_by_layer(table: pd.DataFrame) -> Figure:
    """`redundancy.bias_by_layer`: CKA of two learners on the same and on unrelated images."""
    layers = table.drop_duplicates("layer")
    figure, axes = axes_grid(1, 1, (9.5, 4.2))
    axis, x = axes[0, 0], np.arange(len(layers))
    for images, column, colour, marker, shift in (
        ("same", "cka", PALETTE[0], "o", -0.15),
        ("same", "debiased-cka", PALETTE[1], "s", 0.15),
        ("unrelated", "cka", PALETTE[0], "^", -0.15),
        ("unrelated", "debiased-cka", PALETTE[1], "v", 0.15),
    ):
        part = table[table["images"] == images].groupby("layer", sort=False)[column]
        look = {"color": colour, "marker": marker, "capsize": 3, "linestyle": "none"}
        look["label"] = column if images == "same" else f"{column}, unrelated images"
        axis.errorbar(x + shift, part.mean(), part.std(), **look)
    look = {"color": "black", "markersize": 26, "label": "bias if Gaussian, d / (B + d)"}
    axis.plot(x, layers["expected"], "_", **look)
    axis.axhline(0, color="0.4", linewidth=1)
    axis.set_xticks(x, layers["layer"] + "\nd = " + layers["width"].astype(str))
    axis.set(ylabel="CKA between two learners", ylim=(-0.1, 1.05))
    axis.legend(fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


@plt.rc_context(CHART)
def start_gradients(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """`redundancy.start_gradients` by layer: how hard each similarity pushes, by reading.

    Ratios below 1e-24 are drawn there, as crosses: mostly exact zeros.
    """
    floor = 1e-24
    readings = list(dict.fromkeys(r for table in tables.values() for r in table["reading"]))
    looks = dict(zip(readings, zip(("D", "o", "s", "^", "v"), PALETTE, strict=False), strict=False))
    offsets = dict(zip(readings, np.linspace(0.28, -0.28, len(readings)), strict=True))
    ticks = {floor: "0 (under-\nflow)", 1e-18: "1e-18", 1e-12: "1e-12", 1e-6: "1e-6", 1.0: "1"}
    figure, axes = axes_grid(1, len(tables), (5.6 * len(tables), 4.9), sharey=True)
    for axis, (layer, table) in zip(axes[0], tables.items(), strict=True):
        for y, name in enumerate(REPELLING):
            if y:
                axis.axhline(y - 0.5, color="0.9", linewidth=1)
            of = table[table["similarity"] == name].groupby("reading")["ratio"]
            for reading, ratios in of:
                marker, colour = looks[reading]
                at = y - (offsets[reading] if of.ngroups > 1 else 0.0)
                drawn, gone = ratios[ratios >= floor], (ratios < floor).sum()
                look = {"color": colour, "markersize": 5, "alpha": 0.75}
                axis.plot(drawn, [at] * len(drawn), marker, **look)
                axis.plot([floor] * gone, [at] * gone, "x", color=colour, markersize=8)
        axis.axvline(1, color="0.3", linewidth=1, linestyle="--")
        axis.set(xscale="log", xlim=(floor / 20, 100), title=f"layer {layer}")
        axis.set_xlabel("gradient of the similarity / gradient of L_orig")
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0, 0].set_yticks(range(len(REPELLING)), REPELLING)
    axes[0, 0].invert_yaxis()
    legend_below(figure, [legend_entry(reading, *look) for reading, look in looks.items()])
    return figure


@plt.rc_context(CHART)
def rescaled_neurons(curves: Mapping[str, np.ndarray], factors: Sequence[float]) -> Figure:
    """`redundancy.rescaled_neurons` by layer, [neurons, len(factors)]: a line a neuron."""
    figure, axes = axes_grid(1, len(curves), (5.4 * len(curves), 3.8), sharey=True)
    for axis, (layer, values) in zip(axes[0], curves.items(), strict=True):
        axis.plot(factors, values.T, color=PALETTE[0], linewidth=0.9, alpha=0.6)
        middle = np.median(values, 0)
        axis.plot(factors, middle, color="black", linewidth=2, label="median neuron")
        axis.set(xscale="log", ylim=(0, 1.03), title=f"layer {layer}, {len(values)} neurons")
        axis.set_xlabel("factor a on one neuron")
        axis.plot([], [], color=PALETTE[0], label="one neuron")
    axes[0, 0].set_ylabel("CKA with the original")
    axes[0, 0].legend(fontsize=10, loc="lower left")
    return figure
