"""Which claims hold: estimates over seeds and test images, and verdicts on families of them.

Every estimate is an average over training seeds, all scored on the same test images, so two
things make it uncertain. With other images it would move by the variance of each image's share in
it, averaged over seeds; with other seeds by their spread over their number. Four seeds or fewer do
not show their spread: such estimates speak of the images alone, and say so (`Estimate.sources`).

**Clusters**: near duplicates of one image are not so many pieces of evidence. Where clusters of
them are known, every function takes them (an integer for each image, equal = one cluster), and
clusters, not images, are what varies: the variance is that of a sum of independent clusters'
influences. For an AUC this is Obuchowski 1997, and where every image is a cluster of its own it is
DeLong's. A cluster may hold images of both classes.

What the intervals leave out: patients are unknown, and several images of one patient make every
interval too narrow. What they hold twice: the share by which seeds move single images is in both
variances, so with `SEEDS_FOR_VARIANCE` seeds or more they err to the wide side (by a sixth
with five seeds where nothing else varies, in a simulation). Intervals of images only hold for
these seeds, and claims decided on them may fail with others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from d2ue.errors import InputError
from d2ue.statistics.clusters import check_clusters, independence

#: From so many seeds on, their spread is a source of variance; below it, images alone are.
SEEDS_FOR_VARIANCE = 5

#: A standard error, or a distance from the null, up to this is rounding.
ROUNDING = 1e-12

Verdict = Literal["holds", "does not hold", "cannot tell"]
Kind = Literal["greater", "equal"]

COLUMNS = (
    "claim",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "n_seeds",
    "sources",
    "independence",
    "per_seed",
    "verdict",
)


@dataclass(frozen=True)
class Estimate:
    """An average over seeds with its interval, in the unit of the function that made it.

    Attributes:
        value: the mean of `per_seed`.
        low: lower end of the interval.
        high: upper end.
        se: standard error; 0 where nothing varies, and then the interval is a point; infinite where
            images vary and their clusters do not, which tells nothing.
        p: two-sided p-value of `value` against `null`.
        n_seeds: seeds it comes from.
        n_images: test images it comes from.
        seeds_vary: whether the spread over seeds is in `se`.
        per_seed: the value of each seed, in the order given.
        df: degrees of freedom of Student's t, infinite where `se` is 0.
        null: what `p` is against: 0.5 for an AUC, 0 for differences and logarithms.
        level: nominal coverage of the interval.
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
    level: float = 0.95
    n_clusters: int | None = None

    @property
    def independence(self) -> str:
        """What counts as independent: "images as independent", or clusters of so many images."""
        return independence(self.n_images, self.n_clusters)

    @property
    def sources(self) -> str:
        """The sources of variance in `se`: "images and seeds" or "images only"."""
        return "images and seeds" if self.seeds_vary else "images only"


@dataclass(frozen=True)
class Equivalence:
    """Whether an estimate lies within a margin of its null.

    Attributes:
        p: of two one-sided tests, the larger p-value; small speaks for "within".
        p_outside: two-sided p-value of being beyond the margin; small speaks for "beyond". Below
            alpha exactly where the interval of level 1 - alpha lies wholly beyond the margin.
        verdict: on the claim that the margin is kept.
    """

    p: float
    p_outside: float
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """A sentence and the estimate it is about.

    Attributes:
        text: the sentence.
        estimate: what was measured.
        kind: "greater" claims that the value is above its null, "equal" that it keeps within
            `margin` of it.
        margin: of "equal", above 0, in the estimate's unit; None for "greater".

    Raises:
        InputError: if kind and margin do not fit.
    """

    text: str
    estimate: Estimate
    kind: Kind = "greater"
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("greater", "equal"):
            raise InputError(f"A claim is of kind 'greater' or 'equal', not {self.kind!r}.")
        if self.kind == "greater" and self.margin is not None:
            raise InputError(f"The claim {self.text!r} is of kind 'greater' and takes no margin.")
        if self.kind == "equal":
            _check_margin(self.margin)


def placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's share in the AUC: DeLong's structural components V10 and V01.

    DeLong, DeLong, Clarke-Pearson 1988, by the midranks of Sun, Xu 2014, in O(n log n).

    Args:
        labels: shape (n,), 0 (normal) or 1 (abnormal).
        scores: shape (n,), higher = more abnormal.

    Returns:
        V10, shape (n1,): the share of normals scored below each abnormal image; V01, shape (n0,):
        the share of abnormals scored above each normal image. Both 0 to 1, a tie counts half, in
        the order of the images; the mean of either is the AUC.

    Raises:
        InputError: if shapes do not fit, a class is missing, or scores are not finite.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(f"Placements take scores of shape (n,), not {scores.shape}.")
    labels, scores = _checked(labels, scores[None])
    return _placements(labels, scores[0])


def mean_auc(
    labels: np.ndarray,
    scores: np.ndarray,
    level: float = 0.95,
    clusters: np.ndarray | None = None,
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
        level: nominal coverage of the interval, between 0 and 1.
        clusters: integers, shape (n,); images of equal ones are near duplicates. None = images
            count as independent.

    Returns:
        The mean AUC, a fraction, against chance (0.5). The interval is clipped to [0, 1]; with an
        AUC near 1 and few images it holds the true one less often than `level` says, and so it does
        with few clusters: of 2000 simulated ones at 95 % with 10 clusters of a kind 91 to 93 % did,
        with 30 or 60 of a kind 94 to 95 %. Where every
        seed separates the classes perfectly nothing varies, and the interval is the point 1:
        DeLong's variance says nothing there.

    Raises:
        InputError: if shapes do not fit, a class has fewer than two images or clusters, there is
            no seed, scores are not finite, or `level` is out of range.
    """
    labels, scores = _checked(labels, scores, at_least=2)
    ill, well = _placements_by_seed(labels, scores)
    own = _by_class(labels, clusters)
    return _estimate(ill.mean(1), (ill, well), own, null=0.5, level=level, bounds=(0, 1))


def auc_difference(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    level: float = 0.95,
    clusters: np.ndarray | None = None,
) -> Estimate:
    """Mean AUC of `a` less mean AUC of `b`, paired by seed and by image.

    As `mean_auc`, on differences of placements: what both scores make of an image, and both
    methods of a seed, cancels out.

    Args:
        labels: shape (n,), 0 (normal) or 1 (abnormal), at least two of each.
        a: shape (seeds, n), higher = more abnormal.
        b: shape (seeds, n), the same images and seeds in the same order.
        level: nominal coverage of the interval, between 0 and 1.
        clusters: as for `mean_auc`.

    Returns:
        The difference of fractions, above 0 where `a` is better, against 0; the interval is
        clipped to [-1, 1].

    Raises:
        InputError: as `mean_auc`, for either.
    """
    labels, a = _checked(labels, a, at_least=2)
    _, b = _checked(labels, b, at_least=2)
    _check_pair(a, b)
    parts = zip(_placements_by_seed(labels, a), _placements_by_seed(labels, b), strict=True)
    ill, well = (one - other for one, other in parts)
    own = _by_class(labels, clusters)
    return _estimate(ill.mean(1), (ill, well), own, null=0.0, level=level, bounds=(-1, 1))


def log_ratio(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, clusters: np.ndarray | None = None
) -> Estimate:
    """log(mean a / mean b), paired by seed and by image, by the delta method.

    A seed's value is log(mean a_s) - log(mean b_s), and image i's influence on it
    a_si / mean a_s - b_si / mean b_s; influences are averaged over seeds as placements are.

    Args:
        a: shape (seeds, m), above 0, at least two images.
        b: shape (seeds, m), the same images and seeds in the same order.
        level: nominal coverage of the interval, between 0 and 1.
        clusters: integers, shape (m,), as for `mean_auc`.

    Returns:
        The natural logarithm, averaged over seeds, above 0 where `a` is larger, against 0.
        With few images of very uneven values the interval is somewhat narrow.

    Raises:
        InputError: if shapes do not fit, there are fewer than two images or no seed, values are
            not finite or not above 0, or `level` is out of range.
    """
    per_seed, influence = _log_ratio_by_seed(a, b)
    own = _samples((influence,), None if clusters is None else (clusters,))
    return _estimate(per_seed, (influence,), own, null=0.0, level=level)


def ratio_of_ratios(
    a_abnormal: np.ndarray,
    a_normal: np.ndarray,
    b_abnormal: np.ndarray,
    b_normal: np.ndarray,
    level: float = 0.95,
    clusters: tuple[np.ndarray, np.ndarray] | None = None,
) -> Estimate:
    """The log of (mean a_abnormal / mean a_normal) / (mean b_abnormal / mean b_normal).

    Whether the contrast of abnormal to normal images is larger in `a` than in `b`: the
    `log_ratio` of abnormal images less that of normal ones, which are separate samples.

    Args:
        a_abnormal: shape (seeds, m1), above 0, at least two images.
        a_normal: shape (seeds, m0), above 0, at least two images.
        b_abnormal: shape (seeds, m1), the same images and seeds as `a_abnormal`.
        b_normal: shape (seeds, m0), the same images and seeds as `a_normal`.
        level: nominal coverage of the interval, between 0 and 1.
        clusters: integers, shapes (m1,) and (m0,), as for `mean_auc`; equal integers are one
            cluster across the classes too.

    Returns:
        The natural logarithm, averaged over seeds, above 0 where `a` has more contrast, against 0.

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
    own = _samples(influences, clusters)
    return _estimate(ill - well, influences, own, null=0.0, level=level)


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number: one wrong rejection or more has a chance below alpha.

    Holm 1979: the k-th smallest of m is multiplied by m - k + 1, never below the one before it,
    at most 1.

    Args:
        p: p-values of one family, 0 to 1.

    Returns:
        The adjusted values in the order given.

    Raises:
        InputError: if a value is no number of 0 to 1.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("Holm's adjustment takes a list of p-values of 0 to 1.")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def verdict(estimate: Estimate, adjusted_p: float, alpha: float = 0.05) -> Verdict:
    """Whether the claim "the value is above its null" holds.

    With fewer than `SEEDS_FOR_VARIANCE` seeds the p-value knows of images alone, so that every
    seed must also lie on the side that is decided for.

    Args:
        estimate: what was measured.
        adjusted_p: its two-sided p-value, adjusted within its family.
        alpha: significance level, between 0 and 1.

    Returns:
        "holds" or "does not hold" (the value is significantly below), else "cannot tell".

    Raises:
        InputError: if `alpha` or `adjusted_p` is out of range.
    """
    _check_alpha(alpha, adjusted_p)
    if adjusted_p >= alpha:
        return "cannot tell"
    sides = [value - estimate.null for value in _decisive(estimate)]
    if all(side > 0 for side in sides):
        return "holds"
    return "does not hold" if all(side < 0 for side in sides) else "cannot tell"


def equivalence(estimate: Estimate, margin: float, alpha: float = 0.05) -> Equivalence:
    """Whether the claim "the value keeps within the margin of its null" holds.

    Two one-sided tests (Schuirmann 1987), each of which must reject that the value is beyond one
    end of the margin. A difference that is merely not significant does not show equivalence.
    With fewer than `SEEDS_FOR_VARIANCE` seeds every seed must lie on the side decided for.

    Args:
        estimate: what was measured.
        margin: above 0, in the estimate's unit.
        alpha: significance level, between 0 and 1.

    Returns:
        The p-values with the verdict: "holds" if both tests reject, "does not hold" if the
        interval of level 1 - alpha lies wholly beyond the margin, else "cannot tell".

    Raises:
        InputError: if `margin` or `alpha` is out of range.
    """
    _check_margin(margin)
    _check_alpha(alpha)
    beyond = abs(estimate.value - estimate.null) - margin
    if estimate.se == 0:
        p, p_outside = (0.0, 1.0) if beyond <= 0 else (1.0, 0.0)
    else:
        # The nearer end has the larger p-value of the two, so it is the only one needed.
        p = _upper_tail(-beyond / estimate.se, estimate.df)
        p_outside = min(1.0, 2 * _upper_tail(beyond / estimate.se, estimate.df))
    leaning = p if beyond <= 0 else p_outside
    return Equivalence(p, p_outside, _kept(estimate, margin, leaning, alpha))


def describe(verdict: Verdict, n_seeds: int, sources: str) -> str:
    """A verdict in words, with what it rests on.

    Args:
        verdict: of `verdict`, `equivalence` or a row of `judge`.
        n_seeds: seeds it comes from.
        sources: as `Estimate.sources`.

    Returns:
        "holds (3 seeds, images only)", or "cannot tell with 3 seeds".
    """
    seeds = f"{n_seeds} seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return (
        f"{verdict} with {seeds}" if verdict == "cannot tell" else f"{verdict} ({seeds}, {sources})"
    )


