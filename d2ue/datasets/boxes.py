"""Bounding boxes of what is abnormal: how they are checked, matched to images and laid on pixels.

A box is [x0, y0, x1, y1] in fractions of the image's width and height, x to the right and y down
from the upper left corner, so it holds at any image size, also after a resize that does not keep
the aspect ratio. A `boxes.json` beside a data.json gives the boxes of images by name:

    {"a.png": [[0.25, 0.30, 0.50, 0.45]], "b.png": [[...], [...]]}

Not every abnormal image needs one: an image that is not named there, or with an empty list, has no
*known* box, which says nothing of whether it is abnormal.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence

import numpy as np

from d2ue.datasets.decode import show
from d2ue.datasets.types import ABNORMAL, check_boxes
from d2ue.errors import InputError


def match_boxes(
    path: str | os.PathLike[str],
    content: object,
    names: Sequence[str],
    labels: Sequence[int] | np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The boxes of some images, out of a boxes.json.

    Names that are none of `names` are passed over, because one file of annotations often serves
    several splits; but a file that names none of the images at all belongs to other images.

    Args:
        path: of the file, for the sentences.
        content: what its JSON holds.
        names: of the images, as data.json spells them.
        labels: 0 or 1 for each.

    Returns:
        For each image float64 (k, 4), k = 0 where no box is known.

    Raises:
        InputError: if the content is not of the form above, a number is not between 0 and 1, a box
            has no area, a normal image has a box, or none of the images is named.
    """
    if not isinstance(content, dict):
        raise _malformed(path, "at the top")
    found: dict[str, np.ndarray] = {}
    for spelling, boxes in content.items():
        name = posixpath.normpath(spelling)
        if name in found:
            raise InputError(f"{show(path)} names {show(name)} twice: keep one of them.")
        found[name] = _checked(path, name, boxes)
    for name, label in zip(names, labels, strict=True):
        if label != ABNORMAL and len(found.get(name, ())):
            raise InputError(
                f"{show(path)} has a box for {show(name)}, which data.json lists as normal: "
                "take it out of one of them."
            )
    if names and found and not found.keys() & set(names):
        first = next(iter(found))
        raise InputError(
            f"{show(path)} names none of the images of data.json ({show(first)} is not one): spell "
            "names as data.json does, or remove the file."
        )
    none = np.empty((0, 4))
    return tuple(found.get(name, none) for name in names)


def _checked(path: str | os.PathLike[str], name: str, boxes: object) -> np.ndarray:
    where = f"for {show(name)}"
    if not isinstance(boxes, list):
        raise _malformed(path, where)
    for box in boxes:
        if not isinstance(box, list) or len(box) != 4:
            raise _malformed(path, where)
        for value in box:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _malformed(path, where)
            if not 0 <= value <= 1:  # also NaN, which json reads
                raise InputError(
                    f"{show(path)} has {value!r:.20} in a box {where}: give fractions of width and "
                    "height from 0 to 1, not pixels."
                )
    array = np.array(boxes, np.float64).reshape(-1, 4)
    try:
        check_boxes(array)
    except InputError as error:
        raise InputError(
            f"{show(path)} has a box without area {where}: give [x0, y0, x1, y1] with x0 < x1 "
            "and y0 < y1."
        ) from error
    return array


def _malformed(path: str | os.PathLike[str], where: str) -> InputError:
    return InputError(
        f"{show(path)} holds something else than boxes {where}: its form is "
        '{"NAME": [[x0, y0, x1, y1], ...], ...}.'
    )


def box_cover(boxes: Sequence[np.ndarray], height: int, width: int | None = None) -> np.ndarray:
    """How much of each pixel lies inside an image's boxes.

    Exact also where boxes end inside a pixel or overlap, so that the mean of an image's cover is
    the share of its area that the boxes take.

    Args:
        boxes: for each image (k, 4), as in an `ImageSet`.
        height: of the images, in pixels.
        width: of the images, in pixels; None = height.

    Returns:
        float64 (n, 1, height, width), 0 = outside all boxes, 1 = wholly inside; all 0 where an
        image has no box.

    Raises:
        InputError: if a box is not one.
    """
    width = height if width is None else width
    cover = np.zeros((len(boxes), 1, height, width))
    rows, columns = np.arange(height + 1) / height, np.arange(width + 1) / width
    for i, own in enumerate(boxes):
        check_boxes(own)
        if not len(own):
            continue
        # All edges, of pixels and of boxes, cut the image into cells that are inside or outside.
        x, y = np.union1d(columns, own[:, 0::2]), np.union1d(rows, own[:, 1::2])
        x0, y0, x1, y1 = own.T[:, :, None]
        across = (x0 <= x[:-1]) & (x[1:] <= x1)  # (k, cells across)
        down = (y0 <= y[:-1]) & (y[1:] <= y1)
        inside = (down[:, :, None] & across[:, None, :]).any(0)
        area = inside * np.diff(y)[:, None] * np.diff(x)
        by_row = np.add.reduceat(area, np.searchsorted(y, rows[:-1]), axis=0)
        cover[i, 0] = np.add.reduceat(by_row, np.searchsorted(x, columns[:-1]), axis=1)
    return np.clip(cover * height * width, 0, 1)
