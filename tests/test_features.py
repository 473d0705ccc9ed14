"""How alike features are: hand values, independent implementations, and properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from d2ue.ensemble import train_ensembles
from d2ue.lessons import features as ft
from d2ue.similarity import debiased_cka, linear_cka


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_matrices_are_the_literal_cka_of_every_pair_by_class(literal_cka):
    labels, features = np.repeat([0, 1], (8, 12)), draw(3, 20, 4)
    matrices = ft.class_matrices({"a": features}, labels)
    assert len(matrices) == 4
    expected = [[float(literal_cka(p, q)) for q in features[:, :8]] for p in features[:, :8]]
    assert np.allclose(matrices["a", "normal: CKA"], expected)
    assert np.allclose(np.diag(expected), 1)
    debiased = float(debiased_cka(features[0, 8:], features[1, 8:]))
    assert matrices["a", "abnormal: debiased CKA"][0, 1] == pytest.approx(debiased)


def test_distance_by_hand():
    # Two images at -1 and 1 in one learner, at -1 + 3 and 1 + 3 in the other: 9 over 1 + 1.
    p = torch.tensor([[-1.0], [1.0]])
    assert ft.distance(p, p) == 0
    assert ft.distance(p, p + 3) == pytest.approx(math.sqrt(9 / 2))
    assert math.isnan(ft.distance(torch.ones(4, 2), torch.ones(4, 2)))


def test_distance_is_that_of_images_of_either_learner():
    p, q = draw(30, 4), draw(30, 4, seed=1)
    # All ordered pairs of images, an image with itself included, in either learner.
    squares = [cdist(x.numpy(), x.numpy(), "sqeuclidean").mean() for x in (p, q)]
    of_one_image = (p - q).square().sum(1).mean()
    assert ft.distance(p, q) == pytest.approx(math.sqrt(of_one_image / np.mean(squares)))


@given(st.integers(0, 50), st.floats(0.01, 100))
def test_rotation_and_scale_are_seen_by_distance_alone(seed, scale):
    p = draw(12, 4, seed=seed)
    first, second = ft.rotated_copies(p, 2, seed)
    copy = scale * second
    assert torch.equal(first, p)
    assert float(linear_cka(p, copy)) == pytest.approx(1)
    assert ft.procrustes(p, copy) == pytest.approx(0, abs=1e-9)
    assert ft.distance(p, copy) > 0.05


def test_procrustes_of_nothing_in_common():
    p, q = torch.zeros(2, 4, 2, dtype=torch.float64)
    p[:2, 0] = q[2:, 0] = torch.tensor([1.0, -1.0])
    assert ft.procrustes(p, q) == pytest.approx(1)
    assert ft.procrustes(p, torch.ones(4, 2, dtype=torch.float64)) == 1


def test_feature_table_keeps_the_classes_apart():
    labels = np.repeat([0, 1], (8, 12))
    features = draw(3, 20, 4)
    features[1:, :8] = features[0, :8]  # alike on normal images alone
    table = ft.feature_table({"a": features}, labels)
    assert table.loc[("a", "normal")].to_dict() == pytest.approx(
        {"CKA": 1, "debiased CKA": 1, "distance": 0, "Procrustes": 0}, abs=1e-9
    )
    pairs = [ft.distance(*features[[i, j], 8:]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert table.loc[("a", "abnormal"), "distance"] == pytest.approx(np.mean(pairs))
    assert table.loc[("a", "abnormal"), "debiased CKA"] < 0.8


def test_embedding_keeps_learners_and_images_in_their_places(refused):
    features = draw(2, 15, 3).float()
    features[1] += 50
    points = ft.embed(features, "tsne", seed=1, perplexity=5)
    assert points.shape == (2, 15, 2)
    assert ft.separation(points) > 0.5  # the far learner is a heap of its own
    assert np.array_equal(points, ft.embed(features, "tsne", seed=1, perplexity=5))
    with refused("tsne", "pca"):
        ft.embed(features, "pca", perplexity=5)
    with refused("30 points"):
        ft.embed(features, "tsne", perplexity=30)


def test_umap_leaves_the_number_of_threads_alone():
    """It sets them for OpenMP as a whole; more threads than cores make all that follows crawl."""
    pytest.importorskip("umap", reason="umap-learn is a package of the notebooks")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        points = ft.embed(torch.randn(2, 10, 3), "umap", perplexity=4)
        assert points.shape == (2, 10, 2) and np.isfinite(points).all()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_separation_of_equal_and_of_far_clouds():
    cloud = draw(40, 2).numpy()
    equal, far = np.stack([cloud, cloud]), np.stack([cloud, cloud + 100])
    table = ft.separation_table({"a": torch.from_numpy(equal)}, {("a", "far"): far})
    assert list(table.columns) == ["feature space", "far"]
    assert table.loc["a", "feature space"] == pytest.approx(0, abs=0.05)
    assert table.loc["a", "far"] > 0.95


def test_watching_changes_nothing_and_sees_every_epoch(tiny, draw_set, draw_images, equal_tensors):
    configs = [tiny(n_learners=3, epochs=3, repulsion_weight=w) for w in (0.0, 1.0)]
    train, looked_at = draw_set(16), {"normal": draw_images(10, seed=5)}
    watched, history = ft.watch_training(configs, train, looked_at, device="cpu")
    plain = train_ensembles(configs, train, progress=False, device="cpu")
    for a, b in zip(watched, plain, strict=True):
        equal_tensors(a, b)
    assert len(history) == 2 * 3 * 3  # ensembles, pairs, epochs
    # An earlier epoch is what training that long gives: seniors are of the full training.
    features = watched[1].features(looked_at["normal"], "z").double()
    last = history[(history["ensemble"] == 1) & (history["epoch"] == 3)]
    for row in last.itertuples():
        p, q = features[row.senior - 1], features[row.learner - 1]
        assert row.cka == pytest.approx(float(linear_cka(p, q)), abs=1e-5)
        assert row.debiased == pytest.approx(float(debiased_cka(p, q)), abs=1e-5)
    short = train_ensembles([configs[0].replace(epochs=1)], train, progress=False, device="cpu")[0]
    early = short.features(looked_at["normal"], "z").double()[1]
    senior = watched[0].features(looked_at["normal"], "z").double()[0]
    first = history.query("ensemble == 0 and epoch == 1 and senior == 1 and learner == 2")
    assert first["cka"].item() == pytest.approx(float(linear_cka(senior, early)), abs=1e-5)
