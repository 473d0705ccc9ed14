"""The published numbers agree with each other, but for the contradictions that are listed."""

import numpy as np
import pytest

from d2ue.experiments.paper import COLUMNS, CONTRADICTIONS, TABLE1, TABLE2, TABLE3
from d2ue.similarity import SIMILARITIES


def averages_off(values):
    """Whether the printed average is further from the cells' mean than rounding explains."""
    return abs(np.mean(values[:-1]) - values[-1]) > 0.1 + 1e-9


@pytest.mark.parametrize(("row", "backbone"), TABLE1)
def test_averages_of_table_1_are_those_of_its_cells(row, backbone):
    for metric, values in zip(("AUC", "AP"), TABLE1[row, backbone], strict=True):
        assert len(values) == len(COLUMNS)
        known = (1, row, backbone, f"Average {metric}") in CONTRADICTIONS
        assert averages_off(values) == known, (row, metric, np.mean(values[:-1]))


@pytest.mark.parametrize(("row", "backbone"), TABLE2)
def test_averages_of_table_2_are_those_of_its_cells(row, backbone):
    values = TABLE2[row, backbone]
    known = any(key[:3] == (2, row, backbone) for key in CONTRADICTIONS)
    assert averages_off(values) == known, (row, backbone, np.mean(values[:-1]))


def test_table_2_starts_with_the_reconstruction_rows_of_table_1():
    for backbone in ("AE", "MemAE", "AEU"):
        assert TABLE2["Ens", backbone][:-1] == TABLE1[backbone, ""][0][:-1]


def test_ddad_is_the_output_uncertainty_of_aeu():
    assert TABLE1["DDAD", ""][0] == TABLE2["Unc", "AEU"]


def test_table_3_ranks_similarities_that_exist_and_ends_at_rows_of_table_2():
    assert list(TABLE3) == sorted(TABLE3, key=TABLE3.__getitem__)
    assert set(TABLE3) <= set(SIMILARITIES)
    assert TABLE3["none"] == TABLE2["Unc", "AE"][0]
    assert TABLE3["cka"] == TABLE2["Unc+RAR", "AE"][0]
