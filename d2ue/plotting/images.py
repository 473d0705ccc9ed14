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

BOX_COLOUR = "#ff2a1f"  # the paper's red


@plt.rc_context(FONT)
def image_rows(
    rows: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """Rows of grey images, all on the scale 0 to 255, abnormal pixels outlined.

    Args:
        rows: by title, uint8 [n, 1, H, W]; rows may differ in n.
        masks: by the same titles, bool [n, 1, H, W]; rows without one get no outline.
    """
    columns = max(map(len, rows.values()))
    size = (1.6 * columns, 1.75 * len(rows))
    figure, axes = axes_grid(len(rows), columns, size, layout="compressed")
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis in line[len(images) :]:
            axis.axis("off")
        for i, (axis, image) in enumerate(zip(line, images, strict=False)):
            show_image(axis, image[0], 0, 255, "gray")
            if masks is not None and title in masks:
                outline_mask(axis, masks[title][i, 0])
        line[0].set_ylabel(title)
    return figure


@plt.rc_context(FONT)
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
    n, columns = len(images), len(outputs) + 2
    figure, axes = axes_grid(n, columns, (1.8 * columns, 1.62 * n + 0.3), layout="compressed")
    x = images / 127.5 - 1
    errors = np.abs(x - outputs.mean(0))
    for row, line in enumerate(axes):
        for axis, image in zip(line, [x[row], *outputs[:, row]], strict=False):
            show_image(axis, image[0], -1, 1, "gray")
        shown = show_image(line[-1], errors[row, 0], 0, errors.max(), "magma")
        outline_mask(line[0], None if masks is None else masks[row, 0])
        line[0].set_ylabel(titles[row])
    heads = ["image", *(f"learner {i + 1}" for i in range(len(outputs))), "error of mean"]
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head)
    figure.colorbar(shown, ax=axes[:, -1], shrink=0.8, label="|image - mean|")
    return figure


@plt.rc_context(FONT)
def score_maps(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
    masks: np.ndarray | None = None,
) -> Figure:
    """Images and their score maps; one colour scale a column, so rows can be compared.

    A scale spans 99.5 % of its column's pixels from 0; those above are drawn in the last colour.

    Args:
        images: uint8 [n, 1, H, W], one row each.
        maps: by score method, float [n, 1, H, W].
        titles: n names of the rows.
        masks: bool [n, 1, H, W] or None; drawn as outlines on image and maps.
    """
    n, columns = len(images), len(maps) + 1
    figure, axes = axes_grid(n, columns, (2.4 * columns, 2.4 * n + 0.9), layout="compressed")
    for axis, image, title in zip(axes[:, 0], images, titles, strict=True):
        show_image(axis, image[0], 0, 255, "gray")
        axis.set_ylabel(title)
    axes[0, 0].set_title("image" if masks is None else "image and truth")
    for column, (method, values) in zip(axes.T[1:], maps.items(), strict=True):
        _map_column(column, values, float(np.quantile(values, 0.995)) or 1.0, 3, 18)
        column[0].set_title(METHOD_TITLES.get(method, method))
    if masks is not None:
        for line, mask in zip(axes, masks, strict=True):
            for axis in line:
                outline_mask(axis, mask[0])
    return figure


@plt.rc_context(FONT)
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
    size = (1.5 * columns + 0.4, 1.5 * n + 1.0)
    figure, axes = axes_grid(n, columns, size, layout="compressed")
    for row, line in enumerate(axes):
        for axis in line[:2]:
            show_image(axis, images[row, 0], 0, 255, "gray")
        show_image(line[2], means[row, 0], -1, 1, "gray")
        line[0].set_ylabel(titles[row])
    for axis, title in zip(axes[0], ("image", "truth", "mean of\nlearners"), strict=False):
        axis.set_title(title)
    for column, (method, values) in zip(axes.T[3:], maps.items(), strict=True):
        _map_column(column, values, tops[method], 2, 16)
        name, _, what = METHOD_TITLES.get(method, method).partition(": ")
        column[0].set_title(f"{name}\n{what.replace(' (', chr(10) + '(')}", fontsize=11)
    for row, line in enumerate(axes):
        for axis in (line[1], *line[3:]):
            if masks is not None:
                outline_mask(axis, masks[row, 0])
            elif boxes is not None:
                look = (BOX_COLOUR, 2.0) if axis is line[1] else (OUTLINE, 1.0)
                for box in boxes[row]:
                    _outline_box(axis, box, images.shape[2:], *look)
    return figure


def _map_column(axes: np.ndarray, maps: np.ndarray, top: float, ticks: int, aspect: int) -> None:
    """Maps [n, 1, H, W] below one another on one colour scale, 0 to `top`, with its bar."""
    for axis, values in zip(axes, maps, strict=True):
        shown = show_image(axis, values[0], 0, top, "magma")
    look = {"location": "bottom", "shrink": 0.85, "aspect": aspect, "extend": "max"}
    bar = axes[0].figure.colorbar(shown, ax=axes, **look)
    bar.ax.xaxis.set_major_locator(MaxNLocator(ticks))
    bar.ax.ticklabel_format(style="sci", scilimits=(-2, 2))


def _outline_box(
    axis: Axes, box: np.ndarray, shape: tuple[int, ...], colour: str, linewidth: float
) -> None:
    """A box in fractions on an image whose first pixel is centred at (0, 0)."""
    height, width = shape
    x0, y0, x1, y1 = box * (width, height, width, height) - 0.5
    look = {"fill": False, "color": colour, "linewidth": linewidth}
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **look))
