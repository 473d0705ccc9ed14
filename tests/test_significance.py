"""Estimates over seeds and images, and verdicts on families of claims.

What is right comes from hand values, from counting pairs, from a published example, from the
bootstrap, and from simulations whose true values are known.
"""

import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from d2ue.statistics.significance import (
    Estimate,
    auc_difference,
    log_ratio,
    mean_auc,
    placements,
    ratio_of_ratios,
)
from d2ue.statistics.verdicts import COLUMNS, Claim, equivalence, holm, judge, verdict

# Abnormal 3, 1 and normal 2, 0: 3 beats both, 1 beats one of two; the normal 2 is beaten by one of
# two, 0 by both. V10 = 1, 1/2 and V01 = 1/2, 1.
LABELS = np.array([1, 1, 0, 0])
SCORES = np.array([3.0, 1.0, 2.0, 0.0])


def simulated(rng, seeds: int, n: int, *, drift: float = 0.3, image: float = 1.0, own: float = 0.5):
    """n normal and n abnormal images; abnormal ones are shifted by N(1, drift²) in each seed.

    An image's level is common to seeds, its `own` noise is each seed's. The AUC averaged over all
    seeds is P(shift + difference of two images' noise > 0), all of it normal: `true_auc`.
    """
    labels = np.repeat([0, 1], n)
    shift = rng.normal(1, drift, (seeds, 1))
    return labels, (
        shift * labels + image * rng.normal(size=2 * n) + own * rng.normal(size=(seeds, 2 * n))
    )


def true_auc(drift: float = 0.3, image: float = 1.0, own: float = 0.5) -> float:
    return stats.norm.cdf(1 / np.sqrt(2 * (image**2 + own**2) + drift**2))


def counted(labels, scores) -> tuple[list[float], list[float]]:
    """V10 and V01 by comparing all pairs."""

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    ill = [s for s, label in zip(scores, labels, strict=True) if label == 1]
    well = [s for s, label in zip(scores, labels, strict=True) if label == 0]
    return (
        [sum(psi(x, y) for y in well) / len(well) for x in ill],
        [sum(psi(x, y) for x in ill) / len(ill) for y in well],
    )


def delong_covariance(labels, one, other) -> float:
    """Covariance of two AUCs on the same images, DeLong 1988: s10/n1 + s01/n0."""
    total = 0.0
    for v, w in zip(counted(labels, one), counted(labels, other), strict=True):
        v_mean, w_mean = sum(v) / len(v), sum(w) / len(w)
        products = [(x - v_mean) * (y - w_mean) for x, y in zip(v, w, strict=True)]
        total += sum(products) / (len(v) - 1) / len(v)
    return total


def an_estimate(value=0.1, se=0.03, per_seed=None, df=math.inf):
    """An estimate of that value, five seeds alike unless given."""
    per_seed = tuple(per_seed or [value] * 5)
    half = se * stats.t.ppf(0.975, df)
    p = 2 * stats.t.sf(abs(value) / se, df)
    return Estimate(
        value, value - half, value + half, se, p, len(per_seed), 100, len(per_seed) >= 5, per_seed,
        df, 0.0,
    )  # fmt: skip


# Placements


def test_placements_by_hand():
    ill, well = placements(LABELS, SCORES)
    assert ill.tolist() == [1, 0.5] and well.tolist() == [0.5, 1]
    # Abnormal 2 ties with a normal 2 and beats 0: (1/2 + 1)/2; the normal 2 is tied by the one
    # abnormal image there is.
    ill, well = placements(np.array([0, 1, 0]), np.array([2, 2, 0]))
    assert ill.tolist() == [0.75] and well.tolist() == [0.5, 1]
    ill, well = placements(np.array([0, 1]), np.array([5.0, 5.0]))
    assert (ill.tolist(), well.tolist()) == ([0.5], [0.5])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), max_size=25))
@settings(max_examples=60, deadline=None)
def test_placements_against_counting_pairs(images):
    labels, scores = zip((0, 3), (1, 3), *images, strict=True)
    ill, well = placements(np.array(labels), np.array(scores, dtype=float))
    by_counting = counted(labels, scores)
    np.testing.assert_allclose(ill, by_counting[0], atol=1e-14)
    np.testing.assert_allclose(well, by_counting[1], atol=1e-14)
    area = pytest.approx(roc_auc_score(labels, scores))
    assert ill.mean() == area and well.mean() == area


def test_placements_of_many_images_take_no_pairs():
    """50 000 images a class: all pairs would be 20 GB."""
    rng = np.random.default_rng(0)
    labels, scores = np.tile([0, 1], 50_000), rng.normal(size=100_000)
    assert placements(labels, scores)[0].mean() == pytest.approx(roc_auc_score(labels, scores))


# The mean AUC


