"""Estimates over seeds and test images, and how sure they are.

Every estimate is an average over training seeds, all scored on the same test images, so two
things make it uncertain. With other images it would move by the variance of each image's share in
it, averaged over seeds; with other seeds by their spread over their number. Four seeds or fewer do
not show their spread: such estimates speak of the images alone, and say so (`Estimate.sources`).

**Clusters**: near duplicates of one image are not so many pieces of evidence. Where clusters of
them are known, every function takes them (an integer for each image, equal = one cluster), and
clusters, not images, are what varies: the variance is that of a sum of independent clusters'
influences. For an AUC this is Obuchowski 1997, and where every image is a cluster of its own it is
DeLong's. A cluster may hold images of both classes.

Patients are unknown, and several images of one patient make every interval too narrow. With
`SEEDS_FOR_VARIANCE` seeds or more the intervals are slightly too wide (by a sixth with five seeds
where nothing else varies, in a simulation), because seed-to-image noise is counted in both
variances. Intervals of images only hold for these seeds; with others a claim may fail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ue.errors import InputError
from d2ue.statistics.clusters import check_clusters, independence

#: From so many seeds on, their spread is a source of variance; below it, images alone are.
SEEDS_FOR_VARIANCE = 5
#: Nominal coverage of intervals.
LEVEL = 0.95
#: A standard error, or a distance from the null, up to this is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """An average over seeds with its 95 % interval, in the unit of the function that made it.

    Attributes:
        value: the mean of `per_seed`.
        low, high: ends of the interval.
        se: standard error; 0 where nothing varies, and then the interval is a point; infinite where
            images vary and their clusters do not, which tells nothing.
        p: two-sided p-value of `value` against `null`.
        n_seeds, n_images: seeds and test images it comes from.
        seeds_vary: whether the spread over seeds is in `se`.
        per_seed: the value of each seed, in the order given.
        df: degrees of freedom of Student's t, infinite where `se` is 0.
        null: what `p` is against: 0.5 for an AUC, 0 for differences and logarithms.
        n_clusters: clusters that the images form; None where they count as independent.
    """

    value: float
    low: float
    high: float
    se: float
    p: float
    n_seeds: int
    n_images: int
    seeds_vary: bool
    per_seed: tuple[float, ...]
    df: float = math.inf
    null: float = 0.0
    n_clusters: int | None = None

    @property
    def independence(self) -> str:
        """What counts as independent: "images as independent", or clusters of so many images."""
        return independence(self.n_images, self.n_clusters)

    @property
    def sources(self) -> str:
        """The sources of variance in `se`: "images and seeds" or "images only"."""
        return "images and seeds" if self.seeds_vary else "images only"


def placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's share in the AUC: DeLong's structural components V10 and V01.

    DeLong, DeLong, Clarke-Pearson 1988, by the midranks of Sun, Xu 2014, in O(n log n).

    Args:
        labels: shape (n,), 0 (normal) or 1 (abnormal), both there.
        scores: shape (n,), finite; higher = more abnormal.

    Returns:
        V10, shape (n1,): the share of normals scored below each abnormal image; V01, shape (n0,):
        the share of abnormals scored above each normal image. Both 0 to 1, a tie counts half, in
        the order of the images; the mean of either is the AUC.
    """
    is_ill = labels == 1
    ranks, ill, well = _midranks(scores), _midranks(scores[is_ill]), _midranks(scores[~is_ill])
    # A rank among all less the rank in one's own class counts the other class below oneself.
    return (ranks[is_ill] - ill) / len(well), 1 - (ranks[~is_ill] - well) / len(ill)


def mean_auc(
    labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None
) -> Estimate:
    """AUC averaged over seeds.

    The variance over images is DeLong's with placements averaged over seeds, one part a class:
    var(V10)/n1 + var(V01)/n0; the seeds' part is the variance of their AUCs over their number.
    With clusters it is Obuchowski's (1997), equation for equation: with V10_k. and V01_k. the sums
    over cluster k's m_k abnormal and n_k normal images, K10 and K01 the clusters that hold any,
    S10 = K10 / ((K10 - 1) n1) Σ_k (V10_k. - m_k AUC)², S01 likewise, S11 = K / (K - 1)
    Σ_k (V10_k. - m_k AUC) (V01_k. - n_k AUC): S10/n1 + S01/n0 + 2 S11/(n1 n0).

    Args:
        labels: shape (n,), 0 (normal) or 1 (abnormal), at least two of each.
        scores: shape (seeds, n): of each seed's whole ensemble; higher = more abnormal.
        clusters: integers, shape (n,); images of equal ones are near duplicates. None = images
            count as independent.

    Returns:
        The mean AUC, a fraction, against chance (0.5). The interval is clipped to [0, 1]. It is
        too narrow for an AUC near 1 of few images, and with few clusters: of 2000 simulated ones
        91 to 93 % held the true AUC with 10 clusters of a kind, 94 to 95 % with 30 or 60. Where
        every seed separates the classes perfectly it is the point 1 and says nothing.

    Raises:
        InputError: if shapes do not fit, a class has fewer than two images or clusters, there is
            no seed, or scores are not finite.
    """
    labels, scores = _checked(labels, scores)
    ill, well = _placements_by_seed(labels, scores)
    own = _by_class(labels, clusters)
    return _estimate(ill.mean(1), (ill, well), own, null=0.5, bounds=(0, 1))


