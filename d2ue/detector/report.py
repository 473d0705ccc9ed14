"""What scoring leaves behind: a table of scores, heat maps as files, and a page to look at."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from d2ue.datasets.results_folder import claim
from d2ue.datasets.types import ABNORMAL, NORMAL, ImageSet
from d2ue.detector.threshold import Threshold, check_scores
from d2ue.errors import InputError
from d2ue.evaluation import auc, average_precision
from d2ue.plotting.webpage import render
from d2ue.progress import bar as progress_bar
from d2ue.store.files import write_text, writing

#: Gives the score maps of images: uint8 (n, 1, H, W) -> float32 (n, 1, H, W).
MapOf = Callable[[np.ndarray], np.ndarray]

MAP_FORMATS = ("npy", "tiff")
#: Share of pixels that colours span, from 0; the few above it share the last colour.
QUANTILE = 0.995
_OVERLAY_SIZE = 256  # least side of an overlay in pixels
_COVER = 0.75  # of the image by the brightest colour of a map
_CHUNK = 64  # images whose maps are in memory at once


@dataclass(frozen=True)
class Scored:
    """Images and their scores, float64 (n,), by one method; higher = more abnormal.

    Raises:
        InputError: if there is not one finite score for each image, or the threshold is of other
            methods.
    """

    images: ImageSet
    scores: np.ndarray
    method: str
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.images),):
            raise InputError(
                f"{len(self.images)} images came with scores of shape {self.scores.shape}."
            )
        check_scores(self.scores)
        if self.threshold is not None:
            self.threshold.value(self.method)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def abnormal(self) -> np.ndarray | None:
        """Whose score is above the threshold, bool (n,); None without one."""
        if self.threshold is None:
            return None
        return self.scores > self.threshold.value(self.method)

    @property
    def ranking(self) -> np.ndarray:
        """Positions of the images, most abnormal first; equal scores in the images' order."""
        return np.argsort(-self.scores, kind="stable")

    def csv(self) -> str:
        """The table `name,label,score`, and `abnormal` (yes or no) where there is a threshold.

        A row an image, in the images' order; the label is empty where the truth is not known.
        Scores have all their digits.
        """
        n, labels, abnormal = len(self), self.images.labels, self.abnormal
        columns = {
            "name": self.images.names,
            "label": [""] * n if labels is None else labels.tolist(),
            "score": [repr(score) for score in self.scores.tolist()],
        }
        if abnormal is not None:
            columns["abnormal"] = ["yes" if flag else "no" for flag in abnormal]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()

    @cached_property
    def summary(self) -> list[str]:
        """What the scores come to, in sentences; with labels also how well they separate."""
        sentences = [f"{len(self)} scores ({self.method}), higher = more abnormal."]
        if self.threshold is not None:
            value = self.threshold.value(self.method)
            abnormal = self.scores > value
            sentences.append(
                f"{int(abnormal.sum())} of {len(self)} are above the threshold {value:.4g} and "
                "called abnormal."
            )
            sentences.append(self.threshold.shortfall or self.threshold.describe())
        labels = self.images.labels
        if labels is None or len(np.unique(labels)) < 2:
            return sentences
        sentences.append(
            f"AUC {100 * auc(labels, self.scores):.1f} ({_interval(labels, self.scores)}), "
            f"AP {100 * average_precision(labels, self.scores):.1f} "
            f"(chance {100 * labels.mean():.1f}), n = {len(self)}."
        )
        if self.threshold is not None:
            sentences.append(
                f"Called abnormal: {_share(abnormal[labels == ABNORMAL])} of the abnormal images, "
                f"{_share(abnormal[labels == NORMAL])} of the normal ones."
            )
        return sentences


def overlay(image: np.ndarray, score_map: np.ndarray, top: float) -> np.ndarray:
    """An image under its map: the higher the map, the more of its colour covers the image.

    Args:
        image: uint8 (H, W).
        score_map: float (H, W), >= 0, higher = more abnormal.
        top: the value with the last colour, above 0.
    """
    share = np.clip(score_map / top, 0, 1)[..., None]
    grey = image[..., None] / 255.0
    mixed = (1 - _COVER * share) * grey + _COVER * share * _magma(share[..., 0])
    return np.rint(255 * mixed).astype(np.uint8)


def colour_top(maps: np.ndarray) -> float:
    """The map value with the last colour: the 99.5 % quantile of the pixels, 1 where that is 0."""
    return float(np.quantile(maps, QUANTILE)) or 1.0


