"""The plain recipe of the benchmarks computes what the project computes, and is told fairly."""

import ast
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from d2ue import plain
from d2ue.backbones import to_unit_range
from d2ue.config import TrainConfig
from d2ue.lessons import oracle

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench


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


def tiny_runs() -> pd.DataFrame:
    """Runs as they come out, with seconds that can be reckoned by hand."""
    rows = []
    for repeat in (0, 1):
        for case in bench.cases("cpu", images=128, epochs=1):
            slow = 1 + repeat if case.side == "plain" else 0.5
            costs = [slow * (1 + 0.1 * k * (case.side == "plain")) for k in range(case.learners)]
            seconds = {"wall_s": slow, "cpu_s": 2 * slow, "peak_mb": 100.0 * case.learners}
            each = {"learner_wall_s": costs, "learner_cpu_s": costs}
            rows.append({**case.__dict__, "repeat": repeat, **seconds, **each})
    return pd.DataFrame(rows)


def test_ratios_by_hand():
    table = bench.summary(tiny_runs()).set_index(["measure", "threads"])
    fit = table.loc[("CPU seconds to fit 3 learners", 1)]
    # 2 and 4 CPU seconds against 1 and 1.
    assert (fit.ratio, fit.low, fit.high, fit.n, fit.target) == (3.0, 2.0, 4.0, 2, 2.5)
    score = table.loc[("images/s, dual-space uncertainty", "all")]
    # 256 images in 1 and 2 seconds against 256 in half a second.
    assert (score.ratio, score.low, score.high) == (round(512 / 192, 2), 2.0, 4.0)
    assert bench.learner_ratio(tiny_runs(), "plain") == pytest.approx([1.7, 1.7])
    assert bench.learner_ratio(tiny_runs()) == [1.0, 1.0]
