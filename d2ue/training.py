"""Training: Eq. (1) and (4), learners one after another, many ensembles side by side.

The first learner of an ensemble is trained on reconstruction alone; every later one is also
pushed away from the features of its seniors. Seniors are frozen, in evaluation mode, and nothing
augments the images, so a senior's feature of a training image never changes: it is computed once
for every image and looked up by index. That is exact, and makes the cost of an ensemble linear in
its learners.

Randomness comes from (seed, learner number, epoch) alone, drawn on the CPU whatever the device:
initial weights and shuffles are the same for every lambda, metric and layer, and a training that
was stopped needs no random state to go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.std import tqdm

from d2ue.backbones import Autoencoder, Reconstruction, stack
from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import (
    Ensemble,
    as_tensor,
    features_of,
    forward,
    join,
    resolve_device,
    to_unit_range,
)
from d2ue.errors import D2UEError, DivergedError, InputError
from d2ue.fast.steps import (
    captured,
    check_precision,
    fitting_replicas,
    free_memory,
    half_products,
    is_memory_error,
    precision,
)
from d2ue.progress import bar as progress_bar
from d2ue.similarity import SIMILARITIES, Similarity

#: By precision, raised whenever a change alters what a learner learns; part of learners' names.
TRAINING_VERSION = {"float32": 1, "tf32": 2, "bf16": 3}


def reconstruction_loss(
    backbone: str, output: Reconstruction, images: Tensor, entropy_weight: float = 2e-4
) -> Tensor:
    """L_orig of Eq. (4), for each replica.

    AE: mean (x - f)². MemAE: the same + entropy_weight * mean entropy of the addressing
    (Gong et al. 2019, Eq. 9-10). AEU: mean exp(-s) (x - mu)² + mean s, twice the Gaussian
    negative log-likelihood without its constant (Mao et al. 2020).

    Args:
        backbone: "ae", "memae" or "aeu".
        output: what the network gave for `images`.
        images: [R, B, 1, H, W].
        entropy_weight: MemAE only.

    Returns:
        Shape [R].
    """
    squared_error = (images - output.mean).square()
    if output.log_variance is not None:
        s = output.log_variance
        return (torch.exp(-s) * squared_error).mean((1, 2, 3, 4)) + s.mean((1, 2, 3, 4))
    loss = squared_error.mean((1, 2, 3, 4))
    if output.addressing is not None:
        w = output.addressing
        loss = loss + entropy_weight * -(w * torch.log(w + 1e-12)).sum(-1).mean(1)
    return loss


def repulsion_loss(seniors: Tensor, q: Tensor, similarity: Similarity) -> Tensor:
    """L_sim, Eq. (1): the mean similarity of a learner's feature to each senior's.

    Args:
        seniors: features P_j of the n-1 seniors, [..., n-1, B, d]; n-1 may be 0.
        q: feature Q_n of the learner in training, [..., B, d].
        similarity: S, one of d2ue.similarity.

    Returns:
        Shape [...]; 0 for the first learner.
    """
    if seniors.shape[-3] == 0:
        return q.new_zeros(q.shape[:-2])
    return similarity(seniors, q.unsqueeze(-3)).mean(-1)


def total_loss(l_orig: Tensor, l_sim: Tensor, repulsion_weight: float | Tensor) -> Tensor:
    """Eq. (4): L_total = L_orig + lambda * L_sim."""
    return l_orig + repulsion_weight * l_sim


@dataclass(frozen=True)
class LearnerTask:
    """One learner to train.

    Attributes:
        config: the ensemble's settings.
        number: 1 for the first learner, up to config.n_learners.
        seniors: features of learners 1 ... number-1 over the training set in its order,
            [number-1, n, d]; None where nothing is repelled.
    """

    config: TrainConfig
    number: int
    seniors: Tensor | None = None

    @property
    def stream(self) -> tuple[int, int]:
        """What all of this learner's randomness derives from."""
        return self.config.seed, self.number

    def stackable_with(self, other: LearnerTask) -> bool:
        """Whether both can be replicas of one network in one training loop."""
        return self._shape() == other._shape()

    def _shape(self) -> tuple[object, ...]:
        senior_shape = None if self.seniors is None else self.seniors.shape
        return _shared(self.config, self.seniors is not None), senior_shape


def _shared(config: TrainConfig, repelled: bool) -> TrainConfig:
    """What replicas have in common: all but seed, metric, lambda and number of learners."""
    per_replica = {"seed": 0, "similarity": "none", "repulsion_weight": 0.0, "n_learners": 1}
    return config.replace(**per_replica, layer=config.layer if repelled else "z")