def test_mean_auc_by_hand():
    """V10 = 1, 1/2: variance 1/8, over 2 images 1/16; V01 alike; se² = 1/8; df: two parts of 1."""
    one = mean_auc(LABELS, SCORES[None])
    assert one.value == 0.75 and one.per_seed == (0.75,)
    assert one.se == pytest.approx(math.sqrt(1 / 8))
    assert one.df == pytest.approx(2)  # (1/16 + 1/16)² / (2 · (1/16)² / 1)
    # t with 2 degrees of freedom has P(T > t) = 1/2 - t / (2 √(2 + t²)); t = (3/4 - 1/2) √8 = √½.
    assert one.p == pytest.approx(1 - math.sqrt(0.5) / math.sqrt(2.5))
    assert (one.low, one.high) == (0, 1)  # 0.75 ± 4.30 · 0.354, clipped
    assert (one.n_seeds, one.n_images, one.seeds_vary, one.null) == (1, 4, False, 0.5)


def test_the_published_example():
    """Hanley, McNeil 1982: 109 CT images rated 1 to 5. Stata's manual (roctab) prints their area
    0.8932, DeLong's standard error 0.0307 and the normal interval 0.83295 to 0.95339."""
    ratings = np.arange(1, 6)
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    scores = np.concatenate([np.repeat(ratings, normal), np.repeat(ratings, abnormal)])
    one = mean_auc(np.repeat([0, 1], [58, 51]), scores[None])
    assert one.value == pytest.approx(0.8932, abs=5e-5)
    assert one.se == pytest.approx(0.0307, abs=5e-5)
    assert one.value - 1.959964 * one.se == pytest.approx(0.83295, abs=5e-6)
    assert one.value + 1.959964 * one.se == pytest.approx(0.95339, abs=5e-6)
    assert one.low < 0.83295 and one.high > 0.95339  # Student's t is a little wider


@pytest.mark.parametrize("seeds", [1, 4, 5, 8])
def test_variance_against_covariances_of_pairs(seeds):
    """The variance of a mean of AUCs is the mean of all their covariances; from five seeds on
    the variance of the AUCs over their number comes on top, with Welch-Satterthwaite's df."""
    rng = np.random.default_rng(seeds)
    labels, scores = simulated(rng, seeds, 11)
    labels, scores = labels[3:], np.round(scores[:, 3:], 1)  # classes of 8 and 11, with ties
    pairs = itertools.product(scores, repeat=2)
    variance = sum(delong_covariance(labels, a, b) for a, b in pairs) / seeds**2
    areas = [roc_auc_score(labels, row) for row in scores]
    estimate = mean_auc(labels, scores)
    assert estimate.value == pytest.approx(np.mean(areas))
    assert estimate.per_seed == pytest.approx(areas)
    assert estimate.seeds_vary == (seeds >= 5)
    assert estimate.sources == ("images and seeds" if seeds >= 5 else "images only")
    means = [np.mean([counted(labels, row)[k] for row in scores], axis=0) for k in (0, 1)]
    parts = [(np.var(v, ddof=1) / len(v), len(v) - 1) for v in means]
    if seeds >= 5:
        extra = sum((x - np.mean(areas)) ** 2 for x in areas) / (seeds - 1) / seeds
        variance += extra
        parts.append((extra, seeds - 1))
    assert estimate.se == pytest.approx(math.sqrt(variance))
    df = variance**2 / sum(v**2 / d for v, d in parts)
    assert estimate.df == pytest.approx(df)
    assert estimate.p == pytest.approx(
        2 * stats.t.sf(abs(estimate.value - 0.5) / math.sqrt(variance), df)
    )
    assert estimate.low == pytest.approx(
        max(0, estimate.value - stats.t.ppf(0.975, df) * math.sqrt(variance))
    )


def test_standard_errors_are_the_bootstraps():
    """Images resampled by class, the same ones for every seed and both methods."""
    rng = np.random.default_rng(5)
    labels, a = simulated(rng, 3, 80)
    _, b = simulated(rng, 3, 80)
    b += a  # correlated with a, so that pairing matters
    drawn_a, drawn_difference = [], []
    for _ in range(600):
        which = np.concatenate([rng.integers(0, 80, 80), rng.integers(80, 160, 80)])
        area_a, area_b = (
            np.mean([placements(labels[which], row[which])[0].mean() for row in scores])
            for scores in (a, b)
        )
        drawn_a.append(area_a)
        drawn_difference.append(area_a - area_b)
    assert mean_auc(labels, a).se == pytest.approx(np.std(drawn_a), rel=0.1)
    assert auc_difference(labels, a, b).se == pytest.approx(np.std(drawn_difference), rel=0.1)


@pytest.mark.parametrize(("seeds", "drift"), [(5, 0.3), (3, 0)])
def test_coverage_of_the_mean_auc(seeds, drift):
    """95 % intervals: both sources of variance at work, and three seeds that do not drift."""
    held = 0
    for seed in range(300):
        estimate = mean_auc(*simulated(np.random.default_rng(seed), seeds, 50, drift=drift))
        held += estimate.low <= true_auc(drift) <= estimate.high
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.parametrize(("seeds", "drift"), [(1, 0), (3, 0), (5, 0.3)])
def test_false_positives_of_differences(seeds, drift):
    """Two methods alike, on the same images, each with its own noise and drift."""
    false = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        level = rng.normal(size=100)
        labels, a = simulated(rng, seeds, 50, drift=drift, image=0)
        _, b = simulated(rng, seeds, 50, drift=drift, image=0)
        false += auc_difference(labels, a + level, b + level).p < 0.05
    assert 0.01 <= false / 300 <= 0.09


