"""Built-in phantoms: drawn head slices and chest radiographs, with lesions whose masks are known.

Every image is a fresh draw of some fifty continuous factors: size, tilt, outline, thickness and
brightness of every structure, fissures, vessels and scars that healthy people have too, coil or
beam shading, window, noise. Soft-edged shapes are painted over each other in coordinates x (right)
and y (down) from -1 to 1; brightness runs from 0 (black) to 1 (white). The same factors give the
same picture at any image size; only the noise differs.

The default is the head kind alone: one network then faces one organ, as in each of the paper's
data sets; a mixture would mostly ask it to tell heads from chests.

Calibrated once, by eye and by the numbers below, not by which anomaly score wins. Every lesion at
the default contrast changes some pixel by at least 24 of 255 grey levels (n = 1500 of each kind).
What is easily had tells little: AUC in percent at the default counts, seeds 0 to 4 (n = 5):

    alone                                  head            chest
    mean grey                              43.2 to 53.4    46.5 to 53.7
    sharpness (mean absolute Laplacian)    49.9 to 57.2    50.3 to 55.8
    distance to the mean training image    51.0 to 54.8    51.5 to 62.2

The paper's AE learns the anatomy, not the images. Its squared error on the normal test images after
450 steps is 0.31 to 0.35 (head) and 0.22 to 0.24 (chest) of the error of the mean training image,
and 0.97 to 0.99 (head) and 1.07 to 1.08 (chest) of its error on the training images (seeds 0 to 2,
n = 3); after 3000 steps 0.19 and 1.27 (head, seed 0, n = 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from d2ue.datasets.types import ABNORMAL, NORMAL, Dataset, ImageSet
from d2ue.errors import InputError
from d2ue.progress import bar as progress_bar

Array = np.ndarray
Pair = tuple[float, float]
Rng = np.random.Generator

MIN_IMAGE_SIZE = 16  # below, most lesions are smaller than a pixel
_FINE = 64  # smaller images are drawn at this many pixels or more, then averaged: no edge is lost
_SPLITS = ("train", "test-normal", "test-abnormal")  # positions seed the streams: append only
_FAINT = 0.1  # cover of a lesion's rim too thin to see: cut off, so that the mask is all it changes
_BLUR = 0.07  # usual width of an edge (2 pixels of 64): the resolution of the pretended scanner


def phantom(
    kind: str = "head",
    *,
    n_train: int = 1000,
    n_test_normal: int = 300,
    n_test_abnormal: int = 300,
    image_size: int = 64,
    seed: int = 0,
    lesion_contrast: float = 1.0,
    lesion_size: float = 1.0,
    progress: bool = True,
) -> Dataset:
    """Draw the built-in data set.

    Args:
        kind: "head" (T1-weighted axial slices) or "chest" (frontal radiographs).
        n_train: number of normal training images.
        n_test_normal: number of normal test images.
        n_test_abnormal: number of test images, each with one lesion.
        image_size: height and width in pixels, at least 16.
        seed: 0 or more; image i of a split depends on kind, split, seed and i, not on the counts.
        lesion_contrast: 0 to 2, a factor on the difference between lesion and healthy tissue. At 0
            every abnormal image is its own healthy twin, while the masks stay.
        lesion_size: 0.25 to 3, a factor on the radius (or depth) of the lesions.
        progress: show a bar once drawing has taken two seconds.

    Returns:
        Dataset "phantom" (head) or "phantom-chest": normal images in `train`; normal, then abnormal
        ones in `test` (None if none were asked for). Masks (n, 1, H, W), empty for normal ones.

    Raises:
        InputError: if an argument is outside its range.
    """
    if kind not in _KINDS:
        raise InputError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}.")
    counts = n_train, n_test_normal, n_test_abnormal
    names = "n_train", "n_test_normal", "n_test_abnormal", "seed"
    for name, value in zip(names, (*counts, seed), strict=True):
        _check_whole(name, value, 0)
    _check_whole("image_size", image_size, MIN_IMAGE_SIZE)
    _check_between("lesion_contrast", lesion_contrast, 0.0, 2.0)
    _check_between("lesion_size", lesion_size, 0.25, 3.0)

    plan = [(s, i) for s, n in zip(_SPLITS, counts, strict=True) for i in range(n)]
    images = np.empty((len(plan), 1, image_size, image_size), np.uint8)
    masks = np.empty(images.shape, bool)
    bar = progress_bar(plan, desc="drawing phantoms", delay=2, leave=False, disable=not progress)
    for row, (split, i) in enumerate(bar):
        drawn = _render(kind, split, i, image_size, seed, lesion_contrast, lesion_size)
        images[row, 0], masks[row, 0] = drawn
    called = tuple(f"{'train-normal' if s == 'train' else s}-{i:04d}" for s, i in plan)
    labels = np.array([ABNORMAL if s == "test-abnormal" else NORMAL for s, _ in plan], np.int8)
    whole = ImageSet(images, called, labels, masks)
    test = whole.select(slice(n_train, None)) if len(plan) > n_train else None
    name = "phantom" if kind == "head" else f"phantom-{kind}"
    return Dataset(name=name, train=whole.select(slice(0, n_train)), test=test)


def _check_whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise InputError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.")


def _render(
    kind: str, split: str, index: int, size: int, seed: int, contrast: float, scale: float
) -> tuple[Array, Array]:
    """One image, uint8 (size, size), and its mask, bool (size, size)."""
    key = (tuple(_KINDS).index(kind), _SPLITS.index(split), index)
    # Four streams, so that a lesion changes nothing in the anatomy and the size only the noise.
    seeds = [np.random.SeedSequence(seed, spawn_key=(*key, part)) for part in range(4)]
    anatomy_rng, lesion_rng, machine_rng, noise_rng = (Rng(np.random.PCG64(s)) for s in seeds)
    draw_body, draw_lesion, acquire = _KINDS[kind]
    fine = size * math.ceil(_FINE / size)
    centres = (np.arange(fine) + 0.5) * (2.0 / fine) - 1.0
    x, y = np.meshgrid(centres, centres)
    body = draw_body(x, y, anatomy_rng)
    tissue, mask = body.tissue, np.zeros((size, size), bool)
    if split == "test-abnormal":
        value, cover = draw_lesion(body, lesion_rng, scale)
        faint = min(_FAINT, 0.5 * cover.max())  # the mask is never empty, however small
        cover = np.maximum(0.0, cover - faint) / (1.0 - faint)
        tissue = tissue + contrast * cover * (value - tissue)
        mask = _shrink(cover, size) > 0.0
    seen = _shrink(acquire(tissue + body.bones, x, y, machine_rng, noise_rng), size)
    return np.rint(255.0 * np.clip(seen, 0.0, 1.0)).astype(np.uint8), mask


def _shrink(picture: Array, size: int) -> Array:
    """(size, size): means over the square blocks of a picture that is a multiple as large."""
    block = len(picture) // size
    return picture.reshape(size, block, size, block).mean(axis=(1, 3))


@dataclass(frozen=True)
class _Body:
    """A healthy body, arrays of shape (H, W).

    Attributes:
        tissue: brightness of what a lesion can replace.
        bones: brightness lying over it, as in a radiograph; 0 in a slice.
        organ: 0 to 1, where a lesion may be: brain or lungs.
        u: the body's own coordinate to the right, -1 to 1 from side to side of brain or thorax.
        v: the same downwards.
        normal: usual brightness of the organ.
        floor: v of the lower end of the lungs; unused for the head.
    """

    tissue: Array
    bones: Array
    organ: Array
    u: Array
    v: Array
    normal: float
    floor: float = 1.0


@dataclass(frozen=True)
class _Canvas:
    """A picture (H, W) being painted in the body's coordinates u, v, with its source of chance."""

    picture: Array
    u: Array
    v: Array
    rng: Rng

    def paint(self, cover: Array, value: float | Array) -> None:
        """Put `value` over the picture where, and as far as, `cover` (0 to 1) says."""
        self.picture[...] += cover * (value - self.picture)

    def between(self, low: float, high: float) -> float:
        """A uniform draw."""
        return float(self.rng.uniform(low, high))

    def around(self, centre: float, spread: float) -> float:
        """A Gaussian draw, cut at two standard deviations: no monsters."""
        return centre + spread * float(np.clip(self.rng.normal(), -2.0, 2.0))

    def ellipse(self, centre: Pair, radii: Pair, angle: float = 0.0, blur: float = _BLUR) -> Array:
        """Cover of an ellipse turned by `angle` radians."""
        return _ellipse(self.u, self.v, centre, radii, angle, blur)

    def waves(self, frequency: float, n: int = 5) -> Array:
        """A smooth random field, deviation 1: n plane waves of about `frequency` radians a unit."""
        field = np.zeros_like(self.u)
        for _ in range(n):
            k = frequency * self.between(0.6, 1.4)
            angle, phase = self.rng.uniform(0.0, 2.0 * np.pi, 2)
            field += np.cos(k * np.cos(angle) * self.u + k * np.sin(angle) * self.v + phase)
        return field * np.sqrt(2.0 / n)


