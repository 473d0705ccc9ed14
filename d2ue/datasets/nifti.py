"""NIfTI volumes -> grey slices, turned to right, anterior, superior; nibabel reads the files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from d2ue.datasets.grey import (
    check_count,
    check_finite,
    limits,
    package,
    percentile_limits,
    refuse,
    scale,
)


def nifti_depth(path: str, letter: str) -> int:
    """Number of slices across an axis, the volume turned to right, anterior, superior."""
    image = _open(path)
    axes = package("NIfTI", path).io_orientation(image.affine)[:3, 0]
    if not np.isfinite(axes).all():
        raise refuse(path, "does not say how it is oriented (its affine is singular): correct it")
    return int(image.shape[axes.tolist().index("xyz".index(letter))])


def nifti_slices(
    path: str, wanted: Sequence[tuple[str, int]], window: str
) -> Iterator[Image.Image]:
    """Slices of a volume; scl_slope and scl_inter applied, turned to the closest of RAS.

    Args:
        path: the file.
        wanted: axis (x, y or z) and index of each slice.
        window: as `ScanConfig.window`.
    """
    image = package("NIfTI", path).as_closest_canonical(_open(path))
    # float32 holds 16 bits, and whole numbers to 24, exactly.
    with np.errstate(over="ignore"):
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
    values = values.reshape(values.shape[:3])
    check_finite(path, values)
    kind, first, second = limits(window)
    if kind:
        black, white = percentile_limits(values, first, second)
    else:
        black, white = first - second / 2, first + second / 2
    for letter, index in wanted:
        axis = "xyz".index(letter)
        if index >= values.shape[axis]:
            raise refuse(
                path,
                f"has {values.shape[axis]} slices along {letter}, numbered from 0, not {index}",
            )
        # What is left is (x, y), (x, z) or (y, z): to rows and columns, then turned by 180
        # degrees, so that anterior or superior is at the top, right or anterior on the left.
        plane = np.take(values, index, axis).T[::-1, ::-1]
        yield Image.fromarray(scale(plane, black, white))


def _open(path: str) -> Any:
    image = package("NIfTI", path).load(path)
    if len(image.shape) > 3 and math.prod(image.shape[3:]) != 1:
        shape = " x ".join(map(str, image.shape))
        raise refuse(path, f"holds more than one volume ({shape}): save one of them by itself")
    if len(image.shape) < 3:
        raise refuse(path, f"has {len(image.shape)} dimensions where a volume has three")
    check_count(path, image.shape)
    if image.get_data_dtype().kind not in "iuf":
        raise refuse(path, "holds colours or complex numbers: save it as grey values")
    return image
