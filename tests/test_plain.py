"""The plain recipe of the benchmarks computes what the project computes, and is told fairly."""

import ast
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from d2ue import plain
from d2ue.backbones import to_unit_range
from d2ue.config import ScoreConfig, TrainConfig
from d2ue.ensemble import join
from d2ue.training import LearnerTask, initial_network, shuffle, train_learners
from d2ue.uncertainty import image_score, score_batch

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench


def copied(model: plain.Autoencoder, network) -> plain.Autoencoder:
    """Put a fast learner's weights and statistics into a plain model."""
    source = network.state_dict()
    memory = source.pop("memory.items", None)  # the fast code registers it elsewhere
    target = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    if memory is not None:
        target.pop("memory.items").copy_(memory[0])
    # The rest is in both by layer, and in each layer weight, bias, mean, variance.
    assert [tuple(v.shape[1:]) for v in source.values()] == [
        tuple(v.shape) for v in target.values()
    ]
    for value, place in zip(source.values(), target.values(), strict=True):
        place.copy_(value[0])
    return model


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_plain_and_fast_are_one_method(backbone, draw_images):
    """Weights after two epochs of three repelled learners, and every score, to 1e-8 in float64."""
    pixels = draw_images(32, 64)
    images = to_unit_range(torch.from_numpy(pixels), torch.float64)
    config = TrainConfig(backbone=backbone, n_learners=3, epochs=2, batch_size=16, seed=5)
    fast, seniors = [], None
    learners: list[plain.Autoencoder] = []
    for number in (1, 2, 3):
        task = LearnerTask(config, number, seniors)
        network, _ = train_learners([task], pixels, dtype=torch.float64)
        with torch.no_grad():
            feature = network(images[None], "z").feature
        seniors = feature if seniors is None else torch.cat([seniors, feature])
        fast.append(network)

        learner = copied(plain.Autoencoder(backbone).double(), initial_network(task))
        orders = [shuffle(len(images), task.stream, epoch) for epoch in range(2)]
        learners.append(plain.train_learner(learner, learners, images, orders, batch_size=16))

        wanted = copied(plain.Autoencoder(backbone).double(), network).state_dict()
        for name, value in learner.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(value, wanted[name], rtol=1e-8, atol=1e-8)

    ensemble = join(config, fast, "", [[], [], []])
    for method in plain.MAPS:
        ours = torch.cat([image_score(score_batch(ensemble, images, ScoreConfig(method)))])
        theirs = plain.anomaly_scores(learners, images, method)
        torch.testing.assert_close(theirs, ours, rtol=1e-8, atol=1e-8)


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
