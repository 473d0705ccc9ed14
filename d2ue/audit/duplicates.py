"""Near duplicates: which files show one and the same picture.

Two pictures are compared by two correlations over the 8 symmetries of the square, the best one
counts. Both are blind to brightness and contrast:

- **coarse**: shapes of 1.5 to 6 pixels of 64. Below lies what different heads share (an outline on
  black), above lies what compression and resizing change.
- **fine**: what is left above 1 pixel of 64. Copies share it, noise included; neighbouring slices
  of one patient, alike in the coarse, do not.

A pair is a **near duplicate** if coarse >= 0.99 (re-encoded, resized, brighter or darker), or if
coarse >= 0.9 and fine >= 0.95 (an altered copy: other contrast, clipped, sharpened). Why these
numbers: `d2ue.audit` measures pairs that cannot be copies, those of two labels, and shows them; on
Brain MRI (960,000 such pairs) none is above 0.928 coarse, in 1600 drawn heads none above 0.989,
and adjacent slices of one tumour reach a fine correlation of 0.92.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

RESOLUTION = 64  # pixels a side of the pictures that are compared
SAME = 0.99  # coarse correlation of a re-encoded, resized or brightened copy
ALTERED = (0.9, 0.95)  # coarse and fine correlation of one with other contrast or sharpness
SYMMETRIES = (
    "as it is", "mirrored", "turned by 90", "turned by 90, mirrored",
    "turned by 180", "turned by 180, mirrored", "turned by 270", "turned by 270, mirrored",
)  # fmt: skip
MOST_PAIRS = 20  # kept an image; of more, those that hold the clusters together
_COLUMNS = ("first", "second", "symmetry", "coarse", "fine")
_BLOCK = 512
_FAINT = 0.25  # grey levels: contrast below it is noise, and correlates with nothing


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images that may be one picture, `first` < `second`.

    Attributes:
        first, second: positions of the images, shape (k,).
        symmetry: index into `SYMMETRIES`: what turns the second into the first.
        coarse, fine: correlations, -1 to 1; fine is NaN where coarse decides alone.
        total: how many pairs there were, of which these are kept.
    """

    first: np.ndarray
    second: np.ndarray
    symmetry: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    total: int

    @property
    def near(self) -> np.ndarray:
        """bool, shape (k,): whether it is a near duplicate."""
        coarse, fine = ALTERED
        return (self.coarse >= SAME) | ((self.coarse >= coarse) & (self.fine >= fine))

    def at(self, which: np.ndarray) -> Pairs:
        """The pairs at some positions; `total` stays."""
        return replace(self, **{name: getattr(self, name)[which] for name in _COLUMNS})

    def joined(self, other: Pairs) -> Pairs:
        """These and others."""
        both = {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in _COLUMNS}
        return Pairs(**both, total=self.total + other.total)


