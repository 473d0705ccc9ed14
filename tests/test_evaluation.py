"""AUC, AP and the bootstrap interval."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ue.evaluation import Interval, auc, average_precision, bootstrap_interval


def simulated(n: int, seed: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """n normal and n abnormal scores of N(0, 1) and N(shift, 1)."""
    rng = np.random.default_rng(seed)
    return np.repeat([0, 1], n), np.concatenate([rng.normal(size=n), rng.normal(shift, 1, n)])


def rank_metric(labels: np.ndarray, scores: np.ndarray) -> float:
    """AUC of scores without ties, from ranks; quick enough for thousands of resamples."""
    order = np.argsort(np.argsort(scores))
    n = int(labels.sum())
    return float((order[labels == 1].sum() - n * (n - 1) / 2) / (n * (len(labels) - n)))


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


@pytest.mark.parametrize("metric", [auc, average_precision, bootstrap_interval])
@pytest.mark.parametrize(
    ("labels", "scores", "word"),
    [
        ([0, 0, 0], [1, 2, 3], "abnormal"),
        ([1, 1, 1], [1, 2, 3], "normal"),
        ([], [], "both"),
        ([0, 1, 2], [1, 2, 3], "0"),
        ([0, 1, -1], [1, 2, 3], "0"),
        ([0, 1, 1], [1, float("nan"), 3], "finite"),
        ([0, 1, 1], [1, float("inf"), 3], "finite"),
        ([0, 1, 1], [1, 2], "(3,)"),
        ([[0, 1, 1]], [[1, 2, 3]], "(1, 3)"),
    ],
)
def test_what_cannot_be_evaluated(refused, metric, labels, scores, word):
    with refused(word):
        metric(np.array(labels), np.array(scores, dtype=float))


@pytest.mark.parametrize(
    "changes", [{"resamples": 99}, {"resamples": 0}, {"level": 0}, {"level": 1}, {"level": 95}]
)
def test_bootstraps_without_meaning(refused, changes):
    with refused("resamples", "level"):
        bootstrap_interval(*simulated(10, 0), **changes)


def test_an_interval_is_reproducible_and_holds_its_value():
    labels, scores = simulated(60, 0)
    one, again = (bootstrap_interval(labels, scores, resamples=200) for _ in range(2))
    assert one == again and one != bootstrap_interval(labels, scores, resamples=200, seed=1)
    assert one.low < one.value < one.high and one.value == auc(labels, scores)
    assert one.n == 120 and one.level == 0.95
    ap = bootstrap_interval(labels, scores, average_precision, resamples=100)
    assert ap.value == average_precision(labels, scores) and ap.low < ap.value < ap.high


def test_the_global_random_stream_is_left_alone():
    before = np.random.get_state()[1].copy()
    bootstrap_interval(*simulated(10, 0), rank_metric, resamples=100)
    assert np.array_equal(before, np.random.get_state()[1])


def test_an_interval_shrinks_with_more_images_and_grows_with_its_level():
    def width(n: int, level: float = 0.95) -> float:
        drawn = bootstrap_interval(*simulated(n, 0), rank_metric, resamples=300, level=level)
        return drawn.high - drawn.low

    assert width(40) > 1.5 * width(160) > 2 * width(1000)
    assert width(100, 0.99) > width(100, 0.95) > width(100, 0.5)


def test_the_width_is_that_of_theory():
    """DeLong's variance for AUC: the sum of the two classes' placement variances over n."""
    labels, scores = simulated(400, 3)
    well, ill = scores[labels == 0], scores[labels == 1]
    above = (ill[:, None] > well).astype(float)
    variance = above.mean(1).var(ddof=1) / 400 + above.mean(0).var(ddof=1) / 400
    drawn = bootstrap_interval(labels, scores, rank_metric, resamples=2000)
    assert drawn.high - drawn.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)


def test_classes_are_resampled_apart():
    """One abnormal image among many: every resample holds it, so none is of one class."""
    labels, scores = np.array([1] + [0] * 50), np.arange(51.0)[::-1]
    drawn = bootstrap_interval(labels, scores, resamples=100)
    assert (drawn.low, drawn.value, drawn.high) == (1, 1, 1)
    seen = []
    bootstrap_interval(
        labels, scores, lambda y, s: seen.append((len(y), y.sum())) or 0.0, resamples=100
    )
    assert set(seen) == {(51, 1)}


def test_coverage_of_a_known_auc():
    """AUC of N(1, 1) against N(0, 1) is Φ(1/√2) = 0.7602; 95 % intervals hold it about so often."""
    held = 0
    for seed in range(200):
        drawn = bootstrap_interval(*simulated(40, seed), rank_metric, resamples=300)
        held += drawn.low <= 0.76025 <= drawn.high
    assert 0.88 <= held / 200 <= 0.99


def test_an_interval_reads_as_percent():
    assert str(Interval(0.8714, 0.85, 0.8901, 100, 0.95)) == "87.1 (85.0 to 89.0)"


# --- clusters of near duplicates ---


def noisy(rng, clusters, shift=1.0):
    """Labels and scores of images whose clusters share their level."""
    labels = clusters % 2
    return labels, rng.normal(size=clusters.max() + 1)[clusters] + shift * labels


def test_clusters_of_one_image_are_images():
    rng = np.random.default_rng(0)
    labels, scores = noisy(rng, np.arange(60))
    plain = bootstrap_interval(labels, scores, resamples=200)
    assert bootstrap_interval(labels, scores, resamples=200, clusters=np.arange(60)) == plain


@pytest.mark.parametrize("metric", [auc, average_precision])
def test_copies_of_an_image_add_no_evidence(metric):
    """Every image four times: resampled as clusters, the interval is that of one copy."""
    labels, scores = noisy(np.random.default_rng(1), np.arange(80))
    four = np.arange(80).repeat(4)
    once = bootstrap_interval(labels, scores, metric, resamples=400)
    respected = bootstrap_interval(labels[four], scores[four], metric, resamples=400, clusters=four)
    ignored = bootstrap_interval(labels[four], scores[four], metric, resamples=400)
    assert (respected.low, respected.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert ignored.high - ignored.low < 0.6 * (once.high - once.low)


def test_mixed_clusters_keep_their_images_together():
    """A cluster of a normal and an abnormal image: either both are drawn, or neither."""
    labels = np.array([0, 1, 0, 1, 0, 1])
    seen = []

    def count(drawn, scores):
        seen.append((int((drawn == 0).sum()), int((drawn == 1).sum()), *sorted(scores)))
        return 0.5

    clusters = np.array([5, 5, 2, 2, 9, 4])
    bootstrap_interval(labels, np.arange(6.0), count, resamples=100, clusters=clusters)
    resamples = [s for s in seen if len(s) == 8]
    assert len(resamples) == len(seen)  # two mixed clusters and one of either class: six images
    for normal, abnormal, *drawn in resamples:
        assert normal == abnormal == 3
        assert drawn.count(0.0) == drawn.count(1.0) and drawn.count(2.0) == drawn.count(3.0)
        assert drawn.count(4.0) == drawn.count(5.0) == 1


def test_clusters_that_do_not_fit_are_refused(refused):
    with refused("one integer an image"):
        bootstrap_interval(np.array([0, 1]), np.array([0.0, 1.0]), clusters=np.array([0.5, 1]))
