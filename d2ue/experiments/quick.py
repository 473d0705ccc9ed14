"""Tables out of ensembles: one row a run and score, then mean and spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2ue.datasets import results_folder
from d2ue.datasets.types import ABNORMAL, NORMAL, ImageSet
from d2ue.ensemble import Ensemble
from d2ue.errors import InputError
from d2ue.evaluation import auc, average_precision
from d2ue.store.files import versions, write_text
from d2ue.uncertainty import image_scores

#: Table 2's rows by score method, in the paper's words.
ROW_NAMES = {"ensemble": "Ens", "output": "Unc", "dual": "DSU", "input": "input gradient only"}


def score_table(
    ensembles: Sequence[Ensemble],
    test: ImageSet,
    methods: Sequence[str] = ("ensemble", "output", "dual"),
) -> pd.DataFrame:
    """AUC and AP of every ensemble by every score: one row each, of the ensemble's own ranking.

    Returns:
        Columns backbone, similarity, repulsion_weight (0 where nothing is repelled), seed, method,
        AUC, AP (both in percent).

    Raises:
        InputError: if the test images have no labels of both classes.
    """
    if test.labels is None:
        raise InputError("These test images have no labels, so no AUC can be computed.")
    rows = []
    for ensemble in ensembles:
        c = ensemble.config
        for method in methods:
            scores = image_scores(ensemble, test.images, method)
            row = {
                "backbone": c.backbone,
                "similarity": c.similarity if c.repels else "none",
                "repulsion_weight": c.repulsion_weight if c.repels else 0.0,
                "seed": c.seed,
                "method": method,
                "AUC": 100 * auc(test.labels, scores),
                "AP": 100 * average_precision(test.labels, scores),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (Bessel-corrected) and n over seeds of a `score_table`.

    Returns:
        Indexed by backbone, similarity, repulsion_weight, method, in the order of first
        appearance; columns (AUC | AP, mean | std | n). A single seed has no spread: std is NaN.
    """
    keys = ["backbone", "similarity", "repulsion_weight", "method"]
    grouped = table.groupby(keys, sort=False)[["AUC", "AP"]]
    return grouped.agg(["mean", "std", "count"]).rename(columns={"count": "n"})