def _inside(distance: Array, blur: float = _BLUR) -> Array:
    """Cover: 1 where the signed `distance` is below -blur/2, 0 above blur/2, smooth between."""
    t = np.clip(0.5 - distance / blur, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _length(a: Array, b: Array) -> Array:
    """Length of the vector (a, b); unlike np.hypot rounded alike on every machine."""
    return np.sqrt(a * a + b * b)


def _ellipse(
    u: Array, v: Array, centre: Pair, radii: Pair, angle: float = 0.0, blur: float = _BLUR
) -> Array:
    """Cover of an ellipse (its distance is exact along the shorter axis only)."""
    du, dv, cos, sin = u - centre[0], v - centre[1], np.cos(angle), np.sin(angle)
    rho = _length((cos * du + sin * dv) / radii[0], (cos * dv - sin * du) / radii[1])
    return _inside((rho - 1.0) * min(radii), blur)


def _outline(u: Array, v: Array, rng: Rng, amount: float) -> Array:
    """Radius, by direction, of a closed curve around (0, 0) that is not quite round; about 1."""
    theta = np.arctan2(v, u)
    amplitudes, phases = rng.normal(0.0, amount, 4), rng.uniform(0.0, 2.0 * np.pi, 4)
    waves = zip((2, 3, 4, 5), amplitudes, phases, strict=True)
    return np.maximum(0.5, 1.0 + sum(a / k * np.cos(k * theta + p) for k, a, p in waves))


def _new_canvas(x: Array, y: Array, rng: Rng, radii: Pair, tilt: float) -> _Canvas:
    """Black, with a body of half-width and half-height `radii`, a little shifted and turned."""
    (dx, dy), angle = rng.normal(0.0, 0.018, 2), rng.normal(0.0, tilt)
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = cos * (x - dx) + sin * (y - dy), cos * (y - dy) - sin * (x - dx)
    return _Canvas(np.zeros_like(x), u / radii[0], v / radii[1], rng)


# ----------------------------------------------------------------------------- head


def _head(x: Array, y: Array, rng: Rng) -> _Body:
    """A T1-weighted slice: fat bright, white matter lighter than grey, fluid and bone dark.

    `level` is the height of the slice: 0 through the basal ganglia, 1 near the vertex.
    """
    level = rng.uniform()
    height = rng.uniform(0.74, 0.94) - 0.1 * level
    canvas = _new_canvas(x, y, rng, (height * rng.uniform(0.76, 0.92), height), tilt=0.07)
    fluid, grey = rng.uniform(0.05, 0.18), rng.uniform(0.3, 0.55)
    white = grey + rng.uniform(0.08, 0.24)
    outline = _outline(canvas.u, canvas.v, rng, 0.02)
    radius = _skull(canvas, outline, fluid)
    canvas = replace(canvas, u=canvas.u / radius, v=canvas.v / radius)  # from here in brain radii
    brain = _cortex(canvas, outline, fluid, grey, white)
    _deep_grey(canvas, grey, level)
    _fissure(canvas, brain, fluid, level)
    _ventricles(canvas, fluid, level)
    _vessels(canvas, brain)
    return _Body(canvas.picture, np.zeros_like(x), brain, canvas.u, canvas.v, white)


def _skull(canvas: _Canvas, outline: Array, fluid: float) -> float:
    """Scalp, bone and the fluid under it; returns the radius of the brain in head radii."""
    rho = _length(canvas.u, canvas.v) / outline
    scalp, bone = canvas.between(0.03, 0.09), canvas.between(0.03, 0.08)
    canvas.paint(_inside(rho - 1.0), canvas.between(0.4, 0.85))
    canvas.paint(_inside(rho - (1.0 - scalp)), canvas.between(0.05, 0.3))
    canvas.paint(_inside(rho - (1.0 - scalp - bone)), fluid)
    return 1.0 - scalp - bone - canvas.between(0.0, 0.04)


def _cortex(canvas: _Canvas, outline: Array, fluid: float, grey: float, white: float) -> Array:
    """Folded grey matter around white, with fluid in the furrows; returns the brain's cover."""
    rho = _length(canvas.u, canvas.v) / outline
    brain, folds = _inside(rho - 1.0), canvas.waves(frequency=18.0, n=6)
    canvas.paint(brain, grey)
    thickness = canvas.between(0.1, 0.2) + canvas.between(0.02, 0.06) * folds
    canvas.paint(_inside(rho - (1.0 - thickness), 0.1), white)
    furrows = _inside(np.abs(folds + 0.3) - 0.15, 0.6)
    furrows *= _inside(canvas.between(0.75, 0.9) - rho, 0.2)
    canvas.paint(canvas.between(0.1, 0.6) * furrows * brain, fluid)
    return brain


def _deep_grey(canvas: _Canvas, grey: float, level: float) -> None:
    """Thalamus and putamen on both sides, fading out in higher slices."""
    strength = max(0.0, 1.0 - 1.6 * level) * canvas.between(0.5, 1.0)
    for side in (-1, 1):
        for centre, radii in (((0.17, 0.12), (0.11, 0.15)), ((0.38, -0.05), (0.08, 0.2))):
            place = (side * canvas.around(centre[0], 0.02), canvas.around(centre[1], 0.03))
            canvas.paint(strength * canvas.ellipse(place, radii, side * 0.25), grey)


def _fissure(canvas: _Canvas, brain: Array, fluid: float, level: float) -> None:
    """The gap between the hemispheres: whole near the vertex, front and back only below."""
    bend = canvas.around(0.0, 0.02) * (1.0 - canvas.v**2)
    gap = _inside(np.abs(canvas.u - bend) - canvas.between(0.005, 0.03))
    ends = _inside(0.75 * (1.0 - level) - np.abs(canvas.v), 0.2)
    canvas.paint(canvas.between(0.3, 0.9) * gap * ends * brain, fluid)


def _ventricles(canvas: _Canvas, fluid: float, level: float) -> None:
    """Frontal and occipital horns, some wider on one side, and the slit of the third ventricle."""
    size = np.exp(canvas.around(0.0, 0.25)) * (1.1 - 0.7 * level)
    spread = canvas.between(0.09, 0.14) + 0.03 * level
    for side in (-1, 1):
        own = size * np.exp(canvas.around(0.0, 0.18))  # asymmetry is normal
        front = canvas.ellipse((side * spread, -0.16), (0.07 * own, 0.24 * own), side * 0.3)
        back = canvas.ellipse((side * (spread + 0.08), 0.26), (0.08 * own, 0.22 * own), side * -0.4)
        canvas.paint(np.maximum(front, back), fluid)
        if canvas.between(0, 1) < 0.3:  # the choroid plexus of adults is often calcified
            plexus = canvas.ellipse((side * (spread + 0.1), 0.28), (0.04, 0.05))
            canvas.paint(plexus, canvas.between(0.4, 1.0))
    third = canvas.ellipse((0.0, 0.1), (0.025 * size, 0.13))
    canvas.paint(max(0.0, 1.0 - 2.0 * level) * third, fluid)


def _vessels(canvas: _Canvas, brain: Array) -> None:
    """The sagittal sinus, small vessels and calcifications (bright), dilated spaces (dark)."""
    sinus = canvas.ellipse((canvas.around(0.0, 0.02), 0.96), (0.05, 0.05))
    canvas.paint(canvas.between(0.0, 1.0) * sinus, canvas.between(0.5, 1.0))
    for _ in range(canvas.rng.integers(0, 7)):
        angle, radius = canvas.between(0.0, 2.0 * np.pi), canvas.between(0.25, 0.95)
        radii = (canvas.between(0.02, 0.05), canvas.between(0.02, 0.09))
        spot = canvas.ellipse((radius * np.cos(angle), radius * np.sin(angle)), radii, angle)
        bright = canvas.between(0.0, 1.0) < 0.6
        value = canvas.between(0.7, 1.0) if bright else canvas.between(0.05, 0.2)
        canvas.paint(canvas.between(0.3, 0.9) * spot * brain, value)


def _head_lesion(body: _Body, rng: Rng, scale: float) -> tuple[Array, Array]:
    """Brightness and cover of a tumour (bright; core or oedema dark) or a dark cyst or infarct."""
    angle, radius = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.35, 0.75)
    du, dv = body.u - radius * np.cos(angle), body.v - radius * np.sin(angle)
    size, stretch, blur = scale * rng.uniform(0.13, 0.28), rng.uniform(0.8, 1.25), 0.1
    shape = _length(du * stretch, dv / stretch) / _outline(du, dv, rng, 0.25)  # a distance
    cover = _inside(shape - size, blur)
    if rng.uniform() < 0.5:
        return rng.uniform(0.15, 0.45) * body.normal * np.ones_like(cover), cover * body.organ
    core, halo = rng.uniform(0.35, 0.65), rng.uniform(1.3, 1.6)
    canvas = _Canvas(np.full_like(cover, 0.5 * body.normal), body.u, body.v, rng)
    canvas.paint(cover, body.normal + rng.uniform(0.2, 0.4))
    if rng.uniform() < 0.4:
        canvas.paint(_inside(shape - core * size, blur), 0.3 * body.normal)
    if rng.uniform() < 0.5:
        cover = _inside(shape - halo * size, blur)
    return canvas.picture, cover * body.organ


