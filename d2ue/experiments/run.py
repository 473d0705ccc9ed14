"""Running a plan: one loop over its graph, tasks handed to any executor, results taken as they end.

What is finished stands in the store, so a batch that was stopped, however hard, goes on where it
was, and two batches that want the same learner share the work: one trains it, the other takes it.
On a CPU a task has one thread, wherever it runs; on a GPU learners train as replicas of one network
in this process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch

from d2ue.datasets.types import Dataset
from d2ue.ensemble import join, resolve_device, train_into, train_learner
from d2ue.errors import D2UEError, InputError
from d2ue.experiments.plan import Plan, Task, cores, one_thread
from d2ue.experiments.records import score_control, score_record
from d2ue.experiments.workers import Here, Workers
from d2ue.fast.steps import free_memory, is_memory_error
from d2ue.learners import learner_name
from d2ue.progress import bar as progress_bar
from d2ue.store.files import write_text, writing
from d2ue.store.learners import Store
from d2ue.store.results import DataKey, put_record, rename_data

#: How often a task may be lost with its process (killed, out of memory) before it is given up.
ATTEMPTS = 3
#: In a store: why tasks failed when they were last tried, by name.
FAILURES = "failures.json"
#: Seconds between two looks at how far tasks are, and at what other batches have finished.
LOOK = 0.5
#: Seconds after which notes that no task was added to are those of a killed batch.
STALE = 7 * 24 * 3600
#: What a worker answers that has not been sent the images yet.
SEND_DATA = "send the data"


@dataclass
class Report:
    """What became of a batch."""

    done: list[str] = field(default_factory=list)  # names of what this batch trained or scored
    cached: int = 0  # ensembles whose scores were there already
    failed: dict[str, str] = field(default_factory=dict)  # why, by title
    skipped: list[str] = field(default_factory=list)  # titles of what needed a failed task
    data: Sequence[DataKey] = ()  # keys of the data sets, in their order


def run(
    planned: Plan,
    store: Store,
    *,
    jobs: int = 0,
    device: str = "auto",
    progress: bool = True,
    executor: Executor | None = None,
) -> Report:
    """Do what a plan has to do; a failed task does not stop the others.

    Args:
        planned: from `plan`.
        store: where learners, states and scores are kept.
        jobs: processes side by side on a CPU; 0 = one a core; 1 = this process alone. Not looked
            at on a GPU. With an executor: tasks handed to it at a time; 0 = all that can begin.
        device: as for `d2ue.ensemble.train_ensemble`; with an executor "auto" is the CPU.
        progress: whether to show a bar over all that is to be done, with the time left.
        executor: what tasks are handed to in place of processes of this machine, such as a Dask
            client's `get_executor()`. Its workers must see the store's folder under its path.
    """
    report = Report(cached=len(planned.cached), data=planned.keys)
    for name, position in planned.cached.items():
        rename_data(store, name, planned.keys[position].name)
    if executor is not None and device == "auto":
        device = "cpu"
    where = resolve_device(device)
    tasks = planned.tasks
    total = sum(task.epochs() for task in tasks.values())
    with progress_bar(
        total=total, desc="batch", unit="epoch", disable=not progress, smoothing=0.05
    ) as bar:
        loop = _Loop(planned, store, str(where), report, bar)
        if executor is not None:
            loop.work_elsewhere(tasks, executor, jobs or len(tasks))
        elif where.type != "cpu":
            _run_on_device(loop)
        elif (jobs or cores()) == 1:
            with one_thread():
                loop.work(tasks)
        elif tasks:
            jobs = min(jobs or cores(), len(tasks))
            with Workers(jobs, __name__) as workers:
                loop.work_elsewhere(tasks, workers, jobs)
    _keep_failures(planned, store, report)
    return report


def _run_on_device(loop: _Loop) -> None:
    """All learners of a data set as replicas in this process; then the scores."""
    store, done = loop.store, loop.report.done
    for position, dataset in enumerate(loop.planned.datasets):
        tasks = {name: t for name, t in loop.planned.tasks.items() if t.data == position}
        configs = [task.config for task in tasks.values() if task.kind == "score" and task.needs]
        update, device = loop.bar.update, loop.device
        try:
            train_into(store, configs, dataset.train, device=device, progress=False, report=update)
        except D2UEError:
            pass  # the others' learners are in the store; this one fails again below, by itself
        except Exception as error:
            warnings.warn(
                f"Training learners of {dataset.name} side by side stopped ({_sentence(error)}); "
                "the rest are trained one by one, which is slower.",
                RuntimeWarning,
                stacklevel=2,
            )
        done += [name for name, t in tasks.items() if t.kind == "train" and store.has(name)]
        loop.work({name: task for name, task in tasks.items() if name not in done})


class _Loop:
    """Hands tasks to an executor as soon as what they need is there, in the plan's order."""

    def __init__(self, planned: Plan, store: Store, device: str, report: Report, bar: Any) -> None:
        self.planned, self.store, self.device = planned, store, device
        self.report, self.bar = report, bar
        self.notes: Path | None = None
        self.lost: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.to_send: set[str] = set()  # names of tasks whose worker had not got the images

    def work_elsewhere(self, tasks: Mapping[str, Task], engine: Executor, most: int) -> None:
        """The same in other processes, which keep notes in the store of how far they are.

        When the folder of notes is gone, the batch is over, and what still runs anywhere stops.
        """
        with writing(self.store.folder):
            folder = self.store.folder.resolve() / "running"
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.iterdir():  # of batches that were killed
                with contextlib.suppress(OSError):
                    if time.time() - left.stat().st_mtime > STALE:
                        shutil.rmtree(left)
            notes = tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)
        with notes as name:
            self.notes = Path(name)
            self.work(tasks, engine, most)

    def work(
        self, tasks: Mapping[str, Task], engine: Executor | None = None, most: int = 1
    ) -> None:
        """Until nothing is left to do; at most `most` tasks are handed over at a time."""
        engine = engine or Here()
        graph = TopologicalSorter({name: t.needs & tasks.keys() for name, t in tasks.items()})
        graph.prepare()
        ready: set[str] = set()
        running: dict[Future[str], Task] = {}
        try:
            while graph.is_active():
                ready.update(graph.get_ready())
                for task in [task for name, task in tasks.items() if name in ready]:
                    if len(running) >= most:
                        break
                    if self._is_settled(task):
                        graph.done(task.name)
                    elif self.store.is_claimed(task.name):
                        continue  # another batch is at it
                    else:
                        running[self._submit(task, engine)] = task
                    ready.remove(task.name)
                if ready and not running:
                    time.sleep(LOOK)
                for future in wait(running, LOOK, FIRST_COMPLETED).done:
                    task = running.pop(future)
                    if self._has_ended(task, future):
                        graph.done(task.name)
                    else:
                        ready.add(task.name)
                if self.notes:
                    for task in running.values():
                        done = (self.notes / task.name).read_text().partition("\t")[0]
                        self._count_to(task, int(done or 0))
        finally:
            for future in running:
                future.cancel()

    def _is_settled(self, task: Task) -> bool:
        """Whether there is nothing to do: another batch was quicker, or what it needs failed."""
        is_done = task.is_done(self.store)
        if not is_done and all(map(self.store.has, task.needs)):
            return False
        if not is_done:
            self.report.skipped.append(self.planned.titles[task.name])
        self._count_to(task, task.epochs())
        return True

    def _submit(self, task: Task, engine: Executor) -> Future[str]:
        dataset: Dataset | None = self.planned.datasets[task.data]
        report: Callable[[int], None] = functools.partial(self._count, task)
        if self.notes:
            report = _Note(self.notes / task.name, self.planned.titles[task.name], task.epochs())
            with writing(report.file):
                report.file.write_text("")
            if task.name not in self.to_send:
                dataset = None
        key, interval = self.planned.keys[task.data], self.store.state_interval
        folder = self.store.folder.resolve()
        return engine.submit(_do, task, key, dataset, folder, interval, self.device, report)

    def _has_ended(self, task: Task, future: Future[str]) -> bool:
        """Whether a task is over; else it is to be handed over again."""
        try:
            sentence = future.result()
        except Exception as error:  # the engine's own, as when a process was lost: ours are told
            self.lost[task.name] += 1
            if self.lost[task.name] < ATTEMPTS:
                self._count_to(task, 0)
                return False
            sentence = (
                f"its process was ended {ATTEMPTS} times from outside ({type(error).__name__}): "
                "is the memory full? Try fewer --jobs."
            )
        if sentence == SEND_DATA:
            self.to_send.add(task.name)
            return False
        if sentence:
            self.report.failed[self.planned.titles[task.name]] = sentence
        else:
            self.report.done.append(task.name)
        self._count_to(task, task.epochs())
        return True

    def _count(self, task: Task, epochs: int) -> None:
        self._count_to(task, self.counted[task.name] + epochs)

    def _count_to(self, task: Task, epochs: int) -> None:
        self.bar.update(epochs - self.counted[task.name])
        self.counted[task.name] = epochs


