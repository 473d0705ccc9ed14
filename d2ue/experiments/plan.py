"""Planning a batch: which learners and scores stand behind some rows, and which are missing.

A batch is a graph of **tasks**: a learner waits for its seniors, an ensemble's scores wait for its
learners. `run` works through it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from d2ue.backbones import Autoencoder
from d2ue.config import TrainConfig
from d2ue.datasets.types import Dataset
from d2ue.ensemble import resolve_device
from d2ue.experiments.rivals import of_control, settings
from d2ue.experiments.rows import Row
from d2ue.learners import MOST_REPLICAS, check_images, fitting_replicas, learner_name
from d2ue.store.learners import Store
from d2ue.store.results import DataKey, has_record, record_name
from d2ue.training import LearnerTask, shared_settings, train_learners


@dataclass(frozen=True)
class Task:
    """A learner to train, or an ensemble to score."""

    name: str  # the learner's or the record's
    kind: str  # "train" or "score"
    data: int  # which data set, as a position
    config: TrainConfig  # the ensemble's
    number: int  # of the learner; 0 for scores
    needs: frozenset[str]  # names of the learners that must be there first
    control: str = ""  # which control is scored; "" for a trained ensemble

    def __str__(self) -> str:
        """Such as `learner 2 of AE, seed 1, cka at z, lambda 1`."""
        c = self.config
        if rival := of_control(self.control):
            return f"{rival[0].title} ({rival[1]}), seed {c.seed}"
        if self.control:
            of = {"untrained": "an untrained ensemble", "gradient": "a single learner's gradient"}
            tail = f", {c.backbone}, seed {c.seed}" if self.control in of else ""
            return f"control: {of.get(self.control, 'the images alone')}{tail}"
        of_n = f"{c.n_learners} learner{'s' * (c.n_learners > 1)}"
        what = f"scores of {of_n}" if self.kind == "score" else f"learner {self.number}"
        tail = ""
        if c.repels and self.number != 1:
            tail = f", {c.similarity} at {c.layer}, lambda {c.repulsion_weight:g}"
        tail += f", {c.precision}" if c.precision != "float32" else ""
        return f"{what} of {c.backbone}, seed {c.seed}{tail}"

    def epochs(self) -> int:
        """What it counts for in the progress bar; scoring takes about one epoch's time."""
        if of_control(self.control):
            return settings(self.control, self.config).epochs + 1
        return self.config.epochs if self.kind == "train" else 1

    def is_done(self, store: Store) -> bool:
        """Whether the store has what the task would make."""
        return store.has(self.name) if self.kind == "train" else has_record(store, self.name)


@dataclass
class Plan:
    """What a batch has to do; tasks are in an order in which they could be done."""

    datasets: Sequence[Dataset]
    keys: Sequence[DataKey]  # theirs
    tasks: dict[str, Task] = field(default_factory=dict)  # what is missing, by name
    cached: dict[str, int] = field(default_factory=dict)  # data sets' positions by record there is
    wanted: set[str] = field(default_factory=set)  # names of all records
    titles: dict[str, str] = field(default_factory=dict)  # "brain-mri: learner 1 of ae, seed 1"

    def add(self, task: Task) -> None:
        """Have one more task done."""
        self.tasks[task.name] = task
        self.titles[task.name] = f"{self.keys[task.data].name}: {task}"

    def trainings(self) -> list[Task]:
        """The learners to train."""
        return [task for task in self.tasks.values() if task.kind == "train"]


def plan(
    rows: Iterable[Row],
    datasets: Sequence[Dataset],
    seeds: Sequence[int],
    store: Store,
    *,
    train: bool = True,
) -> Plan:
    """What has to be trained and scored for these rows, and what is there.

    Seeds go in the outer loop: a batch that is stopped early leaves whole seeds, not whole rows.
    Without `train` only the scoring of what is there is planned.

    Raises:
        InputError: if a data set does not fit the settings or has no labelled test images.
    """
    rows = list(rows)
    made = Plan(datasets, [DataKey.of(dataset) for dataset in datasets])
    for position, dataset in enumerate(datasets):
        for row in rows if train else ():
            check_images(row.config, dataset.train)
        for seed in seeds:
            for row in rows:
                if seed == seeds[0] or not row.deterministic:
                    _add(made, store, position, row.config.replace(seed=seed), row.control)
    if not train:
        made.tasks = {name: task for name, task in made.tasks.items() if task.kind == "score"}
    return made


def _add(made: Plan, store: Store, position: int, config: TrainConfig, control: str) -> None:
    key = made.keys[position]
    record = record_name(config, key, control)
    if record in made.wanted:
        return
    made.wanted.add(record)
    has_learners = control in ("", "gradient")
    trained = config.n_learners if has_learners else 0
    learners = [learner_name(config, k, key.train) for k in range(1, trained + 1)]
    scoring = Task(record, "score", position, config, 0, frozenset(learners), control)
    if has_record(store, record):
        made.cached[record] = position
        made.titles[record] = f"{key.name}: {scoring}"
        return
    for number, name in enumerate(learners, 1):
        if name not in made.tasks and not store.has(name):
            # A learner that is not repelled needs nobody.
            seniors = frozenset(learners[: number - 1] if config.repels else ())
            made.add(Task(name, "train", position, config, number, seniors))
    made.add(scoring)


