"""Diversity of learners: hand values, independent implementations, and properties."""

import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from d2ue.datasets import phantom
from d2ue.ensemble import train_ensembles
from d2ue.lessons import diversity as dv
from d2ue.similarity import debiased_cka, linear_cka


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- features ---


def test_similarity_matrix_is_the_literal_cka_of_every_pair(literal_cka):
    features = draw(3, 20, 5)
    matrix = dv.similarity_matrix(features)
    expected = [[float(literal_cka(p, q)) for q in features] for p in features]
    assert np.allclose(matrix, expected)
    assert np.allclose(np.diag(matrix), 1)
    debiased = dv.similarity_matrix(features, debiased_cka)
    assert debiased[0, 1] == pytest.approx(float(debiased_cka(features[0], features[1])))


def test_mean_over_pairs_leaves_out_the_diagonal(refused):
    assert dv.mean_over_pairs(np.array([[9.0, 1, 2], [1, 9, 6], [2, 6, 9]])) == 3
    with refused("two learners"):
        dv.mean_over_pairs(np.ones((1, 1)))


def test_matrices_by_class():
    labels, features = np.repeat([0, 1], (8, 12)), draw(2, 20, 4)
    found = dv.class_matrices({"a": features}, labels)
    assert len(found) == 4
    expected = float(debiased_cka(features[0, 8:], features[1, 8:]))
    assert found["a", "abnormal: debiased CKA"][0, 1] == pytest.approx(expected)
    expected = float(linear_cka(features[0, :8], features[1, :8]))
    assert found["a", "normal: CKA"][1, 0] == pytest.approx(expected)


def test_distance_by_hand():
    # Two images at -1 and 1 in one learner, at -1 + 3 and 1 + 3 in the other: 9 over 1 + 1.
    p = torch.tensor([[-1.0], [1.0]])
    assert dv.distance(p, p) == 0
    assert dv.distance(p, p + 3) == pytest.approx(math.sqrt(9 / 2))
    assert math.isnan(dv.distance(torch.ones(4, 2), torch.ones(4, 2)))


def test_distance_is_that_of_images_of_either_learner():
    p, q = draw(30, 4), draw(30, 4, seed=1)
    # All ordered pairs of images, an image with itself included, in either learner.
    squares = [cdist(x.numpy(), x.numpy(), "sqeuclidean").mean() for x in (p, q)]
    own = (p - q).square().sum(1).mean()
    assert dv.distance(p, q) == pytest.approx(math.sqrt(own / np.mean(squares)))


@given(st.integers(0, 50), st.floats(0.01, 100))
def test_rotation_and_scale_are_seen_by_distance_alone(seed, scale):
    p = draw(12, 4, seed=seed)
    copy = scale * dv.rotated_copies(p, 2, seed)[1]
    assert float(linear_cka(p, copy)) == pytest.approx(1)
    assert dv.procrustes(p, copy) == pytest.approx(0, abs=1e-9)
    assert dv.distance(p, copy) > 0.05


def test_procrustes_of_nothing_in_common():
    p = torch.zeros(4, 2, dtype=torch.float64)
    p[:2, 0] = torch.tensor([1.0, -1.0])
    q = torch.zeros(4, 2, dtype=torch.float64)
    q[2:, 0] = torch.tensor([1.0, -1.0])
    assert dv.procrustes(p, q) == pytest.approx(1)
    assert dv.procrustes(p, torch.ones(4, 2, dtype=torch.float64)) == 1


def test_copies_begin_with_the_feature_and_differ():
    p = draw(10, 6)
    copies = dv.rotated_copies(p, 3)
    assert torch.equal(copies[0], p)
    assert torch.allclose(copies.square().sum(-1), p.square().sum(-1).expand(3, -1), rtol=1e-5)
    assert not torch.allclose(copies[1], copies[2])


def test_feature_table_keeps_the_classes_apart():
    labels = np.repeat([0, 1], (8, 12))
    features = draw(3, 20, 4)
    features[1:, :8] = features[0, :8]  # alike on normal images alone
    table = dv.feature_table({"a": features}, labels)
    assert table.loc[("a", "normal")].to_dict() == pytest.approx(
        {"CKA": 1, "debiased CKA": 1, "distance": 0, "Procrustes": 0}, abs=1e-9
    )
    assert table.loc[("a", "abnormal"), "debiased CKA"] < 0.8
    assert table.loc[("a", "abnormal"), "distance"] > 0.5


def test_embedding_keeps_learners_and_images_in_their_places(refused):
    features = draw(2, 15, 3).float()
    features[1] += 50
    points = dv.embed(features, "tsne", seed=1, perplexity=5)
    assert points.shape == (2, 15, 2)
    assert dv.separation(points) > 0.5  # the far learner is a heap of its own
    assert np.array_equal(points, dv.embed(features, "tsne", seed=1, perplexity=5))
    with refused("tsne", "pca"):
        dv.embed(features, "pca", perplexity=5)
    with refused("30 points"):
        dv.embed(features, "tsne", perplexity=30)


