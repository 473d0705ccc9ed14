"""Before and after: each change that made training on a CPU faster, undone alone.

    python tests/benchmarks/changes.py OUT.csv [ROUNDS]

Steps of one learner are timed in turns, as the code is and with one change undone, so that a busy
machine slows all of them alike. One thread; 64 images a step; learner 3, with two seniors.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from d2ue import backbones, training
from d2ue.bench import noise
from d2ue.config import TrainConfig
from d2ue.training import LearnerTask, initial_network, train_learners

BATCH, STEPS = 64, 4


def seconds(images: np.ndarray, task: LearnerTask) -> float:
    """CPU seconds of a step, without the making of network and optimiser."""
    moments: list[float] = []

    def on_epoch(epoch: int, losses: object) -> None:
        moments.append(time.process_time())

    train_learners([task], images, on_epoch=on_epoch)
    return (moments[-1] - moments[0]) / (len(moments) - 1) / (len(images) // BATCH)


@contextlib.contextmanager
def _seniors_every_step() -> Iterator[None]:
    """Two seniors run forward at each step, as without features computed once."""
    seniors = [initial_network(LearnerTask(TrainConfig(seed=s), 1)).eval() for s in (7, 8)]
    objective = training._Objective.__call__

    def call(self, network, x, rows, index):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            for senior in seniors:
                senior(x, "z")
        return objective(self, network, x, rows, index)

    with mock.patch.object(training._Objective, "__call__", call):
        yield


@contextlib.contextmanager
def _plain_adam() -> Iterator[None]:
    adam = torch.optim.Adam

    def plain(parameters, **options):  # type: ignore[no-untyped-def]
        return adam(parameters, **{**options, "fused": None})

    with mock.patch.object(torch.optim, "Adam", plain):
        yield


def _any_layout(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


#: What each change is, and how it is undone.
UNDONE: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "as it is": contextlib.nullcontext,
    "seniors' features computed once": _seniors_every_step,
    "fused Adam": _plain_adam,
    "linear layers with their own gradient": lambda: mock.patch.object(
        backbones, "_linear", lambda x, weight, bias: (weight @ x.mT).mT + bias.unsqueeze(1)
    ),
    "products by oneDNN where it is the faster": lambda: mock.patch.object(
        backbones, "_product", torch.nn.functional.linear
    ),
    "images too in channels-last": lambda: mock.patch.object(
        backbones, "_channels_last", _any_layout
    ),
    "transposed convolutions to images as one product": lambda: mock.patch.object(
        backbones, "_is_narrow", lambda x, weight: False
    ),
}


def main() -> None:
    """Measure and write the table."""
    out, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    torch.set_num_threads(1)
    images = noise(BATCH * 2)
    seniors = torch.randn(2, len(images), 16, generator=torch.Generator().manual_seed(0))
    task = LearnerTask(TrainConfig(epochs=1 + STEPS // 2), 3, seniors)
    measured: dict[str, list[float]] = {name: [] for name in UNDONE}
    for _ in range(rounds):
        for name, undo in UNDONE.items():
            with undo():
                measured[name].append(1e3 * seconds(images, task))
    base = measured["as it is"]
    rows = []
    for name, values in measured.items():
        saved = [value - now for value, now in zip(values, base, strict=True)]
        rows.append(
            {
                "change": name,
                "ms a step without it": round(statistics.median(values), 1),
                "ms saved": round(statistics.median(saved), 1),
                "low": round(min(saved), 1),
                "high": round(max(saved), 1),
                "n": rounds,
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
