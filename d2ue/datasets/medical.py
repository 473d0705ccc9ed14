"""DICOM and NIfTI files -> grey uint8 slices, windowed at their full depth.

Files are read by pydicom and nibabel (the extra `[medical]`). Values are rescaled to the units of
the file (Hounsfield units, say), cut to a window and only then brought to 8 bits. A slice is shown
as radiologists look at it: the patient's right on the left, anterior or superior at the top.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from d2ue.datasets.decode import image_extensions, not_a_file, show, system_reason, to_square
from d2ue.errors import InputError

#: Planes and the axes across them, in a volume whose x, y, z lead to right, anterior, superior.
AXES = {"sagittal": "x", "coronal": "y", "axial": "z"}
#: Where a window is not known: these percentiles of all values of the file are black and white.
AUTO_PERCENTILES = (0.5, 99.5)

_SCANS_VERSION = 1  # part of the cache key: raise it when a change here changes a pixel
_DICOM_EXTENSIONS = (".dcm", ".dicom", ".ima")
_NIFTI_EXTENSIONS = (".nii", ".nii.gz")
_SLICE = re.compile(r"(.+)#(x|y|z|frame)=([0-9]{1,9})", re.DOTALL)
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_WINDOW = re.compile(rf"({_NUMBER})(%?),({_NUMBER})(%?)", re.ASCII | re.I)
_BOUND = re.compile(r"\d{1,9}|[01]?\.\d{1,9}|[01]\.", re.ASCII)
_MOST_VALUES = 2**29  # in one file: 800 x 800 x 800; as float32, 2 GiB
# Elements that turn stored values into grey; an enhanced file has them by frame.
_GREY = (
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
)
_MOST_AT_ONCE = threading.BoundedSemaphore(2)  # volumes in memory


@dataclass(frozen=True)
class ScanConfig:
    """Which slices of a DICOM or NIfTI file become images, and which values are black and white.

    Raises:
        InputError: on a value that has no meaning.
    """

    #: "middle", "all", an index from 0 ("75"), or FIRST:END or FIRST:END:STEP as Python counts; a
    #: number with a point is a fraction of the depth ("0.5", "0.25:0.75"). Of a DICOM file with
    #: many frames: the frames; one with a single frame is one image whatever stands here.
    slices: str = "middle"
    #: axial | coronal | sagittal (z | y | x); NIfTI only, DICOM frames are as they were taken.
    axis: str = "axial"
    #: "auto": of DICOM the file's own (its first); where there is none, and of NIfTI, 0.5 % to
    #: 99.5 % of the file's values. Or CENTRE,WIDTH in the units of the file ("40,80"), or
    #: percentiles of the file's values ("1%,99%"). Of DICOM, 8 bits without a window stay as they
    #: are under "auto", and colours always.
    window: str = "auto"

    def __post_init__(self) -> None:
        for name in ("slices", "axis", "window"):
            if not isinstance(getattr(self, name), str):
                given = getattr(self, name)
                raise InputError(f"{name} must be a text such as {_EXAMPLES[name]}, not {given!r}.")
        _bounds(self.slices)
        if self.axis not in (*AXES, *AXES.values()):
            raise InputError(f"axis must be one of {', '.join(AXES)}, not {_short(self.axis)}.")
        _limits(self.window)

    @property
    def letter(self) -> str:
        """The axis across the slices: x, y or z."""
        return AXES.get(self.axis, self.axis)

    def chosen(self, depth: int) -> range:
        """The indices of the slices out of `depth`; empty where none of them is there."""
        parts = _bounds(self.slices)
        if self.slices in ("middle", "all"):
            return range(depth) if self.slices == "all" else range(depth // 2, depth // 2 + 1)
        if len(parts) == 1:
            index = _index(parts[0], depth - 1 if "." in parts[0] else depth)
            return range(index, index + 1) if index < depth else range(0)
        first = _index(parts[0], depth) if parts[0] else 0
        end = _index(parts[1], depth) if parts[1] else depth
        return range(first, min(end, depth), int(parts[2]) if len(parts) > 2 else 1)


_EXAMPLES = {"slices": "'middle' or '40:110'", "axis": "'axial'", "window": "'auto' or '40,80'"}


def _bounds(slices: str) -> list[str]:
    """The parts of the option `slices`, checked."""
    parts = slices.split(":")
    sound = slices in ("middle", "all") or (
        len(parts) <= 3
        and all(_BOUND.fullmatch(part) for part in parts[:2] if part or len(parts) == 1)
        and all("." not in part or float(part) <= 1 for part in parts[:2] if part)
        and all(re.fullmatch(r"[1-9]\d{0,8}", part, re.ASCII) for part in parts[2:])
    )
    if not sound:
        raise InputError(
            "slices must be middle, all, an index from 0, a fraction of the depth such as 0.5, or "
            f"a range such as 40:110 or 0.25:0.75:2, not {_short(slices)}."
        )
    return parts


def _index(part: str, depth: int) -> int:
    return math.floor(float(part) * depth + 1e-9) if "." in part else int(part)


def _limits(window: str) -> tuple[str, float, float]:
    """The option `window`, checked: "auto", "%" or "", and its two numbers."""
    if window == "auto":
        return "auto", *AUTO_PERCENTILES
    match = _WINDOW.fullmatch(window.replace(" ", ""))
    if match and match[2] == match[4]:
        first, second = float(match[1]), float(match[3])
        if match[2] and 0 <= first < second <= 100:
            return "%", first, second
        if not match[2] and abs(first) < 1e30 and 1e-30 < second < 1e30:
            return "", first, second
    raise InputError(
        "window must be auto, CENTRE,WIDTH in the file's units such as 40,80, or percentiles such "
        f"as 1%,99%, not {_short(window)}."
    )


def _short(value: str) -> str:
    return show(value[:40])


# --------------------------------------------------------------------------- names


def scan_kind(path: str | os.PathLike[str]) -> str | None:
    """What a file is by its extension, or without one by its first bytes: "DICOM", "NIfTI"."""
    name = os.path.basename(os.fspath(path)).lower()
    if name.endswith(_NIFTI_EXTENSIONS):
        return "NIfTI"
    extension = os.path.splitext(name)[1]
    if extension in _DICOM_EXTENSIONS:
        return "DICOM"
    if extension in image_extensions() or not re.fullmatch(r"(\.\d*)?", extension):
        return None
    try:
        # Files of scanners and archives are called IM000001 or 1.2.840.10008; a pipe would be
        # waited for.
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return "DICOM" if file.read(132)[128:] == b"DICM" else None
    except (OSError, ValueError):
        pass
    return None


def is_index_of_a_disc(name: str) -> bool:
    """Whether a file is the table of contents of DICOM files, which lies beside them."""
    return name.upper() == "DICOMDIR"


def file_of(name: str) -> str:
    """The file that a slice is in: "scan.nii.gz#z=75" -> "scan.nii.gz"; others as they are."""
    return _parse(name)[0]


def _parse(name: str) -> tuple[str, str, int]:
    """File, axis and index of a slice; axis "" for a whole file."""
    match = _SLICE.fullmatch(name)
    if match and (match[2] == "frame" or match[1].lower().endswith(_NIFTI_EXTENSIONS)):
        return match[1], match[2], int(match[3])
    return name, "", 0


class ScanReader:
    """Reads DICOM and NIfTI files as one `ScanConfig` says.

    Args:
        config: the settings; None = the defaults.
    """

    def __init__(self, config: ScanConfig | None = None) -> None:
        self.config = ScanConfig() if config is None else config

    def expand(self, root: str | os.PathLike[str], names: Sequence[str]) -> list[str]:
        """Names of files -> names of slices, in order; files of other kinds stay as they are.

        Raises:
            InputError: if a file cannot be read, or has no such slice.
        """
        found: list[str] = []
        for name in names:
            path = os.path.join(root, name)
            kind = scan_kind(path)
            if kind is None or not os.path.exists(path):  # absent ones are told of elsewhere
                found.append(name)
                continue
            with _told(path, kind):
                depth = _frames(path) if kind == "DICOM" else _depth(path, self.config.letter)
            if kind == "DICOM" and depth == 1:
                found.append(name)
                continue
            letter = "frame" if kind == "DICOM" else self.config.letter
            chosen = self.config.chosen(depth)
            if not chosen:
                raise InputError(
                    f"{show(path)} has {depth} slices, numbered from 0, and none of them is "
                    f"{show(self.config.slices)}: choose others."
                )
            found += [f"{name}#{letter}={index}" for index in chosen]
        return found

    def cache_context(self, paths: Sequence[str]) -> str:
        """What pixels of these paths depend on beside the files; "" where none is a scan."""
        kinds = {scan_kind(file): file for file in dict.fromkeys(map(file_of, paths))}
        readers = [_package(kind, kinds[kind]) for kind in ("DICOM", "NIfTI") if kind in kinds]
        if not readers:
            return ""
        versions = " ".join(reader.__version__ for reader in readers)
        return f" {_SCANS_VERSION} {versions} {self.config.window.replace(' ', '')}"

    def chunks(self, paths: Sequence[str], size: int) -> list[tuple[int, int, bool]]:
        """Stretches of `paths` for a thread: first, end, whether they are slices of scans.

        A stretch ends with a file, so that no file is read by two threads, once it has `size`.
        """
        found: list[tuple[int, int, bool]] = []
        for path, group in groupby(range(len(paths)), key=lambda i: file_of(paths[i])):
            indices = list(group)
            is_scan = scan_kind(path) is not None
            if found and found[-1][2] == is_scan and found[-1][1] - found[-1][0] < size:
                found[-1] = found[-1][0], indices[-1] + 1, is_scan
            else:
                found.append((indices[0], indices[-1] + 1, is_scan))
        return found

    def decode(
        self,
        paths: Sequence[str],
        image_size: int,
        out: np.ndarray,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """The pixels of slices, as `expand` names them.

        Args:
            paths: those of one file one after another, so that it is read once.
            image_size: side of the result in pixels.
            out: uint8, (len(paths), image_size, image_size), to be filled.
            stop: asked before every file whether to leave off.

        Raises:
            InputError: if a file or one of its slices cannot be used.
        """
        done = 0
        for path, group in groupby(paths, key=file_of):
            if stop():
                return
            wanted = [_parse(name)[1:] for name in group]
            kind = scan_kind(path) or "DICOM"
            read = _dicom_slices if kind == "DICOM" else _nifti_slices
            with _told(path, kind), _MOST_AT_ONCE:
                for grey in read(path, wanted, self.config):
                    out[done] = to_square(grey, image_size)
                    done += 1


# --------------------------------------------------------------------------- what goes wrong


class _told:
    """A context that turns whatever the readers raise on a damaged file into one sentence."""

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind

    def __enter__(self) -> None:
        try:
            problem = not_a_file(os.stat(self.path))
        except (OSError, ValueError) as error:
            raise self._sentence(error) from error
        if problem:
            raise InputError(f"{show(self.path)} {problem}.")
        _package(self.kind, self.path)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise self._sentence(error) from error

    def _sentence(self, error: Exception) -> InputError:
        reason = system_reason(error, self.path)
        if reason is None:
            reason = f"is damaged or no {self.kind} file: copy it again or remove it"
        return InputError(f"{show(self.path)} {reason}.")


def _package(kind: str, path: str) -> Any:
    """The library that reads files of a kind; `path` is the file it is needed for."""
    name = {"DICOM": "pydicom", "NIfTI": "nibabel"}[kind]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{show(path)} is a {kind} file, and reading those needs {name}: install the package "
            "with its extra [medical]."
        ) from error


def _refuse(path: str, problem: str) -> InputError:
    return InputError(f"{show(path)} {problem}.")


def _check_count(path: str, shape: Sequence[int]) -> None:
    if any(n < 1 for n in shape):
        raise _refuse(path, f"holds no values (its shape is {' x '.join(map(str, shape))})")
    if math.prod(shape) > _MOST_VALUES:
        raise _refuse(path, f"is too large to open safely ({math.prod(shape):.1e} values)")


# --------------------------------------------------------------------------- values -> grey


def _percentile_limits(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The percentiles of values; the extremes where the percentiles are one value."""
    black, white = (float(v) for v in np.percentile(values, (low, high)))
    if black == white:
        black, white = float(values.min()), float(values.max())
    return black, white