def _scan(picture: Array, x: Array, y: Array, rng: Rng, noise_rng: Rng) -> Array:
    """What a magnetic resonance scanner makes of it: coil shading, window, Rician noise."""
    slope_x, slope_y = rng.normal(0.0, 0.12, 2)
    shading = 1.0 + slope_x * x + slope_y * y - rng.uniform(0.0, 0.2) * (x * x + y * y)
    seen = rng.uniform(0.4, 1.15) * np.clip(picture * shading, 0.0, None) ** rng.uniform(0.75, 1.3)
    real, imaginary = rng.uniform(0.005, 0.02) * noise_rng.standard_normal((2, *x.shape))
    return _length(seen + real, imaginary)


# ----------------------------------------------------------------------------- chest


def _chest(x: Array, y: Array, rng: Rng) -> _Body:
    """A frontal radiograph: what absorbs is bright (bone, heart, abdomen), air is dark."""
    radii = (rng.uniform(0.78, 0.98), rng.uniform(0.85, 1.02))
    canvas = _new_canvas(x, y, rng, radii, tilt=0.05)
    soft, floor, air = rng.uniform(0.45, 0.6), rng.uniform(0.42, 0.66), rng.uniform(0.2, 0.38)
    canvas.paint(np.ones_like(x), rng.uniform(0.02, 0.12))
    _torso(canvas, soft)
    lungs = _lungs(canvas, floor, air)
    centre = _heart(canvas, floor, soft + rng.uniform(0.12, 0.28))
    bones = _spine(canvas) + _ribs(canvas) + _clavicles(canvas)
    _marker_gas_scars(canvas, x, y, floor)
    return _Body(canvas.picture, bones, lungs * (1.0 - centre), canvas.u, canvas.v, air, floor)


