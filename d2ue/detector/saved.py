"""A detector on disk: an ensemble, and what calls its scores abnormal.

    FOLDER/detector.json          held-out scores, threshold, how images are read; written last
    FOLDER/ensemble-HASH/         the ensemble as a run folder, named by its manifest (`save`)
    FOLDER/ensemble.json, ...     or the folder is a run folder itself (`d2ue fit --contamination`)

detector.json names its ensemble and the SHA-256 of that ensemble's manifest, which holds those of
all other files. It is replaced in one step, and only then is an older ensemble removed: whenever
a save is stopped, the folder holds the old detector or the new one, whole. An ensemble that is
there already is written with the same bytes. One process saves at a time (FOLDER/.lock, while it
does), and who reads meanwhile gets one of the two. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from d2ue.datasets.arrays import Reading
from d2ue.datasets.medical import ScanConfig
from d2ue.detector.threshold import Threshold
from d2ue.detector.trained import Trained, load_model, scan_of
from d2ue.ensemble import Ensemble
from d2ue.errors import InputError
from d2ue.store.files import damaged, reading, sweep, versions, write_file, writing
from d2ue.store.runs import LOCK, MANIFEST, write_run

DETECTOR = "detector.json"
FORMAT = "d2ue detector 1"
_ENSEMBLE = re.compile(r"ensemble-[0-9a-f]{16}")
_LIMIT = 256 * 2**20  # bytes of detector.json: scores of millions of held-out images


@dataclass(frozen=True)
class Record:
    """What a detector holds besides its learners.

    Attributes:
        method: the score method of its threshold.
        threshold: scores of held-out normal images by method, and the contamination.
        reading: how arrays become images.
        validation_fraction: share of the images given that was held out.
        scan: how images are taken out of scans; None = the defaults.
    """

    method: str
    threshold: Threshold
    reading: Reading
    validation_fraction: float
    scan: ScanConfig | None = None


def save(folder: str | os.PathLike[str], files: Mapping[str, bytes], record: Record) -> None:
    """Write a detector into a folder that is new, empty, or holds a detector to be replaced.

    Args:
        folder: where to.
        files: of the run folder that holds what was trained, by name, with a manifest.
        record: all else.

    Raises:
        InputError: if the folder holds anything else or cannot be written to; what is there stays.
    """
    target = Path(folder)
    # The same name means the same bytes: nothing that an older detector.json refers to changes.
    name = f"ensemble-{hashlib.sha256(files[MANIFEST]).hexdigest()[:16]}"
    check_folder(target)
    with _held(target):
        check_folder(target)  # again: another process may have been here
        write_run(target / name, files)
        _write(target, record, name)
        for other in target.glob("ensemble-*"):
            if _ENSEMBLE.fullmatch(other.name) and other.name != name:
                shutil.rmtree(other, ignore_errors=True)


def attach(folder: str | os.PathLike[str], record: Record) -> None:
    """Write the detector.json that makes a run folder a detector.

    Args:
        folder: the run folder.
        record: what to write.

    Raises:
        InputError: if it cannot be read or written.
    """
    target = Path(folder)
    with reading(target / MANIFEST):
        (target / MANIFEST).stat()  # before a lock is put beside it
    with _held(target):
        _write(target, record, ".")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against other processes that would save there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()


def _write(folder: Path, record: Record, ensemble: str) -> None:
    path = folder / DETECTOR
    with reading(path.parent / ensemble):
        manifest = (path.parent / ensemble / MANIFEST).read_bytes()
    threshold = record.threshold
    content = {
        "format": FORMAT,
        "ensemble": ensemble,
        "ensemble_sha256": hashlib.sha256(manifest).hexdigest(),
        "method": record.method,
        "contamination": float(threshold.contamination),
        "threshold": threshold.value(record.method),
        "held_out": threshold.k,
        "held_out_scores": {key: values.tolist() for key, values in threshold.scores.items()},
        "validation_fraction": float(record.validation_fraction),
        "reading": dataclasses.asdict(record.reading),
        "scan": None if record.scan is None else dataclasses.asdict(record.scan),
        "versions": versions(),
    }
    with writing(path):
        sweep(path)
        write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def load(folder: str | os.PathLike[str], device: str = "auto") -> tuple[Ensemble | Trained, Record]:
    """Read a detector, checking every file.

    Args:
        folder: written by `D2UE.save`, or by `d2ue fit` with `--contamination`.
        device: where to put the learners; as for `d2ue.ensemble.resolve_device`.

    Raises:
        InputError: if there is no detector, or a file does not hold what was written.
    """
    target = Path(folder)
    while True:
        record, name, sha256 = _parse(target)
        try:
            with reading(target / name / MANIFEST):
                manifest = (target / name / MANIFEST).read_bytes()
            if hashlib.sha256(manifest).hexdigest() != sha256:
                raise damaged(target / name / MANIFEST)
            model = load_model(target / name, device)
            # Detectors of earlier versions have it in the manifest of the run alone.
            scan = record.scan or scan_of(model, target / name)
            return model, dataclasses.replace(record, scan=scan)
        except InputError:
            # Was the detector replaced after it was read, and this ensemble removed?
            if _parse(target)[1:] == (name, sha256):
                raise


def load_any(
    folder: str | os.PathLike[str], device: str = "auto"
) -> tuple[Ensemble | Trained, Record | None]:
    """A detector, or a run folder without a threshold and None; Args and Raises as for `load`."""
    if (Path(folder) / DETECTOR).exists():
        return load(folder, device)
    return load_model(folder, device), None


def check_folder(folder: Path) -> None:
    """Refuse to write a detector over something else.

    Raises:
        InputError: if the folder is a file, or holds what `save` has not put there.
    """
    if folder.is_symlink() and not folder.exists():
        raise InputError(f"{folder} is a link to nothing: give another folder.")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the name of a folder.")
    with reading(folder):
        names = [path.name for path in folder.iterdir()]
    own = (f".{DETECTOR}.", LOCK)
    foreign = [n for n in names if not (_ENSEMBLE.fullmatch(n) or n.startswith(own))]
    if DETECTOR in names:
        _parse(folder)  # is it ours?
        foreign.remove(DETECTOR)
    if foreign:
        raise InputError(
            f"{folder} holds {sorted(foreign)[0]!r}, which is not of a saved detector: "
            "give a new folder."
        )


def _parse(folder: Path) -> tuple[Record, str, str]:
    """detector.json: the record, the name of its ensemble, the SHA-256 of that one's manifest."""
    path = folder / DETECTOR
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: save a detector there first.")
    if not path.exists():
        raise InputError(
            f"{folder} holds no detector, it has no {DETECTOR}: make one with D2UE.save or with "
            "'d2ue fit --contamination'; an ensemble without a threshold is read by load_run."
        )
    with reading(path):
        if path.stat().st_size > _LIMIT:
            raise damaged(path)
        text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} was not written by this program: give another folder.")
    try:
        return _record(content), *_ensemble_of(content)
    except (InputError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path) from error