def auc_difference(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None
) -> Estimate:
    """Mean AUC of `a` less mean AUC of `b`, paired by seed and by image.

    As `mean_auc`, on differences of placements: what both scores make of an image, and both
    methods of a seed, cancels out.

    Args:
        labels: shape (n,), 0 (normal) or 1 (abnormal), at least two of each.
        a: shape (seeds, n), higher = more abnormal.
        b: shape (seeds, n), the same images and seeds in the same order.
        clusters: as for `mean_auc`.

    Returns:
        The difference of fractions, above 0 where `a` is better, against 0; the interval is
        clipped to [-1, 1].

    Raises:
        InputError: as `mean_auc`, for either.
    """
    labels, a = _checked(labels, a)
    _, b = _checked(labels, b)
    _check_pair(a, b)
    parts = zip(_placements_by_seed(labels, a), _placements_by_seed(labels, b), strict=True)
    ill, well = (one - other for one, other in parts)
    own = _by_class(labels, clusters)
    return _estimate(ill.mean(1), (ill, well), own, bounds=(-1, 1))


def log_ratio(a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None) -> Estimate:
    """log(mean a / mean b), paired by seed and by image, by the delta method.

    A seed's value is log(mean a_s) - log(mean b_s), and image i's influence on it
    a_si / mean a_s - b_si / mean b_s; influences are averaged over seeds as placements are.

    Args:
        a: shape (seeds, m), above 0, at least two images.
        b: shape (seeds, m), the same images and seeds in the same order.
        clusters: integers, shape (m,), as for `mean_auc`.

    Returns:
        The natural logarithm, averaged over seeds, above 0 where `a` is larger, against 0.
        With few images of very uneven values the interval is somewhat narrow.

    Raises:
        InputError: if shapes do not fit, there are fewer than two images or no seed, or values are
            not finite or not above 0.
    """
    per_seed, influence = _log_ratio_by_seed(a, b)
    own = None if clusters is None else [check_clusters(clusters, influence.shape[1])]
    return _estimate(per_seed, (influence,), own)


def ratio_of_ratios(
    a_abnormal: np.ndarray,
    a_normal: np.ndarray,
    b_abnormal: np.ndarray,
    b_normal: np.ndarray,
    clusters: tuple[np.ndarray, np.ndarray] | None = None,
) -> Estimate:
    """The log of (mean a_abnormal / mean a_normal) / (mean b_abnormal / mean b_normal).

    Whether the contrast of abnormal to normal images is larger in `a` than in `b`, above 0 where it
    is: the `log_ratio` of abnormal images less that of normal ones, which are separate samples of
    shapes (seeds, m1) and (seeds, m0). Equal clusters are one cluster across the classes too.

    Raises:
        InputError: as `log_ratio`, or if the classes differ in their number of seeds.
    """
    ill, ill_influence = _log_ratio_by_seed(a_abnormal, b_abnormal)
    well, well_influence = _log_ratio_by_seed(a_normal, b_normal)
    if len(ill) != len(well):
        raise InputError(
            f"Abnormal images come with {len(ill)} seeds and normal ones with {len(well)}: give "
            "the same seeds for both."
        )
    influences = ill_influence, -well_influence
    own = None
    if clusters is not None:
        own = [check_clusters(c, x.shape[1]) for c, x in zip(clusters, influences, strict=True)]
    return _estimate(ill - well, influences, own)