@dataclass
class _Note:
    """Called with the epochs just done: notes how far a task is; fails where the batch is over.

    The note is a line, parted by tabs: epochs done, epochs in all, what, where, since when.
    """

    file: Path
    title: str
    epochs: int
    done: int = 0
    since: str = ""

    def __call__(self, epochs: int) -> None:
        self.done += epochs
        self.since = self.since or time.strftime("%Y-%m-%d %H:%M:%S")
        place = f"{socket.gethostname()}, process {os.getpid()}"
        try:
            with open(self.file, "r+") as file:
                file.write(f"{self.done}\t{self.epochs}\t{self.title}\t{place}\t{self.since}")
        except FileNotFoundError as error:
            raise InputError(
                f"The worker on {socket.gethostname()} does not see {self.file}: the store has to "
                "be a folder that all workers share, under the same path."
            ) from error


#: In a worker: the data set that it was last sent.
_sent: dict[DataKey, Dataset] = {}


def _do(
    task: Task,
    key: DataKey,
    dataset: Dataset | None,
    folder: Path,
    interval: float,
    device: str,
    report: Callable[[int], None],
) -> str:
    """Train one learner (its seniors are in the store), or score one ensemble, here or in a worker.

    Without `dataset` that is the one which this process was sent last. Returns "", `SEND_DATA`, or
    why it failed: a defect of ours, too, must not stop the other cells.
    """
    dataset = dataset or _sent.get(key)
    if dataset is None:
        return SEND_DATA
    _sent.clear()
    _sent[key] = dataset
    store, c = Store(folder, interval), task.config
    try:
        report(0)
        if device == "cpu":
            torch.set_num_threads(1)
        if task.kind == "train":
            train_learner(c, task.number, dataset.train, device=device, store=store, report=report)
            return ""
        ensemble = None
        if task.needs:
            learners = []
            for number in range(1, c.n_learners + 1):
                learner = store.get(learner_name(c, number, key.train))
                assert learner is not None
                learners.append(learner)
            networks, histories = [x.network for x in learners], [x.history for x in learners]
            ensemble = join(c, networks, key.train, histories).to(device)
        if task.control or ensemble is None:
            record = score_control(task.control, c, dataset, key, ensemble, device)
        else:
            record = score_record(ensemble, dataset.labelled, key)
        put_record(store, record)
        report(1)
    except Exception as error:
        free_memory(torch.device(device))
        return _sentence(error)
    return ""


