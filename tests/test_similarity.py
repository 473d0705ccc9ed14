"""Eq. (2)-(3) and the other similarities of Table 3."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ue.similarity import (
    SIMILARITIES,
    cosine,
    debiased_cka,
    euclidean,
    hsic,
    hsic_debiased,
    is_orthogonal_invariant,
    is_scale_invariant,
    linear_cka,
    manhattan,
    none,
    pearson,
)

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
everything = pytest.mark.parametrize("name", SIMILARITIES)
repelling = pytest.mark.parametrize("name", [name for name in SIMILARITIES if name != "none"])
both_cka = pytest.mark.parametrize("name", ["cka", "debiased-cka"])


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(batch: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two features that have something, not all, in common, off the origin."""
    p = gaussian(batch, d, seed=seed) + 0.5
    return p, 0.7 * p + gaussian(batch, d, seed=seed + 1)


def rotation(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(gaussian(d, d, seed=seed))[0]


def value_and_gradients(name: str, p: torch.Tensor, q: torch.Tensor):
    p, q = p.clone().requires_grad_(True), q.clone().requires_grad_(True)
    value = SIMILARITIES[name](p, q)
    return value.detach(), torch.autograd.grad(value.sum(), (p, q), allow_unused=True)


# --- worked out by hand ---


def test_hsic_by_hand():
    """Eq. (3) for two images: H = [[.5, -.5], [-.5, .5]], so H K H = (k11 - 2 k12 + k22)/4 [1 -1].

    p = (0, 2): K = [[0, 0], [0, 4]], H K H = [[1, -1], [-1, 1]];
    q = (1, 4): L = [[1, 4], [4, 16]]: tr(K H L H) = 1 - 4 - 4 + 16 = 9, divided by (2 - 1)².
    """
    k = torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    other = torch.tensor([[1.0, 4.0], [4.0, 16.0]])
    assert hsic(k, other).item() == pytest.approx(9.0)


def test_hsic_divides_by_the_square_of_one_less_than_the_batch():
    """p = q = (-1, 0, 1) is centred, so tr(K H L H) = ‖Pᵀ Q‖² = 2² = 4, divided by (3 - 1)²."""
    p = torch.tensor([[-1.0], [0.0], [1.0]])
    assert hsic(p @ p.T, p @ p.T).item() == pytest.approx(1.0)


def test_cka_by_hand():
    """Three images. P = (1, 2, 3) is centred (-1, 0, 1). Q = [[1, 0], [0, 0], [0, 1]] is centred
    [[2, -1], [-1, -1], [-1, 2]] / 3. Pᵀ Q = (-3, 3)/3 = (-1, 1), squared norm 2. ‖Pᵀ P‖ = 2.
    Qᵀ Q = [[6, -3], [-3, 6]] / 9, norm sqrt(36 + 9 + 9 + 36) / 9 = sqrt(90) / 9.
    CKA = 2 / (2 · sqrt(90) / 9) = 9 / sqrt(90) = 0.9487.
    """
    p = torch.tensor([[1.0], [2.0], [3.0]])
    q = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert linear_cka(p, q).item() == pytest.approx(9 / math.sqrt(90), rel=1e-6)


def test_debiased_cka_by_hand():
    """Four images, p = (1, -1, 1, -1), q = (1, -1, -1, 1). Off the diagonal K has entries ±1, each
    row -1 + 1 - 1 = -1; L the same. K̃L̃: rows of K̃ are (0 -1 1 -1) ..., of L̃ (0 -1 -1 1) ..., so
    tr = sum of products = 4 · (1 - 1 - 1) = -4. Totals: -4 · -4 / (3 · 2) = 8/3.
    Cross: 2/2 · sum (-1)(-1) = 4. HSIC(K, L) = (-4 + 8/3 - 4) / (4 · 1) = -4/3.
    HSIC(K, K) = (12 + 8/3 - 4) / 4 = 8/3, L the same: CKA = -4/3 / (8/3) = -1/2.
    """
    p = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    q = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]])
    assert hsic_debiased(p @ p.T, q @ q.T).item() == pytest.approx(-4 / 3)
    assert hsic_debiased(p @ p.T, p @ p.T).item() == pytest.approx(8 / 3)
    assert debiased_cka(p, q).item() == pytest.approx(-1 / 2)