def _scale(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Values -> uint8: `black` and less is 0, `white` and more is 255, linear between, rounded."""
    if white <= black:
        return np.zeros(values.shape, np.uint8)
    share = (values.astype(np.float64) - black) / (white - black)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _check_finite(path: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _refuse(
            path, "holds values that are not finite (NaN or infinite): replace them first"
        )


# --------------------------------------------------------------------------- NIfTI


def _open_nifti(path: str) -> Any:
    image = _package("NIfTI", path).load(path)
    if len(image.shape) > 3 and math.prod(image.shape[3:]) != 1:
        shape = " x ".join(map(str, image.shape))
        raise _refuse(path, f"holds more than one volume ({shape}): save one of them by itself")
    if len(image.shape) < 3:
        raise _refuse(path, f"has {len(image.shape)} dimensions where a volume has three")
    _check_count(path, image.shape)
    if image.get_data_dtype().kind not in "iuf":
        raise _refuse(path, "holds colours or complex numbers: save it as grey values")
    return image


def _depth(path: str, letter: str) -> int:
    """Number of slices across an axis, the volume turned to right, anterior, superior."""
    nibabel = _package("NIfTI", path)
    image = _open_nifti(path)
    axes = nibabel.io_orientation(image.affine)[:3, 0]
    if not np.isfinite(axes).all():
        raise _refuse(path, "does not say how it is oriented (its affine is singular): correct it")
    return int(image.shape[axes.tolist().index("xyz".index(letter))])


def _nifti_slices(
    path: str, wanted: Sequence[tuple[str, int]], config: ScanConfig
) -> Iterator[Image.Image]:
    """Slices of a volume; scl_slope and scl_inter applied, turned to the closest of RAS."""
    nibabel = _package("NIfTI", path)
    image = nibabel.as_closest_canonical(_open_nifti(path))
    # float32 holds 16 bits, and whole numbers to 24, exactly.
    with np.errstate(over="ignore"):
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
    values = values.reshape(values.shape[:3])
    _check_finite(path, values)
    kind, first, second = _limits(config.window)
    if kind:
        black, white = _percentile_limits(values, first, second)
    else:
        black, white = first - second / 2, first + second / 2
    for letter, index in wanted:
        axis = "xyz".index(letter)
        if index >= values.shape[axis]:
            raise _refuse(
                path,
                f"has {values.shape[axis]} slices along {letter}, numbered from 0, not {index}",
            )
        # What is left is (x, y), (x, z) or (y, z): to rows and columns, then turned by 180
        # degrees, so that anterior or superior is at the top, right or anterior on the left.
        plane = np.take(values, index, axis).T[::-1, ::-1]
        yield Image.fromarray(_scale(plane, black, white))


# --------------------------------------------------------------------------- DICOM


def _open_dicom(path: str, **options: Any) -> Any:
    pydicom = _package("DICOM", path)
    try:
        data = pydicom.dcmread(path, **options)
    except pydicom.errors.InvalidDicomError as error:
        raise _refuse(
            path, "is not a DICOM file (it lacks the mark DICM): export it again or remove it"
        ) from error
    meta = getattr(data, "file_meta", None)
    directory = pydicom.uid.MediaStorageDirectoryStorage
    if meta is not None and meta.get("MediaStorageSOPClassUID") == directory:
        raise _refuse(path, "is a DICOMDIR, an index without pixels: give the folder it lies in")
    return data


def _frames(path: str) -> int:
    data = _open_dicom(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    return max(1, int(data.get("NumberOfFrames") or 1))


def _dicom_slices(
    path: str, wanted: Sequence[tuple[str, int]], config: ScanConfig
) -> Iterator[Image.Image]:
    """Frames of a file: modality transform, window, inversion (MONOCHROME1), in that order."""
    data = _open_dicom(path)
    colour = _check_dicom(path, data)
    pixels = _package("DICOM", path).pixels
    # Colours other than RGB are turned into it by pydicom.
    try:
        stored = pixels.pixel_array(data)
    except RuntimeError as error:  # every decoder that is here failed
        raise _compressed(path, data.file_meta.TransferSyntaxUID) from error
    if stored.ndim == (3 if colour else 2):
        stored = stored[np.newaxis]
    _check_finite(path, stored)
    limits: tuple[float, float] | None = None
    for _, index in wanted:
        if index >= len(stored):
            raise _refuse(path, f"has {len(stored)} frames, numbered from 0, not {index}")
        if colour:
            yield Image.fromarray(stored[index]).convert("L")
            continue
        header = _header(data, index)
        grey = _windowed(path, stored[index], header, data, config)
        if grey is None:
            if limits is None:
                _, first, second = _limits(config.window)
                values = [
                    pixels.apply_modality_lut(frame, _header(data, i))
                    for i, frame in enumerate(stored)
                ]
                limits = _percentile_limits(np.stack(values), first, second)
            grey = _scale(pixels.apply_modality_lut(stored[index], header), *limits)
        if data.PhotometricInterpretation == "MONOCHROME1":  # the smallest value is white
            grey = 255 - grey
        yield Image.fromarray(grey)


def _check_dicom(path: str, data: Any) -> bool:
    """Whether a file with pixels that can be read is in colour."""
    pydicom = _package("DICOM", path)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        name = data.get("SOPClassUID", "")
        what = getattr(name, "name", "") or "its kind is not told"
        raise _refuse(path, f"is a DICOM file without pixels ({what[:80]}): remove it")
    syntax = data.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax.is_encapsulated:
        try:
            available = pydicom.pixels.get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise _compressed(path, syntax)
    samples = int(data.get("SamplesPerPixel") or 1)
    shape = (int(data.get("NumberOfFrames") or 1), data.Rows, data.Columns, samples)
    _check_count(path, shape)
    kind = str(data.PhotometricInterpretation)
    if kind in ("MONOCHROME1", "MONOCHROME2") and samples == 1:
        return False
    if (kind == "RGB" or kind.startswith("YBR_")) and samples == 3 and data.BitsAllocated == 8:
        return True
    raise _refuse(
        path, f"has colours that are not read ({kind[:40]}, {data.BitsAllocated} bits): "
        "save it in grey or as RGB of 8 bits"
    )  # fmt: skip


def _compressed(path: str, syntax: Any) -> InputError:
    return _refuse(
        path,
        f"is compressed in a way that cannot be read here ({syntax.name[:80]}): install a decoder "
        "such as pylibjpeg[all], or save it uncompressed",
    )


def _header(data: Any, frame: int) -> Any:
    """The elements that turn stored values of one frame into grey."""
    header = _package("DICOM", "").Dataset()
    # pydicom wants these too, to know in which order the bytes of a table stand.
    header.file_meta = data.file_meta
    for name in _GREY:
        if name in data:
            header[name] = data[name]
    shared = data.get("SharedFunctionalGroupsSequence") or ()
    own = data.get("PerFrameFunctionalGroupsSequence") or ()
    for groups in (*shared[:1], *own[frame : frame + 1]):
        for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for element in (groups.get(sequence) or [()])[0]:
                header[element.tag] = element
    return header


def _windowed(
    path: str, stored: np.ndarray, header: Any, data: Any, config: ScanConfig
) -> np.ndarray | None:
    """A frame's grey by a window that is known before its values; None where none is."""
    pydicom = _package("DICOM", path)
    kind, centre, width = _limits(config.window)
    if kind == "%":
        return None
    values = pydicom.pixels.apply_modality_lut(stored, header)
    _check_finite(path, values)
    if not kind:
        return _scale(values, centre - width / 2, centre + width / 2)
    if header.get("VOILUTSequence"):
        entries, first, bits = (int(v) for v in header.VOILUTSequence[0].LUTDescriptor)
        last = first + (entries or 2**16) - 1
        inside = np.clip(np.rint(values), first, last).astype(np.int64)
        return _scale(pydicom.pixels.apply_voi(inside, header), 0, 2**bits - 1)
    if _given(header, "WindowCenter") and _given(header, "WindowWidth"):
        # The standard's own formula, by pydicom; its output range is what 8 bits unsigned span.
        window = pydicom.Dataset()
        window.PhotometricInterpretation = "MONOCHROME2"
        window.BitsStored, window.PixelRepresentation = 8, 0
        for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            if _given(header, name):
                window[name] = header[name]
        try:
            return _scale(pydicom.pixels.apply_windowing(values, window), 0, 255)
        except (ValueError, TypeError, IndexError) as error:
            raise _refuse(
                path, f"has a window that means nothing (centre {header.WindowCenter}, width "
                f"{header.WindowWidth}): give one of your own"
            ) from error  # fmt: skip
    if data.BitsStored <= 8 and stored.dtype.kind == "u" and np.array_equal(values, stored):
        return _scale(stored, 0, 2**data.BitsStored - 1)
    return None


def _given(header: Any, name: str) -> bool:
    return name in header and header[name].value not in (None, "", [])
