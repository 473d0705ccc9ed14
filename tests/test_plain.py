"""The plain file computes what the project computes."""

import ast
from pathlib import Path

import pytest
import torch

from d2ue import plain
from d2ue.backbones import to_unit_range
from d2ue.config import TrainConfig
from d2ue.lessons import oracle


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_plain_and_fast_are_one_method(backbone, draw_images):
    """Weights after two epochs of three repelled learners, and every score, in float64."""
    config = TrainConfig(backbone=backbone, n_learners=3, epochs=2, batch_size=16, seed=5)
    largest = oracle.differences(config, draw_images(32, 64))
    assert set(largest) == {"weights", "ensemble", "output", "dual"}
    assert max(largest.values()) <= 1e-8


def test_the_comparison_sees_a_difference(draw_images, monkeypatch):
    monkeypatch.setattr(plain, "REPULSION_WEIGHT", 1.001)
    config = TrainConfig(backbone="ae", n_learners=2, epochs=1, batch_size=16)
    assert oracle.differences(config, draw_images(16, 64))["weights"] > 1e-6


def test_plain_trains_an_ensemble(draw_images):
    images = to_unit_range(torch.from_numpy(draw_images(64, 64)))
    learners = plain.train_ensemble("memae", images, n_learners=2, epochs=1)
    assert len(learners) == 2 and not any(learner.training for learner in learners)
    assert plain.anomaly_scores(learners, images, "dual").shape == (64,)


def test_plain_needs_nothing_of_d2ue():
    tree = ast.parse(Path(plain.__file__).read_text())
    names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert not [name for name in names if name.startswith("d2ue")]
