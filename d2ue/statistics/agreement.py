"""Which score sees the anomalies that another one misses: AUC among the lowest quarter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from d2ue.config import BACKBONE_TITLES
from d2ue.evaluation import auc, auc_among_lowest

if TYPE_CHECKING:
    from d2ue.store.results import Record

#: Scores in the order that tables show them, and what they are called there.
NAMES = {"output": "Unc", "dual": "DSU", "ensemble": "Ens", "input": "input only"}


def among_lowest(
    labels: np.ndarray, scores: Mapping[str, np.ndarray], share: float = 0.25
) -> pd.DataFrame:
    """Every score's AUC on the abnormal images that each score finds least abnormal.

    Args:
        labels: shape (n,), 0 or 1.
        scores: by method, shape (n,), higher = more abnormal.
        share: of the abnormal images, rounded up; all normal images stay.

    Returns:
        Percent; a row for all images and one for each method to select by, a column for each
        method to judge. A score judged on its own selection stands at its worst.

    Raises:
        InputError: as for `d2ue.evaluation.auc_among_lowest`.
    """
    names = [NAMES.get(method, method) for method in scores]
    rows = {"all": [100 * auc(labels, own) for own in scores.values()]}
    for name, by in zip(names, scores.values(), strict=True):
        rows[f"lowest by {name}"] = [
            100 * auc_among_lowest(labels, own, by, share) for own in scores.values()
        ]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    return table.rename_axis(index="abnormal images", columns="AUC of")


def among_lowest_by_run(
    records: Iterable[Record],
    methods: Sequence[str] = ("output", "dual", "ensemble", "input"),
    share: float = 0.25,
) -> pd.DataFrame:
    """`among_lowest` of kept scores, one row a run, selection and judged score.

    Args:
        records: as `d2ue.store.results.read_records` gives them. Taken are ensembles of three
            learners, without repulsion or with the paper's (CKA at z, weight 1).
        methods: scores to select by and to judge.
        share: of the abnormal images, rounded up.

    Returns:
        Columns dataset, backbone, repulsion, seed, selected ("all" or "lowest by ..."), judged,
        AUC (percent), in the order of these columns.
    """
    columns = ["dataset", "backbone", "repulsion", "seed", "selected", "judged", "AUC"]
    rows = []
    for record in records:
        c = record.config
        papers = (c.similarity, c.layer, c.repulsion_weight) == ("cka", "z", 1.0)
        if record.control or c.n_learners != 3 or (c.repels and not papers):
            continue
        repulsion = f"λ = {c.repulsion_weight:g}" if c.repels else "none"
        run = (record.data.name, BACKBONE_TITLES[c.backbone], repulsion, c.seed)
        table = among_lowest(record.labels, {m: record.scores[m] for m in methods}, share)
        for selected, line in table.iterrows():
            rows += [(*run, selected, judged, value) for judged, value in line.items()]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(columns[:4], kind="stable").reset_index(drop=True)


def mirrored(runs: pd.DataFrame) -> pd.DataFrame:
    """DSU and Unc on each other's failures, beside others on the same images: mean over seeds.

    Args:
        runs: as `among_lowest_by_run` gives it.

    Returns:
        Text cells "mean (lowest to highest seed)", AUC in percent, a column a backbone and
        repulsion, row pairs (selected, judged); last the seeds in which DSU does better on Unc's
        failures than Unc does on its, and than each third score on the same images.
    """
    thirds = ("input only", "Ens")  # neither selection was made by these
    wanted = [("all", "Unc"), ("all", "DSU")]
    wanted += [("lowest by Unc", judged) for judged in ("DSU", *thirds)]
    wanted += [("lowest by DSU", judged) for judged in ("Unc", *thirds)]
    columns = {}
    for (backbone, repulsion), part in runs.groupby(["backbone", "repulsion"], sort=False):
        wide = part.pivot(index="seed", columns=["selected", "judged"], values="AUC")
        cells = {}
        for line in wanted:
            v = wide[line]
            cells[line] = f"{v.mean():.1f} ({v.min():.1f} to {v.max():.1f})"
        rivals = {"Unc on DSU's lowest": wide["lowest by DSU", "Unc"]}
        rivals |= {third: wide["lowest by Unc", third] for third in thirds}
        for rival, theirs in rivals.items():
            wins = (wide["lowest by Unc", "DSU"] > theirs).sum()
            cells["seeds in which DSU on Unc's lowest", f"beats {rival}"] = f"{wins} of {len(wide)}"
        columns[f"{backbone}, repulsion {repulsion} (n = {len(wide)})"] = cells
    table = pd.DataFrame(columns)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["abnormal images", "AUC of"])
    return table