def _sentence(error: Exception) -> str:
    if isinstance(error, D2UEError):
        return str(error)
    if isinstance(error, MemoryError) or is_memory_error(error):
        return "the memory is full: run fewer jobs side by side (--jobs), or free a GPU's."
    return f"{type(error).__name__}: {error}"


def _keep_failures(planned: Plan, store: Store, report: Report) -> None:
    """Note which tasks of a plan failed, so that what only reads the store can say it."""
    before = failures(store)
    kept = {name: failure for name, failure in before.items() if name not in report.done}
    names = {planned.titles[name]: name for name in planned.tasks}
    kept |= {names[title]: (title, why) for title, why in report.failed.items()}
    if kept != before:
        write_text(store.folder / FAILURES, json.dumps(kept, indent=1) + "\n")


def failures(store: Store) -> dict[str, tuple[str, str]]:
    """Title of each task that failed when it was last tried and why, by the task's name."""
    try:
        noted = dict(json.loads((store.folder / FAILURES).read_text("utf-8")))
    except (OSError, ValueError):
        return {}
    # Earlier stores have no titles.
    return {name: (name, x) if isinstance(x, str) else tuple(x) for name, x in noted.items()}


def last_report(planned: Plan, store: Store) -> Report:
    """What is known of a plan without doing anything."""
    report, failed = Report(cached=len(planned.cached), data=planned.keys), failures(store)
    for name, task in planned.tasks.items():
        if name in failed:
            report.failed[planned.titles[name]] = failed[name][1]
        elif task.needs & failed.keys():
            report.skipped.append(planned.titles[name])
    return report
