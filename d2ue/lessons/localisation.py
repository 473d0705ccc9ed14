"""Whether a score map is high where the anomaly is: measures, chance levels, controls, intervals.

With a mask the truth is known to the pixel; with boxes only roughly. Both are given as a **cover**:
[n, 1, H, W] from 0 to 1, the share of each pixel that is inside the truth (a mask as it is; boxes
by `d2ue.datasets.box_cover`). Higher map values mean more abnormal. All measures are fractions, 0
to 1, 1 = perfect.

Masks only; pixels of all images are pooled, those of normal images included, so that a map pays
for what lights up there (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021):

    pixel AUC     chance that an abnormal pixel is above a normal one
    pixel AP      average precision over pixels
    best Dice     the largest Dice coefficient that any one threshold for all images gives; as it
                  is chosen on the very images it is judged on, an upper bound and no forecast
    AUPRO         area under the per-region overlap against the false positive rate up to 0.3,
                  divided by 0.3; regions are connected components (8 neighbours), each of the same
                  weight whatever its size

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
from dataclasses import dataclass

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
    """Maps that know nothing of learners, to be beaten before a map is said to find anything.

    Args:
        train: normal images, for the mean image.
        images: those to make maps of.

    Returns:
        By name, float32 [n, 1, H, W]: "centred blob", a Gaussian in the middle of the image, of
        standard deviation a fifth of its side, the same for all; "intensity", the image itself;
        "distance to mean image", |X - mean of the training images|, grey levels over 255.
    """
    n, _, height, width = images.images.shape
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    blob = np.exp(-((y[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * 0.2**2))
    pixels = images.images.astype(np.float32) / 255
    mean = train.images.mean(0, dtype=np.float64) / 255
    maps = (np.broadcast_to(blob, (n, 1, height, width)), pixels, np.abs(pixels - mean))
    return {name: values.astype(np.float32) for name, values in zip(CONTROLS, maps, strict=True)}


# ----------------------------------------------------------------------------- masks


def pixel_auc(masks: np.ndarray, maps: np.ndarray) -> float:
    """Area under the ROC curve of all pixels of all images; chance is 0.5. Ties count half.

    Args:
        masks: bool [n, 1, H, W], True on abnormal pixels.
        maps: [n, 1, H, W], finite, higher = more abnormal.

    Raises:
        InputError: if shapes or values do not fit, or pixels of one kind are missing.
    """
    return _pixel_value("pixel AUC", masks, maps)


def pixel_average_precision(masks: np.ndarray, maps: np.ndarray) -> float:
    """Average precision of all pixels of all images, without interpolation.

    Args and Raises as for `pixel_auc`.

    Returns:
        0 to 1; chance is the share of abnormal pixels.
    """
    return _pixel_value("pixel AP", masks, maps)


def best_dice(masks: np.ndarray, maps: np.ndarray) -> float:
    """The largest Dice coefficient 2 TP / (2 TP + FP + FN) of one threshold for all images.

    An upper bound: the threshold is the one that suits these very images and masks.

    Args and Raises as for `pixel_auc`.

    Returns:
        0 to 1; a map that says nothing reaches 2 p / (1 + p), p the share of abnormal pixels, by
        marking all of them.
    """
    return _pixel_value("best Dice", masks, maps)


def aupro(masks: np.ndarray, maps: np.ndarray, limit: float = AUPRO_LIMIT) -> float:
    """Area under per-region overlap against false positive rate up to `limit`, over `limit`.

    At a threshold, the per-region overlap is the mean over regions of the share of the region that
    is above it; the false positive rate is over the normal pixels of all images. Between
    thresholds the curve is straight, at `limit` too (Bergmann et al., CVPR 2019 and IJCV 2021).

    Args and Raises as for `pixel_auc`; also if `limit` is not in (0, 1].

    Returns:
        0 to 1; chance is limit / 2.
    """
    if not 0 < limit <= 1:
        raise InputError(f"The limit of AUPRO is a false positive rate above 0 up to 1: {limit!r}.")
    return _pixel_value("AUPRO", masks, maps, limit)


def region_weights(masks: np.ndarray) -> np.ndarray:
    """1 / size of the region that each abnormal pixel is in, 0 on normal ones; [n, 1, H, W].

    Regions are 8-connected components of one image; summed over it, the weights count them.
    """
    weights = np.zeros(masks.shape)
    for mask, own in zip(masks[:, 0], weights[:, 0], strict=True):
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        own[mask] = 1 / np.bincount(regions.ravel())[regions[mask]]
    return weights


def _pixel_value(
    measure: str, masks: np.ndarray, maps: np.ndarray, limit: float = AUPRO_LIMIT
) -> float:
    masks, maps = _checked_masks(masks, maps)
    # Pixels of all images as one: one row of counts, a column for every distinct value.
    counts = _Counts.of(masks, maps, levels=None)
    return float(counts.measures(limit)[measure][0])


@dataclass(frozen=True)
class _Counts:
    """What stands at each level of the map, from the highest level down, a row a sample of images.

    Attributes:
        abnormal: abnormal pixels, [rows, levels].
        normal: normal pixels.
        overlap: sum of `region_weights`.
    """

    abnormal: np.ndarray
    normal: np.ndarray
    overlap: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray, maps: np.ndarray, levels: int | None) -> _Counts:
        """Counts by image at `levels` quantiles, or (None) of all images at all distinct values."""
        flat, mask, weights = maps.reshape(-1), masks.reshape(-1), region_weights(masks).reshape(-1)
        if levels is None:
            values, rank = np.unique(flat, return_inverse=True)
            row, rows, columns = 0, 1, len(values)
        else:
            inner = np.quantile(flat, np.arange(1, levels) / levels)
            rank, columns = np.searchsorted(inner, flat, side="right"), levels
            rows = len(maps)
            row = np.repeat(np.arange(rows), len(flat) // rows)
        place = row * columns + (columns - 1 - rank)

        def count(weight: np.ndarray) -> np.ndarray:
            return np.bincount(place, weight, rows * columns).reshape(rows, columns)

        return cls(count(mask.astype(float)), count((~mask).astype(float)), count(weights))

    def resampled(self, times: np.ndarray) -> _Counts:
        """Counts of samples in which each image stands so many times, `times` [samples, n]."""
        return _Counts(times @ self.abnormal, times @ self.normal, times @ self.overlap)

    def measures(self, limit: float = AUPRO_LIMIT) -> dict[str, np.ndarray]:
        """Every pixel measure of every row."""
        true, false = self.abnormal.cumsum(1), self.normal.cumsum(1)
        p, n = true[:, -1:], false[:, -1:]
        recall, fpr = true / p, false / n
        overlap = self.overlap.cumsum(1) / self.overlap.sum(1, keepdims=True)
        marked = np.maximum(true + false, 1e-300)  # a level may be empty in a resample
        return {
            "pixel AUC": _area(fpr, recall, 1.0),
            "pixel AP": (np.diff(recall, prepend=0, axis=1) * true / marked).sum(1),
            "best Dice": (2 * true / (true + false + p)).max(1),
            "AUPRO": _area(fpr, overlap, limit) / limit,
        }


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Area under the lines through (0, 0) and the points, up to x = limit; a row a curve."""
    x, y = (np.pad(values, ((0, 0), (1, 0))) for values in (x, y))
    step = np.diff(x, axis=1)
    # The share of each step that lies below the limit; y at its end is on the line.
    share = np.clip((limit - x[:, :-1]) / np.where(step > 0, step, 1), 0, 1)
    end = y[:, :-1] + share * np.diff(y, axis=1)
    return (share * step * (y[:, :-1] + end) / 2).sum(1)


