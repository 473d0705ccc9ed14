"""Checks for the exercises in notebooks/07_exercises: is the answer right, and if not, what is off?

Every check takes what a student wrote, tries it on random numbers beside the module's own function
or a value worked out another way, and answers in one sentence. Where a wrong answer is a known
mistake, the sentence names it. Nothing here shows a solution: they are in 08_solutions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2ue import plain
from d2ue.similarity import linear_cka
from d2ue.uncertainty import output_map

NOT_DONE = "Not done yet."
RIGHT = "Right."

Function = Callable[..., Any]

#: The exercises' checks, in the notebook's order.
CHECKS: dict[str, Callable[[Function], str]] = {}


class _Wrong(Exception):
    """An answer that is not right; the text says why."""


def _check(judge: Callable[[Function], None]) -> Callable[[Function], str]:
    """What `judge` raises, or that the answer is right, as a sentence."""

    @functools.wraps(judge)
    def check(answer: Function) -> str:
        try:
            judge(answer)
        except _Wrong as wrong:
            return str(wrong)
        return RIGHT

    CHECKS[judge.__name__.removeprefix("check_")] = check
    return check


def _try(answer: Function, *arguments: object) -> Any:
    """What the student's function gives."""
    try:
        value = answer(*arguments)
    except Exception as error:  # whatever a student's code may raise is an answer to comment on
        raise _Wrong(f"Your function stops with {type(error).__name__}: {error}") from error
    if value is None or value is Ellipsis:
        raise _Wrong(NOT_DONE)
    return value


def _try_number(answer: Function, *arguments: object, else_say: str) -> float:
    """The same for functions that give one number."""
    value = _try(answer, *arguments)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise _Wrong(else_say) from None


def _compare(value: Any, right: Any, mistakes: list[tuple[Any, str]], otherwise: str) -> None:
    """Refuse a value that is not of the right shape and numbers, by the mistake that gives it."""
    if not _close(value, right):
        known = (words for wrong, words in mistakes if _close(value, wrong))
        raise _Wrong(f"Not yet: {next(known, otherwise)}")


def _close(value: Any, expected: Any) -> bool:
    try:
        given = torch.as_tensor(value).detach().double()
    except (TypeError, ValueError, RuntimeError):
        return False
    expected = torch.as_tensor(expected).double()
    return given.shape == expected.shape and torch.allclose(given, expected, 1e-6, 1e-12)


def _normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _features(seed: int, batch: int = 12, width: int = 5) -> tuple[Tensor, Tensor]:
    """Two related features of a batch, with means far from 0, so that centring matters."""
    p, noise, mixer = _normal(seed, 2 * batch + width, width).split([batch, batch, width])
    return p + 2, p @ mixer + noise - 3


@_check
def check_cka(answer: Function) -> None:
    """Exercise 1: `answer(p, q)` is linear CKA, Eq. (2)-(3), of features [B, d]; a number."""
    for seed in range(3):
        p, q = _features(seed)
        what = "CKA is one number; your function gives something else."
        number, right = _try_number(answer, p, q, else_say=what), linear_cka(p, q)
        k, m = p @ p.T, q @ q.T
        uncentred = (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()
        p, q = p - p.mean(0), q - q.mean(0)
        hsic = (p @ p.T * (q @ q.T)).sum()
        unfinished = "that is HSIC(K, L); Eq. 2 divides it by something."
        mistakes = [
            (uncentred, "the Gram matrices are not centred (the H in Eq. 3)."),
            (right**2, "that is CKA squared."),
            (1.0, "that compares a feature with itself."),
            (hsic, unfinished),
            (hsic / (len(p) - 1) ** 2, unfinished),
        ]
        otherwise = f"for one pair of features it gives {number:.4f}, and CKA is {right:.4f}."
        _compare(number, right, mistakes, otherwise)


@_check
def check_transformation(answer: Function) -> None:
    """Exercise 2: `answer(p)` is (same, other): both are invertible linear maps of the features.

    CKA must not tell `same` from p (though it is no multiple of p), and must tell `other` from it.
    """
    p, _ = _features(0, batch=40)
    p = p * torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25])  # directions of unequal size, as features have
    value = _try(answer, p)
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise _Wrong("Give two features: (same, other).")
    if any(x is None or x is Ellipsis for x in value):
        raise _Wrong(NOT_DONE)
    for name, feature in zip(("same", "other"), value, strict=True):
        if not isinstance(feature, Tensor) or feature.shape != p.shape:
            raise _Wrong(f"{name} must be a tensor of the shape of p, {tuple(p.shape)}.")
        matrix = torch.linalg.lstsq(p, feature.double()).solution
        fits = torch.allclose(p @ matrix, feature.double(), rtol=1e-6, atol=1e-6)
        if not fits or torch.linalg.matrix_rank(matrix) < p.shape[1]:
            raise _Wrong(f"{name} must be p @ A with an invertible matrix A.")
    same, other = (x.double() for x in value)
    ratio = (same * p).sum() / (p * p).sum()
    if torch.allclose(same, ratio * p):
        raise _Wrong(
            "same is a multiple of p: find a transformation that changes more than the scale."
        )
    if (cka := float(linear_cka(p, same))) < 1 - 1e-6:
        raise _Wrong(f"CKA(p, same) is {cka:.4f}: it tells them apart.")
    if (cka := float(linear_cka(p, other))) > 0.9:
        raise _Wrong(f"CKA(p, other) is {cka:.4f}: bring it below 0.9.")