# Differences


def test_a_difference_by_hand():
    """`a` orders every pair: V10 = 1, 1, V01 = 1, 1. Less SCORES': 0, 1/2 and 1/2, 0; se² = 1/8."""
    a = np.array([[3.0, 2.0, 1.0, 0.0]])
    estimate = auc_difference(LABELS, a, SCORES[None])
    assert estimate.value == 0.25 and estimate.null == 0
    assert estimate.se == pytest.approx(math.sqrt(1 / 8)) and estimate.df == pytest.approx(2)
    assert estimate.p == pytest.approx(1 - math.sqrt(0.5) / math.sqrt(2.5))  # t = 0.25 √8
    reversed_ = auc_difference(LABELS, a, -a)
    assert reversed_.value == 1 and reversed_.se == 0  # every pair turned round


@given(st.integers(0, 10_000), st.sampled_from([1, 3, 5]))
@settings(max_examples=25, deadline=None)
def test_differences_are_paired_and_antisymmetric(seed, seeds):
    rng = np.random.default_rng(seed)
    labels, a = simulated(rng, seeds, 9)
    _, b = simulated(rng, seeds, 9)
    one, other = auc_difference(labels, a, b), auc_difference(labels, b, a)
    assert (one.value, one.low, one.high) == (-other.value, -other.high, -other.low)
    assert (one.se, one.p, one.df) == (other.se, other.p, other.df)
    assert one.value == pytest.approx(mean_auc(labels, a).value - mean_auc(labels, b).value)
    pairs = list(itertools.product(range(seeds), repeat=2))
    variance = sum(
        delong_covariance(labels, a[s], a[t]) + delong_covariance(labels, b[s], b[t])
        - delong_covariance(labels, a[s], b[t]) - delong_covariance(labels, b[s], a[t])
        for s, t in pairs
    ) / len(pairs)  # fmt: skip
    if seeds >= 5:
        variance += np.var(one.per_seed, ddof=1) / seeds
    assert one.se**2 == pytest.approx(variance, abs=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_only_the_ranking_and_the_sets_count(seed):
    rng = np.random.default_rng(seed)
    labels, a = simulated(rng, 5, 8)
    _, b = simulated(rng, 5, 8)
    mean, difference = mean_auc(labels, a), auc_difference(labels, a, b)
    assert mean_auc(labels, np.exp(a)) == mean
    assert auc_difference(labels, 3 * a - 7, np.arctan(b)) == difference
    assert auc_difference(labels, a, np.exp(a)).p == 1
    order = rng.permutation(16)
    moved = auc_difference(labels[order], a[:, order], b[:, order])
    assert (moved.value, moved.se) == pytest.approx((difference.value, difference.se))
    seeds = rng.permutation(5)
    moved = auc_difference(labels, a[seeds], b[seeds])
    assert (moved.value, moved.se) == pytest.approx((difference.value, difference.se))


def test_nothing_varies():
    """An interval that is a point; p is 1 at the null and 0 elsewhere."""
    labels = np.array([0, 0, 1, 1])
    perfect = mean_auc(labels, np.array([[0.0, 1, 2, 3]] * 5))
    assert (perfect.low, perfect.value, perfect.high) == (1, 1, 1)
    assert (perfect.se, perfect.p, perfect.df) == (0, 0, math.inf)
    chance = mean_auc(labels, np.ones((1, 4)))
    assert (chance.low, chance.value, chance.high, chance.p) == (0.5, 0.5, 0.5, 1)
    a = np.random.default_rng(0).gamma(2, size=(5, 9))
    same = log_ratio(a, a)
    assert (same.low, same.value, same.high, same.se, same.p) == (0, 0, 0, 0, 1)
    rounded = log_ratio(3 * a, a / 3 * 9)  # alike but for rounding
    assert (rounded.se, rounded.p) == (0, 1)
    doubled = log_ratio(2 * a, a)
    assert doubled.value == pytest.approx(math.log(2)) and (doubled.se, doubled.p) == (0, 0)


# Ratios


def test_a_ratio_by_hand():
    """a = 1, 3 and b = 1, 1: log 2; influences 1/2 - 1, 3/2 - 1; variance 1/2, over 2 images 1/4;
    with one degree of freedom P(|T| > t) = 1 - 2/π · arctan t."""
    estimate = log_ratio(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    assert estimate.value == pytest.approx(math.log(2)) and estimate.se == pytest.approx(0.5)
    assert estimate.df == pytest.approx(1)
    assert estimate.p == pytest.approx(1 - 2 / math.pi * math.atan(2 * math.log(2)))
    # Its 97.5 % quantile is tan(0.475 π): the interval of a logarithm is not clipped.
    half = 0.5 * math.tan(0.475 * math.pi)
    assert estimate.low == pytest.approx(math.log(2) - half)
    assert estimate.high == pytest.approx(math.log(2) + half)


def test_a_ratio_over_seeds_by_hand():
    """Seeds of log 2 and log 4 average to log √8, whatever their scale."""
    estimate = log_ratio(np.array([[1.0, 3], [400, 400]]), np.array([[1.0, 1], [100, 100]]))
    assert estimate.per_seed == pytest.approx((math.log(2), math.log(4)))
    assert estimate.value == pytest.approx(math.log(8) / 2)
    assert estimate.se == pytest.approx(0.25)  # influences ∓1/2 and 0, averaged ∓1/4


def test_the_ratio_of_ratios_is_the_difference_of_two_ratios():
    """Variances of the two samples of images add up; the seeds' part is of the difference."""
    rng = np.random.default_rng(2)
    a_ill, b_ill = rng.gamma(4, size=(2, 3, 12))
    a_well, b_well = rng.gamma(4, size=(2, 3, 20))
    both = ratio_of_ratios(a_ill, a_well, b_ill, b_well)
    ill, well = log_ratio(a_ill, b_ill), log_ratio(a_well, b_well)
    assert both.value == pytest.approx(ill.value - well.value)
    assert both.se == pytest.approx(math.hypot(ill.se, well.se))
    assert both.df == pytest.approx(both.se**4 / (ill.se**4 / 11 + well.se**4 / 19))
    assert both.n_images == 32
    swapped = ratio_of_ratios(b_ill, b_well, a_ill, a_well)
    assert (swapped.value, swapped.se) == pytest.approx((-both.value, both.se))
    # Five seeds whose abnormal and normal images rise together: the contrast has no spread.
    rise = np.arange(1.0, 6)[:, None]
    a_ill, a_well = rise * a_ill[:1], rise * a_well[:1]
    steady = ratio_of_ratios(a_ill, a_well, *(np.repeat(x[:1], 5, 0) for x in (b_ill, b_well)))
    assert steady.seeds_vary and np.std(steady.per_seed) == pytest.approx(0, abs=1e-12)
    moving = log_ratio(a_ill, np.repeat(b_ill[:1], 5, 0))
    expected = np.var(np.log(np.arange(1, 6)), ddof=1) / 5
    one = log_ratio(a_ill[:1], b_ill[:1])
    assert moving.se**2 == pytest.approx(one.se**2 + expected)


def test_coverage_of_ratios():
    """Lognormal values: the true log ratio is the mean seed effect, 0.1."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        base, effect = rng.gamma(4, size=80), rng.normal(0.1, 0.05, (5, 1))
        a = base * np.exp(effect + 0.2 * rng.normal(size=(5, 80)))
        estimate = log_ratio(a, base * np.exp(0.2 * rng.normal(size=(5, 80))))
        held += estimate.low <= 0.1 <= estimate.high
    assert 0.91 <= held / 300 <= 0.985


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_ratios_know_no_unit(one, other, seed):
    a, b = np.random.default_rng(seed).gamma(2, size=(2, 5, 7))
    plain, scaled = log_ratio(a, b), log_ratio(one * a, other * b)
    assert scaled.value == pytest.approx(plain.value + math.log(one / other), abs=1e-9)
    assert scaled.se == pytest.approx(plain.se)
    assert log_ratio(b, a).value == pytest.approx(-plain.value)


# Families of claims


def test_holm_by_hand():
    """Sorted 0.005 · 4 = 0.02, 0.01 · 3 = 0.03, 0.03 · 2 = 0.06, 0.04 · 1 raised to 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9, 0.5]) == [1, 1, 1]
    assert holm([0.02]) == [0.02] and holm([]) == []
    assert holm([0.01, 0.01]) == [0.02, 0.02]


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_what_its_steps_reject(p):
    """Step down: compare the k-th smallest with alpha / (m - k + 1) until one is not below."""
    adjusted = holm(p)
    assert all(a >= x and a <= 1 for a, x in zip(adjusted, p, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
    for alpha in (0.013, 0.05, 0.3):
        rejected = set()
        for k, i in enumerate(order):
            if p[i] * (len(p) - k) >= alpha:
                break
            rejected.add(i)
        assert {i for i, a in enumerate(adjusted) if a < alpha} == rejected


@pytest.mark.parametrize(
    ("per_seed", "p", "expected"),
    [
        ([0.1] * 5, 0.049, "holds"),
        ([0.1] * 5, 0.05, "cannot tell"),
        ([-0.1] * 5, 0.049, "does not hold"),
        # From five seeds on their spread is in p, and one may stray.
        ([0.2, 0.2, 0.2, 0.2, -0.1], 0.01, "holds"),
        # Below, none may.
        ([0.2, 0.2, 0.2, 0.2], 0.01, "holds"),
        ([0.2, 0.2, 0.2, -0.1], 0.01, "cannot tell"),
        ([0.2, 0.0], 0.01, "cannot tell"),
        ([-0.2, -0.2, -0.1], 0.01, "does not hold"),
        ([0.2], 0.01, "holds"),
        ([0.0], 0.01, "cannot tell"),
    ],
)
def test_verdicts(per_seed, p, expected):
    assert verdict(an_estimate(np.mean(per_seed), per_seed=per_seed), p) == expected


def test_verdicts_are_of_the_null():
    """An AUC of 0.4 is positive and yet worse than chance; one of 0.52 is within 0.1 of it."""
    area = dataclasses.replace(an_estimate(0.4), null=0.5)
    assert verdict(area, 0.01) == "does not hold"
    for value, expected in ((0.52, "holds"), (0.05, "does not hold")):
        area = dataclasses.replace(an_estimate(value, 0.02), null=0.5)
        assert keeps(area) == expected


def keeps(estimate):
    """The verdict on keeping within 0.1."""
    return judge([Claim("keeps", estimate, 0.1)]).verdict.item()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # se 0.02, normal: within a margin of 0.1 below 0.1 - 1.645 · 0.02 = 0.0671; beyond it
        # above 0.1 + 1.960 · 0.02 = 0.1392.
        (0.0, "holds"),
        (0.067, "holds"),
        (0.0672, "cannot tell"),
        (0.1, "cannot tell"),
        (0.1390, "cannot tell"),
        (0.1393, "does not hold"),
    ],
)
def test_equivalence(value, expected, sign):
    estimate = an_estimate(sign * value, 0.02)
    assert keeps(estimate) == expected
    within, outside = equivalence(estimate, 0.1)
    upper = stats.norm.sf((0.1 - estimate.value) / 0.02)
    lower = stats.norm.sf((estimate.value + 0.1) / 0.02)
    assert within == pytest.approx(max(upper, lower), abs=1e-12)
    beyond = estimate.low > 0.1 or estimate.high < -0.1
    assert (outside < 0.05) == beyond == (expected == "does not hold")


