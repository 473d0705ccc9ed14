"""Helpers of the page about one's own images."""

import numpy as np
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from d2ue import ImageSet, load_folder, load_images, phantom
from d2ue.lessons.own_data import compare, write_folder


def test_folders_read_back_as_they_were(tmp_path):
    drawn = phantom(n_train=3, n_test_normal=2, n_test_abnormal=2, image_size=16)
    normal = load_folder(write_folder(drawn.train, tmp_path / "normal"), 16)
    assert np.array_equal(normal.train.images, drawn.train.images) and normal.test is None
    new = load_images(write_folder(drawn.test, tmp_path / "new"), 16)
    assert np.array_equal(new.images, drawn.test.images)
    assert new.labels.tolist() == [0, 0, 1, 1]
    unlabelled = ImageSet(drawn.test.images, drawn.test.names)
    assert load_images(write_folder(unlabelled, tmp_path / "plain"), 16).labels is None


class Higher:
    """A detector of another library: the first value of a row, higher = more abnormal."""

    __module__ = "pyod.models.first"

    def fit(self, rows):
        self.seen = len(rows)

    def decision_function(self, rows):
        return rows[:, 0]


class Lower(Higher):
    """The same in scikit-learn's sign."""

    __module__ = "sklearn.first"

    def decision_function(self, rows):
        return -rows[:, 0]


def test_both_signs_mean_the_same():
    test, labels = np.array([[0.0], [1.0], [0.5], [2.0]]), np.array([0, 0, 1, 1])
    table = compare({"a": Higher(), "b": Lower()}, np.zeros((3, 1)), test, labels)
    # Of the four pairs only (1.0 normal, 0.5 abnormal) is the wrong way round.
    assert table["AUC"].tolist() == [75.0, 75.0]
    assert table["n"].tolist() == [4, 4] and (table["seconds to fit"] >= 0).all()


def test_ranked_by_auc(refused):
    rng = np.random.default_rng(0)
    train, normal = rng.normal(size=(60, 4)), rng.normal(size=(20, 4))
    test, labels = np.concatenate([normal, normal + 4]), np.repeat([0, 1], 20)
    detectors = {
        "far": OneClassSVM(),
        "first value": Lower(),
        "LOF": LocalOutlierFactor(novelty=True),
    }
    table = compare(detectors, train, test, labels)
    assert table["AUC"].is_monotonic_decreasing and table["AUC"].iloc[0] > 95
    assert (table["low"] <= table["AUC"]).all() and (table["AUC"] <= table["high"]).all()
    with refused("39"):
        compare(detectors, train, test, labels[1:])