def paper_layout(table: pd.DataFrame) -> pd.DataFrame:
    """A `score_table` as a reader wants it: rows without and with repulsion, columns by score.

    Returns:
        Text cells "mean ± std", percent; the number of seeds stands in the row's name. A single
        seed has no spread and shows none.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for (backbone, similarity, weight, method), row in summarise(table).iterrows():
        n = int(row["AUC", "n"])
        repulsion = f"{similarity}, λ = {weight:g}" if weight else "none"
        line = f"{backbone.upper()}, repulsion {repulsion} (n = {n})"
        for metric in ("AUC", "AP"):
            spread = f" ± {row[metric, 'std']:.1f}" if n > 1 else ""
            text = f"{row[metric, 'mean']:.1f}{spread}"
            cells.setdefault((ROW_NAMES[method], metric), {})[line] = text
    return pd.DataFrame(cells).rename_axis(columns=["score", "percent"])


def readings(table: pd.DataFrame) -> list[str]:
    """What a `score_table` of one backbone says of the paper's claims, one sentence each.

    Each sentence counts the seeds in which a claim behind Table 2 holds, and gives the mean
    difference with its range. Claims whose runs are not in the table are left out.
    """
    repelled = table["repulsion_weight"] > 0
    series = {
        key: part.set_index("seed")["AUC"] for key, part in table.groupby([repelled, "method"])
    }
    claims = (
        ("Repulsion raises Unc", (True, "output"), (False, "output")),
        ("DSU raises Unc, without repulsion", (False, "dual"), (False, "output")),
        ("Both beat repulsion alone", (True, "dual"), (True, "output")),
        ("Both beat DSU alone", (True, "dual"), (False, "dual")),
        ("Both beat the reconstruction error", (True, "dual"), (True, "ensemble")),
    )
    sentences = []
    for claim, better, worse in claims:
        if better in series and worse in series:
            difference = (series[better] - series[worse]).dropna()
            wins, n = int((difference > 0).sum()), len(difference)
            sentences.append(
                f"{claim}: in {wins} of {n} seeds; AUC {difference.mean():+.1f} on average "
                f"({difference.min():+.1f} to {difference.max():+.1f})."
            )
    return sentences


def reconstruction_ratio(ensemble: Ensemble, train: ImageSet, normals: ImageSet) -> float:
    """How much better than the mean training image the learners reconstruct held-out normals.

    Returns:
        Mean squared error of the learners' own reconstructions (averaged over learners) divided by
        that of the mean training image; 1 = nothing learnt, 0 = perfect.
    """
    x = normals.images / 127.5 - 1
    outputs = ensemble.reconstruct(normals.images).numpy()
    learnt = np.mean([np.square(x - f).mean() for f in outputs])
    mean_image = train.images.mean(0) / 127.5 - 1
    return float(learnt / np.square(x - mean_image).mean())


def _labels(test: ImageSet) -> np.ndarray:
    if test.labels is None:
        raise InputError("These test images have no labels, so no examples can be chosen.")
    return test.labels


def examples(test: ImageSet, scores: np.ndarray, n: int = 2) -> np.ndarray:
    """Positions of n normal and n abnormal images to look at, not picked by hand.

    They stand evenly spread over their class's ranking by score, from typical to high: the same
    quantiles for both, so that neither class is shown at its best.
    """
    quantiles = np.linspace(0.5, 0.9, n)
    chosen = []
    for label in (NORMAL, ABNORMAL):
        of_class = np.flatnonzero(_labels(test) == label)
        ranked = of_class[np.argsort(scores[of_class], kind="stable")]
        chosen.append(ranked[(quantiles * (len(ranked) - 1)).round().astype(int)])
    return np.concatenate(chosen)


def drawn_examples(test: ImageSet, n: int = 4, seed: int = 0) -> np.ndarray:
    """Positions of n abnormal images drawn at random, fewer where there are not so many."""
    abnormal = np.flatnonzero(_labels(test) == ABNORMAL)
    return np.random.default_rng(seed).choice(abnormal, min(n, len(abnormal)), replace=False)


def worst_cases(test: ImageSet, scores: np.ndarray, n: int = 2) -> np.ndarray:
    """Positions of the n highest-scored normal images, then of the n lowest-scored abnormal ones.

    These are the images that a threshold on the score gets wrong first, the worst of each first.
    """
    chosen = []
    for label, order in ((NORMAL, -scores), (ABNORMAL, scores)):
        of_class = np.flatnonzero(_labels(test) == label)
        chosen.append(of_class[np.argsort(order[of_class], kind="stable")][:n])
    return np.concatenate(chosen)


def save_results(
    folder: str | Path,
    parameters: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Any],
    about: str = "",
) -> Path:
    """Write what a notebook used and found: JSON, CSV and PNG files in one folder.

    Args:
        folder: new, empty, or with earlier results, which are replaced.
        parameters: plain values; versions of the software are added.
        tables: by file name without ending.
        figures: matplotlib figures by file name without ending.
        about: what they are of, kept in the PNG files as "Description".
    """
    target = results_folder.claim(folder)
    try:
        for name, figure in figures.items():
            described = {"Description": about} if about else {}
            figure.savefig(target / f"{name}.png", dpi=110, metadata=described)
    except OSError as error:
        raise InputError(f"{target} cannot be written to ({error.strerror}).") from error
    for name, table in tables.items():
        write_text(target / f"{name}.csv", table.to_csv(float_format="%.6g"))
    record = {"parameters": dict(parameters), "versions": versions()}
    write_text(target / "parameters.json", json.dumps(record, indent=1) + "\n")
    return target