#: Names of tasks that are done together: learners as replicas of one network, or a single task.
Group = tuple[str, ...]


def groups(planned: Plan, store: Store, gpus: int, memory: int) -> list[Group]:
    """What each of some GPUs does at a time: all are busy, and each group fits a GPU's memory.

    A group that was left in the middle is formed again as it was.

    Args:
        planned: what there is to do.
        store: where trainings were left in the middle.
        gpus: how many.
        memory: of each in bytes; 0 where it is not known: groups that turn out too large are
            halved when they are trained.
    """
    tasks = planned.tasks
    made = [names for names in store.left_off() if names and tasks.keys() >= set(names)]
    begun = {name for names in made for name in names}
    alike: dict[object, list[str]] = {}
    for name, task in tasks.items():
        kind: object = name
        if task.kind == "train":
            repelled = bool(task.needs)
            number = task.number if repelled else 0
            kind = (task.data, number, shared_settings(task.config, repelled))
        if name not in begun:
            alike.setdefault(kind, []).append(name)
    for names in alike.values():
        task = tasks[names[0]]
        most = -(-len(names) // gpus)
        if task.kind == "train":
            seniors = len(task.needs) * len(planned.datasets[task.data].train)
            fitting = MOST_REPLICAS
            if memory:
                fitting = fitting_replicas(
                    memory, task.config, seniors * feature_bytes(task.config)
                )
            most = min(most, fitting)
        made += [tuple(names[i : i + most]) for i in range(0, len(names), most)]
    return made


def feature_bytes(config: TrainConfig) -> int:
    """Bytes of one learner's feature of one image at the layer that is repelled."""
    with torch.device("meta"):
        network = Autoencoder(config.backbone, 1, config.image_size).eval()
        images = torch.empty(1, 1, 1, config.image_size, config.image_size)
        feature = network(images, config.layer).feature
    assert feature is not None
    return feature.nbytes


def describe(planned: Plan, seconds: float | None = None) -> list[str]:
    """What a plan would do, a line each: for `--dry-run`."""
    lines = [
        f"{title} (cached)" for name, title in planned.titles.items() if name in planned.cached
    ]
    for position, key in enumerate(planned.keys):
        of_set = [task for task in planned.tasks.values() if task.data == position]
        lines += [planned.titles[task.name] for task in of_set if task.kind == "train"]
        if scores := sum(task.kind == "score" for task in of_set):
            lines.append(f"{key.name}: scores of {scores} ensembles")
    trainings = planned.trainings()
    epochs = sum(task.config.epochs for task in trainings)
    lines.append(
        f"{len(planned.wanted)} ensembles in all, {len(planned.cached)} of them cached; "
        f"{len(trainings)} learners to train ({epochs} epochs)."
    )
    if seconds is not None and trainings:
        hours, minutes = divmod(round(seconds / 60), 60)
        expected = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
        expected = f"{seconds:.0f} s" if seconds < 90 else expected
        lines.append(
            f"Expected time of the training on this machine: {expected}; starting and saving take "
            "a second or two more a learner."
        )
    return lines


def seconds_for(planned: Plan, jobs: int = 0, device: str = "auto") -> float:
    """Expected seconds of a plan's trainings, from a few steps of each backbone timed here.

    Scoring and repulsion (a few per cent) are not counted.
    """
    where = resolve_device(device)
    trainings = planned.trainings()
    step_seconds: dict[tuple[str, int, int], float] = {}
    costs: dict[str, float] = {}
    for task in trainings:
        c, images = task.config, planned.datasets[task.data].train.images
        kind = (c.backbone, c.image_size, c.batch_size)
        if kind not in step_seconds:
            alike = sum(other.config.backbone == c.backbone for other in trainings)
            step_seconds[kind] = _time_step(c, images[: c.batch_size], where, alike)
        costs[task.name] = step_seconds[kind] * c.epochs * (len(images) // c.batch_size)
    if where.type != "cpu":
        return sum(costs.values()) / visible(where)
    return _until_done(trainings, costs, min(jobs or cores(), cores()))


def _time_step(config: TrainConfig, images: np.ndarray, where: torch.device, alike: int) -> float:
    """Seconds a step of one learner; on a GPU as one of as many replicas as there will be."""
    probes = [LearnerTask(config.replace(epochs=4, n_learners=1), 1)]
    if where.type == "cuda":
        memory = torch.cuda.get_device_properties(where).total_memory
        probes *= min(alike, fitting_replicas(memory, config))
    ends: list[float] = []
    with one_thread():
        train_learners(
            probes, images, device=where, on_epoch=lambda *_: ends.append(time.perf_counter())
        )
    return min(b - a for a, b in pairwise(ends)) / len(probes)


def _until_done(tasks: Sequence[Task], costs: Mapping[str, float], jobs: int) -> float:
    """The least time that tasks take by `jobs` at a time, each after those that it needs."""
    until: dict[str, float] = {}
    for task in tasks:
        seniors = max((until.get(name, 0.0) for name in task.needs), default=0.0)
        until[task.name] = seniors + costs[task.name]
    return max([sum(costs.values()) / jobs, *until.values()])


def visible(device: torch.device) -> int:
    """How many devices a name stands for: "cuda" for all GPUs that this process may use."""
    return torch.cuda.device_count() if str(device) == "cuda" else 1


def cores() -> int:
    """CPU cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread a task, however many run side by side: other numbers round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