@dataclass
class TrainState:
    """All that a training loop needs to go on after `epoch` epochs, replicas stacked.

    Attributes:
        epoch: epochs finished.
        tensors: weights and BatchNorm statistics ("network.*") and Adam's moments ("adam.*").
        history: one dict an epoch: lists over replicas of "loss" (L_orig) and "similarity" (L_sim).
        threads: torch's CPU threads, with which the training goes on to end in the same bits;
            0 = not known.
    """

    epoch: int
    tensors: dict[str, Tensor]
    history: list[dict[str, list[float]]] = field(default_factory=list)
    threads: int = 0


def initial_network(task: LearnerTask) -> Autoencoder:
    """The untrained learner: weights drawn on the CPU from its own stream, R = 1."""
    c = task.config
    generator = torch.Generator().manual_seed(_entropy(*task.stream, 0))
    return Autoencoder(c.backbone, 1, c.image_size, c.memory_slots, c.shrinkage, generator)


def shuffle(n: int, stream: tuple[int, int], epoch: int) -> Tensor:
    """The order of n images in one epoch, drawn from (seed, learner number, epoch); int64 (n,)."""
    generator = torch.Generator().manual_seed(_entropy(*stream, 1 + epoch))
    return torch.randperm(n, generator=generator)


def train_learners(
    tasks: Sequence[LearnerTask],
    images: np.ndarray | Tensor,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    state: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
    on_epoch: Callable[[int, dict[str, list[float]]], None] | None = None,
    capture: bool = True,
) -> tuple[Autoencoder, list[dict[str, list[float]]]]:
    """Train learners side by side, each as if alone.

    Args:
        tasks: the learners; they may differ in seed, number, similarity and lambda.
        images: uint8 [n, 1, H, W].
        device: where to train.
        dtype: float32, or float64 for tests of exactness.
        state: of the same tasks, to go on from; None starts anew.
        save: called after every epoch but the last with the state; may decline to keep it.
        on_epoch: called after every epoch with its number (from 0) and its entry of the history.
        capture: on CUDA, whether to run each step as one CUDA graph; it computes the same.

    Returns:
        The trained networks as replicas of one (evaluation mode, in the tasks' order), and the
        history: per epoch the mean of "loss" (L_orig) and "similarity" (L_sim), a list over tasks.
        A replica whose loss stopped being finite leaves the others alone; when none is finite
        any more, training stops early.

    Raises:
        InputError: if tasks cannot be stacked, there are fewer images than one batch, or the
            device has not the settings' precision.
    """
    config = tasks[0].config
    if not all(tasks[0].stackable_with(task) for task in tasks):
        raise InputError("Learners that train together must share all but seed, metric and lambda.")
    n, batch_size = len(images), config.batch_size
    _check_enough(n, batch_size)
    device = torch.device(device)
    if device.type == "cpu":
        _keep_freed_memory()
    network = stack([initial_network(task) for task in tasks]).to(device, dtype).train()
    on_gpu = device.type == "cuda"
    betas = (config.beta1, config.beta2)
    adam = torch.optim.Adam(
        network.parameters(), lr=config.lr, betas=betas, fused=True, capturable=on_gpu
    )
    history: list[dict[str, list[float]]] = []
    if state is not None:
        _restore(state, network, adam)
        history = list(state.history)

    pixels = as_tensor(images).to(device)
    objective = _Objective(tasks, device, dtype)
    rows = torch.arange(len(tasks), device=device).unsqueeze(1)
    index = torch.zeros(len(tasks), batch_size, dtype=torch.int64, device=device)
    sums = torch.zeros(2, len(tasks), dtype=torch.float64, device=device)

    def step() -> None:
        """One step on the images at `index`; nothing in it waits for the device."""
        with precision(config.precision, device):
            l_orig, l_sim = objective(network, to_unit_range(pixels[index], dtype), rows, index)
            adam.zero_grad(set_to_none=True)
            # Summed, not averaged: a replica's gradient must not depend on how many there are.
            total_loss(l_orig, l_sim, objective.weights).sum().backward()
            adam.step()
        sums.add_(torch.stack([l_orig.detach(), l_sim.detach()]))

    def changed() -> dict[str, Tensor]:
        return {**_state_tensors(network, adam), "sums": sums}

    launch = captured(step, changed, device) if on_gpu and capture else step
    steps = n // batch_size

    def orders(epoch: int) -> Tensor:
        return torch.stack([shuffle(n, task.stream, epoch) for task in tasks])

    following = orders(len(history))
    for epoch in range(len(history), config.epochs):
        order = following.to(device)
        sums.zero_()
        for i in range(steps):
            index.copy_(order[:, i * batch_size : (i + 1) * batch_size])
            launch()
        following = orders(epoch + 1)  # while a GPU is still at work
        loss, similarity = (sums / steps).tolist()  # the one look at the device in an epoch
        history.append({"loss": loss, "similarity": similarity})
        if on_epoch:
            on_epoch(epoch, history[-1])
        if not any(math.isfinite(value) for value in loss):
            break
        if save and epoch + 1 < config.epochs:
            tensors = _state_tensors(network, adam)
            save(TrainState(epoch + 1, tensors, list(history), torch.get_num_threads()))
    return network.eval(), history


