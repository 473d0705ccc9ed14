"""Tables out of ensembles: one row a run and score, then mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from d2ue.datasets.types import ImageSet
from d2ue.ensemble import Ensemble
from d2ue.errors import InputError
from d2ue.evaluation import auc, average_precision
from d2ue.uncertainty import image_scores

#: Table 2's rows by score method, in the paper's words.
ROW_NAMES = {"ensemble": "Ens", "output": "Unc", "dual": "DSU", "input": "input gradient only"}


def score_table(
    ensembles: Sequence[Ensemble],
    test: ImageSet,
    methods: Sequence[str] = ("ensemble", "output", "dual"),
) -> pd.DataFrame:
    """AUC and AP of every ensemble by every score: one row each.

    The score is the ensemble's own, so its AUC is that of one ranking of the images, not a mean
    over learners.

    Args:
        ensembles: trained ensembles.
        test: labelled images.
        methods: scores, as for `d2ue.uncertainty.image_scores`.

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
            rows.append(
                {
                    "backbone": c.backbone,
                    "similarity": c.similarity if c.repels else "none",
                    "repulsion_weight": c.repulsion_weight if c.repels else 0.0,
                    "seed": c.seed,
                    "method": method,
                    "AUC": 100 * auc(test.labels, scores),
                    "AP": 100 * average_precision(test.labels, scores),
                }
            )
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
