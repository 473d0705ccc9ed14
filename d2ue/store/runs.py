"""A run folder: one trained ensemble that travels by itself.

RUN/learner_1.safetensors ...   the networks, R = 1
RUN/history.csv                 losses by learner and epoch
RUN/ensemble.json               settings, data fingerprint, versions, SHA-256 of every file;
written last, so it marks a whole run
RUN/.unfinished/                a store, while the ensemble is being trained (unless several
runs share one elsewhere)
RUN/.lock                       held by the process that trains it
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock

from d2ue.config import TrainConfig
from d2ue.datasets.medical import ScanConfig
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import Ensemble, join, resolve_device, train_ensemble
from d2ue.errors import InputError
from d2ue.learners import check_images, learner_name
from d2ue.store.files import (
    damaged,
    dump,
    json_bytes,
    read_checked,
    read_json,
    reading,
    sweep,
    versions,
    write_file,
    writing,
)
from d2ue.store.learners import LEARNER_FORMAT, Store, load_weights, network_of

RUN_FORMAT = "d2ue ensemble 1"
MANIFEST = "ensemble.json"
UNFINISHED = ".unfinished"
LOCK = ".lock"


def fit_run(
    config: TrainConfig,
    train: ImageSet,
    folder: str | os.PathLike[str],
    *,
    data_name: str = "",
    device: str = "auto",
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
    scan: ScanConfig | None = None,
) -> tuple[Ensemble, bool]:
    """Train an ensemble into a run folder, or take up the training that was left there.

    Args:
        config: the settings.
        train: normal images.
        folder: the run folder; new, empty, unfinished, or holding this very ensemble.
        data_name: what to call the data in the manifest.
        device: as for `d2ue.ensemble.train_ensemble`.
        progress: whether to show a bar.
        store: a store whose learners this run may take and adds to; None = one of its own, inside
            the run folder, that goes when the training is finished.
        scan: how the images were taken out of scans, to be written into the manifest.

    Returns:
        The ensemble, and whether it was there already.

    Raises:
        InputError: if the folder holds anything else; what is there stays as it is.
    """
    run = Path(folder)

    def finished() -> Ensemble | None:
        if not (run / MANIFEST).exists():
            return None
        ensemble = load_run(run, "cpu")
        if (
            ensemble.config.as_dict() != config.as_dict()
            or ensemble.fingerprint != train.fingerprint
        ):
            raise other_run(run)
        return ensemble

    def trained() -> tuple[Ensemble, dict[str, bytes]]:
        learners = Store(run / UNFINISHED if store is None else store)
        ensemble = train_ensemble(config, train, device=device, progress=progress, store=learners)
        return ensemble, run_files(ensemble, data_name=data_name, n_train=len(train), scan=scan)

    ensemble, was_there = fill_run(run, finished, trained, lambda: check_images(config, train))
    return (ensemble.to(device) if was_there else ensemble), was_there


T = TypeVar("T")


def fill_run(
    run: Path,
    finished: Callable[[], T | None],
    trained: Callable[[], tuple[T, dict[str, bytes]]],
    check: Callable[[], None] = lambda: None,
) -> tuple[T, bool]:
    """What a run folder holds, or what is trained and written there; one process at a time.

    Args:
        run: the folder.
        finished: gives what it holds, or None; refuses something else.
        trained: gives that anew, and its files; may keep a state in the folder's `UNFINISHED`.
        check: refuses, before anything is written, what cannot be trained.

    Returns:
        What is there now, and whether it was before.

    Raises:
        InputError: if the folder holds anything else; what is there stays as it is.
    """
    check_run_folder(run)
    if (found := finished()) is not None:
        # Left by a kill in the last moment.
        shutil.rmtree(run / UNFINISHED, ignore_errors=True)
        with contextlib.suppress(OSError):
            (run / LOCK).unlink()
        return found, True
    check()
    with writing(run):
        (run / UNFINISHED).mkdir(parents=True, exist_ok=True)  # the mark of a run not yet whole
        lock = FileLock(run / LOCK)
        lock.acquire()
    try:
        # Whoever waited for another process finds the run whole, and its own store gone.
        if (found := finished()) is not None:
            shutil.rmtree(run / UNFINISHED, ignore_errors=True)
            return found, True
        made, files = trained()
        write_run(run, files)
        return made, False
    finally:
        with contextlib.suppress(OSError):
            (run / LOCK).unlink()
        lock.release()


def other_run(run: Path) -> InputError:
    """The sentence for a run folder of something else."""
    return InputError(
        f"{run} holds an ensemble of other settings or other images: give --out a new folder, or "
        "remove this one."
    )


def check_run_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse to train into a folder that holds something else.

    Raises:
        InputError: if it is a file, or has content that no run has.
    """
    run = Path(folder)
    with reading(run):
        if run.exists() and not run.is_dir():
            raise InputError(f"{run} is a file: give --out a folder.")
        if not run.exists() or (run / MANIFEST).exists() or (run / UNFINISHED).is_dir():
            return
        if any(run.iterdir()):
            raise InputError(f"{run} is not empty and holds no run: give --out a new folder.")


