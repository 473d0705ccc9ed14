"""Pictures: what is drawn is what was given. Asserted on the figures' data, not on pixels."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.contour import ContourSet

from d2ue import plotting
from d2ue.config import TrainConfig

METHODS = ("ensemble", "output", "dual")
SIZE = 16


@pytest.fixture(autouse=True)
def drawn_and_closed():
    """Every figure a test made can be drawn to the end."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 1, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture
def masks(images):
    """The last two images have a square lesion."""
    masks = np.zeros(images.shape, bool)
    masks[2:, 0, 4:9, 5:11] = True
    return masks


@pytest.fixture
def maps():
    rng = np.random.default_rng(1)
    return {
        method: (scale * rng.random((4, 1, SIZE, SIZE))).astype(np.float32)
        for method, scale in zip(METHODS, (1.0, 0.1, 1e-5), strict=True)
    }


def panels(figure):
    """Axes that show an image, in reading order; colour bars are none of them."""
    return [axis for axis in figure.axes if axis.images]


def shown(axis):
    return np.asarray(axis.images[0].get_array())


def limits(axis):
    return axis.images[0].get_clim()


def outlined(axis):
    return any(isinstance(child, ContourSet) for child in axis.get_children())


def test_rows_of_images_are_the_images_on_one_grey_scale(images):
    figure = plotting.image_rows({"normal": images[:3], "abnormal": images[3:]})
    drawn = panels(figure)
    assert len(drawn) == 4  # the shorter row leaves its places empty
    for axis, image in zip(drawn, images, strict=True):
        assert np.array_equal(shown(axis), image[0])
        assert limits(axis) == (0, 255)
    assert [drawn[0].get_ylabel(), drawn[3].get_ylabel()] == ["normal", "abnormal"]


def test_an_outline_runs_around_its_mask(images, masks):
    figure = plotting.image_rows({"abnormal": images[2:3]}, {"abnormal": masks[2:3]})
    (contour,) = (c for c in panels(figure)[0].get_children() if isinstance(c, ContourSet))
    ((x0, y0), (x1, y1)) = contour.get_paths()[0].get_extents().get_points()
    # Half a pixel outside the first and last abnormal pixel of rows 4-8, columns 5-10.
    assert (x0, x1, y0, y1) == (4.5, 10.5, 3.5, 8.5)


def test_reconstructions_stand_beside_their_image(images, masks):
    outputs = np.random.default_rng(2).uniform(-1, 1, (3, *images.shape)).astype(np.float32)
    titles = ["normal", "normal", "abnormal", "abnormal"]
    figure = plotting.reconstructions(images, outputs, titles, masks)
    grid = np.array(panels(figure)).reshape(4, 5)
    heads = [axis.get_title() for axis in grid[0]]
    assert heads == ["image", "learner 1", "learner 2", "learner 3", "error of mean"]
    assert [axis.get_ylabel() for axis in grid[:, 0]] == titles
    for row in range(4):
        x = images[row, 0] / 127.5 - 1
        assert np.allclose(shown(grid[row, 0]), x)
        for i in range(3):
            assert np.array_equal(shown(grid[row, i + 1]), outputs[i, row, 0])
        assert np.allclose(shown(grid[row, 4]), np.abs(x - outputs[:, row, 0].mean(0)))
        assert {limits(axis) for axis in grid[row, :4]} == {(-1, 1)}
    assert len({limits(axis) for axis in grid[:, 4]}) == 1
    # One scale from 0 to the largest error: nothing of the error is cut off.
    assert limits(grid[0, 4]) == (0, pytest.approx(max(shown(a).max() for a in grid[:, 4])))
    assert [outlined(axis) for axis in grid[:, 0]] == [False, False, True, True]


def test_score_maps_share_one_colour_scale_a_column(images, maps, masks):
    figure = plotting.score_maps(images, maps, ["a", "b", "c", "d"], masks)
    grid = np.array(panels(figure)).reshape(4, 4)
    assert grid[0, 0].get_title() == "image and truth"
    assert [a.get_title() for a in grid[0, 1:]] == [plotting.METHOD_TITLES[m] for m in METHODS]
    for column, values in enumerate(maps.values(), 1):
        (scale,) = {limits(axis) for axis in grid[:, column]}
        assert scale == (0, pytest.approx(np.quantile(values, 0.995)))
        for row in range(4):
            assert np.array_equal(shown(grid[row, column]), values[row, 0])
    for row, expected in enumerate((False, False, True, True)):
        assert [outlined(axis) for axis in grid[row]] == [expected] * 4
    assert len(figure.axes) == 16 + len(METHODS)  # one colour bar a score
    without = panels(plotting.score_maps(images, maps, ["a", "b", "c", "d"]))
    assert without[0].get_title() == "image" and not any(map(outlined, without))


def test_maps_of_zeros_can_be_drawn(images):
    zeros = np.zeros(images.shape, np.float32)
    figure = plotting.score_maps(images, {"dual": zeros}, ["a", "b", "c", "d"])
    low, high = limits(panels(figure)[1])
    assert low == 0 < high


