"""What tests of other processes need: waiting for them, what they started, a batch in one."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from d2ue.datasets.types import Dataset
from d2ue.experiments import batch
from d2ue.experiments.rows import Row
from d2ue.store.learners import Store


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Give another process time to get somewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the other process did not get there"
        os.sched_yield()


def children_of(pid: int) -> list[int]:
    """Process ids of the children of a process, from /proc."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run_batch(wanted: Sequence[Row], dataset: Dataset, folder: Path, jobs: int = 1) -> batch.Report:
    """Seed 1 of some rows, a state after every epoch; nothing may fail."""
    store = Store(folder, state_interval=0)
    plan = batch.plan(wanted, [dataset], [1], store)
    report = batch.run(plan, store, jobs=jobs, device="cpu", progress=False)
    assert not report.failed and not report.skipped, report
    return report


def start_batch(*arguments: object) -> multiprocessing.process.BaseProcess:
    """`run_batch` in a process of its own, with none of this one's threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["d2ue.experiments.run", "torch._dynamo"])
    process = context.Process(target=run_batch, args=arguments)
    process.start()
    return process
