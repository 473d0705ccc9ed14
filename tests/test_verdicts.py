"""Families of claims: adjusted p-values, equivalence, and what each verdict takes."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from d2ue.statistics.significance import Estimate
from d2ue.statistics.verdicts import (
    COLUMNS,
    Claim,
    equivalence,
    holm,
    judge,
    seeds_to_decide,
    verdict,
)


def an_estimate(value=0.1, se=0.03, per_seed=None, df=math.inf):
    """An estimate of that value, five seeds alike unless given."""
    per_seed = tuple(per_seed or [value] * 5)
    half = se * stats.t.ppf(0.975, df)
    p = 2 * stats.t.sf(abs(value) / se, df)
    return Estimate(
        value, value - half, value + half, se, p, len(per_seed), 100, len(per_seed) >= 5, per_seed,
        df, 0.0,
    )  # fmt: skip


def test_holm_by_hand():
    """Sorted 0.005 · 4 = 0.02, 0.01 · 3 = 0.03, 0.03 · 2 = 0.06, 0.04 · 1 raised to 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9, 0.5]) == [1, 1, 1]
    assert holm([0.02]) == [0.02] and holm([]) == []
    assert holm([0.01, 0.01]) == [0.02, 0.02]


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_what_its_steps_reject(p):
    """Step down: compare the k-th smallest with alpha / (m - k + 1) until one is not below."""
    adjusted = holm(p)
    assert all(a >= x and a <= 1 for a, x in zip(adjusted, p, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
    for alpha in (0.013, 0.05, 0.3):
        rejected = set()
        for k, i in enumerate(order):
            if p[i] * (len(p) - k) >= alpha:
                break
            rejected.add(i)
        assert {i for i, a in enumerate(adjusted) if a < alpha} == rejected


@pytest.mark.parametrize(
    ("per_seed", "p", "expected"),
    [
        ([0.1] * 5, 0.049, "holds"),
        ([0.1] * 5, 0.05, "cannot tell"),
        ([-0.1] * 5, 0.049, "does not hold"),
        # From five seeds on their spread is in p, and one may stray.
        ([0.2, 0.2, 0.2, 0.2, -0.1], 0.01, "holds"),
        # Below, none may.
        ([0.2, 0.2, 0.2, 0.2], 0.01, "holds"),
        ([0.2, 0.2, 0.2, -0.1], 0.01, "cannot tell"),
        ([0.2, 0.0], 0.01, "cannot tell"),
        ([-0.2, -0.2, -0.1], 0.01, "does not hold"),
        ([0.2], 0.01, "holds"),
        ([0.0], 0.01, "cannot tell"),
    ],
)
def test_verdicts(per_seed, p, expected):
    assert verdict(an_estimate(np.mean(per_seed), per_seed=per_seed), p) == expected


def test_verdicts_are_of_the_null():
    """An AUC of 0.4 is positive and yet worse than chance; one of 0.52 is within 0.1 of it."""
    area = dataclasses.replace(an_estimate(0.4), null=0.5)
    assert verdict(area, 0.01) == "does not hold"
    for value, expected in ((0.52, "holds"), (0.05, "does not hold")):
        area = dataclasses.replace(an_estimate(value, 0.02), null=0.5)
        assert keeps(area) == expected


def keeps(estimate):
    """The verdict on keeping within 0.1."""
    return judge([Claim("keeps", estimate, 0.1)]).verdict.item()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # se 0.02, normal: within a margin of 0.1 below 0.1 - 1.645 · 0.02 = 0.0671; beyond it
        # above 0.1 + 1.960 · 0.02 = 0.1392.
        (0.0, "holds"),
        (0.067, "holds"),
        (0.0672, "cannot tell"),
        (0.1, "cannot tell"),
        (0.1390, "cannot tell"),
        (0.1393, "does not hold"),
    ],
)
def test_equivalence(value, expected, sign):
    estimate = an_estimate(sign * value, 0.02)
    assert keeps(estimate) == expected
    within, outside = equivalence(estimate, 0.1)
    upper = stats.norm.sf((0.1 - estimate.value) / 0.02)
    lower = stats.norm.sf((estimate.value + 0.1) / 0.02)
    assert within == pytest.approx(max(upper, lower), abs=1e-12)
    beyond = estimate.low > 0.1 or estimate.high < -0.1
    assert (outside < 0.05) == beyond == (expected == "does not hold")


