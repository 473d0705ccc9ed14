"""What tasks are handed to: this process, processes of this machine, or a Dask cluster's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from d2ue.progress import lock_within_process


class Here(Executor):
    """This process: what is handed over is done at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it; an exception passes through."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Workers(Executor):
    """So many processes, each a pool of its own: one that dies loses its own task and no other.

    Args:
        jobs: how many; at most as many tasks may be handed over at a time.
        needed: the module that tasks need.
        environment: variables of their environment, a value a worker.
    """

    def __init__(
        self, jobs: int, needed: str, environment: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        # A server that has torch loaded starts a process in a moment, and with none of the threads
        # and locks of this one; torch._dynamo, which the first optimiser of a process imports,
        # takes longer than a small learner.
        served = "forkserver" in multiprocessing.get_all_start_methods()
        self.context: Any = multiprocessing.get_context("forkserver" if served else "spawn")
        if served:
            self.context.set_forkserver_preload([needed, "torch._dynamo"])
        self.theirs, self.ours = self.context.Pipe(duplex=False)
        self.environments = [
            {key: values[i] for key, values in (environment or {}).items()} for i in range(jobs)
        ]
        self.pools = [self._pool(i) for i in range(jobs)]
        self.last: list[Future[Any] | None] = [None] * jobs

    def _pool(self, i: int) -> ProcessPoolExecutor:
        given = self.theirs, self.environments[i]
        return ProcessPoolExecutor(1, self.context, _begin, given)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a free worker do it; there must be one."""
        free = next(i for i, future in enumerate(self.last) if future is None or future.done())
        with _uninterrupted():
            try:
                future = self.pools[free].submit(fn, *args, **kwargs)
            except BrokenExecutor:  # its process is gone
                self.pools[free] = self._pool(free)
                future = self.pools[free].submit(fn, *args, **kwargs)
        self.last[free] = future
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all workers, whatever they are at: what is in a store is whole at any moment."""
        self.ours.close()
        for pool in self.pools:
            pool.shutdown(wait, cancel_futures=cancel_futures)
        self.theirs.close()


def _begin(pipe: Connection, environment: Mapping[str, str]) -> None:
    """In a worker, before its first task, which is what makes it look for GPUs."""
    os.environ.update(environment)
    # Ctrl-C reaches every process of the terminal; the batch's own decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock_within_process()
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()


def _end_with(pipe: Connection) -> None:
    """End this process when the batch closes its end of the pipe, or is killed."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()
    os._exit(1)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: a process that is half started would print a traceback, or be lost.

    Blocking the signal keeps it from processes that are started; this one may still get it by way
    of another thread, so its handler waits too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    blocks = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else set()
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
