"""DICOM frames -> grey pictures as PS3.3 has them shown; pydicom reads and decodes the files.

In this order: samples without their unused bits, modality transform, window, inversion
(MONOCHROME1), and last the pixels that are no part of the picture (padding, outside the shutter),
which are black and tell nothing of black and white.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from d2ue.datasets.grey import (
    check_count,
    check_finite,
    limits,
    package,
    percentile_limits,
    refuse,
    scale,
)
from d2ue.errors import InputError

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
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFERRED = 2**20  # bytes; larger elements are read when they are asked for
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81",
          "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")  # fmt: skip


def dicom_depth(path: str) -> int:
    """Number of frames."""
    data = _open(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    return max(1, int(data.get("NumberOfFrames") or 1))


def dicom_slices(
    path: str, wanted: Sequence[tuple[str, int]], window: str
) -> Iterator[Image.Image]:
    """Frames of a file; of many frames only those that are needed are in memory.

    Args:
        path: the file.
        wanted: "" or "frame", and the index of each frame.
        window: as `ScanConfig.window`.
    """
    file = _File(path)
    limits_of_file: tuple[float, float] | None = None
    for _, index in wanted:
        if index >= file.depth:
            raise refuse(path, f"has {file.depth} frames, numbered from 0, not {index}")
        frame = file.frame(index)
        if file.colour:
            yield Image.fromarray(frame).convert("L")
            continue
        header = file.header(index)
        samples, outside = file.samples(frame)
        values = _modality(path, samples, header)
        check_finite(path, values)
        grey = _windowed(path, samples, values, header, file.bits, window)
        if grey is None:
            if limits_of_file is None:
                limits_of_file = _percentiles(path, file, window)
            grey = scale(values, *limits_of_file)
        if file.data.PhotometricInterpretation == "MONOCHROME1":  # the smallest value is white
            grey = 255 - grey
        yield Image.fromarray(np.where(outside, np.uint8(0), grey))


class _File:
    """A DICOM file whose frames are read one by one."""

    def __init__(self, path: str) -> None:
        pydicom = package("DICOM", path)
        self.path = path
        # What is compressed as a whole cannot be read in parts.
        meta = pydicom.filereader.read_file_meta_info(path) if _has_mark(path) else {}
        deflated = meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian
        data = self.data = _open(path, **({} if deflated else {"defer_size": _DEFERRED}))
        self.colour = _check(path, data)
        self.depth = int(data.get("NumberOfFrames") or 1)
        self.source = path if self.depth > 1 and not deflated else data
        self.native = not data.file_meta.TransferSyntaxUID.is_encapsulated
        element = data.get_item(next(name for name in _PIXELS if name in data))
        length = getattr(element, "length", 0)  # what was read already is whole
        end = getattr(element, "value_tell", 0) + (0 if length == 0xFFFFFFFF else length)
        if not deflated and end > os.path.getsize(path):
            raise refuse(path, "is cut short (truncated): copy it again or remove it")
        self.bits = int(data.get("BitsStored") or 0)  # float pixels have none
        high = data.get("HighBit")
        self.shift = 0 if high is None or not self.bits else int(high) + 1 - self.bits
        if self.shift < 0 or (self.shift and not self.native):
            raise refuse(
                path,
                f"keeps {self.bits} bits below bit {high}, which cannot be read: export it again",
            )

    def frame(self, index: int) -> np.ndarray:
        """Samples as they are stored, colours as RGB."""
        # pydicom cuts samples to the lowest bits; where they lie higher is seen to in `samples`.
        whole = {"bits_stored": self.data.BitsAllocated} if self.native and self.bits else {}
        pixels = package("DICOM", self.path).pixels
        try:
            frame = pixels.pixel_array(self.source, index=index, **whole)
        except RuntimeError as error:  # every decoder that is here failed
            raise _compressed(self.path, self.data.file_meta.TransferSyntaxUID) from error
        if self.data.PhotometricInterpretation == "PALETTE COLOR":
            colours = pixels.apply_color_lut(frame, self._palette())
            return (colours >> (8 * colours.itemsize - 8)).astype(np.uint8)
        return frame

    def _palette(self) -> Any:
        """The tables of colours; pydicom takes their words for little-endian in every file."""
        palette = package("DICOM", self.path).Dataset()
        palette.update({e.tag: e for e in self.data if "PaletteColor" in e.keyword})
        if not self.data.file_meta.TransferSyntaxUID.is_little_endian:
            for element in palette:
                if isinstance(element.value, bytes):
                    words = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
                    palette.add_new(element.tag, element.VR, words)
        return palette

    def samples(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A frame without what lies in unused bits, and which pixels are no part of the picture."""
        samples, unused = frame, 8 * frame.itemsize - self.bits - self.shift
        if frame.dtype.kind in "iu" and (unused or self.shift):
            samples = (frame << unused) >> (unused + self.shift)
            lossy = self.data.file_meta.TransferSyntaxUID in _LOSSY
            if lossy and not np.array_equal(samples, frame):
                raise refuse(
                    self.path, f"holds values of more than its {self.bits} bits: export it again"
                )
        outside = self._padding(frame) | self._padding(samples)
        outside |= _outside_shutter(self.data, frame.shape)
        if outside.any():
            inside = samples[~outside]
            samples = np.where(outside, inside.min() if inside.size else 0, samples)
            samples = samples.astype(frame.dtype)
        return samples, outside

    def _padding(self, samples: np.ndarray) -> np.ndarray:
        prefix = {"f4": "Float", "f8": "DoubleFloat"}.get(samples.dtype.str[1:], "")
        first = self.data.get(f"{prefix}PixelPaddingValue")
        if first is None or first == "":
            return np.zeros(samples.shape, bool)
        last = self.data.get(f"{prefix}PixelPaddingRangeLimit")
        ends = [first, first if last is None or last == "" else last]
        if samples.dtype.kind == "f":
            low, high = sorted(float(v) for v in ends)
            return np.isnan(samples) if np.isnan(low) else (samples >= low) & (samples <= high)
        # Its type may be the other one of US and SS.
        low, high = sorted(int(v) for v in np.array(ends, np.int64).astype(samples.dtype))
        return (samples >= low) & (samples <= high)

    def header(self, frame: int) -> Any:
        """The elements that turn stored values of one frame into grey."""
        header = package("DICOM", self.path).Dataset()
        # pydicom wants these too, to know in which order the bytes of a table stand.
        header.file_meta = self.data.file_meta
        for name in _GREY:
            if name in self.data:
                header[name] = self.data[name]
        shared = self.data.get("SharedFunctionalGroupsSequence") or ()
        each = self.data.get("PerFrameFunctionalGroupsSequence") or ()
        for groups in (*shared[:1], *each[frame : frame + 1]):
            for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for element in (groups.get(sequence) or [()])[0]:
                    header[element.tag] = element
        return header