def save_run(
    ensemble: Ensemble,
    folder: str | os.PathLike[str],
    *,
    data_name: str = "",
    n_train: int = 0,
    scan: ScanConfig | None = None,
) -> None:
    """Write an ensemble as a run folder; the manifest comes last.

    Raises:
        InputError: if the folder cannot be written, in which case no manifest is left, or has a
            file of such a name with other content, which stays.
    """
    files = run_files(ensemble, data_name=data_name, n_train=n_train, scan=scan)
    for name, content in files.items():
        path = Path(folder, name)
        # Equal files are those of a save that was stopped, or of this very run.
        with reading(path):
            is_other = path.exists() and not (path.is_file() and path.read_bytes() == content)
        if is_other:
            raise InputError(
                f"{path} is there already and is not of this ensemble: give a new folder, or move "
                "it away."
            )
    write_run(folder, files)


def run_files(
    ensemble: Ensemble, *, data_name: str = "", n_train: int = 0, scan: ScanConfig | None = None
) -> dict[str, bytes]:
    """The files of a run folder by name; the last is the manifest, with the SHA-256 of all others.

    Args:
        ensemble: the learners.
        data_name: what to call the data in the manifest.
        n_train: number of training images, for the manifest.
        scan: how the images were taken out of scans, for the manifest.
    """
    files = {
        f"learner_{i + 1}.safetensors": dump(
            ensemble.network.replica(i).state_dict(), {"format": LEARNER_FORMAT}
        )
        for i in range(len(ensemble))
    }
    files["history.csv"] = _history_csv(ensemble).encode()
    fingerprint = ensemble.fingerprint
    numbers = range(1, len(ensemble) + 1)
    manifest: dict[str, Any] = {
        "format": RUN_FORMAT,
        "config": ensemble.config.as_dict(),
        "data": {"name": data_name, "train_images": n_train, "fingerprint": fingerprint},
        "learners": [learner_name(ensemble.config, k, fingerprint) for k in numbers],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "device": str(ensemble.device),
        "threads": torch.get_num_threads(),
        "versions": versions(str(ensemble.device)),
    }
    if scan is not None:
        manifest["data"]["scan"] = dataclasses.asdict(scan)
    return files | {MANIFEST: json_bytes(manifest)}


def write_run(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write the files of a run folder in their order.

    Raises:
        InputError: if the folder cannot be written; no new manifest is left then.
    """
    run = Path(folder)
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(run / name, content)
        for name in files:
            sweep(run / name)
    shutil.rmtree(run / UNFINISHED, ignore_errors=True)


@torch.inference_mode(False)  # such weights could not be differentiated later
def load_run(folder: str | os.PathLike[str], device: str = "auto") -> Ensemble:
    """Read an ensemble from a run folder, checking every file against the manifest.

    Args:
        folder: the run's.
        device: where to put the learners; as for `train_ensemble`.

    Raises:
        InputError: if the folder is missing, unfinished, damaged or not a run.
    """
    run = Path(folder)
    with reading(run):  # Python 3.11 lets some errors out of exists(), of a name too long say
        there, whole = run.is_dir(), (run / MANIFEST).exists()
    if not there:
        raise InputError(f"There is no run folder {run}: train one with 'd2ue fit'.")
    if not whole:
        if (run / UNFINISHED).is_dir():
            raise InputError(
                f"The training in {run} is not finished: run the same 'd2ue fit' again to go on."
            )
        raise InputError(f"{run} is not a run folder, it has no {MANIFEST}: see 'd2ue fit'.")
    manifest = read_json(run / MANIFEST, RUN_FORMAT)
    try:
        config = TrainConfig(**manifest["config"])
        files = dict(manifest["files"])
        fingerprint = str(manifest["data"]["fingerprint"])
        names = [f"learner_{k}.safetensors" for k in range(1, config.n_learners + 1)]
        hashes = [str(files[name]) for name in names]
        history = _read_history(read_checked(run / "history.csv", str(files["history.csv"])))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, InputError) and "history.csv" in str(error):
            raise
        raise damaged(run / MANIFEST) from error
    networks = []
    for name, sha256 in zip(names, hashes, strict=True):
        network = network_of(config.as_dict())
        load_weights(network, read_checked(run / name, sha256), run / name)
        networks.append(network)
    return join(config, networks, fingerprint, history).to(resolve_device(device))


def run_scan(folder: str | os.PathLike[str]) -> ScanConfig | None:
    """How the training images of a run were taken out of scans, where that was chosen.

    Raises:
        InputError: if its manifest is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        scan = read_json(path, RUN_FORMAT)["data"].get("scan")
        return None if scan is None else ScanConfig(**scan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path) from error


def _history_csv(ensemble: Ensemble) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("learner", "epoch", "loss", "similarity"))
    for number, epochs in enumerate(ensemble.history, 1):
        for epoch, losses in enumerate(epochs, 1):
            writer.writerow((number, epoch, repr(losses["loss"]), repr(losses["similarity"])))
    return text.getvalue()


def _read_history(content: bytes) -> list[list[dict[str, float]]]:
    history: dict[str, list[dict[str, float]]] = {}
    for row in csv.DictReader(io.StringIO(content.decode())):
        losses = {"loss": float(row["loss"]), "similarity": float(row["similarity"])}
        history.setdefault(row["learner"], []).append(losses)
    return list(history.values())
