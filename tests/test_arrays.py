"""What counts as an image, and which grey level each of its values becomes."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from d2ue.datasets import load_images
from d2ue.datasets.arrays import Reading, as_paths, as_pictures, as_stack, refuse_shared


def test_values_by_hand():
    values = np.array([[[-1.0, 0.0], [0.5, 1.0]]])
    how = Reading().learn(values)
    assert (how.low, how.high, how.eight_bit) == (-1, 1, False)
    # 255 * (0 + 1) / 2 = 127.5, to the even 128; 255 * 0.75 = 191.25
    assert how.to_images(values, 2).tolist() == [[[[0, 128], [191, 255]]]]
    stated = Reading.stated((0, 1), None)
    with pytest.warns(UserWarning, match="25 % of the values"):
        assert stated.to_images(values, 2).tolist() == [[[[0, 0], [128, 255]]]]


@given(hnp.arrays(np.uint8, (2, 5, 5)))
def test_eight_bits_stay_as_they_are(values):
    assert np.array_equal(Reading().learn(values).to_images(values, 5)[:, 0], values)
    # The same values as other numbers, on the scale that is said to be theirs.
    for kind in (np.float64, np.float32, np.int32, np.uint16):
        stated = Reading.stated((0, 255), None)
        assert np.array_equal(stated.to_images(values.astype(kind), 5)[:, 0], values)


@given(
    hnp.arrays(np.float64, (3, 4, 4), elements=st.floats(-1e6, 1e6)),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
def test_a_learnt_range_forgets_scale_and_offset(values, scale, offset):
    if np.ptp(values) < 1e-2:
        return
    first = Reading().learn(values).to_images(values, 4).astype(int)
    moved = scale * values + offset
    second = Reading().learn(moved).to_images(moved, 4).astype(int)
    assert np.abs(first - second).max() <= 1  # but for rounding
    assert first.min() == 0 and first.max() == 255


def test_arrays_are_resized_and_turned_grey_as_files_are(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    for i, image in enumerate(colour):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = load_images(tmp_path, 16, progress=False).images
    assert np.array_equal(Reading().to_images(as_stack(colour), 16), files)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colour])
    assert np.array_equal(Reading().to_images(as_stack(grey), 16), files)
    assert np.array_equal(Reading().to_images(as_stack(grey[:, None]), 16), files)


def test_rows_are_pictures():
    rows = np.arange(12.0).reshape(2, 6)
    assert as_pictures(rows, (2, 3)).tolist() == rows.reshape(2, 2, 3).tolist()
    assert as_pictures(rows, (3, 2)).shape == (2, 3, 2)
    square = as_pictures(rows, None)
    assert square.tolist() == [
        [[0, 1, 2], [3, 4, 5], [0, 0, 0]],
        [[6, 7, 8], [9, 10, 11], [0, 0, 0]],
    ]
    for kind in (np.float32, np.int16, np.uint8):
        padded = as_pictures(rows.astype(kind), None, -0.5)
        assert padded[:, 2].tolist() == [[-0.5] * 3] * 2 and (padded[:, :2] == square[:, :2]).all()
    assert as_pictures(rows.astype(np.uint8), None).dtype == np.uint8
    for d, side in ((1, 1), (2, 2), (4, 2), (5, 3), (4096, 64), (4097, 65)):
        assert as_pictures(np.zeros((1, d)), None).shape == (1, side, side)


def test_rows_of_another_length_are_refused(refused):
    with refused("6 values", "2 x 2", "have 4"):
        as_pictures(np.zeros((1, 6)), (2, 2))


@pytest.mark.parametrize(
    "shape", [(5,), (5, 2, 8, 8), (5, 8, 8, 4), (5, 1, 1, 8, 8), (0, 8, 8), (5, 0, 8)]
)
def test_shapes_that_are_no_images(refused, shape):
    with refused("(n, h, w)", shape):
        as_stack(np.zeros(shape))


def test_values_that_are_no_grey_levels(refused):
    images = np.zeros((3, 4, 4))
    images[1, 2, 2] = np.nan
    with refused("Image 1", "NaN"):
        as_stack(images)
    images[1, 2, 2] = -np.inf
    with refused("Image 1", "infinite"):
        as_stack(images)
    with refused("complex"):
        as_stack(np.zeros((2, 4, 4), complex))
    with refused("not numbers"):
        as_stack(np.full((2, 4, 4), "grey", object))
    with refused("Every pixel of the images is 3"):
        Reading().learn(np.full((2, 4, 4), 3.0))


@pytest.mark.parametrize("given_range", [(1, 0), (0, 0), 5, (0, 1, 2), ("a", "b"), (0, np.nan)])
def test_ranges_without_a_meaning(refused, given_range):
    with refused():
        Reading.stated(given_range, None)


@pytest.mark.parametrize("shape", [(0, 4), (2.0, 2), 16, (1, 2, 3), "ab"])
def test_shapes_without_a_meaning(refused, shape):
    with refused("image_shape"):
        Reading.stated(None, shape)


def test_a_few_values_beyond_the_range_raise_no_doubt():
    values = np.zeros((1, 10, 10))
    values[0, 0, :4] = 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Reading.stated((0, 1), None).to_images(values, 10)


def test_8_bit_images_and_others_are_not_mixed(refused):
    with refused("8-bit images", "pixel_range"):
        Reading().check_kind(False, "an array of float64")
    learnt = Reading().learn(np.linspace(0, 1, 16).reshape(1, 4, 4))
    with refused("0 to 1", "image files"):
        learnt.check_kind(True, "image files")
    Reading.stated((0, 1), None).check_kind(False, "an array of float64")


def test_what_is_a_path():
    assert as_paths("a") == "a" and as_paths(["a", "b"]) == ["a", "b"]
    assert as_paths(np.array(["a", "b"])) == ["a", "b"]
    for images in (np.zeros(3), [[1, 2]], [], np.zeros((2, 2)), None, ["a", 1]):
        assert as_paths(images) is None


def test_an_image_in_both_sets_is_found(refused, draw_images):
    train, held_out = draw_images(6), draw_images(3, seed=1)
    refuse_shared(train, held_out)
    with refused("image 2", "also among those to train on"):
        refuse_shared(train, np.concatenate([held_out[:2], train[4:5]]))