class _Objective:
    """L_orig and L_sim of every replica; holds what is fixed over a training."""

    def __init__(
        self, tasks: Sequence[LearnerTask], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = tasks[0].config
        self.replicas = len(tasks)
        weights = [t.config.repulsion_weight if t.seniors is not None else 0.0 for t in tasks]
        self.weights = torch.tensor(weights, device=device, dtype=dtype)
        self.seniors: Tensor | None = None
        self.metrics: list[tuple[Similarity, Tensor]] = []
        if tasks[0].seniors is not None:
            # One after another: seniors of wide layers take gigabytes.
            shape = len(tasks), *tasks[0].seniors.shape
            self.seniors = torch.empty(shape, device=device, dtype=dtype)
            for place, task in zip(self.seniors, tasks, strict=True):
                assert task.seniors is not None
                place.copy_(task.seniors)
            names = [t.config.similarity for t in tasks]
            for name in dict.fromkeys(names):
                which = [i for i, other in enumerate(names) if other == name]
                self.metrics.append((SIMILARITIES[name], torch.tensor(which, device=device)))

    def __call__(
        self, network: Autoencoder, x: Tensor, rows: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both losses, each [R], for images x [R, B, 1, H, W] standing at `index` [R, B]."""
        c = self.config
        with half_products(c.precision, x.device):
            output = network(x, c.layer if self.seniors is not None else None)
        output = Reconstruction(*(None if part is None else part.to(x.dtype) for part in output))
        l_orig = reconstruction_loss(c.backbone, output, x, c.entropy_weight)
        if self.seniors is None or output.feature is None:
            return l_orig, torch.zeros_like(l_orig)
        p = self.seniors[rows, :, index].transpose(1, 2)  # [R, B, n-1, d] -> [R, n-1, B, d]
        if len(self.metrics) == 1:  # nothing is picked out, and so nothing copied
            return l_orig, repulsion_loss(p, output.feature, self.metrics[0][0])
        l_sim = torch.zeros_like(l_orig)
        for metric, which in self.metrics:
            value = repulsion_loss(p[which], output.feature[which], metric)
            l_sim = l_sim.index_copy(0, which, value)
        return l_orig, l_sim


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


class LearnerStore(Protocol):
    """Where learners are kept by name while ensembles are trained; `d2ue.store.runs.Store` is one."""

    def get(self, name: str) -> Learner | None:
        """A finished learner, or None."""

    def put(self, name: str, settings: dict[str, object], learner: Learner) -> None:
        """Keep a finished learner."""

    def claim(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """Hold these names against every other process, waiting until they are free."""

    def load_state(self, names: Sequence[str]) -> TrainState | None:
        """The state in which training these learners together was left, or None."""

    def save_state(self, names: Sequence[str], state: TrainState) -> None:
        """Keep such a state; may decline while the last one is young."""

    def forget_state(self, names: Sequence[str]) -> None:
        """Drop it, once the learners are finished."""


@dataclass(frozen=True)
class Learner:
    """One trained learner: its network (R = 1, on the CPU) and one dict an epoch of its losses."""

    network: Autoencoder
    history: list[dict[str, float]]


def train_ensemble(
    config: TrainConfig,
    train: ImageSet,
    *,
    device: str | torch.device = "auto",
    progress: bool = True,
    store: LearnerStore | None = None,
) -> Ensemble:
    """Train one ensemble (Eq. 1 and 4), learner after learner.

    Args:
        config: the settings; defaults are the paper's.
        train: normal images; labels are not looked at.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        progress: whether to show a bar with loss and time left.
        store: where finished learners and states on the way are kept, so that a stopped training
            goes on; None keeps nothing.

    Returns:
        The ensemble, in evaluation mode.

    Raises:
        InputError: if the images do not fit the settings.
        DivergedError: if the loss stops being finite.
    """
    return train_ensembles([config], train, device=device, progress=progress, store=store)[0]


def train_learner(
    config: TrainConfig,
    number: int,
    train: ImageSet,
    *,
    device: str | torch.device = "cpu",
    store: LearnerStore,
    report: Callable[[int], None] | None = None,
) -> None:
    """Train learner `number` of an ensemble alone; the store has its seniors, and keeps it.

    Args:
        config: the ensemble's settings.
        number: from 1.
        train: normal images.
        device: as for `train_ensemble`.
        store: where seniors are taken from; if the learner is there too, nothing is done.
        report: called with the number of epochs just trained.

    Raises:
        InputError: if the images do not fit the settings, or a senior is missing.
        DivergedError: if the loss stops being finite.
    """
    config = config.replace(n_learners=max(2, number))  # so that "repels" is about this learner
    plan = _Plan([config], train, resolve_device(device), store, report)
    names = plan.names(config)
    for senior in names[: number - 1] if config.repels else ():
        learner = store.get(senior)
        if learner is None:
            raise InputError(f"Learner {number} cannot be trained before its senior {senior}.")
        plan.learners[senior] = learner
    task = plan.task(config, number)
    plan.train({names[number - 1]: task}, progress_bar(disable=True))
    plan.complain()


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
    _check_enough(len(train), config.batch_size)


def train_ensembles(
    configs: Sequence[TrainConfig],
    train: ImageSet,
    *,
    device: str | torch.device = "auto",
    replicas: int | None = None,
    progress: bool = True,
    store: LearnerStore | None = None,
    report: Callable[[int], None] | None = None,
) -> list[Ensemble]:
    """Train several ensembles on one set of images; what they share is trained once.

    First learners do not depend on lambda, metric or layer, and an ensemble without repulsion is
    part of every larger one: learners are named by what acts on them (`learner_settings`), and each
    name is trained once. Learners that can train side by side do, up to `replicas` of them.

    Args:
        configs: the ensembles' settings; they may differ in anything.
        train: normal images; labels are not looked at.
        device: as for `train_ensemble`.
        replicas: learners trained side by side at most; None = what a GPU's memory holds
            (`d2ue.fast.steps.fitting_replicas`), 1 on a CPU, where replicas share the same cores and
            save nothing. Where a GPU's memory turns out too small, groups are halved.
        progress: whether to show a bar with loss and time left.
        store: where finished learners and states on the way are kept; None keeps nothing.
        report: called with the number of epochs of single learners just trained.

    Returns:
        One ensemble a config, in order.

    Raises:
        InputError: if the images do not fit the settings.
        DivergedError: if the loss of an ensemble stops being finite; the others' learners are
            trained first, and kept in the store.
        D2UEError: if not even one learner fits a GPU's memory.
    """
    plan = _Plan(configs, train, resolve_device(device), store, report)
    plan.train_all(replicas, progress)
    return [plan.ensemble(config) for config in configs]


def train_into(
    store: LearnerStore,
    configs: Sequence[TrainConfig],
    train: ImageSet,
    *,
    device: str | torch.device = "auto",
    replicas: int | None = None,
    progress: bool = True,
    report: Callable[[int], None] | None = None,
) -> None:
    """Train the learners of several ensembles into a store; Args and Raises as `train_ensembles`.

    Nothing is joined, so that a hundred ensembles do not have to fit a GPU's memory.
    """
    plan = _Plan(configs, train, resolve_device(device), store, report)
    plan.train_all(replicas, progress)


class _Plan:
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
        with progress_bar(
            total=self.epochs(), desc="training", unit="epoch", disable=not progress, delay=1
        ) as bar:
            for number in range(1, max(c.n_learners for c in self.configs) + 1):
                for tasks in self.groups(number, replicas):
                    self.train(tasks, bar)
        self.complain()

    def names(self, config: TrainConfig) -> list[str]:
        numbers = range(1, config.n_learners + 1)
        return [learner_name(config, k, self.train_set.fingerprint) for k in numbers]

    def epochs(self) -> int:
        """Epochs of all distinct learners, finished ones included."""
        distinct = {name: c.epochs for c in self.configs for name in self.names(c)}
        return sum(distinct.values())

    def groups(self, number: int, replicas: int | None) -> Iterator[dict[str, LearnerTask]]:
        """The learners of one number, by name, in groups that train together."""
        waiting: dict[str, TrainConfig] = {}
        for config in self.configs:
            names = self.names(config)[:number]
            if len(names) == number and not self.failed.keys() & set(names):
                waiting.setdefault(names[-1], config)

        def alike(config: TrainConfig) -> object:
            repelled = number > 1 and config.repels
            return _shared(config, repelled), repelled

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
            images = as_tensor(self.train_set.images)
            batches = (
                to_unit_range(images[i : i + 256].to(self.device))
                for i in range(0, len(images), 256)
            )
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
        """Say that so many epochs of single learners are done; negative: that they were lost."""
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
            bar.set_postfix(
                {key: f"{np.mean(value):.4g}" for key, value in losses.items()}, refresh=False
            )
            self._count(len(tasks), bar)

        network, history = train_learners(
            group,
            self.train_set.images,
            device=self.device,
            state=state,
            save=(lambda s: self.store.save_state(names, s)) if self.store else None,
            on_epoch=on_epoch,
        )
        sound = _are_sound(network, self.train_set.images[: group[0].config.batch_size])
        for i, (name, task) in enumerate(tasks.items()):
            own = [{key: value[i] for key, value in epoch.items()} for epoch in history]
            learner = Learner(network.replica(i).cpu(), own)
            if not math.isfinite(own[-1]["loss"]) or not sound[i]:
                self.failed[name] = task.config
                continue
            self.learners[name] = learner
            if self.store:
                fingerprint = self.train_set.fingerprint
                settings = learner_settings(task.config, task.number, fingerprint)
                self.store.put(name, settings, self.learners[name])

    def complain(self) -> None:
        """Raise for the learners whose loss stopped being finite."""
        if self.failed:
            what = "; ".join(
                f"{c.backbone}, seed {c.seed}, lambda {c.repulsion_weight:g}"
                for c in self.failed.values()
            )
            raise DivergedError(
                f"The training loss stopped being finite ({what}): lower the learning rate."
            )

    def ensemble(self, config: TrainConfig) -> Ensemble:
        learners = [self.learners[name] for name in self.names(config)]
        networks, histories = [x.network for x in learners], [x.history for x in learners]
        # Stacking copies, so that ensembles that share a learner share no weights.
        return join(config, networks, self.train_set.fingerprint, histories).to(self.device)


def _are_sound(network: Autoencoder, images: np.ndarray) -> list[bool]:
    """Whether each replica still draws finite images: its loss was taken before the last step."""
    weight = network.output.weight
    x = to_unit_range(as_tensor(images).to(weight.device), weight.dtype)
    return torch.isfinite(forward(network, x).mean).flatten(1).all(1).tolist()


def _check_enough(n: int, batch_size: int) -> None:
    if n < batch_size:
        raise InputError(
            f"There are {n} training images, fewer than one batch of {batch_size}: "
            "add images or lower the batch size."
        )


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with so many CPU threads, because other numbers round otherwise; 0 = as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc reuse freed memory instead of giving it back to the system at every step.

    Gradients of 8 MB are freed and asked for again in each step; fetched anew from the system they
    cost a tenth of its time in page faults. Elsewhere than under glibc nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its largest
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def _entropy(*key: int) -> int:
    """A 63-bit seed that depends on every part of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _state_tensors(network: Autoencoder, adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Weights, statistics and Adam's moments under names; no copies are made."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in adam.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = value
    return tensors


def _restore(state: TrainState, network: Autoencoder, adam: torch.optim.Adam) -> None:
    """Put a state's tensors where `_state_tensors` took them from."""
    prefix = "network."
    moments = ("step", "exp_avg", "exp_avg_sq")
    expected = {f"{prefix}{k}": (v.shape, v.dtype) for k, v in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        expected[f"adam.step.{name}"] = torch.Size(()), torch.float32
        for key in moments[1:]:
            expected[f"adam.{key}.{name}"] = parameter.shape, parameter.dtype
    if {key: (value.shape, value.dtype) for key, value in state.tensors.items()} != expected:
        raise InputError(
            "The state in which this training was left belongs to another network: remove the "
            "folder 'states' of the store to start the learner anew."
        )
    network.load_state_dict(
        {k[len(prefix) :]: v for k, v in state.tensors.items() if k.startswith(prefix)}
    )
    for name, parameter in network.named_parameters():
        for key in moments:
            value = state.tensors[f"adam.{key}.{name}"]
            # Fused Adam keeps its step count beside the weights.
            adam.state[parameter][key] = value.to(parameter.device).clone()