def test_histograms_count_every_image_once():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], (70, 30))
    scores = {m: rng.exponential(size=100) + labels for m in METHODS}
    figure = plotting.score_histograms(scores, labels)
    assert [a.get_title() for a in figure.axes] == [plotting.METHOD_TITLES[m] for m in METHODS]
    for axis, values in zip(figure.axes, scores.values(), strict=True):
        normal, abnormal = (np.array([bar.get_height() for bar in c]) for c in axis.containers)
        assert (normal.sum(), abnormal.sum()) == (70, 30)
        edges = np.linspace(values.min(), np.quantile(values, 0.99), 31)
        expected, _ = np.histogram(np.minimum(values[labels == 0], edges[-1]), edges)
        assert np.array_equal(normal, expected)
        assert "score" in axis.get_xlabel()
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["normal (n = 70)", "abnormal (n = 30)"]


def history(losses, similarities):
    return [{"loss": a, "similarity": b} for a, b in zip(losses, similarities, strict=True)]


def test_training_curves_are_the_history():
    first, second = history([3.0, 2.0, 1.0], [0.0] * 3), history([4.0, 3.0, 2.0], [0.9, 0.5, 0.2])
    ensembles = {
        "off": SimpleNamespace(
            config=TrainConfig(backbone="ae", repulsion_weight=0.0), history=(first, first)
        ),
        "on": SimpleNamespace(config=TrainConfig(backbone="ae"), history=(first, second)),
    }
    left, right = plotting.training_curves(ensembles).axes
    curves = {line.get_label(): line.get_ydata() for line in left.lines}
    assert len(curves) == 4
    assert list(curves["learner 2, on"]) == [4.0, 3.0, 2.0]
    # A first learner has no seniors, and without repulsion none were looked at: no line of zeros.
    (similarity,) = right.lines
    assert list(similarity.get_xdata()) == [1, 2, 3]
    assert list(similarity.get_ydata()) == [0.9, 0.5, 0.2]
    assert right.get_ylim()[0] == 0
    assert left.get_xlabel() == right.get_xlabel() == "epoch"


def auc_table(seeds):
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        [
            {"seed": seed, "method": m, "repulsion_weight": w, "AUC": 50 + 40 * rng.random()}
            for seed in range(seeds)
            for m in METHODS
            for w in (0.0, 1.0)
        ]
    )


def test_auc_by_seed_joins_the_two_values_of_a_seed():
    table = auc_table(3)
    figure = plotting.auc_by_seed(table, {0.0: "none", 1.0: "repulsion"})
    for axis, method in zip(figure.axes, METHODS, strict=True):
        assert axis.get_title() == plotting.METHOD_TITLES[method]
        assert [t.get_text() for t in axis.get_xticklabels()] == ["none", "repulsion"]
        lines = {line.get_label(): line.get_ydata() for line in axis.lines}
        own = table[table["method"] == method]
        for seed in range(3):
            assert list(lines[f"seed {seed}"]) == list(own[own["seed"] == seed]["AUC"])
    assert figure.axes[0].get_ylabel().startswith("AUC, percent")


# --- tables ---


def table_frame():
    return pd.DataFrame(
        {
            "row": ["Unc", "Unc+RAR"],
            "group": ["AE", "AE"],
            "dataset": ["brain-mri", "brain-mri"],
            "n_seeds": [2, 0],
            "AUC": [60.0, np.nan],
            "AUC_low": [55.0, np.nan],
            "AUC_high": [65.0, np.nan],
            "paper_AUC": [59.8, 61.1],
            "code_AUC": [np.nan, 58.1],
            "AUC_by_seed": ["1:58.00 2:62.00", np.nan],
        }
    )


def points(axis):
    """Every marker drawn: (x, y, marker)."""
    return [
        (x, y, line.get_marker())
        for line in axis.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if line.get_marker() not in ("None", "")
    ]


def test_tables_are_drawn_seed_by_seed_beside_the_paper():
    empty = table_frame().iloc[[1]].assign(row="nothing", paper_AUC=np.nan, code_AUC=np.nan)
    figure = plotting.table_dots(pd.concat([table_frame(), empty]), "Table 2")
    drawn = points(figure.axes[0])
    assert {(58.0, 0, "o"), (62.0, 0, "o"), (60.0, 0, "|"), (59.8, 0, "D")} <= set(drawn)
    assert {(61.1, 1, "D"), (58.1, 1, "x")} <= set(drawn)
    assert not [p for p in drawn if p[1] == 1 and p[2] in "o|"]  # not run: the paper's value alone
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["AE  Unc", "AE  Unc+RAR"]
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # first row on top