def judge(claims: Sequence[Claim], alpha: float = 0.05) -> pd.DataFrame:
    """Verdicts on a family of claims, their p-values adjusted by `holm`.

    A claim enters its family with one p-value, that of the verdict its value leans to. For
    "greater" this is the two-sided one. For "equal" it is the larger of the two one-sided ones
    if the value lies within the margin, and that of being beyond it otherwise, so that a wrong
    "does not hold" counts in the family too.

    Args:
        claims: the family.
        alpha: the chance, over the whole family, of a verdict that is wrong.

    Returns:
        One row a claim, in order: claim, difference, low, high (in the estimate's unit), p,
        p_holm, n_seeds, sources, independence (as `Estimate` has them), per_seed (text, the value
        of each seed), verdict.

    Raises:
        InputError: if `alpha` is out of range.
    """
    _check_alpha(alpha)
    p = [_leaning_p(claim) for claim in claims]
    rows = []
    for claim, raw, adjusted in zip(claims, p, holm(p), strict=True):
        estimate = claim.estimate
        if claim.kind == "greater":
            decided = verdict(estimate, adjusted, alpha)
        else:
            decided = _kept(estimate, claim.margin, adjusted, alpha)
        rows.append(
            {
                "claim": claim.text,
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": raw,
                "p_holm": adjusted,
                "n_seeds": estimate.n_seeds,
                "sources": estimate.sources,
                "independence": estimate.independence,
                "per_seed": " ".join(f"{value:+.4f}" for value in estimate.per_seed),
                "verdict": decided,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _estimate(
    per_seed: np.ndarray,
    influences: Sequence[np.ndarray],
    clusters: Sequence[np.ndarray] | None,
    *,
    null: float,
    level: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Mean of `per_seed`, with Student's t.

    `influences` has one array a separate sample of images, shape (seeds, images of the sample), in
    the sense that the value moves with the sum of the samples' means; `clusters` fits them.
    """
    if not 0 < level < 1:
        raise InputError(f"An interval's level lies between 0 and 1, not at {level}.")
    # A tie is a tie: the last bit of a sum must not give a seed a side.
    per_seed = np.where(np.abs(per_seed - null) <= ROUNDING, null, per_seed)
    n_seeds, value = len(per_seed), float(per_seed.mean())
    if clusters is None:
        parts = [(x.mean(0).var(ddof=1) / x.shape[1], x.shape[1] - 1) for x in influences]
    else:
        parts = [_clustered_variance(influences, clusters)]
    # Where images vary and what they add cancels out within the clusters, that tells nothing.
    unknown = sum(variance for variance, _ in parts) <= ROUNDING**2 and any(
        np.ptp(x.mean(0)) > ROUNDING for x in influences
    )
    seeds_vary = n_seeds >= SEEDS_FOR_VARIANCE
    if seeds_vary:
        parts.append((per_seed.var(ddof=1) / n_seeds, n_seeds - 1))
    se = math.sqrt(sum(variance for variance, _ in parts))
    if unknown:
        se, df, half, p = math.inf, float(parts[0][1]), math.inf, 1.0
    elif se > ROUNDING:
        df = _welch_satterthwaite(parts)
        half = se * _quantile((1 + level) / 2, df)
        p = 2 * _upper_tail(abs(value - null) / se, df)
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
        n_images=sum(x.shape[1] for x in influences),
        seeds_vary=seeds_vary,
        per_seed=tuple(per_seed.tolist()),
        df=df,
        null=null,
        level=level,
        n_clusters=None if clusters is None else len(np.unique(np.concatenate(clusters))),
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


def _by_class(
    labels: np.ndarray, clusters: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Clusters of the abnormal and of the normal images, checked."""
    if clusters is None:
        return None
    clusters = check_clusters(clusters, len(labels))
    own = clusters[labels == 1], clusters[labels == 0]
    _check_many(own)
    return own


def _samples(
    influences: Sequence[np.ndarray], clusters: Sequence[np.ndarray] | None
) -> tuple[np.ndarray, ...] | None:
    """Clusters of separate samples of images, checked."""
    if clusters is None:
        return None
    pairs = zip(clusters, influences, strict=True)
    own = tuple(check_clusters(one, x.shape[1]) for one, x in pairs)
    _check_many(own)
    return own


def _check_many(clusters: Sequence[np.ndarray]) -> None:
    if min(len(np.unique(own)) for own in clusters) < 2:
        raise InputError(
            "All images of a class are in one cluster: they are one piece of evidence, and an "
            "interval takes at least two."
        )


def _welch_satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances v with d each: (Σ v)² / Σ (v² / d); Welch 1947."""
    return float(sum(v for v, _ in parts) ** 2 / sum(v**2 / d for v, d in parts))


def _upper_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t."""
    from scipy.special import stdtr  # here: importing it takes longer than most uses of this file

    return float(stdtr(df, -t))


def _quantile(probability: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`placements` of what has been checked."""
    is_ill = labels == 1
    ranks, ill, well = _midranks(scores), _midranks(scores[is_ill]), _midranks(scores[~is_ill])
    # A rank among all less the rank in one's own class counts the other class below oneself.
    return (ranks[is_ill] - ill) / len(well), 1 - (ranks[~is_ill] - well) / len(ill)


def _midranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal scores share the mean of theirs."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _placements_by_seed(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V10, shape (seeds, n1), and V01, shape (seeds, n0)."""
    ill, well = zip(*(_placements(labels, row) for row in scores), strict=True)
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


def _leaning_p(claim: Claim) -> float:
    """The p-value of the verdict that the claim's value leans to."""
    estimate = claim.estimate
    if claim.kind == "greater":
        return estimate.p
    test = equivalence(estimate, claim.margin)
    return test.p if abs(estimate.value - estimate.null) <= claim.margin else test.p_outside


def _kept(estimate: Estimate, margin: float, p: float, alpha: float) -> Verdict:
    """`verdict` of an "equal" claim; `p` is of the side of the margin that the value lies on."""
    if p >= alpha:
        return "cannot tell"
    sides = [value - estimate.null for value in _decisive(estimate)]
    if all(abs(side) <= margin for side in sides):
        return "holds"
    one_side = all(side > margin for side in sides) or all(side < -margin for side in sides)
    return "does not hold" if one_side else "cannot tell"


def _decisive(estimate: Estimate) -> tuple[float, ...]:
    """The values that must agree: the mean, and each seed's where their spread is not in `se`."""
    return (estimate.value, *(() if estimate.seeds_vary else estimate.per_seed))


def _checked(
    labels: np.ndarray, scores: np.ndarray, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and scores (seeds, n), both classes with `at_least` so many images."""
    labels, scores = np.asarray(labels), _checked_values(scores)
    if labels.shape != scores.shape[1:]:
        raise InputError(
            f"Labels of shape {labels.shape} do not fit scores of {scores.shape[1]} images."
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError("Labels are 0 (normal) or 1 (abnormal), nothing else.")
    counts = int((labels == 0).sum()), int((labels == 1).sum())
    if min(counts) < at_least:
        raise InputError(
            f"There are {counts[0]} normal and {counts[1]} abnormal images; it takes at least "
            f"{at_least} of each."
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


def _check_alpha(alpha: float, p: float = 0.0) -> None:
    if not 0 < alpha < 1 or not 0 <= p <= 1:
        raise InputError(
            f"A verdict takes alpha between 0 and 1 and p of 0 to 1, not {alpha} and {p}."
        )


def _check_margin(margin: float | None) -> None:
    if margin is None or not 0 < margin < math.inf:
        raise InputError(f"A margin is a number above 0, not {margin}.")
