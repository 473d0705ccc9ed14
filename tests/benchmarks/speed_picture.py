"""The picture of bench.py: what an ensemble costs, by learners, images and replicas."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from bench import FEW_IMAGES
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2ue.plotting.style import FONT, PALETTE

COLOURS = {"plain": PALETTE[1], "ours": PALETTE[0]}
NAMES = {"plain": "plain recipe", "ours": "d2ue"}


def speed_figure(runs: pd.DataFrame, floor_ms: float) -> Figure:
    """Cost against learners, images and replicas; medians, with the range over repetitions.

    Args:
        runs: from `bench.measure_all`.
        floor_ms: the least that a step of 64 images can take, from `bench.floor`.
    """
    on_gpu = runs.device.str.startswith("cuda").any()
    kind, column = ("GPU", "wall_s") if on_gpu else ("CPU", "cpu_s")
    fits = runs[runs.what == "fit"]
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
        threads = set(fits[fits.learners == 8].threads)
        on = "one GPU" if on_gpu else "one thread" if threads == {1} else "several threads"
        figure.suptitle(
            f"Training on {on}; medians of {runs['repeat'].nunique()} runs, bars from the least to "
            "the most"
        )
        _learners(axes[0], fits[fits.learners == 8], f"learner_{column}", floor_ms, kind)
        several = (fits.learners == 1) & (fits.replicas == 1) & (fits.precision == "float32")
        _images(axes[1], fits[several], column, kind)
        _replicas(axes[2], fits[(fits.learners == 1) & (fits.images == FEW_IMAGES)], column, kind)
    return figure


def _learners(axis: Axes, fits: pd.DataFrame, column: str, floor_ms: float, kind: str) -> None:
    for side, some in fits.groupby("side"):
        steps = (some.images // 64 * some.epochs).to_numpy()[:, None]
        costs = 1e3 * np.stack([np.asarray(values) for values in some[column]]) / steps
        numbers = np.arange(1, costs.shape[1] + 1)
        middle = np.median(costs, 0)
        spread = [middle - costs.min(0), costs.max(0) - middle]
        axis.errorbar(
            numbers, middle, spread, fmt="o-", capsize=3, color=COLOURS[side], label=NAMES[side]
        )
    axis.axhline(floor_ms, color="0.4", linestyle=":", label="floor of learner 1 here")
    axis.set(xlabel="learner", ylabel=f"{kind} ms a step of 64 images", ylim=(0, None))
    axis.set_title("Each further learner")
    axis.legend()


def _images(axis: Axes, fits: pd.DataFrame, column: str, kind: str) -> None:
    for side, some in fits.assign(each=fits[column] / fits.epochs).groupby("side"):
        table = some.groupby("images")["each"].agg(["median", "min", "max"])
        _points(axis, table, COLOURS[side], NAMES[side])
    axis.set(xlabel="training images", ylabel=f"{kind} s an epoch of one learner")
    axis.set(xlim=(0, None), ylim=(0, None))
    axis.set_title("More images")
    axis.legend()


def _replicas(axis: Axes, fits: pd.DataFrame, column: str, kind: str) -> None:
    ours = fits[(fits.side == "ours") & (fits.precision == "float32")]
    costs = ours.assign(each=ours[column] / (ours.replicas * ours.epochs))
    table = costs.groupby("replicas")["each"].agg(["median", "min", "max"])
    _points(axis, table, COLOURS["ours"], NAMES["ours"])
    axis.set_xscale("log", base=2)
    axis.set_xticks(table.index, [str(r) for r in table.index])
    axis.set(xlabel="ensembles trained side by side", ylim=(0, None))
    axis.set_ylabel(f"{kind} s an epoch of each learner\n({FEW_IMAGES} images)")
    axis.set_title("Replicas")


def _points(axis: Axes, table: pd.DataFrame, colour: object, name: str) -> None:
    spread = [table["median"] - table["min"], table["max"] - table["median"]]
    axis.errorbar(
        table.index, table["median"], spread, fmt="o-", capsize=3, color=colour, label=name
    )
