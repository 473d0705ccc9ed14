"""Tables on two splits, from made-up records in which the near duplicates are known."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from d2ue.config import TrainConfig
from d2ue.experiments import cleaned, layouts
from d2ue.experiments import rows as tables
from d2ue.statistics.clusters import Clusters
from d2ue.store.results import DataKey, Record, record_name

# 24 clusters of normal images, some of several; the first 8 clusters are in train too.
SIZES = np.r_[[3, 1, 2, 1, 4, 1, 1, 2], np.ones(16, int)]
NORMAL = np.repeat(np.arange(24), SIZES)
ABNORMAL = 100 + np.arange(30) // 2 * 2  # pairs
TEST = np.r_[NORMAL, ABNORMAL]
LABELS = np.r_[np.zeros(len(NORMAL)), np.ones(len(ABNORMAL))].astype(np.int8)
CLUSTERS = Clusters(np.r_[np.arange(8), np.arange(200, 240)], TEST, LABELS)
KEY = DataKey("brain-mri", "a" * 64, "b" * 64, 48, len(NORMAL), len(ABNORMAL))
LEAKED = TEST < 8


def record(config, shift, leak=0.0):
    """Abnormal images score higher by `shift`, images with a copy in train lower by `leak`."""
    rng = np.random.default_rng(config.seed)
    level = rng.normal(size=300)[TEST] + 0.1 * rng.normal(size=len(TEST))
    scores = {
        method: (level + s * LABELS - leak * LEAKED).astype(np.float32)
        for method, s in shift.items()
    }
    rest = {m: level.astype(np.float32) for m in ("ensemble", "output", "input", "reconstruction")}
    return Record(config, KEY, LABELS, rest | scores, {"normal": 1.0}, {})


@pytest.fixture(scope="module")
def cells():
    """Table 2 of AE: DSU is good alone through leaks; one control that looks at images."""
    records = {}
    for seed in (1, 2, 3):
        for weight in (0.0, 1.0):
            config = TrainConfig(backbone="ae", seed=seed, repulsion_weight=weight)
            records[record_name(config, KEY)] = record(config, {"dual": 0.0}, leak=8.0 * weight)
    rng = np.random.default_rng(0)
    names = ("intensity", "sharpness", "mean-image", "neighbour", "pca")
    seen = {name: rng.normal(size=len(TEST)).astype(np.float32) for name in names}
    seen["neighbour"] = np.where(LEAKED, -9, seen["neighbour"]).astype(np.float32)
    images = Record(TrainConfig(backbone="ae"), KEY, LABELS, seen, {}, {}, "images")
    records[images.name] = images
    return {
        table: tables.collect(tables.rows(table, None, ["ae"]), records, [KEY], (1, 2, 3))
        for table in ("table2", "controls")
    }


def test_the_cleaned_cells_hold_the_kept_images_alone(cells):
    found = cleaned.cleaned_cells(cells["table2"], CLUSTERS)
    assert len(found) == len(cells["table2"])
    for one, other in zip(cells["table2"], found, strict=True):
        assert other.row is one.row and other.data.name == "brain-mri-cleaned"
        assert (other.data.n_normal, other.data.n_abnormal) == (16, 30)
        assert other.data.train == KEY.train and other.data.test != KEY.test
        np.testing.assert_array_equal(other.labels, LABELS[~LEAKED])
        np.testing.assert_array_equal(other.clusters, TEST[~LEAKED])
        np.testing.assert_array_equal(other.scores("dual"), one.scores("dual")[:, ~LEAKED])
    assert len(cells["table2"][0].labels) == len(TEST)  # what was given stays as it is
    (sentence,) = layouts.about(found)
    assert "clusters respected (31 clusters of 46 images)" in sentence
    assert "Not the paper's numbers" in sentence


def test_both_splits_side_by_side(cells):
    everything = [*cells["table2"], *cells["controls"]]
    frame = cleaned.published_and_cleaned(everything, CLUSTERS, resamples=200)
    assert len(frame) == len(everything)
    lines = frame.set_index(["group", "row"])
    dual = lines.loc["AE", "Unc+RAR+DSU"]
    cell = next(c for c in cells["table2"] if c.row.label == "Unc+RAR+DSU")
    for split, kept in (("published", LABELS >= 0), ("cleaned", ~LEAKED)):
        areas = [100 * roc_auc_score(LABELS[kept], s[kept]) for s in cell.scores()]
        assert dual[f"AUC_{split}"] == pytest.approx(np.mean(areas))
        assert dual[f"AUC_std_{split}"] == pytest.approx(np.std(areas, ddof=1))
        assert dual[f"AUC_low_{split}"] < dual[f"AUC_{split}"] < dual[f"AUC_high_{split}"]
    assert dual["change"] == pytest.approx(dual["AUC_published"] - dual["AUC_cleaned"])
    assert 0 < dual["change_low"] < dual["change"] < dual["change_high"]
    assert (dual["n_normal_published"], dual["n_normal_cleaned"]) == (len(NORMAL), 16)
    assert dual["independence_published"] == "clusters respected (39 clusters of 61 images)"
    assert dual["n_seeds"] == 3 and dual["paper_AUC"] == 89.2
    assert lines.loc[("AE", "Unc"), "change_low"] < 0 < lines.loc[("AE", "Unc"), "change_high"]
    neighbour = lines.loc["control", "nearest neighbour in train"]
    assert neighbour["n_seeds"] == 1 and neighbour["note"] == "deterministic"
    assert neighbour["change_low"] > 0
    assert np.isnan(lines.loc[("control", "untrained AE, Ens"), "change_low"])  # not run
    again = cleaned.published_and_cleaned(everything, CLUSTERS, resamples=200)
    pd.testing.assert_frame_equal(frame, again)


def test_the_interval_of_a_change_is_a_cluster_bootstrap(cells):
    """The same by drawing positions and asking scikit-learn, its stream of its own."""
    cell = next(c for c in cells["table2"] if c.row.label == "Unc+RAR+DSU")
    frame = cleaned.published_and_cleaned([cell], CLUSTERS, resamples=2000)
    rng, scores, drawn = np.random.default_rng(7), cell.scores(), []
    for _ in range(300):
        names = [rng.choice(own, len(own)) for own in (np.arange(24), np.unique(ABNORMAL))]
        which = np.concatenate([np.flatnonzero(np.equal(TEST, k)) for k in np.concatenate(names)])
        left = which[~LEAKED[which]]
        drawn.append(
            np.mean([roc_auc_score(LABELS[which], s[which]) for s in scores])
            - np.mean([roc_auc_score(LABELS[left], s[left]) for s in scores])
        )
    low, high = 100 * np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert frame["change_low"][0] == pytest.approx(low, abs=0.15 * width)
    assert frame["change_high"][0] == pytest.approx(high, abs=0.15 * width)


def test_weighted_areas_are_those_of_repeated_images():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 30), rng.integers(0, 9, 30).astype(float)  # with ties
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    found = cleaned._weighted_auc(labels, scores, weights)
    for line, value in zip(weights.astype(int), found, strict=True):
        assert value == pytest.approx(roc_auc_score(labels.repeat(line), scores.repeat(line)))
    nobody = np.where(labels == 1, 0.0, 1.0)[None]
    assert np.isnan(cleaned._weighted_auc(labels, scores, nobody)).all()


def test_where_nothing_is_in_train_nothing_changes(cells):
    apart = Clusters(np.arange(500, 548), TEST, LABELS)
    frame = cleaned.published_and_cleaned(cells["table2"][:2], apart, resamples=100)
    assert (frame[["change", "change_low", "change_high"]] == 0).all().all()
    assert frame["AUC_low_published"].tolist() == frame["AUC_low_cleaned"].tolist()


def test_verdicts_of_both_splits(cells):
    frame = cleaned.cleaned_verdicts(cells["table2"], CLUSTERS).set_index("claim")
    assert len(frame) == 5  # AE's; the other backbones were not run
    line = frame.loc["AE: both beat RAR alone"]
    assert line["verdict_published"] == "holds (3 seeds, images only)"
    assert line["verdict_cleaned"] == "no effect above 2 points (3 seeds, images only)"
    assert line["difference_published"] > 10 > abs(line["difference_cleaned"])
    assert "31 clusters" in line["independence_cleaned"]
    both = cleaned.cleaned_verdicts([*cells["table2"], *cells["controls"]], CLUSTERS, "controls")
    assert list(both["claim"]) == [
        "AE: both beat distance to the mean image",
        "AE: both beat nearest neighbour in train",
        "AE: both beat PCA, 16 components",
    ]
    assert (both["n_seeds"] == 3).all()


def test_tables_for_readers_and_files(cells, tmp_path):
    everything = [*cells["table2"], *cells["controls"]]
    frame = cleaned.published_and_cleaned(everything, CLUSTERS, resamples=100)
    judged = {
        "table2": cleaned.cleaned_verdicts(cells["table2"], CLUSTERS),
        "controls": cleaned.cleaned_verdicts(everything, CLUSTERS, "controls"),
    }
    shown = cleaned.show_cleaned(frame)
    assert len(shown) == 8 + 5 and "published, 31 + 30 images" in shown
    text = shown.loc[("control", "mean intensity"), "n"]
    assert text == "1, deterministic, no known direction"
    folder = cleaned.save_cleaned(tmp_path / "out", frame, judged, {"scores": "x.zip"})
    stems = ("cleaned", "table2_verdicts", "controls_verdicts")
    names = {f"{stem}.{ending}" for stem in stems for ending in ("csv", "md")}
    assert {path.name for path in folder.iterdir()} >= {*names, "cleaned.png", "parameters.json"}
    text = (folder / "cleaned.md").read_text()
    assert "39 clusters of 61 images" in text and "31 clusters of 46 images" in text
    assert "nan" not in text
    assert json.loads((folder / "parameters.json").read_text())["parameters"] == {"scores": "x.zip"}
    assert "both beat RAR alone" in (folder / "table2_verdicts.md").read_text()


def test_what_does_not_fit_is_refused(cells, refused):
    other = dataclasses.replace(cells["table2"][0], data=dataclasses.replace(KEY, name="lag"))
    with refused("one data set"):
        cleaned.published_and_cleaned([cells["table2"][0], other], CLUSTERS)
    turned = Clusters(CLUSTERS.train, TEST, 1 - LABELS)
    with refused("not those of brain-mri"):
        cleaned.cleaned_verdicts(cells["table2"], turned)
    leaked = Clusters(NORMAL, TEST, LABELS)
    with refused("0 clusters have no near duplicate"):
        cleaned.published_and_cleaned(cells["table2"], leaked)
