"""Learners and half-finished trainings by name in a folder that processes share.

    store/learners/NAME/weights.safetensors   a finished learner (17 MB)
    store/learners/NAME/learner.json          settings, losses, processor, SHA-256 of the weights
    store/states/KEY.safetensors              a training left in the middle; .pt another method's
    store/scores/NAME.safetensors             what an ensemble says of test images (results.py)
    store/journal.txt                         a line for each learner trained
    store/locks/NAME.lock                     one trainer a learner, however many processes ask

Names are those of `d2ue.learners.learner_name`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from d2ue.backbones import Autoencoder
from d2ue.config import TrainConfig
from d2ue.errors import InputError
from d2ue.learners import Learner, name_of
from d2ue.store.files import (
    damaged,
    digest,
    dump,
    json_bytes,
    load_json,
    parse,
    reading,
    sweep,
    versions,
    write_file,
    writing,
)
from d2ue.training import TrainState

LEARNER_FORMAT = "d2ue learner 1"

STATE_FORMAT = "d2ue state 1"


class Store:
    """Learners by name in a folder; any number of processes may share it.

    Args:
        folder: made when it is first written to.
        state_interval: least seconds between two states of one training. They come less often
            where saving takes long, so that it takes at most 1 % of the time; 0 saves each.
    """

    def __init__(self, folder: str | os.PathLike[str], state_interval: float = 60.0) -> None:
        self.folder = Path(folder)
        self.state_interval = state_interval
        self._next_save = time.monotonic() + state_interval

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
        content = load_json(manifest, where / "learner.json", LEARNER_FORMAT)
        try:
            settings, sha256 = content["settings"], str(content["weights_sha256"])
            network = network_of(settings)
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
        load_weights(network, weights, where)
        return settings, Learner(network.eval(), history)

    def put(
        self,
        name: str,
        settings: dict[str, object],
        learner: Learner,
        *,
        event: str = "trained",
        device: str = "cpu",
    ) -> None:
        """Keep a finished learner; one that is there already stays.

        Args:
            name: the learner's.
            settings: as `learner_settings` gives them.
            learner: its weights and history.
            event: what the journal says of it.
            device: where it was trained.
        """
        folder = self.folder / "learners" / name
        weights = dump(learner.network.state_dict(), {"format": LEARNER_FORMAT})
        manifest = {
            "format": LEARNER_FORMAT,
            "name": name,
            "settings": settings,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": versions(device),
            "device": device,
            "threads": torch.get_num_threads(),
            "history": learner.history,
        }
        if self.has(name):
            event = "was there already"
        else:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                # The manifest last: a learner without one is not there.
                for file, content in (
                    ("weights.safetensors", weights),
                    ("learner.json", json_bytes(manifest)),
                ):
                    sweep(folder / file)
                    write_file(folder / file, content)
        with writing(self.folder):
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
        """Keep a state, unless the last one is young."""
        start = time.monotonic()
        if start < self._next_save:
            return
        tensors = {key: value.detach().cpu() for key, value in state.tensors.items()}
        header = {
            "format": STATE_FORMAT,
            "names": " ".join(names),
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
        end = time.monotonic()
        if self.state_interval:
            self._next_save = end + max(self.state_interval, 99 * (end - start))

    def forget_state(self, names: Sequence[str]) -> None:
        """Drop the state of a training that is finished."""
        self._state_file(names).unlink(missing_ok=True)

    def left_off(self) -> list[tuple[str, ...]]:
        """Names of the learners of each training left in the middle; a group goes on as one."""
        left = []
        for path in sorted((self.folder / "states").glob("*.safetensors")):
            with contextlib.suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
                left.append(tuple((file.metadata() or {}).get("names", "").split()))
        return left

    def _state_file(self, names: Sequence[str]) -> Path:
        key = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        return self.folder / "states" / f"{key}.safetensors"


def network_of(settings: dict[str, Any]) -> Autoencoder:
    """An R = 1 network of the given settings; its weights are to be replaced."""
    c = TrainConfig(
        **{k: settings[k] for k in ("backbone", "image_size", *_MEMORY) if k in settings}
    )
    generator = torch.Generator()  # of its own, so that torch's global stream is left alone
    return Autoencoder(c.backbone, 1, c.image_size, c.memory_slots, c.shrinkage, generator)


_MEMORY = ("memory_slots", "shrinkage")


def load_weights(network: Autoencoder, content: bytes, where: Path) -> None:
    """Put the weights of a safetensors file into a network that they must fit."""
    tensors, _ = parse(content, where, LEARNER_FORMAT)
    expected = {k: (v.shape, v.dtype) for k, v in network.state_dict().items()}
    if {k: (v.shape, v.dtype) for k, v in tensors.items()} != expected:
        raise InputError(f"{where} holds weights of another network: train it again.")
    if not all(torch.isfinite(v).all() for v in tensors.values()):
        raise InputError(f"{where} holds weights that are not finite: train it again.")
    network.load_state_dict(tensors)
