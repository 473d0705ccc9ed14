"""Learners by name: what acts on each, and which of them train side by side.

First learners do not depend on lambda, metric or layer, and an ensemble without repulsion is part
of every larger one. So a learner's name is a digest of what acts on it (`learner_settings`), each
name is trained once, and `Learners` finds what is missing behind some ensembles.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, as_tensor, features_of, forward, stack, to_unit_range
from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.errors import D2UEError, DivergedError, InputError
from d2ue.fast.steps import check_precision, free_memory, is_memory_error
from d2ue.progress import bar as progress_bar
from d2ue.training import LearnerTask, TrainState, check_enough, shared_settings, train_learners

if TYPE_CHECKING:
    from tqdm import tqdm

#: Learners that train side by side at most: a state takes 54 MB a learner on disk.
MOST_REPLICAS = 64
#: How much of a GPU's memory replicas may take: a captured graph has its memory for itself, beside
#: what the steps before it, run to warm up, leave cached.
FILL = 0.5
#: By precision, raised whenever a change alters what a learner learns; part of learners' names.
TRAINING_VERSION = {"float32": 1, "tf32": 2, "bf16": 3}


def learner_settings(config: TrainConfig, number: int, fingerprint: str) -> dict[str, object]:
    """What acts on learner `number` of an ensemble, and nothing else: the content of its name.

    The first learner has no repulsion in it; lambda = 0 and "none" are one setting; the number of
    learners to come is not part of it. Repelled learners hold their seniors' names.
    """
    kept = ("backbone", "epochs", "batch_size", "beta1", "beta2", "image_size", "seed")
    settings: dict[str, object] = {name: getattr(config, name) for name in kept}
    settings |= {"learning_rate": config.lr, "number": number, "data": fingerprint}
    version = TRAINING_VERSION[config.precision]
    settings |= {"precision": config.precision, "training_version": version}
    if config.backbone == "memae":
        for name in ("memory_slots", "shrinkage", "entropy_weight"):
            settings[name] = getattr(config, name)
    if number > 1 and config.repels:
        for name in ("similarity", "repulsion_weight", "layer"):
            settings[name] = getattr(config, name)
        seniors = range(1, number)
        settings["seniors"] = [learner_name(config, j, fingerprint) for j in seniors]
    return settings


def learner_name(config: TrainConfig, number: int, fingerprint: str) -> str:
    """The learner's name: 16 hex digits of the SHA-256 of its settings."""
    return name_of(learner_settings(config, number, fingerprint))