def _torso(canvas: _Canvas, soft: float) -> None:
    """Neck, sloping shoulders and trunk."""
    neck, slope = canvas.between(0.2, 0.34), canvas.between(0.25, 0.5)
    step = np.clip((canvas.v + canvas.between(0.85, 1.0)) / slope, 0.0, 1.0)
    half_width = neck + (1.02 - neck) * np.sqrt(step) - 0.08 * np.clip(canvas.v, 0.0, 1.0)
    canvas.paint(_inside(np.abs(canvas.u) - half_width, 0.15), soft)


def _lungs(canvas: _Canvas, floor: float, air: float) -> Array:
    """Both lungs, narrow above, cut off below by the domes of the diaphragm; gives their cover."""
    u, v = canvas.u, canvas.v
    width, height = canvas.between(0.34, 0.4), canvas.between(0.68, 0.8)
    vessels, both = canvas.waves(frequency=16.0, n=4), np.zeros_like(u)
    for side in (-1, 1):
        out = side * u - canvas.around(0.46, 0.015)
        lift = 0.06 if side < 0 else 0.0  # the liver holds the right dome (left in the image) up
        dome = canvas.around(floor - lift, 0.02) + canvas.between(0.8, 1.8) * out**2
        belly = _inside(dome - v, 0.08) * _inside(np.abs(u) - 0.95, 0.15) * (side * u > 0)
        canvas.paint(belly, canvas.between(0.62, 0.72))
        shape = _ellipse(out / (1.0 + 0.3 * v), v, (0.0, 0.02), (width, height), blur=0.1)
        lung = shape * _inside(v - dome, 0.08)
        hilum = np.exp(-((out + 0.25) ** 2) / 0.04 - (v - 0.05) ** 2 / 0.12)
        canvas.paint(lung, air + canvas.between(0.02, 0.2) * hilum * (1.0 + 0.5 * vessels))
        both = np.maximum(both, lung)
    return both


