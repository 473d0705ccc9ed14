r"""How alike two learners' features are: Eq. (2)-(3) and the other metrics of Table 3.

Every metric takes the features of one batch from two learners, `p` and `q`, of shape
[..., B, d]: B images, d values an image, any leading axes (replicas, seniors), which
broadcast. It returns a tensor of the leading shape. **Higher means more alike**; training
minimises it.

Values and gradients are finite wherever the features are: a norm of zero (a dead feature, a
constant batch) gives similarity 0 and gradient 0. Features of another floating type than
float32 or float64 are raised to float32 first.

| name | formula, per batch | range |
|---|---|---|
| none | 0 | 0 |
| euclidean | mean_b exp(-‖p_b - q_b‖₂) | (0, 1] |
| manhattan | mean_b exp(-‖p_b - q_b‖₁) | (0, 1] |
| cosine | mean_b p_b·q_b / (‖p_b‖ ‖q_b‖) | [-1, 1] |
| pearson | cosine of p_b and q_b, each centred over its d values | [-1, 1] |
| cka | Eq. (2) | [0, 1] |
| debiased-cka | Eq. (2) with the unbiased HSIC | [-1, 1] |

Source of Eq. (2)-(3): Gu et al., MICCAI 2024, Section 2. Neither paper nor released code
defines the other four of Table 3 beyond their names and "exp(-distance)": taking them image
by image, then the mean over the batch, is our reading. (A distance summed over the whole
batch underflows in exp(-distance) and leaves no gradient.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d2ue.errors import InputError

Similarity = Callable[[Tensor, Tensor], Tensor]


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - K and L are the paper's symbols
    r"""Eq. (3): the Hilbert-Schmidt independence criterion of two Gram matrices.

    HSIC(K, L) = tr(K H L H) / (r - 1)², with H = I - 11ᵀ/B. The paper calls r a rank; it is the
    number of images B (Gretton et al. 2005), and it cancels in Eq. (2).

    Args:
        k: Gram matrix K = P Pᵀ, shape [..., B, B], B >= 2.
        l: Gram matrix L = Q Qᵀ, shape [..., B, B].

    Returns:
        Shape [...], >= 0; 0 when either feature is constant over the batch.
    """
    batch = k.shape[-1]
    # tr(K H L H) = sum of (H K H) * L elementwise, because H is symmetric.
    hkh = k - k.mean(-1, keepdim=True) - k.mean(-2, keepdim=True) + k.mean((-1, -2), keepdim=True)
    return (hkh * l).sum((-1, -2)) / (batch - 1) ** 2


def hsic_debiased(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    r"""The unbiased estimator of HSIC (Song et al. 2012, Eq. 5), for `debiased_cka`.

    With K̃ and L̃ the Gram matrices without their diagonals,
    [tr(K̃ L̃) + 1ᵀK̃1 · 1ᵀL̃1 / ((B-1)(B-2)) - 2/(B-2) · 1ᵀK̃L̃1] / (B(B-3)).

    Args:
        k: Gram matrix, shape [..., B, B], B >= 4.
        l: Gram matrix, shape [..., B, B].

    Returns:
        Shape [...], of either sign: 0 on average for independent features.

    Raises:
        InputError: if B < 4, where the estimator does not exist.
    """
    batch = k.shape[-1]
    if batch < 4:
        raise InputError(f"Debiased CKA needs at least 4 images a batch, not {batch}.")
    off_diagonal = 1 - torch.eye(batch, dtype=k.dtype, device=k.device)
    k, l = k * off_diagonal, l * off_diagonal  # noqa: E741
    k_rows, l_rows = k.sum(-1), l.sum(-1)
    trace = (k * l).sum((-1, -2))
    totals = k_rows.sum(-1) * l_rows.sum(-1) / ((batch - 1) * (batch - 2))
    cross = 2 / (batch - 2) * (k_rows * l_rows).sum(-1)
    return (trace + totals - cross) / (batch * (batch - 3))


def linear_cka(p: Tensor, q: Tensor) -> Tensor:
    r"""Eq. (2): linear centred kernel alignment, CKA(P, Q) = HSIC(K,L) / √(HSIC(K,K) HSIC(L,L)).

    Invariant to isotropic scaling and to orthogonal transformation of either feature. Biased:
    independent Gaussian features at B = 64 give about 0.20 for d = 16 and 0.94 for d = 1024.

    Args:
        p: Features P of one learner, shape [..., B, d], B >= 2.
        q: Features Q of another, shape [..., B, d'] (d' may differ from d).

    Returns:
        Shape [...], in [0, 1], higher = more alike; 0 where a feature is constant over the batch.

    Raises:
        InputError: if the batches differ in length.
    """
    return _alignment(p, q, hsic)


def debiased_cka(p: Tensor, q: Tensor) -> Tensor:
    """Eq. (2) with the unbiased HSIC of Song et al. (2012): about 0 for independent features.

    HSIC(K, K) in this estimator is a sum of squares of the U-centred Gram matrix, so it is never
    negative beyond rounding; where it is not positive the result is 0.

    Args:
        p: Features P of one learner, shape [..., B, d], B >= 4.
        q: Features Q of another, shape [..., B, d'] (d' may differ from d).

    Returns:
        Shape [...], in [-1, 1], higher = more alike.

    Raises:
        InputError: if the batches differ in length or B < 4.
    """
    return _alignment(p, q, hsic_debiased)


def cosine(p: Tensor, q: Tensor) -> Tensor:
    """Cosine of the angle between two features of an image, mean over the batch; in [-1, 1].

    Raises:
        InputError: if the features differ in shape.
    """
    p, q = _same_shape(p, q)
    return (_direction(p) * _direction(q)).sum(-1).mean(-1)


def pearson(p: Tensor, q: Tensor) -> Tensor:
    """Pearson's r of two features of an image over their d values, mean over the batch; [-1, 1].

    Raises:
        InputError: if the features differ in shape.
    """
    p, q = _same_shape(p, q)
    return (_direction(_centred(p, -1)) * _direction(_centred(q, -1))).sum(-1).mean(-1)


def euclidean(p: Tensor, q: Tensor) -> Tensor:
    """exp(-Euclidean distance) of two features of an image, mean over the batch; in (0, 1].

    Raises:
        InputError: if the features differ in shape.
    """
    p, q = _same_shape(p, q)
    difference = p - q
    scale = _scale(difference, -1)  # keeps the squares of large and of tiny distances finite
    distance = scale.squeeze(-1) * _sqrt((difference / scale).square().sum(-1))
    return distance.neg().exp().mean(-1)


def manhattan(p: Tensor, q: Tensor) -> Tensor:
    """exp(-Manhattan distance) of two features of an image, mean over the batch; in (0, 1].

    Raises:
        InputError: if the features differ in shape.
    """
    p, q = _same_shape(p, q)
    return (p - q).abs().sum(-1).neg().exp().mean(-1)


def none(p: Tensor, q: Tensor) -> Tensor:
    """No repulsion: 0 whatever the features, and no gradient."""
    p, q = _checked(p, q)
    leading = torch.broadcast_shapes(p.shape[:-2], q.shape[:-2])
    return q.new_zeros(leading)


#: Every similarity of Table 3 (and debiased CKA) by the name that options use.
SIMILARITIES: dict[str, Similarity] = {
    "none": none,
    "euclidean": euclidean,
    "manhattan": manhattan,
    "cosine": cosine,
    "pearson": pearson,
    "cka": linear_cka,
    "debiased-cka": debiased_cka,
}


def is_scale_invariant(similarity: Similarity, *, seed: int = 0) -> bool:
    """Whether S(P, Q) = S(aP, bQ) for a, b > 0: the first row of ticks of Table 3, computed."""
    p, q = _random_features(seed)
    changed = [similarity(a * p, b * q) for a, b in ((2.0, 1.0), (1e-3, 1e3), (7.0, 0.1))]
    return all(torch.allclose(similarity(p, q), c, rtol=1e-6, atol=1e-9) for c in changed)


def is_orthogonal_invariant(similarity: Similarity, *, seed: int = 0) -> bool:
    """Whether S(P, Q) = S(PU, QV) for orthogonal U and V: the second row of ticks of Table 3."""
    p, q = _random_features(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    d = p.shape[-1]
    u, v = (
        torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=p.dtype))[0] for _ in range(2)
    )
    return torch.allclose(similarity(p, q), similarity(p @ u, q @ v), rtol=1e-6, atol=1e-9)


def _alignment(p: Tensor, q: Tensor, hsic_: Similarity) -> Tensor:
    """Eq. (2) with the given estimator of Eq. (3)."""
    p, q = _checked(p, q)
    p, q = _standardised(p), _standardised(q)
    k, l = p @ p.mT, q @ q.mT  # noqa: E741
    norms = _sqrt(hsic_(k, k)) * _sqrt(hsic_(l, l))
    positive = norms > 0
    # The safe denominator goes in first: where() alone would leave a NaN in the gradient.
    return torch.where(positive, hsic_(k, l) / torch.where(positive, norms, 1.0), 0.0)


def _standardised(x: Tensor) -> Tensor:
    """Features centred over the batch and brought to a largest value of 1; shape kept.

    Centring before the Gram keeps the digits that a large common mean would eat. The scale is
    taken out as a constant: CKA does not change under it, so neither does its gradient, and
    features of any magnitude stay clear of underflow without an epsilon that would break the
    invariance to scaling.
    """
    centred = _centred(x, -2)
    return centred / _scale(centred, (-1, -2))


def _centred(x: Tensor, dim: int) -> Tensor:
    """`x` minus its mean over `dim`; exactly zero where all that is left is rounding."""
    centred = x - x.mean(dim, keepdim=True)
    rounding = 8 * torch.finfo(x.dtype).eps * x.detach().abs().amax(dim, keepdim=True)
    constant = centred.detach().abs().amax(dim, keepdim=True) <= rounding
    return torch.where(constant, 0.0, centred)


def _direction(x: Tensor) -> Tensor:
    """`x` divided by its Euclidean norm over the last axis; 0 where the norm is 0."""
    x = x / _scale(x, -1)
    norm = _sqrt(x.square().sum(-1, keepdim=True))
    positive = norm > 0
    return torch.where(positive, x / torch.where(positive, norm, 1.0), 0.0)


def _scale(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Largest absolute value over `dim` (axes kept), without gradient; 1 where it is 0."""
    largest = x.detach().abs().amax(dim, keepdim=True)
    return torch.where(largest > 0, largest, 1.0)


def _sqrt(x: Tensor) -> Tensor:
    """Square root with value 0 and gradient 0 where `x` is not positive."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _checked(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Both features as matrices of one batch, in float32 or float64."""
    if p.ndim < 2 or q.ndim < 2 or p.shape[-2] != q.shape[-2]:
        raise InputError(
            "A similarity compares features [..., B, d] of the same B images, "
            f"not of shapes {tuple(p.shape)} and {tuple(q.shape)}."
        )
    dtype = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    return p.to(dtype), q.to(dtype)


def _same_shape(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Both features checked, and of one width."""
    if p.shape[-1:] != q.shape[-1:]:
        raise InputError(
            "Only CKA compares features of different widths; "
            f"these have {p.shape[-1]} and {q.shape[-1]} values an image."
        )
    return _checked(p, q)


def _random_features(seed: int) -> tuple[Tensor, Tensor]:
    """Two related float64 features (32, 5), off the origin, as a trained network's are."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(32, 5, generator=generator, dtype=torch.float64) + 0.3
    q = 0.5 * p + torch.randn(32, 5, generator=generator, dtype=torch.float64)
    return p, q
