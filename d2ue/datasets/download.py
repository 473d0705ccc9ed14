"""Fetches one of the paper's data sets from Zenodo: whole and checked, or not at all.

    folder/NAME/                  the set, renamed to this name when everything in it was checked
    folder/.download-NAME/        the work: archive, and what is extracted from it
    folder/.download-NAME.lock    one download of a set at a time, however many processes ask

The archive is compared with the checksum that the record publishes before it is opened. A download
that was killed leaves work behind; the next one sweeps it, but takes a whole archive over.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from d2ue.datasets.decode import show
from d2ue.datasets.folder import existing_folder, listed_names, parse_listing, read_split
from d2ue.datasets.registry import RECORD, ZENODO, Source, check_registered, find_below
from d2ue.errors import D2UEError, InputError
from d2ue.progress import bar as progress_bar

# An archive of images hardly shrinks, and the largest set of the record has some 10,000 of them:
# whatever grows far beyond is not what was published, and would only fill the disk.
MAX_BYTES = 20 * 10**9
MAX_GROWTH = 10
_GROWTH_FROM = 64 * 2**20  # bytes that even a tiny archive may hold
MAX_MEMBERS = 200_000
_TIMEOUT = 60.0  # seconds without a byte
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _Remote:
    """The archive as the record lists it."""

    url: str
    md5: str
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
            _sweep(work, keep=archive)
            if not (work / archive).exists():
                _check_space(folder, remote.size)
            _fetch_archive(work, archive, remote, progress)
            # Beside the target, so that the last step is one rename.
            with tempfile.TemporaryDirectory(
                prefix="extracted-", dir=work, ignore_cleanup_errors=True
            ) as extracted:
                into = Path(extracted) / "set"  # mkdtemp's own 0700 would hide it from colleagues
                into.mkdir()
                _extract(work / archive, into, progress)
                whole = _find_set(into, archive)
                _check_set(whole, archive)
                os.sync()  # thousands of files: one flush of all costs less than one of each
                os.rename(whole, target)
            _flush(folder)
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
        listed = {entry["key"]: entry for entry in response.json()["files"]}
        entry = listed[archive]
        algorithm, md5 = entry["checksum"].split(":")
        if algorithm != "md5" or not re.fullmatch("[0-9a-fA-F]{32}", md5):
            raise ValueError(algorithm)
        size = entry.get("size")
        links = entry.get("links")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise D2UEError(
            f"{url} does not list {archive} with its checksum, so it could not be checked: try "
            "again later, or download it by hand."
        ) from error
    link = links.get("self") if isinstance(links, dict) else None
    # A link to somewhere else is not followed: the checksum and the file come from one place.
    if not isinstance(link, str) or not link.startswith(f"{base}/"):
        link = f"{base}/records/{RECORD}/files/{archive}?download=1"
    return _Remote(link, md5.lower(), size if isinstance(size, int) and size > 0 else None)


def _fetch_archive(work: Path, archive: str, remote: _Remote, progress: bool) -> None:
    """The archive in `work`, under its name only when its checksum is the published one."""
    pooch = _pooch()
    # pooch logs at "info" what the bar shows, and takes the bar for absent while its total is 0.
    logger = pooch.get_logger()
    level = logger.level
    bar = progress_bar(
        total=remote.size or 1, desc=archive, unit="B", unit_scale=True, disable=not progress
    )
    try:
        logger.setLevel(logging.WARNING)
        with bar, _network(remote.url):
            pooch.retrieve(
                remote.url,
                known_hash=f"md5:{remote.md5}",
                fname=archive,
                path=work,
                downloader=pooch.HTTPDownloader(
                    progressbar=bar,
                    timeout=_TIMEOUT,
                    # Zenodo's file as it is: unpacked on the way it would have another checksum.
                    headers={"Accept-Encoding": "identity"},
                ),
            )
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
        response = error.response
        advice = "check the address" if response.status_code in (404, 410) else "try again later"
        raise D2UEError(
            f"{url} could not be fetched (the server says {response.status_code} "
            f"{response.reason}): {advice}."
        ) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise InputError(f"{show(url)} is not an address that can be fetched.") from error
    except requests.exceptions.MissingSchema as error:
        raise InputError(f"{show(url)} is no address: it has to begin with https://.") from error
    except requests.exceptions.Timeout as error:
        raise D2UEError(f"{url} does not answer: try again later.") from error
    except requests.exceptions.RequestException as error:
        raise D2UEError(
            f"{url} could not be fetched, or the connection broke: check the network and run the "
            "same command again."
        ) from error


# --------------------------------------------------------------------------- out of the archive


def _extract(archive: Path, into: Path, progress: bool) -> None:
    """Extracts in one pass, each member checked before it is written.

    Raises:
        D2UEError: if the archive is damaged, or holds what no archive of images has.
    """
    limit = min(MAX_BYTES, MAX_GROWTH * archive.stat().st_size + _GROWTH_FROM)
    bar = progress_bar(desc="extracting", unit="file", delay=2, leave=False, disable=not progress)
    total = 0
    try:
        # Not tarfile's own "r|gz", which takes the first of several gzip members for the whole.
        with bar, _opened(archive) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for count, member in enumerate(tar, 1):
                total += member.size
                if total > limit or count > MAX_MEMBERS:
                    raise _unusable(
                        archive.name,
                        f"would grow beyond {limit / 1e9:.3g} GB or {MAX_MEMBERS} files",
                    )
                if problem := _problem(member):
                    raise _unusable(archive.name, f"holds {show(member.name)}, {problem}")
                tar.extract(member, into, filter="data")
                bar.update()
    except (tarfile.FilterError, tarfile.ExtractError) as error:
        raise _unusable(archive.name, "holds a name that leads out of its folder") from error
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        ValueError,
        OverflowError,
        KeyError,  # a hard link to a member that is not there
    ) as error:
        raise _unusable(archive.name, "is damaged") from error


def _opened(archive: Path) -> BinaryIO:
    with open(archive, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive, "rb") if zipped else open(archive, "rb")


def _problem(member: tarfile.TarInfo) -> str | None:
    """What a member of an archive of images has no business to be.

    The "data" filter refuses most of this too, but quietly turns /x into x, and that of older
    Pythons can be led astray by links to links.
    """
    names = [member.name, member.linkname] if member.islnk() else [member.name]
    for name in names:
        if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
            return "an absolute path"
        if ".." in re.split(r"[/\\]", name):
            return "which leads out of its folder"
    if member.issym():
        return "a symbolic link"
    if not (member.isreg() or member.isdir() or member.islnk()):
        return "which is neither a file nor a folder"
    return None


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
    absent = [name for name in names if not _is_file_with_content(folder / "images" / name)]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise _unusable(archive, f"lacks {show(absent[0])}{more}, named in its data.json")


def _is_file_with_content(path: Path) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _unusable(archive: str, why: str) -> D2UEError:
    return D2UEError(
        f"{archive} {why}, so nothing of it was kept: tell the project, as its checksum is right."
    )


# --------------------------------------------------------------------------- on the disk


def _sweep(work: Path, keep: str) -> None:
    """Removes what a killed download left, but for the archive, whose checksum tells its worth."""
    for left in work.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        elif left.name != keep:
            left.unlink(missing_ok=True)


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


def _flush(folder: Path) -> None:
    """Makes the rename survive a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