def test_image_by_image_similarities_by_hand():
    """Two images of two values: p = (3, 4), (1, 0); q = (4, 3), (0, 2).

    Distances sqrt(2) and sqrt(5) (Euclidean), 2 and 3 (Manhattan); cosines 24/25 and 0;
    with two values Pearson is the sign of slopes: (3, 4) rises, (4, 3) falls: -1; (1, 0) falls,
    (0, 2) rises: -1.
    """
    p = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    q = torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    expected = {
        euclidean: (math.exp(-math.sqrt(2)) + math.exp(-math.sqrt(5))) / 2,
        manhattan: (math.exp(-2) + math.exp(-3)) / 2,
        cosine: (24 / 25 + 0) / 2,
        pearson: -1.0,
        none: 0.0,
    }
    for similarity, value in expected.items():
        assert similarity(p, q).item() == pytest.approx(value, abs=1e-6), similarity.__name__
    # (1, 2, 6) is centred (-2, -1, 3), (0, 3, 3) is (-2, 1, 1): r = 6 / sqrt(14 · 6).
    p, q = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([[0.0, 3.0, 3.0]])
    assert pearson(p, q).item() == pytest.approx(6 / math.sqrt(84), rel=1e-6)


# --- independent implementations ---


def feature_form(p: torch.Tensor, q: torch.Tensor) -> float:
    """Kornblith et al. 2019: ‖PcᵀQc‖² / (‖PcᵀPc‖ ‖QcᵀQc‖), Frobenius norms."""
    p, q = p - p.mean(0), q - q.mean(0)
    return float((p.T @ q).norm() ** 2 / ((p.T @ p).norm() * (q.T @ q).norm()))


def u_statistic(k: torch.Tensor, other: torch.Tensor) -> float:
    """Song et al. 2012: the mean over all quadruples of distinct images (i, j, q, r) of
    k_ij (l_ij + l_qr - 2 l_iq)."""
    terms = [
        float(k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]))
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize(("batch", "d", "e"), [(2, 3, 3), (7, 4, 4), (9, 3, 20), (24, 16, 16)])
def test_cka_is_what_two_other_ways_give(literal_cka, batch, d, e):
    p = gaussian(batch, d) + 1
    q = p @ gaussian(d, e, seed=1) + gaussian(batch, e, seed=2)
    value = linear_cka(p, q).item()
    assert 0 < value <= 1 + 1e-12
    assert value == pytest.approx(float(literal_cka(p, q)), rel=1e-10)
    assert value == pytest.approx(feature_form(p, q), rel=1e-10)


@pytest.mark.parametrize("batch", [4, 5, 7])
def test_debiased_cka_is_the_u_statistic_over_distinct_quadruples(batch):
    p, q = related(batch, 6)
    k, other = p @ p.T, q @ q.T
    hkl, hkk, hll = u_statistic(k, other), u_statistic(k, k), u_statistic(other, other)
    assert hsic_debiased(k, other).item() == pytest.approx(hkl, rel=1e-9)
    assert debiased_cka(p, q).item() == pytest.approx(hkl / math.sqrt(hkk * hll), rel=1e-9)


# --- invariances: Table 3's ticks ---


@given(seeds, scales, scales)
@few
def test_cka_cosine_and_pearson_do_not_see_scale(seed, a, b):
    p, q = related(12, 5, seed)
    for name in ("cka", "debiased-cka", "cosine", "pearson"):
        similarity = SIMILARITIES[name]
        assert similarity(a * p, b * q).item() == pytest.approx(
            similarity(p, q).item(), rel=1e-9
        ), name


@given(seeds, seeds, seeds)
@few
def test_cka_does_not_see_separate_rotations(seed, u, v):
    p, q = related(12, 5, seed)
    rotated = p @ rotation(5, u), q @ rotation(5, v)
    for similarity in (linear_cka, debiased_cka):
        assert similarity(*rotated).item() == pytest.approx(similarity(p, q).item(), rel=1e-9)


@given(seeds, seeds)
@few
def test_cka_does_not_see_a_shift_or_the_order_of_images(seed, order):
    p, q = related(12, 5, seed)
    shifted = p + gaussian(5, seed=seed + 2), q - gaussian(5, seed=seed + 3)
    permuted = torch.randperm(12, generator=torch.Generator().manual_seed(order))
    for similarity in (linear_cka, debiased_cka):
        value = pytest.approx(similarity(p, q).item(), rel=1e-9)
        assert similarity(*shifted).item() == value
        assert similarity(p[permuted], q[permuted]).item() == value
        assert similarity(q, p).item() == value


TICKS = {  # of scaling, of rotation
    "none": (True, True), "euclidean": (False, False), "manhattan": (False, False),
    "cosine": (True, False), "pearson": (True, False), "cka": (True, True),
    "debiased-cka": (True, True),
}  # fmt: skip


@everything
def test_ticks_of_table_3(name):
    similarity = SIMILARITIES[name]
    assert (is_scale_invariant(similarity), is_orthogonal_invariant(similarity)) == TICKS[name]


