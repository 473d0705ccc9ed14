"""The overview: what it names exists, what it writes can be read, its file is of today."""

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.path import Path as Outline
from matplotlib.transforms import Bbox

from d2ue import diagram
from d2ue.diagram import INFERENCE, PANELS, TRAINING, Panel

KEPT = Path(__file__).resolve().parents[1] / "figures" / "overview.svg"
SPACE = 2.0  # pixels of 100 an inch that texts keep from edges


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(panels=PANELS):
    """The figure's texts and boxes by gid, with their extents in pixels."""
    figure = diagram.overview(panels)
    figure.set_dpi(100)
    figure.canvas.draw()
    axis = figure.axes[0]
    texts = [(t.get_gid(), t.get_text(), t.get_window_extent()) for t in axis.texts]
    boxes = [
        (patch.get_gid(), patch.get_window_extent())
        for patch in axis.patches
        if str(patch.get_gid()).startswith("box ")
    ]
    return figure, texts, boxes


def problems(panels=PANELS):
    """What is wrong with the layout, as sentences."""
    figure, texts, boxes = drawn(panels)
    found = []
    for (_, one, a), (_, other, b) in itertools.combinations(texts, 2):
        if a.overlaps(b):
            found.append(f"{one!r} lies over {other!r}")
    for gid, text, extent in texts:
        own = [box for key, box in boxes if key == gid]
        inside = any(contains(box, extent.padded(SPACE)) for box in own)
        if str(gid).startswith("box ") and not inside:
            found.append(f"{text!r} leaves its box")
        if not own and any(extent.overlaps(box) for _, box in boxes):
            found.append(f"{text!r} lies over a box")
        if not contains(figure.bbox, extent.padded(SPACE)):
            found.append(f"{text!r} leaves the picture")
    for (key, a), (other, b) in itertools.combinations(boxes, 2):
        if a.overlaps(b):
            found.append(f"{key} lies over {other}")
    for panel in panels:
        found += crossings(panel)
    return found


def contains(outer, inner):
    return (
        outer.x0 <= inner.x0 and outer.y0 <= inner.y0
        and inner.x1 <= outer.x1 and inner.y1 <= outer.y1
    )  # fmt: skip


def crossings(panel: Panel):
    """Arrows that run through a box, or leave the panel."""
    found = []
    for arrow in panel.arrows:
        points = panel.points(arrow)
        for box in panel.boxes:
            x, y, w, h = box.place
            if Outline(points).intersects_bbox(Bbox.from_bounds(x, y, w, h), filled=False):
                found.append(f"{arrow.start[0]} -> {arrow.end[0]} runs through {box.key}")
        if any(not (0.1 < x < 13.0 and 0.05 < y < panel.height) for x, y in points):
            found.append(f"{arrow.start[0]} -> {arrow.end[0]} leaves the panel")
        slanted = [a != c and abs(b - d) > 0.005 for (a, b), (c, d) in itertools.pairwise(points)]
        if any(slanted):
            found.append(f"{arrow.start[0]} -> {arrow.end[0]} is slanted")
    return found


# --- what it says ---


def test_every_name_is_there():
    for panel in PANELS:
        assert all(box.names for box in panel.boxes)
    for name in diagram.names():
        found, is_field = diagram.resolve(name), name.count(".") == 2
        assert is_field or getattr(found, "__module__", "").startswith("d2ue."), name


@pytest.mark.parametrize("name", ["training.gone", "gone.gone", "backbones.Reconstruction.gone"])
def test_a_name_that_is_not_there_is_refused(refused, name):
    with refused(name):
        diagram.resolve(name)


@pytest.mark.parametrize("number", range(1, 7))
def test_every_equation_has_a_station_whose_function_says_so(number):
    """A box "Eq. n" names a function, or a module, whose text speaks of that equation."""
    boxes = [box for panel in PANELS for box in panel.boxes if says(box.title, number)]
    assert boxes
    for box in boxes:
        docs = [str(diagram.resolve(name).__doc__) for name in box.names]
        assert any(says(text, number) for text in docs), box.names


def says(text, number):
    """Whether "Eq. n", "Eq. (n)" or a range with n is said."""
    for first, second in re.findall(r"Eq\. \(?(\d)\)?(?:(?: and |-)\(?(\d))?", text):
        if int(first) <= number <= int(second or first):
            return True
    return False


