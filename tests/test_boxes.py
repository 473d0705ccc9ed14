"""Bounding boxes: read beside a data.json, carried with their images, laid on pixels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2ue.datasets import ImageSet, box_cover, load_folder, load_images
from d2ue.datasets.boxes import match_boxes
from d2ue.errors import InputError

ABNORMAL_NAMES = ["ill-1.png", "ill-2.png"]
BOX = [0.25, 0.5, 0.5, 1.0]


@pytest.fixture
def folder(tmp_path):
    """A published layout: one image to train on, one normal and two abnormal ones to test on."""
    (tmp_path / "images").mkdir()
    for i, name in enumerate(["train.png", "well.png", *ABNORMAL_NAMES]):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / "images" / name)
    split = {"train": {"0": ["train.png"]}, "test": {"0": ["well.png"], "1": ABNORMAL_NAMES}}
    (tmp_path / "data.json").write_text(json.dumps(split))
    return tmp_path


def write(folder, boxes):
    text = boxes if isinstance(boxes, str) else json.dumps(boxes)
    (folder / "boxes.json").write_text(text)
    return folder


def test_boxes_come_with_the_test_images(folder):
    """Two boxes on one image, none known on the other; another split's names are passed over."""
    second = [0.0, 0.0, 0.125, 0.25]
    write(folder, {"./ill-2.png": [BOX, second], "elsewhere.png": [BOX], "well.png": []})
    dataset = load_folder(folder, 8, progress=False)
    for images in (dataset.test, load_images(folder, 8, progress=False)):
        assert images.names == ("well.png", *ABNORMAL_NAMES)
        assert [own.shape for own in images.boxes] == [(0, 4), (0, 4), (2, 4)]
        assert np.array_equal(images.boxes[2], [BOX, second])
    assert dataset.train.boxes is None


def test_without_a_file_there_are_no_boxes(folder):
    assert load_folder(folder, 8, progress=False).test.boxes is None
    assert load_images(folder, 8, progress=False).boxes is None


def test_boxes_do_not_change_the_fingerprint(folder):
    before = load_folder(folder, 8, progress=False)
    after = load_folder(write(folder, {"ill-1.png": [BOX]}), 8, progress=False)
    assert after.test.fingerprint == before.test.fingerprint
    assert after.train.fingerprint == before.train.fingerprint


def test_boxes_follow_their_images(folder):
    test = load_folder(write(folder, {"ill-2.png": [BOX]}), 8, progress=False).test
    for which in ([2, 0], np.array([True, False, True]), slice(None, None, -1)):
        picked = test.select(which)
        assert [len(own) for own in picked.boxes] == [n == "ill-2.png" for n in picked.names]
    assert len(test.sample(2, seed=0).boxes) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["not valid JSON", "line 1"]),
        ("[" * 100_000, ["boxes.json"]),
        ('{"ill-1.png": [], "ill-1.png": []}', ["same key twice"]),
        ([], ["at the top"]),
        ({"ill-1.png": BOX}, ["ill-1.png", "[x0, y0, x1, y1]"]),
        ({"ill-1.png": {"x0": 0}}, ["ill-1.png"]),
        ({"ill-1.png": [BOX[:3]]}, ["ill-1.png"]),
        ({"ill-1.png": [[*BOX, 1]]}, ["ill-1.png"]),
        ({"ill-1.png": [[0, 0, 1, "1"]]}, ["ill-1.png"]),
        ({"ill-1.png": [[0, 0, 1, True]]}, ["ill-1.png"]),
        ({"ill-1.png": [[0, 0, 1, None]]}, ["ill-1.png"]),
        ({"ill-1.png": [[12, 20, 40, 44]]}, ["12", "not pixels"]),
        ({"ill-1.png": [[-0.1, 0, 1, 1]]}, ["-0.1"]),
        ({"ill-1.png": [[0, 0, 1, 1.01]]}, ["1.01"]),
        ('{"ill-1.png": [[0, 0, NaN, 1]]}', ["nan"]),
        ('{"ill-1.png": [[0, 0, 1, Infinity]]}', ["inf"]),
        ('{"ill-1.png": [[0, 0, 1e999, 1]]}', ["inf"]),
        ('{"ill-1.png": [[0, 0, ' + "9" * 400 + ", 1]]}", ["999", "not pixels"]),
        ({"ill-1.png": [[0.5, 0, 0.5, 1]]}, ["without area"]),
        ({"ill-1.png": [[0, 0.5, 1, 0.4]]}, ["without area"]),
        ({"elsewhere.png": [[0.5, 0, 0.5, 1]]}, ["elsewhere.png", "without area"]),
        ({"well.png": [BOX]}, ["well.png", "normal"]),
        ({"train.png": [BOX]}, ["train.png", "normal"]),
        ({"elsewhere.png": [BOX]}, ["none of the images", "elsewhere.png"]),
        ({"ill-1.png": [], "./ill-1.png": []}, ["ill-1.png", "twice"]),
    ],
)
def test_what_is_no_file_of_boxes(folder, refused, content, words):
    write(folder, content)
    for load in (load_folder, load_images):
        with refused("boxes.json", *words):
            load(folder, 8, progress=False)