def test_equivalence_takes_every_seed_below_five():
    stray = [0.0, 0.0, 0.0, 0.12]
    assert keeps(an_estimate(0.03, 0.01, stray)) == "cannot tell"
    assert keeps(an_estimate(0.024, 0.01, [*stray, 0.0])) == "holds"
    assert keeps(an_estimate(0.03, 0.01, [0.0, 0.0, 0.09])) == "holds"
    assert keeps(an_estimate(0.2, 0.01, [0.3, 0.2, 0.11])) == "does not hold"
    for low in (0.09, -0.3):  # one seed within, or beyond the other end
        assert keeps(an_estimate(0.2, 0.01, [0.3, 0.3, low])) == "cannot tell"


def test_equivalence_uses_the_degrees_of_freedom():
    assert equivalence(an_estimate(0.06, 0.02, df=3), 0.1)[0] == pytest.approx(stats.t.sf(2, 3))


def test_equivalence_of_what_does_not_vary():
    def of(value: float) -> tuple:
        point = Estimate(value, value, value, 0.0, 0.0, 5, 10, True, (value,) * 5)
        return *equivalence(point, 0.1), keeps(point)

    assert of(0.0) == of(0.1) == of(-0.1) == (0, 1, "holds")
    assert of(0.11) == of(-0.11) == (1, 0, "does not hold")


