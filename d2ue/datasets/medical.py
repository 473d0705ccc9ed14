"""DICOM and NIfTI files -> grey uint8 slices, windowed at their full depth.

Files are read by pydicom and nibabel (the extra `[medical]`). Values are rescaled to the units of
the file (Hounsfield units, say), cut to a window and only then brought to 8 bits. A slice is shown
as radiologists look at it: the patient's right on the left, anterior or superior at the top.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from d2ue.datasets.decode import image_extensions, not_a_file, show, system_reason, to_square
from d2ue.datasets.dicom import dicom_depth, dicom_slices
from d2ue.datasets.grey import limits, package
from d2ue.datasets.nifti import nifti_depth, nifti_slices
from d2ue.errors import InputError

#: Planes and the axes across them, in a volume whose x, y, z lead to right, anterior, superior.
AXES = {"sagittal": "x", "coronal": "y", "axial": "z"}

_DICOM_EXTENSIONS = (".dcm", ".dicom", ".ima")
_NIFTI_EXTENSIONS = (".nii", ".nii.gz")
_SLICE = re.compile(r"(.+)#(x|y|z|frame)=([0-9]{1,9})", re.DOTALL)
_BOUND = re.compile(r"\d{1,9}|[01]?\.\d{1,9}|[01]\.", re.ASCII)
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
        limits(self.window)

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
                depth = (
                    dicom_depth(path) if kind == "DICOM" else nifti_depth(path, self.config.letter)
                )
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
            read = dicom_slices if kind == "DICOM" else nifti_slices
            with _told(path, kind), _MOST_AT_ONCE:
                for grey in read(path, wanted, self.config.window):
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
        package(self.kind, self.path)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise self._sentence(error) from error

    def _sentence(self, error: Exception) -> InputError:
        reason = system_reason(error, self.path)
        if reason is None:
            reason = f"is damaged or no {self.kind} file: copy it again or remove it"
        return InputError(f"{show(self.path)} {reason}.")
