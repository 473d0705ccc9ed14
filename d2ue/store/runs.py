"""Trained learners and ensembles on disk: crash-safe, resumable, named by their content.

A **store** keeps learners under the name that `d2ue.learners.learner_name` gives them:

    store/learners/NAME/weights.safetensors   the network, R = 1
    store/learners/NAME/learner.json          settings, losses, versions, SHA-256 of the weights
    store/states/KEY.safetensors              a training left in the middle
    store/scores/NAME.safetensors             what an ensemble says of test images (d2ue.store.results)
    store/journal.txt                         a line for each learner trained
    store/locks/NAME.lock                     one trainer a learner, however many processes ask

A **run folder** is one ensemble that travels by itself:

    RUN/learner_1.safetensors ...             the networks
    RUN/history.csv                           losses by learner and epoch
    RUN/ensemble.json                         settings, data fingerprint, versions, SHA-256 of
                                              every file; written last, so it marks a whole run
    RUN/.unfinished/                          a store, while the ensemble is being trained
                                              (unless several runs share one elsewhere)
    RUN/.lock                                 held by the process that trains it

Files are written under a temporary name, flushed to disk and renamed; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import glob
import hashlib
import io
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from d2ue.backbones import Autoencoder
from d2ue.config import TrainConfig
from d2ue.datasets.medical import ScanConfig
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import Ensemble, join, train_ensemble
from d2ue.errors import DamagedError, InputError
from d2ue.learners import Learner, check_images, learner_name, name_of
from d2ue.training import TrainState

RUN_FORMAT = "d2ue ensemble 1"
LEARNER_FORMAT = "d2ue learner 1"
STATE_FORMAT = "d2ue state 1"
MANIFEST = "ensemble.json"
UNFINISHED = ".unfinished"
LOCK = ".lock"


class Store:
    """Learners by name in a folder; any number of processes may share it.

    Args:
        folder: made when it is first written to.
        state_interval: least seconds between two states of one training, so that saving 50 MB
            never takes a noticeable share of the time.
    """

    def __init__(self, folder: str | os.PathLike[str], state_interval: float = 60.0) -> None:
        self.folder = Path(folder)
        self.state_interval = state_interval
        self._last_save = time.monotonic()

    def get(self, name: str) -> Learner | None:
        """A finished learner, or None.

        Raises:
            InputError: if its files do not hold what was written.
        """
        folder = self.folder / "learners" / name
        if not self.has(name):
            return None
        with reading(folder):
            manifest = (folder / "learner.json").read_bytes()
            weights = (folder / "weights.safetensors").read_bytes()
        return self.check(name, manifest, weights, folder)[1]

    def has(self, name: str) -> bool:
        """Whether a finished learner is there, without reading it."""
        return (self.folder / "learners" / name / "learner.json").exists()

    @staticmethod
    def check(
        name: str, manifest: bytes, weights: bytes, where: Path
    ) -> tuple[dict[str, Any], Learner]:
        """Settings and learner out of the two files' contents.

        Args:
            name: the learner's.
            manifest: learner.json.
            weights: weights.safetensors.
            where: the folder or file they come from, for the sentence.

        Raises:
            InputError: if they do not hold what was written, or belong to another learner.
        """
        content = _load_json(manifest, where / "learner.json", LEARNER_FORMAT)
        try:
            settings, sha256 = content["settings"], str(content["weights_sha256"])
            network = _network(settings)
            history = [
                {key: float(epoch[key]) for key in ("loss", "similarity")}
                for epoch in content["history"]
            ]
            own_name = name_of(settings)
            if len(history) != settings["epochs"]:
                raise damaged(where / "learner.json")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise damaged(where / "learner.json") from error
        if own_name != name:
            raise InputError(f"{where} holds the learner {own_name}: put it back under that name.")
        if hashlib.sha256(weights).hexdigest() != sha256:
            raise damaged(where / "weights.safetensors")
        _load_weights(network, weights, where)
        return settings, Learner(network.eval(), history)

    def put(
        self, name: str, settings: dict[str, object], learner: Learner, event: str = "trained"
    ) -> None:
        """Keep a finished learner; one that is there already stays.

        Args:
            name: the learner's.
            settings: as `learner_settings` gives them.
            learner: its weights and history.
            event: what the journal says of it.
        """
        final = self.folder / "learners" / name
        weights = dump(learner.network.state_dict(), {"format": LEARNER_FORMAT})
        manifest = {
            "format": LEARNER_FORMAT,
            "name": name,
            "settings": settings,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "history": learner.history,
        }
        with writing(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            sweep(final)
            with tempfile.TemporaryDirectory(
                prefix=_temporary_prefix(final), dir=final.parent, ignore_cleanup_errors=True
            ) as temporary:
                whole = Path(temporary) / "whole"
                whole.mkdir()
                write_file(whole / "weights.safetensors", weights)
                write_file(whole / "learner.json", _json_bytes(manifest))
                try:
                    _rename_new(whole, final)
                except FileExistsError:
                    event = "was there already"
            _flush_folder(final.parent)
            self.note(f"learner {name} {event}")

    def note(self, event: str) -> None:
        """Add a line to the store's journal, which tells what was done when."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event}\n"
        # One write at the end of the file: lines of several processes do not mix.
        with open(self.folder / "journal.txt", "ab", buffering=0) as journal:
            journal.write(line.encode())

    @contextlib.contextmanager
    def claim(self, names: Sequence[str]) -> Iterator[None]:
        """Hold these names against every other process, waiting until they are free."""
        locks = self.folder / "locks"
        with contextlib.ExitStack() as held:
            with writing(locks):
                locks.mkdir(parents=True, exist_ok=True)
                # In one order for everybody, so that two batches cannot wait for each other.
                for name in sorted(names):
                    held.enter_context(FileLock(locks / f"{name}.lock"))
            yield

    def is_claimed(self, name: str) -> bool:
        """Whether some process holds this name just now."""
        path = self.folder / "locks" / f"{name}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def load_state(self, names: Sequence[str]) -> TrainState | None:
        """The state in which training these learners side by side was left, or None.

        Raises:
            InputError: if the file does not hold what was written.
        """
        path = self._state_file(names)
        if not path.exists():
            return None
        with reading(path):
            content = path.read_bytes()
        tensors, header = parse(content, path, STATE_FORMAT)
        try:
            if header["sha256"] != digest(tensors):
                raise damaged(path)
            history = [
                {key: [float(v) for v in epoch[key]] for key in ("loss", "similarity")}
                for epoch in json.loads(header["history"])
            ]
            if len(history) != int(header["epoch"]):
                raise damaged(path)
            return TrainState(len(history), tensors, history, int(header.get("threads", "0")))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise damaged(path) from error

    def save_state(self, names: Sequence[str], state: TrainState) -> None:
        """Keep a state, unless the last one is younger than `state_interval`."""
        if time.monotonic() - self._last_save < self.state_interval:
            return
        tensors = {key: value.detach().cpu() for key, value in state.tensors.items()}
        header = {
            "format": STATE_FORMAT,
            "sha256": digest(tensors),
            "epoch": str(state.epoch),
            "threads": str(state.threads),
            "history": json.dumps(state.history),
        }
        path = self._state_file(names)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            write_file(path, dump(tensors, header))
        self._last_save = time.monotonic()

    def forget_state(self, names: Sequence[str]) -> None:
        """Drop the state of a training that is finished."""
        self._state_file(names).unlink(missing_ok=True)

    def _state_file(self, names: Sequence[str]) -> Path:
        key = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        return self.folder / "states" / f"{key}.safetensors"


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
    check_run_folder(run)
    if ensemble := _finished(config, train, run):
        return ensemble.to(device), True
    check_images(config, train)
    with writing(run):
        (run / UNFINISHED).mkdir(parents=True, exist_ok=True)  # the mark of a run not yet whole
        lock = FileLock(run / LOCK)
        lock.acquire()
    try:
        # Whoever waited for another process finds the run whole, and its own store gone.
        if ensemble := _finished(config, train, run):
            return ensemble.to(device), True
        learners = Store(run / UNFINISHED if store is None else store)
        ensemble = train_ensemble(config, train, device=device, progress=progress, store=learners)
        save_run(ensemble, run, data_name=data_name, n_train=len(train), scan=scan)
        return ensemble, False
    finally:
        with contextlib.suppress(OSError):
            (run / LOCK).unlink()
        lock.release()