def test_the_table_says_of_every_name_where_it_is_and_what_it_does():
    table = diagram.stations()
    assert len(table) == len(list(diagram.names())) - len(PANELS)
    for row in table.itertuples():
        assert (KEPT.parents[1] / row.file).exists(), row.file
        assert row.says.endswith(".") or row.says.endswith(":"), row
    says = table.set_index("name")["says"]
    assert says["hsic"].startswith("Eq. (3)")
    assert (
        says["Reconstruction.mean"]
        == says["Reconstruction.feature"]
        == "A field of Reconstruction."
    )
    assert says["TrainConfig.layer"] == "A field of TrainConfig."
    lines = diagram.stations_markdown().splitlines()
    assert [line for line in lines if line.startswith("**")] == ["**Training**", "**Inference**"]
    (both,) = [line for line in lines if line.startswith("- *similarity")]
    assert both.startswith("- *similarity, Eq. 2 and 3*. [linear_cka](../d2ue/similarity.py): Eq.")
    assert "[hsic](../d2ue/similarity.py): Eq. (3)" in both
    assert sum(line.count("](../d2ue/") for line in lines) == len(table)


def test_every_arrow_joins_boxes_and_every_box_is_reached():
    for panel in PANELS:
        keys = [box.key for box in panel.boxes]
        assert len(set(keys)) == len(keys)
        ends = {end[0] for arrow in panel.arrows for end in (arrow.start, arrow.end)}
        assert ends == set(keys)


def test_the_description_holds_every_name_and_no_markup():
    text = diagram.description()
    assert all(name in text for name in diagram.names())
    assert not set("$\\{}\n") & set(text)


# --- how it looks ---


def test_nothing_overlaps_or_leaves_its_place():
    assert problems() == []


def test_each_panel_stands_alone():
    assert problems((TRAINING,)) == []
    assert problems((INFERENCE,)) == []


def edited(panel, key, **changes):
    boxes = tuple(replace(box, **changes) if box.key == key else box for box in panel.boxes)
    return replace(panel, boxes=boxes)


@pytest.mark.parametrize(
    ("panel", "words"),
    [
        (edited(TRAINING, "q", title="a title that is much too long for it"), "leaves its box"),
        (edited(TRAINING, "q", place=(5.35, 3.4, 2.35, 1.0)), "lies over"),
        (edited(TRAINING, "images", place=(-0.5, 1.95, 1.2, 1.2)), "leaves"),
        (edited(INFERENCE, "unc", place=(8.15, 3.0, 2.3, 1.2)), "box unc"),
        (replace(TRAINING, title=TRAINING.title * 2), "leaves the picture"),
        (
            replace(
                INFERENCE, arrows=(diagram.Arrow(("images", "right", 0.5), ("f", "left", 0.5)),)
            ),
            "runs through learners",
        ),
        (
            replace(
                TRAINING,
                arrows=(replace(TRAINING.arrows[-1], label="said here", label_at=(3.7, 4.3)),),
            ),
            "lies over a box",
        ),
    ],
)
def test_a_bad_layout_is_found(panel, words):
    assert any(words in problem for problem in problems((panel,)))


# --- the file ---


def test_the_file_is_valid_small_and_the_same_every_time(tmp_path):
    one, two = (diagram.save_overview(tmp_path / name) for name in ("one.svg", "two.svg"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size < 300_000
    root = ET.parse(one).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = one.read_text()
    assert "<dc:date>" not in text
    # No size of its own: a fixed one is cut off in the HTML export.
    assert root.get("width") == "100%" and root.get("height") is None and root.get("viewBox")
    # Letters are outlines: no font of the reader's machine can push one out of its box.
    assert "<text" not in text
    assert described(one) == diagram.description()


def described(path):
    (found,) = ET.parse(path).getroot().iter("{http://purl.org/dc/elements/1.1/}description")
    return found.text


def test_the_picture_in_figures_is_of_today():
    """By the digest of all that is drawn: the bytes differ between versions of matplotlib."""
    assert described(KEPT) == diagram.description()
    assert KEPT.stat().st_size < 300_000


def test_the_digest_sees_a_change():
    for panel in (
        edited(TRAINING, "q", place=(5.3, 2.2, 1.9, 1.0)),
        edited(TRAINING, "q", formula=("$Q$",)),
        replace(TRAINING, arrows=TRAINING.arrows[1:]),
    ):
        assert diagram.description((panel,)) != diagram.description((TRAINING,))


def test_a_file_that_cannot_be_written_is_refused(tmp_path, refused):
    with refused("cannot be written"):
        diagram.save_overview(tmp_path / "no folder" / "overview.svg")
