"""AUC among the anomalies that a score misses, and the two terms of DSU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from d2ue import plotting
from d2ue.evaluation import auc, auc_among_lowest, lowest
from d2ue.statistics.agreement import among_lowest, among_lowest_by_run, mirrored
from d2ue.store.exchange import read_records
from d2ue.uncertainty import deviation, dual_terms, input_gradients, output_map

LABELS = np.array([0, 0, 1, 1, 1, 1, 1])
BY = np.array([9, 0, 5, 1, 3, 2, 4])
SCORES = np.array([2, 4, 9, 3, 9, 5, 9])


def test_lowest_by_hand():
    """A quarter of five is two: the abnormal images with 1 and 2; every normal one stays."""
    assert lowest(LABELS, BY).tolist() == [True, True, False, True, False, True, False]
    assert lowest(LABELS, BY, 0.2).tolist() == [True, True, False, True, False, False, False]
    assert lowest(LABELS, BY, 1).all()
    ties = np.zeros(7)
    assert np.flatnonzero(lowest(LABELS, ties, 0.2)).tolist() == [0, 1, 2]  # the earlier one


def test_auc_among_lowest_by_hand():
    """Abnormal 3, 5 against normal 2, 4: three of four pairs."""
    assert auc_among_lowest(LABELS, SCORES, BY) == 0.75
    assert auc_among_lowest(LABELS, SCORES, BY, 1) == auc(LABELS, SCORES)


def test_selection_favours_the_other_score():
    """Two equally good, independent scores: each looks like the rescue of the other."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 2000)
    a, b = rng.normal(size=(2, 4000)) + labels
    table = among_lowest(labels, {"output": a, "dual": b})
    assert table.loc["all", "DSU"] == pytest.approx(76, abs=2)
    assert table.loc["lowest by Unc", "DSU"] == pytest.approx(76, abs=3)
    assert table.loc["lowest by DSU", "Unc"] == pytest.approx(76, abs=3)
    assert table.loc["lowest by Unc", "Unc"] < 45
    assert table.loc["lowest by DSU", "DSU"] < 45


def test_impossible_shares_are_refused(refused):
    for share in (0, 1.1):
        with refused("share"):
            lowest(LABELS, BY, share)


@pytest.mark.parametrize("backbone", ("ae", "memae"))
def test_l1_identity(trained, draw_images, backbone):
    """|e| * grad = (|e| * J^T sign(e) - e) / (H W), J written out row by row."""
    ensemble = trained(backbone).first(3)
    ensemble.network.double()
    x = torch.as_tensor(draw_images(2, seed=5)).double() / 127.5 - 1
    gradients, f, _ = input_gradients(ensemble.network, x, "l1")
    jacobian, output = dual_terms(ensemble.network, x)
    torch.testing.assert_close(jacobian + output, (f - x).abs() * gradients, rtol=0, atol=1e-12)
    torch.testing.assert_close(deviation(output), output_map(f) / 256)
    network = ensemble.network.replica(1).eval()
    full = torch.autograd.functional.jacobian(lambda v: network(v).mean, x[None, :1])
    e = (f - x)[1, 0]
    transposed = full.reshape(256, 256).T @ e.sign().ravel()
    expected = e.abs() * transposed.reshape(e.shape) / 256
    torch.testing.assert_close(jacobian[1, 0], expected)


@pytest.fixture(scope="module")
def runs():
    export = Path(__file__).parents[1] / "figures" / "scores" / "brain-mri.zip"
    return among_lowest_by_run(read_records(export).values())


def test_every_run_of_the_kept_scores_is_there(runs):
    """Three backbones, with and without repulsion, three seeds, five of AE; no other settings."""
    assert not runs.duplicated(["backbone", "repulsion", "seed", "selected", "judged"]).any()
    assert len(runs) == 2 * (3 + 3 + 5) * 5 * 4
    table = mirrored(runs)
    assert table.shape[1] == 6
    for column in table:
        own = runs[(runs["backbone"] == column.split(",")[0])]
        own = own[[f"repulsion {r} " in column for r in own["repulsion"]]]
        cell = own[(own["selected"] == "lowest by Unc") & (own["judged"] == "DSU")]["AUC"]
        assert table.loc[("lowest by Unc", "DSU"), column].startswith(f"{cell.mean():.1f} (")


def test_mirror_is_drawn_run_by_run(runs):
    left, right = plotting.mirror_dots(runs, ("lowest by Unc", "lowest by DSU")).axes
    drawn = np.concatenate(
        [line.get_xdata() for line in left.lines if len(line.get_xdata()) in (3, 5)]
    )
    assert np.isin(runs[runs["selected"] == "lowest by Unc"]["AUC"], drawn).all()
    assert len(left.get_yticklabels()) == 6 and "DSU" in right.get_title()


def test_nothing_to_show_is_an_empty_table():
    assert among_lowest_by_run([]).empty