def _heart(canvas: _Canvas, floor: float, value: float) -> Array:
    """Heart, aortic knob, mediastinum, the dark windpipe; returns the cover of the first three."""
    size = np.exp(canvas.around(0.0, 0.12))
    place, angle = (canvas.between(0.06, 0.16), floor - 0.2 * size), canvas.between(0.2, 0.8)
    heart = canvas.ellipse(place, (0.3 * size, 0.24 * size), angle, blur=0.1)
    knob = canvas.ellipse((0.1, canvas.around(-0.28, 0.03)), (canvas.between(0.08, 0.14), 0.11))
    strip = np.abs(canvas.u - canvas.around(0.0, 0.015)) - 0.04 * canvas.v
    centre = np.maximum(np.maximum(heart, knob), _inside(strip - canvas.between(0.09, 0.15), 0.1))
    ends = _inside(canvas.v - floor - 0.1, 0.3) * _inside(-0.85 - canvas.v, 0.3)
    canvas.paint(centre * ends, value)
    windpipe = canvas.ellipse((canvas.around(0.0, 0.015), -0.6), (0.05, 0.28))
    canvas.paint(canvas.between(0.2, 0.7) * windpipe, canvas.between(0.3, 0.45))
    return centre


def _spine(canvas: _Canvas) -> Array:
    """A faint column with its discs, in brightness to add."""
    period, phase = canvas.between(0.13, 0.18), canvas.between(0.0, 2.0 * np.pi)
    discs = 0.75 + 0.25 * np.cos(2.0 * np.pi * canvas.v / period + phase)
    return canvas.between(0.02, 0.12) * discs * _inside(np.abs(canvas.u) - 0.08)


