"""Localisation: hand values, literal forms, limits, invariances, intervals, bad input.

The literal forms go through every threshold one by one and grow regions pixel by pixel; nothing in
them sorts once or counts in bins.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from d2ue.datasets import ImageSet, box_cover
from d2ue.lessons import localisation as loc


def image(rows) -> np.ndarray:
    """One image [1, 1, H, W] from its rows."""
    return np.array(rows, float)[None, None]


def two_regions() -> np.ndarray:
    """One image of 5 x 5: a region of four pixels and one of a single pixel, 20 normal pixels."""
    mask = np.zeros((1, 1, 5, 5), bool)
    mask[0, 0, :2, :2] = mask[0, 0, 4, 4] = True
    return mask


# --- literal forms ---


def grown_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The 8-connected regions of one mask [H, W], each grown from its first pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        region, border = set(), [min(left)]
        while border:
            y, x = border.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                border += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        regions.append(region)
    return regions


def literal_curve(masks, maps) -> list[tuple[float, float, float, float]]:
    """False positive rate, recall, per-region overlap and Dice at every threshold, from zeros."""
    points = [(0.0, 0.0, 0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        tp = fp = fn = tn = 0
        overlaps = []
        for mask, values in zip(masks[:, 0], maps[:, 0], strict=True):
            for y, x in np.ndindex(mask.shape):
                above, ill = values[y, x] >= threshold, mask[y, x]
                tp, fp = tp + bool(above and ill), fp + bool(above and not ill)
                fn, tn = fn + bool(not above and ill), tn + bool(not above and not ill)
            for region in grown_regions(mask):
                overlaps.append(np.mean([values[place] >= threshold for place in region]))
        points.append(
            (fp / (fp + tn), tp / (tp + fn), np.mean(overlaps), 2 * tp / (2 * tp + fp + fn))
        )
    return points


def literal_area(points: list[tuple[float, float]], limit: float) -> float:
    """Trapezia up to the limit, the last one cut there."""
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def literal_values(masks, maps) -> dict[str, float]:
    points = literal_curve(masks, maps)
    return {
        "pixel AUC": roc_auc_score(masks.ravel(), maps.ravel()),
        "pixel AP": average_precision_score(masks.ravel(), maps.ravel()),
        "best Dice": max(point[3] for point in points),
        "AUPRO": literal_area([(p[0], p[2]) for p in points], 0.3) / 0.3,
    }


# --- hand values ---


def test_pixel_measures_by_hand():
    """Four pixels, values 4 3 2 1, abnormal 4 and 2.

    AUC: three of four pairs in order. AP: (1 + 2/3) / 2. Dice: marking 4, 3, 2 gives 2·2 / (4+1).
    AUPRO of the two pixels as two regions: overlap 1/2 up to a false positive rate of 1/2.
    """
    values = loc.pixel_values(image([[1, 0, 1, 0]]) == 1, image([[4, 3, 2, 1]]))
    by_hand = {"pixel AUC": 3 / 4, "pixel AP": (1 + 2 / 3) / 2, "best Dice": 0.8, "AUPRO": 0.5}
    assert values == pytest.approx(by_hand)


def test_every_region_counts_the_same_in_aupro():
    """The small region alone is found: overlap (0 + 1)/2; pixels would say 1/5. The large: same."""
    mask = two_regions()
    small, large = np.zeros(mask.shape), np.zeros(mask.shape)
    small[0, 0, 4, 4] = 1
    large[0, 0, :2, :2] = 1
    # From (0, 1/2) the tied rest goes straight to (1, 1): mean height over [0, 0.3] is 0.575.
    for found in (small, large):
        assert loc.pixel_values(mask, found)["AUPRO"] == pytest.approx(0.575)


def test_diagonal_neighbours_are_one_region_and_images_never_share_one():
    mask = np.zeros((2, 1, 3, 3), bool)
    mask[0, 0, 0, 0] = mask[0, 0, 1, 1] = mask[1, 0, 2, 2] = True
    weights = loc.region_weights(mask)
    assert weights[0, 0, 0, 0] == weights[0, 0, 1, 1] == 0.5 and weights[1, 0, 2, 2] == 1
    assert weights.sum() == 2 and not weights[~mask].any()


def test_aupro_is_cut_between_thresholds():
    """Half the region at no cost, all of it at a rate of 0.6: at 0.3 the line is at 0.75."""
    mask = image([[1, 1, 0, 0, 0, 0, 0]]) == 1
    values = image([[9, 5, 5, 5, 5, 1, 0]])  # with the tie three of five normal pixels are above
    assert loc.pixel_values(mask, values)["AUPRO"] == pytest.approx((0.5 + 0.75) / 2)


def test_pointing_game_by_hand():
    """Hit, miss, one of two equal maxima inside, a pixel that is 3/10 inside, nothing to hit."""
    cover = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0.3, 1, 0, 0], [0, 0, 0, 0]])
    maps = np.array([[5, 1, 2, 3], [1, 5, 2, 3], [5, 5, 0, 0], [5, 1, 1, 1], [1, 2, 3, 4]])
    hits = loc.pointing_game(cover[:, None, None], maps[:, None, None])
    assert np.array_equal(hits, [1, 0, 0.5, 0.3, np.nan], equal_nan=True)


def test_energy_by_hand():
    """(3 + 0.5·4) of 10; everything inside; nothing there at all: the share of the area."""
    cover = np.array([[1, 0.5, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    maps = np.array([[3, 4, 2, 1], [1, 8, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    energy = loc.energy_inside(cover[:, None, None], maps[:, None, None])
    assert np.allclose(energy, [0.5, 1, 0.25, np.nan], equal_nan=True)


# --- literal forms agree ---

SHAPE = (2, 1, 4, 5)
MAPS = hnp.arrays(np.float64, SHAPE, elements=st.integers(0, 8).map(float))
MASKS = hnp.arrays(np.bool_, SHAPE).filter(lambda m: m.any() and not m.all())


@given(MASKS, MAPS)
@settings(max_examples=60, deadline=None)
def test_pixel_measures_are_the_literal_ones(masks, maps):
    assert loc.pixel_values(masks, maps) == pytest.approx(literal_values(masks, maps), abs=1e-12)


# --- limits, invariance ---


@pytest.fixture(scope="module")
def lesions():
    """Twelve images with a mask and six without."""
    rng = np.random.default_rng(0)
    masks = np.zeros((18, 1, 24, 24), bool)
    for i in range(12):
        y, x = rng.integers(0, 16, 2)
        masks[i, 0, y : y + rng.integers(3, 8), x : x + rng.integers(3, 8)] = True
    return masks


def all_measures(cover, maps) -> dict[str, float]:
    values = loc.pixel_values(cover == 1, maps)
    values["pointing game"] = np.nanmean(loc.pointing_game(cover, maps))
    values["energy inside"] = np.nanmean(loc.energy_inside(cover, maps))
    return values


def test_a_perfect_map_is_perfect(lesions):
    for maps in (lesions * 1.0, lesions * 1e-30, lesions * 1e30):
        assert all_measures(lesions * 1.0, maps) == pytest.approx(
            dict.fromkeys([*loc.PIXEL_MEASURES, *loc.IMAGE_MEASURES], 1.0)
        )


def test_a_constant_map_is_chance(lesions):
    values = all_measures(lesions * 1.0, np.zeros(lesions.shape))
    assert values == pytest.approx({name: loc.chance(name, lesions * 1.0) for name in values})


def test_only_the_order_counts_but_for_energy(lesions):
    cover = lesions * 1.0
    maps = np.random.default_rng(2).random(lesions.shape) + 0.3 * lesions
    before, after = all_measures(cover, maps), all_measures(cover, np.exp(5 * maps))
    energy, sharpened = before.pop("energy inside"), after.pop("energy inside")
    assert after == pytest.approx(before)
    assert sharpened > energy + 0.05
    rescaled = loc.energy_inside(cover, maps * np.arange(1, 19)[:, None, None, None])
    assert np.allclose(rescaled, loc.energy_inside(cover, maps), equal_nan=True)


# --- the comparison ---


def noisy(lesions, seed, strength):
    return np.random.default_rng(seed).exponential(size=lesions.shape) + strength * lesions


def test_the_table_holds_the_measures(lesions):
    maps, cover = {"dual": noisy(lesions, 4, 1), "other": noisy(lesions, 5, 2)}, lesions * 1.0
    table = loc.compare(maps, cover, True, resamples=100)
    for name, part in table.groupby("map"):
        found = dict(zip(part["measure"], part["value"], strict=True))
        assert found == pytest.approx(all_measures(cover, maps[name]))
    other = table[table["map"] == "other"].set_index("measure")["difference"]
    one, two = (all_measures(cover, values) for values in maps.values())
    assert other.to_dict() == pytest.approx({name: one[name] - two[name] for name in one})


def test_differences_are_paired(lesions):
    """A map against itself: no difference in any resample, though its own interval is wide."""
    maps = noisy(lesions, 5, 2)
    table = loc.compare({"dual": maps, "twin": maps.copy()}, lesions * 1.0, True, resamples=200)
    twin = table[table["map"] == "twin"]
    assert (twin[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    assert (twin["high"] - twin["low"] > 0.01).sum() >= 4
    own = table[table["map"] == "dual"]
    assert own[["difference", "difference_low", "difference_high"]].isna().all(axis=None)


def test_a_clear_difference_is_seen_and_signed(lesions):
    maps = {"weak": noisy(lesions, 6, 0.2), "dual": noisy(lesions, 7, 4)}
    table = loc.compare(maps, lesions * 1.0, True, resamples=200)
    weak = table[table["map"] == "weak"]
    assert (weak["difference_low"] > 0).all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert set(table["images"]) == {12, 18}
    text = " ".join(loc.readings(table, "dual", {"weak": "the weak one"}))
    assert text.count("better than the weak one") == 6 and "below chance" not in text
    for word in ("worse than the weak one", "be told from"):
        assert word not in text
    turned = loc.compare(maps, lesions * 1.0, True, reference="weak", resamples=200)
    assert (turned[turned["map"] == "dual"]["difference_high"] < 0).all()
    assert " ".join(loc.readings(turned, "weak", {})).count("worse than dual") == 6


def test_resamples_are_those_of_their_images(lesions):
    """The binned counts of a resample against the exact measures of the images put together."""
    maps, cover = noisy(lesions, 8, 2), lesions * 1.0
    abnormal = cover.any((1, 2, 3))
    times = loc._draw(abnormal, 5, np.random.default_rng(9))
    assert (times[:, abnormal].sum(1) == 12).all() and (times[:, ~abnormal].sum(1) == 6).all()
    measured = loc._measure(cover, maps, True, abnormal, times)
    for sample, often in enumerate(times.astype(int)):
        drawn = np.repeat(np.arange(len(maps)), often)
        exact = all_measures(cover[drawn], maps[drawn])
        binned = {name: values[sample] for name, (_, values) in measured.items()}
        assert binned == pytest.approx(exact, abs=0.01)


def test_the_interval_of_energy_is_that_of_a_mean():
    """By the central limit theorem: 1.96 standard errors either way."""
    cover = np.zeros((200, 1, 4, 4))
    cover[:, :, :2] = 1
    maps = np.random.default_rng(0).random(cover.shape) ** 3
    row = loc.compare({"dual": maps}, cover, False, resamples=2000).set_index("measure").iloc[1]
    values = loc.energy_inside(cover, maps)
    assert row.value == pytest.approx(values.mean())
    assert row.high - row.low == pytest.approx(2 * 1.96 * values.std(ddof=1) / 200**0.5, rel=0.08)


def test_boxes_leave_pixel_measures_out(lesions):
    cover = box_cover([np.array([[0.1, 0.2, 0.5, 0.6]])] * 3 + [np.empty((0, 4))], 24)
    maps = np.random.default_rng(0).random(cover.shape)
    table = loc.compare({"dual": maps}, cover, False, resamples=100)
    assert table["measure"].tolist() == list(loc.IMAGE_MEASURES)
    assert table["images"].tolist() == [3, 3]
    assert table["chance"].tolist() == pytest.approx([0.16, 0.16])  # the normal image aside


def test_the_table_for_reading(lesions):
    table = loc.compare(
        {"dual": lesions * 1.0, "flat": np.ones(lesions.shape)}, lesions * 1.0, True, resamples=100
    )
    text = loc.layout(table, {"dual": "DSU"})
    assert text.index.tolist() == ["DSU", "flat", "chance"]
    assert text.columns.tolist() == [*loc.PIXEL_MEASURES, *loc.IMAGE_MEASURES]
    assert text.loc["DSU", "pixel AUC"] == "100.0 (100.0 to 100.0)"
    assert text.loc["flat", "AUPRO"] == "15.0 (15.0 to 15.0)"
    assert text.loc["chance", "AUPRO"] == "15.0" and text.loc["chance", "pixel AUC"] == "50.0"


# --- truth and controls ---


def test_truth_is_masks_before_boxes():
    pixels, names = np.zeros((2, 1, 4, 4), np.uint8), ("a", "b")
    masks = np.zeros(pixels.shape, bool)
    masks[1, 0, 0, 0] = True
    boxes = (np.empty((0, 4)), np.array([[0.0, 0.0, 0.5, 0.5]]))
    cover, exact = loc.truth_cover(ImageSet(pixels, names, masks=masks, boxes=boxes))
    assert exact and np.array_equal(cover, masks)
    cover, exact = loc.truth_cover(ImageSet(pixels, names, boxes=boxes))
    assert not exact and cover[1].sum() == pytest.approx(4) and not cover[0].any()


def test_without_truth_there_is_nothing_to_judge(refused):
    with refused("masks", "boxes.json"):
        loc.truth_cover(ImageSet(np.zeros((1, 1, 4, 4), np.uint8), ("a",)))


def test_controls_are_what_they_are_called():
    train = ImageSet(np.array([[[[0, 100]]], [[[50, 100]]]], np.uint8), ("a", "b"))
    test = ImageSet(np.array([[[[255, 100]]]], np.uint8), ("c",))
    made = loc.controls(train, test)
    assert list(made) == list(loc.CONTROLS)
    assert np.allclose(made["intensity"], [[[[1, 100 / 255]]]])
    assert np.allclose(made["distance to mean image"], [[[[230 / 255, 0]]]])
    wide = ImageSet(np.zeros((3, 1, 9, 9), np.uint8), ("d", "e", "f"))
    blob = loc.controls(wide, wide)["centred blob"]
    assert blob.shape == (3, 1, 9, 9) and np.array_equal(blob[0], blob[2])
    assert np.unravel_index(blob[0, 0].argmax(), (9, 9)) == (4, 4)
    assert np.allclose(blob, blob[..., ::-1]) and np.allclose(blob, blob.swapaxes(2, 3))
    assert blob[0, 0, 4, 4] == 1
    assert blob[0, 0, 4, 0] == pytest.approx(np.exp(-((4 / 9 / 0.2) ** 2) / 2))


# --- bad input ---


def test_bad_input(refused, lesions):
    cover, maps = lesions * 1.0, {"dual": lesions * 1.0}
    with refused("negative"):
        loc.energy_inside(cover, -cover)
    with refused("'nothing'", "dual"):
        loc.compare(maps, cover, True, reference="nothing")
    with refused("resamples"):
        loc.compare(maps, cover, True, resamples=99)
    with refused("In none of these images"):
        loc.compare(maps, 0 * cover, False)
    with refused("normal pixels"):
        loc.compare(maps, np.ones(cover.shape), True)
    with refused("pair up"):
        loc.compare(maps, cover[:3], False)
    with refused("finite"):
        loc.compare({"dual": np.where(lesions, np.nan, 1.0)}, cover, False)


def test_the_numbers_behind_pictures():
    """Image b: 1/4 inside, 3 of 6 of the map's sum, its maximum inside; a is normal."""
    pixels = np.zeros((2, 1, 2, 2), np.uint8)
    masks = np.zeros(pixels.shape, bool)
    masks[1, 0, 0, 0] = True
    images = ImageSet(pixels, ("a", "b"), np.array([0, 1], np.int8), masks)
    maps = {"DSU": np.array([[[[1.0, 1], [1, 9]]], [[[3, 1], [1, 1]]]])}
    table = loc.per_image(images, np.array([1, 0]), np.array([12.0, 6.0]), maps)
    assert table.index.tolist() == ["b", "a"]
    assert table.loc["b"].tolist() == ["abnormal", "2 of 2", "25.0", "50.0", "yes"]
    assert table.loc["a"].tolist() == ["normal", "1 of 2", "-", "-", "-"]
