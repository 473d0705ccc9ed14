"""For the page about the other methods of Table 1: trained for seconds, timed, drawn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from d2ue.baselines import METHODS, Job
from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.detector.trained import Trained
from d2ue.ensemble import train_ensemble
from d2ue.evaluation import auc
from d2ue.plotting.style import CHART, FONT, PALETTE, axes_grid, legend_below, legend_entry

#: Epochs after which a method is looked at.
GLANCE = {
    "f-anogan": 9, "ganomaly": 8, "igd": 2, "multi-st": 6, "rdad": 6, "destseg": 2,
    "neighbours": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Glanced:
    """A method trained for a moment.

    Attributes:
        trained: the method.
        minutes: CPU minutes that its whole training takes on 1000 images, by what these epochs
            took.
    """

    trained: Trained
    minutes: float


def glance(images: ImageSet, seed: int = 0, share: float = 1.0) -> dict[str, Glanced]:
    """Every method's small preset, trained for `GLANCE` epochs times `share`, by its title."""
    found = {}
    pixels = torch.from_numpy(images.images)
    for name, method in METHODS.items():
        preset = method.presets["small"]
        epochs = max(2, round(share * GLANCE[name]))
        short = dataclasses.replace(preset, epochs=epochs)
        times = [time.process_time()]

        def note(_: int, times: list[float] = times) -> None:
            times.append(time.process_time())

        network = method.module.train(pixels, short, Job(seed, report=note))
        trained = Trained(name, short, seed, network, images.fingerprint, len(images))
        # The first of many epochs has the teacher's look at the images, which is there once.
        spent = np.diff(times)[int(epochs > 2) :].mean()
        found[method.title] = Glanced(trained, spent * preset.epochs * 1000 / len(images) / 60)
    return found


def minutes_of(config: TrainConfig, images: ImageSet) -> float:
    """CPU minutes that an ensemble's training takes on 1000 images, by five epochs of it."""
    spent, n = [], 4 * config.batch_size
    pixels = np.resize(images.images, (n, *images.images.shape[1:]))  # over and over
    images = ImageSet(pixels, tuple(map(str, range(n))))
    for epochs in (1, 6):  # the difference has no setting up
        short = config.replace(epochs=epochs)
        start = time.process_time()
        train_ensemble(short, images, device="cpu", progress=False)
        spent.append(time.process_time() - start)
    return (spent[1] - spent[0]) / 5 * config.epochs * 1000 / n / 60


def auc_table(found: Mapping[str, Glanced], test: ImageSet) -> pd.DataFrame:
    """AUC in percent of every score on a few images, after a glance."""
    rows = []
    for title, glanced in found.items():
        for name, values in glanced.trained.scores(test.images).items():
            rows.append({"method": title, "score": name, "AUC": 100 * auc(test.labels, values)})
    return pd.DataFrame(rows).set_index(["method", "score"]).round(1)


#: Rows of Table 1 that are learners of ours: kind, backbone, how many; repulsion is not counted.
_OWN = {
    "AE": ("autoencoder", "ae", 1),
    "MemAE": ("autoencoder", "memae", 1),
    "AEU": ("autoencoder", "aeu", 1),
    "DDAD": ("autoencoder", "aeu", 3),
    "Ours (AE)": ("ours", "ae", 3),
    "Ours (AEU)": ("ours", "aeu", 3),
}