def _ribs(canvas: _Canvas) -> Array:
    """Bands that fall towards the sides (behind) and, fainter, towards the middle (in front)."""
    v, out = canvas.v, np.abs(canvas.u)
    pitch, slope = 2.0 * np.pi / canvas.between(0.17, 0.24), canvas.between(0.2, 0.6)
    behind = np.cos(pitch * (v - slope * out * (1.4 - out)) + canvas.between(0.0, 2.0 * np.pi))
    front = np.cos(pitch / 1.15 * (v + 0.5 * slope * out) + canvas.between(0.0, 2.0 * np.pi))
    bands = _inside(-behind, 1.4) + canvas.between(0.2, 0.7) * _inside(-front, 1.4)
    cage = canvas.ellipse((0.0, 0.05), (0.92, 0.88), blur=0.15) * _inside(0.08 - out, 0.1)
    return canvas.between(0.03, 0.1) * bands * cage


def _clavicles(canvas: _Canvas) -> Array:
    """Two bars rising from the breastbone to the shoulders, in brightness to add."""
    out, rise = np.abs(canvas.u), canvas.between(0.05, 0.25)
    line = canvas.v + rise * (out - 0.1) - canvas.between(-0.66, -0.54)
    bar = _inside(np.abs(line) - canvas.between(0.02, 0.035))
    return canvas.between(0.08, 0.2) * bar * _inside(0.1 - out, 0.1) * _inside(out - 0.8, 0.1)