def _estimate(
    per_seed: np.ndarray,
    influences: Sequence[np.ndarray],
    clusters: Sequence[np.ndarray] | None,
    *,
    null: float = 0.0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Mean of `per_seed`, with Student's t.

    `influences` has one array a separate sample of images, shape (seeds, images of the sample), in
    the sense that the value moves with the sum of the samples' means; `clusters` fits them.
    """
    sizes = [x.shape[1] for x in influences]
    n_clusters = None
    if clusters is None:
        clusters = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])  # an image each
    elif min(len(np.unique(of_sample)) for of_sample in clusters) < 2:
        raise InputError(
            "All images of a class are in one cluster: they are one piece of evidence, and an "
            "interval takes at least two."
        )
    else:
        n_clusters = len(np.unique(np.concatenate(clusters)))
    # A tie is a tie: the last bit of a sum must not give a seed a side.
    per_seed = np.where(np.abs(per_seed - null) <= ROUNDING, null, per_seed)
    n_seeds, value = len(per_seed), float(per_seed.mean())
    parts = [_clustered_variance(influences, clusters)]
    # Where images vary and what they add cancels out within the clusters, that tells nothing.
    images_vary = any(np.ptp(x.mean(0)) > ROUNDING for x in influences)
    unknown = images_vary and parts[0][0] <= ROUNDING**2
    seeds_vary = n_seeds >= SEEDS_FOR_VARIANCE
    if seeds_vary:
        parts.append((per_seed.var(ddof=1) / n_seeds, n_seeds - 1))
    se = math.sqrt(sum(variance for variance, _ in parts))
    if unknown:
        se, df, half, p = math.inf, float(parts[0][1]), math.inf, 1.0
    elif se > ROUNDING:
        df = _welch_satterthwaite(parts)
        half = se * _quantile((1 + LEVEL) / 2, df)
        p = 2 * upper_tail(abs(value - null) / se, df)
    else:
        se, df, half = 0.0, math.inf, 0.0
        p = 1.0 if abs(value - null) <= ROUNDING else 0.0
    return Estimate(
        value=value,
        low=max(value - half, bounds[0]),
        high=min(value + half, bounds[1]),
        se=se,
        p=p,
        n_seeds=n_seeds,
        n_images=sum(sizes),
        seeds_vary=seeds_vary,
        per_seed=tuple(per_seed.tolist()),
        df=df,
        null=null,
        n_clusters=n_clusters,
    )


def _clustered_variance(
    influences: Sequence[np.ndarray], clusters: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Variance of the sum of the samples' means, and its degrees of freedom.

    Each sample has its own share, as DeLong's has one a class; clusters that reach over samples add
    the covariance of their shares, each with the small-sample factor K / (K - 1) of the clusters it
    is estimated from. The degrees of freedom are Welch-Satterthwaite's over clusters of the one
    sample, of the other and of both: what the images of a cluster add belongs together, and only
    so is no part of the variance negative.
    """
    names, which = np.unique(np.concatenate(clusters), return_inverse=True)
    sizes = np.cumsum([len(of_sample) for of_sample in clusters])[:-1]
    sums, present = [], []
    for x, of_sample in zip(influences, np.split(which, sizes), strict=True):
        share = x.mean(0)
        sums.append(np.bincount(of_sample, (share - share.mean()) / len(share), len(names)))
        present.append(np.bincount(of_sample, minlength=len(names)) > 0)
    counts = [int(there.sum()) for there in present]
    both = np.all(present, 0) if len(present) > 1 else np.zeros(len(names), bool)
    parts, over_both = [], 0.0
    for s, there, k in zip(sums, present, counts, strict=True):
        alone = s[there & ~both]
        parts.append((k / (k - 1) * float(alone @ alone), k - 1))
        over_both += k / (k - 1) * float(s[both] @ s[both])
    if both.any():
        k = len(names)
        over_both += k / (k - 1) * 2 * float(sums[0][both] @ sums[1][both])
        parts.append((max(0.0, over_both), max(1, int(both.sum()) - 1)))
    variance = sum(v for v, _ in parts)
    most = len(names) - 1
    return variance, min(_welch_satterthwaite(parts), most) if variance > 0 else most


def _by_class(labels: np.ndarray, clusters: np.ndarray | None) -> list[np.ndarray] | None:
    """Clusters of the abnormal and of the normal images."""
    if clusters is None:
        return None
    clusters = check_clusters(clusters, len(labels))
    return [clusters[labels == 1], clusters[labels == 0]]


def _welch_satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances v with d each: (Σ v)² / Σ (v² / d); Welch 1947."""
    return float(sum(v for v, _ in parts) ** 2 / sum(v**2 / d for v, d in parts))


def upper_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t."""
    from scipy.special import stdtr  # here: importing it takes longer than most uses of this file

    return float(stdtr(df, -t))


def _quantile(probability: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _midranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal scores share the mean of theirs."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _placements_by_seed(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V10, shape (seeds, n1), and V01, shape (seeds, n0)."""
    ill, well = zip(*(placements(labels, row) for row in scores), strict=True)
    return np.stack(ill), np.stack(well)


def _log_ratio_by_seed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log(mean a_s / mean b_s), shape (seeds,), and each image's influence, shape (seeds, m)."""
    a, b = _checked_values(a), _checked_values(b)
    _check_pair(a, b)
    if a.shape[1] < 2:
        raise InputError("A ratio of means takes at least two images.")
    if (a <= 0).any() or (b <= 0).any():
        raise InputError("A ratio of means is taken of values above 0 alone.")
    mean_a, mean_b = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    return (np.log(mean_a) - np.log(mean_b))[:, 0], a / mean_a - b / mean_b


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and scores (seeds, n), at least two images of each class."""
    labels, scores = np.asarray(labels), _checked_values(scores)
    if labels.shape != scores.shape[1:]:
        raise InputError(
            f"Labels of shape {labels.shape} do not fit scores of {scores.shape[1]} images."
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError("Labels are 0 (normal) or 1 (abnormal), nothing else.")
    counts = int((labels == 0).sum()), int((labels == 1).sum())
    if min(counts) < 2:
        raise InputError(
            f"There are {counts[0]} normal and {counts[1]} abnormal images; it takes at least "
            "2 of each."
        )
    return labels, scores


def _checked_values(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"Scores have the shape (seeds, images), not {values.shape}.")
    if not len(values):
        raise InputError("There is no seed to take an average over.")
    if not np.isfinite(values).all():
        raise InputError("The scores hold values that are not finite.")
    return values


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"Scores of shape {a.shape} and {b.shape} do not pair up by seed and image."
        )
