"""Single pieces, by pytest-benchmark; `make bench` runs them, `make test` does not.

Compare two states of the code with `pytest tests/benchmarks/bench_steps.py --benchmark-autosave`
before and `--benchmark-compare` after.
"""

from __future__ import annotations

import pytest
import torch
from bench import noise

from d2ue.backbones import to_unit_range
from d2ue.config import BACKBONES, METHODS, TrainConfig
from d2ue.ensemble import join
from d2ue.similarity import SIMILARITIES
from d2ue.training import LearnerTask, initial_network, train_learners
from d2ue.uncertainty import image_scores


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("number", [1, 3, 8])
def bench_training(benchmark, backbone: str, number: int) -> None:
    """Two steps of one learner, with the making of network and optimiser."""
    images = noise(128)
    generator = torch.Generator().manual_seed(0)
    seniors = torch.randn(number - 1, 128, 16, generator=generator) if number > 1 else None
    task = LearnerTask(TrainConfig(backbone=backbone, n_learners=8, epochs=1), number, seniors)
    benchmark.pedantic(train_learners, ([task], images), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def bench_scoring(benchmark, backbone: str, method: str) -> None:
    """128 images by three learners."""
    config = TrainConfig(backbone=backbone)
    learners = [initial_network(LearnerTask(config, k)).eval() for k in (1, 2, 3)]
    ensemble = join(config, learners, "", [[], [], []])
    benchmark.pedantic(image_scores, (ensemble, noise(128), method), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("metric", [name for name in SIMILARITIES if name != "none"])
def bench_similarity(benchmark, metric: str) -> None:
    """A similarity and its gradient: 7 seniors, 64 images, 16 features."""
    p = torch.randn(7, 64, 16)
    q = torch.randn(1, 64, 16, requires_grad=True)

    def both() -> torch.Tensor:
        return torch.autograd.grad(SIMILARITIES[metric](p, q).mean(), q)[0]

    benchmark(both)


def bench_decoded_images(benchmark) -> None:
    """uint8 to [-1, 1], a batch."""
    images = torch.from_numpy(noise(64))
    benchmark(to_unit_range, images)