def _marker_gas_scars(canvas: _Canvas, x: Array, y: Array, floor: float) -> None:
    """What healthy radiographs show too: side marker, stomach gas, old scars, nipples, leads."""
    sides = (-1.0, 1.0)
    if canvas.between(0.0, 1.0) < 0.4:
        place = (canvas.rng.choice(sides) * canvas.between(0.75, 0.9), canvas.between(-0.92, -0.7))
        canvas.paint(_ellipse(x, y, place, (0.035, 0.05)), canvas.between(0.7, 1.0))
    if canvas.between(0.0, 1.0) < 0.5:
        place = (canvas.between(0.3, 0.5), floor + canvas.between(0.12, 0.25))
        radii = (canvas.between(0.08, 0.18), canvas.between(0.05, 0.1))
        canvas.paint(canvas.between(0.3, 0.9) * canvas.ellipse(place, radii, blur=0.1), 0.35)
    for _ in range(canvas.rng.integers(0, 5)):
        place = (canvas.rng.choice(sides) * canvas.between(0.25, 0.75), canvas.between(-0.5, 0.6))
        spot = canvas.ellipse(place, (canvas.between(0.02, 0.05), canvas.between(0.02, 0.05)))
        canvas.paint(canvas.between(0.3, 0.9) * spot, canvas.between(0.55, 0.95))


def _chest_lesion(body: _Body, rng: Rng, scale: float) -> tuple[Array, Array]:
    """Brightness and cover of a mass, consolidation, effusion (bright), bulla or pneumothorax."""
    findings = ("mass", "consolidation", "effusion", "bulla", "pneumothorax")
    finding = rng.choice(findings, p=(0.2, 0.2, 0.15, 0.23, 0.22))
    side = rng.choice((-1.0, 1.0))
    out, v = side * body.u, body.v
    bright = finding in ("mass", "consolidation", "effusion")
    value = body.normal + rng.uniform(0.3, 0.5) if bright else rng.uniform(0.1, 0.3) * body.normal
    if finding == "effusion":  # a level that climbs the chest wall
        level = body.floor - scale * rng.uniform(0.1, 0.3)
        cover = _inside(level - 0.5 * (out - 0.3) ** 2 - v, 0.12)
    elif finding == "pneumothorax":  # air around a shrunken lung
        shrunk = (0.5 - 0.12 * scale, 0.75 - 0.2 * scale)
        cover = 1.0 - _ellipse(out, v, (0.2, 0.15), shrunk, blur=0.1)
    else:
        ragged, blur = (0.3, 0.2) if finding == "consolidation" else (0.1, 0.1)
        size = scale * rng.uniform(0.12, 0.22) * (1.4 if finding != "mass" else 1.0)
        du, dv = out - rng.uniform(0.42, 0.62), v - rng.uniform(-0.35, body.floor - 0.25)
        cover = _inside(_length(du, dv) / _outline(du, dv, rng, ragged) - size, blur)
    cover = rng.uniform(0.75, 1.0) * cover * body.organ * (out > 0)
    return np.full_like(v, value), cover


def _expose(picture: Array, x: Array, y: Array, rng: Rng, noise_rng: Rng) -> Array:
    """What a detector makes of it: uneven beam, exposure and window, noise."""
    slope_x, slope_y = rng.normal(0.0, 0.06, 2)
    beam = 1.0 + slope_x * x + slope_y * y
    seen = rng.uniform(0.7, 1.15) * np.clip(picture * beam, 0.0, None) ** rng.uniform(0.7, 1.4)
    noise = rng.uniform(0.004, 0.02) * noise_rng.standard_normal(x.shape)
    return seen + rng.uniform(-0.05, 0.08) + noise


# Body, lesion, machine. Positions seed the streams: append only.
_KINDS: dict[str, tuple[Callable, Callable, Callable]] = {
    "head": (_head, _head_lesion, _scan),
    "chest": (_chest, _chest_lesion, _expose),
}