def name_of(settings: dict[str, object]) -> str:
    """The name that settings as `learner_settings` gives them lead to."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Learner:
    """One trained learner: its network (R = 1, on the CPU) and one dict an epoch of its losses."""

    network: Autoencoder
    history: list[dict[str, float]]


class LearnerStore(Protocol):
    """Where learners are kept by name while ensembles are trained; see `store.learners.Store`."""

    def get(self, name: str) -> Learner | None:
        """A finished learner, or None."""

    def put(self, name: str, settings: dict[str, object], learner: Learner, *, device: str) -> None:
        """Keep a finished learner, and say where it was trained."""

    def claim(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """Hold these names against every other process, waiting until they are free."""

    def load_state(self, names: Sequence[str]) -> TrainState | None:
        """The state in which training these learners together was left, or None."""

    def save_state(self, names: Sequence[str], state: TrainState) -> None:
        """Keep such a state; may decline while the last one is young."""

    def forget_state(self, names: Sequence[str]) -> None:
        """Drop it, once the learners are finished."""


def check_images(config: TrainConfig, train: ImageSet) -> None:
    """Refuse images that an ensemble of these settings cannot be trained on.

    Raises:
        InputError: if they are of another size, or fewer than one batch.
    """
    if train.image_size != config.image_size:
        raise InputError(
            f"The images are {train.image_size} pixels a side and the settings say "
            f"{config.image_size}: load them at image_size={config.image_size}."
        )
    check_enough(len(train), config.batch_size)


class Learners:
    """The distinct learners behind some ensembles, and those that are there already."""

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        train: ImageSet,
        device: torch.device,
        store: LearnerStore | None,
        report: Callable[[int], None] | None = None,
    ) -> None:
        self.configs, self.train_set, self.device, self.store = configs, train, device, store
        self.report = report or (lambda epochs: None)
        self.fingerprint = train.fingerprint
        self.learners: dict[str, Learner] = {}
        self.features: dict[tuple[str, str], Tensor] = {}
        self.stacked: dict[tuple[tuple[str, ...], str], Tensor] = {}
        self.failed: dict[str, TrainConfig] = {}
        self.counted = 0
        for config in configs:
            check_images(config, train)
            check_precision(config.precision, device)

    def train_all(self, replicas: int | None, progress: bool) -> None:
        """Train every learner of every ensemble, number by number."""
        epochs = sum({name: c.epochs for c in self.configs for name in self.names(c)}.values())
        options = {"desc": "training", "unit": "epoch", "disable": not progress, "delay": 1}
        with progress_bar(total=epochs, **options) as bar:
            for number in range(1, max(c.n_learners for c in self.configs) + 1):
                for tasks in self.groups(number, replicas):
                    self.train(tasks, bar)
        self.complain()

    def names(self, config: TrainConfig) -> list[str]:
        """The names of an ensemble's learners, in order."""
        numbers = range(1, config.n_learners + 1)
        return [learner_name(config, k, self.fingerprint) for k in numbers]

    def groups(self, number: int, replicas: int | None) -> Iterator[dict[str, LearnerTask]]:
        """The learners of one number, by name, in groups that train together."""
        waiting: dict[str, TrainConfig] = {}
        for config in self.configs:
            names = self.names(config)[:number]
            if len(names) == number and not self.failed.keys() & set(names):
                waiting.setdefault(names[-1], config)

        def alike(config: TrainConfig) -> object:
            repelled = number > 1 and config.repels
            return shared_settings(config, repelled), repelled

        while waiting:
            first = next(iter(waiting.values()))
            # Seniors of wide layers take gigabytes: those of one layer are held at a time.
            self.stacked.clear()
            for name, layer in list(self.features):
                if layer != first.layer:
                    del self.features[name, layer]
            fitting = [name for name, other in waiting.items() if alike(other) == alike(first)]
            most = replicas or self.most_replicas(self.task(first, number))
            yield {name: self.task(waiting.pop(name), number) for name in fitting[:most]}

    def most_replicas(self, task: LearnerTask) -> int:
        """How many learners like this one train side by side."""
        if self.device.type != "cuda":
            return 1
        seniors = 0 if task.seniors is None else task.seniors.nbytes
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return fitting_replicas(memory, task.config, seniors)

    def task(self, config: TrainConfig, number: int) -> LearnerTask:
        """Learner `number` of an ensemble, with its seniors' features."""
        if number == 1 or not config.repels:
            return LearnerTask(config, number)
        seniors = self.names(config)[: number - 1]
        return LearnerTask(config, number, self.seniors(tuple(seniors), config.layer))

    def seniors(self, names: tuple[str, ...], layer: str) -> Tensor:
        """Their features of every training image [n-1, n, d]; learners that share them share it."""
        if (names, layer) not in self.stacked:
            self.stacked[names, layer] = torch.stack([self.feature(name, layer) for name in names])
        return self.stacked[names, layer]

    def feature(self, name: str, layer: str) -> Tensor:
        """A senior's feature of every training image [n, d], evaluation mode, computed once."""
        if (name, layer) not in self.features:
            senior = stack([self.learners[name].network]).to(self.device)
            parts = as_tensor(self.train_set.images).split(256)
            batches = (to_unit_range(part.to(self.device)) for part in parts)
            self.features[name, layer] = features_of(senior, batches, layer)[0]
        return self.features[name, layer]

    def train(self, tasks: dict[str, LearnerTask], bar: tqdm) -> None:
        """Train a group, or take from the store what is there; both end in `self.learners`."""
        with self.store.claim(list(tasks)) if self.store else contextlib.nullcontext():
            missing = {}
            for name, task in tasks.items():
                learner = self.store.get(name) if self.store else None
                if learner is None:
                    missing[name] = task
                else:
                    self.learners[name] = learner
                    bar.update(task.config.epochs)
            if missing:
                self._train_missing(missing, bar)
            if self.store:
                self.store.forget_state(list(tasks))

    def _count(self, epochs: int, bar: tqdm) -> None:
        """Advance bar and report by `epochs` of single learners; negative after a failed group."""
        self.counted += epochs
        bar.update(epochs)
        self.report(epochs)

    def _train_missing(self, tasks: dict[str, LearnerTask], bar: tqdm) -> None:
        state = self.store.load_state(list(tasks)) if self.store else None
        done = self.counted
        try:
            with _threads(state.threads if state else 0):
                self._go_on(tasks, state, bar)
            return
        except RuntimeError as error:
            if not is_memory_error(error):
                raise
            if len(tasks) == 1:
                raise D2UEError(
                    f"The memory of {self.device} does not hold one learner at batches of "
                    f"{next(iter(tasks.values())).config.batch_size}: free it, lower the batch "
                    "size, or train on the CPU."
                ) from error
        # Only here, after the error and all that it held are gone, is the memory free.
        self._count(done - self.counted, bar)
        free_memory(self.device)
        names, half = list(tasks), (len(tasks) + 1) // 2
        for part in names[:half], names[half:]:
            self._train_missing({name: tasks[name] for name in part}, bar)
            if self.store:
                self.store.forget_state(part)

    def _go_on(self, tasks: dict[str, LearnerTask], state: TrainState | None, bar: tqdm) -> None:
        names, group = list(tasks), list(tasks.values())
        resumed = len(tasks) * (state.epoch if state else 0)
        self._count(resumed, bar)
        numbers = sorted({task.number for task in group})
        bar.set_description(f"learner {numbers[0]} of {max(t.config.n_learners for t in group)}")

        def on_epoch(_: int, losses: dict[str, list[float]]) -> None:
            means = {key: f"{np.mean(value):.4g}" for key, value in losses.items()}
            bar.set_postfix(means, refresh=False)
            self._count(len(tasks), bar)

        network, history = train_learners(
            group,
            self.train_set.images,
            device=self.device,
            state=state,
            save=functools.partial(self.store.save_state, names) if self.store else None,
            on_epoch=on_epoch,
        )
        sound = _are_sound(network, self.train_set.images[: group[0].config.batch_size])
        for i, (name, task) in enumerate(tasks.items()):
            losses = [{key: value[i] for key, value in epoch.items()} for epoch in history]
            if not math.isfinite(losses[-1]["loss"]) or not sound[i]:
                self.failed[name] = task.config
                continue
            self.learners[name] = Learner(network.replica(i).cpu(), losses)
            if self.store:
                settings = learner_settings(task.config, task.number, self.fingerprint)
                self.store.put(name, settings, self.learners[name], device=str(self.device))

    def complain(self) -> None:
        """Raise for the learners whose loss stopped being finite."""
        if self.failed:
            lost = (
                f"{c.backbone}, seed {c.seed}, lambda {c.repulsion_weight:g}"
                for c in self.failed.values()
            )
            what = f"The training loss stopped being finite ({'; '.join(lost)})"
            raise DivergedError(f"{what}: lower the learning rate.")