def cost_table(table: pd.DataFrame, minutes: Mapping[str, float], images: ImageSet) -> pd.DataFrame:
    """What methods reach and cost.

    Args:
        table: rows of Table 1 and of the other methods, as `experiments.long_table` gives them.
        minutes: CPU minutes of the other methods' training.
        images: to time our own learners on.

    Returns:
        By label, the columns that `auc_against_cost` takes; rows without a result are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    timed: dict[str, float] = {}
    for row in table[table["n_seeds"] > 0].to_dict("records"):
        label = f"Ours ({row['group']})" if row["row"] == "Ours" else row["row"]
        if label in _OWN:
            kind, backbone, learners = _OWN[label]
            single = TrainConfig(backbone, n_learners=1)
            timed[backbone] = timed.get(backbone) or minutes_of(single, images)
            spent = learners * timed[backbone]
        elif label in minutes:
            known = {method.title: method for method in METHODS.values()}
            is_other = label in known and not known[label].is_control
            kind, spent = "other" if is_other else "control", minutes[label]
        else:
            continue
        values = [float(v.partition(":")[2]) for v in str(row["AUC_by_seed"]).split()]
        rows[label] = {
            "minutes": spent, "low": min(values), "mean": row["AUC"], "high": max(values),
            "n": row["n_seeds"], "kind": kind,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


# --- pictures ---

#: What is compared with what. Boxes: text, column, line; arrows by position; pairs that the score
#: compares; frozen boxes.
_DIAGRAMS: dict[str, Any] = {
    "f-AnoGAN": (
        [("image", 0, 0), ("encoder", 1, 0), ("generator", 2, 0), ("image'", 3, 0),
         ("critic's\nfeature", 0, 1), ("critic's\nfeature", 3, 1)],
        [(0, 1), (1, 2), (2, 3), (0, 4), (3, 5)], [(0, 3), (4, 5)], {2, 4, 5},
    ),
    "Ganomaly": (
        [("image", 0, 0), ("code", 1, 0), ("image'", 2, 0), ("code'", 3, 0)],
        [(0, 1), (1, 2), (2, 3)], [(1, 3)], set(),
    ),
    "IGD": (
        [("image", 0, 0), ("teacher", 1, 0), ("code", 2, 0), ("image'", 3, 0), ("centre", 2, 1)],
        [(0, 1), (1, 2), (2, 3)], [(0, 3), (2, 4)], {1},
    ),
    "Multi-ST": (
        [("image", 0, 0.5), ("teacher", 1.2, 0), ("cloner", 1.2, 1), ("4 features", 3, 0),
         ("4 features", 3, 1)],
        [(0, 1), (0, 2), (1, 3), (2, 4)], [(3, 4)], {1},
    ),
    "RDAD": (
        [("image", 0, 0.5), ("teacher", 1.2, 0), ("3 features", 3, 0),
         ("bottleneck,\ndecoder", 1.2, 1), ("3 features'", 3, 1)],
        [(0, 1), (1, 2), (2, 3), (3, 4)], [(2, 4)], {1},
    ),
    "DeSTSeg": (
        [("image", 0, 0.5), ("teacher", 1.2, 0), ("student", 1.2, 1),
         ("where do\nthey agree", 2.2, 0.5), ("damage?", 3.2, 0.5)],
        [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)], [(1, 2)], {1},
    ),
}  # fmt: skip


@plt.rc_context(FONT)
def diagrams() -> Figure:
    """One panel a method: arrows are computed, red lines compared; grey boxes are not trained."""
    figure, axes = axes_grid(2, 3, (14, 5.6))
    for axis, (title, (boxes, arrows, pairs, frozen)) in zip(
        axes.flat, _DIAGRAMS.items(), strict=True
    ):
        axis.set(xlim=(-0.6, 3.8), ylim=(1.6, -0.95), title=title)
        axis.axis("off")
        drawn, lines = [], []
        for i, (text, x, y) in enumerate(boxes):
            look = {"boxstyle": "round,pad=0.35", "edgecolor": "0.3"}
            look["facecolor"] = "0.85" if i in frozen else "white"
            style: Any = {"ha": "center", "va": "center", "fontsize": 10, "bbox": look}
            drawn.append((axis.text(x, y, text, **style).get_bbox_patch(), (x, y)))
        lines += [(pair, {"arrowstyle": "-|>", "color": "0.3"}) for pair in arrows]
        for start, end in pairs:
            bend = -0.35 if boxes[start][2] == boxes[end][2] else 0
            bent = {"connectionstyle": f"arc3,rad={bend}", "color": PALETTE[3]}
            lines.append(((start, end), {"arrowstyle": "<|-|>", **bent}))
        for (start, end), look in lines:
            (box, place), (other, there) = drawn[start], drawn[end]
            ends = {"patchA": box, "patchB": other, "shrinkA": 3, "shrinkB": 3, "lw": 1.6}
            axis.annotate("", there, place, arrowprops=look | ends)
    return figure


@plt.rc_context(CHART)
def auc_against_cost(table: pd.DataFrame) -> Figure:
    """A method a point: mean AUC, a line from its lowest to its highest seed, and CPU minutes.

    Args:
        table: by label, columns minutes (of one training on 1000 images), low, mean, high (AUC), n
            (seeds), and kind: "ours", "autoencoder", "other" or "control".
    """
    figure, axes = axes_grid(1, 1, (9, 5))
    axis = axes[0, 0]
    looks = {
        "ours": ("o", PALETTE[3]),
        "autoencoder": ("s", "0.45"),
        "other": ("D", PALETTE[0]),
        "control": ("X", PALETTE[2]),
    }
    for _, row in table.iterrows():
        marker, colour = looks[row["kind"]]
        axis.plot([row["minutes"]] * 2, [row["low"], row["high"]], color=colour, lw=1.5)
        axis.plot(row["minutes"], row["mean"], marker, color=colour, markersize=8)
    axis.set(xscale="log", xlabel="CPU minutes of one training (1000 images, one core)")
    axis.set_ylabel("AUC, % (line: lowest to highest seed)")
    axis.margins(x=0.22)
    kinds: Iterable[str] = [kind for kind in looks if kind in set(table["kind"])]
    legend_below(figure, [legend_entry(kind, *looks[kind]) for kind in kinds])
    figure.canvas.draw()  # where points lie on the page is known from here on
    points = axis.transData.transform(table[["minutes", "mean"]].to_numpy(float))
    taken = [Bbox.from_extents(*(point - 6), *(point + 6)) for point in points]
    for label, row in table.iterrows():
        taken.append(
            _label(axis, f"{label} ({row['n']:.0f})", (row["minutes"], row["mean"]), taken)
        )
    return figure


def _label(axis: Axes, text: str, point: tuple[float, float], taken: Sequence[Bbox]) -> Bbox:
    """Write beside a point where nothing is yet, and say which place that takes."""
    for shift, side in (
        ((8, 4), "left"),
        ((8, -13), "left"),
        ((-8, 4), "right"),
        ((-8, -13), "right"),
    ):
        note = axis.annotate(text, point, shift, textcoords="offset points", fontsize=10, ha=side)
        place = note.get_window_extent()
        if not any(place.overlaps(other) for other in taken):
            return place
        note.remove()
    axis.annotate(text, point, (8, 4), textcoords="offset points", fontsize=10)
    return place
