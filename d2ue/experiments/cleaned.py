"""A table on the published and on the cleaned split, side by side.

The cleaned split drops the test images of which a near duplicate was trained on, whole clusters at
a time; training stays as it is. So learners and scores are the same, nothing is trained, and the
two columns differ by the dropped images alone. How far a row moves is a paired difference, its
interval a bootstrap that resamples clusters and computes both AUCs from the same draw.

Dropped are the normal images most like the training images, so those left are also the less usual
ones. A fall says that the published AUC rests on near duplicates; it is no estimate of the AUC on
new scans, which would take other normal images, or training without the duplicates.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2ue import plotting
from d2ue.errors import InputError
from d2ue.experiments.claims import verdicts
from d2ue.experiments.layouts import long_table, markdown
from d2ue.experiments.quick import save_results
from d2ue.experiments.rows import Cell
from d2ue.statistics.clusters import Clusters
from d2ue.store.files import write_text
from d2ue.store.results import Record

#: Resamples behind the interval of a change.
RESAMPLES = 1000

_KEPT = ["AUC", "AUC_std", "AUC_low", "AUC_high", "n_normal", "n_abnormal", "independence"]


def cleaned_cells(cells: Sequence[Cell], clusters: Clusters) -> list[Cell]:
    """The same cells on the test images without a near duplicate in train, as set NAME-cleaned.

    Raises:
        InputError: if the cells are of several data sets, the clusters are of other images, or a
            class has fewer than two clusters left.
    """
    _check(cells, clusters)
    kept = clusters.kept
    left = [len(np.unique(clusters.test[kept & (clusters.labels == label)])) for label in (0, 1)]
    if min(left) < 2:
        raise InputError(
            f"Of the normal test images {left[0]} clusters have no near duplicate in train, of the "
            f"abnormal ones {left[1]}: an AUC of what is left takes two of each."
        )
    key, labels = cells[0].data, clusters.labels[kept]
    part = dataclasses.replace(
        key,
        name=f"{key.name}-cleaned",
        # Of no images at hand, so of what they derive from.
        test=hashlib.sha256(key.test.encode() + kept.tobytes()).hexdigest(),
        n_normal=int((labels == 0).sum()),
        n_abnormal=int((labels == 1).sum()),
    )

    def subset(record: Record) -> Record:
        scores = {name: values[kept] for name, values in record.scores.items()}
        return dataclasses.replace(record, data=part, labels=labels, scores=scores, similarity={})

    return [
        dataclasses.replace(
            cell,
            data=part,
            records={seed: subset(record) for seed, record in cell.records.items()},
            clusters=clusters.test[kept],
        )
        for cell in cells
    ]


def published_and_cleaned(
    cells: Sequence[Cell], clusters: Clusters, *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """AUC of every row on the published and on the cleaned test images, and the change.

    Args:
        cells: of one data set, as `d2ue.experiments.obtain` gives them; controls belong among
            them.
        clusters: near duplicates of that data set, from `d2ue.statistics.clusters.read_clusters`.
        resamples: of the bootstrap behind the change's interval.
        seed: of its draws; every row is resampled by the same ones.

    Returns:
        One line a cell, in order. Columns group, row, dataset, n_seeds, note, paper_AUC; then AUC,
        AUC_std, AUC_low, AUC_high, n_normal, n_abnormal and independence, each ending in
        "_published" and "_cleaned"; change (published less cleaned, percent points, averaged over
        seeds), change_low, change_high (95 %, over clusters of images; seeds are taken as they
        are). Intervals of both AUCs respect clusters. Rows that were not run are empty.

    Raises:
        InputError: as `cleaned_cells`.
    """
    cleaned, published = cleaned_cells(cells, clusters), _published(cells, clusters)
    before, after = long_table(published), long_table(cleaned)
    frame = before[["group", "row", "dataset", "n_seeds", "note", "paper_AUC"]].copy()
    for column in _KEPT:
        frame[f"{column}_published"] = before[column]
        frame[f"{column}_cleaned"] = after[column]
    draws = _draws(clusters, resamples, seed)
    ends = [_change_interval(cell, clusters.kept, draws) for cell in published]
    frame["change"] = before["AUC"] - after["AUC"]
    frame[["change_low", "change_high"]] = ends
    return frame


def cleaned_verdicts(
    cells: Sequence[Cell], clusters: Clusters, table: str = "table2"
) -> pd.DataFrame:
    """The claims of a table on both splits, each split a family of its own.

    For table "controls" the cells are those of table2 and of the controls.

    Returns:
        One line a claim that was run: claim, dataset, n_seeds, then difference (percent points),
        low, high, p_holm, per_seed, independence and verdict, each ending in "_published" and
        "_cleaned".

    Raises:
        InputError: as `cleaned_cells`.
    """
    before, after = (
        judged[judged["verdict"] != "not run"].reset_index(drop=True)
        for judged in (
            verdicts(table, _published(cells, clusters)),
            verdicts(table, cleaned_cells(cells, clusters)),
        )
    )
    frame = before[["claim", "dataset", "n_seeds"]].copy()
    for name in ("difference", "low", "high", "p_holm", "per_seed", "independence", "verdict"):
        frame[f"{name}_published"] = before[name]
        frame[f"{name}_cleaned"] = after[name]
    return frame


def show_cleaned(frame: pd.DataFrame) -> pd.DataFrame:
    """`published_and_cleaned` as a reader wants it: mean ± spread (interval), the change, n.

    Rows that were not run are left out.
    """
    run = frame[frame["n_seeds"] > 0]
    lines = run.to_dict("records")

    def value(line: dict, split: str) -> str:
        auc, std, low, high = (line[f"AUC{end}_{split}"] for end in ("", "_std", "_low", "_high"))
        spread = "" if np.isnan(std) else f" ± {std:.1f}"
        return f"{auc:.1f}{spread} ({low:.1f} to {high:.1f})"

    columns: dict[str, list[str]] = {}
    for split in ("published", "cleaned"):
        sizes = lines[0] if lines else {}
        normal, abnormal = (sizes.get(f"n_{kind}_{split}", 0) for kind in ("normal", "abnormal"))
        name = f"{split}, {normal} + {abnormal} images"
        columns[name] = [value(line, split) for line in lines]
    columns["published - cleaned"] = [
        f"{line['change']:+.1f} ({line['change_low']:+.1f} to {line['change_high']:+.1f})"
        for line in lines
    ]
    columns["n"] = [", ".join(filter(None, (str(x["n_seeds"]), x["note"]))) for x in lines]
    columns["paper"] = ["" if np.isnan(v) else f"{v:.1f}" for v in run["paper_AUC"]]
    index = pd.MultiIndex.from_frame(run[["group", "row"]], names=["", "row"])
    return pd.DataFrame(columns, index=index)


def show_cleaned_verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """`cleaned_verdicts` as a reader wants it: difference (interval) and verdict on both splits."""
    columns: dict[str, Any] = {"claim": frame["claim"]}
    for split in ("published", "cleaned"):
        numbers = frame[[f"{name}_{split}" for name in ("difference", "low", "high")]]
        columns[f"{split}: difference in AUC (95 % interval)"] = [
            f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
            for value, low, high in numbers.itertuples(index=False)
        ]
        columns[f"{split}: verdict"] = frame[f"verdict_{split}"]
    return pd.DataFrame(columns)


def save_cleaned(
    out: str | Path,
    table: pd.DataFrame,
    judged: Mapping[str, pd.DataFrame],
    parameters: Mapping[str, Any],
) -> Path:
    """Write a table on both splits: CSV, Markdown, picture, verdicts, and what they came from.

    Args:
        out: the folder; made if need be.
        table: from `published_and_cleaned`.
        judged: by table ("table2", "controls"), from `cleaned_verdicts`.
        parameters: plain values that name what it came from: scores, clusters, settings.
    """
    tables = {"cleaned": table} | {f"{name}_verdicts": v for name, v in judged.items()}
    figure = plotting.published_against_cleaned(table)
    folder = save_results(out, parameters, tables, {"cleaned": figure})
    run = table[table["n_seeds"] > 0]
    independent = [
        f"{split}, {run[f'independence_{split}'].iloc[0]}"
        for split in ("published", "cleaned")
        if len(run)
    ]
    head = (
        "AUC in percent: mean ± standard deviation over seeds (95 % interval over test images). "
        "The cleaned split drops the test images of which a near duplicate was trained on; the "
        "learners are the same, and the normal images left are also the less usual ones. Intervals "
        f"and tests: {'; '.join(independent)}. What it came from is in parameters.json.\n\n"
    )
    write_text(folder / "cleaned.md", head + markdown(show_cleaned(table)))
    for name, frame in judged.items():
        text = markdown(show_cleaned_verdicts(frame)) if len(frame) else "No claim was run.\n"
        text = f"The claims of {name} on both splits.\n\n{text}"
        write_text(folder / f"{name}_verdicts.md", text)
    return folder


def _published(cells: Sequence[Cell], clusters: Clusters) -> list[Cell]:
    _check(cells, clusters)
    return [dataclasses.replace(cell, clusters=clusters.test) for cell in cells]


def _check(cells: Sequence[Cell], clusters: Clusters) -> None:
    if len({cell.data for cell in cells}) != 1:
        raise InputError("The cleaned split is of one data set: give the cells of one.")
    for record in (record for cell in cells for record in cell.records.values()):
        if not np.array_equal(record.labels, clusters.labels):
            raise InputError(
                f"The clusters are of {len(clusters.labels)} test images that are not those of "
                f"{record.data.name} ({len(record.labels)}, in the order of their labels)."
            )


def _draws(clusters: Clusters, resamples: int, seed: int) -> np.ndarray:
    """How often each test image is drawn: float64 [resamples, n], whole clusters at a time."""
    _, cluster = np.unique(clusters.test, return_inverse=True)
    abnormal = np.bincount(cluster, clusters.labels) / np.bincount(cluster)
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(abnormal)))
    # Clusters of either class and of both apart, so that every resample holds both classes.
    for kind in (abnormal == 0, abnormal == 1, (abnormal > 0) & (abnormal < 1)):
        which = np.flatnonzero(kind)
        if len(which):
            even = np.full(len(which), 1 / len(which))
            counts[:, which] = rng.multinomial(len(which), even, resamples)
    return counts[:, cluster]


def _change_interval(cell: Cell, kept: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over seeds of AUC (all) - AUC (kept), percent points."""
    if not cell.records:
        return np.nan, np.nan
    changes = np.zeros(len(draws))
    scores = cell.scores()
    for values in scores:
        everything = _weighted_auc(cell.labels, values, draws)
        changes += everything - _weighted_auc(cell.labels[kept], values[kept], draws[:, kept])
    # A draw without a class among the kept images has no AUC; with few clusters that happens.
    low, high = 100 * np.nanquantile(changes / len(scores), [0.025, 0.975])
    return float(low), float(high)


def _weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC where image i counts weights[:, i] times, a value a line; NaN without a class."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    sums = [
        np.add.reduceat(weights[:, order] * (labels[order] == label), starts, axis=1)
        for label in (0, 1)
    ]
    normal, abnormal = sums
    below = np.cumsum(normal, axis=1) - normal / 2  # a tie counts half
    with np.errstate(invalid="ignore"):
        return (abnormal * below).sum(1) / (normal.sum(1) * abnormal.sum(1))