# ----------------------------------------------------------------------------- masks or boxes


def pointing_game(cover: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """For each image, whether the map's maximum is inside the truth.

    A pixel on the border of a box counts by the share of it that is inside, and of several equal
    maxima one is drawn, so to say: the value is the expected hit. A constant map so gets chance,
    the share of the image's area that is inside.

    Args:
        cover: [n, 1, H, W], 0 to 1.
        maps: [n, 1, H, W], finite, higher = more abnormal.

    Returns:
        [n], 0 to 1; NaN where the cover is empty.

    Raises:
        InputError: if shapes or values do not fit.
    """
    cover, maps = _checked(cover, maps)
    cover, maps = cover.reshape(len(cover), -1), maps.reshape(len(maps), -1)
    highest = maps == maps.max(1, keepdims=True)
    hits = (cover * highest).sum(1) / highest.sum(1)
    return np.where(cover.any(1), hits, np.nan)


def energy_inside(cover: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """For each image, the share of the map's sum that is inside the truth.

    Not only the order of the values counts here: sharpening a map changes it.

    Args:
        cover: [n, 1, H, W], 0 to 1.
        maps: [n, 1, H, W], finite and not negative.

    Returns:
        [n], 0 to 1; chance, and what a constant map (all zeros too) gets, is the share of the
        image's area that is inside. NaN where the cover is empty.

    Raises:
        InputError: if shapes or values do not fit.
    """
    cover, maps = _checked(cover, maps)
    if (maps < 0).any():
        raise InputError("A share of the map's sum needs a map without negative values.")
    cover, maps = cover.reshape(len(cover), -1), maps.reshape(len(maps), -1)
    highest = maps.max(1, keepdims=True)
    maps = np.where(highest > 0, maps / np.where(highest > 0, highest, 1), 1)
    share = (cover * maps).sum(1) / maps.sum(1)
    return np.where(cover.any(1), share, np.nan)


def _checked(cover: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cover, maps = np.asarray(cover, np.float64), np.asarray(maps, np.float64)
    if cover.shape != maps.shape or maps.ndim != 4 or not maps.size:
        raise InputError(
            f"Truth of shape {cover.shape} and maps of shape {maps.shape} do not pair up: both "
            "must be [n, 1, H, W]."
        )
    if not np.isfinite(maps).all():
        raise InputError("The maps hold values that are not finite.")
    if not ((cover >= 0) & (cover <= 1)).all():
        raise InputError("The truth must be from 0 (outside) to 1 (inside) on every pixel.")
    return cover, maps


def _checked_masks(masks: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cover, maps = _checked(masks, maps)
    masks = cover == 1
    if not (masks | (cover == 0)).all():
        raise InputError("Pixel measures need masks: boxes do not say which pixels are abnormal.")
    if masks.all() or not masks.any():
        raise InputError("Pixel measures need abnormal and normal pixels, both at least once.")
    return masks, maps


# ----------------------------------------------------------------------------- the comparison


def chance(measure: str, cover: np.ndarray) -> float:
    """What a constant map gets, and a random one in the long run (best Dice: at least)."""
    share = float(np.mean(cover))
    if measure in IMAGE_MEASURES:
        areas = cover.reshape(len(cover), -1).mean(1)
        return float(areas[areas > 0].mean())
    return {
        "pixel AUC": 0.5,
        "pixel AP": share,
        "best Dice": 2 * share / (1 + share),
        "AUPRO": AUPRO_LIMIT / 2,
    }[measure]


def compare(
    maps: Mapping[str, np.ndarray],
    cover: np.ndarray,
    exact: bool,
    *,
    reference: str = "dual",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every measure of every kind of map, and the difference of the reference to each.

    Intervals are percentile bootstraps over images, those with and without anything abnormal
    resampled apart. Every map sees the same resamples, so differences are paired. They say how the
    values would move with other images of the same source, nothing of training seeds, and are too
    narrow where several images are of one patient.

    Args:
        maps: by name, each [n, 1, H, W], not negative, higher = more abnormal.
        cover: the truth, [n, 1, H, W], as `truth_cover` gives it.
        exact: whether it is exact; pixel measures are left out where it is not.
        reference: the map whose differences to the others are wanted.
        resamples: number of bootstrap samples, at least 100.
        level: nominal coverage, between 0 and 1.
        seed: of the resampling.

    Returns:
        Columns measure, map, value, low, high, chance, difference, difference_low, difference_high
        (value of the reference minus that of this map; NaN for the reference itself), images.

    Raises:
        InputError: if shapes or values do not fit, the reference is not among the maps, nothing is
            abnormal, or `resamples` or `level` is out of range.
    """
    if reference not in maps:
        raise InputError(f"There is no map {reference!r} among {', '.join(maps)}.")
    if resamples < 100 or not 0 < level < 1:
        raise InputError("A bootstrap takes at least 100 resamples and a level between 0 and 1.")
    for values in maps.values():
        _checked(cover, values)
    abnormal = cover.reshape(len(cover), -1).any(1)
    if not abnormal.any():
        raise InputError("In none of these images is anything known to be abnormal.")
    times = _draw(abnormal, resamples, np.random.default_rng(seed))
    found = {name: _measure(cover, values, exact, abnormal, times) for name, values in maps.items()}
    quantiles = ((1 - level) / 2, (1 + level) / 2)
    rows = []
    for measure in (PIXEL_MEASURES if exact else ()) + IMAGE_MEASURES:
        base, base_drawn = found[reference][measure]
        for name in maps:
            value, drawn = found[name][measure]
            low, high = np.quantile(drawn, quantiles)
            row = {"measure": measure, "map": name, "value": value, "low": low, "high": high}
            row["chance"] = chance(measure, cover)
            if name != reference:
                low, high = np.quantile(base_drawn - drawn, quantiles)
                row |= {"difference": base - value, "difference_low": low, "difference_high": high}
            row["images"] = int(abnormal.sum()) if measure in IMAGE_MEASURES else len(cover)
            rows.append(row)
    columns = ["measure", "map", "value", "low", "high", "chance"]
    columns += ["difference", "difference_low", "difference_high", "images"]
    return pd.DataFrame(rows).reindex(columns=columns)


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
    found: dict[str, tuple[float, np.ndarray]] = {}
    if exact:
        masks, maps = _checked_masks(cover, maps)
        values = _Counts.of(masks, maps, levels=None).measures()
        by_image = _Counts.of(masks, maps, levels=_LEVELS)
        parts = [by_image.resampled(some).measures() for some in np.array_split(times, 10)]
        for measure in PIXEL_MEASURES:
            drawn = np.concatenate([part[measure] for part in parts])
            found[measure] = float(values[measure][0]), drawn
    weights = times[:, abnormal] / abnormal.sum()
    for measure, function in zip(IMAGE_MEASURES, (pointing_game, energy_inside), strict=True):
        per_image = function(cover[abnormal], maps[abnormal])
        found[measure] = float(per_image.mean()), weights @ per_image
    return found


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
    if images.labels is None:
        raise InputError("These images have no labels, so nothing can be said of their ranks.")
    cover, _ = truth_cover(images)
    cover = cover[which]
    rank = (-scores).argsort(kind="stable").argsort(kind="stable") + 1
    rows: dict[str, list[str]] = {
        "label": ["abnormal" if images.labels[i] == ABNORMAL else "normal" for i in which],
        "rank": [f"{rank[i]} of {len(images)}" for i in which],
        "area, %": [f"{100 * area:.1f}" if area else "-" for area in cover.mean((1, 2, 3))],
    }
    for name, values in maps.items():
        energy, hits = (f(cover, values[which]) for f in (energy_inside, pointing_game))
        rows[f"{name}: sum inside, %"] = [_or_dash(share, f"{100 * share:.1f}") for share in energy]
        words = [{0.0: "no", 1.0: "yes"}.get(hit, "edge") for hit in hits]
        rows[f"{name}: maximum inside"] = list(map(_or_dash, hits, words))
    return pd.DataFrame(rows, index=[images.names[i] for i in which])


def _or_dash(value: float, text: str) -> str:
    return "-" if np.isnan(value) else text


def layout(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """A `compare` table for reading: a row a map, a column a measure, percent with intervals.

    Args:
        table: of `compare`.
        names: what to call each map; those left out keep their names.
    """
    cells = [
        f"{100 * r.value:.1f} ({100 * r.low:.1f} to {100 * r.high:.1f})" for r in table.itertuples()
    ]
    text = table.assign(cell=cells).pivot(index="map", columns="measure", values="cell")
    text = text.loc[list(dict.fromkeys(table["map"])), list(dict.fromkeys(table["measure"]))]
    by_chance = table.groupby("measure")["chance"].first()
    text.loc["chance"] = [f"{100 * by_chance[measure]:.1f}" for measure in text.columns]
    return text.rename(index=dict(names)).rename_axis(index=None, columns="percent")


def readings(table: pd.DataFrame, reference: str, names: Mapping[str, str]) -> list[str]:
    """What a `compare` table says of its reference, a sentence a measure, true whatever it holds.

    Args:
        table: of `compare` with this reference.
        reference: the map the sentences are about.
        names: what to call each map; those left out keep their names.
    """
    sentences = []
    for measure, part in table.groupby("measure", sort=False):
        own = part[part["map"] == reference].iloc[0]
        rest = part[part["map"] != reference]

        groups = {
            "better than": rest["map"][rest["difference_low"] > 0],
            "worse than": rest["map"][rest["difference_high"] < 0],
        }
        told = set().union(*groups.values())
        groups["not to be told from"] = rest["map"][~rest["map"].isin(told)]
        against = "above" if own.low > own.chance else "below" if own.high < own.chance else "at"
        words = [f"{names.get(reference, reference)} {100 * own.value:.1f}, {against} chance"]
        words[0] += f" ({100 * own.chance:.1f})"
        words += [
            f"{relation} {', '.join(names.get(name, name) for name in group)}"
            for relation, group in groups.items()
            if len(group)
        ]
        sentences.append(f"{measure}: {'; '.join(words)}.")
    return sentences
