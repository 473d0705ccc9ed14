"""Near duplicates: their table, and estimates that take each cluster for one piece of evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from test_significance import LABELS, SCORES, counted, simulated

from d2ue.statistics.clusters import Clusters, independence, read_clusters
from d2ue.statistics.significance import auc_difference, log_ratio, mean_auc, ratio_of_ratios
from d2ue.statistics.verdicts import Claim, equivalence, judge, verdict

TABLE = """name,split,label,cluster
a.png,train,0,0
NA,train,0,3
c.png,test,0,3
d.png,test,0,7
e.png,test,1,7
f.png,test,1,5
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "clusters.csv"
        path.write_text(text)
        return path

    return write


def test_a_table_is_read_in_its_order(written):
    found = read_clusters(written(TABLE))
    assert found.train.tolist() == [0, 3]
    assert found.test.tolist() == [3, 7, 7, 5]
    assert found.labels.tolist() == [0, 0, 1, 1] and found.labels.dtype == np.int8


def test_what_has_a_near_duplicate_in_train_is_not_kept(written):
    assert read_clusters(written(TABLE)).kept.tolist() == [False, True, True, True]
    # other columns do no harm
    more = "\n".join(line + ",x" for line in TABLE.splitlines())
    assert read_clusters(written(more)).kept.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cluster\n", "klass\n", ("lacks", "cluster")),
        ("f.png,test,1,5", "f.png,train,0,5", ("split", "train")),
        ("f.png,test,1,5", "f.png,test,1,5.5", ("cluster", "integers")),
        ("f.png,test,1,5", "f.png,test,2,5", ("0 or 1",)),
        ("a.png,train,0", "a.png,train,1", ("0 for training",)),
    ],
)
def test_other_tables_are_refused(written, old, new, words, refused):
    assert old in TABLE
    with refused("clusters.csv", *words):
        read_clusters(written(TABLE.replace(old, new)))


def test_what_is_no_table_is_refused(written, tmp_path, refused):
    with refused("nowhere.csv", "cannot be read"):
        read_clusters(tmp_path / "nowhere.csv")
    with refused("no CSV table"):
        read_clusters(written(""))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00name")
    with refused("b.csv"):
        read_clusters(tmp_path / "b.csv")
    with refused("one integer an image"):
        Clusters(np.arange(2), np.arange(3), np.zeros(4, np.int8))


def test_what_is_independent_is_said():
    assert independence(9) == "images as independent"
    assert independence(9, 4) == "clusters respected (4 clusters of 9 images)"


# Estimates


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
        assert equivalence(one, 0.5)[0] >= 0.5
        difference = auc_difference(labels, scores, -scores, clusters=clusters)
        assert (difference.p, difference.low, difference.high) == (1, -1, 1)
        assert judge([Claim("above", difference)]).verdict.tolist() == ["cannot tell"]


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
