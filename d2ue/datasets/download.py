"""Fetches one of the paper's data sets from Zenodo: whole and checked, or not at all.

    folder/NAME/                  the set, renamed to this name when everything in it was checked
    folder/.download-NAME/        the work: archive, and what is extracted from it
    folder/.download-NAME.lock    one download of a set at a time, however many processes ask

pooch compares the archive with the checksum that the record publishes before it is opened. That
guards against what happens on the way; whoever can change the record can change both. A download
that was killed leaves work behind; the next one sweeps it, but takes a whole archive over.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from d2ue.datasets.decode import show
from d2ue.datasets.folder import existing_folder
from d2ue.datasets.listing import listed_names, parse_listing, read_split
from d2ue.datasets.registry import RECORD, ZENODO, Source, check_registered, find_below
from d2ue.errors import D2UEError, InputError
from d2ue.progress import bar as progress_bar

_TIMEOUT = 60.0  # seconds without a byte
_DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _Remote:
    """The archive as the record lists it."""

    url: str
    checksum: str  # "md5:..."
    size: int | None


def download(
    name: str,
    folder: str | os.PathLike[str],
    *,
    base_url: str = ZENODO,
    progress: bool = True,
) -> Path:
    """Puts one of the paper's data sets into a folder, or finds that it is there.

    Args:
        name: a key of `SOURCES` that is public.
        folder: made if need be; the set comes to lie in folder/name.
        base_url: where the Zenodo record is served: Zenodo, or a mirror of its addresses.
        progress: show bars.

    Returns:
        The folder of the set, with images/ and data.json. One that is there already, also under
        another spelling of its name (see `find_folder`), is returned as it is.

    Raises:
        InputError: if the name is unknown or not public, or the folder cannot be written, has
            something else under the name or too little space.
        D2UEError: if pooch is not installed, the record cannot be reached, or the archive is not
            the published one or not fit to be used. What was there before stays in all cases.
    """
    source = check_registered(name)
    if source.archive is None:
        raise InputError(
            f"{source.title} cannot be downloaded: it is an in-house set that is not public."
        )
    folder = Path(os.path.abspath(folder))
    if found := _there_already(source, folder):
        return found
    if not hasattr(tarfile, "data_filter"):
        raise D2UEError("Extracting safely needs Python 3.11.4 or newer: update Python.")
    _pooch()
    remote = _look_up(source.archive, base_url.rstrip("/"))  # before anything is made on the disk
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".download-{name}.lock")
        lock.acquire()
    try:
        if found := _there_already(source, folder):  # another process was faster
            return found
        return _fetch(source.archive, remote, folder, name, progress)
    finally:
        lock.release()


def _there_already(source: Source, folder: Path) -> Path | None:
    """The set, if it is there.

    Raises:
        InputError: if something else has taken its name.
    """
    if not os.path.lexists(folder):
        return None
    existing_folder(folder)
    # The name is looked at before the set: one that another process puts there in between is found.
    target = folder / source.name
    with _writing(folder):
        empty = target.is_dir() and not target.is_symlink() and not os.listdir(target)
    is_taken = os.path.lexists(target) and not empty
    if found := find_below(source.folders, folder):
        return found
    if is_taken:
        raise InputError(f"{show(target)} is there, but has no data.json: move it away first.")
    return None


def _fetch(archive: str, remote: _Remote, folder: Path, name: str, progress: bool) -> Path:
    """Download, check, extract, check, rename; the lock is held."""
    target, work = folder / name, folder / f".download-{name}"
    try:
        with _writing(folder):
            work.mkdir(exist_ok=True)
            for left in work.iterdir():  # of a download that was killed
                if left.is_dir():
                    shutil.rmtree(left)
                elif left.name != archive:
                    left.unlink()
            if not (work / archive).exists():
                _check_space(folder, remote.size)
            _fetch_archive(work, archive, remote, progress)
            # Beside the target, so that the last step is one rename.
            with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as extracted:
                into = Path(extracted) / "set"  # mkdtemp's own 0700 would hide it from colleagues
                into.mkdir()
                _extract(work / archive, into)
                whole = _find_set(into, archive)
                _check_set(whole, archive)
                os.rename(whole, target)
    except D2UEError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return target


# --------------------------------------------------------------------------- from the network


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise D2UEError(
            "Downloading needs pooch: install the package with its extra [download]."
        ) from error
    return pooch


def _look_up(archive: str, base: str) -> _Remote:
    """Checksum, size and address of the archive, from the record's own list of its files."""
    import requests  # what pooch itself downloads with

    url = f"{base}/api/records/{RECORD}"
    with _network(url):
        response = requests.get(url, timeout=_TIMEOUT)
        response.raise_for_status()
        try:
            entry = {file["key"]: file for file in response.json()["files"]}[archive]
            checksum, size = entry["checksum"], entry.get("size")
            algorithm, _, digest = checksum.partition(":")
            if algorithm != "md5" or len(digest) != 32:
                raise ValueError(checksum)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise D2UEError(
                f"{url} does not list {archive} with its checksum, so it could not be checked: try "
                "again later, or download it by hand."
            ) from error
    return _Remote(
        f"{base}/records/{RECORD}/files/{archive}?download=1",
        checksum,
        size if isinstance(size, int) and size > 0 else None,
    )


