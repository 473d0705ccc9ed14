"""A folder of images on disk -> `Dataset` or `ImageSet`.

Two layouts are read. The published one is that of the Med-AD benchmarks:

    folder/data.json    {"train": {"0": [names]}, "test": {"0": [names], "1": [names]}}
    folder/images/      the files named there; 0 = normal, 1 = abnormal
    folder/boxes.json   optional: where abnormal test images are so (see d2ue.datasets.boxes)

Another split of the same images may lie beside it, such as folder/data.cleaned.json; it is read
where its path is given instead of the folder's. A plain folder holds images and no data.json;
sub-folders are read too. Images are pictures, or slices of DICOM and NIfTI files (see
`d2ue.datasets.medical`).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from d2ue.datasets.boxes import match_boxes
from d2ue.datasets.decode import (
    check_image_size,
    decode_files,
    image_extensions,
    quiet_readers,
    show,
)
from d2ue.datasets.listing import (
    Split,
    check_printable,
    check_split,
    first_repeated,
    read_json,
    read_split,
    unreadable,
)
from d2ue.datasets.medical import (
    ScanConfig,
    ScanReader,
    file_of,
    is_index_of_a_disc,
    scan_kind,
)
from d2ue.datasets.results_folder import is_result
from d2ue.datasets.types import ABNORMAL, NORMAL, Dataset, ImageSet
from d2ue.errors import InputError

DATA_JSON = "data.json"
# A sub-folder of such a name says "not all of this is normal training images".
_SPLIT_NAME = re.compile(
    r"(train|test)(ing)?|val(id|idation)?|(ab)?normal|good|bad|anomal\w*", re.I
)


def load_folder(
    folder: str | os.PathLike[str],
    image_size: int = 64,
    *,
    progress: bool = True,
    scan: ScanConfig | None = None,
) -> Dataset:
    """Loads images to train on and, in the published layout, those to test on.

    Images are turned grey and made square as the paper's code does (see `decode_image`).

    Args:
        folder: the published layout (`images/` and `data.json`; train/unlabeled is ignored), or a
            plain folder of normal images, searched with its sub-folders. Hidden files and files
            that are, by their names, neither pictures nor DICOM nor NIfTI are passed over. Or the
            path of a .json file beside images/, another split in the published layout.
        image_size: side of the images in pixels.
        progress: show a bar once decoding has taken two seconds.
        scan: which slices of DICOM and NIfTI files to take, and their window; None = the defaults
            of `ScanConfig`. Pictures pay no heed to it. A slice is called "scan.nii.gz#z=75" or
            "scan.dcm#frame=3", and may be listed under that name in data.json.

    Returns:
        The data set, named after the folder (and the split, see `listing_name`). `train`: images
        (n, 1, image_size, image_size) uint8, labels all 0. `test`: the same with labels 0 and 1,
        normal images first, and boxes where a boxes.json lies beside data.json; None for a plain
        folder or a data.json without test images. Names are those of data.json, in its order, or
        of the files, relative to the folder with "/", in natural order ("2.png" before "10.png").

    Raises:
        InputError: if the folder, its data.json or any image is not usable; one sentence says
            what is wrong, where, and what to do.
    """
    image_size = check_image_size(image_size)
    folder, listing = find_listing(folder)
    name = listing_name(folder, listing)
    if listing is None and not has_data_json(folder):
        _refuse_mixed(folder)
        names = find_images(folder, refuse_splits=True)
        reader, (names,) = _slices(folder, scan, names)
        return Dataset(name, _read(folder, names, image_size, reader, NORMAL, progress=progress))
    listing = listing or folder / DATA_JSON
    split, reader = _choose_slices(listing, read_split(listing), scan)
    if not split.train:
        raise InputError(
            f"{show(listing)} lists no normal training image under train/0: "
            "add the names of at least one batch of them."
        )
    tested = split.normal + split.abnormal
    boxes = _read_boxes(folder, split)
    both = _read(
        folder / "images",
        split.train + tested,
        image_size,
        reader,
        listing=listing,
        progress=progress,
    )
    # Slices, not copies: the pixels are in memory once.
    n = len(split.train)
    train = ImageSet(both.images[:n], both.names[:n], np.full(n, NORMAL, np.int8))
    test = None
    if tested:
        test = ImageSet(both.images[n:], both.names[n:], _labels(split), boxes=boxes)
    return Dataset(name, train, test)


def load_images(
    folder_or_paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    image_size: int = 64,
    *,
    progress: bool = True,
    scan: ScanConfig | None = None,
) -> ImageSet:
    """Loads images to score.

    Args:
        folder_or_paths: a folder in the published layout (its test images are loaded), a plain
            folder (all its images), one image file, or a list of image files; or a .json file, as
            for `load_folder`.
        image_size: side of the images in pixels.
        progress: show a bar once decoding has taken two seconds.
        scan: as for `load_folder`.

    Returns:
        images (n, 1, image_size, image_size) uint8. Labels 0 and 1 in the published layout, normal
        images first, else None. Boxes and names as `load_folder` gives them; for files, the paths
        as given.

    Raises:
        InputError: as `load_folder`; also if data.json lists no test images.
    """
    image_size = check_image_size(image_size)
    if not isinstance(folder_or_paths, (str, bytes, os.PathLike)):
        return _read_paths(folder_or_paths, image_size, progress, scan)
    path = _as_path(folder_or_paths)
    if os.path.isfile(file_of(path)) and not _is_listing(folder_or_paths):
        return _read_paths([folder_or_paths], image_size, progress, scan)
    folder, listing = find_listing(folder_or_paths)
    if listing is None and not has_data_json(folder):
        reader, (names,) = _slices(folder, scan, find_images(folder))
        return _read(folder, names, image_size, reader, progress=progress)
    listing = listing or folder / DATA_JSON
    split, reader = _choose_slices(listing, read_split(listing), scan)
    names = split.normal + split.abnormal
    if not names:
        raise InputError(
            f"{show(listing)} lists no test images under test/0 and test/1: "
            "add them, or give a plain folder of images."
        )
    boxes = _read_boxes(folder, split)
    found = _read(folder / "images", names, image_size, reader, listing=listing, progress=progress)
    return ImageSet(found.images, found.names, _labels(split), boxes=boxes)


def _labels(split: Split) -> np.ndarray:
    return np.repeat(
        np.array([NORMAL, ABNORMAL], np.int8), [len(split.normal), len(split.abnormal)]
    )


def _read_boxes(folder: Path, split: Split) -> tuple[np.ndarray, ...] | None:
    """The test images' boxes in the order of normal, then abnormal; before minutes of decoding."""
    path = folder / "boxes.json"
    if not os.path.lexists(path):
        return None
    # Training images are looked up too: a box on one of them would mean that it is not normal.
    names = split.train + split.normal + split.abnormal
    labels = np.concatenate([np.full(len(split.train), NORMAL, np.int8), _labels(split)])
    return match_boxes(path, read_json(path), names, labels)[len(split.train) :]