def test_separation_of_equal_and_of_far_clouds():
    cloud = draw(40, 2).numpy()
    assert dv.separation(np.stack([cloud, cloud])) == pytest.approx(0, abs=0.05)
    assert dv.separation(np.stack([cloud, cloud + 100])) > 0.95
    table = dv.separation_table({"a": torch.stack([torch.from_numpy(cloud)] * 2)}, {
        ("a", "far"): np.stack([cloud, cloud + 100])
    })  # fmt: skip
    assert list(table.columns) == ["feature space", "far"]


def test_module_needs_no_notebook_package():
    code = (
        "import sys, d2ue.lessons.diversity\n"
        "print([m for m in ('umap', 'numba') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert ran.stdout.strip() == "[]", ran.stderr


# --- training ---


def test_watching_changes_nothing_and_sees_every_epoch(tiny, draw_set, draw_images, equal_tensors):
    configs = [tiny(n_learners=3, epochs=3, repulsion_weight=w) for w in (0.0, 1.0)]
    train, looked_at = draw_set(16), {"normal": draw_images(10, seed=5)}
    watched, history = dv.watch_training(configs, train, looked_at, device="cpu")
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
    found = history.query("ensemble == 0 and epoch == 1 and senior == 1 and learner == 2")
    assert found["cka"].item() == pytest.approx(float(linear_cka(senior, early)), abs=1e-5)
    assert dv.ends(history).shape == (1, 2)


def test_grid_moves_one_setting_at_a_time(tiny):
    size = {"n_train": 16, "n_test_normal": 6, "n_test_abnormal": 6, "image_size": 16}
    dataset = phantom(**size, progress=False)
    table = dv.grid_table(
        tiny(epochs=1), dataset, seeds=[0, 1], weights=[0.0, 1.0], layers=["en1", "z"],
        learners=[2, 3], device="cpu",
    )  # fmt: skip
    assert table.groupby(["seed", "axis"]).size().tolist() == [2, 4, 2] * 2
    assert (table["cost"] == table["learners"]).all()
    # Where two axes cross, they are one ensemble.
    same = table.query("repulsion_weight == 1 and layer == 'z' and learners == 2 and seed == 0")
    assert sorted(same["axis"]) == ["layer", "learners", "weight"]
    assert same["AUC_dual"].nunique() == same["z_normal"].nunique() == 1
    assert len(dv.distinct(table)) == 2 * 5
    z = table[table["layer"] == "z"]
    assert np.allclose(z["z_normal"], z["cka_normal"])
    assert not np.isclose(
        *table.query("layer == 'en1' and seed == 0")[["z_normal", "cka_normal"]].iloc[0]
    )


def test_small_dataset_has_so_many_images():
    dataset = dv.small_dataset("phantom", 16, 5, 6)
    assert (len(dataset.train), dataset.labelled.labels.tolist()) == (5, [0, 0, 0, 1, 1, 1])


# --- tables ---


def test_disagreement_ratio_by_hand():
    assert dv.disagreement_ratio(np.array([1, 3, 4, 8]), np.array([0, 0, 1, 1])) == 3


def effect_frame():
    return pd.DataFrame(
        {
            "seed": [0, 0, 1, 1, 2, 2],
            "repulsion_weight": [0.0, 1, 0, 1, 0, 1],
            "x": [1.0, 2, 4, 2, 1, 5],
        }
    )


def test_effects_are_paired_by_seed(refused):
    (row,) = dv.effects(effect_frame(), {"x": "title"}).to_dict("records")
    assert row == {
        "without": 2.0, "with": 3.0, "factor": 2.5, "lowest": 0.5, "highest": 5.0,
        "higher in": "2 of 3",
    }  # fmt: skip
    assert "2 of 3 seeds" in dv.effect_lines(dv.effects(effect_frame(), {"x": "title"}))[0]
    with refused("Each seed"):
        dv.effects(effect_frame().iloc[:3], {"x": "title"})


def test_gains_are_paired_by_seed():
    table = pd.DataFrame(
        {
            "seed": [0, 1] * 3,
            "repulsion_weight": 1.0,
            "learners": [2, 2, 3, 3, 6, 6],
            "AUC": [50.0, 60, 53, 59, 53, 59],
        }
    )
    first, second = dv.gains(table, {"AUC": "Unc"}).to_dict("records")
    assert first == {"λ": "1", "N": "2 to 3", "cost": "+50 %", "Unc": "+1.0 (-1.0 to +3.0)"}
    assert second["cost"] == "+100 %" and second["Unc"].startswith("+0.0")


# --- correlation ---


def correlated(seed: int, clusters: int = 6, each: int = 8, shared: float = 2.0) -> pd.DataFrame:
    """x and y that have nothing to do with each other but that both move with the cluster."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(clusters), each)
    x, y = (shared * rng.normal(size=clusters)[which] + rng.normal(size=len(which)) for _ in "xy")
    return pd.DataFrame({"seed": which, "x": x, "y": y, "group": np.tile([0, 1], len(which) // 2)})


def test_correlation_is_scipys():
    table = correlated(0)
    assert dv.rank_correlation(table, "x", "y").rho == pytest.approx(
        spearmanr(table["x"], table["y"]).statistic
    )


def test_interval_by_hand():
    table = correlated(1, clusters=4)
    found = dv.rank_correlation(table, "x", "y")
    z = [
        np.arctanh(spearmanr(*table[table["seed"] != s][["x", "y"]].T.to_numpy())[0])
        for s in range(4)
    ]
    half = 3.182446305 * math.sqrt(3 / 4 * np.sum((z - np.mean(z)) ** 2))  # t of 3, 97.5 %
    assert found.low == pytest.approx(math.tanh(math.atanh(found.rho) - half))
    assert found.high == pytest.approx(math.tanh(math.atanh(found.rho) + half))
    naive = 1.959963985 * math.sqrt((1 + found.rho**2 / 2) / 29)
    assert found.naive_high == pytest.approx(math.tanh(math.atanh(found.rho) + naive))
    assert (found.n, found.clusters) == (32, 4)
    assert "n = 32 points of 4 seeds" in str(found)


def test_intervals_by_seed_hold_zero_where_naive_ones_do_not():
    """95 % intervals of unrelated quantities that share clusters, 150 times."""
    found = [dv.rank_correlation(correlated(seed), "x", "y") for seed in range(150)]
    by_seed = np.mean([r.low <= 0 <= r.high for r in found])
    naive = np.mean([r.naive_low <= 0 <= r.naive_high for r in found])
    assert by_seed > 0.85
    assert naive < 0.7


def test_within_groups_takes_their_means_out():
    table = correlated(2, shared=0.0)
    shift = 100.0 * table["group"]
    shifted = table.assign(x=table["x"] + shift, y=table["y"] + shift)
    assert dv.rank_correlation(shifted, "x", "y").rho > 0.6
    inside = dv.rank_correlation(shifted, "x", "y", within="group")
    assert inside.rho == pytest.approx(dv.rank_correlation(table, "x", "y", within="group").rho)
    assert abs(inside.rho) < 0.5


@given(st.integers(0, 100))
def test_rank_correlation_has_its_symmetries(seed):
    table = correlated(seed, clusters=3, each=4)
    one = dv.rank_correlation(table, "x", "y")
    grown = table.assign(x=np.exp(table["x"]), y=-table["y"])
    other = dv.rank_correlation(grown, "x", "y")
    assert (other.rho, other.low, other.high) == pytest.approx((-one.rho, -one.high, -one.low))
    assert one.low <= one.rho <= one.high


def test_correlations_that_cannot_be(refused):
    table = correlated(3)
    with refused("no column", "z"):
        dv.rank_correlation(table, "x", "z")
    with refused("three points", "not 2"):
        dv.rank_correlation(table.head(2), "x", "y")
    with refused("level"):
        dv.rank_correlation(table, "x", "y", level=1.0)
    assert math.isnan(dv.rank_correlation(table.assign(x=1.0), "x", "y").rho)
    assert math.isnan(dv.rank_correlation(table.head(8), "x", "y").low)  # one seed: no interval
    holes = table.assign(x=table["x"].where(table.index > 9))
    assert dv.rank_correlation(holes, "x", "y").n == len(table) - 10


def test_umap_leaves_the_number_of_threads_alone():
    """It sets them for OpenMP as a whole; more threads than cores make all that follows crawl."""
    pytest.importorskip("umap", reason="umap-learn is a package of the notebooks")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = dv.embed(torch.randn(2, 10, 3), "umap", perplexity=4)
        assert found.shape == (2, 10, 2) and np.isfinite(found).all()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_papers_setting_is_one_without_and_one_with_repulsion():
    rows = {
        "none": ("none", 0.0, "z", 3),
        "paper": ("cka", 1.0, "z", 3),
        "weight": ("cka", 10.0, "z", 3),
        "metric": ("pearson", 1.0, "z", 3),
        "layer": ("cka", 1.0, "en4", 3),
        "fewer": ("cka", 1.0, "z", 2),
        "one": ("none", 0.0, "z", 1),
    }
    columns = ["similarity", "repulsion_weight", "layer", "learners"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    assert list(table.index[dv.as_in_the_paper(table)]) == ["none", "paper"]
