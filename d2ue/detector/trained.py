"""A method of `d2ue.baselines` trained on one's own images, and its run folder.

FOLDER/ensemble.json        method, settings, images, SHA-256 of the weights; written last
FOLDER/weights.safetensors  all of the network, its pretrained teacher too
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from d2ue.baselines import Job, Method, find_method, teachers
from d2ue.datasets.medical import ScanConfig
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import Ensemble, resolve_device
from d2ue.errors import InputError
from d2ue.progress import bar as progress_bar
from d2ue.store.files import damaged, dump, json_bytes, parse, read_checked, read_json, versions
from d2ue.store.runs import MANIFEST, UNFINISHED, fill_run, load_run, other_run, run_scan

FORMAT = "d2ue baseline 1"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Trained:
    """A method with what it has learnt.

    Attributes:
        name: its name in `d2ue.baselines.METHODS`.
        preset: its settings.
        seed: of all that was drawn.
        network: as the method's `train` gives it.
        fingerprint: SHA-256 of the training images.
        n_train: how many they were.
        scan: how images are taken out of scans; None = the defaults.
    """

    name: str
    preset: Any
    seed: int
    network: nn.Module
    fingerprint: str
    n_train: int
    scan: ScanConfig | None = None

    @property
    def method(self) -> Method:
        """The method itself."""
        return find_method(self.name)

    @property
    def image_size(self) -> int:
        """Pixels a side of its images."""
        return int(self.preset.image_size)

    def scores(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Float64 (n,) by name, higher = more abnormal; "score" is the method's own."""
        found = self.method.module.score(self.network, torch.from_numpy(images))[0]
        return {name: values.double().numpy() for name, values in found.items()}

    def maps(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, 1, h, w), higher = more abnormal.

        Raises:
            InputError: if the method has none.
        """
        maps = self.method.module.score(self.network, torch.from_numpy(images))[1]
        if maps is None:
            raise InputError(f"{self.method.title} says how abnormal an image is, not where.")
        return maps.float().numpy()[:, None]

    def files(self) -> dict[str, bytes]:
        """The files of its run folder by name; the last is the manifest."""
        state = {key: value.detach().cpu() for key, value in self.network.state_dict().items()}
        weights = dump(state, {"format": FORMAT})
        about = {
            "format": FORMAT,
            "method": self.name,
            "settings": dataclasses.asdict(self.preset),
            "seed": self.seed,
            "data": {"train_images": self.n_train, "fingerprint": self.fingerprint},
            "scan": None if self.scan is None else dataclasses.asdict(self.scan),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": versions(),
        }
        return {_WEIGHTS: weights, MANIFEST: json_bytes(about)}

    def is_of(self, other: Trained) -> bool:
        """Whether both are of one training."""
        return all(
            getattr(self, x) == getattr(other, x) for x in ("name", "preset", "seed", "fingerprint")
        )


def train(
    name: str,
    preset: Any,
    images: ImageSet,
    *,
    seed: int,
    device: str = "auto",
    progress: bool = True,
    keep: Path | None = None,
    scan: ScanConfig | None = None,
) -> Trained:
    """Train a method on normal images; `keep` is as for `d2ue.baselines.Job`.

    Raises:
        InputError: if the images are too few or not of its size, or its teacher is not there.
    """
    method, where = find_method(name), str(resolve_device(device))
    _check(name, preset, images)
    total = max(1, preset.epochs)
    with progress_bar(total=total, desc=method.title, unit="epoch", disable=not progress) as bar:
        job = Job(seed, where, keep, bar.update)
        network = method.module.train(torch.from_numpy(images.images), preset, job)
    return Trained(name, preset, seed, network, images.fingerprint, len(images), scan)


def _check(name: str, preset: Any, images: ImageSet) -> None:
    """Refuse, before anything is computed or written, what cannot be trained."""
    size, least = images.images.shape[-1], getattr(preset, "batch_size", 1)
    if size != preset.image_size:
        raise InputError(f"{name} takes images of {preset.image_size} pixels a side, not {size}.")
    if len(images) < least:
        raise InputError(f"{name} needs {least} normal images to train on, not {len(images)}.")
    if hasattr(preset, "teacher"):
        teachers.fetch(preset.teacher)


def fit_baseline(
    name: str,
    preset: Any,
    images: ImageSet,
    folder: str | os.PathLike[str],
    *,
    seed: int,
    device: str = "auto",
    scan: ScanConfig | None = None,
) -> tuple[Trained, bool]:
    """Train a method into a run folder, or take up the training that was left there.

    Returns:
        What was trained, and whether it was there already.

    Raises:
        InputError: as `train`; or if the folder holds anything else, which stays as it is.
    """
    run = Path(folder)
    asked = Trained(name, preset, seed, nn.Identity(), images.fingerprint, len(images), scan)
    key = hashlib.sha256(repr((name, preset, seed, images.fingerprint)).encode()).hexdigest()[:16]

    def finished() -> Trained | None:
        if not (run / MANIFEST).exists():
            return None
        there = load_model(run, device)
        if not isinstance(there, Trained) or not there.is_of(asked):
            raise other_run(run)
        return there

    def trained() -> tuple[Trained, dict[str, bytes]]:
        keep = run / UNFINISHED / f"{key}.pt"
        made = train(name, preset, images, seed=seed, device=device, keep=keep, scan=scan)
        return made, made.files()

    return fill_run(run, finished, trained, lambda: _check(name, preset, images))


def load_model(folder: str | os.PathLike[str], device: str = "auto") -> Ensemble | Trained:
    """What a run folder holds: an ensemble, or another method.

    Raises:
        InputError: if there is neither, or a file does not hold what was written.
    """
    path = Path(folder, MANIFEST)
    about: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        about = json.loads(path.read_bytes())
    if isinstance(about, dict) and about.get("format") == FORMAT:
        return _load(path, device)
    return load_run(folder, device)


def scan_of(model: Ensemble | Trained, folder: str | os.PathLike[str]) -> ScanConfig | None:
    """How the training images of what a run folder holds were taken out of scans."""
    return model.scan if isinstance(model, Trained) else run_scan(folder)


def _load(path: Path, device: str) -> Trained:
    about, where = read_json(path, FORMAT), path.with_name(_WEIGHTS)
    try:
        method = find_method(str(about["method"]))
        preset = type(method.presets["small"])(**about["settings"])
        scan = None if about["scan"] is None else ScanConfig(**about["scan"])
        data = about["data"]
        weights, _ = parse(read_checked(where, str(about["weights_sha256"])), where, FORMAT)
        network = method.module.NETWORK(preset)
        network.load_state_dict(weights)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise damaged(path) from error
    network = network.to(resolve_device(device)).eval().requires_grad_(False)
    return Trained(
        str(about["method"]),
        preset,
        int(about["seed"]),
        network,
        str(data["fingerprint"]),
        int(data["train_images"]),
        scan,
    )
