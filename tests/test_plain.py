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


def tiny_runs(device: str = "cpu") -> pd.DataFrame:
    """Runs as they come out, with seconds that can be reckoned by hand."""
    rows = []
    for repeat in (0, 1):
        for case in bench.cases(device, images=128, epochs=1):
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


def test_bf16_has_a_row_where_it_was_measured():
    runs = tiny_runs()
    runs = runs[runs.precision == "float32"]
    name = "CPU seconds to fit 3 learners, ours in bf16"
    assert name not in set(bench.summary(runs).measure)
    fits = runs[(runs.side == "ours") & (runs.what == "fit") & (runs.learners == 3)]
    more = pd.concat([runs, fits.assign(precision="bf16", cpu_s=0.25)])
    row = bench.summary(more).set_index(["measure", "threads"]).loc[(name, 1)]
    # 2 and 4 CPU seconds against a quarter.
    assert (row.ratio, row.low, row.high, row.target) == (12.0, 8.0, 16.0, 4.0)


def test_side_by_side_the_most_is_taken():
    """1 and 2 seconds an epoch of one learner, against 8 learners in half a second."""
    row = bench.summary(tiny_runs()).iloc[-1]
    assert row.measure == "learner-epochs/s, 500 images, float32, 8 side by side"
    assert (row.ratio, row.low, row.high, row.target) == (round(16 / 0.75, 2), 16.0, 32.0, "")

    on_gpu = bench.summary(tiny_runs("cuda"))
    rates = on_gpu[on_gpu.measure.str.startswith("learner-epochs/s")]
    # 50 epochs of one learner in 1 and 2 seconds, against those of 64 and of 32 in half a second.
    assert rates.measure.str.split(", ").str[2:].tolist() == [
        ["bf16", "32 side by side"],
        ["float32", "64 side by side"],
        ["tf32", "32 side by side"],
    ]
    assert rates.ratio.tolist() == [round(r * 100 / 37.5, 2) for r in (32, 64, 32)]
    assert rates.target.tolist() == ["", 50.0, 100.0]


def test_what_is_written(tmp_path):
    text = bench.write(tiny_runs(), bench.facts(tiny_runs()), tmp_path / "a" / "speed")
    found = tmp_path / "a" / "speed"
    assert sorted(p.name for p in found.iterdir()) == [
        "runs.csv", "speed.png", "table.csv", "table.md",
    ]  # fmt: skip
    assert (found / "table.md").read_text() == text and "GFLOP" in text
    assert len(pd.read_csv(found / "runs.csv")) == len(tiny_runs())


def test_a_case_is_measured_in_its_own_process():
    found = bench.run_case(bench.Case("fit", "ours", 128, 1, 2, threads=1))
    assert len(found["learner_cpu_s"]) == 2 and 0 < sum(found["learner_cpu_s"]) <= found["cpu_s"]
    assert found["peak_mb"] > 50 and torch.get_num_threads() >= 1
    assert 0 < bench.run_case(bench.Case("import", "ours"))["wall_s"] < 60


def test_a_failing_case_is_told():
    with pytest.raises(bench.D2UEError, match=r"fit \(plain\) failed"):
        bench.run_case(bench.Case("fit", "plain", device="abacus"))


def test_the_floor_counts_by_hand():
    """Operations of a step: 2 a multiply-add, forward and twice backward."""
    least = bench.floor(threads=1)
    convs = 64 * sum(
        side**2 * 16 * a * b for side, a, b in [(32, 1, 16), (16, 16, 32), (8, 32, 64), (4, 64, 64)]
    )
    transposed = 64 * sum(
        side**2 * 16 * a * b for side, a, b in [(4, 64, 64), (8, 64, 32), (16, 32, 16), (32, 16, 1)]
    )
    linear = 64 * 2 * (1024 * 2048 + 2048 * 16)
    total = 2 * 3 * (convs + transposed + linear)
    first = 2 * 64 * 32**2 * 16 * 16  # nobody asks for the gradient by the images
    assert least["operations"] == total - first
    assert 64 * least["score_operations"] == 2 * 2 * (convs + transposed + linear)
    assert least["ms"] > 0 and least["peak"] > 1e8 and least["bandwidth"] > 1e8
