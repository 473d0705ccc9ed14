"""Arrays in any common form -> uint8 images of one size, on a grey scale that is fixed once.

Files have a scale of their own, 0 to 255 (`d2ue.datasets`). An array may hold anything: what is
black and what is white in it has to be known, and has to be the same for the images to be scored
as for those that were trained on. A `Reading` is that knowledge.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2ue.datasets.decode import to_square
from d2ue.errors import InputError

#: Share of pixels outside a reading's range above which it is doubted.
DOUBTFUL = 0.05

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Reading:
    """How arrays become images; files need none of it.

    Attributes:
        low: the value that becomes black.
        high: the value that becomes white.
        eight_bit: whether the first images were uint8 or files, whose range is 0 to 255.
        given: whether the range was stated, not taken from the first images.
        image_shape: (height, width) of flat rows; None = a square, padded with black.
        n_features: values of a row, where the first images were rows, else None.
        feature_names: columns, where the first images were a table with named ones.

    Raises:
        InputError: if the range or the shape has no meaning.
    """

    low: float = 0.0
    high: float = 255.0
    eight_bit: bool = True
    given: bool = False
    image_shape: tuple[int, int] | None = None
    n_features: int | None = None
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # A difference that is not finite cannot be divided by.
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise InputError(
                f"Grey levels need two different values for black and white, the lower one first, "
                f"not {self.low:g} and {self.high:g}."
            )

    @classmethod
    def stated(cls, pixel_range: object, image_shape: object) -> Reading:
        """What a person says of the images before the first are seen.

        Args:
            pixel_range: (low, high), or None to take it from the first images.
            image_shape: (height, width) of flat rows, or None.

        Raises:
            InputError: if a value is neither.
        """
        shape = None
        if image_shape is not None:
            shape = _pair("image_shape", image_shape, "(height, width)")
            if not all(isinstance(v, int | np.integer) and v >= 1 for v in shape):
                raise InputError(f"image_shape must be two whole numbers, not {image_shape!r:.60}.")
            shape = (int(shape[0]), int(shape[1]))
        if pixel_range is None:
            return cls(image_shape=shape)
        low, high = _pair("pixel_range", pixel_range, "(black, white)")
        for value in (low, high):
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise InputError(f"pixel_range must be two numbers, not {pixel_range!r:.60}.")
        return cls(float(low), float(high), given=True, image_shape=shape)

    def learn(self, values: np.ndarray) -> Reading:
        """The reading that the first images fix, unless the range was stated.

        Args:
            values: numbers, as `as_stack` or `as_pictures` gives them.

        Raises:
            InputError: if all pixels are equal, so that they tell no range.
        """
        eight_bit = values.dtype == np.uint8
        if self.given or eight_bit:
            return replace(self, eight_bit=eight_bit)
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise InputError(
                f"Every pixel of the images is {low:g}, so that nothing tells what is black and "
                "what is white: give other images, or pixel_range=(black, white)."
            )
        return replace(self, low=low, high=high, eight_bit=False)

    def check_kind(self, eight_bit: bool, what: str) -> None:
        """Refuse images whose grey levels may mean something else than those of the first ones.

        Raises:
            InputError: if only one of them were 8-bit images and no range was stated.
        """
        if self.given or eight_bit == self.eight_bit:
            return
        first = f"values from {self.low:g} to {self.high:g}"
        raise InputError(
            f"The detector was fitted on {'8-bit images' if self.eight_bit else first} and is "
            f"given {what}, whose grey levels may mean something else: convert them, or fit with "
            "pixel_range=(black, white)."
        )

    def to_images(self, values: np.ndarray, image_size: int) -> np.ndarray:
        """Numbers to images: scaled to 256 grey levels, turned grey, made square, in this order.

        Values beyond the range are cut off, with a warning where they are more than 5 %.

        Args:
            values: (n, h, w) or (n, h, w, 3), finite.
            image_size: side of the result in pixels.

        Returns:
            uint8 (n, 1, image_size, image_size).
        """
        images = np.empty((len(values), 1, image_size, image_size), np.uint8)
        beyond = 0
        for row, value in enumerate(values):
            if value.dtype != np.uint8 or (self.low, self.high) != (0, 255):
                beyond += int(np.count_nonzero((value < self.low) | (value > self.high)))
                share = (np.asarray(value, np.float64) - self.low) / (self.high - self.low)
                value = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
            if value.shape == (image_size, image_size):
                images[row, 0] = value
            else:
                grey = Image.fromarray(np.ascontiguousarray(value)).convert("L")
                images[row, 0] = to_square(grey, image_size)
        if beyond > DOUBTFUL * values.size:
            warnings.warn(
                f"{100 * beyond / values.size:.0f} % of the values lie outside {self.low:g} to "
                f"{self.high:g}, what is black and white here, and were cut off: are they on "
                "the same scale?",
                UserWarning,
                stacklevel=2,
            )
        return images


def as_paths(images: Any) -> Paths | None:
    """A folder, a file or a list of files, where that is what was given; None for anything else."""
    if isinstance(images, str | os.PathLike):
        return images
    if isinstance(images, Sequence) or getattr(images, "ndim", 0) == 1:
        listed = list(images)
        if listed and all(isinstance(path, str | os.PathLike) for path in listed):
            return listed
    return None


def as_array(images: Any) -> Any:
    """What people hold images in, as an array or a table: tensors of any kind, lists of either.

    Raises:
        InputError: if it cannot be read as one, or some of its values are masked.
    """
    if isinstance(images, Sequence) and any(isinstance(image, Tensor) for image in images):
        images = [as_array(image) for image in images]
    if isinstance(images, Tensor):
        try:
            images = images.detach()
            if images.layout != torch.strided:
                images = images.to_dense()
            # NumPy has no bfloat16 and no 8-bit floats; float32 holds all of theirs.
            small = images.is_floating_point() and images.dtype != torch.float64
            return (images.float() if small else images).cpu().resolve_conj().resolve_neg().numpy()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise InputError(
                f"A tensor of {images.dtype} on {images.device} cannot be read as images: give "
                "plain numbers on a device that holds them."
            ) from error
    if np.ma.is_masked(images):
        raise InputError("Some values of the images are masked: fill them, or leave them out.")
    if isinstance(images, np.ma.MaskedArray):
        return np.asarray(images)
    if hasattr(images, "ndim"):
        return images
    try:
        return np.asarray(images)
    except (TypeError, ValueError) as error:
        raise InputError(
            "The images in a list must be of one shape: give arrays of equal size, or a list of "
            "image files."
        ) from error


def as_stack(images: np.ndarray) -> np.ndarray:
    """An array of images as numbers.

    Args:
        images: (n, h, w) or (n, 1, h, w), grey, or (n, h, w, 3), colour.

    Returns:
        (n, h, w) or (n, h, w, 3), finite.

    Raises:
        InputError: if it has another shape, no images, or values that are not finite numbers.
    """
    if images.dtype.kind == "O":
        try:
            images = images.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError("The images hold values that are not numbers.") from error
    if images.dtype.kind not in "buif":
        raise InputError(f"The images hold values of type {images.dtype}, not plain numbers.")
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    colour = images.ndim == 4 and images.shape[3] == 3
    if (images.ndim != 3 and not colour) or 0 in images.shape:
        raise InputError(
            f"Images come as an array (n, h, w) or (n, 1, h, w), or (n, h, w, 3) in colour, not "
            f"{images.shape}."
        )
    check_finite(images)
    return images


def as_pictures(
    rows: np.ndarray, image_shape: tuple[int, int] | None, black: float = 0
) -> np.ndarray:
    """Flat images as pictures.

    Args:
        rows: (n, d), finite.
        image_shape: (height, width) with height * width = d. None: row by row into the smallest
            square that holds d values, the rest of it black.
        black: the value that is so. It is fixed at `fit`, as an image must not depend on those
            that it is scored with.

    Returns:
        (n, h, w).

    Raises:
        InputError: if d is not height * width.
    """
    n, d = rows.shape
    if image_shape is not None:
        if math.prod(image_shape) != d:
            h, w = image_shape
            raise InputError(
                f"Rows of {d} values are no images of image_shape {h} x {w}, which have {h * w}."
            )
        return rows.reshape(n, *image_shape)
    side = math.isqrt(d - 1) + 1
    missing = side * side - d
    if missing:
        if rows.dtype.kind != "f" and black != 0:
            rows = rows.astype(np.float64)  # whole numbers may not hold it
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=black)
    return rows.reshape(n, side, side)


def check_finite(values: np.ndarray) -> None:
    """Refuse NaN and infinite values, naming the first image that has any.

    Raises:
        InputError: if there are some.
    """
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise InputError(
            f"Image {int(np.argmin(finite))} (counted from 0) holds NaN or infinite values, as do "
            f"{int((~finite).sum()) - 1} others: replace them or leave these images out."
        )


def refuse_shared(train: np.ndarray, held_out: np.ndarray) -> None:
    """Refuse images that are trained on and held out at once, which would set the threshold low.

    Args:
        train: uint8 (n, 1, H, W).
        held_out: uint8 (k, 1, H, W).

    Raises:
        InputError: naming the first image that is in both.
    """
    seen = {hashlib.sha256(image.tobytes()).digest() for image in train}
    for i, image in enumerate(held_out):
        if hashlib.sha256(image.tobytes()).digest() in seen:
            raise InputError(
                f"Held-out image {i} (counted from 0) is also among those to train on: take it "
                "out of one of them."
            )


def _pair(name: str, value: object, what: str) -> tuple[Any, Any]:
    try:
        first, second = value  # type: ignore[misc]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a pair {what}, not {value!r:.60}.") from error
    return first, second
