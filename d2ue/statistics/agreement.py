"""Which score sees the anomalies that another one misses: AUC among the lowest quarter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from d2ue.evaluation import auc, auc_among_lowest
from d2ue.experiments.rows import BACKBONE_TITLES
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
    n_learners: int = 3,
    similarity: str = "cka",
    repulsion_weight: float = 1.0,
) -> pd.DataFrame:
    """`among_lowest` of kept scores, one row a run, selection and judged score.

    Args:
        records: as `d2ue.store.results.read_records` gives them; those of other settings and of
            controls are left out.
        methods: scores to select by and to judge.
        share: of the abnormal images, rounded up.
        n_learners: of the ensembles to take.
        similarity: what they were repelled by, at z; ensembles without repulsion are taken too.
        repulsion_weight: how hard, likewise; the default is the paper's.

    Returns:
        Columns dataset, backbone, repulsion, seed, selected ("all" or "lowest by ..."), judged,
        AUC (percent), in the order of these columns.
    """
    parts = []
    for record in records:
        if record.control:
            continue  # it has no learners to disagree
        c = record.config
        repelled = c.similarity, c.layer, c.repulsion_weight
        if c.n_learners != n_learners or (
            c.repels and repelled != (similarity, "z", repulsion_weight)
        ):
            continue
        table = among_lowest(record.labels, {m: record.scores[m] for m in methods}, share)
        own = table.rename_axis(index="selected", columns="judged").stack().rename("AUC")
        repulsion = f"λ = {c.repulsion_weight:g}" if c.repels else "none"
        keys: dict[str, int | str] = {"seed": c.seed, "repulsion": repulsion}
        keys |= {"backbone": BACKBONE_TITLES[c.backbone], "dataset": record.data.name}
        part = own.reset_index()
        for name, value in keys.items():
            part.insert(0, name, value)
        parts.append(part)
    columns = ["dataset", "backbone", "repulsion", "seed", "selected", "judged", "AUC"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts).sort_values(columns[:4], kind="stable").reset_index(drop=True)[columns]


def mirrored(
    runs: pd.DataFrame,
    one: str = "DSU",
    other: str = "Unc",
    thirds: Sequence[str] = ("input only", "Ens"),
) -> pd.DataFrame:
    """Two scores on each other's failures, beside others on the same images: mean over seeds.

    Args:
        runs: as `among_lowest_by_run` gives it.
        one: a score, by its name in `runs`.
        other: another.
        thirds: scores that neither selection was made by.

    Returns:
        Text cells "mean (lowest to highest seed)", AUC in percent, a column a backbone and
        repulsion, row pairs (selected, judged); last the seeds in which `one` does better on the
        other's failures than `other` does on its, and than each third score on the same images.
    """
    wanted = [
        ("all", other),
        ("all", one),
        (f"lowest by {other}", one),
        *((f"lowest by {other}", third) for third in thirds),
        (f"lowest by {one}", other),
        *((f"lowest by {one}", third) for third in thirds),
    ]
    lines = {}
    for (backbone, repulsion), own in runs.groupby(["backbone", "repulsion"], sort=False):
        wide = own.pivot(index="seed", columns=["selected", "judged"], values="AUC")
        cells = {
            column: f"{v.mean():.1f} ({v.min():.1f} to {v.max():.1f})"
            for column, v in ((column, wide[column]) for column in wanted)
        }
        ours, mirror = wide[f"lowest by {other}", one], wide[f"lowest by {one}", other]
        rivals = {f"{other} on {one}'s lowest": mirror}
        rivals |= {third: wide[f"lowest by {other}", third] for third in thirds}
        for rival, theirs in rivals.items():
            wins = f"{(ours > theirs).sum()} of {len(wide)}"
            cells[f"seeds in which {one} on {other}'s lowest", f"beats {rival}"] = wins
        lines[f"{backbone}, repulsion {repulsion} (n = {len(wide)})"] = cells
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.columns = pd.MultiIndex.from_tuples(table.columns, names=["abnormal images", "AUC of"])
    return table.T
