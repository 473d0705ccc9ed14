"""Verdicts on families of claims: p-values adjusted for their number, and what each one decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from d2ue.errors import InputError
from d2ue.statistics.significance import ROUNDING, SEEDS_FOR_VARIANCE, Estimate, upper_tail

#: The chance of a wrong verdict in a family of claims.
ALPHA = 0.05

Verdict = Literal["holds", "does not hold", "no effect", "cannot tell"]

#: More seeds than this are not counted on.
MOST_SEEDS = 1000

#: Columns of `judge`.
COLUMNS = [
    *("claim", "difference", "low", "high", "p", "p_holm", "p_no_effect", "n_seeds", "sources"),
    *("independence", "per_seed", "verdict", "seeds_needed"),
]


@dataclass(frozen=True)
class Claim:
    """A sentence and the estimate it is about.

    Attributes:
        text: the sentence.
        estimate: what was measured.
        margin: None claims that the value is above its null; a number above 0, in the estimate's
            unit, that it keeps within so much of it.
        negligible: for a claim without margin, in the same unit: a value that is shown to keep
            within so much of its null is no effect. None = such a verdict is not given.

    Raises:
        InputError: if the margin or what is negligible is no number above 0.
    """

    text: str
    estimate: Estimate
    margin: float | None = None
    negligible: float | None = None

    def __post_init__(self) -> None:
        for margin in (self.margin, self.negligible):
            if margin is not None and not 0 < margin < math.inf:
                raise InputError(f"A margin is a number above 0, not {margin}.")


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
    "does not hold" counts in the family too. What is still undecided is then tested for keeping
    within what is negligible; these tests are a family of their own.

    Returns:
        One row a claim, in order: claim, difference, low, high (in the estimate's unit), p,
        p_holm, p_no_effect (of `equivalence` with what is negligible, adjusted; NaN without),
        n_seeds, sources, independence (as `Estimate` has them), per_seed (text, the value of each
        seed), verdict, seeds_needed (by `seeds_to_decide`; NaN where the claim is decided).
    """
    p = [_leaning_p(claim.estimate, claim.margin) for claim in claims]
    tested = [c for c in claims if c.negligible is not None]
    small = holm([equivalence(c.estimate, c.negligible)[0] for c in tested if c.negligible])
    no_effect = dict(zip(map(id, tested), small, strict=True))
    rows = []
    for claim, raw, adjusted in zip(claims, p, holm(p), strict=True):
        estimate = claim.estimate
        decided = verdict(estimate, adjusted, claim.margin)
        p_no_effect = no_effect.get(id(claim), math.nan)
        if decided == "cannot tell" and claim.negligible is not None:
            keeps = verdict(estimate, p_no_effect, claim.negligible)
            decided = "no effect" if keeps == "holds" else decided
        undecided = decided == "cannot tell"
        rows.append(
            {
                "claim": claim.text,
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": raw,
                "p_holm": adjusted,
                "p_no_effect": p_no_effect,
                "n_seeds": estimate.n_seeds,
                "sources": estimate.sources,
                "independence": estimate.independence,
                "per_seed": " ".join(f"{value:+.4f}" for value in estimate.per_seed),
                "verdict": decided,
                "seeds_needed": seeds_to_decide(claim) if undecided else math.nan,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def seeds_to_decide(claim: Claim) -> float:
    """About how many seeds would decide a claim, if value and spread stayed what they are.

    That many make the 95 % interval end short of the null (of the margin, where there is one), or
    keep within what is negligible. A guess for planning: neither the family's adjustment nor the
    estimate's own error is in it.

    Returns:
        At least 5, and more than there are; infinite where the images alone are too few, or more
        than `MOST_SEEDS` would be needed; NaN with one seed, whose spread nobody knows.
    """
    estimate = claim.estimate
    if estimate.n_seeds < 2:
        return math.nan
    of_seeds = float(np.var(estimate.per_seed, ddof=1))
    of_images = estimate.se**2 - (of_seeds / estimate.n_seeds if estimate.seeds_vary else 0.0)
    size = abs(estimate.value - estimate.null)
    # How far the value lies from each end that would decide it, and the tails that are tested.
    if claim.margin is not None:
        ends = [(abs(claim.margin - size), 2 if size > claim.margin else 1)]
    else:
        ends = [(size, 2)]
        ends += [(claim.negligible - size, 1)] if claim.negligible else []
    for n in range(max(SEEDS_FOR_VARIANCE, estimate.n_seeds + 1), MOST_SEEDS + 1):
        se = max(math.sqrt(max(0.0, of_images) + of_seeds / n), ROUNDING)
        if any(tails * upper_tail(distance / se, n - 1) < ALPHA for distance, tails in ends):
            return float(n)
    return math.inf


def _leaning_p(estimate: Estimate, margin: float | None) -> float:
    """The p-value of the verdict that the value leans to."""
    if margin is None:
        return estimate.p
    within, beyond = equivalence(estimate, margin)
    return within if abs(estimate.value - estimate.null) <= margin else beyond
