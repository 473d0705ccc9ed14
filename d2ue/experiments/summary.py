"""Every claim of the paper in one table: what holds on which data set, and how sure that is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from d2ue.errors import InputError
from d2ue.experiments.layouts import markdown

#: The files of verdicts that the notebooks of tables 1 to 3 leave, and what they are called.
VERDICTS = {
    "table1/table1_verdicts.csv": "Table 1",
    "table2/table2_verdicts.csv": "Table 2",
    "table2/table2_central.csv": "in words",
    "table3/table3_verdicts.csv": "Table 3",
}
#: A verdict's first words, and how it is counted.
WORDS = {
    "holds": "hold",
    "does not hold": "do not",
    "no effect": "have no effect above 2 points",
    "cannot tell": "are undecided",
}


def read_claims(folders: Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """The verdicts of tables 1 to 3, a row a claim and data set.

    Args:
        folders: each what `d2ue reproduce all --out FOLDER` leaves of one data set.

    Returns:
        Columns: table, claim, dataset, difference (points of AUC, or a factor), low, high (its
        95 % interval), n_seeds, verdict, seeds_needed (to decide it; infinite: not seeds).

    Raises:
        InputError: if a folder holds no verdicts.
    """
    parts = []
    for folder in folders:
        files = {file: title for file, title in VERDICTS.items() if Path(folder, file).is_file()}
        if not files:
            raise InputError(
                f"{folder} holds no verdicts of tables 1 to 3: 'd2ue reproduce all --out {folder}' "
                "makes them."
            )
        for file, title in files.items():
            verdicts = pd.read_csv(Path(folder, file), index_col=0)
            parts.append(verdicts.rename(columns={"factor": "difference"}).assign(table=title))
    columns = ["table", "claim", "dataset", "difference", "low", "high", "n_seeds", "verdict"]
    return pd.concat(parts, ignore_index=True).reindex(columns=[*columns, "seeds_needed"])


def counts(claims: pd.DataFrame) -> dict[str, int]:
    """How many claims hold, do not, are undecided, by the words of `WORDS`; not run ones apart."""
    return {said: int(claims["verdict"].str.startswith(word).sum()) for word, said in WORDS.items()}


def side_by_side(claims: pd.DataFrame) -> pd.DataFrame:
    """A row a claim, a column a data set: verdict, value with its interval."""
    shown = claims.assign(cell=[_cell(line) for line in claims.to_dict("records")])
    order = list(dict.fromkeys(zip(shown["table"], shown["claim"], strict=True)))
    table = shown.pivot(index=["table", "claim"], columns="dataset", values="cell")
    names = list(dict.fromkeys(claims["dataset"]))
    return table.reindex(order)[names].fillna("not run").rename_axis(columns=None)


def claims_text(claims: pd.DataFrame) -> str:
    """The table in lines for a terminal."""
    table = side_by_side(claims).reset_index()
    lines = [list(table.columns), *table.to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [map(str.ljust, line, widths) for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def claims_markdown(claims: pd.DataFrame) -> str:
    """The table as a page, with what its values are."""
    seeds = sorted(claims["n_seeds"].dropna().astype(int).unique())
    total = ", ".join(f"{n} {said}" for said, n in counts(claims).items())
    return (
        f"# What holds\n\nThe paper's claims, tested: {total}. Seeds: "
        f"{' or '.join(map(str, seeds))} a claim.\n\n"
        "- Claims of Table 1 against a method marked (small) are against our reduced preset of it, "
        "or a control on its frozen network; the paper claims the same of the published methods.\n"
        "- Values are points of AUC (a mean over seeds, better minus worse) or, for those in "
        "words, factors (with repulsion over without; 1 = no change), with 95 % intervals.\n"
        "- Up to four seeds, intervals and verdicts speak of the test images alone, and a claim "
        "holds only where every seed agrees.\n"
        '- "No effect" is shown, not assumed: the difference keeps within 2 points of AUC either '
        "way (two one-sided tests, a family of their own). The margin is ours.\n"
        '- In brackets after "undecided": about how many seeds would decide, if value and spread '
        'stayed as they are; "more images" where no number of seeds would.\n'
        "- p-values are Holm's over all claims of one table and data set, so a claim may be "
        "undecided though its interval excludes no effect.\n\n"
        f"{markdown(side_by_side(claims).reset_index())}"
    )


def _cell(line: dict) -> str:
    short = next((word for word in WORDS if line["verdict"].startswith(word)), line["verdict"])
    if short == "cannot tell":
        needed = line["seeds_needed"]
        would = "" if pd.isna(needed) else f" ({needed:.0f} seeds)"
        short = f"undecided{' (more images)' if np.isinf(needed) else would}"
    if pd.isna(line["difference"]):
        return short
    form = "{:.2f}" if line["table"] == "in words" else "{:+.1f}"
    value, low, high = (form.format(line[name]) for name in ("difference", "low", "high"))
    return f"{short} {value} [{low}, {high}]"
