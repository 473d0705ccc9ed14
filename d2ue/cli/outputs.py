"""Where commands may write: never over what is not of the same kind, never two things in one file.

What was read is safe by the same rules: an image, a manifest or somebody's page is no table.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Literal

from d2ue.datasets.decode import image_extensions
from d2ue.datasets.medical import scan_kind
from d2ue.datasets.results_folder import check_result_folder
from d2ue.errors import InputError
from d2ue.store.exchange import EXPORT_FORMAT
from d2ue.store.files import reading

Kind = Literal["table", "page", "export", "claims"]
_WHAT = {
    "table": "a table of scores",
    "page": "a page that this program wrote",
    "export": "an export",
    "claims": "a list of claims",
}


def check_file(path: Path, option: str, kind: Kind) -> None:
    """Refuse early what could not, or must not, be written after minutes of work.

    Raises:
        InputError: if the place cannot be written to, is taken by something of another kind, or
            has a name under which it would be taken for an image.
    """
    with reading(path):
        is_folder, is_there, parent = path.is_dir(), path.exists(), path.resolve().parent
    if is_folder:
        raise InputError(f"{path} is a folder: give {option} the name of a file.")
    if not parent.is_dir():
        raise InputError(f"There is no folder {parent} to write {path.name} into: make it first.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{parent} cannot be written to: give {option} another place.")
    if is_there and not _is_of_kind(path, kind):
        raise InputError(
            f"{path} is there and is not {_WHAT[kind]}, so it is not written over: give {option} "
            "another name."
        )
    ending = "".join(path.suffixes)
    if path.suffix.lower() in image_extensions() or scan_kind(path.with_name(f"-{ending}")):
        raise InputError(
            f"{path} would be taken for an image by its name: give {option} another one."
        )


def check_maps(maps: Path, images: str) -> None:
    """Refuse a folder for heat maps that holds other things, or lies in that of the images.

    Args:
        maps: the folder.
        images: the folder or file that is scored; "" = none.

    Raises:
        InputError: saying which.
    """
    place, scored = maps.resolve(), Path(images).resolve()
    inside = [place, *place.parents] if Path(images).is_dir() else [place]
    if images and (scored if Path(images).is_dir() else scored.parent) in inside:
        raise InputError(
            f"{maps} is in the folder of the images, where overlays would be taken for images: "
            "give --maps another folder."
        )
    check_result_folder(maps)


def check_apart(outputs: Mapping[str, Path | None]) -> None:
    """Refuse one place for two outputs, however it is spelled.

    Raises:
        InputError: naming the two options.
    """
    given = [(option, path) for option, path in outputs.items() if path is not None]
    for (one, a), (other, b) in combinations(given, 2):
        same = os.path.realpath(a) == os.path.realpath(b)
        if same or (a.exists() and b.exists() and os.path.samefile(a, b)):
            raise InputError(f"{one} and {other} are one place, {b}: give each its own.")


def _is_of_kind(path: Path, kind: Kind) -> bool:
    with reading(path):
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            start = file.read(2048)
    if not start:
        return True
    if kind == "claims":
        return start.startswith(b"# What holds")
    if kind == "table":
        return start.startswith(b"name,label,score")
    if kind == "page":
        return b'name="generator" content="d2ue"' in start
    try:
        with zipfile.ZipFile(path) as packed:
            return json.loads(packed.read("manifest.json")).get("format") == EXPORT_FORMAT
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return False
