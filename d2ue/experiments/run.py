"""Running a plan: one loop over its graph, tasks handed to any executor, results taken as they end.

What is finished stands in the store, so a batch that was stopped, however hard, goes on where it
was, and two batches that want the same learner share the work: one trains it, the other takes it.
On a CPU a task has one thread, wherever it runs; on a GPU learners train in groups, as replicas of
one network. Several GPUs have a process each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch

from d2ue.datasets.types import Dataset
from d2ue.ensemble import join, resolve_device, train_side_by_side
from d2ue.errors import D2UEError, InputError
from d2ue.experiments.plan import Group, Plan, Task, cores, groups, one_thread, visible
from d2ue.experiments.records import score_control, score_record
from d2ue.experiments.rivals import prepare
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
            at on GPUs. With an executor: tasks handed to it at a time; 0 = all that can begin.
        device: as for `d2ue.ensemble.train_ensemble`, but "cuda" is all GPUs that can be seen; with
            an executor it is the workers', and "auto" the CPU.
        progress: whether to show a bar over all that is to be done, with the time left.
        executor: what tasks are handed to in place of processes of this machine, such as a Dask
            client's `get_executor()`. Its workers must see the store's folder under its path.

    Raises:
        InputError: if another method's pretrained network is not there; nothing is trained then.
    """
    report = Report(cached=len(planned.cached), data=planned.keys)
    for name, position in planned.cached.items():
        rename_data(store, name, planned.keys[position].name)
    if executor is None:
        device = str(resolve_device(device))
    elif device == "auto":
        device = "cpu"
    tasks = planned.tasks
    prepare(task.control for task in tasks.values())
    singly = [(name,) for name in tasks]
    total = sum(task.epochs() for task in tasks.values())
    with progress_bar(
        total=total, desc="batch", unit="epoch", disable=not progress, smoothing=0.05
    ) as bar:
        loop = _Loop(planned, store, device, report, bar)
        if executor is not None:
            parts = groups(planned, store, jobs or 1, 0) if device.startswith("cuda") else singly
            loop.work_elsewhere(parts, executor, jobs or len(tasks))
        elif device.startswith("cuda"):
            where = torch.device(device)
            gpus, memory = visible(where), torch.cuda.get_device_properties(where).total_memory
            _run_on_gpus(loop, groups(planned, store, gpus, memory), gpus)
        elif device != "cpu":
            loop.work(singly)
        elif (jobs or cores()) == 1:
            with one_thread():
                loop.work(singly)
        elif tasks:
            jobs = min(jobs or cores(), len(tasks))
            with Workers(jobs, __name__) as workers:
                loop.work_elsewhere(singly, workers, jobs)
    _keep_failures(planned, store, report)
    return report


def _run_on_gpus(loop: _Loop, parts: Sequence[Group], gpus: int) -> None:
    """One GPU is this process's; several have a process each, which sees no other."""
    if gpus == 1:
        loop.work(parts)
        return
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    with Workers(gpus, __name__, {"CUDA_VISIBLE_DEVICES": seen.split(",")}) as workers:
        loop.work_elsewhere(parts, workers, gpus)