def test_equivalence_takes_every_seed_below_five():
    stray = [0.0, 0.0, 0.0, 0.12]
    assert keeps(an_estimate(0.03, 0.01, stray)) == "cannot tell"
    assert keeps(an_estimate(0.024, 0.01, [*stray, 0.0])) == "holds"
    assert keeps(an_estimate(0.03, 0.01, [0.0, 0.0, 0.09])) == "holds"
    assert keeps(an_estimate(0.2, 0.01, [0.3, 0.2, 0.11])) == "does not hold"
    for low in (0.09, -0.3):  # one seed within, or beyond the other end
        assert keeps(an_estimate(0.2, 0.01, [0.3, 0.3, low])) == "cannot tell"


def test_equivalence_uses_the_degrees_of_freedom():
    assert equivalence(an_estimate(0.06, 0.02, df=3), 0.1)[0] == pytest.approx(stats.t.sf(2, 3))


def test_equivalence_of_what_does_not_vary():
    def of(value: float) -> tuple:
        point = Estimate(value, value, value, 0.0, 0.0, 5, 10, True, (value,) * 5)
        return *equivalence(point, 0.1), keeps(point)

    assert of(0.0) == of(0.1) == of(-0.1) == (0, 1, "holds")
    assert of(0.11) == of(-0.11) == (1, 0, "does not hold")


def test_a_family_is_judged_together():
    """p = 0.03 holds alone; as one of the two larger of three it is doubled, and does not."""
    clear = an_estimate(0.2, 0.02)
    weak = an_estimate(0.0651, 0.03)  # z = 2.17, p = 0.030
    alone = judge([Claim("weak", weak)])
    assert alone.verdict.tolist() == ["holds"]
    frame = judge([Claim("weak", weak), Claim("clear", clear), Claim("also weak", weak)])
    assert list(frame.columns) == COLUMNS
    assert frame.claim.tolist() == ["weak", "clear", "also weak"]
    assert frame.verdict.tolist() == ["cannot tell", "holds", "cannot tell"]
    assert frame.p_holm[0] == pytest.approx(2 * weak.p) and frame.p[0] == weak.p
    row = frame.iloc[1]
    assert (row.difference, row.low, row.high) == (clear.value, clear.low, clear.high)
    assert (row.n_seeds, row.sources) == (5, "images and seeds")
    assert row.per_seed == "+0.2000 +0.2000 +0.2000 +0.2000 +0.2000"
    assert len(judge([])) == 0 and list(judge([]).columns) == COLUMNS


def test_claims_of_keeping_are_judged_both_ways():
    """se 0.02, margin 0.1: at 0.06 p = P(Z > 2) = 0.0228; at 0.146 beyond by 2.3: 2 · 0.0107."""
    inside, outside = an_estimate(0.06, 0.02), an_estimate(0.146, 0.02)
    for estimate, p, alone in (
        (inside, 0.02275, "holds"),
        (outside, 2 * 0.010724, "does not hold"),
    ):
        claim = Claim("keeps", estimate, 0.1)
        frame = judge([claim])
        assert frame.p[0] == pytest.approx(p, abs=1e-5) and frame.verdict[0] == alone
        # Holm within the family takes either verdict back.
        assert judge([claim] * 3).verdict.tolist() == ["cannot tell"] * 3
    # Not significantly different from 0 is no equivalence, and different from 0 no difference.
    noisy = an_estimate(0.0, 0.2)
    assert judge([Claim("keeps", noisy, 0.1)]).verdict[0] == "cannot tell"
    small = an_estimate(0.05, 0.001)
    frame = judge([Claim("keeps", small, 0.1), Claim("raises", small)])
    assert frame.verdict.tolist() == ["holds", "holds"]


