"""data.json: which images of a folder are for training and which for tests, read and checked."""

from __future__ import annotations

import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2ue.datasets.decode import show
from d2ue.errors import InputError

_DATA_JSON_LIMIT = 64 * 2**20  # bytes; 50,000 names take about one MiB


@dataclass(frozen=True)
class Split:
    """The lists of a data.json, or of another split beside it, as names relative to images/."""

    train: list[str]
    normal: list[str]
    abnormal: list[str]


class _RepeatedKeyError(ValueError):
    """JSON readers keep the last of two equal keys without a word; this one does not."""


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedKeyError
    return found


def read_split(path: Path) -> Split:
    """The lists of names of a data.json, checked."""
    data = parse_listing(path)
    if isinstance(test := data.get("test"), dict) and (extra := sorted(set(test) - {"0", "1"})):
        raise InputError(  # passing over them would make the scores those of another test set
            f"{show(path)} has {show(extra[0])} under test, where only 0 (normal) and 1 (abnormal) "
            "may stand: move its names there or remove it."
        )
    split = Split(
        train=listed_names(path, data, "train", "0"),
        normal=listed_names(path, data, "test", "0"),
        abnormal=listed_names(path, data, "test", "1"),
    )
    check_split(path, split)
    return split


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe, say, which would be waited for
            raise InputError(f"{show(path)} is not a file: put the published {path.name} there.")
        if path.stat().st_size > _DATA_JSON_LIMIT:
            raise InputError(
                f"{show(path)} is larger than 64 MiB: it should only list names or boxes."
            )
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def parse_listing(path: Path) -> dict:
    """A data.json as a dictionary."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise _wrong_structure(path, "the top", data)
    return data


def read_json(path: Path) -> object:
    """What a JSON file holds; a key that is there twice is refused."""
    content = _content(path)
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise InputError(f"{show(path)} is not UTF-8 text: save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{show(path)} is not valid JSON at line {error.lineno}, column {error.colno}: "
            "correct it or download it again."
        ) from error
    except _RepeatedKeyError as error:
        raise InputError(f"{show(path)} has the same key twice: keep one of them.") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of 5000 digits
        raise InputError(
            f"{show(path)} holds more than lists of names or boxes: download it again."
        ) from error


def _wrong_structure(path: Path, where: str, found: object) -> InputError:
    return InputError(
        f"{show(path)} has {_kind(found)} at {where}, but the published layout is "
        '{"train": {"0": [names]}, "test": {"0": [names], "1": [names]}}: correct it.'
    )


def _kind(found: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return kinds.get(type(found), "null" if found is None else "a number")


def listed_names(path: Path, data: dict, part: str, key: str) -> list[str]:
    """The names under part/key, each checked, in one spelling ("./a.png" is "a.png")."""
    section = data.get(part, {})
    if not isinstance(section, dict):
        raise _wrong_structure(path, part, section)
    found, where = section.get(key, []), f"{part}/{key}"
    if not isinstance(found, list):
        raise _wrong_structure(path, where, found)
    names = [_clean(path, where, name) for name in found]
    if twice := first_repeated(names):
        raise InputError(
            f"{show(path)} lists {show(twice)} more than once under {where}: keep one."
        )
    return names


def _clean(path: Path, where: str, name: object) -> str:
    if not isinstance(name, str):
        raise InputError(
            f"{show(path)} has {_kind(name)} among the names under {where}: "
            "list file names as texts."
        )
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:[/\\]", name):
        raise InputError(
            f"{show(path)} lists {show(name)} under {where}, which is not a name inside images/: "
            "list names relative to images/."
        )
    check_printable(path, name)
    return posixpath.normpath(name)


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that is there a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_split(path: Path, split: Split) -> None:
    """Refuse lists that contradict each other: one image in two of them, or twice in one."""
    train, abnormal = set(split.train), set(split.abnormal)
    for name in split.normal:
        if name in abnormal:
            raise InputError(
                f"{show(path)} lists {show(name)} as normal (test/0) and as abnormal (test/1): "
                "keep one."
            )
    for name in split.normal + split.abnormal:
        if name in train:
            raise InputError(
                f"{show(path)} lists {show(name)} to train on (train/0) and to test on: keep one."
            )
    if bool(split.normal) != bool(split.abnormal):
        empty, kind = ("test/0", "normal") if split.abnormal else ("test/1", "abnormal")
        raise InputError(
            f"{show(path)} lists test images of one class only, none under {empty}: add "
            f"{kind} ones, or take 'test' out and score the images as a plain folder."
        )


def unreadable(path: str | os.PathLike[str], error: Exception) -> InputError:
    """The sentence for a path that the system does not let be read."""
    reason = getattr(error, "strerror", None) or "not a valid name"
    return InputError(
        f"{show(path)} cannot be read ({reason}): check its permissions and its name."
    )


def check_printable(folder: Path, name: str) -> None:
    """Refuse names with control characters, which no table could hold."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
        raise InputError(
            f"the name {show(name)} in {show(folder)} has a line break, a control character or "
            "bytes that are not UTF-8: rename the file."
        )
