"""Pictures of images, reconstructions and score maps; one kind of map has one colour scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from d2ue.plotting.style import FONT, METHOD_TITLES, OUTLINE, axes_grid, outline_mask, show_image


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
                show_image(axis, images[i, 0], 0, 255, "gray")
                if masks is not None and title in masks:
                    outline_mask(axis, masks[title][i, 0])
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
            show_image(axes[row, 0], x, -1, 1, "gray")
            outline_mask(axes[row, 0], None if masks is None else masks[row, 0])
            axes[row, 0].set_ylabel(titles[row])
            for i in range(learners):
                show_image(axes[row, i + 1], outputs[i, row, 0], -1, 1, "gray")
            error = np.abs(x - outputs[:, row, 0].mean(0))
            shown = show_image(axes[row, -1], error, 0, worst, "magma")
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
            show_image(axes[row, 0], images[row, 0], 0, 255, "gray")
            axes[row, 0].set_ylabel(titles[row])
            if means is not None:
                show_image(axes[row, 1], means[row, 0], -1, 1, "gray")
                axes[0, 1].set_title("mean reconstruction")
        axes[0, 0].set_title("image and truth" if masks is not None else "image")
        for column, (method, values) in enumerate(maps.items(), first):
            top = float(np.quantile(values, quantile)) or 1.0
            for row in range(n):
                shown = show_image(axes[row, column], values[row, 0], 0, top, "magma")
            axes[0, column].set_title(METHOD_TITLES.get(method, method))
            bar = figure.colorbar(
                shown, ax=axes[:, column], location="bottom", shrink=0.85, aspect=18, extend="max"
            )
            bar.ax.xaxis.set_major_locator(MaxNLocator(3))
            bar.ax.ticklabel_format(style="sci", scilimits=(-2, 2))
        for line, mask in zip(axes, masks if masks is not None else [None] * n, strict=True):
            for axis in line:
                outline_mask(axis, None if mask is None else mask[0])
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
                show_image(axis, images[row, 0], 0, 255, "gray")
            show_image(line[2], means[row, 0], -1, 1, "gray")
            line[0].set_ylabel(titles[row])
        for axis, title in zip(axes[0], ("image", "truth", "mean of\nlearners"), strict=False):
            axis.set_title(title)
        for column, (method, values) in enumerate(maps.items(), 3):
            for row in range(n):
                shown = show_image(axes[row, column], values[row, 0], 0, tops[method], "magma")
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
                    outline_mask(axis, masks[row, 0])
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
