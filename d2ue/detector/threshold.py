"""When a score is called abnormal: a threshold from normal images that were not trained on.

A score has no unit, so what is high is told by the scores of normal images that the learners have
never seen. Of k such images the threshold is the r-th smallest score, r = k + 1 - m with
m = floor((k + 1) * contamination): split conformal prediction (Vovk, Gammerman, Shafer 2005). If
a new normal image is exchangeable with the held-out ones, the chance that it is called abnormal is
m / (k + 1), so at most the contamination. Nothing is promised about abnormal images, about images
of another scanner, or where held-out images are of patients who are also in the training set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2ue.config import METHODS
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import Ensemble
from d2ue.errors import InputError
from d2ue.uncertainty import image_scores

_STREAM = 0x4E0F  # of the draw of held-out images, apart from those of weights and shuffles


@dataclass(frozen=True)
class Threshold:
    """The scores of k held-out normal images, and what follows from them.

    Attributes:
        scores: by score method, float64 (k,), higher = more abnormal.
        contamination: share of normal images that may be called abnormal, above 0, at most 0.5.

    Raises:
        InputError: if there are no scores, they are not finite, or contamination is out of range.
    """

    scores: Mapping[str, np.ndarray]
    contamination: float

    def __post_init__(self) -> None:
        check_contamination(self.contamination)
        sizes = {np.shape(values) for values in self.scores.values()}
        if len(sizes) != 1 or len(shape := sizes.pop()) != 1 or shape[0] < 1:
            raise InputError("A threshold needs the scores of at least one held-out normal image.")
        if not all(np.isfinite(values).all() for values in self.scores.values()):
            raise InputError("The scores of held-out images hold values that are not finite.")

    @property
    def k(self) -> int:
        """Number of held-out images."""
        return len(next(iter(self.scores.values())))

    def value(self, method: str) -> float:
        """The threshold of one score method: a higher score is called abnormal."""
        if method not in self.scores:
            raise InputError(
                f"The held-out images have no scores by {method!r}, only by "
                f"{', '.join(self.scores)}: take one of these."
            )
        return threshold(self.scores[method], self.contamination)

    @property
    def shortfall(self) -> str | None:
        """A sentence where k is too small for the contamination, else None."""
        if self.k >= (least := least_held_out(self.contamination)):
            return None
        return (
            f"Only {self.k} normal images are held out, too few for a contamination of "
            f"{self.contamination:g}: the threshold is their highest score, above which about 1 in "
            f"{self.k + 1} new normal images will lie; hold out at least {least}."
        )

    def describe(self) -> str:
        """What to expect of normal images, in a sentence."""
        expected, low, high = false_alarms(self.k, self.contamination)
        return (
            f"With a threshold from {self.k} held-out normal images, {100 * expected:.1f} % of new "
            f"normal images are called abnormal on average; for these {self.k} images the share "
            f"may be {100 * low:.1f} to {100 * high:.1f} % (95 % interval)."
        )


def threshold(scores: Sequence[float] | np.ndarray, contamination: float) -> float:
    """The score above which an image is called abnormal: the highest where k is too small.

    Args:
        scores: of k held-out normal images, shape (k,), higher = more abnormal.
        contamination: share of normal images that may be called abnormal, above 0, at most 0.5.
    """
    k = len(scores)
    return float(np.sort(scores)[k - _at_or_above(k, contamination)])


def false_alarms(k: int, contamination: float, level: float = 0.95) -> tuple[float, float, float]:
    """Share of new normal images that a threshold from k held-out ones calls abnormal.

    The share is 1 - F(r-th smallest score), a Beta(m, k + 1 - m) variable over draws of the k
    images, whatever the continuous distribution F of scores.

    Returns:
        The mean share, and the ends of its interval of coverage `level`.
    """
    from scipy.stats import beta  # here: importing it takes half a second

    m = _at_or_above(k, contamination)
    low, high = beta.interval(level, m, k + 1 - m)
    return m / (k + 1), float(low), float(high)


def _at_or_above(k: int, contamination: float) -> int:
    """How many of k held-out scores lie at or above the threshold; at least one."""
    check_contamination(contamination)
    # A hair more, because (k + 1) * 0.1 may fall below the whole number it should be.
    return max(1, math.floor((k + 1) * contamination + 1e-9))


def least_held_out(contamination: float) -> int:
    """How many normal images must be held out for a contamination to be kept: 19 for 5 %."""
    check_contamination(contamination)
    return math.ceil(1 / contamination - 1e-9) - 1


def check_scores(values: np.ndarray) -> np.ndarray:
    """The scores or maps themselves; an InputError if weights that nobody trained gave none."""
    if not np.isfinite(values).all():
        raise InputError(
            "The learners give scores that are not finite: their weights are of no use, train anew."
        )
    return values


def check_contamination(contamination: float) -> None:
    """Refuse what is not a number above 0 and at most 0.5."""
    if not _is_number(contamination) or not 0 < contamination <= 0.5:
        raise InputError(
            f"contamination must be above 0 and at most 0.5, not {contamination!r:.40}: it is the "
            "share of normal images that may be called abnormal."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def hold_out(n: int, fraction: float, seed: int, least: int = 1) -> np.ndarray:
    """Which of n normal images are kept from training, to set the threshold.

    Args:
        n: number of normal images.
        fraction: share of them to hold out, above 0 and below 1; at least one is.
        seed: of the draw.
        least: images that must be left to train on.

    Returns:
        int64 (k,), in ascending order.

    Raises:
        InputError: if fraction is out of range, or too few images are left to train on.
    """
    if not _is_number(fraction) or not 0 < fraction < 1:
        raise InputError(
            f"validation_fraction must be above 0 and below 1, not {fraction!r:.40}: it is the "
            "share of the normal images that is not trained on and sets the threshold."
        )
    k = max(1, round(fraction * n))
    if n - k < max(1, least):
        plural = "images are" if n != 1 else "image is"
        raise InputError(
            f"{n} normal {plural} too few (n_samples = {n}): {k} set the threshold, and one batch "
            f"of {least} is needed to train on; add images or lower the batch size."
        )
    return np.sort(np.random.default_rng((seed, _STREAM)).permutation(n)[:k])


def measure(
    ensemble: Ensemble, held_out: ImageSet, contamination: float, *, progress: bool = False
) -> Threshold:
    """The scores of held-out normal images by every method that the ensemble allows."""
    scores = {
        method: image_scores(ensemble, held_out.images, method, progress=progress)
        for method in methods_of(len(ensemble))
    }
    return Threshold(scores, contamination)


def methods_of(n_learners: int) -> tuple[str, ...]:
    """The score methods of so many learners: one alone has nothing to disagree with."""
    return METHODS if n_learners > 1 else ("ensemble",)
