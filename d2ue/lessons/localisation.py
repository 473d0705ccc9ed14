"""Whether a score map is high where the anomaly is: measures, chance levels, controls, intervals.

With a mask the truth is known to the pixel; with boxes only roughly. Both are given as a **cover**:
[n, 1, H, W] from 0 to 1, the share of each pixel that is inside the truth (a mask as it is; boxes
by `d2ue.datasets.box_cover`). Higher map values mean more abnormal. All measures are fractions, 0
to 1, 1 = perfect.

Masks only; pixels of all images are pooled, those of normal images included, so that a map pays
for what lights up there (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021):

    pixel AUC     chance that an abnormal pixel is above a normal one
    pixel AP      average precision over pixels
    best Dice     the largest Dice coefficient 2 TP / (2 TP + FP + FN) that any one threshold for
                  all images gives; as it is chosen on the very images it is judged on, an upper
                  bound and no forecast
    AUPRO         area under the per-region overlap (mean over regions of the share above the
                  threshold) against the false positive rate up to 0.3, divided by 0.3; regions are
                  connected components (8 neighbours), each of the same weight whatever its size

Masks or boxes; images in which nothing is known to be abnormal are left out:

    pointing game the share of images whose brightest pixel is inside (Zhang et al., Top-down Neural
                  Attention by Excitation Backprop, ECCV 2016; without their tolerance of 15 pixels)
    energy inside the share of the map's sum that is inside (Wang et al., Score-CAM, CVPRW 2020)

None of them means much alone: a lesion is often bright and seldom at the image's edge, so a map
that knows nothing of anomalies can score well. `controls` are such maps; `compare` sets a score
beside them and beside chance, with intervals of the paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import ndimage

from d2ue.datasets.boxes import box_cover
from d2ue.datasets.types import ABNORMAL, ImageSet
from d2ue.errors import InputError

PIXEL_MEASURES = ("pixel AUC", "pixel AP", "best Dice", "AUPRO")
IMAGE_MEASURES = ("pointing game", "energy inside")
CONTROLS = ("centred blob", "intensity", "distance to mean image")
AUPRO_LIMIT = 0.3  # false positive rate up to which AUPRO integrates (Bergmann et al.)
_LEVELS = 4000  # thresholds of the resamples; the values themselves use every distinct one


def truth_cover(images: ImageSet) -> tuple[np.ndarray, bool]:
    """What is known of where the abnormal is.

    Returns:
        The cover, float64 [n, 1, H, W], and whether it is exact (masks) or rough (boxes).

    Raises:
        InputError: if there are neither masks nor boxes.
    """
    if images.masks is not None:
        return images.masks.astype(np.float64), True
    if images.boxes is None:
        raise InputError(
            "Nothing is known of where these images are abnormal: masks come with the phantoms, "
            "boxes with a boxes.json beside data.json."
        )
    return box_cover(images.boxes, *images.images.shape[2:]), False


def controls(train: ImageSet, images: ImageSet) -> dict[str, np.ndarray]:
    """Maps of `images` without any learner, to be beaten before a map is said to find anything.

    Returns:
        By name, float32 [n, 1, H, W]: "centred blob", a Gaussian in the middle of the image, of
        standard deviation a fifth of its side, the same for all; "intensity", the image itself;
        "distance to mean image", |X - mean of `train`|, grey levels over 255.
    """
    n, _, height, width = images.images.shape
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    blob = np.exp(-((y[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * 0.2**2))
    pixels = images.images.astype(np.float32) / 255
    mean = train.images.mean(0, dtype=np.float64) / 255
    maps = (np.broadcast_to(blob, (n, 1, height, width)), pixels, np.abs(pixels - mean))
    return {name: values.astype(np.float32) for name, values in zip(CONTROLS, maps, strict=True)}


# --- measures ---


def pixel_values(masks: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """Every measure of `PIXEL_MEASURES`, over all pixels of all images.

    Args:
        masks: bool [n, 1, H, W], True on abnormal pixels; both kinds at least once.
        maps: [n, 1, H, W], finite, higher = more abnormal. Ties count half in the AUC.
    """
    values, rank = np.unique(maps, return_inverse=True)
    counts = _count(masks[None], len(values) - 1 - rank.reshape(1, *masks.shape), len(values))
    return {measure: float(value[0]) for measure, value in _pixel_measures(*counts).items()}


def pixel_resamples(
    masks: np.ndarray, maps: np.ndarray, times: np.ndarray
) -> dict[str, np.ndarray]:
    """`pixel_values` of samples in which image i stands `times[sample, i]` times; [samples] each.

    Thresholds are quantiles of all values, so that a sample is a sum of its images' counts.
    """
    maps = maps.astype(np.float64)
    inner = np.quantile(maps, np.arange(1, _LEVELS) / _LEVELS)
    counts = _count(masks, _LEVELS - 1 - np.searchsorted(inner, maps, side="right"), _LEVELS)
    parts = [
        _pixel_measures(*(some @ count for count in counts)) for some in np.array_split(times, 10)
    ]
    return {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}


def region_weights(masks: np.ndarray) -> np.ndarray:
    """1 / size of the region that each abnormal pixel is in, 0 on normal ones; [..., H, W].

    Regions are 8-connected components of one image; summed over it, the weights count them.
    """
    weights = np.zeros(masks.shape)
    for place in np.ndindex(masks.shape[:-2]):
        mask = masks[place]
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        weights[place][mask] = 1 / np.bincount(regions.ravel())[regions[mask]]
    return weights


def _count(masks: np.ndarray, level: np.ndarray, levels: int) -> list[np.ndarray]:
    """Abnormal pixels, normal pixels and the sum of `region_weights` at each level of the maps.

    Args:
        masks: bool [rows, ..., H, W].
        level: of each pixel, of the same shape, 0 being the highest.
        levels: how many there are; each count is [rows, levels].
    """
    rows = len(masks)
    place = np.arange(rows)[:, None] * levels + level.reshape(rows, -1)
    return [
        np.bincount(place.ravel(), weight.ravel(), rows * levels).reshape(rows, levels)
        for weight in (masks.astype(float), (~masks).astype(float), region_weights(masks))
    ]


def _pixel_measures(
    abnormal: np.ndarray, normal: np.ndarray, overlap: np.ndarray
) -> dict[str, np.ndarray]:
    """Every pixel measure of every row of counts, [rows, levels] from the highest level down."""
    true, false = abnormal.cumsum(1), normal.cumsum(1)
    p, n = true[:, -1:], false[:, -1:]
    recall, fpr = true / p, false / n
    marked = np.maximum(true + false, 1e-300)  # a level may be empty in a resample
    found_regions = overlap.cumsum(1) / overlap.sum(1, keepdims=True)
    return {
        "pixel AUC": _area(fpr, recall, 1.0),
        "pixel AP": (np.diff(recall, prepend=0, axis=1) * true / marked).sum(1),
        "best Dice": (2 * true / (true + false + p)).max(1),
        "AUPRO": _area(fpr, found_regions, AUPRO_LIMIT) / AUPRO_LIMIT,
    }


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Area under the lines through (0, 0) and the points, up to x = limit; a row a curve."""
    x, y = (np.pad(values, ((0, 0), (1, 0))) for values in (x, y))
    step = np.diff(x, axis=1)
    # The share of each step that lies below the limit; y at its end is on the line.
    share = np.clip((limit - x[:, :-1]) / np.where(step > 0, step, 1), 0, 1)
    end = y[:, :-1] + share * np.diff(y, axis=1)
    return (share * step * (y[:, :-1] + end) / 2).sum(1)


