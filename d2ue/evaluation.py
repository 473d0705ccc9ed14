"""How well scores separate abnormal from normal images: AUC and AP.

Labels are 0 (normal) and 1 (abnormal); a higher score means more abnormal. Values are fractions,
0 to 1; tables show them in percent.
"""

from __future__ import annotations

import numpy as np

from d2ue.errors import InputError


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that an abnormal image outscores a normal one.

    Args:
        labels: shape (n,), 0 or 1.
        scores: shape (n,), higher = more abnormal.

    Returns:
        0 to 1; 0.5 is chance.

    Raises:
        InputError: if only one class is there, or scores are not finite.
    """
    from sklearn.metrics import roc_auc_score  # here: importing it takes as long as all the rest

    return float(roc_auc_score(*_checked(labels, scores)))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of the abnormal class: mean precision over recall, without interpolation.

    Args and Raises as for `auc`. 0 to 1; chance is the share of abnormal images.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_checked(labels, scores)))


def lowest(labels: np.ndarray, scores: np.ndarray, share: float = 0.25) -> np.ndarray:
    """The abnormal images that a score finds least abnormal, with all normal images beside them.

    Args:
        labels: shape (n,), 0 or 1.
        scores: shape (n,), higher = more abnormal; what to select by.
        share: of the abnormal images to take, rounded up; above 0, at most 1.

    Returns:
        bool (n,): True for every normal image, and for the share of the abnormal ones whose score
        is lowest among the abnormal ones; of equal scores the earlier image.

    Raises:
        InputError: as for `auc`, or if the share is out of range.
    """
    labels, scores = _checked(labels, scores)
    if not 0 < share <= 1:
        raise InputError(f"The share of abnormal images to keep is above 0 and up to 1: {share}.")
    abnormal = np.flatnonzero(labels == 1)
    ranked = abnormal[np.argsort(scores[abnormal], kind="stable")]
    kept = labels == 0
    kept[ranked[: int(np.ceil(share * len(ranked)))]] = True
    return kept


def auc_among_lowest(
    labels: np.ndarray, scores: np.ndarray, by: np.ndarray, share: float = 0.25
) -> float:
    """AUC of `scores` on the abnormal images that `by` finds least abnormal, against all normals.

    Selecting by one score and judging by another favours the other: the images are those on which
    `by` does worst, whatever it is, and two noisy scores rarely fail on the same images. So a value
    means something only beside the mirrored one (`scores` and `by` exchanged) and that of a third
    score on the same images.

    Args:
        labels: shape (n,), 0 or 1.
        scores: shape (n,), higher = more abnormal; what is judged.
        by: shape (n,), higher = more abnormal; what is selected by.
        share: of the abnormal images, rounded up.
    """
    kept = lowest(labels, by, share)
    return auc(np.asarray(labels)[kept], np.asarray(scores)[kept])


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise InputError(
            f"Labels of shape {labels.shape} and scores of shape {scores.shape} do not pair up."
        )
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise InputError("AUC and AP need normal (0) and abnormal (1) images, both at least once.")
    if not np.isfinite(scores).all():
        raise InputError("The scores hold values that are not finite.")
    return labels, scores