def test_a_family_is_judged_together():
    """p = 0.03 holds alone; as one of the two larger of three it is doubled, and does not."""
    clear = an_estimate(0.2, 0.02)
    weak = an_estimate(0.0651, 0.03)  # z = 2.17, p = 0.030
    alone = judge([Claim("weak", weak)])
    assert alone.verdict.tolist() == ["holds"]
    frame = judge([Claim("weak", weak), Claim("clear", clear), Claim("also weak", weak)])
    assert list(frame.columns) == COLUMNS
    assert frame.claim.tolist() == ["weak", "clear", "also weak"]
    assert frame.verdict.tolist() == ["cannot tell", "holds", "cannot tell"]
    assert frame.p_holm[0] == pytest.approx(2 * weak.p) and frame.p[0] == weak.p
    row = frame.iloc[1]
    assert (row.difference, row.low, row.high) == (clear.value, clear.low, clear.high)
    assert (row.n_seeds, row.sources) == (5, "images and seeds")
    assert row.per_seed == "+0.2000 +0.2000 +0.2000 +0.2000 +0.2000"
    assert len(judge([])) == 0 and list(judge([]).columns) == COLUMNS


def test_claims_of_keeping_are_judged_both_ways():
    """se 0.02, margin 0.1: at 0.06 p = P(Z > 2) = 0.0228; at 0.146 beyond by 2.3: 2 · 0.0107."""
    inside, outside = an_estimate(0.06, 0.02), an_estimate(0.146, 0.02)
    for estimate, p, alone in (
        (inside, 0.02275, "holds"),
        (outside, 2 * 0.010724, "does not hold"),
    ):
        claim = Claim("keeps", estimate, 0.1)
        frame = judge([claim])
        assert frame.p[0] == pytest.approx(p, abs=1e-5) and frame.verdict[0] == alone
        # Holm within the family takes either verdict back.
        assert judge([claim] * 3).verdict.tolist() == ["cannot tell"] * 3
    # Not significantly different from 0 is no equivalence, and different from 0 no difference.
    noisy = an_estimate(0.0, 0.2)
    assert judge([Claim("keeps", noisy, 0.1)]).verdict[0] == "cannot tell"
    small = an_estimate(0.05, 0.001)
    frame = judge([Claim("keeps", small, 0.1), Claim("raises", small)])
    assert frame.verdict.tolist() == ["holds", "holds"]