def _fetch_archive(work: Path, archive: str, remote: _Remote, progress: bool) -> None:
    """The archive in `work`, under its name only when its checksum is the published one."""
    pooch = _pooch()
    # pooch logs at "info" what the bar shows, and takes the bar for absent while its total is 0.
    logger = pooch.get_logger()
    level = logger.level
    bar = progress_bar(
        total=remote.size or 1, desc=archive, unit="B", unit_scale=True, disable=not progress
    )
    downloader = pooch.HTTPDownloader(
        progressbar=bar,
        timeout=_TIMEOUT,
        # Zenodo's file as it is: unpacked on the way it would have another checksum.
        headers={"Accept-Encoding": "identity"},
    )
    try:
        logger.setLevel(logging.WARNING)
        with bar, _network(remote.url):
            pooch.retrieve(remote.url, remote.checksum, archive, work, downloader=downloader)
    except D2UEError:  # InputError is a ValueError too
        raise
    except ValueError as error:
        raise D2UEError(
            f"{remote.url} does not have the published checksum, so it was not opened: "
            "try again, as the file may have been damaged on the way."
        ) from error
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _network(url: str) -> Iterator[None]:
    """Say in a sentence what went wrong on the way."""
    import requests

    try:
        yield
    except requests.exceptions.HTTPError as error:
        raise D2UEError(
            f"{url} could not be fetched (the server says {error.response.status_code} "
            f"{error.response.reason}): check the address, or try again later."
        ) from error
    except requests.exceptions.RequestException as error:
        raise D2UEError(
            f"{show(url)} could not be fetched ({type(error).__name__}): check address and network "
            "and run the same command again."
        ) from error


# --------------------------------------------------------------------------- out of the archive


def _extract(archive: Path, into: Path) -> None:
    """Extracts files and folders that tarfile's "data" filter lets through: none leads out.

    Raises:
        D2UEError: if the archive is damaged, or holds what no archive of images has.
    """
    try:
        with tarfile.open(archive) as tar:
            # Links would be let through, and older Pythons can be led astray by links to links.
            if others := [m.name for m in tar if not (m.isreg() or m.isdir())]:
                raise _unusable(archive.name, f"holds {show(others[0])}, neither file nor folder")
            tar.extractall(into, filter="data")
    except tarfile.FilterError as error:
        raise _unusable(archive.name, f"holds what no archive of images has ({error})") from error
    except _DAMAGED as error:
        raise _unusable(archive.name, "is damaged") from error


def _find_set(extracted: Path, archive: str) -> Path:
    """The folder that holds data.json: the first that has one, at most two levels down."""
    level = [extracted]
    for _ in range(3):
        found = [folder for folder in level if (folder / "data.json").is_file()]
        if len(found) > 1:
            raise _unusable(archive, "holds more than one data.json")
        if found:
            return found[0]
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    raise _unusable(archive, "holds no data.json")


def _check_set(folder: Path, archive: str) -> None:
    """Whether data.json can be read and every file is there that it names, unlabelled ones too."""
    path = folder / "data.json"
    try:
        split = read_split(folder / "data.json")
        if not split.train:
            raise _unusable(archive, "lists no training images in its data.json")
        names = split.train + split.normal + split.abnormal
        train = parse_listing(path)["train"]
        for key in ("0", "1"):  # not used here, but part of the published set
            names += listed_names(path, train, "unlabeled", key)
    except InputError as error:
        said = str(error).replace(str(path), "data.json").rstrip(".")
        raise _unusable(archive, f"is not as expected ({said})") from error
    images = [folder / "images" / name for name in names]
    absent = [
        n for n, p in zip(names, images, strict=True) if not p.is_file() or not p.stat().st_size
    ]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise _unusable(archive, f"lacks {show(absent[0])}{more}, named in its data.json")


def _unusable(archive: str, why: str) -> D2UEError:
    return D2UEError(
        f"{archive} {why}, so nothing of it was kept: tell the project, as its checksum is right."
    )


# --------------------------------------------------------------------------- on the disk


def _check_space(folder: Path, size: int | None) -> None:
    """Refuses early what would fill the disk: the archive and, as images hardly shrink, as much."""
    free = shutil.disk_usage(folder).free
    if size is not None and free < 2 * size:
        raise InputError(
            f"{show(folder)} has {free / 1e9:.1f} GB free, but the archive and its images need "
            f"about {2 * size / 1e9:.1f} GB: free some space or give another folder."
        )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in a sentence why something cannot be written."""
    try:
        yield
    except OSError as error:
        advice = "free some space" if error.errno in _FULL else "give another folder"
        reason = error.strerror or type(error).__name__
        raise InputError(f"{show(folder)} cannot be written ({reason}): {advice}.") from error