def write_maps(
    folder: str | os.PathLike[str],
    images: ImageSet,
    map_of: MapOf,
    kind: str = "npy",
    *,
    progress: bool = False,
) -> float:
    """Write every image's map twice: as numbers and as a picture over the image.

    An image NAME (which may stand in a sub-folder) leads to `NAME.npy`, a float32 array (H, W), or
    `NAME.tiff`, one page of 32-bit floats; and to `NAME.overlay.png`. All overlays share one colour
    scale, which spans 99.5 % of a sample of all pixels. Only a few maps are in memory at once, so
    each is computed twice.

    Args:
        folder: new, empty, or with results of this program, in which files of these names are
            replaced and others left alone.
        images: what was scored.
        map_of: gives their maps.
        kind: "npy" or "tiff".
        progress: whether to show a bar when it takes over two seconds.

    Returns:
        The map value with the last colour.

    Raises:
        InputError: if the kind is unknown, two images would share a file, or the folder cannot be
            written to.
    """
    check_map_format(kind)
    stems = _stems(images.names)
    target = claim(folder)
    paths = [target / stem for stem in stems]
    sample = []
    bar = progress_bar(total=2 * len(images), desc="heat maps", delay=2, disable=not progress)
    with bar, writing(target):
        for part, maps in _chunks(images, map_of):
            sample.append(maps.reshape(len(maps), -1)[:, :: max(1, maps[0].size // 256)].ravel())
            for path, score_map in zip(paths[part], maps, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                _put(path.with_name(f"{path.name}.{kind}"), _encode(score_map[0], kind))
            bar.update(len(maps))
        top = colour_top(np.concatenate(sample)) if sample else 1.0
        for part, maps in _chunks(images, map_of):
            for path, image, score_map in zip(paths[part], images.images[part], maps, strict=True):
                picture = overlay(_enlarge(image[0]), _enlarge(score_map[0]), top)
                _put(path.with_name(f"{path.name}.overlay.png"), _encode(picture, "png"))
            bar.update(len(maps))
    return top


def check_map_format(kind: str) -> None:
    """Refuse an unknown format of map files."""
    if kind not in MAP_FORMATS:
        raise InputError(f"Maps are written as {' or '.join(MAP_FORMATS)}, not as {kind!r:.40}.")


def write_report(
    path: str | os.PathLike[str],
    scored: Scored,
    map_of: MapOf,
    *,
    title: str = "Anomaly scores",
    about: Mapping[str, object] | None = None,
    top: int = 24,
) -> Path:
    """Write a page of the most abnormal images with their maps: one HTML file, nothing outside.

    Args:
        path: the file.
        scored: images and scores.
        map_of: gives maps, asked for the images shown only.
        title: of the page.
        about: more rows for the table at its head, such as the detector's settings.
        top: how many of the most abnormal images to show.

    Raises:
        InputError: if `top` is below 1, there are no images, or the file cannot be written.
    """
    write_text(path, report(scored, map_of, title=title, about=about, top=top))
    return Path(path)


def report(
    scored: Scored,
    map_of: MapOf,
    *,
    title: str = "Anomaly scores",
    about: Mapping[str, object] | None = None,
    top: int = 24,
) -> str:
    """The page of `write_report` as text; Args and Raises as there."""
    if isinstance(top, bool) or top < 1:
        raise InputError(f"A report shows at least 1 image, not {top}.")
    if not len(scored):
        raise InputError("There are no images to report on.")
    ranking = scored.ranking
    high, rest = ranking[:top], ranking[top:]
    # For comparison: spread evenly over the lower half of the others, typical to least abnormal.
    lower = rest[len(rest) // 2 :]
    low = lower[np.unique(np.linspace(0, len(lower) - 1, 6).astype(int))] if len(lower) else lower
    shown = np.concatenate([high, low])
    maps = map_of(scored.images.images[shown])
    brightest = colour_top(maps)
    ranks = np.argsort(ranking) + 1
    figures = [
        {
            "caption": _caption(scored, i, ranks[i]),
            "pictures": _pictures(scored.images, i, score_map[0], brightest),
        }
        for i, score_map in zip(shown.tolist(), maps, strict=True)
    ]
    facts = {**(about or {}), "images": len(scored), "score": scored.method}
    if scored.threshold is not None:
        facts["threshold"] = scored.threshold.value(scored.method)
        facts["contamination"] = scored.threshold.contamination
    return render(
        "detector/report.html.j2",
        title=title,
        facts=facts.items(),
        summary=scored.summary[1:],
        histogram=_histogram(scored),
        top=f"{brightest:.3g}",
        legend=_colours(np.tile(np.linspace(0, 1, 256), (12, 1))),
        high=figures[: len(high)],
        low=figures[len(high) :],
    )


def _pictures(
    images: ImageSet, i: int, score_map: np.ndarray, top: float
) -> list[tuple[np.ndarray, str]]:
    image, name = images.images[i, 0], images.names[i]
    return [
        (image, name),
        (overlay(image, score_map, top), f"{name} under its score map"),
        (_colours(np.clip(score_map / top, 0, 1)), f"score map of {name}"),
    ]


def _caption(scored: Scored, i: int, rank: int) -> str:
    score = scored.scores[i]
    words = [f"{rank}. {scored.images.names[i]}: {score:.4g}"]
    if scored.threshold is not None:
        held_out = scored.threshold.scores[scored.method]
        high = score > scored.threshold.value(scored.method)
        words.append("called abnormal" if high else "called normal")
        words.append(f"above {int((held_out < score).sum())} of {len(held_out)} held-out normals")
    if scored.images.labels is not None:
        words.append(f"truth: {'abnormal' if scored.images.labels[i] == ABNORMAL else 'normal'}")
    return "; ".join(words)


def _histogram(scored: Scored) -> tuple[np.ndarray, str]:
    """The spread of scores, the held-out ones and the threshold: a picture, and its words."""
    from matplotlib.figure import Figure

    from d2ue.plotting import ABNORMAL_COLOUR, METHOD_TITLES, NORMAL_COLOUR

    figure = Figure(figsize=(7.2, 3.4), dpi=200, layout="constrained")
    axis = figure.subplots()
    values, labels, limit = scored.scores, scored.images.labels, scored.threshold
    groups = {"scored images": (values, "0.45")}
    if labels is not None:
        groups = {
            "normal (truth)": (values[labels == NORMAL], NORMAL_COLOUR),
            "abnormal (truth)": (values[labels == ABNORMAL], ABNORMAL_COLOUR),
        }
    # One broken image must not squeeze all others into one bar.
    highest = float(np.quantile(values, 0.99))
    if limit is not None:
        highest = max(highest, limit.value(scored.method))
    bins = int(np.clip(len(values) // 4, 8, 30))
    edges = np.histogram_bin_edges(np.minimum(values, highest), bins)
    for name, (own, colour) in groups.items():
        if len(own):
            label = f"{name}, n = {len(own)}"
            axis.hist(
                np.minimum(own, highest), edges.tolist(), alpha=0.6, color=colour, label=label
            )
    text = f"Histogram of {len(values)} scores from {values.min():.3g} to {values.max():.3g}"
    if limit is not None:
        value = limit.value(scored.method)
        places = np.clip(limit.scores[scored.method], edges[0], edges[-1])
        label = f"held-out normals, n = {limit.k}"
        axis.plot(places, [0.0] * limit.k, "k|", markersize=14, clip_on=False, label=label)
        axis.axvline(value, color="black", linestyle="--", label=f"threshold {value:.3g}")
        text += f"; {int((values > value).sum())} are above the threshold {value:.3g}"
    axis.set(xlabel=f"score, {METHOD_TITLES[scored.method]} (last bar: or higher)", ylabel="images")
    axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 2))
    axis.spines[["top", "right"]].set_visible(False)
    # Above the axes: inside, it would cover bars or the threshold.
    figure.legend(loc="outside upper left", fontsize=9, ncols=2, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB")), text


def _interval(labels: np.ndarray, scores: np.ndarray) -> str:
    """The AUC's interval in words; a bootstrap of 2000 samples says the same in seconds."""
    from d2ue.statistics.significance import mean_auc  # here: it imports pandas

    if np.bincount(labels, minlength=2).min() < 2:
        return "no interval: a class has one image"
    interval = mean_auc(labels, scores[None])
    ends = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return f"95 % interval over images, DeLong, {ends}"


def _share(flags: np.ndarray) -> str:
    return f"{int(flags.sum())} of {len(flags)} ({100 * flags.mean():.1f} %)"


def _colours(share: np.ndarray) -> np.ndarray:
    """Values 0 to 1 as colours of matplotlib's magma, uint8 (..., 3): brighter = higher."""
    return np.rint(255 * _magma(share)).astype(np.uint8)


def _magma(share: np.ndarray) -> np.ndarray:
    """The same as floats, 0 to 1."""
    from matplotlib import colormaps

    return colormaps["magma"](share)[..., :3]


def _enlarge(values: np.ndarray) -> np.ndarray:
    """A grey image (uint8) or a map (float32) by a whole factor, to at least 256 pixels a side."""
    picture = Image.fromarray(values)
    factor = -(-_OVERLAY_SIZE // len(values))
    size = (factor * picture.width, factor * picture.height)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, without a flush for each of 100,000 of them.

    After a power cut maps may be missing; the same command makes them again.
    """
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _encode(values: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, values, allow_pickle=False)
    else:
        Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def _chunks(images: ImageSet, map_of: MapOf) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield part, map_of(images.images[part]).astype(np.float32, copy=False)


def _stems(names: tuple[str, ...]) -> list[str]:
    """Where below a folder each image's files go: never outside it, never two in one place."""
    owners: dict[str, str] = {}
    stems = []
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        inside = not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
        stem = str(path) if inside else path.name
        if (other := owners.setdefault(stem, name)) != name:
            raise InputError(
                f"The maps of {other!r} and {name!r} would be the same file {stem!r}: score "
                "their common folder instead."
            )
        stems.append(stem)
    return stems
