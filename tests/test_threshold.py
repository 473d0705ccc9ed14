"""Thresholds: values worked out by hand, and the promise kept on draws from known distributions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from d2ue.detector.threshold import (
    Threshold,
    false_alarms,
    hold_out,
    least_held_out,
    measure,
    methods_of,
    threshold,
)
from d2ue.uncertainty import image_scores


@pytest.mark.parametrize(
    ("k", "contamination", "above"),
    [
        (19, 0.05, 0),  # (19 + 1) * 0.05 = 1: the highest itself
        (18, 0.05, 0),  # too few: also the highest
        (39, 0.05, 1),
        (99, 0.1, 9),
        (9, 0.3, 2),  # in floating point 10 * 0.3 may be less than 3
        (99, 0.29, 28),  # 100 * 0.29 is 28.999999999999996
        (9, 0.1, 0),
        (1, 0.5, 0),
        (3, 0.5, 1),
        (10, 0.5, 4),  # floor(5.5) = 5
    ],
)
def test_by_hand(k, contamination, above):
    scores = np.random.default_rng(k).permutation(np.arange(k, dtype=float))
    value = threshold(scores, contamination)
    assert value == k - 1 - above
    assert (scores > value).sum() == above


@given(st.integers(1, 400), st.floats(0.001, 0.5))
def test_it_is_one_of_the_scores_and_falls_as_more_may_lie_above(k, contamination):
    scores = np.arange(k) ** 2 / 7
    value = threshold(scores, contamination)
    assert value in scores
    # Split conformal: never more than the share allowed, never a whole step less.
    share = ((scores >= value).sum()) / (k + 1)
    assert share <= max(contamination, 1 / (k + 1)) + 1e-9
    assert share > contamination - 1 / (k + 1) - 1e-9
    assert threshold(scores, min(0.5, 2 * contamination)) <= value


def test_the_promise_is_kept_and_the_interval_covers():
    """Many draws of k held-out scores from a distribution whose tail is known."""
    rng = np.random.default_rng(0)
    k, contamination, draws = 59, 0.1, 4000
    values = [threshold(rng.exponential(size=k), contamination) for _ in range(draws)]
    shares = np.exp(-np.array(values))  # P(score > value)
    expected, low, high = false_alarms(k, contamination)
    assert expected == 6 / 60
    assert shares.mean() == pytest.approx(expected, abs=4 * shares.std() / math.sqrt(draws))
    inside = ((shares > low) & (shares < high)).mean()
    assert inside == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("k", "contamination"), [(19, 0.05), (59, 0.1), (18, 0.05), (200, 0.3)])
def test_the_interval_is_that_of_order_statistics(k, contamination):
    """The share is below p where at least m of k uniform draws are: a binomial tail."""
    mean, low, high = false_alarms(k, contamination)
    m = max(1, math.floor((k + 1) * contamination + 1e-9))
    assert mean == m / (k + 1)
    assert binom.sf(m - 1, k, [low, high]) == pytest.approx([0.025, 0.975])


def test_too_few_are_said_to_be_too_few():
    few = Threshold({"dual": np.arange(18.0)}, 0.05)
    assert "18 normal images" in few.shortfall and "1 in 19" in few.shortfall
    assert "at least 19" in few.shortfall
    assert Threshold({"dual": np.arange(19.0)}, 0.05).shortfall is None
    assert [least_held_out(c) for c in (0.05, 0.1, 0.01, 0.5, 0.3)] == [19, 9, 99, 1, 3]
    assert false_alarms(18, 0.05)[0] == 1 / 19
    enough = Threshold({"dual": np.arange(99.0)}, 0.05)
    assert "99 held-out" in enough.describe() and "5.0 %" in enough.describe()


@pytest.mark.parametrize("contamination", [0, 0.51, math.nan, True, "0.1"])
def test_contaminations_without_a_meaning(refused, contamination):
    with refused("contamination", "0.5"):
        Threshold({"dual": np.ones(3)}, contamination)


def test_scores_that_set_no_threshold(refused):
    for scores in ({}, {"dual": np.ones(0)}, {"dual": np.ones((2, 1))}):
        with refused("at least one held-out"):
            Threshold(scores, 0.1)
    with refused("at least one held-out"):
        Threshold({"dual": np.ones(2), "output": np.ones(3)}, 0.1)
    with refused("not finite"):
        Threshold({"dual": np.array([1, math.nan])}, 0.1)
    with refused("'output'", "dual"):
        Threshold({"dual": np.ones(2)}, 0.1).value("output")


@given(st.integers(2, 300), st.floats(0.01, 0.9), st.integers(0, 2**40))
def test_what_is_held_out(n, fraction, seed):
    k = max(1, round(fraction * n))
    if n - k < 1:
        return
    index = hold_out(n, fraction, seed)
    assert len(index) == k and len(set(index.tolist())) == k
    assert (np.diff(index) > 0).all() and index[0] >= 0 and index[-1] < n
    assert np.array_equal(index, hold_out(n, fraction, seed))
    others = {tuple(hold_out(100, 0.1, seed + i)) for i in range(20)}
    assert len(others) == 20


def test_too_few_images_to_hold_any_out(refused):
    with refused("1 normal image is too few", "n_samples = 1"):
        hold_out(1, 0.1, 0)
    with refused("batch of 64"):
        hold_out(70, 0.1, 0, least=64)
    assert len(hold_out(71, 0.1, 0, least=64)) == 7
    for fraction in (0, 1, math.nan, True, "much"):
        with refused("validation_fraction"):
            hold_out(10, fraction, 0)


def test_every_method_is_measured(trained, draw_set):
    held_out = draw_set(5, seed=3)
    measured = measure(trained("aeu"), held_out, 0.2)
    assert set(measured.scores) == {"ensemble", "output", "dual", "input"} and measured.k == 5
    for method, scores in measured.scores.items():
        assert np.array_equal(scores, image_scores(trained("aeu"), held_out.images, method))
    assert methods_of(1) == ("ensemble",)
    assert set(measure(trained("ae").first(1), held_out, 0.2).scores) == {"ensemble"}
