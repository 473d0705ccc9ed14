"""Tables laid out as the paper prints them, and the list of claims, from made-up runs."""

import numpy as np
import pandas as pd

from d2ue.experiments.printed import caption, table2_as_printed, table3_as_printed
from d2ue.experiments.summary import claims_markdown, claims_text, counts, read_claims


def line(row, group, auc, std=1.0, paper=np.nan, n=3):
    return {
        "row": row, "group": group, "dataset": "d", "AUC": auc, "AUC_std": std,
        "paper_AUC": paper, "n_seeds": n, "n_normal": 5, "n_abnormal": 7,
    }  # fmt: skip


def test_table2_has_ticks_as_rows_and_backbones_as_columns():
    table = pd.DataFrame(
        [
            line("Ens", "AE", 80.04, paper=79.7),
            line("Unc+RAR+DSU", "AE", 81.96, 2.25, paper=89.2),
            line("gradient only", "AE", 91.5),
            line("Ens", "AEU", np.nan, np.nan, paper=94.0, n=0),
            line("Unc+RAR+DSU", "AEU", 94.6, np.nan, n=1),
        ]
    )
    shown = table2_as_printed(table)
    assert shown.index.tolist() == [
        ("✓", "", "", "", ""), ("", "✓", "✓", "✓", ""), ("", "", "", "", "gradient only"),
    ]  # fmt: skip
    assert shown["AE"].tolist() == ["80.0 ± 1.0 | 79.7", "82.0 ± 2.2 | 89.2", "91.5 ± 1.0"]
    assert shown["AEU"].tolist() == ["not run | 94.0", "94.6", ""]
    assert "n = 3 seeds, fewer for Unc+RAR+DSU" in caption(table)
    assert "5 normal and 7 abnormal" in caption(table) and "ours | paper" in caption(table)


def test_table3_has_its_two_rows_of_ticks():
    names = ("none", "manhattan", "pearson", "cka")
    shown = table3_as_printed(pd.DataFrame([line(name, "Unc", 50.0) for name in names]))
    assert shown.loc["invariant to scaling"].tolist() == ["", "", "✓", "✓"]
    assert shown.loc["invariant to rotation"].tolist() == ["", "", "", "✓"]
    assert shown.loc["AUC by Unc", "cka"] == "50.0 ± 1.0"
    assert shown.loc["the paper, by Unc, on RSNA"].tolist() == ["69.4", "71.3", "72.9", "76.8"]


def test_claims_of_two_sets_side_by_side(tmp_path, refused):
    values = {"low": 0.5, "high": 2.0, "n_seeds": 3}
    for name, file, column, verdict in (
        ("a", "table2_verdicts", "difference", "holds (3 seeds, images only)"),
        ("a", "table2_central", "factor", "cannot tell with 3 seeds"),
        ("b", "table2_verdicts", "difference", "not run"),
    ):
        (tmp_path / name / "table2").mkdir(parents=True, exist_ok=True)
        row = {"dataset": name, "claim": f"x {column}", column: 1.25, "verdict": verdict} | values
        pd.DataFrame([row]).to_csv(tmp_path / name / "table2" / f"{file}.csv")
    found = read_claims([tmp_path / "a", tmp_path / "b"])
    assert counts(found) == {"hold": 1, "do not": 0, "are undecided": 1}
    lines = claims_text(found).splitlines()
    assert len(lines) == 3 and lines[0].split() == ["table", "claim", "a", "b"]
    assert "holds +1.2 [+0.5, +2.0]" in lines[1] and "not run" in lines[1]
    assert "undecided 1.25 [0.50, 2.00]" in lines[2] and lines[2].endswith("not run")
    assert "1 hold, 0 do not, 1 are undecided" in claims_markdown(found)
    with refused("no verdicts"):
        read_claims([tmp_path])
