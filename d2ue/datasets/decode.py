"""Files -> grey uint8 pixels: one image, or many images in threads.

The pixels are those of the paper's code: Pillow's `convert("L")` first, then its (antialiased)
bilinear `resize` to a square; the other order gives other pixels for a palette or colour image.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

import numpy as np
import PIL
from PIL import Image

from d2ue.errors import InputError
from d2ue.progress import bar as progress_bar

# Registered by Pillow, but not pictures it can decode: vector graphics that would start another
# program (Ghostscript), and containers that it only recognises.
_NOT_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
# In these the first picture is the whole one; the others are its layers or a second lens.
_FIRST_IS_WHOLE = frozenset({"MPO", "PSD"})
# Raw modes with more than 8 bits a channel, such as "RGB;16B"; "BGR;16" is 5 + 6 + 5 bits a pixel.
_DEEP_RAW_MODE = re.compile(r"(?<!BGR);(10|12|14|16|24|32|64)|^BC6H|^SGI16$")

_CHUNK = 32  # images a thread takes at a time


def show(name: str | os.PathLike[str]) -> str:
    """A file name for an error message: quoted, on one line, printable, not endlessly long."""
    text = repr(os.fspath(name))  # escapes line breaks and bytes that are not UTF-8
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"


def check_image_size(image_size: int) -> int:
    """The side in pixels as an int.

    Raises:
        InputError: if it is not a whole number from 1 to 8192.
    """
    whole = isinstance(image_size, (int, np.integer)) and not isinstance(image_size, bool)
    if not whole or not 1 <= image_size <= 8192:
        raise InputError(
            f"image_size must be a whole number of pixels from 1 to 8192, not {image_size!r:.100}."
        )
    return int(image_size)


@functools.cache
def make_readers() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Formats that are known by their content, and for each extension those to try for it."""
    Image.init()
    pictures = [name for name in Image.ID if name not in _NOT_PICTURES]
    # A format without a signature (TGA, say) is believed only if the file's name says so too:
    # a text file named x.png must not be taken for a picture.
    signed = tuple(name for name in pictures if Image.OPEN[name][1])
    by_extension = {
        extension.lower(): signed if name in signed else (*signed, name)
        for extension, name in Image.registered_extensions().items()
        if name in pictures
    }
    return signed, by_extension


def image_extensions() -> frozenset[str]:
    """Extensions (lower case, with the dot) of the picture formats this Pillow reads."""
    return frozenset(make_readers()[1])


# --------------------------------------------------------------------------- one image


def decode_image(path: str | os.PathLike[str], image_size: int) -> np.ndarray:
    """Reads one 8-bit image as the paper's code does: grey first, then bilinear to a square.

    Grey is Pillow's `convert("L")`, ITU-R 601 luma 0.299 R + 0.587 G + 0.114 B; transparency is
    dropped, not blended. The aspect ratio is not kept. The orientation noted in a photograph's
    EXIF data is not applied. LAB, which Pillow does not turn into grey, goes through sRGB.

    Args:
        path: the file; its format is found by its content, whatever its extension.
        image_size: side of the result in pixels.

    Returns:
        uint8, shape (image_size, image_size), 0 = black, 255 = white.

    Raises:
        InputError: if the file is absent, unreadable, empty, truncated, damaged, too large, not a
            picture, holds several (an animation, a TIFF of many pages), or has more than 8 bits a
            channel (their window has to be chosen, so they are refused until that is built).
    """
    with opened_image(path) as image:
        return to_square(to_grey(image), image_size)


@contextlib.contextmanager
def opened_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """One 8-bit picture as Pillow opens it, for whoever needs more of it than grey pixels.

    Raises:
        InputError: as `decode_image`, also for what goes wrong with the picture in the body.
    """
    try:
        if problem := not_a_file(os.stat(path)):
            raise InputError(f"{show(path)} {problem}.")
        with open(path, "rb") as file, _checked_image(file, path) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # whatever Pillow's two score of parsers raise on a damaged file
        raise InputError(f"{show(path)} {_reason(error, path)}.") from error