# --------------------------------------------------------------------------- which folder


def _as_path(path: str | os.PathLike[str]) -> str:
    try:
        text = os.fsdecode(path)
    except TypeError as error:
        raise InputError(f"a path is expected, not a {type(path).__name__}.") from error
    if not text or "\0" in text:
        raise InputError(f"{show(text)} is not the name of a file or folder: give a path.")
    return text


def _is_listing(path: str | os.PathLike[str]) -> bool:
    return os.path.splitext(_as_path(path))[1].lower() == ".json"


def find_listing(path: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """A data set's folder and, where a .json file beside its images/ is given, that file.

    Raises:
        InputError: if it is neither a folder nor such a file.
    """
    if not _is_listing(path) or os.path.isdir(path):
        return existing_folder(path), None
    listing = Path(_as_path(path))
    if not os.path.lexists(listing):
        raise InputError(f"{show(listing)} does not exist: give the path of one that does.")
    if not os.path.isdir(listing.parent / "images"):
        raise InputError(
            f"{show(listing)} has no folder images/ beside it: put the split into the folder of "
            "its images, beside data.json."
        )
    return listing.parent, listing


def listing_name(folder: Path, listing: Path | None = None) -> str:
    """What a data set is called: its folder, and for a split beside data.json that split too.

    So results of `brain-mri/data.cleaned.json` stand under `brain-mri-cleaned`, not under the
    published split's name.
    """
    name = folder.resolve().name or str(folder)
    if listing is None or listing.name == DATA_JSON:
        return name
    label = re.sub(r"[^0-9A-Za-z]+", "-", listing.stem.removeprefix("data")).strip("-")
    return f"{name}-{label or 'other'}"


def existing_folder(folder: str | os.PathLike[str]) -> Path:
    """A folder as a path, refused where there is none."""
    path = Path(_as_path(folder))
    try:
        with os.scandir(path):
            return path
    except FileNotFoundError as error:
        raise InputError(f"{show(path)} does not exist: give the path of one that does.") from error
    except NotADirectoryError as error:
        raise InputError(f"{show(path)} is a file: give the path of a folder.") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def has_data_json(folder: Path) -> bool:
    """Whether a folder is of the published layout."""
    if os.path.lexists(folder / "data.json"):
        return True
    if os.path.isdir(folder / "images"):
        raise InputError(
            f"{show(folder)} has a folder images/ but no data.json: add the data.json of the "
            "published layout, or give the folder images/ itself if all its images are normal."
        )
    return False


def _refuse_mixed(folder: Path) -> None:
    """The images/ of the published layout holds normal and abnormal ones: not to be trained on."""
    parent = folder.resolve().parent
    if folder.resolve().name == "images" and os.path.isfile(parent / "data.json"):
        raise InputError(
            f"{show(folder)} holds normal and abnormal images of the data.json beside it: "
            f"give {show(parent)} to train on the normal ones."
        )


# --------------------------------------------------------------------------- a plain folder


def find_images(folder: Path, *, refuse_splits: bool = False) -> list[str]:
    """Names of all images below a folder, relative to it, in natural order."""
    names = []
    if is_result(folder):
        raise InputError(
            f"{show(folder)} holds results of this program, not images to work on: give the "
            "folder of the images."
        )
    for below, entry in _walk(folder):
        if refuse_splits:
            _refuse_split(folder / below, entry)
        # Also a folder with the name of a picture: decoding it says so.
        if _has_extension(entry.name) or _is_scan(entry):
            names.append(posixpath.join(below, entry.name))
            check_printable(folder, names[-1])
    if not names:
        raise InputError(
            f"{show(folder)} holds no images: put PNG, JPEG, TIFF, DICOM or NIfTI files there, "
            "or images/ and data.json in the published layout."
        )
    return sorted(names, key=_natural)


def _has_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_extensions()


def _is_scan(entry: os.DirEntry[str]) -> bool:
    # A folder "scan.nii", which some archives have around the file of that name, is searched.
    is_file = not os.path.isdir(entry.path) and not is_index_of_a_disc(entry.name)
    return is_file and scan_kind(entry.path) is not None


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below a folder that is not hidden, with the folder it is in (relative, "/")."""
    waiting, seen = [""], set()
    while waiting:
        below = waiting.pop()
        here = folder / below
        try:
            status = os.stat(here)
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(here, error) from error
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was read already
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in found:
            if entry.name.startswith("."):
                continue
            yield below, entry
            if os.path.isdir(entry.path) and not _has_extension(entry.name):
                if is_result(entry.path):  # maps, reports and pages, with pictures of their own
                    continue
                waiting.append(posixpath.join(below, entry.name))


def _refuse_split(here: Path, entry: os.DirEntry[str]) -> None:
    """Keeps a folder with a split of its own from being trained on as if all of it were normal."""
    split = _SPLIT_NAME.fullmatch(entry.name) and os.path.isdir(entry.path)
    if split or entry.name == "data.json":
        raise InputError(
            f"{show(here)} holds {show(entry.name)}, so not all images below it may be normal: "
            "give the folder that holds the normal training images only."
        )


def _natural(name: str) -> tuple:
    """Sort key: numbers by value, so that 2 comes before 10; equal values by their spelling."""
    parts = re.split(r"([0-9]+)", name)
    # Every other part is a number; its length decides first, which spares int() its digit limit.
    numbers = (part.lstrip("0") for part in parts[1::2])
    values = [(len(digits), digits) for digits in numbers]
    return ([x for pair in zip(parts[0::2], [*values, (0, "")], strict=True) for x in pair], name)


# --------------------------------------------------------------------------- data.json


def _choose_slices(
    listing: Path, split: Split, scan: ScanConfig | None
) -> tuple[Split, ScanReader | None]:
    """The split with slices in the places of scans, and what reads them."""
    images = listing.parent / "images"
    reader, slices = _slices(images, scan, split.train, split.normal, split.abnormal)
    if reader is not None:
        split = Split(*slices)
        for names in slices:
            if twice := first_repeated(names):
                raise InputError(f"{show(listing)} lists {show(twice)} more than once: keep one.")
        check_split(listing, split)
    return split, reader


def _slices(
    root: str | Path, scan: ScanConfig | None, *lists: list[str]
) -> tuple[ScanReader | None, list[list[str]]]:
    """Lists of files -> lists of images, and what reads those that are slices of scans."""
    if not any(
        scan_kind(file_of(os.path.join(root, name))) is not None
        for names in lists
        for name in names
    ):
        return None, list(lists)
    reader = ScanReader(scan)
    with quiet_readers():
        return reader, [reader.expand(root, names) for names in lists]


# --------------------------------------------------------------------------- names -> pixels


def _read(
    root: str | Path,
    names: Sequence[str],
    image_size: int,
    scans: ScanReader | None,
    label: int | None = None,
    *,
    listing: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """The images `names` below `root`; those that a `listing` names may be absent."""
    paths = [os.path.join(root, name) for name in names]
    if listing is not None:
        _check_present(root, names, paths, listing, scans)
    images = decode_files(paths, image_size, progress=progress, scans=scans)
    labels = None if label is None else np.full(len(names), label, np.int8)
    return ImageSet(images, tuple(names), labels)


def _check_present(
    root: str | Path,
    names: Sequence[str],
    paths: Sequence[str],
    listing: Path,
    scans: ScanReader | None,
) -> None:
    """A look whether all files of a list are there; what else is wrong with one, decoding says."""
    absent = []
    for name, path in zip(names, paths, strict=True):
        try:
            os.stat(path if scans is None else file_of(path))
        except FileNotFoundError:
            absent.append(name)
        except (OSError, ValueError):
            pass  # decoding meets the file again and says what is wrong with it
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise InputError(
            f"{listing.name} lists {show(absent[0])}{more}, absent from {show(root)}: "
            f"restore the files or take them out of {listing.name}."
        )


def _read_paths(
    paths: Sequence[str | os.PathLike[str]],
    image_size: int,
    progress: bool,
    scan: ScanConfig | None,
) -> ImageSet:
    try:
        names = [_as_path(path) for path in paths]
    except TypeError as error:
        raise InputError(
            f"a folder or a list of image files is expected, not a {type(paths).__name__}."
        ) from error
    if not names:
        raise InputError("the list of image files is empty: give at least one.")
    for name in names:
        check_printable(Path(), name)
    if twice := first_repeated(names):
        raise InputError(f"{show(twice)} is given more than once: give it once.")
    reader, (names,) = _slices("", scan, names)
    return _read("", names, image_size, reader, progress=progress)