def _percentiles(path: str, file: _File, window: str) -> tuple[float, float]:
    """Black and white by the percentiles of all frames, one frame in memory at a time.

    Values of 16 bits are counted, so that memory does not grow with their number.
    """
    _, first, second = limits(window)
    counts: dict[str, tuple[Any, np.ndarray, np.dtype]] = {}
    parts = []
    for index in range(file.depth):
        samples, outside = file.samples(file.frame(index))
        header = file.header(index)
        inside = samples[~outside]
        if samples.dtype.kind in "iu" and samples.itemsize <= 2:
            key = str(header)
            empty = (header, np.zeros(2**16, np.int64), samples.dtype)
            _, sums, _ = counts.setdefault(key, empty)
            sums += np.bincount(inside.astype(np.int64) + 2**15 * (samples.dtype.kind == "i"),
                                minlength=2**16)  # fmt: skip
        else:
            parts.append(_modality(path, inside, header).astype(np.float32))
    for header, sums, kind in counts.values():
        there = np.flatnonzero(sums)
        stored = (there - 2**15 * (kind.kind == "i")).astype(kind)
        parts.append(_modality(path, stored, header).astype(np.float64))
    values = np.concatenate(parts)
    if not values.size:
        return 0.0, 0.0
    check_finite(path, values)
    weights = [sums[sums > 0] for _, sums, _ in counts.values()]
    return percentile_limits(values, first, second, np.concatenate(weights) if weights else None)


