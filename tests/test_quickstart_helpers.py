"""What the quickstart page says and saves: readings of a table, examples, files, pictures."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from d2ue import ImageSet, plotting
from d2ue.backbones import Autoencoder
from d2ue.config import TrainConfig
from d2ue.ensemble import Ensemble
from d2ue.experiments import (
    drawn_examples,
    examples,
    paper_layout,
    readings,
    reconstruction_ratio,
    save_results,
    worst_cases,
)


@pytest.fixture(autouse=True)
def closed():
    """Pictures do not stay in memory."""
    yield
    plt.close("all")


@pytest.fixture
def table():
    """Two seeds, made up: without and with repulsion, by three scores."""
    auc = {
        (0, 0.0): (80, 60, 70),
        (1, 0.0): (82, 62, 71),
        (0, 1.0): (81, 65, 75),
        (1, 1.0): (79, 61, 73),
    }
    rows = [
        {
            "backbone": "ae",
            "similarity": "cka" if weight else "none",
            "repulsion_weight": weight,
            "seed": seed,
            "method": method,
            "AUC": float(value),
            "AP": float(value) - 10,
        }
        for (seed, weight), values in auc.items()
        for method, value in zip(("ensemble", "output", "dual"), values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_readings_count_seeds_and_average_differences(table):
    assert readings(table) == [
        "Repulsion raises Unc: in 1 of 2 seeds; AUC +2.0 on average (-1.0 to +5.0).",
        "DSU raises Unc, without repulsion: in 2 of 2 seeds; AUC +9.5 on average (+9.0 to +10.0).",
        "Both beat repulsion alone: in 2 of 2 seeds; AUC +11.0 on average (+10.0 to +12.0).",
        "Both beat DSU alone: in 2 of 2 seeds; AUC +3.5 on average (+2.0 to +5.0).",
        "Both beat the reconstruction error: in 0 of 2 seeds; AUC -6.0 on average (-6.0 to -6.0).",
    ]
    assert len(readings(table[table["repulsion_weight"] == 0])) == 1  # claims that were run


def test_the_papers_layout_holds_mean_spread_and_n(table):
    wide = paper_layout(table)
    assert list(wide.index) == ["AE, repulsion none (n = 2)", "AE, repulsion cka, λ = 1 (n = 2)"]
    assert wide.loc["AE, repulsion none (n = 2)", ("Unc", "AUC")] == "61.0 ± 1.4"
    assert wide.loc["AE, repulsion cka, λ = 1 (n = 2)", ("DSU", "AP")] == "64.0 ± 1.4"
    alone = paper_layout(table[table["seed"] == 0])
    assert alone.loc["AE, repulsion none (n = 1)", ("Ens", "AUC")] == "80.0"


def images(values, labels=None):
    pixels = np.asarray(values, np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 1, 16, 16), np.uint8)
    return ImageSet(pixels, tuple(map(str, range(len(pixels)))), labels)


def test_examples_stand_at_the_same_ranks_in_both_classes():
    labels = np.repeat([0, 1], 11).astype(np.int8)
    test = images(np.zeros(22), labels)
    scores = np.concatenate([np.arange(11)[::-1], np.arange(11)]).astype(float)
    # Ranks 5 and 9 of 0 ... 10: the normal class is stored from high to low.
    assert examples(test, scores).tolist() == [5, 1, 16, 20]


def constant_learners(*values):
    """Learners whose reconstruction is a constant image, whatever they are shown."""
    network = Autoencoder("ae", len(values), 16, generator=torch.Generator().manual_seed(0))
    network.output.weight.data.zero_()
    ensemble = Ensemble(TrainConfig(backbone="ae", n_learners=len(values), image_size=16), network)
    assert np.ptp(ensemble.reconstruct(images([0]).images).numpy()) == 0
    return ensemble


def test_the_reconstruction_ratio_compares_with_the_mean_training_image():
    # Learners that always draw 0 (grey 127.5): their error is x², the mean image's is (x - m)².
    train, normals = images([0, 51]), images([255])
    x, mean = 1.0, 25.5 / 127.5 - 1
    ratio = reconstruction_ratio(constant_learners(0.0, 0.0), train, normals)
    assert ratio == pytest.approx(x**2 / (x - mean) ** 2)


def test_a_sample_keeps_order_and_the_share_of_classes():
    test = images(np.arange(40), np.repeat([0, 1], [30, 10]).astype(np.int8))
    part = test.sample(8)
    assert len(part) == 8 and part.labels.sum() == 2
    assert [int(n) for n in part.names] == sorted(int(n) for n in part.names)
    assert part.fingerprint == test.sample(8).fingerprint != test.sample(8, seed=1).fingerprint
    assert test.sample(0) is test and test.sample(99) is test


def test_results_are_saved_as_files_that_can_be_read_back(tmp_path, table):
    figure = plotting.auc_by_seed(table, {0.0: "none", 1.0: "repulsion"})
    folder = save_results(tmp_path / "a" / "b", {"seeds": 2}, {"scores": table}, {"auc": figure})
    files = {".d2ue", "auc.png", "parameters.json", "scores.csv"}
    assert {path.name for path in folder.iterdir()} == files
    assert json.loads((folder / "parameters.json").read_text())["parameters"] == {"seeds": 2}
    read = pd.read_csv(folder / "scores.csv", index_col=0)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)  # 1.0 is written as 1


def test_results_into_a_file_are_refused(tmp_path, refused):
    (tmp_path / "taken").write_text("")
    with refused("taken"):
        save_results(tmp_path / "taken", {}, {}, {})


def of_classes(labels):
    return images(np.zeros(len(labels)), np.array(labels, np.int8))


def test_drawn_examples_are_abnormal_distinct_and_follow_the_seed():
    test = of_classes([0] * 20 + [1] * 20)
    drawn = [tuple(drawn_examples(test, 4, seed)) for seed in range(6)]
    assert all(len(set(d)) == 4 and min(d) >= 20 for d in drawn)
    assert len(set(drawn)) > 1 and drawn[0] == tuple(drawn_examples(test, 4, 0))
    assert sorted(drawn_examples(of_classes([0, 1, 1]), 4)) == [1, 2]


def test_worst_cases_by_hand():
    """Normal: highest first; abnormal: lowest first."""
    scores = np.array([1.0, 5.0, 3.0, 0.5, 9.0, 2.0])
    assert worst_cases(of_classes([0, 0, 0, 1, 1, 1]), scores).tolist() == [1, 2, 3, 5]
    assert worst_cases(of_classes([0, 0, 0, 1, 1, 1]), scores, 1).tolist() == [1, 3]


def test_examples_need_labels(refused):
    unlabelled = images([1, 2])
    for choose in (
        lambda: examples(unlabelled, np.zeros(2)),
        lambda: drawn_examples(unlabelled),
        lambda: worst_cases(unlabelled, np.zeros(2)),
    ):
        with refused("no labels"):
            choose()
