"""Many ensembles as one batch: what is missing is trained, each learner once, then scored.

A batch is a graph of **tasks**: a learner waits for its seniors, an ensemble's scores wait for its
learners. On a CPU every task is a process of its own, as many side by side as there are cores, one
thread each; on a GPU learners train as replicas of one network in this process. What is finished
stands in the store, so a batch that was stopped, however hard, goes on where it was, and two
batches that want the same learner share the work: one trains it, the other takes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from d2ue.config import TrainConfig
from d2ue.datasets import BUILT_IN
from d2ue.datasets.registry import load_named, marked
from d2ue.datasets.types import Dataset
from d2ue.ensemble import join, resolve_device, train_into, train_learner
from d2ue.errors import D2UEError, InputError
from d2ue.experiments.printed import AS_PRINTED, caption
from d2ue.experiments.quick import save_results
from d2ue.experiments.records import score_control, score_record
from d2ue.experiments.rows import (
    Cell,
    Row,
    collect,
    layout,
    markdown,
    rows,
    show_verdicts,
    titled,
)
from d2ue.fast.steps import free_memory, is_memory_error
from d2ue.learners import check_images, fitting_replicas, learner_name
from d2ue.progress import bar as progress_bar
from d2ue.progress import lock_within_process
from d2ue.statistics.clusters import read_clusters
from d2ue.store.files import write_text
from d2ue.store.learners import Store
from d2ue.store.results import (
    DataKey,
    Record,
    data_keys,
    has_record,
    put_record,
    read_records,
    record_name,
    rename_data,
)
from d2ue.training import LearnerTask, train_learners

ClustersByName = dict[str, np.ndarray]

#: How often a task may be lost with its process (killed, out of memory) before it is given up.
ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
    """A learner to train, or an ensemble to score.

    Attributes:
        name: the learner's or the record's name.
        kind: "train" or "score".
        data: which data set, as a position.
        config: the ensemble's settings.
        number: of the learner; 0 for scores.
        needs: names of the learners that must be there first.
        control: of scores: which control they are of; "" for a trained ensemble.
    """

    name: str
    kind: str
    data: int
    config: TrainConfig
    number: int
    needs: frozenset[str]
    control: str = ""

    def __str__(self) -> str:
        """Such as `learner 2 of AE, seed 1, cka at z, lambda 1`."""
        c = self.config
        if self.control:
            of = {"untrained": "an untrained ensemble", "gradient": "a single learner's gradient"}
            tail = f", {c.backbone}, seed {c.seed}" if self.control in of else ""
            return f"control: {of.get(self.control, 'the images alone')}{tail}"
        repulsion = f", {c.similarity} at {c.layer}, lambda {c.repulsion_weight:g}"
        of = f"{c.n_learners} learner{'s' * (c.n_learners > 1)}"
        what = f"scores of {of}" if self.kind == "score" else f"learner {self.number}"
        tail = repulsion if c.repels and self.number != 1 else ""
        tail += f", {c.precision}" if c.precision != "float32" else ""
        return f"{what} of {c.backbone}, seed {c.seed}{tail}"

    def epochs(self) -> int:
        """What it counts for in the progress bar; scoring takes about one epoch's time."""
        return self.config.epochs if self.kind == "train" else 1


@dataclass
class Plan:
    """What a batch has to do.

    Attributes:
        datasets: the data sets.
        keys: their keys.
        tasks: what is missing, by name, in an order in which it could be done.
        cached: of the records that are there, the data set's position by name.
        wanted: names of all records.
        titles: what every task and cached record is, such as "brain-mri: learner 1 of ae, seed 1".
    """

    datasets: Sequence[Dataset]
    keys: Sequence[DataKey]
    tasks: dict[str, Task] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    titles: dict[str, str] = field(default_factory=dict)

    def add(self, task: Task) -> None:
        """Have one more task done."""
        self.tasks[task.name] = task
        self.titles[task.name] = f"{self.keys[task.data].name}: {task}"

    def trainings(self) -> list[Task]:
        """The learners to train."""
        return [task for task in self.tasks.values() if task.kind == "train"]