def test_claims_without_meaning(refused):
    for margin in (0, -0.1, math.nan):
        with refused("margin"):
            Claim("keeps", an_estimate(), margin)
    for p in ([0.5, -0.1], [float("nan")], [[0.5]]):
        with refused("p-values"):
            holm(p)


def above(value, se=0.004, per_seed=None):
    """A claim of a higher AUC, to which 0.02 is nothing."""
    return Claim("above", an_estimate(value, se, per_seed, df=50), negligible=0.02)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.015, "holds"),  # decided is decided, however small
        (-0.015, "does not hold"),
        (0.002, "no effect"),
        # t(50): within 0.02 below 0.02 - 1.676 · 0.004 = 0.0133, above 0 beyond 2.009 · 0.004.
        (0.0, "no effect"),
    ],
)
def test_no_effect_is_shown(value, expected):
    assert judge([above(value)]).verdict.item() == expected
    assert judge([above(value, se=0.02)]).verdict.item() == "cannot tell"
    strays = [value, value, value + 0.03, value - 0.03]  # under five seeds each must keep within
    assert judge([above(value, 0.004, strays)]).verdict.item() == "cannot tell"


def test_no_effect_is_a_family_of_its_own():
    """Holm's over the claims to which something is negligible: 0.03 alone is enough, twice not."""
    # The p-value of keeping within 0.02: t(50) tail of 1.92 is 0.0303.
    claim = above(0.02 - 1.92 * 0.01, 0.01)
    directed = Claim("keeps", an_estimate(0.0, 0.01), 0.1)
    one, two = judge([claim, directed]), judge([claim, above(0.02 - 1.92 * 0.01, 0.01)])
    assert one.p_no_effect[0] == pytest.approx(stats.t.sf(1.92, 50))
    assert one.verdict.tolist() == ["no effect", "holds"] and np.isnan(one.p_no_effect[1])
    assert two.p_no_effect.tolist() == pytest.approx([2 * stats.t.sf(1.92, 50)] * 2)
    assert two.verdict.tolist() == ["cannot tell"] * 2


def test_how_many_seeds_would_decide():
    """The first n with 2 P(T(n - 1) > 0.03 / sqrt(0.005² + s² / n)) < 0.05, by trying."""
    per_seed = [0.0, 0.03, 0.06]
    claim = Claim("above", an_estimate(0.03, 0.005, per_seed))
    s = np.std(per_seed, ddof=1)
    tried = [2 * stats.t.sf(0.03 / math.hypot(0.005, s / n**0.5), n - 1) for n in range(5, 20)]
    assert seeds_to_decide(claim) == 5 + next(i for i, p in enumerate(tried) if p < 0.05) == 8
    # With their spread in se already, the images' part is what is left of it.
    several = [0.0, 0.03, 0.06, 0.0, 0.06]
    whole = math.hypot(0.005, np.std(several, ddof=1) / 5**0.5)
    assert seeds_to_decide(Claim("above", an_estimate(0.03, whole, several))) == 8
    assert seeds_to_decide(Claim("above", an_estimate(0.03, 0.02, per_seed))) == math.inf
    assert math.isnan(seeds_to_decide(Claim("above", an_estimate(0.03, 0.005, [0.03]))))
    # So small a value is not above 0 with any number, but shown to be nothing with a few.
    nothing = dataclasses.replace(claim, estimate=an_estimate(0.0, 0.002, [-0.01, 0.0, 0.01]))
    assert seeds_to_decide(nothing) == math.inf
    assert seeds_to_decide(dataclasses.replace(nothing, negligible=0.02)) == 5
    keeps = Claim("keeps", an_estimate(0.02, 0.005, per_seed), 0.05)
    assert 5 < seeds_to_decide(keeps) < 20
    assert judge([claim, above(0.5)]).seeds_needed.isna().tolist() == [False, True]
    assert judge([above(0.03, 0.02, per_seed)]).seeds_needed.item() == math.inf