@_check
def check_bias(answer: Function) -> None:
    """Exercise 3: `answer(batch, width)` is what biased linear CKA gives independent features.

    Judged by simulation: within 10 % of the mean over 30 draws, for four batches and widths.
    """
    for batch, width in ((64, 16), (64, 256), (16, 64), (256, 16)):
        what = "Give one number for a batch and a width."
        number = _try_number(answer, batch, width, else_say=what)
        mean = float(linear_cka(*_normal(batch * width, 2, 30, batch, width)).mean())
        if not abs(number / mean - 1) <= 0.1:  # asked this way round, NaN is no answer either
            raise _Wrong(
                f"Not yet: independent features of width {width} in batches of {batch} have a CKA "
                f"of {mean:.3f} on average; your formula says {number:.3f}."
            )


@_check
def check_uncertainty(answer: Function) -> None:
    """Exercise 4: `answer(f)` is Eq. (5) for reconstructions [N, B, 1, H, W]: [B, 1, H, W]."""
    for n in (2, 3, 5):
        f = _normal(n, n, 4, 1, 3, 3)
        right = output_map(f)
        mistakes = [
            (right * ((n - 1) / n) ** 0.5, "divide by N - 1 (Bessel), not by N."),
            (right.square(), "that is the variance; D is the standard deviation."),
        ]
        otherwise = "for some reconstructions it is not their deviation over the learners."
        _compare(_try(answer, f), right, mistakes, otherwise)


