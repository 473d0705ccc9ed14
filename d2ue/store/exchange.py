"""Exports: records, with or without the learners' weights, in one zip file that travels.

The file has a manifest of SHA-256 sums. Records alone are 25 kB an ensemble where its weights are
50 MB, so that results can be kept with a paper, and tables drawn anew from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from d2ue.errors import DamagedError, InputError
from d2ue.learners import Learner, learner_name
from d2ue.store.files import damaged, reading, write_whole, writing
from d2ue.store.learners import Store
from d2ue.store.results import Record, dump_record, get_record, parse_record, put_record

EXPORT_FORMAT = "d2ue export 1"


_FETCH_AGAIN = "give a file that 'd2ue export' wrote, or copy it anew from where it came"


_MEMBER_LIMIT = 2**28  # bytes; a learner at the largest image size has 20 MB


_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what `export` writes


def export(
    store: Store,
    file: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    weights: bool = False,
) -> int:
    """Write records of a store into one zip file; equal records give an equal file.

    Args:
        store: where they stand.
        file: the zip file, written whole or not at all.
        names: which records; None = all.
        weights: whether the learners go along (17 MB each at 64 x 64).

    Returns:
        How many records were written.

    Raises:
        InputError: if a record or learner is missing or damaged, or the file cannot be written.
    """
    if names is None:
        names = [path.stem for path in (store.folder / "scores").glob("[0-9a-f]*.safetensors")]
    if not names:
        raise InputError(f"{store.folder} holds no scores yet: there is nothing to export.")
    path = Path(file)
    with writing(path), write_whole(path) as target, zipfile.ZipFile(target, "w") as packed:
        sums = {}
        for member, content in _exported(store, sorted(set(names)), weights):
            sums[member] = hashlib.sha256(content).hexdigest()
            _pack(packed, member, content)
        manifest = json.dumps({"format": EXPORT_FORMAT, "files": sums}, indent=1) + "\n"
        _pack(packed, "manifest.json", manifest.encode())
    return len(set(names))


def _exported(store: Store, names: Sequence[str], weights: bool) -> Iterator[tuple[str, bytes]]:
    """The files of an export, one at a time: with weights they are many gigabytes."""
    learners: dict[str, None] = {}
    for name in names:
        record = get_record(store, name)
        if record is None:
            raise InputError(f"{store.folder} has no scores named {name}.")
        yield f"scores/{name}.safetensors", dump_record(record)
        for number in range(1, _weighing(record) + 1) if weights else ():
            learners[learner_name(record.config, number, record.data.train)] = None
    for learner in learners:
        if store.get(learner) is None:  # which also checks it
            raise InputError(
                f"{store.folder} has scores of learner {learner} without its weights: export "
                "scores only."
            )
        for part in ("learner.json", "weights.safetensors"):
            content = (store.folder / "learners" / learner / part).read_bytes()
            yield f"learners/{learner}/{part}", content


def _weighing(record: Record) -> int:
    """How many trained learners stand behind a record."""
    return {"": record.config.n_learners, "gradient": 1}.get(record.control, 0)


def _pack(packed: zipfile.ZipFile, member: str, content: bytes) -> None:
    # A fixed date: the same results are the same bytes. Trained weights do not get smaller.
    kind = zipfile.ZIP_STORED if member.endswith("weights.safetensors") else zipfile.ZIP_DEFLATED
    packed.writestr(zipfile.ZipInfo(member), content, kind, 9)


def import_into(store: Store, file: str | os.PathLike[str]) -> int:
    """Take the records and learners of an export into a store; what is there already stays.

    Everything is checked against the manifest, and parsed, before the first file is written.

    Returns:
        How many records the file holds.

    Raises:
        InputError: if the file is missing, damaged or of another kind; the store is then untouched.
    """
    path = Path(file)
    for _ in _parts(path):
        pass
    records = 0
    for part in _parts(path):
        if isinstance(part, Record):
            put_record(store, part)
            records += 1
        else:
            with store.claim([part[0]]):
                store.put(*part, event="imported")
    return records


def _parts(path: Path) -> Iterator[Record | tuple[str, dict[str, Any], Learner]]:
    """The records and learners of an export, checked."""
    manifest = b""
    for member, content in _members(path):
        kind, name = member.split("/")[:2]
        if kind == "scores":
            yield _record(path, member, content)
        elif member.endswith("learner.json"):
            manifest = content  # its weights come next
        else:
            settings, learner = Store.check(name, manifest, content, path)
            yield name, settings, learner


def _record(path: Path, member: str, content: bytes) -> Record:
    try:
        return parse_record(content, path / member, Path(member).stem)
    except DamagedError as error:  # what helps a store does not help an export
        raise damaged(path / member, _FETCH_AGAIN) from error


_MEMBER = re.compile(
    r"scores/[0-9a-f]{16}\.safetensors|learners/[0-9a-f]{16}/(learner\.json|weights\.safetensors)"
)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of an export, each checked against the manifest; nothing is unpacked to disk."""
    try:
        with reading(path), zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                if info.file_size > _MEMBER_LIMIT or info.compress_type not in _PACKINGS:
                    raise damaged(path, _FETCH_AGAIN)
            manifest = json.loads(packed.read("manifest.json"))
            if manifest.get("format") != EXPORT_FORMAT:
                raise InputError(f"{path} was not written by this program: give another file.")
            sums = manifest["files"]
            if not isinstance(sums, dict):
                raise damaged(path, _FETCH_AGAIN)
            if sorted(packed.namelist()) != sorted(["manifest.json", *sums]):
                raise damaged(path, _FETCH_AGAIN)
            if not all(_MEMBER.fullmatch(member) for member in sums):
                raise damaged(path, _FETCH_AGAIN)
            for member in sorted(sums):  # learner.json comes before weights.safetensors
                unpacked = packed.read(member)
                if hashlib.sha256(unpacked).hexdigest() != sums[member]:
                    raise damaged(path, _FETCH_AGAIN)
                yield member, unpacked
    except InputError:  # which is a ValueError too
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise damaged(path, _FETCH_AGAIN) from error


def read_records(
    *places: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, Record]:
    """The records of some stores and export files, by name.

    Args:
        places: folders of stores, or files written by `export`; a store not yet made is empty.
        names: which of them; the others in a store are not even opened. None = all.

    Raises:
        InputError: if a file is missing, damaged or of another kind.
    """
    records: dict[str, Record] = {}
    for place in map(Path, places):
        if place.is_dir():
            store = Store(place)
            for path in sorted((place / "scores").glob("[0-9a-f]*.safetensors")):
                wanted = names is None or path.stem in names
                record = get_record(store, path.stem) if wanted else None
                if record is not None:
                    records[path.stem] = record
        elif place.suffix == ".zip" or place.exists():
            for member, content in _members(place):
                if member.startswith("scores/"):
                    record = _record(place, member, content)
                    if names is None or record.name in names:
                        records[record.name] = record
    return records