def transform(images: np.ndarray, symmetry: int) -> np.ndarray:
    """The images (..., H, W) turned and mirrored as `SYMMETRIES` says."""
    turned = np.rot90(images, symmetry // 2, (-2, -1))
    return turned[..., ::-1] if symmetry % 2 else turned


def find_pairs(images: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """Compare all images with each other.

    Args:
        images: uint8, shape (n, 64, 64).

    Returns:
        All pairs of coarse correlation 0.9 or more; where they are more than 20 an image, those
        that `spanning` keeps. Each image's largest coarse correlation with another, shape (n,);
        -1 where there is one image only.
    """
    n = len(images)
    x = images.astype(np.float32)
    smooth = ndimage.gaussian_filter(x, (0, 1.5, 1.5), mode="nearest")
    coarse = smooth - ndimage.gaussian_filter(x, (0, 6.0, 6.0), mode="nearest")
    coarse = coarse.reshape(n, 32, 2, 32, 2).mean((2, 4))  # nothing finer is left in it
    fine = _unit(x - ndimage.gaussian_filter(x, (0, 1.0, 1.0), mode="nearest"))
    own = _unit(coarse)
    turned = [_unit(transform(coarse, s)) for s in range(8)]
    nearest = np.full(n, -1.0, np.float32)
    none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    kept = Pairs(none, none, none, nothing, nothing, 0)
    for top in range(0, n, _BLOCK):
        for left in range(top, n, _BLOCK):
            rows, columns = own[top : top + _BLOCK], slice(left, left + _BLOCK)
            products = np.stack([rows @ t[columns].T for t in turned])
            best = products.max(0)
            if top == left:
                best[np.diag_indices(len(rows))] = -1.0
            for axis, start in ((1, top), (0, left)):
                part = nearest[start : start + _BLOCK]
                np.maximum(part, best.max(axis), out=part)
            i, j = np.nonzero(best >= ALTERED[0])
            if top == left:
                i, j = i[i < j], j[i < j]
            found = Pairs(
                i + top, j + left, products[:, i, j].argmax(0), best[i, j],
                np.full(len(i), np.nan, np.float32), len(i),
            )  # fmt: skip
            _compare_fine(found, fine)
            kept = kept.joined(found)
            if len(kept.first) > MOST_PAIRS * n + _BLOCK**2:
                kept = spanning(n, kept)
    if kept.total > MOST_PAIRS * n:
        kept = spanning(n, kept)
    return kept.at(np.lexsort((kept.second, kept.first))), nearest


def spanning(n: int, pairs: Pairs) -> Pairs:
    """So many pairs of n images that every rule finds the clusters that it finds by all of them.

    The maximum spanning forests of the coarse and of the fine correlation: cut at any threshold, a
    forest links the images that all pairs above it link. At most 2 (n - 1) pairs.
    """
    chosen = np.zeros(len(pairs.first), bool)
    for values in (pairs.coarse, pairs.fine):
        known = np.flatnonzero(np.isfinite(values))
        # Lower is closer here, and 0 would be no link at all: correlations reach 1.
        length = 2.0 - values[known].astype(np.float64)
        ends = pairs.first[known], pairs.second[known]
        tree = minimum_spanning_tree(coo_matrix((length, ends), shape=(n, n))).tocoo()
        codes = ends[0] * n + ends[1]
        chosen[known[np.isin(codes, tree.row.astype(np.int64) * n + tree.col)]] = True
    return pairs.at(np.flatnonzero(chosen))


def _compare_fine(pairs: Pairs, fine: np.ndarray, block: int = 2048) -> None:
    """Fill in `pairs.fine` where coarse does not decide alone."""
    open_ = np.flatnonzero(pairs.coarse < SAME)
    pictures = fine.reshape(-1, RESOLUTION, RESOLUTION)
    for symmetry in range(8):
        own = open_[pairs.symmetry[open_] == symmetry]
        first, second = np.unique(pairs.first[own]), np.unique(pairs.second[own])
        if len(own) > 0.02 * len(first) * len(second):  # most of a block: one product of matrices
            turned = transform(pictures[second], symmetry).reshape(len(second), -1)
            rows = np.searchsorted(first, pairs.first[own])
            columns = np.searchsorted(second, pairs.second[own])
            pairs.fine[own] = (fine[first] @ turned.T)[rows, columns]
            continue
        for start in range(0, len(own), block):
            part = own[start : start + block]
            turned = transform(pictures[pairs.second[part]], symmetry).reshape(len(part), -1)
            pairs.fine[part] = np.einsum("ij,ij->i", fine[pairs.first[part]], turned)


def clusters_of(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Connected components: int, shape (n,), numbered in the order of their first image."""
    links = coo_matrix((np.ones(len(first), bool), (first, second)), shape=(n, n))
    _, names = connected_components(links, directed=False)
    _, at, inverse = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(at))[inverse].astype(np.int64)


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows without their mean, of length 1; shorter where there is hardly any contrast."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.maximum(length, _FAINT * np.sqrt(flat.shape[1]))