def test_a_tie_has_no_side():
    """Of two orders with the same AUC sums differ in their last bit; neither is the better one."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [10, 9])
    ties = 0
    for _ in range(500):
        a, b = rng.permutation(19), rng.permutation(19)
        wins = [(x[10:, None] > x[None, :10]).sum() for x in (a, b)]
        found = auc_difference(labels, a[None], b[None])
        assert np.sign(found.per_seed[0]) == np.sign(wins[0] - wins[1])
        ties += wins[0] == wins[1]
    assert ties > 2


# What cannot be estimated


@pytest.mark.parametrize(
    ("labels", "scores", "word"),
    [
        ([0, 0, 0, 0], [[1, 2, 3, 4]], "0 abnormal"),
        ([0, 0, 0, 1], [[1, 2, 3, 4]], "at least 2"),
        ([0, 0, 1, 2], [[1, 2, 3, 4]], "Labels"),
        ([0, 0, 1, 1], [[1, 2, float("nan"), 4]], "finite"),
        ([0, 0, 1, 1], [[1, 2, 3]], "(4,)"),
        ([0, 0, 1, 1], [1, 2, 3, 4], "(4,)"),
        ([0, 0, 1, 1], np.empty((0, 4)), "seed"),
    ],
)
def test_scores_that_cannot_be_evaluated(refused, labels, scores, word):
    labels, scores = np.array(labels), np.array(scores, dtype=float)
    with refused(word):
        mean_auc(labels, scores)
    for a, b in ((SCORES[None], scores), (scores, SCORES[None])):
        with refused(word):
            auc_difference(labels, a, b)


def test_what_does_not_pair_up(refused):
    labels, a = simulated(np.random.default_rng(0), 3, 4)
    with refused("(3, 8)", "(2, 8)"):
        auc_difference(labels, a, a[:2])
    a = np.exp(a)
    with refused("(3, 8)", "(3, 7)"):
        log_ratio(a, a[:, :7])
    with refused("3 seeds", "2"):
        ratio_of_ratios(a, a[:2], a, a[:2])


def test_ratios_that_cannot_be_had(refused):
    good = np.ones((2, 3))
    for value, word in ((0.0, "above 0"), (np.nan, "finite")):
        bad = np.array([[1, 2, value], [1, 2, 3]])
        for a, b in ((good, bad), (bad, good)):
            with refused(word):
                log_ratio(a, b)
    with refused("above 0"):
        ratio_of_ratios(good, good, good, -good)
    with refused("two images"):
        log_ratio(good[:, :1], good[:, :1])
    with refused("seed"):
        log_ratio(good[:0], good[:0])


def test_claims_without_meaning(refused):
    for margin in (0, -0.1, math.nan):
        with refused("margin"):
            Claim("keeps", an_estimate(), margin)
    for p in ([0.5, -0.1], [float("nan")], [[0.5]]):
        with refused("p-values"):
            holm(p)


def test_scipy_waits_until_it_is_needed():
    """Its statistics take about a second to load, which no command should wait for in vain."""
    code = "import sys, d2ue.statistics.significance; print('scipy.stats' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# Clusters


def with_duplicates(rng, n: int, *, seeds: int = 3, share: float = 0.4, mixed: float = 0.1):
    """n clusters of images: some are two to four near duplicates, a few with either label.

    Near duplicates share their level but for a little noise. Abnormal images are shifted by 1.
    """
    sizes = np.where(rng.random(n) < share, rng.integers(2, 5, n), 1)
    label = (np.arange(n) % 2).repeat(sizes)
    clusters = np.arange(n).repeat(sizes)
    turned = (rng.random(n) < mixed)[clusters] & (rng.random(len(label)) < 0.5)
    label = np.where(turned, 1 - label, label)
    level = rng.normal(size=n)[clusters] + label
    return label, level + 0.1 * rng.normal(size=(seeds, len(label))), clusters


def obuchowski(labels, clusters, ill, well, seeds) -> float:
    """The variance of Obuchowski 1997 in loops, from placements (or their differences)."""
    ill, well = np.asarray(ill).mean(0), np.asarray(well).mean(0)
    area_ill, area_well = ill.mean(), well.mean()
    ill, well = iter(ill), iter(well)
    sums: dict[int, list[float]] = {}
    for label, cluster in zip(labels, clusters, strict=True):
        own = sums.setdefault(cluster, [0.0, 0.0, 0.0, 0.0])  # V10, m, V01, n of the cluster
        own[0 if label else 2] += next(ill) if label else next(well)
        own[1 if label else 3] += 1
    k = len(sums)
    k10, k01 = (sum(own[i] > 0 for own in sums.values()) for i in (1, 3))
    m, n = (sum(own[i] for own in sums.values()) for i in (1, 3))
    first = [own[0] - own[1] * area_ill for own in sums.values()]
    second = [own[2] - own[3] * area_well for own in sums.values()]
    s10 = k10 / ((k10 - 1) * m) * sum(x * x for x in first)
    s01 = k01 / ((k01 - 1) * n) * sum(x * x for x in second)
    s11 = k / (k - 1) * sum(x * y for x, y in zip(first, second, strict=True))
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_clusters_by_hand():
    """Abnormal 3, 1, 3 and normal 2, 0; the first and the third are one image twice.

    V10 = 1, 1/2, 1, mean 5/6; less it 1/6, -1/3, 1/6: clusters 1/3 and -1/3; over 3 images 1/9,
    two clusters: 2 (1/81 + 1/81) = 4/81. V01 = 2/3, 1: ∓1/6 over 2 images 1/12: 2 · 2/144 = 1/36.
    """
    labels, scores = np.array([1, 1, 1, 0, 0]), np.array([[3.0, 1.0, 3.0, 2.0, 0.0]])
    one = mean_auc(labels, scores, clusters=np.array([7, 4, 7, 1, 2]))
    assert one.value == pytest.approx(5 / 6)
    assert one.se**2 == pytest.approx(4 / 81 + 1 / 36)
    assert one.df == pytest.approx((4 / 81 + 1 / 36) ** 2 / ((4 / 81) ** 2 + (1 / 36) ** 2))
    assert (one.n_images, one.n_clusters) == (5, 4)
    assert one.independence == "clusters respected (4 clusters of 5 images)"
    assert mean_auc(labels, scores).n_clusters is None
    assert mean_auc(labels, scores).independence == "images as independent"
    # The abnormal 1 and the normal 2 are one cluster: -1/9 and -1/12 meet, k = 3 of them.
    mixed = mean_auc(labels, scores, clusters=np.array([7, 4, 7, 4, 2]))
    assert mixed.se**2 == pytest.approx(4 / 81 + 1 / 36 + 3 / 2 * 2 * (1 / 9) * (1 / 12))
    assert mixed.df <= 2


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_variance_is_obuchowskis(seed):
    rng = np.random.default_rng(seed)
    labels, a, clusters = with_duplicates(rng, 14, share=0.6, mixed=0.4)
    b = rng.normal(size=a.shape)
    v = [[counted(labels, row)[k] for row in a] for k in (0, 1)]
    w = [[counted(labels, row)[k] for row in b] for k in (0, 1)]
    variance = obuchowski(labels, clusters, *v, 3)
    assert mean_auc(labels, a, clusters=clusters).se ** 2 == pytest.approx(variance, abs=1e-12)
    gap = [np.subtract(x, y) for x, y in zip(v, w, strict=True)]
    found = auc_difference(labels, a, b, clusters=clusters)
    assert found.se**2 == pytest.approx(obuchowski(labels, clusters, *gap, 3), abs=1e-12)
    order = rng.permutation(len(labels))  # neither the order nor the names of clusters matter
    moved = auc_difference(
        labels[order], a[:, order], b[:, order], clusters=1000 - 3 * clusters[order]
    )
    assert (moved.se, moved.df) == pytest.approx((found.se, found.df))


def resampled(rng, clusters):
    """Positions of the images of as many clusters, drawn with replacement."""
    names = np.unique(clusters)
    return np.concatenate([np.flatnonzero(clusters == k) for k in rng.choice(names, len(names))])


def test_standard_errors_with_clusters_are_the_cluster_bootstraps():
    """Clusters of either class and of both resampled together, whatever they hold."""
    rng = np.random.default_rng(1)
    labels, a, clusters = with_duplicates(rng, 160, mixed=0.3)
    b = a + rng.normal(size=160)[clusters] + 0.5 * rng.normal(size=a.shape)
    ill, well = labels == 1, labels == 0
    drawn = []
    for _ in range(300):
        which = resampled(rng, clusters)
        areas = [np.mean([roc_auc_score(labels[which], s[which]) for s in x]) for x in (a, b)]
        means = {}
        for kind in (0, 1):
            own = which[labels[which] == kind]
            means[kind] = np.mean(np.log(np.exp(a[:, own]).mean(1) / np.exp(b[:, own]).mean(1)))
        drawn.append((areas[0], areas[0] - areas[1], means[1], means[1] - means[0]))
    spread = np.std(drawn, axis=0)
    x, y = np.exp(a), np.exp(b)
    found = [
        mean_auc(labels, a, clusters=clusters),
        auc_difference(labels, a, b, clusters=clusters),
        log_ratio(x[:, ill], y[:, ill], clusters=clusters[ill]),
        ratio_of_ratios(
            x[:, ill], x[:, well], y[:, ill], y[:, well], clusters=(clusters[ill], clusters[well])
        ),
    ]
    assert [estimate.se for estimate in found] == pytest.approx(list(spread), rel=0.15)
    assert mean_auc(labels, a).se < 0.85 * found[0].se  # duplicates are no evidence


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_image_given_thrice_adds_no_evidence(seeds):
    """Every image thrice: the interval of one copy, but for the small-sample factors."""
    rng = np.random.default_rng(0)
    labels, a = simulated(rng, seeds, 40)
    _, b = simulated(rng, seeds, 40)
    thrice = np.arange(80).repeat(3)
    for function, scores in ((mean_auc, (a,)), (auc_difference, (a, b))):
        once = function(labels, *scores)
        copies = [s[:, thrice] for s in scores]
        respected = function(labels[thrice], *copies, clusters=thrice)
        assert (respected.value, respected.se) == pytest.approx((once.value, once.se))
        assert respected.df == pytest.approx(once.df)
        assert function(labels[thrice], *copies).se < 0.95 * once.se


@pytest.mark.parametrize(
    ("clusters", "words"),
    [
        (np.zeros(5, int), ("one integer an image", "4 images")),
        (np.arange(4.0), ("float64",)),
        (np.array([5, 5, 1, 2]), ("in one cluster", "at least two")),
    ],
)
def test_clusters_that_do_not_fit_are_refused(clusters, words, refused):
    with refused(*words):
        mean_auc(LABELS, SCORES[None], clusters=clusters)
    with refused(*words):
        auc_difference(LABELS, SCORES[None], -SCORES[None], clusters=clusters)


def test_twins_that_cancel_out_tell_nothing():
    """Pairs of a normal and an abnormal image with one score each: what they add is exactly 0."""
    rng = np.random.default_rng(0)
    for pairs in (4, 100):
        labels, clusters = np.tile([0, 1], pairs), np.arange(pairs).repeat(2)
        level = rng.permutation(pairs).astype(float)
        scores = np.stack([level, level + 0.5], 1).reshape(1, -1)  # each twin just above its own
        one = mean_auc(labels, scores, clusters=clusters)
        assert 0.5 < one.value < 1
        assert (one.low, one.high, one.p) == (0, 1, 1)
        assert verdict(one, one.p) == "cannot tell"
        assert keeps(dataclasses.replace(one, value=0.5)) == "cannot tell"
        difference = auc_difference(labels, scores, -scores, clusters=clusters)
        assert (difference.p, difference.low, difference.high) == (1, -1, 1)
        assert judge([Claim("above", difference)]).verdict.tolist() == ["cannot tell"]


def test_perfect_separation_stays_a_point_with_clusters():
    labels, clusters = np.tile([0, 1], 10), np.arange(10).repeat(2)
    one = mean_auc(labels, labels[None].astype(float), clusters=clusters)
    assert (one.value, one.low, one.high, one.se) == (1, 1, 1, 0)


def test_degrees_of_freedom_of_mixed_clusters_are_near_their_number():
    """100 twin pairs with noise: df 0.19 when a covariance counted as a variance of its own."""
    rng = np.random.default_rng(1)
    labels, clusters = np.tile([0, 1], 100), np.arange(100).repeat(2)
    scores = (rng.normal(size=100)[clusters] + 0.5 * rng.normal(size=200) + labels)[None]
    one = mean_auc(labels, scores, clusters=clusters)
    assert one.df == pytest.approx(99) and one.high - one.low < 0.2


#: Clusters of both classes, of abnormal images alone, of normal images alone.
KINDS = {"mixed": (1, 0, 0), "of one class": (0, 1, 1), "all kinds": (1, 1, 1)}


def covered(kind: str, k: int, draws: int = 1000) -> float:
    """How often a 95 % interval holds the true AUC; k clusters of 1 to 4 images of each kind.

    A score is its cluster's level, noise of its own and 1 for an abnormal image; the truth is what
    the AUC is on average, pairs within a cluster included.
    """
    rng, inside = np.random.default_rng(k), 0
    of_kind = np.repeat((0, 1, 2), np.multiply(KINDS[kind], k))
    far, near = stats.norm.cdf(1 / 2**0.5), stats.norm.cdf(1 / 0.6**0.5)
    for _ in range(draws):
        clusters = np.arange(len(of_kind)).repeat(rng.integers(1, 5, len(of_kind)))
        coin = rng.random(len(clusters)) < 0.5
        labels = np.select([of_kind[clusters] == 0, of_kind[clusters] == 1], [coin, 1], 0)
        scores = rng.normal(size=len(of_kind))[clusters] * 0.7**0.5
        scores += rng.normal(size=len(labels)) * 0.3**0.5 + labels
        n1, n0 = np.bincount(clusters, labels), np.bincount(clusters, 1 - labels)
        within, pairs = (n1 * n0).sum(), n1.sum() * n0.sum()
        truth = (within * near + (pairs - within) * far) / pairs
        one = mean_auc(labels, scores[None], clusters=clusters)
        inside += one.low <= truth <= one.high
    return inside / draws


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [30, 60])
def test_intervals_cover_with_clusters_of_every_kind(kind, k):
    assert 0.93 <= covered(kind, k) <= 0.97