@_check
def check_dual(answer: Function) -> None:
    """Exercise 5: `answer(learners, x)` is Eq. (6), L_i each image's mean absolute error.

    Learners are functions from [B, 1, H, W] to [B, 1, H, W].
    """
    mixers, x = _normal(0, 3, 16, 16) / 4, _normal(1, 2, 1, 4, 4)

    def learner(a: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.tanh(x.flatten(1) @ a).view(x.shape)

    learners = [learner(a) for a in mixers]
    value = _try(answer, learners, x.clone())
    products, gradients = [], []
    for a, f in zip(mixers, learners, strict=True):
        # By hand: d|f - x|/dx = Jᵀ sign(f - x) - sign(f - x), with f = tanh(x A).
        out = f(x)
        sign = (out - x).sign().flatten(1)
        slope = 1 - out.flatten(1).square()
        gradients.append(((sign * slope) @ a.T - sign).view(x.shape) / 16)
        products.append(gradients[-1] * (out - x).abs())
    right = torch.stack(products).std(0)
    mistakes = [
        (right / len(x), "your gradient is of the mean over the batch; each image has its own L."),
        (right * 16, "L is the mean over an image's pixels, not their sum."),
        (
            torch.stack(gradients).std(0),
            "the error |f(x) - x| is missing: that is the input space alone.",
        ),
        (torch.stack(products).abs().std(0), "the gradient keeps its sign."),
    ]
    _compare(value, right, mistakes, "for three small learners the map is another one.")


@_check
def check_l1_gradient(answer: Function) -> None:
    """Exercise 6: `answer(w, x)` is grad_x of mean |w x - x| for one linear learner; [d]."""
    for d in (3, 8):
        w, x = _normal(d, d + 1, d).split([d, 1])
        x = x[0]
        point = x.clone().requires_grad_()
        (right,) = torch.autograd.grad((w @ point - point).abs().mean(), point)
        sign = (w @ x - x).sign()
        mistakes = [
            (w.T @ sign / d, "x stands in the error twice, in f(x) and by itself."),
            (right * d, "the error is a mean over d pixels."),
            ((w @ sign - sign) / d, "the Jacobian has to be transposed."),
        ]
        _compare(_try(answer, w, x.clone()), right, mistakes, "autograd finds another gradient.")


@_check
def check_auc(answer: Function) -> None:
    """Exercise 7: `answer(labels, scores)` is the AUC by counting pairs, ties as one half."""
    rng = np.random.default_rng(0)
    for ties in (False, True):
        labels = np.array([0, 1] * 10)
        scores = rng.integers(0, 4, 20).astype(float) if ties else rng.normal(size=20) + labels
        number = _try_number(answer, labels, scores, else_say="An AUC is one number.")
        normal, abnormal = scores[labels == 0][None, :], scores[labels == 1][:, None]
        right = float((normal < abnormal).mean() + (normal == abnormal).mean() / 2)
        mistakes = [(1 - right, "abnormal images (label 1) should score higher, not lower.")]
        otherwise = f"it gives {number:.4f} where {right:.4f} of the pairs are in order."
        if ties:
            otherwise = f"with tied scores it is {right:.4f}; how does a tie count?"
        _compare(number, right, mistakes, otherwise)


@_check
def check_seeds(answer: Function) -> None:
    """Exercise 8: `answer(a, b)` says of two methods' AUCs over the same seeds which is better.

    "a", "b" or "cannot tell": a method is better if the 95 % interval of the mean paired
    difference (Student's t) leaves out 0.
    """
    cases = {
        "the difference is large in every seed": ([80.0, 81.0, 82.0], [70.0, 71.5, 71.5], "a"),
        "compare seed by seed: what both methods share cancels in the difference": (
            [60.0, 70.0, 80.0],
            [59.0, 69.1, 78.9],
            "a",
        ),
        "the mean difference is small next to its spread over seeds": (
            [70.0, 75.0, 80.0],
            [69.0, 77.0, 74.0],
            "cannot tell",
        ),
        "the second can be better too": ([75.0, 75.5, 75.2], [76.0, 76.6, 76.1], "b"),
        "with two seeds t(1) is 12.7 standard errors wide": (
            [75.0, 80.0],
            [70.0, 77.0],
            "cannot tell",
        ),
    }
    for why, (a, b, right) in cases.items():
        value = _try(answer, list(a), list(b))
        if value != right:
            raise _Wrong(f"Not yet: for a = {a} and b = {b} it says {value!r}, but {why}.")


@_check
def check_cost(answer: Function) -> None:
    """Exercise 9: `answer(n, epochs)` is how often an image passes forward through a senior.

    Returns a pair for one image and an ensemble of n learners: when every senior runs at every
    step, and when a senior's features are computed once and kept.
    """
    for n, epochs in ((1, 250), (3, 250), (8, 10)):
        value = _try(answer, n, epochs)
        try:
            first, second = (int(x) for x in value)
        except (TypeError, ValueError):
            raise _Wrong("Give two whole numbers: (every step, computed once).") from None
        every = sum(epochs * seniors for seniors in range(n))
        once = n - 1  # the last learner is nobody's senior
        if first != every:
            raise _Wrong(
                f"Not yet: with {n} learners and {epochs} epochs the seniors run {every} times "
                f"where none are kept; you have {first}."
            )
        if second != once:
            raise _Wrong(
                f"Not yet: with {n} learners, {once} of them become seniors, each run once over "
                f"the image; you have {second}."
            )


@_check
def check_functional(answer: Function) -> None:
    """Exercise 10: `answer(learners, x)` is Eq. (6) of learners of `d2ue.plain`, by `torch.func`.

    Called under `torch.no_grad`, where `autograd.grad` has no graph and `torch.func.grad` works.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        learners = [plain.Autoencoder("ae").double().eval() for _ in range(3)]
    x = _normal(0, 2, 1, 64, 64)
    right = plain.dual_map(learners, x)
    try:
        with torch.no_grad():
            value = _try(answer, learners, x.clone())
    except _Wrong as wrong:
        hint = " It is called under no_grad: use torch.func.grad." * ("grad" in str(wrong))
        raise _Wrong(f"{wrong}{hint}") from None
    mistakes = [
        (right / len(x), "your gradient is of the mean over the batch; each image has its own L."),
        (right * 64 * 64, "L is the mean over an image's pixels, not their sum."),
    ]
    _compare(value, right, mistakes, "for three learners of plain.py the map is another one.")


@_check
def check_broken(answer: Function) -> None:
    """Exercise 11: `answer(p, q)` is a CKA that rotation does not move and shrinking does."""
    for seed in range(3):
        p, q = _features(seed)
        what = "A similarity is one number; your function gives something else."
        rotation, _ = torch.linalg.qr(_normal(seed, 5, 5))
        whole, rotated, halved = (
            _try_number(answer, p, feature, else_say=what) for feature in (q, q @ rotation, q / 2)
        )
        if not abs(rotated - whole) <= 1e-6 * abs(whole):
            raise _Wrong(f"Not yet: rotating q moves it from {whole:.4f} to {rotated:.4f}.")
        if not abs(halved) <= 0.6 * abs(whole):
            raise _Wrong(f"Not yet: half of q gives {halved:.4f}, where q gives {whole:.4f}.")


def report(answers: dict[str, str]) -> str:
    """How many of the exercises are right, by what the checks said of each."""
    right = sum(text == RIGHT for text in answers.values())
    return f"{right} of {len(answers)} exercises are right."