def test_claims_are_drawn_with_interval_seeds_and_verdict():
    verdicts = pd.DataFrame(
        {
            "dataset": "brain-mri",
            "claim": ["a", "b", "c", "d"],
            "difference": [2.0, -3.0, 0.5, np.nan],
            "low": [1.0, -4.0, -1.0, np.nan],
            "high": [3.0, -2.0, 2.0, np.nan],
            "per_seed": ["1.5 2.5", "-3", "0 1", np.nan],
            "verdict": ["holds (2 seeds)", "does not hold (1 seed)", "cannot tell", "not run"],
        }
    )
    axis = plotting.verdict_intervals(verdicts).axes[0]
    assert axis.get_title("right") == "brain-mri: 95 % intervals, 1 to 2 seeds"
    head = plotting.verdict_intervals(verdicts, "brain-mri, 2 epochs").axes[0].get_title("right")
    assert head == "brain-mri, 2 epochs: 95 % intervals, 1 to 2 seeds"
    assert axis.get_ylim() == (2.5, -0.5)  # the first claim on top, half a row of air at either end
    drawn = points(axis)
    assert {(2.0, 0, "o"), (-3.0, 1, "s"), (0.5, 2, "D"), (1.5, 0, "|"), (2.5, 0, "|")} <= set(
        drawn
    )
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b", "c"]
    spans = [tuple(line.get_xdata()) for line in axis.lines if line.get_linewidth() == 2]
    assert spans == [(1.0, 3.0), (-4.0, -2.0), (-1.0, 2.0)]


def test_long_heads_of_tables_and_claims_are_broken_not_cut():
    frame = pd.concat([table_frame()] * 4, ignore_index=True)
    frame = frame.assign(
        row=list("abcdefgh"), per_seed="1 2", difference=1.0, low=0.0, high=2.0, claim="a"
    )
    title = "Table 2 of kermany-cxr (not in the paper, 1341 to train, 234 + 390 to test), " * 2
    figure = plotting.table_dots(frame, title)
    claims = plotting.verdict_intervals(frame.assign(verdict="holds"), title)
    for drawn, head in ((figure, figure._suptitle), (claims, claims.axes[0]._right_title)):
        drawn.draw_without_rendering()
        box = head.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1 and box.y1 <= drawn.bbox.y1
        assert head.get_text().split()[:8] == title.split()[:8]


def heat_map_figure(images, maps, **truth):
    tops = {"ensemble": 0.8, "output": 0.07, "dual": 5e-6}
    means = np.linspace(-1, 1, images.size).reshape(images.shape)
    titles = [f"row {i}" for i in range(len(images))]
    figure = plotting.heat_maps(images, means, maps, titles, tops, **truth)
    return np.array(panels(figure)).reshape(len(images), 6), means, tops


def test_heat_maps_are_fig_4_on_the_scales_given(images, maps, masks):
    grid, means, tops = heat_map_figure(images, maps, masks=masks)
    for row, line in enumerate(grid):
        assert line[0].get_ylabel() == f"row {row}"
        for axis in line[:2]:
            assert np.array_equal(shown(axis), images[row, 0]) and limits(axis) == (0, 255)
        assert np.array_equal(shown(line[2]), means[row, 0]) and limits(line[2]) == (-1, 1)
        for axis, (method, values) in zip(line[3:], maps.items(), strict=True):
            assert np.array_equal(shown(axis), values[row, 0])
            assert limits(axis) == (0, tops[method])
        lesion = row >= 2
        assert [outlined(a) for a in line] == [False, lesion, False, lesion, lesion, lesion]


def test_heat_maps_draw_boxes_where_they_are(images, maps):
    """A box of columns 4 to 7 and rows 2 to 3 of 16: its edges run between the pixels."""
    boxes = [np.empty((0, 4))] * 3 + [np.array([[0.25, 0.125, 0.5, 0.25], [0, 0, 1, 1]])]
    grid, _, _ = heat_map_figure(images, maps, boxes=boxes)
    assert [len(axis.patches) for axis in grid[0]] == [0] * 6
    assert [len(axis.patches) for axis in grid[3]] == [0, 2, 0, 2, 2, 2]
    drawn = grid[3, 1].patches[0]
    assert drawn.get_bbox().extents.tolist() == [3.5, 1.5, 7.5, 3.5]
    red = matplotlib.colors.to_rgba(plotting.images.BOX_COLOUR)
    assert drawn.get_edgecolor() == red != grid[3, 3].patches[0].get_edgecolor()


def test_localisation_shows_values_intervals_and_chance():
    from d2ue.lessons.localisation import compare

    cover = np.zeros((6, 1, 8, 8))
    cover[:, :, 2:5, 2:5] = 1
    rng = np.random.default_rng(0)
    maps = {"dual": rng.random(cover.shape) + cover, "intensity": rng.random(cover.shape)}
    table = compare(maps, cover, True, resamples=100)
    figure = plotting.localisation(table, {"dual": "DSU"}, ["intensity"])
    assert [axis.get_title() for axis in figure.axes] == list(dict.fromkeys(table["measure"]))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["DSU", "intensity"]
    for axis, (_, part) in zip(figure.axes, table.groupby("measure", sort=False), strict=True):
        for i, row in enumerate(part.itertuples()):
            interval, dot = axis.lines[2 * i : 2 * i + 2]
            assert np.allclose(interval.get_xdata(), [100 * row.low, 100 * row.high])
            assert np.allclose(dot.get_xdata(), 100 * row.value)
        assert np.allclose(axis.lines[-1].get_xdata(), 100 * part["chance"].iloc[0])
        low, high = axis.get_xlim()
        assert low == 0 and high >= 100 * part["high"].max()
