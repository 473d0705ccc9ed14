"""The pictures of diversity: what is drawn is what was measured."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from d2ue import plotting
from d2ue.lessons import diversity_pictures as pictures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_embeddings_draw_every_learner_and_class():
    labels = np.array([0, 0, 0, 1, 1])
    points = np.random.default_rng(0).normal(size=(3, 5, 2))
    panels = {("a", "x"): points, ("a", "y"): points + 1, ("b", "x"): points + 2}
    figure = pictures.embeddings(panels, labels)
    drawn = [axis for axis in figure.axes if axis.collections]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["x", "y"]
    assert len(drawn) == 3 and not figure.axes[3].axison  # (b, y) is not there
    for number in range(3):
        normal, abnormal = drawn[0].collections[2 * number : 2 * number + 2]
        assert np.allclose(normal.get_offsets(), points[number, :3])
        assert np.allclose(abnormal.get_offsets(), points[number, 3:])
        assert len(normal.get_facecolors()) == 0 and len(abnormal.get_facecolors()) == 1
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["learner 1", "learner 2", "learner 3", "normal image", "abnormal image"]


def test_matrices_show_their_numbers_on_one_scale():
    matrix = np.array([[1.0, 0.25], [0.25, -0.001]])
    figure = pictures.similarity_matrices({("a", "x"): matrix, ("a", "y"): matrix / 2}, "CKA")
    first, second = figure.axes[:2]
    assert [t.get_text() for t in first.texts] == ["1.00", "0.25", "0.25", "0.00"]
    assert (first.get_title(), first.get_ylabel(), second.get_ylabel()) == ("x", "a", "")
    assert {axis.collections[0].get_clim() for axis in (first, second)} == {(0, 1)}
    assert [t.get_text() for t in first.get_xticklabels()] == ["1", "2"]


def test_similarity_by_epoch_has_seeds_and_their_mean():
    rows = [
        {"images": "normal", "repulsion_weight": w, "seed": s, "epoch": e, "cka": c + 0.1,
         "debiased": c}
        for w, s, e, c in [(0.0, 0, 1, 0.4), (0.0, 1, 1, 0.6), (1.0, 0, 1, 0.1), (1.0, 1, 1, 0.3)]
    ]  # fmt: skip
    (axis,) = pictures.similarity_by_epoch(pd.DataFrame(rows)).axes
    named = {line.get_label(): line.get_ydata()[0] for line in axis.lines}
    assert named["no repulsion, debiased"] == pytest.approx(0.5)
    assert named["repulsion, biased"] == pytest.approx(0.3)
    assert len(axis.lines) == 2 * (2 + 2)


def settings_table():
    return pd.DataFrame(
        {
            "seed": [0, 0, 1, 1],
            "repulsion_weight": [1.0, 0, 0, 1],
            "learners": [2, 2, 2, 2],
            "cost": [8, 8, 8, 8],
            "similarity": ["cka", "none", "none", "cka"],
            "backbone": "ae",
            "setting": [1, 0, 0, 1],
            "x": [4.0, 3, 2, 1],
            "y": [50.0, 60, 70, 80],
        }
    )


def test_pairs_join_one_seed_without_and_with():
    axis = plotting.paired_by_seed(settings_table(), {"x": "title"}).axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[3, 4], [2, 1]]
    assert axis.get_title() == "title"


def test_scatter_fills_what_is_repelled():
    table = settings_table()
    joined = table["seed"] == 0
    (axis,) = pictures.diversity_scatter(table, {"x": "X"}, {"y": "Y"}, joined).axes
    lines = [list(line.get_ydata()) for line in axis.lines if line.get_marker() == "None"]
    assert sorted(map(len, lines)) == [0, 2]  # only the seed that is to be joined
    points = [line for line in axis.lines if line.get_marker() == "o"]
    hollow = [line.get_xdata()[0] for line in points if line.get_markerfacecolor() == "white"]
    assert sorted(hollow) == [2, 3] and len(points) == 4
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("X", "Y")


def test_axes_show_every_seed_and_the_mean():
    (axis,) = pictures.diversity_axes({"λ": settings_table()}, {"y": "AUC"}).axes
    dots, means = axis.lines
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [
        (0, 50), (0, 80), (1, 60), (1, 70),
    ]  # fmt: skip
    assert list(means.get_ydata()) == [65, 65]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "0"]  # as they first appear


def test_cost_is_learner_epochs():
    table = settings_table()
    more = pd.concat([table, table.assign(learners=3, cost=12)])
    figure = pictures.learners_cost(more, {"y": "Unc"})
    figure.canvas.draw()
    axis = figure.axes[0]
    named = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert named["no repulsion"] == [65, 65] and named["repulsion"] == [65, 65]
    low, high = axis.child_axes[0].get_xlim()
    assert np.allclose([low / 4, high / 4], axis.get_xlim())  # 4 epochs a learner
