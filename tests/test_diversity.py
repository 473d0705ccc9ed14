"""Diversity beside performance: the rows, and correlations of points that are not independent."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from d2ue.datasets import phantom
from d2ue.lessons import diversity as dv

# --- rows ---


def test_grid_moves_one_setting_at_a_time(tiny):
    size = {"n_train": 16, "n_test_normal": 6, "n_test_abnormal": 6, "image_size": 16}
    dataset = phantom(**size, progress=False)
    table = dv.grid_table(
        tiny(epochs=1), dataset, seeds=[0, 1], weights=[0.0, 1.0], layers=["en1", "z"],
        learners=[2, 3], device="cpu",
    )  # fmt: skip
    assert table.groupby(["seed", "axis"]).size().tolist() == [2, 4, 2] * 2
    assert (table["cost"] == table["learners"]).all()
    assert np.allclose(table["unc_ratio"], table["unc_abnormal"] / table["unc_normal"])
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


# --- what they say ---


def test_effects_are_paired_by_seed(refused):
    columns = {"seed": [0, 0, 1, 1, 2, 2], "repulsion_weight": [0.0, 1] * 3}
    frame = pd.DataFrame(columns | {"x": [1.0, 2, 4, 2, 1, 5]})
    changes = dv.effects(frame, {"x": "title"})
    assert changes.loc["title"].to_dict() == {
        "without": 2.0, "with": 3.0, "factor": 2.5, "lowest": 0.5, "highest": 5.0,
        "higher in": "2 of 3",
    }  # fmt: skip
    assert "2 of 3 seeds" in dv.effect_lines(changes)[0]
    with refused("Each seed"):
        dv.effects(frame.iloc[:3], {"x": "title"})


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


def test_interval_by_hand():
    table = correlated(1, clusters=4)
    r = dv.rank_correlation(table, "x", "y")
    assert r.rho == pytest.approx(spearmanr(table["x"], table["y"]).statistic)
    z = [
        np.arctanh(spearmanr(*table[table["seed"] != s][["x", "y"]].T.to_numpy())[0])
        for s in range(4)
    ]
    half = 3.182446305 * math.sqrt(3 / 4 * np.sum((z - np.mean(z)) ** 2))  # t of 3, 97.5 %
    assert r.low == pytest.approx(math.tanh(math.atanh(r.rho) - half))
    assert r.high == pytest.approx(math.tanh(math.atanh(r.rho) + half))
    naive = 1.959963985 * math.sqrt((1 + r.rho**2 / 2) / 29)
    assert r.naive_high == pytest.approx(math.tanh(math.atanh(r.rho) + naive))
    assert (r.points, r.seeds) == (32, 4)


def test_intervals_by_seed_hold_zero_where_naive_ones_do_not():
    """95 % intervals of unrelated quantities that share clusters, 150 times."""
    drawn = [dv.rank_correlation(correlated(seed), "x", "y") for seed in range(150)]
    by_seed = np.mean([r.low <= 0 <= r.high for r in drawn])
    naive = np.mean([r.naive_low <= 0 <= r.naive_high for r in drawn])
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
    with refused("three points", "not 2"):
        dv.rank_correlation(table.head(2), "x", "y")
    assert math.isnan(dv.rank_correlation(table.assign(x=1.0), "x", "y").rho)
    assert math.isnan(dv.rank_correlation(table.head(8), "x", "y").low)  # one seed: no interval
    holes = table.assign(x=table["x"].where(table.index > 9))
    assert dv.rank_correlation(holes, "x", "y").points == len(table) - 10
