"""The one progress bar: tqdm's, as text where the notebook runner forwards it to a terminal."""

from __future__ import annotations

import os
import threading
from typing import Any

from tqdm.auto import tqdm as automatic
from tqdm.std import tqdm as plain

#: Set for the kernels that `d2ue reproduce` starts: a bar drawn as a widget could not be seen.
PLAIN_BARS = "D2UE_PLAIN_BARS"


def bar(*arguments: Any, **options: Any) -> plain:
    """A tqdm bar; its arguments are tqdm's."""
    kind = plain if os.environ.get(PLAIN_BARS) else automatic
    return kind(*arguments, **options)


def lock_within_process() -> None:
    """Give bars a lock of this process alone.

    tqdm's own is one between processes, and stays behind where a process is terminated.
    """
    plain.set_lock(threading.RLock())