def test_a_boxes_json_that_cannot_be_read(folder, refused):
    (folder / "boxes.json").mkdir()
    with refused("boxes.json", "not a file"):
        load_folder(folder, 8, progress=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(JSON | st.dictionaries(st.sampled_from(["a", "b"]), JSON))
@settings(max_examples=200, deadline=None)
def test_any_content_is_boxes_or_one_sentence(content):
    try:
        boxes = match_boxes("boxes.json", content, ["a", "b"], [0, 1])
    except InputError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert [own.shape[1:] for own in boxes] == [(4,), (4,)]


@pytest.mark.parametrize(
    "boxes",
    [
        (np.zeros((0, 4)),),  # of one image, for two
        (np.zeros((0, 4)), np.zeros(4)),
        (np.zeros((0, 4)), [BOX]),
        (np.zeros((0, 4)), np.array([[0, 0, 1, np.nan]])),
        (np.zeros((0, 4)), np.array([[0.2, 0, 0.1, 1]])),
        (np.zeros((0, 4)), np.array([[0, 0, 1, 2.0]])),
    ],
)
def test_an_image_set_refuses_what_is_no_box(refused, boxes):
    with refused():
        ImageSet(np.zeros((2, 1, 8, 8), np.uint8), ("a", "b"), boxes=boxes)


# ----------------------------------------------------------------------------- on pixels


def test_cover_by_hand():
    """4 x 4 pixels: the box runs from 1/2 pixel to 2 pixels across and over the lower half."""
    cover = box_cover([np.array([[0.125, 0.5, 0.5, 1.0]]), np.empty((0, 4))], 4)
    expected = np.zeros((4, 4))
    expected[2:, 0], expected[2:, 1] = 0.5, 1.0
    assert cover.shape == (2, 1, 4, 4)
    assert np.allclose(cover[0, 0], expected) and not cover[1].any()
    wide = box_cover([np.array([[0.0, 0.0, 0.5, 0.25]])], 2, 4)  # 2 rows, 4 columns
    assert np.allclose(wide[0, 0], [[0.5, 0.5, 0, 0], [0, 0, 0, 0]])


def test_overlap_counts_once():
    """Two boxes of 1/4 that share 1/16 of the image; one within the other adds nothing."""
    own = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [0.3, 0.3, 0.4, 0.4]])
    assert box_cover([own], 7).mean() == pytest.approx(0.25 + 0.25 - 0.0625)


def random_boxes(rng, k):
    first = rng.uniform(0, 0.8, (k, 2))
    return np.hstack([first, first + rng.uniform(0.01, 0.2, (k, 2))])


@pytest.mark.parametrize("seed", range(5))
def test_cover_is_the_share_of_points_inside(seed):
    """Against a fine grid of points, each asked whether it lies in any box."""
    rng = np.random.default_rng(seed)
    own, size, fine = random_boxes(rng, 3), 9, 60
    centre = (np.arange(size * fine) + 0.5) / (size * fine)
    y, x = np.meshgrid(centre, centre, indexing="ij")
    inside = np.zeros(x.shape, bool)
    for x0, y0, x1, y1 in own:
        inside |= (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
    counted = inside.reshape(size, fine, size, fine).mean((1, 3))
    assert np.abs(box_cover([own], size)[0, 0] - counted).max() < 2.5 / fine


def test_the_whole_image_is_covered_and_no_pixel_more_than_once():
    assert np.allclose(box_cover([np.array([[0.0, 0.0, 1.0, 1.0]])], 5), 1, atol=1e-12)
    cover = box_cover([random_boxes(np.random.default_rng(0), 40)], 16)
    assert cover.min() >= 0 and cover.max() <= 1
