"""Clusters of near duplicates: which test images are one piece of evidence, and which are leaked.

The file is a table with the columns name, split, label and cluster, a row an image: the normal
training images first, then the test images, both in the order of data.json. Images of one cluster
are near duplicates of each other, directly or through others. What finds them is not asked here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2ue.errors import InputError

COLUMNS = ("name", "split", "label", "cluster")
_WRITTEN = "'d2ue audit FOLDER --out DIR' writes one"


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which images of a data set are near duplicates of each other.

    Attributes:
        train: integers, shape (n_train,): the cluster of each training image.
        test: integers, shape (n,): of each test image.
        labels: int8, shape (n,): the test images' labels, 0 normal, 1 abnormal.
    """

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        check_clusters(self.train, len(self.train))
        check_clusters(self.test, len(self.labels))

    @property
    def kept(self) -> np.ndarray:
        """bool, shape (n,): test images without a near duplicate among the training images.

        They are the cleaned test set whose training set is the published one: whole clusters go,
        so that no image is left whose duplicate's duplicate was trained on.
        """
        return ~np.isin(self.test, self.train)


def read_clusters(file: str | os.PathLike[str]) -> Clusters:
    """Clusters of near duplicates out of a CSV file.

    Raises:
        InputError: if it is not there, or is no such table as the module describes.
    """
    import pandas as pd  # here: `import d2ue` does without it

    path = Path(file)
    try:
        frame = pd.read_csv(path, dtype={"name": str, "split": str}, keep_default_na=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {_WRITTEN}.") from error
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own are kinds of ValueError
        raise InputError(f"{path} is no CSV table of clusters: {_WRITTEN}.") from error
    if not set(COLUMNS) <= set(frame.columns):
        raise InputError(
            f"{path} is no table of clusters, it lacks {', '.join(COLUMNS)}: {_WRITTEN}."
        )
    split = frame["split"].to_numpy()
    n_train = int((split == "train").sum())
    if not (split[:n_train] == "train").all() or not (split[n_train:] == "test").all():
        raise InputError(f'{path}: the column split holds "train" first and then "test" alone.')
    for column in ("label", "cluster"):
        if not pd.api.types.is_integer_dtype(frame[column]):
            raise InputError(f"{path}: the column {column} holds something else than integers.")
    labels, ids = frame["label"].to_numpy(), frame["cluster"].to_numpy(np.int64)
    if not np.isin(labels, (0, 1)).all() or labels[:n_train].any():
        raise InputError(f"{path}: labels are 0 or 1, and 0 for training images.")
    return Clusters(ids[:n_train], ids[n_train:], labels[n_train:].astype(np.int8))


def check_clusters(clusters: np.ndarray, n: int) -> np.ndarray:
    """Clusters of n images as an integer array; InputError if they are not n integers."""
    clusters = np.asarray(clusters)
    if clusters.shape != (n,) or not np.issubdtype(clusters.dtype, np.integer):
        raise InputError(
            f"Clusters are one integer an image, for {n} images here; these are of type "
            f"{clusters.dtype} and shape {clusters.shape}."
        )
    return clusters


def independence(n_images: int, n_clusters: int | None = None) -> str:
    """What counts as independent, for tables: images, or clusters where their number is known."""
    if n_clusters is None:
        return "images as independent"
    return f"clusters respected ({n_clusters} clusters of {n_images} images)"
