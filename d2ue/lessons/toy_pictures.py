"""Pictures of the 1-D toy, d2ue.lessons.toy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2ue.lessons.toy import BANDS, SPAN, View
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    CHART,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
    legend_beside,
)

#: Learners of the toy; none has the colour of a class or of a score.
TOY_LEARNERS = [PALETTE[i] for i in (2, 4, 5, 8, 6, 9)]
#: The toy's scores along x: name, and a line that can be told apart without its colour.
TOY_LINES = {
    "output": ("Unc, std f", {"color": "black", "linestyle": "--"}),
    "dual": ("DSU, std L ∇L", {"color": PALETTE[3], "linestyle": "-"}),
    "slope": ("slopes alone, std f'", {"color": PALETTE[0], "linestyle": "-."}),
    "ensemble": ("error alone, |mean f - y|", {"color": "0.5", "linestyle": ":"}),
}


@plt.rc_context(CHART)
def toy_view(view: View) -> Figure:
    """The 1-D regression and one abnormal point; below it, Unc and DSU along x."""
    figure, axes = axes_grid(2, 1, (9, 6.2), sharex=True, height_ratios=(1.2, 1))
    above, below = axes[:, 0]
    _toy_curves(above, view)
    above.set(ylabel="y", title=_toy_verdict(view))
    legend_beside(above)
    _toy_along(below, view, ("output", "dual"))
    return figure


@plt.rc_context(CHART)
def toy_parts(view: View) -> Figure:
    """DSU along x beside its parts: the learners' slopes alone, and their error alone."""
    figure, axes = axes_grid(1, 1, (9, 3.2))
    _toy_along(axes[0, 0], view, ("dual", "slope", "ensemble"))
    return figure


@plt.rc_context(CHART)
def toy_views(views: Mapping[str, View], columns: int = 3) -> Figure:
    """Small multiples of the regression alone, by title, each with its point's scores in it."""
    rows = -(-len(views) // columns)
    figure, axes = axes_grid(rows, columns, (3.7 * columns, 2.75 * rows), sharex=True, sharey=True)
    for axis, (title, view) in zip(axes.flat, views.items(), strict=False):
        _toy_curves(axis, view)
        axis.set_title(f"{title}\n{_toy_verdict(view)}", fontsize=11)
    for axis in axes.flat[len(views) :]:
        axis.axis("off")
        axis.legend(*axes[0, 0].get_legend_handles_labels(), loc="center left", fontsize=11)
    for axis in axes[-1]:
        axis.set_xlabel("x")
    for axis in axes[:, 0]:
        axis.set_ylabel("y")
    return figure


@plt.rc_context(CHART)
def toy_effects(effects: pd.DataFrame) -> Figure:
    """`toy.effects` of one number of learners: both uncertainties where Unc is blind, by seed."""
    groups = list(effects.groupby("height", sort=False))
    figure, axes = axes_grid(1, len(groups), (5.2 * len(groups), 3.6), sharey=True)
    for axis, (height, part) in zip(axes[0], groups, strict=True):
        places = range(len(part))
        for name, marker in (("output", "s"), ("dual", "o")):
            label, look = TOY_LINES[name]
            values = part[f"{name}_level"]
            axis.plot(places, values, marker, color=look["color"], markersize=8, label=label)
        axis.vlines(places, part["output_level"], part["dual_level"], color="0.7", zorder=0)
        axis.axhline(1, color="0.3", linewidth=1)
        axis.set_xticks(places, part["seed"].astype(str))
        title = f"points {_above(float(height))}: holds in {part['holds'].sum()} of {len(part)}"
        axis.set(yscale="log", xlabel="seed", title=title)
    axes[0, 0].set_ylabel("median at blind places\n/ alarm level (95 % of normals)")
    legend_beside(axes[0, -1])
    return figure


def _toy_curves(axis: Axes, view: View) -> None:
    """Normal points, learners, and the abnormal point with the learners' tangents at it."""
    _bands(axis)
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
    _bands(axis)
    in_a_band = [(view.x >= low) & (view.x <= high) for low, high in BANDS]
    blind = (view.along["output"] <= 1) & ~np.logical_or.reduce(in_a_band)
    span = {"color": "0.8", "linewidth": 0, "label": "blind to Unc, off the bands"}
    axis.fill_between(view.x, 0, 1, blind, transform=axis.get_xaxis_transform(), **span)
    for name in along:
        label, look = TOY_LINES[name]
        axis.plot(view.x, view.along[name], linewidth=2, label=label, **look)
    axis.axhline(1, color="0.3", linewidth=1)
    axis.axvline(view.point[0], color=ABNORMAL_COLOUR, linewidth=1)
    axis.set(yscale="log", ylim=(1e-2, 100), xlim=SPAN)
    axis.set_xlabel(f"x of a point {_above(view.height)}")
    axis.set_ylabel("score / its alarm level\n(95 % of normals)")
    legend_beside(axis)


def _bands(axis: Axes) -> None:
    for low, high in BANDS:
        axis.axvspan(low, high, color=NORMAL_COLOUR, alpha=0.12, linewidth=0)


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