def pointing_game(cover: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """For each image, whether the map's maximum is inside the truth.

    A pixel on the border of a box counts by the share of it that is inside. Equal maxima share the
    hit equally, so that a constant map gets chance, the share of the image's area that is inside.

    Args:
        cover: [n, 1, H, W], 0 to 1; where it is empty NaN is returned.
        maps: [n, 1, H, W], finite, higher = more abnormal.
    """
    return _mean_cover(cover, maps == maps.max((1, 2, 3), keepdims=True))


def energy_inside(cover: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """For each image, the share of the map's sum that is inside the truth.

    Not only the order of the values counts here: sharpening a map changes it. Chance, and what a
    constant map (all zeros too) gets, is the share of the image's area that is inside.

    Args:
        cover: [n, 1, H, W], 0 to 1; where it is empty NaN is returned.
        maps: [n, 1, H, W], finite and not negative.

    Raises:
        InputError: if a map holds a negative value.
    """
    if (maps < 0).any():
        raise InputError("A share of the map's sum needs a map without negative values.")
    highest = maps.max((1, 2, 3), keepdims=True).astype(np.float64)
    return _mean_cover(cover, np.where(highest > 0, maps / np.where(highest > 0, highest, 1), 1))


def _mean_cover(cover: np.ndarray, weights: np.ndarray) -> np.ndarray:
    cover, weights = cover.reshape(len(cover), -1), weights.reshape(len(weights), -1)
    mean = (cover * weights).sum(1) / weights.sum(1)
    return np.where(cover.any(1), mean, np.nan)


def chance(measure: str, cover: np.ndarray) -> float:
    """What a constant map gets, and a random one in the long run (best Dice: at least)."""
    areas = cover.mean((1, 2, 3))
    share = float(np.mean(cover))
    return {
        "pixel AUC": 0.5,
        "pixel AP": share,
        "best Dice": 2 * share / (1 + share),  # by marking everything
        "AUPRO": AUPRO_LIMIT / 2,
    }.get(measure, float(areas[areas > 0].mean()))


# --- the comparison ---


def compare(
    maps: Mapping[str, np.ndarray],
    cover: np.ndarray,
    exact: bool,
    *,
    reference: str = "dual",
    resamples: int = 1000,
) -> pd.DataFrame:
    """Every measure of every kind of map, and the difference of the reference to each.

    Intervals are percentile bootstraps of 95 % over images, those with and without anything
    abnormal resampled apart. Every map sees the same resamples, so differences are paired. They say
    how the values would move with other images of the same source, nothing of training seeds, and
    are too narrow where several images are of one patient.

    Args:
        maps: by name, each [n, 1, H, W], not negative, higher = more abnormal.
        cover: the truth, [n, 1, H, W], as `truth_cover` gives it.
        exact: whether it is exact; pixel measures are left out where it is not.
        reference: the map whose differences to the others are wanted.
        resamples: number of bootstrap samples, at least 100.

    Returns:
        Columns measure, map, value, low, high, chance, difference, difference_low, difference_high
        (value of the reference minus that of this map; NaN for the reference itself), images.

    Raises:
        InputError: if shapes or values do not fit, the reference is not among the maps, nothing is
            abnormal or everything is, or there are too few resamples.
    """
    if reference not in maps:
        raise InputError(f"There is no map {reference!r} among {', '.join(maps)}.")
    if resamples < 100:
        raise InputError("A bootstrap takes at least 100 resamples.")
    for name, values in maps.items():
        if values.shape != cover.shape or not np.isfinite(values).all():
            raise InputError(
                f"The map {name} does not pair up with a truth of shape {cover.shape}: it has the "
                f"shape {values.shape}, or holds values that are not finite."
            )
    abnormal = cover.any((1, 2, 3))
    if not abnormal.any():
        raise InputError("In none of these images is anything known to be abnormal.")
    if exact and cover.all():
        raise InputError("Pixel measures need normal pixels, too.")
    times = _draw(abnormal, resamples, np.random.default_rng(0))
    measured = {name: _measure(cover, v, exact, abnormal, times) for name, v in maps.items()}
    rows = []
    for measure in (PIXEL_MEASURES if exact else ()) + IMAGE_MEASURES:
        base, base_drawn = measured[reference][measure]
        for name in maps:
            value, drawn = measured[name][measure]
            low, high = np.quantile(drawn, (0.025, 0.975))
            row = {"measure": measure, "map": name, "value": value, "low": low, "high": high}
            row["chance"] = chance(measure, cover)
            row |= dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
            if name != reference:
                low, high = np.quantile(base_drawn - drawn, (0.025, 0.975))
                row |= {"difference": base - value, "difference_low": low, "difference_high": high}
            row["images"] = int(abnormal.sum()) if measure in IMAGE_MEASURES else len(cover)
            rows.append(row)
    return pd.DataFrame(rows)


def _draw(abnormal: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn in each resample, [resamples, n]."""
    times = np.zeros((resamples, len(abnormal)))
    for stratum in (abnormal, ~abnormal):
        if n := int(stratum.sum()):
            times[:, stratum] = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return times


def _measure(
    cover: np.ndarray, maps: np.ndarray, exact: bool, abnormal: np.ndarray, times: np.ndarray
) -> dict[str, tuple[float, np.ndarray]]:
    """Each measure's value and its values over the resamples."""
    measured: dict[str, tuple[float, np.ndarray]] = {}
    if exact:
        masks = cover > 0
        drawn = pixel_resamples(masks, maps, times)
        measured = {m: (value, drawn[m]) for m, value in pixel_values(masks, maps).items()}
    weights = times[:, abnormal] / abnormal.sum()
    for measure, function in zip(IMAGE_MEASURES, (pointing_game, energy_inside), strict=True):
        by_image = function(cover[abnormal], maps[abnormal])
        measured[measure] = float(by_image.mean()), weights @ by_image
    return measured


# --- to read ---


def per_image(
    images: ImageSet, which: np.ndarray, scores: np.ndarray, maps: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """The numbers behind pictures of some images.

    Args:
        images: all of them, labelled.
        which: positions of those to describe.
        scores: of all images, [n], higher = more abnormal.
        maps: by a short name, of all images, [n, 1, H, W], not negative.

    Returns:
        Indexed by the images' names: label; rank by score among all images, 1 = highest; area, the
        share of the image that is inside the truth; for each map the share of its sum that is
        inside, and whether its maximum is ("yes", "no", "edge"). Shares are in percent. "-" where
        nothing is known to be abnormal.
    """
    assert images.labels is not None
    cover = truth_cover(images)[0][which]
    rank = (-scores).argsort(kind="stable").argsort(kind="stable") + 1
    rows: dict[str, list[str]] = {
        "label": ["abnormal" if images.labels[i] == ABNORMAL else "normal" for i in which],
        "rank": [f"{rank[i]} of {len(images)}" for i in which],
        "area, %": [f"{100 * area:.1f}" if area else "-" for area in cover.mean((1, 2, 3))],
    }
    for name, values in maps.items():
        energy, hits = (f(cover, values[which]) for f in (energy_inside, pointing_game))
        rows[f"{name}: sum inside, %"] = [
            "-" if np.isnan(share) else f"{100 * share:.1f}" for share in energy
        ]
        rows[f"{name}: maximum inside"] = [
            "-" if np.isnan(hit) else {0.0: "no", 1.0: "yes"}.get(hit, "edge") for hit in hits
        ]
    return pd.DataFrame(rows, index=[images.names[i] for i in which])


def layout(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """A `compare` table for reading: a row a map, a column a measure, percent with intervals.

    `names` say what to call each map; those left out keep their names.
    """
    cells = [
        f"{100 * r.value:.1f} ({100 * r.low:.1f} to {100 * r.high:.1f})" for r in table.itertuples()
    ]
    text = table.assign(cell=cells).pivot(index="map", columns="measure", values="cell")
    text = text.loc[table["map"].unique(), table["measure"].unique()]
    text.loc["chance"] = (100 * table.groupby("measure")["chance"].first()).map("{:.1f}".format)
    return text.rename(index=dict(names)).rename_axis(index=None, columns="percent")


def readings(table: pd.DataFrame, reference: str, names: Mapping[str, str]) -> list[str]:
    """What a `compare` table says of its reference, a sentence a measure, true whatever it holds.

    `names` say what to call each map; those left out keep their names.
    """
    sentences = []
    for measure, part in table.groupby("measure", sort=False):
        of = part[part["map"] == reference].iloc[0]
        rest = part[part["map"] != reference]
        better, worse = rest["difference_low"] > 0, rest["difference_high"] < 0
        against = "above" if of.low > of.chance else "below" if of.high < of.chance else "at"
        value, level = f"{100 * of.value:.1f}", f"{100 * of.chance:.1f}"
        words = [f"{names.get(reference, reference)} {value}, {against} chance ({level})"]
        for relation, which in (
            ("better than", better),
            ("worse than", worse),
            ("not to be told from", ~better & ~worse),
        ):
            others = [names.get(name, name) for name in rest["map"][which]]
            words += [f"{relation} {', '.join(others)}"] if others else []
        sentences.append(f"{measure}: {'; '.join(words)}.")
    return sentences