def _has_mark(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _open(path: str, **options: Any) -> Any:
    pydicom = package("DICOM", path)
    try:
        data = pydicom.dcmread(path, **options)
    except pydicom.errors.InvalidDicomError as error:
        raise refuse(
            path, "is not a DICOM file (it lacks the mark DICM): export it again or remove it"
        ) from error
    meta = getattr(data, "file_meta", None)
    directory = pydicom.uid.MediaStorageDirectoryStorage
    if meta is not None and meta.get("MediaStorageSOPClassUID") == directory:
        raise refuse(path, "is a DICOMDIR, an index without pixels: give the folder it lies in")
    return data


def _check(path: str, data: Any) -> bool:
    """Whether a file with pixels that can be read is in colour."""
    pydicom = package("DICOM", path)
    if not any(name in data for name in _PIXELS):
        name = data.get("SOPClassUID", "")
        what = getattr(name, "name", "") or "its kind is not told"
        raise refuse(path, f"is a DICOM file without pixels ({what[:80]}): remove it")
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
    check_count(path, shape)
    kind = str(data.PhotometricInterpretation)
    if kind in ("MONOCHROME1", "MONOCHROME2") and samples == 1:
        return False
    if (kind == "RGB" or kind.startswith("YBR_")) and samples == 3 and data.BitsAllocated == 8:
        return True
    if kind == "PALETTE COLOR" and samples == 1 and data.BitsAllocated in (8, 16):
        return True
    raise refuse(
        path, f"has colours that are not read ({kind[:40]}, {data.BitsAllocated} bits): "
        "save it in grey or as RGB of 8 bits"
    )  # fmt: skip


def _compressed(path: str, syntax: Any) -> InputError:
    return refuse(
        path,
        f"is compressed in a way that cannot be read here, or is damaged ({syntax.name[:80]}): "
        "copy it again, install a decoder such as pylibjpeg[all], or save it uncompressed",
    )


def _modality(path: str, samples: np.ndarray, header: Any) -> np.ndarray:
    """Stored values -> the units of the file (PS3.3 C.11.1)."""
    if header.get("ModalityLUTSequence"):
        return _looked_up(samples, *_table(path, header.ModalityLUTSequence[0], header))
    if _given(header, "RescaleSlope") and _given(header, "RescaleIntercept"):
        return samples * float(header.RescaleSlope) + float(header.RescaleIntercept)
    return samples


def _windowed(
    path: str, samples: np.ndarray, values: np.ndarray, header: Any, bits: int, window: str
) -> np.ndarray | None:
    """A frame's grey by a window that is known before its values; None where none is."""
    pydicom = package("DICOM", path)
    kind, centre, width = limits(window)
    if kind == "%":
        return None
    if not kind:
        return scale(values, centre - width / 2, centre + width / 2)
    if header.get("VOILUTSequence"):
        first, entries = _table(path, header.VOILUTSequence[0], header)
        # White is the table's largest value: descriptors say 16 bits where entries fill 12.
        return scale(_looked_up(np.rint(values), first, entries), 0, int(entries.max()))
    if _given(header, "WindowCenter") and _given(header, "WindowWidth"):
        # The standard's own formula, by pydicom; its output range is what 8 bits unsigned span.
        shown = pydicom.Dataset()
        shown.PhotometricInterpretation = "MONOCHROME2"
        shown.BitsStored, shown.PixelRepresentation = 8, 0
        for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            if _given(header, name):
                shown[name] = header[name]
        try:
            return scale(pydicom.pixels.apply_windowing(values, shown), 0, 255)
        except (ValueError, TypeError, IndexError) as error:
            raise refuse(
                path, f"has a window that means nothing (centre {header.WindowCenter}, width "
                f"{header.WindowWidth}): give one of your own"
            ) from error  # fmt: skip
    if 0 < bits <= 8 and samples.dtype.kind == "u" and np.array_equal(values, samples):
        return scale(samples, 0, 2**bits - 1)
    return None


def _looked_up(values: np.ndarray, first: int, entries: np.ndarray) -> np.ndarray:
    """Values through a lookup table; those beyond its ends take the value there."""
    return entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)]


def _table(path: str, item: Any, header: Any) -> tuple[int, np.ndarray]:
    """A lookup table: the first value it maps, and its entries (PS3.3 C.11.1.1.1).

    Entries are words, or bytes packed into words, whatever width the descriptor says.
    """
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count % 2**16 or 2**16  # 0 means 65536; more than 32767 may be given as negative
    data = item.LUTData
    if isinstance(data, bytes):
        packed = np.frombuffer(data, np.uint8)
        if not header.file_meta.TransferSyntaxUID.is_little_endian:
            packed = packed[: len(packed) // 2 * 2].view(">u2").astype("<u2").view(np.uint8)
    else:
        packed = np.asarray(data, np.int64).astype("<u2").view(np.uint8)
    if len(packed) == 2 * count:
        return first, packed.view("<u2").astype(np.int64)
    if bits == 8 and len(packed) in (count, count + count % 2):
        return first, packed[:count].astype(np.int64)
    raise refuse(
        path, f"has a lookup table of {len(packed)} bytes where {count} entries are told: "
        "export it again"
    )  # fmt: skip


def _outside_shutter(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels the file's own display shutter hides (PS3.3 C.7.6.11)."""
    kinds = data.get("ShutterShape") or ()
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    y, x = np.mgrid[1 : shape[0] + 1, 1 : shape[1] + 1]  # DICOM counts from 1
    seen = np.ones(shape, bool)
    if "RECTANGULAR" in kinds:
        seen &= (x > data.ShutterLeftVerticalEdge) & (x < data.ShutterRightVerticalEdge)
        seen &= (y > data.ShutterUpperHorizontalEdge) & (y < data.ShutterLowerHorizontalEdge)
    if "CIRCULAR" in kinds:
        row, column = data.CenterOfCircularShutter
        seen &= (y - row) ** 2 + (x - column) ** 2 <= data.RadiusOfCircularShutter**2
    if "POLYGONAL" in kinds:
        corners = np.asarray(data.VerticesOfThePolygonalShutter, int).reshape(-1, 2)
        mask = Image.new("1", shape[::-1])
        ImageDraw.Draw(mask).polygon([(int(c) - 1, int(r) - 1) for r, c in corners], fill=1)
        seen &= np.asarray(mask)
    return ~seen


def _given(header: Any, name: str) -> bool:
    return name in header and header[name].value not in (None, "", [])
