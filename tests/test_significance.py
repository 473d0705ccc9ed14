"""Estimates over seeds and images, and verdicts on families of claims.

What is right comes from hand values, from counting pairs, from a published example, from the
bootstrap, and from simulations whose true values are known.
"""

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
    auc_difference,
    log_ratio,
    mean_auc,
    placements,
    ratio_of_ratios,
)

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


def test_scipy_waits_until_it_is_needed():
    """Its statistics take about a second to load, which no command should wait for in vain."""
    code = "import sys, d2ue.statistics.significance; print('scipy.stats' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
