"""Batches on Dask: the same bits as in this process, whoever dies; else sentences."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from d2ue.config import TrainConfig
from d2ue.datasets import phantom
from d2ue.errors import InputError
from d2ue.experiments import batch
from d2ue.experiments import run as running
from d2ue.experiments.engines import CLUSTERS, engine
from d2ue.experiments.rows import rows
from d2ue.experiments.status import status_lines
from d2ue.experiments.workers import Workers
from d2ue.store.learners import Store
from tests.processes import wait_for

distributed = pytest.importorskip("distributed", reason="Dask is not installed")

#: How many workers are killed in batches of so many epochs.
KILLS, LONG = (20, 40) if "D2UE_FUZZ" in os.environ else (1, 12)
BASE = TrainConfig(backbone="ae", image_size=16, epochs=3, batch_size=8, n_learners=3)


@pytest.fixture(scope="module")
def dataset():
    return phantom(image_size=16, n_train=24, n_test_normal=8, n_test_abnormal=8, progress=False)


def run(dataset, folder, executor=None, epochs=BASE.epochs, tables=(), **options):
    """Table 2's rows of AE, one seed: five learners and two ensembles' scores; or whole tables."""
    store, base = Store(folder, state_interval=0), BASE.replace(epochs=epochs)
    wanted = [row for table in tables for row in rows(table, base)]
    planned = batch.plan(wanted or rows("table2", base, ["ae"]), [dataset], [1], store)
    return batch.run(planned, store, progress=False, executor=executor, **options)


def contents(folder):
    """All that was kept, byte for byte; the journal tells the time."""
    kept = [p for part in ("learners", "scores") for p in sorted((folder / part).rglob("*"))]
    return {p.relative_to(folder): p.read_bytes() for p in kept if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(dataset, folder, jobs=1)
    return contents(folder)


def trained(folder):
    return [line.split()[-2] for line in (folder / "journal.txt").read_text().splitlines()]


class Dask:
    """A scheduler and two workers as processes of their own, as on a cluster."""

    def __init__(self, folder):
        self.folder = folder
        self.scheduler = self.start(
            "scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"
        )
        log = folder / "0.log"
        wait_for(lambda: re.search(r"Scheduler at: +(tcp\S+)", log.read_text()))
        self.address = re.search(r"Scheduler at: +(tcp\S+)", log.read_text())[1]
        self.workers = [self.work(), self.work()]

    processes: list

    def start(self, kind, *arguments):
        self.processes = getattr(self, "processes", [])
        with open(self.folder / f"{len(self.processes)}.log", "w") as log:
            command = [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self.processes.append(process)
        return process

    def work(self):
        options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--no-nanny"]
        return self.start("worker", self.address, *options)

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path_factory):
    cluster = Dask(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.stop()


def test_three_tables_are_the_same_bits_on_every_engine(dataset, dask, tmp_path):
    tables = {"tables": ("table1", "table2", "table3"), "epochs": 1}
    here = run(dataset, tmp_path / "here", jobs=1, **tables)
    with engine(tmp_path / "dask", scheduler=dask.address) as executor:
        there = run(dataset, tmp_path / "dask", executor, **tables)
    pool = run(dataset, tmp_path / "pool", jobs=2, **tables)
    assert sorted(here.done) == sorted(there.done) == sorted(pool.done) and not here.failed
    assert contents(tmp_path / "here") == contents(tmp_path / "dask")
    assert contents(tmp_path / "here") == contents(tmp_path / "pool")
    status = "\n".join(status_lines(tmp_path / "dask"))
    assert f"{len(trained(tmp_path / 'here'))} learners finished" in status


def test_workers_that_are_asked_for_give_the_same_bits(dataset, undisturbed, tmp_path):
    with engine(tmp_path, cluster="local", workers=2, options=["host=127.0.0.1"]) as executor:
        run(dataset, tmp_path, executor)
    assert contents(tmp_path) == undisturbed


def finish(dataset, folder, whole, run_once):
    """The same command again until all is there: the same bits, nothing trained twice."""
    while contents(folder) != contents(whole):
        run_once(folder)
    assert len(trained(folder)) == len(set(trained(folder))) == 5


def test_workers_killed_at_random(dataset, dask, tmp_path):
    """kill -9, and another worker comes."""
    whole, over, killed, draw = tmp_path / "whole", threading.Event(), [], random.Random(0)
    run(dataset, whole, jobs=1, epochs=LONG)

    def kill():
        while len(killed) < KILLS and not over.wait(draw.uniform(0.2, 1.5)):
            i = draw.randrange(2)
            dask.workers[i].kill()
            dask.workers[i].wait()
            dask.workers[i] = dask.work()
            killed.append(i)

    def run_once(folder):
        with engine(folder, scheduler=dask.address) as executor:
            run(dataset, folder, executor, epochs=LONG)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        for n in range(100):
            finish(dataset, tmp_path / str(n), whole, run_once)
            if len(killed) >= KILLS:
                break
    finally:
        over.set()
        thread.join()
    assert len(killed) >= KILLS


def test_processes_of_this_machine_killed_at_random(dataset, tmp_path, monkeypatch):
    """The same in the pool: a worker that dies is started again, whatever it was at."""
    whole, draw, killed, timers = tmp_path / "whole", random.Random(0), [], []
    run(dataset, whole, jobs=1, epochs=LONG)

    class KillingWorkers(Workers):
        def submit(self, fn, *arguments):
            future = super().submit(fn, *arguments)
            for process in self.pools[self.last.index(future)]._processes.values():
                timers.append(threading.Timer(draw.uniform(0.1, 1.0), self.end, [process]))
                timers[-1].start()
            return future

        def end(self, process):
            if len(killed) < KILLS and process.is_alive():
                killed.append(process.pid)
                process.kill()

    monkeypatch.setattr(running, "Workers", KillingWorkers)
    for n in range(100):
        finish(dataset, tmp_path / str(n), whole, lambda f: run(dataset, f, jobs=2, epochs=LONG))
        if len(killed) >= KILLS:
            break
    for timer in timers:
        timer.cancel()
    assert len(killed) >= KILLS


def test_a_scheduler_that_dies_ends_the_batch_with_a_sentence(dataset, dask, undisturbed, tmp_path):
    """What is finished is kept, and the batch goes on without it."""

    def kill():
        wait_for(lambda: any((tmp_path / "learners").glob("*/learner.json")))
        dask.scheduler.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with (
        pytest.raises(InputError, match="is gone"),
        engine(tmp_path, scheduler=dask.address) as executor,
    ):
        run(dataset, tmp_path, executor)
    thread.join()
    dask.stop()
    run(dataset, tmp_path, jobs=1)
    assert contents(tmp_path) == undisturbed
    assert len(trained(tmp_path)) == len(set(trained(tmp_path))) == 5


def test_what_is_in_work_can_be_seen(dataset, dask, tmp_path):
    seen = []

    def look():
        wait_for(lambda: any("running" in line for line in lines()))
        seen.extend(lines())

    def lines():
        return list(status_lines(tmp_path)) if (tmp_path / "running").is_dir() else []

    thread = threading.Thread(target=look)
    thread.start()
    with engine(tmp_path, scheduler=dask.address) as executor:
        run(dataset, tmp_path, executor, epochs=20)
    thread.join()
    line = next(line for line in seen if line.startswith("running"))
    assert re.search(r"phantom: learner \d of ae, seed 1: epoch \d+ of 20, on .+, since 20", line)


def unshared():
    """Whether a process may have a file system of its own here."""
    if not shutil.which("unshare"):
        return False
    done = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True
    )
    return done.returncode == 0


@pytest.mark.skipif(not unshared(), reason="mounting in a namespace is not allowed here")
def test_a_worker_that_does_not_see_the_store_is_refused(dask, tmp_path):
    for worker in dask.workers:
        worker.kill()
    worker = f"{sys.executable} -m distributed.cli.dask_worker {dask.address} --nthreads 1"
    hidden = f"mount -t tmpfs none {tmp_path} && exec {worker} --no-dashboard --no-nanny"
    blind = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", hidden], cwd="/", stderr=subprocess.DEVNULL
    )
    try:
        with (
            pytest.raises(InputError, match="do not see"),
            engine(tmp_path, scheduler=dask.address),
        ):
            pass
    finally:
        blind.send_signal(signal.SIGKILL)
        blind.wait()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"options": ["queue=long"]}, "belongs to --cluster"),
        ({"scheduler": "tcp://127.0.0.1:1", "cluster": "local"}, "exclude each other"),
        ({"cluster": "cloud"}, "one of local, slurm, pbs, lsf, sge"),
        ({"cluster": "local", "options": ["queue"]}, "key=value"),
        ({"scheduler": "nonsense://x"}, "No Dask scheduler answers"),
    ],
)
def test_what_cannot_be_asked_for(options, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence), engine(tmp_path, **options):
        pass


@pytest.mark.parametrize("kind", sorted(set(CLUSTERS) - {"local"}))
def test_a_queue_that_is_not_there(kind, tmp_path):
    if shutil.which({"slurm": "sbatch", "lsf": "bsub"}.get(kind, "qsub")):
        pytest.skip(f"{kind} is there")
    with (
        pytest.raises(InputError, match=f"--cluster {kind} hands jobs over"),
        engine(tmp_path, cluster=kind),
    ):
        pass
