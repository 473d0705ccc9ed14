"""Tables 2 and 3 laid out as the paper prints them, ours beside its values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from d2ue.experiments.layouts import ticks
from d2ue.experiments.paper import TABLE3

#: The four parts of the method that Table 2 switches on, and which of its rows have which.
PARTS = ("Ens", "Unc", "RAR", "DSU")
YES = "✓"


def table2_as_printed(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2 of one data set, from its `long_table`: ticks as rows, backbones side by side.

    Returns:
        Texts, indexed by the four ticks (and "", or what else a row is), a column a backbone. A
        cell reads `93.3 ± 0.4 | 95.2`: our mean and standard deviation over seeds, the paper's
        value. Rows that the paper does not have come last.
    """
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for label in dict.fromkeys(table["row"]):
        of_row = table[table["row"] == label]
        words = label.split("+")
        printed = set(words) <= set(PARTS)
        key = tuple(YES if printed and part in words else "" for part in PARTS)
        lines[(*key, "" if printed else label)] = {
            line["group"]: cell(line) for line in of_row.to_dict("records")
        }
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=[*PARTS, "other"])
    return frame.fillna("")


def table3_as_printed(table: pd.DataFrame) -> pd.DataFrame:
    """Table 3 of one data set, from its `long_table`: two rows of ticks, then AUC by score.

    The paper's row is of RSNA, whatever the data set.
    """
    names = list(dict.fromkeys(table["row"]))
    invariant = ticks()
    lines = {
        f"invariant to {kind}": {
            name: YES if name != "none" and invariant.loc[name, kind] else "" for name in names
        }
        for kind in ("scaling", "rotation")
    }
    for group in dict.fromkeys(table["group"]):
        of_score = table[table["group"] == group].to_dict("records")
        lines[f"AUC by {group}"] = {line["row"]: ours(line) for line in of_score}
    lines["the paper, by Unc, on RSNA"] = {n: f"{TABLE3[n]:.1f}" for n in names if n in TABLE3}
    frame = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=names)
    return frame.rename_axis("similarity").fillna("")


def cell(line: dict) -> str:
    """`ours | paper` of a line of `long_table`."""
    published = line["paper_AUC"]
    return ours(line) + ("" if np.isnan(published) else f" | {published:.1f}")


def ours(line: dict) -> str:
    """Mean and standard deviation over seeds; "not run" where there are none."""
    if np.isnan(line["AUC"]):
        return "not run"
    spread = "" if np.isnan(line["AUC_std"]) else f" ± {line['AUC_std']:.1f}"
    return f"{line['AUC']:.1f}{spread}"


def caption(table: pd.DataFrame) -> str:
    """How many seeds and images stand behind a table, once where it is the same everywhere."""
    run = table[table["n_seeds"] > 0]
    seeds = sorted(run["n_seeds"].astype(int).unique())
    if len(seeds) > 1:
        few = run[run["n_seeds"] < seeds[-1]]
        names = ", ".join(dict.fromkeys(few["row"]))
        counts = f"n = {seeds[-1]} seeds, fewer for {names}"
    else:
        counts = f"n = {seeds[0]} seeds" if seeds else "nothing was run"
    line, beside = table.iloc[0], bool(table["paper_AUC"].notna().any())
    return (
        f"{line['dataset']}: AUC in percent{', ours | paper' * beside}; "
        f"mean ± standard deviation, {counts}; "
        f"{line['n_normal']:.0f} normal and {line['n_abnormal']:.0f} abnormal test images."
    )


AS_PRINTED = {"table2": table2_as_printed, "table3": table3_as_printed}