def _are_sound(network: Autoencoder, images: np.ndarray) -> list[bool]:
    """Whether each replica still draws finite images: its loss was taken before the last step."""
    weight = network.output.weight
    x = to_unit_range(as_tensor(images).to(weight.device), weight.dtype)
    return torch.isfinite(forward(network, x).mean).flatten(1).all(1).tolist()


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with so many CPU threads, because other numbers round otherwise; 0 = as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def replica_bytes(config: TrainConfig, senior_bytes: int = 0) -> int:
    """About how much memory one more replica takes while it trains, in bytes.

    Weights four times over (with their gradients and Adam's two moments), twice what the forward
    pass keeps for the backward pass, which makes as much again on its way, and `senior_bytes` of
    its seniors' features. Counted on a network without data, so on any machine alike.
    """
    c = config
    with torch.device("meta"):
        network = Autoencoder(c.backbone, 1, c.image_size, c.memory_slots, c.shrinkage)
        images = torch.empty(1, c.batch_size, 1, c.image_size, c.image_size)
    weights = {p.untyped_storage()._cdata: p.nbytes for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)  # held, so that no storage's name is given twice
    del output
    return 4 * sum(weights.values()) + 2 * sum(kept.values()) + senior_bytes


def fitting_replicas(memory: int, config: TrainConfig, senior_bytes: int = 0) -> int:
    """How many replicas `FILL` of a GPU's memory holds; 1 to `MOST_REPLICAS`.

    `memory` is what the GPU has in bytes, whether or not they are free: a training that was stopped
    must find the same groups again. Where they do not fit, they are halved.
    """
    most = int(FILL * memory / replica_bytes(config, senior_bytes))
    return max(1, min(MOST_REPLICAS, most))
