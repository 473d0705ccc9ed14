"""What tests of other processes need: waiting for them, and finding what they started."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Give another process time to get somewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the other process did not get there"
        os.sched_yield()


def children_of(pid: int) -> list[int]:
    """Process ids of the children of a process, from /proc."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
