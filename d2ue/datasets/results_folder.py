"""Folders that this program wrote: nothing else is written into, and none is taken for data.

A folder of results holds the hidden file `.d2ue`. Results of earlier versions are known by what
they hold.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from d2ue.errors import InputError

MARK = ".d2ue"
# What a JSON file of an earlier version holds, by its name.
_KNOWN = {"parameters.json": "versions", "report.json": "near duplicates"}
_FORMATS = ("ensemble.json", "detector.json")


def is_result(folder: str | os.PathLike[str]) -> bool:
    """Whether this program wrote a folder: results of a page, maps, an audit, a run, a detector."""
    place = Path(folder)
    if (place / MARK).is_file():
        return True
    for name in (*_KNOWN, *_FORMATS):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            content = json.loads((place / name).read_bytes())
            if isinstance(content, dict):
                of_us = str(content.get("format")).startswith("d2ue ")
                if of_us or _KNOWN.get(name) in content:
                    return True
    return False


def check_result_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse to write results over something else.

    Raises:
        InputError: unless the folder is absent, empty, or holds results.
    """
    place = Path(folder)
    try:
        if not os.path.lexists(place):
            return
        if not place.is_dir():
            raise InputError(f"{place} is a file: give the name of a folder.")
        there = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror}): give another folder.") from (
            error
        )
    if there and not is_result(place):
        raise InputError(
            f"{place} holds {there[0]!r} and no results of this program, and nothing is written "
            "over what others put there: give a new folder."
        )


def claim(folder: str | os.PathLike[str]) -> Path:
    """Make a folder for results and mark it; Raises as `check_result_folder`.

    Raises:
        InputError: also if it cannot be made.
    """
    place = Path(folder)
    check_result_folder(place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / MARK).write_text("Results of d2ue, which later ones replace.\n")
    except OSError as error:
        raise InputError(
            f"{place} cannot be written ({error.strerror}): give another folder."
        ) from error
    return place