class _Loop:
    """Hands groups of tasks to an executor as soon as what they need is there, in the plan's order.

    A group that fails is done again task by task.
    """

    def __init__(self, planned: Plan, store: Store, device: str, report: Report, bar: Any) -> None:
        self.planned, self.store, self.device = planned, store, device
        self.tasks, self.report, self.bar = planned.tasks, report, bar
        self.notes: Path | None = None
        self.lost: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.to_send: set[str] = set()  # names of tasks whose worker had not got the images

    def work_elsewhere(self, parts: Sequence[Group], engine: Executor, most: int) -> None:
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
            self.work(parts, engine, most)

    def work(self, parts: Sequence[Group], engine: Executor | None = None, most: int = 1) -> None:
        """Until nothing is left to do; at most `most` groups are handed over at a time."""
        engine = engine or Here()
        home = {name: part for part in parts for name in part}
        needs = {part: {n for name in part for n in self.tasks[name].needs} for part in parts}
        graph = TopologicalSorter(
            {part: {home[n] for n in needs[part] & home.keys()} for part in parts}
        )
        graph.prepare()
        left = {part: set(part) for part in parts}
        order = {name: i for i, name in enumerate(self.tasks)}
        ready: list[Group] = []
        running: dict[Future[str], Group] = {}

        def end(names: Iterable[str]) -> None:
            for name in names:
                left[home[name]].remove(name)
                if not left[home[name]]:
                    graph.done(home[name])

        try:
            while graph.is_active():
                ready = sorted([*ready, *graph.get_ready()], key=lambda part: order[part[0]])
                for part in tuple(ready):
                    if len(running) >= most:
                        break
                    if any(map(self.store.is_claimed, part)):
                        continue  # another batch is at it
                    ready.remove(part)
                    missing = tuple(name for name in part if not self._is_settled(name))
                    end(set(part) - set(missing))
                    if missing:
                        running[self._submit(missing, engine)] = missing
                if ready and not running:
                    time.sleep(LOOK)
                for future in wait(running, LOOK, FIRST_COMPLETED).done:
                    part = running.pop(future)
                    again = self._ended(part, future)
                    ready += again
                    end(set(part).difference(*again))
                if self.notes:
                    for part in running.values():
                        done = (self.notes / part[0]).read_text().partition("\t")[0]
                        self._count_to(part[0], int(done or 0))
        finally:
            for future in running:
                future.cancel()

    def _is_settled(self, name: str) -> bool:
        """Whether there is nothing to do: another batch was quicker, or what it needs failed."""
        task = self.tasks[name]
        is_done = task.is_done(self.store)
        if not is_done and all(map(self.store.has, task.needs)):
            return False
        if not is_done:
            self.report.skipped.append(self.planned.titles[name])
        self._count_to(name, task.epochs())
        return True

    def _submit(self, part: Group, engine: Executor) -> Future[str]:
        tasks = [self.tasks[name] for name in part]
        dataset: Dataset | None = self.planned.datasets[tasks[0].data]

        def count(epochs: int) -> None:
            self._count_to(part[0], self.counted[part[0]] + epochs)

        report: Callable[[int], None] = count
        if self.notes:
            title = self.planned.titles[part[0]]
            title += f" and {len(part) - 1} more" if len(part) > 1 else ""
            report = _Note(self.notes / part[0], title, sum(task.epochs() for task in tasks))
            with writing(report.file):
                report.file.write_text("")
            if part[0] not in self.to_send:
                dataset = None
        key, interval = self.planned.keys[tasks[0].data], self.store.state_interval
        folder = self.store.folder.resolve()
        return engine.submit(_do, tasks, key, dataset, folder, interval, self.device, report)

    def _ended(self, part: Group, future: Future[str]) -> list[Group]:
        """Take what became of a group; what is returned is to be handed over again."""
        try:
            sentence = future.result()
        except Exception as error:  # the engine's own, as when a process was lost: ours are told
            self.lost[part[0]] += 1
            if self.lost[part[0]] < ATTEMPTS:
                self._count_to(part[0], 0)
                return [part]
            sentence = (
                f"its process was ended {ATTEMPTS} times from outside ({type(error).__name__}): "
                "is the memory full? Try fewer --jobs."
            )
        if sentence == SEND_DATA:
            self.to_send.add(part[0])
            return [part]
        again: list[Group] = []
        for name in part:
            self._count_to(name, self.tasks[name].epochs())
            if not sentence or self.tasks[name].is_done(self.store):
                self.report.done.append(name)
            elif len(part) > 1:
                self._count_to(name, 0)
                again.append((name,))
            else:
                self.report.failed[self.planned.titles[name]] = sentence
        if again and len(again) == len(part):
            warnings.warn(
                f"{len(part)} learners of {self.planned.keys[self.tasks[part[0]].data].name} could "
                f"not be trained side by side ({sentence}); they are trained one by one, which is "
                "slower.",
                RuntimeWarning,
                stacklevel=2,
            )
        return again

    def _count_to(self, name: str, epochs: int) -> None:
        """So many epochs are done of a task; a group in work counts as its first."""
        self.bar.update(epochs - self.counted[name])
        self.counted[name] = epochs


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
    tasks: Sequence[Task],
    key: DataKey,
    dataset: Dataset | None,
    folder: Path,
    interval: float,
    device: str,
    report: Callable[[int], None],
) -> str:
    """Train some learners (their seniors are in the store) or score one ensemble, wherever it is.

    Without `dataset` that is the one which this process was sent last. Returns "", `SEND_DATA`, or
    why it failed: a defect of ours, too, must not stop the other cells.
    """
    dataset = dataset or _sent.get(key)
    if dataset is None:
        return SEND_DATA
    _sent.clear()
    _sent[key] = dataset
    store, task = Store(folder, interval), tasks[0]
    c = task.config
    try:
        report(0)
        if device == "cpu":
            torch.set_num_threads(1)
        if task.kind == "train":
            wanted = [(t.config, t.number) for t in tasks]
            train_side_by_side(wanted, dataset.train, device=device, store=store, report=report)
            return ""
        ensemble, left = None, folder / "states" / f"{task.name}.pt"
        if task.needs:
            learners = []
            for number in range(1, c.n_learners + 1):
                learner = store.get(learner_name(c, number, key.train))
                assert learner is not None
                learners.append(learner)
            networks, histories = [x.network for x in learners], [x.history for x in learners]
            ensemble = join(c, networks, key.train, histories).to(device)
        if task.control or ensemble is None:
            record = score_control(task.control, c, dataset, key, ensemble, device, report, left)
        else:
            record = score_record(ensemble, dataset.labelled, key)
        put_record(store, record)
        left.unlink(missing_ok=True)
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
