"""The 1-D regression of Fig. 1c: its scores by hand, its learners, its effect."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from d2ue.errors import InputError
from d2ue.lessons import toy
from d2ue.lessons import toy_pictures as pictures


@pytest.fixture(scope="module")
def pair() -> toy.Learners:
    return toy.train(2, 0.1, 0)


def lines(*coefficients: tuple[float, float]) -> toy.Learners:
    """Learners that are straight lines a + b x: layers of one unit have no tanh."""
    tiny = 1e-4
    parts = [
        (torch.full((1, 1), tiny), torch.zeros(1, 1)),
        (torch.ones(1, 1), torch.zeros(1, 1)),
    ]
    n = len(coefficients)
    weights = [t.double().expand(n, *t.shape).clone() for part in parts for t in part]
    slopes = torch.tensor([[[b / tiny]] for _, b in coefficients], dtype=torch.float64)
    offsets = torch.tensor([[[a]] for a, _ in coefficients], dtype=torch.float64)
    return toy.Learners((*weights, slopes, offsets), 0.1, 0)


def test_scores_by_hand():
    """f = 1 + 2x, 3 at x = 0, y = 2: std(1, 3) = sqrt(2); L f' sign(e): -2 and 0."""
    found = toy.scores(lines((1, 2), (3, 0)), np.array([0.0]), np.array([2.0]))
    assert found["output"][0] == pytest.approx(math.sqrt(2))
    assert found["slope"][0] == pytest.approx(math.sqrt(2))
    assert found["ensemble"][0] == pytest.approx(0)
    assert found["dual"][0] == pytest.approx(math.sqrt(2))  # L dL/dx = 1 * -2 and 1 * 0


def test_crossing_lines_agree_in_outputs_and_not_in_dual_space():
    """Both 1 at x = 0; slopes 2 and -1, y = 3: L dL/dx = 2 * -2 and 2 * 1, std(−4, 2) = √18."""
    crossing = lines((1, 2), (1, -1))
    found = toy.scores(crossing, np.array([0.0]), np.array([3.0]))
    assert found["output"][0] == pytest.approx(0)
    assert found["dual"][0] == pytest.approx(math.sqrt(18))
    # On the shared output there is no error, and DSU is as blind.
    assert toy.scores(crossing, np.array([0.0]), np.array([1.0]))["dual"][0] == pytest.approx(0)


def test_dual_is_the_deviation_of_error_times_slope(pair):
    x, y = np.linspace(-5, 5, 41), np.linspace(2, -2, 41)
    f, slopes = pair.predict(x)
    expected = ((f - y) * slopes).std(0, ddof=1)  # L dL/dx = |e| sign(e) f'
    assert toy.scores(pair, x, y)["dual"] == pytest.approx(expected)
    step = 1e-6
    numeric = (pair.predict(x + step)[0] - pair.predict(x - step)[0]) / (2 * step)
    assert slopes == pytest.approx(numeric, abs=1e-6)


def test_learners_fit_the_normals_and_differ(pair):
    x, y = toy.normal_points(1000, 0.1, 0, held_out=True)
    f, _ = pair.predict(x)
    assert (np.sqrt(np.square(f - y).mean(1)) < 0.15).all()  # the noise is 0.1
    assert np.abs(f[0] - f[1]).max() > 1e-3


def test_a_learner_is_the_same_alone_and_beside_others(pair):
    beside = toy.train_many([3, 0], 3)[1]
    x = np.linspace(-3, 3, 7)
    assert beside.first(2).predict(x)[0] == pytest.approx(pair.predict(x)[0], abs=1e-6)
    assert len(beside.first(2)) == 2
    assert not np.allclose(*beside.first(2).predict(x))


def test_places_keep_their_margin():
    x = toy.places_off_the_normals()
    apart = [np.minimum(abs(x - low), abs(x - high)).min() for low, high in toy.BANDS]
    assert apart == pytest.approx([toy.MARGIN] * 2)
    assert not any(((x > low) & (x < high)).any() for low, high in toy.BANDS)
    assert (x.min(), x.max()) == pytest.approx(toy.SPAN)


