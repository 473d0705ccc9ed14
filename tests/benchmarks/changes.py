"""Before and after: each change that made training and scoring on a CPU faster, undone alone.

    python tests/benchmarks/changes.py OUT.csv [ROUNDS]

The same work is timed in turns, as the code is and with one change undone, so that a busy machine
slows all of them alike. One thread; 64 images a step; of a training learner 3, with two seniors, in
float32 and, where the processor has it, in bf16; of scoring three learners' DSU.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from bench import has_bf16_instructions, noise

from d2ue import backbones, training
from d2ue.config import TrainConfig
from d2ue.ensemble import join
from d2ue.fast import cpu
from d2ue.training import LearnerTask, initial_network, train_learners
from d2ue.uncertainty import image_scores

BATCH, STEPS = 64, 4
#: Milliseconds that a piece of work takes, for 64 images.
Work = Callable[[], float]
Undo = Callable[[], contextlib.AbstractContextManager[object]]


def training_step(precision: str) -> Work:
    """CPU time of a step, without the making of network and optimiser."""
    images = noise(BATCH * 2)
    seniors = torch.randn(2, len(images), 16, generator=torch.Generator().manual_seed(0))
    task = LearnerTask(
        TrainConfig(backbone="ae", epochs=1 + STEPS // 2, precision=precision), 3, seniors
    )

    def work() -> float:
        moments: list[float] = []
        train_learners([task], images, on_epoch=lambda *_: moments.append(time.process_time()))
        return 1e3 * (moments[-1] - moments[0]) / (len(moments) - 1) / (len(images) // BATCH)

    return work


def scoring(batch_size: int) -> Work:
    """CPU time of scoring, so many images a pass."""
    learners = [
        initial_network(LearnerTask(TrainConfig(backbone="ae"), k)).eval() for k in (1, 2, 3)
    ]
    ensemble, images = (
        join(TrainConfig(backbone="ae"), learners, "", [[], [], []]),
        noise(BATCH * 8),
    )
    image_scores(ensemble, images[:batch_size], batch_size=batch_size)

    def work() -> float:
        start = time.process_time()
        image_scores(ensemble, images, batch_size=batch_size)
        return 1e3 * (time.process_time() - start) * BATCH / len(images)

    return work


@contextlib.contextmanager
def _seniors_every_step() -> Iterator[None]:
    """Two seniors run forward at each step, as without features computed once."""
    seniors = [
        initial_network(LearnerTask(TrainConfig(backbone="ae", seed=s), 1)).eval() for s in (7, 8)
    ]
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


LINEAR, NARROW = "linear layers with their own gradient", "convolution to an image as one product"
#: What changed in a step of training, and how it is undone.
UNDONE: dict[str, Undo] = {
    "seniors' features computed once": _seniors_every_step,
    "fused Adam": _plain_adam,
    LINEAR: lambda: mock.patch.object(
        backbones._Linear, "forward", lambda m, x: (m.weight @ x.mT).mT + m.bias.unsqueeze(1)
    ),
    "products by oneDNN where it is the faster": lambda: mock.patch.object(
        cpu, "_product", torch.nn.functional.linear
    ),
    "images too in channels-last": lambda: mock.patch.object(cpu, "channels_last", _any_layout),
    NARROW: lambda: mock.patch.object(cpu, "is_narrow", lambda x, weight: False),
}
AS_IT_IS = "as it is"


def measures() -> dict[str, dict[str, tuple[Work, Undo]]]:
    """By kind of work: the work as it is and with each change undone."""
    step = training_step("float32")
    found = {
        "training step": {AS_IT_IS: (step, contextlib.nullcontext)}
        | {name: (step, undo) for name, undo in UNDONE.items()}
    }
    if has_bf16_instructions():
        half = training_step("bf16")
        found["training step, bf16"] = {AS_IT_IS: (half, contextlib.nullcontext)} | {
            name: (half, UNDONE[name]) for name in (LINEAR, NARROW)
        }
    found["scoring 64 images"] = {
        AS_IT_IS: (scoring(128), contextlib.nullcontext),
        "128 images a pass, not 64": (scoring(64), contextlib.nullcontext),
    }
    return found


def main() -> None:
    """Measure and write the table."""
    out, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    torch.set_num_threads(1)
    kinds = measures()
    measured: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for kind, changes in kinds.items():
            for name, (work, undo) in changes.items():
                with undo():
                    measured.setdefault((kind, name), []).append(work())
    rows = []
    for (kind, name), values in measured.items():
        base = measured[kind, AS_IT_IS]
        saved = [value - now for value, now in zip(values, base, strict=True)]
        rows.append(
            {
                "of": kind,
                "change": name,
                "ms without it": round(statistics.median(values), 1),
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