def _finished(config: TrainConfig, train: ImageSet, run: Path) -> Ensemble | None:
    """The ensemble of these settings and images, where the run folder is whole.

    Raises:
        InputError: if it holds another one, or is damaged.
    """
    if (run / MANIFEST).exists():
        ensemble = load_run(run)
        if (
            ensemble.config.as_dict() != config.as_dict()
            or ensemble.fingerprint != train.fingerprint
        ):
            raise InputError(
                f"{run} holds an ensemble of other settings or other images: "
                "give --out a new folder, or remove this one."
            )
        # Left by a kill in the last moment.
        shutil.rmtree(run / UNFINISHED, ignore_errors=True)
        with contextlib.suppress(OSError):
            (run / LOCK).unlink()
        return ensemble
    return None


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
        InputError: if the folder cannot be written; no manifest is left then.
    """
    write_run(folder, run_files(ensemble, data_name=data_name, n_train=n_train, scan=scan))


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
        "versions": versions(),
    }
    if scan is not None:
        manifest["data"]["scan"] = dataclasses.asdict(scan)
    return files | {MANIFEST: _json_bytes(manifest)}


def write_run(folder: str | os.PathLike[str], files: dict[str, bytes]) -> None:
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


def load_run(folder: str | os.PathLike[str], device: str = "cpu") -> Ensemble:
    """Read an ensemble from a run folder, checking every file against the manifest.

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
    manifest = _read_json(run / MANIFEST, RUN_FORMAT)
    try:
        config = TrainConfig(**manifest["config"])
        files = dict(manifest["files"])
        fingerprint = str(manifest["data"]["fingerprint"])
        names = [f"learner_{k}.safetensors" for k in range(1, config.n_learners + 1)]
        hashes = [str(files[name]) for name in names]
        history = _read_history(_read_checked(run / "history.csv", str(files["history.csv"])))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, InputError) and "history.csv" in str(error):
            raise
        raise damaged(run / MANIFEST) from error
    networks = []
    for name, sha256 in zip(names, hashes, strict=True):
        network = _network(config.as_dict())
        _load_weights(network, _read_checked(run / name, sha256), run / name)
        networks.append(network)
    return join(config, networks, fingerprint, history).to(device)