def test_one_normal_in_twenty_raises_an_alarm(pair):
    normals = toy.normal_points(1000, 0.1, 0, held_out=True)
    for values in toy.relative_scores(pair, *normals).values():
        assert (values > 1).mean() == pytest.approx(0.05, abs=0.002)


def test_effect_by_counting(pair):
    found = toy.effect(pair, 1.0)
    levels = toy.alarm_levels(pair)
    blind, caught, silent, mirror = 0, 0, 0, 0
    for x in toy.places_off_the_normals():
        own = toy.scores(pair, np.array([x]), toy.curve(np.array([x])) + 1.0)
        unc, dsu = own["output"][0] <= levels["output"], own["dual"][0] <= levels["dual"]
        blind, caught = blind + unc, caught + (unc and not dsu)
        silent, mirror = silent + dsu, mirror + (dsu and not unc)
    n = len(toy.places_off_the_normals())
    assert found["blind"] == pytest.approx(blind / n) and blind > 0
    assert found["dual"] == pytest.approx(caught / blind)
    assert found["holds"] == (caught / blind > 0.5)
    assert found["dual_blind"] == pytest.approx(silent / n)
    assert found["mirror"] == pytest.approx(mirror / silent)


def test_without_a_blind_place_nothing_holds(monkeypatch, pair):
    far = {name: np.full(3, 2.0) for name in toy.SCORES}
    monkeypatch.setattr(toy, "relative_scores", lambda *_: far)
    found = toy.effect(pair)
    assert found["blind"] == 0 and math.isnan(found["dual"]) and found["holds"] is False


def test_counts_are_of_seeds():
    row = {"learners": 2, "height": 1.0, "blind": 0.1, "ensemble": 0.9, "dual_blind": 0.2}
    frame = pd.DataFrame(
        [{**row, "dual": 0.6, "slope": 0.4}, {**row, "dual": 0.5, "slope": 0.6, "blind": 0.0}]
    )
    counted = toy.counts(frame).loc[(2, 1.0)]
    assert counted.to_dict() == {
        "seeds": 2, "with a blind place": 1, "blind, %": 5, "DSU": 1, "slopes alone": 1,
        "error alone": 2, "DSU blind, %": 20,
    }  # fmt: skip


def test_the_picture_shows_the_scores(pair):
    view = toy.view(pair)
    assert view.point[1] == pytest.approx(toy.curve(np.array(view.point[0])) + 1)
    assert view.at_point["output"] < 0.1  # the place was taken for its agreement
    above, below = pictures.toy_view(view).axes
    drawn = {line.get_label(): line for line in above.lines}
    assert np.array_equal(drawn["learner 2"].get_ydata(), view.curves[1])
    assert f"DSU {view.at_point['dual']:.2g}" in above.get_title()
    drawn = {line.get_label(): line for line in below.lines}
    assert np.array_equal(drawn["DSU, std L ∇L"].get_ydata(), view.along["dual"])
    assert len(pictures.toy_views({"a": view, "b": view}, 3).axes) == 3
    assert len(pictures.toy_parts(view).axes) == 1
    assert "0.00" in toy.reading(view)[2]


def test_effects_are_drawn_by_height(pair):
    frame = toy.effects([pair], (1.0, 0.0))
    axes = pictures.toy_effects(frame).axes
    assert [axis.get_title().split(":")[0] for axis in axes] == [
        "points 1 above the curve", "points on the curve",
    ]  # fmt: skip
    assert axes[1].lines[1].get_ydata()[0] == frame["dual_level"][1]


def test_impossible_settings_are_refused(pair):
    for settings in (([0], 0, 0.1), ([0], 2, -1.0), ([], 2, 0.1)):
        with pytest.raises(InputError, match="at least one seed"):
            toy.train_many(*settings)
    with pytest.raises(InputError, match="2 learners; 3"):
        pair.first(3)
