"""AUC and AP."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ue.evaluation import auc, average_precision


def simulated(n: int, seed: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """n normal and n abnormal scores of N(0, 1) and N(shift, 1)."""
    rng = np.random.default_rng(seed)
    return np.repeat([0, 1], n), np.concatenate([rng.normal(size=n), rng.normal(shift, 1, n)])


def pair_counting(labels, scores) -> float:
    """The share of (abnormal, normal) pairs in the right order; a tie is half a pair."""
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for (a, ill), (b, well) in itertools.product(zip(scores, labels, strict=True), repeat=2)
        if ill == 1 and well == 0
    ]
    return sum(pairs) / len(pairs)


def precision_over_recall(labels, scores) -> float:
    """Sum over distinct thresholds of (recall step) · precision."""
    total, before, result = sum(labels), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [y for y, s in zip(labels, scores, strict=True) if s >= threshold]
        recall = sum(found) / total
        result += (recall - before) * sum(found) / len(found)
        before = recall
    return result


def test_auc_by_hand():
    """Abnormal 3, 1 against normal 2, 0: three of four pairs in order; 3, 2 against 2, 0: 3.5."""
    assert auc(np.array([1, 1, 0, 0]), np.array([3, 1, 2, 0])) == 0.75
    assert auc(np.array([1, 1, 0, 0]), np.array([3, 2, 2, 0])) == 3.5 / 4
    assert auc(np.array([1, 0]), np.array([1, 0])) == 1
    assert auc(np.array([0, 1]), np.array([1, 0])) == 0
    assert auc(np.array([0, 1]), np.array([1, 1])) == 0.5


def test_ap_by_hand():
    """Ranking 1, 0, 1, 0: precision 1 at recall 1/2, 2/3 at recall 1: (1 + 2/3) / 2."""
    value = average_precision(np.array([1, 0, 1, 0]), np.array([4, 3, 2, 1]))
    assert value == pytest.approx((1 + 2 / 3) / 2)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=25))
@settings(max_examples=40, deadline=None)
def test_against_counting_pairs_and_thresholds(images):
    labels, scores = ([0, 1, *x] for x in zip(*images, strict=True))
    scores[:2] = 3, 3
    arrays = np.array(labels), np.array(scores, dtype=float)
    assert auc(*arrays) == pytest.approx(pair_counting(labels, scores))
    assert average_precision(*arrays) == pytest.approx(precision_over_recall(labels, scores))


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_only_the_ranking_counts(seed):
    labels, scores = simulated(12, seed)
    for metric in (auc, average_precision):
        value = pytest.approx(metric(labels, scores))
        assert metric(labels, np.exp(scores)) == value
        assert metric(labels, 3 * scores - 7) == value
        order = np.random.default_rng(seed).permutation(len(labels))
        assert metric(labels[order], scores[order]) == value
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores))


@pytest.mark.parametrize("metric", [auc, average_precision])
@pytest.mark.parametrize(
    ("labels", "scores", "word"),
    [
        ([0, 0, 0], [1, 2, 3], "abnormal"),
        ([], [], "both"),
        ([0, 1, 2], [1, 2, 3], "0"),
        ([0, 1, 1], [1, float("nan"), 3], "finite"),
        ([0, 1, 1], [1, 2], "(3,)"),
        ([[0, 1, 1]], [[1, 2, 3]], "(1, 3)"),
    ],
)
def test_what_cannot_be_evaluated(refused, metric, labels, scores, word):
    with refused(word):
        metric(np.array(labels), np.array(scores, dtype=float))