def to_grey(image: Image.Image) -> Image.Image:
    """Pillow's `convert("L")`; LAB, which it does not turn into grey, goes through sRGB."""
    try:
        return image.convert("L")
    except ValueError:
        if image.mode != "LAB":
            raise
        return image.convert("RGB").convert("L")


def to_square(grey: Image.Image, image_size: int) -> np.ndarray:
    """The paper's resize: Pillow's bilinear one, to uint8 of shape (image_size, image_size)."""
    small = grey.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.uint8)


def not_a_file(status: os.stat_result) -> str | None:
    """What is wrong with a path before anything is opened (opening a pipe would wait for ever)."""
    if stat.S_ISDIR(status.st_mode):
        return "is a folder with the name of an image: rename or remove it"
    if not stat.S_ISREG(status.st_mode):
        return "is not an ordinary file: replace it with an image"
    if status.st_size == 0:
        return "is empty (0 bytes): copy it again or remove it"
    return None


@contextlib.contextmanager
def _checked_image(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    signed, by_extension = make_readers()
    formats = by_extension.get(os.path.splitext(os.fspath(path))[1].lower(), signed)
    with Image.open(file, formats=formats) as image:
        if _is_deep(image, file):
            raise InputError(
                f"{show(path)} has more than 8 bits a channel, which is refused until it is read "
                "properly: save it with 8 bits, in the grey-level window you want."
            )
        if getattr(image, "is_animated", False) and image.format not in _FIRST_IS_WHOLE:
            raise InputError(
                f"{show(path)} holds more than one picture (pages or frames): "
                "save each as a file of its own."
            )
        yield image


def _is_deep(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the file stores more than 8 bits a channel.

    The mode alone does not tell: Pillow opens 16-bit colour as 8-bit "RGB" without a word.
    """
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "TIFF" and max(image.tag_v2.get(258, (1,)), default=1) > 8:  # BitsPerSample
        return True
    if image.format in ("JPEG2000", "AVIF") and _is_deep_header(file):
        return True
    for tile in image.tile:
        decoder, args = tile[0], tile[3]
        args = args if isinstance(args, tuple) else (args,)
        words = [decoder, *(word for word in args if isinstance(word, str))]
        if any(_DEEP_RAW_MODE.search(word) for word in words):
            return True
        if decoder.startswith("ppm") and isinstance(args[-1], int) and args[-1] > 255:
            return True  # the largest value that the file declares; bitmaps declare none
    return False


def _is_deep_header(file: BinaryIO) -> bool:
    """The bit depth in the headers of JPEG 2000 and AVIF, which Pillow does not pass on."""
    position = file.tell()
    file.seek(0)
    head = file.read(2**20)
    file.seek(position)
    av1 = head.find(b"av1C")  # AV1CodecConfigurationBox: bit 6 of its third byte is high_bitdepth
    if av1 >= 0:
        return bool(head[av1 + 6] & 0x40)
    size_marker = head.find(b"\xff\x4f\xff\x51")  # SOC, SIZ: 3 bytes a component from byte 42 on
    if size_marker < 0:
        return False
    (components,) = struct.unpack_from(">H", head, size_marker + 40)
    depths = head[size_marker + 42 : size_marker + 42 + 3 * components : 3]
    return any((depth & 0x7F) + 1 > 8 for depth in depths)


def _reason(error: Exception, path: str | os.PathLike[str]) -> str:
    """What an error of the system or of Pillow means to the person who owns the file."""
    if told := system_reason(error, path):
        return told
    if isinstance(error, Image.DecompressionBombError):
        return "is too large a picture to open safely: save it smaller"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "is not an image that Pillow can read: replace it with a PNG, JPEG or TIFF file"
    if "truncated" in str(error).lower():
        return "is cut short (truncated): copy it again or remove it"
    return "is damaged or of a kind that Pillow cannot decode: copy it again or remove it"


def system_reason(error: Exception, path: str | os.PathLike[str]) -> str | None:
    """What an error of the system, not of what the file holds, means to its owner; else None."""
    code = getattr(error, "errno", None)
    if code == errno.ENOENT:
        if os.path.islink(path):
            return "is a link to a file that is not there: restore that file or remove the link"
        return "does not exist: restore it or take it off the list"
    if code in (errno.EACCES, errno.EPERM):
        return "may not be read (permission denied): change its permissions"
    if (
        isinstance(code, int) and code != errno.EINVAL
    ):  # EINVAL: a damaged header sent Pillow to a wrong place
        return f"cannot be read ({os.strerror(code)}): check the disk and the name"
    if isinstance(error, MemoryError):
        return "needs more memory than there is: save it smaller"
    return None


# --------------------------------------------------------------------------- many images


class Scans(Protocol):
    """Reads files that hold slices, not pictures; `d2ue.datasets.medical.ScanReader` is one."""

    def chunks(self, paths: Sequence[str], size: int) -> list[tuple[int, int, bool]]:
        """Stretches of `paths` for a thread: first, end, whether they are slices of scans."""

    def decode(
        self, paths: Sequence[str], image_size: int, out: np.ndarray, stop: Callable[[], bool]
    ) -> None:
        """Fills `out` with the pixels of slices, until `stop` says so."""


def decode_files(
    paths: Sequence[str],
    image_size: int,
    *,
    progress: bool = True,
    scans: Scans | None = None,
) -> np.ndarray:
    """Decodes files, in order.

    Args:
        paths: the files.
        image_size: side of the result in pixels.
        progress: show a bar once decoding has taken two seconds.
        scans: what reads those of the paths that are slices of scans; None: all are pictures.

    Returns:
        uint8, shape (len(paths), 1, image_size, image_size).

    Raises:
        InputError: for the first file, in the order of `paths`, that `decode_image` refuses; or if
            the pixels of all do not fit into memory.
    """
    try:
        images = np.empty((len(paths), 1, image_size, image_size), np.uint8)
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{len(paths)} images of {image_size} x {image_size} pixels do not fit into memory: "
            "choose a smaller image_size or fewer images."
        ) from error
    _decode_in_threads(paths, images, progress, scans)
    return images


def _decode_in_threads(
    paths: Sequence[str], images: np.ndarray, progress: bool, scans: Scans | None
) -> None:
    """Fills `images`; Pillow lets go of the interpreter while it decodes, so threads pay."""
    stop = threading.Event()
    make_readers()  # Pillow's registration of formats is not made for two threads at once

    if scans is None:
        starts = range(0, len(paths), _CHUNK)
        chunks = [(first, min(first + _CHUNK, len(paths)), False) for first in starts]
    else:
        chunks = scans.chunks(paths, _CHUNK)

    def work(first: int, end: int, are_scans: bool) -> int:
        size = images.shape[-1]
        if are_scans and scans is not None:
            scans.decode(paths[first:end], size, images[first:end, 0], stop.is_set)
        for i in () if are_scans else range(first, end):
            if stop.is_set():
                break
            images[i, 0] = decode_image(paths[i], size)
        return end - first

    bar = progress_bar(
        total=len(paths), desc="decoding", unit="image", delay=2, leave=False, disable=not progress
    )
    pool = ThreadPoolExecutor(thread_count(), thread_name_prefix="decode")
    with bar, quiet_readers():
        try:
            jobs: list[Future[int]] = [pool.submit(work, *chunk) for chunk in chunks]
            for job in jobs:  # in order, so that the first bad file is the one reported
                bar.update(job.result())
        finally:  # also on Ctrl-C: each thread ends after the image it has in hand
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def thread_count() -> int:
    """Threads to decode with: one a core, eight at most."""
    if hasattr(os, "sched_getaffinity"):  # honours the share of a container; not on macOS
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


@contextlib.contextmanager
def quiet_readers() -> Iterator[None]:
    """Hides readers' warnings about metadata; entered once, as filters are not thread-safe."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|pydicom\.|nibabel\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
