"""Verdicts on families of claims: p-values adjusted for their number, and what each one decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from d2ue.errors import InputError
from d2ue.statistics.significance import Estimate, upper_tail

#: The chance of a wrong verdict in a family of claims.
ALPHA = 0.05

Verdict = Literal["holds", "does not hold", "cannot tell"]

#: Columns of `judge`.
COLUMNS = [
    *("claim", "difference", "low", "high", "p", "p_holm", "n_seeds", "sources"),
    *("independence", "per_seed", "verdict"),
]


@dataclass(frozen=True)
class Claim:
    """A sentence and the estimate it is about.

    Attributes:
        text: the sentence.
        estimate: what was measured.
        margin: None claims that the value is above its null; a number above 0, in the estimate's
            unit, that it keeps within so much of it.

    Raises:
        InputError: if the margin is no number above 0.
    """

    text: str
    estimate: Estimate
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise InputError(f"A margin is a number above 0, not {self.margin}.")


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number: one wrong rejection or more has a chance below alpha.

    Holm 1979: the k-th smallest of m is multiplied by m - k + 1, never below the one before it,
    at most 1.

    Raises:
        InputError: if a value is no number of 0 to 1.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("Holm's adjustment takes a list of p-values of 0 to 1.")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def equivalence(estimate: Estimate, margin: float) -> tuple[float, float]:
    """P-values of keeping within the margin of the null, and of being beyond it.

    Two one-sided tests (Schuirmann 1987), each of which must reject that the value is beyond one
    end of the margin: a difference that is merely not significant does not show equivalence.

    Returns:
        The larger p-value of the two tests: small speaks for "within"; the two-sided p-value of
        "beyond": below `ALPHA` exactly where the interval lies wholly beyond the margin.
    """
    beyond = abs(estimate.value - estimate.null) - margin
    if estimate.se == 0:
        return (0.0, 1.0) if beyond <= 0 else (1.0, 0.0)
    # The nearer end has the larger p-value of the two, so it is the only one needed.
    within = upper_tail(-beyond / estimate.se, estimate.df)
    return within, min(1.0, 2 * upper_tail(beyond / estimate.se, estimate.df))


def verdict(estimate: Estimate, adjusted_p: float, margin: float | None = None) -> Verdict:
    """Whether a claim holds, as `Claim` puts it.

    With fewer than `SEEDS_FOR_VARIANCE` seeds the p-value knows of images alone, so that every
    seed must also lie on the side that is decided for.

    Args:
        estimate: what was measured.
        adjusted_p: its p-value, adjusted within its family: two-sided without a margin, otherwise
            that of the side of the margin on which the value lies.
        margin: as of `Claim`.

    Returns:
        "holds"; "does not hold" if the value is significantly below its null, or beyond the
        margin; else "cannot tell".
    """
    if adjusted_p >= ALPHA:
        return "cannot tell"
    values = (estimate.value, *(() if estimate.seeds_vary else estimate.per_seed))
    sides = np.array(values) - estimate.null
    if margin is None:
        holds, fails = (sides > 0).all(), (sides < 0).all()
    else:
        holds = (abs(sides) <= margin).all()
        fails = (sides > margin).all() or (sides < -margin).all()
    return "holds" if holds else "does not hold" if fails else "cannot tell"


def judge(claims: Sequence[Claim]) -> pd.DataFrame:
    """Verdicts on a family of claims, their p-values adjusted by `holm`.

    A claim enters its family with the p-value of the verdict its value leans to, so that a wrong
    "does not hold" counts in the family too.

    Returns:
        One row a claim, in order: claim, difference, low, high (in the estimate's unit), p,
        p_holm, n_seeds, sources, independence (as `Estimate` has them), per_seed (text, the value
        of each seed), verdict.
    """
    p = [_leaning_p(claim.estimate, claim.margin) for claim in claims]
    rows = []
    for claim, raw, adjusted in zip(claims, p, holm(p), strict=True):
        estimate = claim.estimate
        rows.append(
            {
                "claim": claim.text,
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": raw,
                "p_holm": adjusted,
                "n_seeds": estimate.n_seeds,
                "sources": estimate.sources,
                "independence": estimate.independence,
                "per_seed": " ".join(f"{value:+.4f}" for value in estimate.per_seed),
                "verdict": verdict(estimate, adjusted, claim.margin),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _leaning_p(estimate: Estimate, margin: float | None) -> float:
    """The p-value of the verdict that the value leans to."""
    if margin is None:
        return estimate.p
    within, beyond = equivalence(estimate, margin)
    return within if abs(estimate.value - estimate.null) <= margin else beyond
