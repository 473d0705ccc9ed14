"""Engines that others maintain: a Dask scheduler that runs somewhere, or the queue of a cluster.

They come with the extra `cluster` (`distributed`, `dask-jobqueue`). What a queue asks for (account,
partition, memory, time) is said in Dask's own configuration or option by option.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from d2ue.errors import InputError

#: Where the class of each kind of cluster lies.
CLUSTERS = {
    "local": ("distributed", "LocalCluster"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "pbs": ("dask_jobqueue", "PBSCluster"),
    "lsf": ("dask_jobqueue", "LSFCluster"),
    "sge": ("dask_jobqueue", "SGECluster"),
}
#: Seconds that a scheduler may be without a worker; a cluster's queue may be longer.
PATIENCE = 60.0


@contextlib.contextmanager
def engine(
    store: Path,
    *,
    scheduler: str = "",
    cluster: str = "",
    options: Sequence[str] = (),
    workers: int = 0,
) -> Iterator[Executor | None]:
    """What a batch hands its tasks to; None where nothing is asked for: processes of this machine.

    Args:
        store: the folder that all workers must see under the same path.
        scheduler: address of a Dask scheduler that runs, such as "tcp://host:8786".
        cluster: one of `CLUSTERS`, whose workers are asked for here and end with the batch.
        options: of the cluster, each "key=value"; they go before Dask's own configuration.
        workers: how many to ask for; 0 = one a core of this machine.

    Raises:
        InputError: if Dask is not installed, nobody answers, or a worker does not see the store.
    """
    if options and not cluster:
        raise InputError("--cluster-option belongs to --cluster, which is not given.")
    if scheduler and cluster:
        raise InputError("--scheduler and --cluster exclude each other: give one of them.")
    if not scheduler and not cluster:
        yield None
        return
    if cluster and cluster not in CLUSTERS:
        raise InputError(f"There is no cluster {cluster!r}: take one of {', '.join(CLUSTERS)}.")
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "--scheduler and --cluster need Dask: install d2ue[cluster], with pip install "
            "'distributed' 'dask-jobqueue'."
        ) from error
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(_complaints())
        started = None
        if cluster:
            started = stack.enter_context(
                _cluster(cluster, options, workers or os.cpu_count() or 1)
            )
        address = started.scheduler_address if started else scheduler
        try:
            client = stack.enter_context(
                distributed.Client(address, timeout=30, set_as_default=False)
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address}: start one with 'dask scheduler', and "
                "workers with 'dask worker ADDRESS --nthreads 1'."
            ) from error
        _check_workers(client, started, store, said)
        yield DaskExecutor(client)


class DaskExecutor(Executor):
    """`Client.get_executor()` of Dask that says in a sentence when its scheduler is gone."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.address = client.scheduler.address
        self.executor = client.get_executor(pure=False)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand it to a worker.

        Raises:
            InputError: if the scheduler does not answer any more.
        """
        if self.client.status != "running":
            raise InputError(
                f"The Dask scheduler at {self.address} is gone. What was finished is kept: the "
                "same command goes on when a scheduler runs again."
            )
        return self.executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what runs, or call it off."""
        self.executor.shutdown(wait=wait and not cancel_futures)


def _cluster(kind: str, options: Sequence[str], workers: int) -> Any:
    """Workers of one thread each, asked for."""
    import dask

    module, name = CLUSTERS[kind]
    try:
        made = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(f"--cluster {kind} needs {module}: install d2ue[cluster].") from error
    values = dict(map(_option, options))
    if kind == "local":
        values = {"threads_per_worker": 1, "dashboard_address": None, **values}
        return made(n_workers=workers, **values)
    # What neither an option nor Dask's configuration says: a core and memory for 64 x 64 images.
    configured = dask.config.get(f"jobqueue.{kind}", {})
    for key, value in {"cores": 1, "processes": 1, "memory": "4GB"}.items():
        if not configured.get(key):
            values.setdefault(key, value)
    try:
        started = made(**values)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise InputError(f"--cluster {kind} cannot be started: {error}.") from error
    command = started.job_cls.submit_command.split()[0]
    if not shutil.which(command):
        started.close()
        raise InputError(
            f"--cluster {kind} hands jobs over with the command {command}, which is not here: "
            "call d2ue where jobs are submitted."
        )
    started.scale(workers)
    return started


def _option(text: str) -> tuple[str, Any]:
    """`key=value` of a cluster; a number, a list or True as Python writes it, else a text."""
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key.isidentifier():
        raise InputError(
            f"--cluster-option is given as key=value, such as queue=gpu; not {text!r}."
        )
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _check_workers(client: Any, cluster: Any, store: Path, said: Sequence[str]) -> None:
    """Refuse to begin where no worker comes, or one does not see the store's folder."""
    begun = time.monotonic()
    while True:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=2)
            break
        # A job that was handed over is running for Dask, be it in the queue or at work.
        jobs = getattr(cluster, "workers", {}).values()
        if any(job.status.name == "created" for job in jobs):
            why = "; ".join(said[-1].splitlines()[-2:]) if said else "Dask does not say why"
            raise InputError(f"The queue does not take the jobs: {why}.")
        if cluster is None and time.monotonic() - begun > PATIENCE:
            raise InputError(
                f"The Dask scheduler at {client.scheduler.address} has no worker after "
                f"{PATIENCE:.0f} seconds: start one with 'dask worker ADDRESS --nthreads 1'."
            )
    store.mkdir(parents=True, exist_ok=True)
    mark = store.resolve() / f".seen-{secrets.token_hex(8)}"
    mark.touch()
    try:
        seen = client.run(os.path.exists, str(mark))
    finally:
        mark.unlink()
    blind = sorted(worker for worker, sees in seen.items() if not sees)
    if blind:
        raise InputError(
            f"{len(blind)} of {len(seen)} workers ({blind[0]}, ...) do not see {store.resolve()}: "
            "give a --store on a file system that all workers share, under the same path."
        )


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What Dask's loop would print as tracebacks, as texts."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            said.append(str(error or record.getMessage()).strip())

    loggers, keep = [logging.getLogger(name) for name in ("tornado.application", "asyncio")], Keep()
    for logger in loggers:
        logger.addHandler(keep)
        logger.propagate = False
    try:
        yield said
    finally:
        for logger in loggers:
            logger.removeHandler(keep)
            logger.propagate = True
