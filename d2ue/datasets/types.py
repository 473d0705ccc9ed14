"""The one type in which images travel: uint8 pixels, names, labels, masks, boxes, a fingerprint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ue.errors import InputError

NORMAL, ABNORMAL = 0, 1


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Grey images of one size, decoded once and kept as uint8.

    Attributes:
        images: uint8, shape (n, 1, H, W), 0 = black, 255 = white.
        names: n distinct names, in the order of `images`.
        labels: int8, shape (n,), 0 = normal, 1 = abnormal; None where the truth is not known.
        masks: bool, shape (n, 1, H, W), True on abnormal pixels; None where there are none.
        boxes: n arrays of shape (k, 4), [x0, y0, x1, y1] as fractions of width and height, k = 0
            for an image of which no box is known; None where there are none at all.

    Raises:
        InputError: if the shapes or types of the parts do not fit together.
    """

    images: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    boxes: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] != 1:
            raise InputError(
                "images must be uint8 of shape (n, 1, H, W), "
                f"not {self.images.dtype} of shape {self.images.shape}."
            )
        n = len(self.images)
        if len(self.names) != n:
            raise InputError(f"{n} images came with {len(self.names)} names.")
        if len(set(self.names)) < n:
            twice = next(name for name, times in Counter(self.names).items() if times > 1)
            raise InputError(
                f"Two images have the name {twice!r}: give each its own, since results are told "
                "apart by names."
            )
        if self.labels is not None:
            if self.labels.shape != (n,):
                raise InputError(f"{n} images came with labels of shape {self.labels.shape}.")
            if not np.isin(self.labels, (NORMAL, ABNORMAL)).all():
                raise InputError("labels must be 0 (normal) or 1 (abnormal).")
        if self.masks is not None and (
            self.masks.shape != self.images.shape or self.masks.dtype != np.bool_
        ):
            raise InputError(
                f"masks must be bool of the images' shape {self.images.shape}, "
                f"not {self.masks.dtype} of shape {self.masks.shape}."
            )
        if self.boxes is not None:
            if len(self.boxes) != n:
                raise InputError(f"{n} images came with the boxes of {len(self.boxes)}.")
            for own in self.boxes:
                check_boxes(own)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height (= width) of the images in pixels."""
        return int(self.images.shape[-1])

    def select(self, which: Sequence[int] | np.ndarray | slice) -> ImageSet:
        """The images at the positions `which` (indices, a slice or a boolean array)."""
        index = np.arange(len(self))[which]
        return ImageSet(
            self.images[index],
            tuple(self.names[i] for i in index),
            None if self.labels is None else self.labels[index],
            None if self.masks is None else self.masks[index],
            None if self.boxes is None else tuple(self.boxes[i] for i in index),
        )

    def sample(self, n: int, seed: int = 0) -> ImageSet:
        """At most n images, drawn without replacement and kept in order; all where n is 0.

        Normal and abnormal images are drawn in the proportion in which they are there.
        """
        if n <= 0 or n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        labels = self.labels if self.labels is not None else np.zeros(len(self), np.int8)
        abnormal = round(n * float(np.mean(labels == ABNORMAL)))
        parts = [
            rng.choice(np.flatnonzero(labels == label), count, replace=False)
            for label, count in ((NORMAL, n - abnormal), (ABNORMAL, abnormal))
        ]
        return self.select(np.sort(np.concatenate(parts)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the pixels in their order: all that a trained network depends on.

        Names, labels, masks and boxes do not enter: training never sees them. Computed anew each
        time, because pixels may have been changed in place: hold it where it is asked for often.
        """
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


def check_boxes(boxes: np.ndarray) -> None:
    """Whether an array holds the boxes of one image, (k, 4) with 0 <= x0 < x1 <= 1, y likewise.

    Raises:
        InputError: if not.
    """
    if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError("The boxes of an image must be an array of shape (k, 4).")
    first, last = boxes[:, :2], boxes[:, 2:]
    if not ((first >= 0) & (first < last) & (last <= 1)).all():
        raise InputError(
            "A box must be [x0, y0, x1, y1] in fractions of width and height, "
            "0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1."
        )


@dataclass(frozen=True)
class Dataset:
    """A benchmark: normal images to train on and, where there are any, labelled images to test on.

    Attributes:
        name: what to call it in tables, e.g. "phantom" or the folder's name.
        train: normal images only.
        test: normal and abnormal images with labels; None for a plain folder of normal images.
    """

    name: str
    train: ImageSet
    test: ImageSet | None = None

    @property
    def labelled(self) -> ImageSet:
        """The test images, for callers that cannot do without.

        Raises:
            InputError: if there are none.
        """
        if self.test is None or self.test.labels is None:
            raise InputError(
                f"{self.name} has no labelled test images, so no score can be judged on it: list "
                "normal and abnormal ones under test/0 and test/1 of a data.json."
            )
        return self.test