@dataclass
class Report:
    """What became of a batch.

    Attributes:
        done: names of what was trained or scored by this batch.
        data: the data sets' keys, in their order.
        cached: how many ensembles' scores were there already.
        failed: sentence by title, for the tasks that failed.
        skipped: titles of the tasks that waited for a failed one.
    """

    done: list[str] = field(default_factory=list)
    cached: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    data: Sequence[DataKey] = ()


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

    Args:
        rows: of tables.
        datasets: what they are run on.
        seeds: which.
        store: where results are kept.
        train: False to plan the scoring of what is there alone.

    Raises:
        InputError: if a data set does not fit the settings or has no labelled test images.
    """
    rows = list(rows)
    found = Plan(datasets, [DataKey.of(dataset) for dataset in datasets])
    for position, (dataset, key) in enumerate(zip(datasets, found.keys, strict=True)):
        for row in rows if train else ():
            check_images(row.config, dataset.train)
        for seed in seeds:
            for row in rows:
                _add(found, store, position, key, row.config.replace(seed=seed), row.control)
    if not train:
        found.tasks = {name: task for name, task in found.tasks.items() if task.kind == "score"}
    return found


def _add(
    found: Plan, store: Store, position: int, key: DataKey, config: TrainConfig, control: str
) -> None:
    record = record_name(config, key, control)
    if record in found.wanted:
        return
    found.wanted.add(record)
    trained = 0 if control in ("images", "untrained") else config.n_learners
    learners = [learner_name(config, k, key.train) for k in range(1, trained + 1)]
    scoring = Task(record, "score", position, config, 0, frozenset(learners), control)
    if has_record(store, record):
        found.cached[record] = position
        found.titles[record] = f"{key.name}: {scoring}"
        return
    for number, name in enumerate(learners, 1):
        if name not in found.tasks and not store.has(name):
            # A learner that is not repelled needs nobody.
            seniors = frozenset(learners[: number - 1] if config.repels else ())
            found.add(Task(name, "train", position, config, number, seniors))
    found.add(scoring)


def run(
    found: Plan,
    store: Store,
    *,
    jobs: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Report:
    """Do what a plan has to do.

    Args:
        found: from `plan`.
        store: where learners, states and scores are kept.
        jobs: processes side by side on a CPU; 0 = one a core; 1 = this process alone. Not looked
            at on a GPU.
        device: as for `d2ue.ensemble.train_ensemble`.
        progress: whether to show a bar over all that is to be done, with the time left.

    Returns:
        What was done and what failed; a failed task does not stop the others.
    """
    report = Report(cached=len(found.cached), data=found.keys)
    where = resolve_device(device)
    for name, position in found.cached.items():
        rename_data(store, name, found.keys[position].name)
    total = sum(task.epochs() for task in found.tasks.values())
    bar = progress_bar(
        total=total, desc="batch", unit="epoch", disable=not progress, smoothing=0.05
    )
    with bar:
        if where.type != "cpu":
            _run_on_device(found, store, str(where), report, bar)
        elif (jobs or _cores()) == 1:
            for task in found.tasks.values():
                _attempt(task, found, store, "cpu", report, bar)
        else:
            _Processes(found, store, jobs or _cores(), report, bar).run()
    _keep_failures(found, store, report)
    return report


#: In a store: why tasks failed when they were last tried, by name.
FAILURES = "failures.json"


def _keep_failures(found: Plan, store: Store, report: Report) -> None:
    """Note which tasks of a plan failed, so that what only reads the store can say it."""
    names = {found.titles[name]: name for name in found.tasks}
    failures = _failures(store)
    kept = {name: why for name, why in failures.items() if name not in report.done}
    kept |= {names[title]: why for title, why in report.failed.items()}
    if kept != failures:
        write_text(store.folder / FAILURES, json.dumps(kept, indent=1) + "\n")


def _failures(store: Store) -> dict[str, str]:
    try:
        return dict(json.loads((store.folder / FAILURES).read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def _known(found: Plan, store: Store) -> Report:
    """What is known of a plan without doing anything."""
    failures = _failures(store)
    failed = {found.titles[name]: failures[name] for name in found.tasks if name in failures}
    skipped = [
        found.titles[name]
        for name, task in found.tasks.items()
        if name not in failures and task.needs & failures.keys()
    ]
    return Report(cached=len(found.cached), failed=failed, skipped=skipped, data=found.keys)


def seconds_for(found: Plan, jobs: int = 0, device: str = "auto") -> float:
    """Expected time of the trainings of a plan, from a few steps of each backbone timed here.

    Returns:
        Seconds, all jobs together; scoring and repulsion (a few per cent) not counted.
    """
    where = resolve_device(device)
    cores = _cores() if where.type == "cpu" else 1
    jobs = min(jobs or cores, max(1, len(found.trainings())))
    a_step: dict[tuple[str, int, int], float] = {}
    costs: dict[str, float] = {}
    for task in found.trainings():
        c, images = task.config, found.datasets[task.data].train.images
        kind = (c.backbone, c.image_size, c.batch_size)
        if kind not in a_step:
            probes = [LearnerTask(c.replace(epochs=4, n_learners=1), 1)]
            if where.type == "cuda":  # side by side, as many as will be
                alike = sum(other.config.backbone == c.backbone for other in found.trainings())
                memory = torch.cuda.get_device_properties(where).total_memory
                probes *= min(alike, fitting_replicas(memory, c))
            stamps: list[float] = []
            threads = torch.get_num_threads()
            torch.set_num_threads(max(1, cores // jobs))
            try:
                train_learners(
                    probes,
                    images[: c.batch_size],
                    device=where,
                    on_epoch=lambda *_, stamps=stamps: stamps.append(time.perf_counter()),
                )
            finally:
                torch.set_num_threads(threads)
            a_step[kind] = min(b - a for a, b in pairwise(stamps)) / len(probes)
        costs[task.name] = a_step[kind] * c.epochs * (len(images) // c.batch_size)
    if where.type != "cpu":  # side by side in one process
        return sum(costs.values())
    return _until_done(found.trainings(), costs, min(jobs, cores))


def _until_done(tasks: Sequence[Task], costs: Mapping[str, float], jobs: int) -> float:
    """The least time that tasks take by `jobs` at a time, each after those that it needs.

    Args:
        tasks: needs before what needs them.
        costs: of each task, by name.
        jobs: how many run side by side.
    """
    until: dict[str, float] = {}
    for task in tasks:
        seniors = max((until.get(name, 0.0) for name in task.needs), default=0.0)
        until[task.name] = seniors + costs[task.name]
    return max([sum(costs.values()) / jobs, *until.values()])


def _run_on_device(found: Plan, store: Store, device: str, report: Report, bar: Any) -> None:
    """All learners of a data set as replicas in this process; then the scores."""
    for position, dataset in enumerate(found.datasets):
        own = [task for task in found.tasks.values() if task.data == position]
        configs = [task.config for task in own if task.kind == "score" and task.needs]
        try:
            train_into(
                store, configs, dataset.train, device=device, progress=False, report=bar.update
            )
        except D2UEError:
            pass  # the others' learners are in the store; this one fails again below, by itself
        except Exception as error:
            warnings.warn(
                f"Training learners of {dataset.name} side by side stopped ({_sentence(error)}); "
                "the rest are trained one by one, which is slower.",
                RuntimeWarning,
                stacklevel=2,
            )
        for task in own:
            if task.kind == "train" and store.has(task.name):
                report.done.append(task.name)
            else:
                _attempt(task, found, store, device, report, bar)


def _attempt(task: Task, found: Plan, store: Store, device: str, report: Report, bar: Any) -> None:
    """Do a task in this process."""
    done = 0

    def count(epochs: int) -> None:
        nonlocal done
        done += epochs
        bar.update(epochs)

    if all(store.has(name) for name in task.needs):
        try:
            _do(task, found.datasets[task.data], store, device, count)
            report.done.append(task.name)
        except Exception as error:
            report.failed[found.titles[task.name]] = _sentence(error)
            free_memory(resolve_device(device))
    else:
        report.skipped.append(found.titles[task.name])
    bar.update(task.epochs() - done)


def _sentence(error: Exception) -> str:
    """Why a task failed; a defect of ours, too, must not stop the other cells."""
    if isinstance(error, D2UEError):
        return str(error)
    if isinstance(error, MemoryError) or is_memory_error(error):
        return "the memory is full: run fewer jobs side by side (--jobs), or free a GPU's."
    return f"{type(error).__name__}: {error}"


def _do(
    task: Task, dataset: Dataset, store: Store, device: str, report: Callable[[int], None]
) -> None:
    """Train one learner (its seniors are in the store), or score one ensemble."""
    c = task.config
    if task.kind == "train":
        train_learner(c, task.number, dataset.train, device=device, store=store, report=report)
        return
    key = DataKey.of(dataset)
    if task.control and not task.needs:
        put_record(store, score_control(task.control, c, dataset, key, device=device))
        report(1)
        return
    learners = []
    for number in range(1, c.n_learners + 1):
        learner = store.get(learner_name(c, number, key.train))
        assert learner is not None
        learners.append(learner)
    ensemble = join(c, [x.network for x in learners], key.train, [x.history for x in learners])
    if task.control:
        record = score_control(task.control, c, dataset, key, ensemble.to(device))
    else:
        record = score_record(ensemble.to(device), dataset.labelled, key)
    put_record(store, record)
    report(1)


def score_controls(settings: Settings, store: Store) -> Report:
    """Score what of a table's controls can be scored with the learners that a store holds.

    Nothing is trained: a single learner's gradient whose learner is not there is among the report's
    `skipped`. `run` of a plan with the rows of "controls" trains it.

    Args:
        settings: data sets, their folder, and seeds.
        store: where learners are looked for, and scores are kept.

    Raises:
        InputError: if data cannot be used.
    """
    seeds = settings.seed_list  # refused before images are read
    datasets = settings.load()
    if not datasets:
        raise InputError("Controls look at images: give the folder that they lie in.")
    found = plan(settings.rows("controls"), datasets, seeds, store, train=False)
    return run(found, store, jobs=1, device="cpu", progress=False)


def _work(
    pipe: Connection, task: Task, dataset: Dataset, folder: str, interval: float, threads: int
) -> None:
    """A task in a process of its own; says over the pipe how far it is, and why it failed."""
    # Ctrl-C reaches every process of the terminal; the batch's own decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock_within_process()
    torch.set_num_threads(threads)
    try:
        # When the batch is gone, sending fails, and this process ends at the next epoch.
        _do(task, dataset, Store(folder, interval), "cpu", lambda epochs: pipe.send(epochs))
        pipe.send("")
    except BrokenPipeError:
        return
    except Exception as error:
        pipe.send(_sentence(error))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: a process that is half started would print a traceback, or be lost."""
    resource_tracker.ensure_running()  # the first process starts it, which lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Processes:
    """The tasks of a plan as processes, at most `jobs` at a time."""

    def __init__(self, found: Plan, store: Store, jobs: int, report: Report, bar: Any) -> None:
        self.found, self.store, self.report, self.bar = found, store, report, bar
        self.jobs = max(1, min(jobs, len(found.tasks)))
        self.threads = max(1, _cores() // self.jobs)
        self.waiting = dict(found.tasks)
        self.lost: dict[str, int] = {}
        self.running: dict[Connection, tuple[Any, Task, int]] = {}
        # A server that has torch loaded starts a process in a moment, and with none of the threads
        # and locks of this one; torch._dynamo, which the first optimiser of a process imports,
        # takes longer than a small learner.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, "torch._dynamo"])

    def run(self) -> None:
        """Until nothing is left to do."""
        try:
            while self.waiting or self.running:
                self._start()
                if self.running:
                    self._listen()
                elif self.waiting:
                    time.sleep(0.2)  # another batch holds all that could be done now
        finally:
            for process, _, _ in self.running.values():
                process.terminate()
            for process, _, _ in self.running.values():
                process.join()

    def _start(self) -> None:
        for name, task in list(self.waiting.items()):
            if len(self.running) >= self.jobs:
                return
            missing = [
                need for need in task.needs if need in self.waiting or self._is_running(need)
            ]
            absent = [need for need in task.needs if not missing and not self.store.has(need)]
            if absent:
                del self.waiting[name]
                self.report.skipped.append(self.found.titles[name])
                self.bar.update(task.epochs())
            elif self._is_there(task):
                del self.waiting[name]  # another batch was quicker
                self.bar.update(task.epochs())
            elif not missing and not self.store.is_claimed(name):
                del self.waiting[name]
                self._launch(task)

    def _is_running(self, name: str) -> bool:
        return any(task.name == name for _, task, _ in self.running.values())

    def _is_there(self, task: Task) -> bool:
        return self.store.has(task.name) or has_record(self.store, task.name)

    def _launch(self, task: Task) -> None:
        ours, theirs = self.context.Pipe(duplex=False)
        interval = self.store.state_interval
        arguments = (
            theirs,
            task,
            self._needed(task),
            str(self.store.folder),
            interval,
            self.threads,
        )
        process = self.context.Process(target=_work, args=arguments, daemon=True)
        with _uninterrupted():
            process.start()
            theirs.close()
            self.running[ours] = process, task, 0

    def _needed(self, task: Task) -> Dataset:
        """The data set without what the task does not look at: it travels to the process."""
        dataset = self.found.datasets[task.data]
        if task.kind == "train":
            return Dataset(dataset.name, dataset.train)
        return dataset

    def _listen(self) -> None:
        # Looks up twice a second for what another batch has finished.
        for pipe in wait(list(self.running), timeout=0.5):
            assert isinstance(pipe, Connection)
            process, task, epochs = self.running[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                self._ended(pipe, "lost")
                continue
            if isinstance(message, int):
                self.running[pipe] = process, task, epochs + message
                self.bar.update(message)
            else:
                self._ended(pipe, message)

    def _ended(self, pipe: Connection, message: str) -> None:
        process, task, epochs = self.running.pop(pipe)
        pipe.close()
        process.join()
        if message == "":
            self.report.done.append(task.name)
            self.bar.update(task.epochs() - epochs)
            return
        if message == "lost":
            self.lost[task.name] = self.lost.get(task.name, 0) + 1
            if self.lost[task.name] < ATTEMPTS:
                self.waiting[task.name] = task
                self.bar.update(-epochs)
                return
            message = (
                f"its process was ended {ATTEMPTS} times from outside (exit code "
                f"{process.exitcode}): is the memory full? Try fewer --jobs."
            )
        self.report.failed[self.found.titles[task.name]] = message
        self.bar.update(task.epochs() - epochs)


def _cores() -> int:
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Settings:
    """What a batch is about, in the plain values that notebooks and the command line give.

    Attributes:
        datasets: names, separated by commas; see `d2ue datasets`.
        data: folder of the data sets, or of the one; "" for the built-in phantoms, or to draw what
            `results` holds without any images.
        results: a store's folder, or folders and exports to read, separated by commas.
        seeds: "5" for the seeds 1 to 5, or single seeds, "1,2,7".
        backbones: those of "ae,memae,aeu" to keep; "" = the table's.
        base: settings that the tables' rows do not set themselves.
        n_train, n_test: so many images, drawn once with seed 0; 0 = all.
        clusters: files of near duplicates (`statistics.clusters`), one a data set in their order,
            separated by commas; "" where none are known. Intervals and tests then respect them.
    """

    datasets: str
    data: str = ""
    results: str = ""
    seeds: str = "5"
    backbones: str = ""
    base: TrainConfig = field(default_factory=TrainConfig)
    n_train: int = 0
    n_test: int = 0
    clusters: str = ""

    def __post_init__(self) -> None:
        for option, n in (("n_train", self.n_train), ("n_test", self.n_test)):
            if n < 0:
                raise InputError(f"{option} is a number of images, 0 for all; not {n}.")

    @property
    def names(self) -> list[str]:
        """The data sets' names.

        Raises:
            InputError: if there is none, or one twice.
        """
        names = _listed(self.datasets)
        if not names:
            raise InputError("No data set is named: 'd2ue datasets' lists those that have a name.")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"The data set {name} is named twice: name it once.")
        return names

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds.

        Raises:
            InputError: if they are no such list.
        """
        try:
            values = [int(text) for text in _listed(self.seeds)]
        except ValueError:
            values = []
        if len(values) == 1 and "," not in self.seeds:
            values = list(range(1, values[0] + 1))
        if not values or len(set(values)) < len(values) or min(values) < 0:
            raise InputError(
                f"Seeds are given as their number, 5, or one by one, 1,2,7; not {self.seeds!r}."
            )
        return tuple(values)

    @property
    def seeds_text(self) -> str:
        """`seed 1` or `seeds 1, 2, 3`."""
        seeds = self.seed_list
        return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"

    def load(self, *, progress: bool = True) -> list[Dataset]:
        """The images; none are needed, and none are loaded, to draw what is there.

        Raises:
            InputError: if a data set cannot be found or used.
        """
        if not self.data and not all(name in BUILT_IN for name in self.names):
            return []
        loaded: list[Dataset] = []
        for name in self.names:
            dataset = load_named(name, self.data, self.base.image_size, progress=progress)
            drawn = (
                ("n_train", self.n_train, dataset.train),
                ("n_test", self.n_test, dataset.labelled),
            )
            for option, n, images in drawn:
                if n > len(images):
                    raise InputError(
                        f"{option} is {n}, but {name} has {len(images)} such images: give at most "
                        "as many, or 0 for all."
                    )
            train, test = (images.sample(n) for _, n, images in drawn)
            for other in loaded:
                if other.train.fingerprint == train.fingerprint:
                    raise InputError(
                        f"{other.name} and {name} are the same images: give --data the folder "
                        "in which both have a folder of their own."
                    )
            loaded.append(Dataset(dataset.name, train, test))
        return loaded

    def as_parameters(self, notebook: str) -> dict[str, Any]:
        """The same as parameters of a table's notebook."""
        values = {
            "datasets": self.datasets,
            "data": self.data,
            "results": self.results,
            "seeds": self.seeds,
            "epochs": self.base.epochs,
            "batch_size": self.base.batch_size,
            "precision": self.base.precision,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "clusters": self.clusters,
        }
        return values | ({"backbones": self.backbones} if notebook == "table2" else {})

    @property
    def drawn(self) -> str:
        """How many images were drawn, where not all were taken: ` (100 to train, 60 to test)`."""
        counts = [(self.n_train, "to train"), (self.n_test, "to test")]
        given = ", ".join(f"{n} {what}" for n, what in counts if n)
        return f" ({given})" if given else ""

    def head(self, data: Sequence[DataKey] = ()) -> str:
        """For the head of a picture: `brain-mri, 250 epochs, seeds 1, 2, 3`.

        Args:
            data: the sets' keys, as `Report.data` has them: those that are not the paper's say how
                many images they have.
        """
        epochs = f"{self.base.epochs} epoch{'s' * (self.base.epochs != 1)}"
        formats = "" if self.base.precision == "float32" else f", {self.base.precision}"
        names = map(titled, data) if data else map(marked, self.names)
        drawn = "" if data else self.drawn
        return f"{', '.join(names)}{drawn}, {epochs}, {self.seeds_text}{formats}"

    def __str__(self) -> str:
        """The head without the data at hand."""
        return self.head()

    def rows(self, table: str) -> list[Row]:
        """The rows of a table.

        Raises:
            InputError: if the backbones name none.
        """
        kept = _listed(self.backbones)
        if self.backbones and not kept:
            raise InputError(f"Backbones are given as ae,memae,aeu, not {self.backbones!r}.")
        return rows(table, self.base, kept if table in ("table2", "controls") else [])

    def read_clusters(
        self, keys: Sequence[DataKey], labels: Mapping[DataKey, np.ndarray]
    ) -> ClustersByName:
        """Clusters of near duplicates among the test images, by data set; those that are known.

        Args:
            keys: of the data sets, in their order.
            labels: of the test images that the clusters are to be used with.

        Raises:
            InputError: if there are not as many files as data sets, or one is of other images:
                their labels differ.
        """
        if not self.clusters.strip():
            return {}
        files = [text.strip() for text in self.clusters.split(",")]
        if len(files) != len(keys):
            raise InputError(
                f"There are {len(keys)} data sets and {len(files)} files of clusters: give one for "
                "each, in the same order; nothing between two commas where none are known."
            )
        found = {}
        for file, key in zip(files, keys, strict=True):
            if file:
                own = read_clusters(file)
                if key in labels and not np.array_equal(own.labels, labels[key]):
                    raise InputError(
                        f"{file} has clusters of {len(own.labels)} test images that are not those "
                        f"of {key.name} ({len(labels[key])}, in the order of their labels)."
                    )
                found[key.name] = own.test
        return found


def obtain(
    tables: Sequence[str],
    settings: Settings,
    *,
    jobs: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> tuple[dict[str, list[Cell]], Report]:
    """The cells of some tables: what can be read is read, what is missing is trained.

    Without images (`settings.data` empty and no phantoms asked for, or results that are an export)
    nothing is trained, and cells that no result stands for are empty.

    Args:
        tables: their names.
        settings: what about.
        jobs: as for `run`; -1 = train nothing, and report what failed when it was last tried.
        device: as for `run`.
        progress: as for `run`.

    Raises:
        InputError: if data or results cannot be used.
    """
    places = _listed(settings.results)
    is_export = bool(places) and Path(places[0]).is_file()
    if is_export and settings.data:
        raise InputError(
            f"{places[0]} is an export, which nothing can be trained into: give the folder of a "
            "store, or leave the images out to draw what the export holds."
        )
    datasets = [] if is_export else settings.load(progress=progress)
    report = Report()
    if datasets:
        if not places:
            raise InputError("Results have to be kept somewhere: give the folder of a store.")
        store = Store(places[0])
        wanted = [row for table in tables for row in settings.rows(table)]
        found = plan(wanted, datasets, settings.seed_list, store)
        if jobs < 0:
            report = _known(found, store)
        else:
            report = run(found, store, jobs=jobs, device=device, progress=progress)
        keys: Sequence[DataKey] = found.keys
        records = read_records(*places, names=found.wanted)
    else:
        records = read_records(*places)
        of_these = [r for r in records.values() if r.data.name in settings.names]
        known = data_keys(of_these, settings.n_train, settings.n_test)
        absent = [name for name in settings.names if name not in known]
        if absent:
            there = sorted({r.data.name for r in records.values()})
            raise InputError(
                f"There are no results for {', '.join(absent)} in {settings.results}"
                f"{settings.drawn}, only for {', '.join(there) or 'nothing at all'}: give the "
                "folder with the images to have them computed."
            )
        keys = [known[name] for name in settings.names]
        _check_settings(of_these, settings)
        report.data = keys
    labels = {record.data: record.labels for record in records.values()}
    clusters = settings.read_clusters(keys, labels)
    cells = {
        table: collect(settings.rows(table), records, keys, settings.seed_list, clusters)
        for table in tables
    }
    return cells, report


def _check_settings(records: Sequence[Record], settings: Settings) -> None:
    """Refuse to draw what no result stands for: a page of "not run" would look like a result."""
    named = ("epochs", "batch_size", "precision")
    wanted = tuple(getattr(settings.base, name) for name in named)
    trained = [r.config for r in records if r.control not in ("images", "untrained")]
    there = {tuple(getattr(config, name) for name in named) for config in trained}
    if there and wanted not in there:

        def said(values: tuple[Any, ...]) -> str:
            epochs, batch_size, precision = values
            return f"{epochs} epoch{'s' * (epochs != 1)}, batches of {batch_size} and {precision}"

        raise InputError(
            f"{settings.results} has no results of {said(wanted)}, only of "
            f"{'; of '.join(map(said, sorted(there)))}: give these settings."
        )


def save_tables(
    out: str,
    notebook: str,
    settings: Settings,
    report: Report,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Any],
) -> None:
    """Write what a table's notebook found: CSV, Markdown and PNG, and what it was made with.

    Args:
        out: the folder; made if need be.
        notebook: the notebook's name.
        settings: what the batch was about.
        report: what became of it; failures are recorded.
        tables: by file name without ending; long tables are laid out as the paper has them in the
            Markdown file, verdicts as a reader wants them.
        figures: matplotlib figures by file name without ending.

    Raises:
        InputError: if the folder cannot be written to.
    """
    record = {"notebook": notebook, **dataclasses.asdict(settings)}
    record |= {"failed": report.failed, "skipped": report.skipped}
    # Results travel; where they lay on this machine does not.
    for place in ("data", "results", "clusters"):
        record[place] = ",".join(Path(text).name for text in _listed(record[place]))
    made = f"Made by {notebook}; every setting is in parameters.json."
    about = settings.head(report.data)
    folder = save_results(out, record, tables, figures, f"{about}. {made}")
    failed = [f"Failed: {title}: {sentence}" for title, sentence in report.failed.items()]
    for name, table in tables.items():
        is_long = "AUC_by_seed" in table
        text = markdown(layout(table, ("AUC", "AP")) if is_long else show_verdicts(table))
        head = (
            f"{name} of {about}, batches of {settings.base.batch_size}. {made} Intervals and "
            f"tests: {_independence(table)}."
        )
        sentences = [*table.attrs.get("about", []), *failed]
        if name in AS_PRINTED and table["dataset"].nunique() == 1:
            sentences += [caption(table), markdown(AS_PRINTED[name](table)), "In full:"]
        write_text(folder / f"{name}.md", "\n\n".join([head, *sentences, text]))


def _independence(table: pd.DataFrame) -> str:
    known = table["independence"].dropna().unique() if "independence" in table else []
    return "; ".join(map(str, known)) or "none"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def describe(found: Plan, seconds: Mapping[str, float] | float | None = None) -> list[str]:
    """What a plan would do, a line each: for `--dry-run`."""
    lines = [f"{found.titles[name]} (cached)" for name in found.titles if name in found.cached]
    for position, key in enumerate(found.keys):
        own = [task for task in found.tasks.values() if task.data == position]
        lines += [found.titles[task.name] for task in own if task.kind == "train"]
        scores = sum(task.kind == "score" for task in own)
        if scores:
            lines.append(f"{key.name}: scores of {scores} ensembles")
    trainings = found.trainings()
    epochs = sum(task.config.epochs for task in trainings)
    lines.append(
        f"{len(found.wanted)} ensembles in all, {len(found.cached)} of them cached; "
        f"{len(trainings)} learners to train ({epochs} epochs)."
    )
    if isinstance(seconds, float) and trainings:
        lines.append(
            f"Expected time of the training on this machine: {duration(seconds)}; starting and "
            "saving take a second or two more a learner."
        )
    return lines


def duration(seconds: float) -> str:
    """Such as `1 h 05 min` or `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