def _record(content: dict[str, Any]) -> Record:
    scores = {
        str(key): np.array([_number(v) for v in values])
        for key, values in content["held_out_scores"].items()
    }
    threshold = Threshold(scores, _number(content["contamination"]))
    method = str(content["method"])
    # Both stand there for a reader; what is computed is what counts, and they must agree.
    if content["threshold"] != threshold.value(method) or content["held_out"] != threshold.k:
        raise ValueError("threshold")
    fraction = _number(content["validation_fraction"])
    scan = content.get("scan")
    how = None if scan is None else ScanConfig(**scan)
    return Record(method, threshold, _reading(content["reading"]), fraction, how)


def _reading(content: dict[str, Any]) -> Reading:
    low, high = _number(content["low"]), _number(content["high"])
    flags = content["eight_bit"], content["given"]
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("reading")
    shape, n, names = (content[k] for k in ("image_shape", "n_features", "feature_names"))
    if shape is not None:
        height, width = map(_count, shape)
        shape = height, width
    if names is not None:
        names = tuple(names)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("reading")
    return Reading(low, high, *flags, shape, None if n is None else _count(n), names)


def _ensemble_of(content: dict[str, Any]) -> tuple[str, str]:
    name = content["ensemble"]
    # Nothing outside the folder is ever read.
    if name != "." and not _ENSEMBLE.fullmatch(name):
        raise ValueError("ensemble")
    return name, str(content["ensemble_sha256"])


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("not a count")
    return value