def run_scan(folder: str | os.PathLike[str]) -> ScanConfig | None:
    """How the training images of a run were taken out of scans, where that was chosen.

    Raises:
        InputError: if its manifest is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        scan = _read_json(path, RUN_FORMAT)["data"].get("scan")
        return None if scan is None else ScanConfig(**scan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, flush to disk, rename.

    Raises:
        OSError: if it cannot be written; what stood there before still does.
    """
    with write_whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in pieces, which takes its place only when all are there.

    Raises:
        OSError: if it cannot be written; what stood there before still does.
    """
    handle, temporary = tempfile.mkstemp(prefix=_temporary_prefix(path), dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())  # mkstemp's 0600 would hide it from colleagues
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _flush_folder(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        InputError: if it cannot be written; what stood there before still does.
    """
    with writing(Path(path)):
        write_file(Path(path), text.encode("utf-8", "surrogateescape"))


def versions() -> dict[str, str]:
    """What the numbers may depend on: package, torch, Python, processor."""
    try:
        own = metadata.version("d2ue")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        own = "unknown"
    return {
        "d2ue": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def sweep(path: Path) -> None:
    """Remove what a killed process left of earlier attempts at this path (it is ours to write)."""
    for left in path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _network(settings: dict[str, Any]) -> Autoencoder:
    """An R = 1 network of the given settings; its weights are to be replaced."""
    c = TrainConfig(
        **{k: settings[k] for k in ("backbone", "image_size", *_MEMORY) if k in settings}
    )
    generator = torch.Generator()  # of its own, so that torch's global stream is left alone
    return Autoencoder(c.backbone, 1, c.image_size, c.memory_slots, c.shrinkage, generator)


_MEMORY = ("memory_slots", "shrinkage")


def _load_weights(network: Autoencoder, content: bytes, where: Path) -> None:
    tensors, _ = parse(content, where, LEARNER_FORMAT)
    expected = {k: (v.shape, v.dtype) for k, v in network.state_dict().items()}
    if {k: (v.shape, v.dtype) for k, v in tensors.items()} != expected:
        raise InputError(f"{where} holds weights of another network: train it again.")
    if not all(torch.isfinite(v).all() for v in tensors.values()):
        raise InputError(f"{where} holds weights that are not finite: train it again.")
    network.load_state_dict(tensors)


def dump(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """Tensors and a header of texts as a safetensors file's content."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return dump_tensors(plain, metadata=header)


def parse(content: bytes, path: Path, wanted: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file of ours."""
    try:
        tensors = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        header = dict(json.loads(content[8 : 8 + length])["__metadata__"])
    except (SafetensorError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise damaged(path) from error
    if header.get("format") != wanted:
        raise InputError(f"{path} is not a file of this program: remove it or give another folder.")
    return tensors, header


def _read_json(path: Path, wanted: str) -> dict[str, Any]:
    with reading(path):
        content = path.read_bytes()
    return _load_json(content, path, wanted)


def _load_json(content: bytes, path: Path, wanted: str) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path) from error
    if not isinstance(manifest, dict) or manifest.get("format") != wanted:
        raise InputError(f"{path} was not written by this program: give another folder.")
    return manifest


def _read_checked(path: Path, sha256: str) -> bytes:
    with reading(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(path)
    return content


def damaged(
    path: Path,
    advice: str = "remove its folder and train again, or copy it anew from where it came",
) -> DamagedError:
    """The sentence for a file that does not hold what was written."""
    return DamagedError(f"{path} is damaged or incomplete: {advice}.")


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in a sentence why something cannot be written."""
    try:
        yield
    except OSError as error:
        advice = "give a folder that can be written to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space"
        elif error.errno == errno.ENOENT:
            advice = f"make the folder {path.parent} first"
        raise InputError(f"{path} cannot be written ({error.strerror}): {advice}.") from error


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """A folder for what is written inside; where that fails, empty folders made for it go again.

    Raises:
        InputError: if it cannot be made, or nothing can be written into it.
    """
    folder = folder.resolve()
    made: list[Path] = []
    try:
        with writing(folder):
            absent = [each for each in (folder, *folder.parents) if not each.exists()]
            for each in reversed(absent):
                each.mkdir(exist_ok=True)
                made.append(each)
            with tempfile.TemporaryFile(dir=folder):
                pass
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for each in reversed(made):
                each.rmdir()
        raise


def check_writable(folder: Path) -> None:
    """Refuse before hours of work a folder that nothing can be written to; leaves no trace.

    Raises:
        InputError: if it cannot be made, or nothing can be written into it.
    """
    folder = folder.resolve()
    with writing(folder):
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        # A folder of its own name: the one asked for may be made by somebody else meanwhile.
        with tempfile.TemporaryDirectory(prefix=".d2ue-", dir=nearest):
            pass


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in a sentence why something cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check that it is there and yours to read."
        ) from error


def _rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a name that is free."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(target) from error
        raise


def _flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