@given(seeds)
@few
def test_ranges_and_self_similarity(seed):
    p, q = related(10, 6, seed)
    for name, similarity in SIMILARITIES.items():
        own, other = similarity(p, p).item(), similarity(p, q).item()
        assert own == pytest.approx(0.0 if name == "none" else 1.0, abs=1e-12), name
        assert -1 <= other <= 1 + 1e-12 and other <= own
        if name in ("cka", "euclidean", "manhattan"):
            assert other >= 0


# --- shapes, types, gradients ---


def test_features_that_cannot_be_compared_are_refused(refused):
    for name in ("euclidean", "pearson"):
        with refused("3", "11"):
            SIMILARITIES[name](gaussian(8, 3), gaussian(8, 11))
    for one, other in (((8, 3), (7, 3)), ((3,), (3,)), ((2, 8, 3), (2, 6, 3))):
        for similarity in (linear_cka, cosine, none):
            with refused():
                similarity(gaussian(*one), gaussian(*other))
    with refused("4"):
        debiased_cka(gaussian(3, 5), gaussian(3, 5, seed=1))


@everything
def test_leading_axes_are_a_loop(name):
    """Replicas and seniors, [2, 3] against [2, 1]: what training asks for."""
    similarity = SIMILARITIES[name]
    p, q = gaussian(2, 3, 6, 4), gaussian(2, 1, 6, 4, seed=1)
    values = similarity(p, q)
    assert values.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert values[i, j].item() == pytest.approx(similarity(p[i, j], q[i, 0]).item(), rel=1e-12)


@repelling
def test_gradients_by_finite_differences(name):
    p, q = related(6, 4)
    inputs = p.requires_grad_(True), q.requires_grad_(True)
    assert torch.autograd.gradcheck(SIMILARITIES[name], inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


# --- numerics that bite ---

DEGENERATE = {
    "both zero": lambda x: (x * 0, x * 0),
    "one zero": lambda x: (x, x * 0),
    "one image zero": lambda x: (torch.cat([x[:1] * 0, x[1:]]), x),
    "constant over the batch": lambda x: (x, x[:1].expand_as(x)),
    "constant over the features": lambda x: (x, x[:, :1].expand_as(x)),
    "constant, not a binary fraction": lambda x: (x, torch.full_like(x, 0.1)),
    "one feature dead": lambda x: (torch.cat([x[:, :1] * 0, x[:, 1:]], 1), x),
    "identical": lambda x: (x, x.clone()),
    "opposite": lambda x: (x, -x),
    "huge": lambda x: (1e20 * x, 1e20 * x.flip(0)),
    "tiny": lambda x: (1e-20 * x, 1e-20 * x.flip(0)),
    "huge and tiny": lambda x: (1e20 * x, 1e-20 * x.flip(0)),
}


@everything
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_finite(name, case, dtype):
    p, q = DEGENERATE[case](gaussian(8, 5).to(dtype))
    value, gradients = value_and_gradients(name, p, q) if name != "none" else (none(p, q), ())
    assert torch.isfinite(value) and -1 - 1e-5 <= value <= 1 + 1e-5
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", ["cka", "debiased-cka", "cosine", "pearson"])
@pytest.mark.parametrize("case", ["both zero", "one zero"])
def test_a_dead_feature_is_like_nothing_and_is_not_pushed(name, case):
    p, q = DEGENERATE[case](gaussian(8, 5))
    value, (_, gradient) = value_and_gradients(name, p, q)
    assert value == 0 and not gradient.any()


@both_cka
def test_a_feature_constant_over_the_batch_is_like_nothing(name):
    constant = torch.full((64, 5), 0.1)  # no binary fraction: its mean rounds
    value, (_, gradient) = value_and_gradients(name, gaussian(64, 5).float(), constant)
    assert value == 0 and not gradient.any()


@both_cka
def test_a_large_common_mean_leaves_float32_its_digits(name):
    p, q = related(64, 16)
    p, q = p + 1e3, q + 1e3
    exact = SIMILARITIES[name](p, q).item()
    assert SIMILARITIES[name](p.float(), q.float()).item() == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("d", "biased"), [(16, 0.20), (1024, 0.94)])
def test_bias_of_cka_at_batch_64(d, biased):
    """method.md: independent Gaussian features, so debiased is about 0 and biased far from it."""
    p, q = gaussian(20, 64, d), gaussian(20, 64, d, seed=1)
    assert linear_cka(p, q).mean().item() == pytest.approx(biased, abs=0.01)
    assert debiased_cka(p, q).mean().item() == pytest.approx(0.0, abs=0.01)


@everything
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_raised_to_float32(name, dtype):
    p, q = (x.to(dtype) for x in related(16, 8))
    value = SIMILARITIES[name](p, q)
    assert value.dtype == torch.float32
    assert value == SIMILARITIES[name](p.float(), q.float())
