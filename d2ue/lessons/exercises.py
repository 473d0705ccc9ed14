"""Checks for the exercises in notebooks/07_exercises: is the answer right, and if not, what is off?

Every check takes what a student wrote, tries it on random numbers beside the module's own function
or a value worked out another way, and answers in one sentence. Where a wrong answer is a known
mistake, the sentence names it. Nothing here shows a solution: they are in 08_solutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


def _try(answer: Function, *arguments: object) -> tuple[Any, str]:
    """What the student's function gives, and what to say if that is nothing to compare."""
    try:
        value = answer(*arguments)
    except Exception as error:  # whatever a student's code may raise is an answer to comment on
        return None, f"Your function stops with {type(error).__name__}: {error}"
    if value is None or value is Ellipsis:
        return None, NOT_DONE
    return value, ""


def _try_number(answer: Function, *arguments: object, else_say: str) -> tuple[float, str]:
    """The same as `_try` for functions that give one number."""
    value, problem = _try(answer, *arguments)
    if problem:
        return math.nan, problem
    try:
        return float(value), ""
    except (TypeError, ValueError, RuntimeError):
        return math.nan, else_say


def _close(value: Any, expected: Tensor, rtol: float = 1e-6) -> bool:
    """Whether a value is a tensor or array of the expected shape and numbers."""
    try:
        tensor = torch.as_tensor(value).detach().double()
    except (TypeError, ValueError, RuntimeError):
        return False
    if tensor.shape != expected.shape:
        return False
    return torch.allclose(tensor, expected.double(), rtol=rtol, atol=1e-12)


def _features(seed: int, batch: int = 12, width: int = 5) -> tuple[Tensor, Tensor]:
    """Two related features of a batch, with means far from 0, so that centring matters."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    return p + 2, p @ torch.randn(width, width, generator=generator).double() + noise - 3


def check_cka(answer: Function) -> str:
    """Exercise 1: `answer(p, q)` is linear CKA, Eq. (2)-(3), of features [B, d]; a number."""
    for seed in range(3):
        p, q = _features(seed)
        what = "CKA is one number; your function gives something else."
        number, problem = _try_number(answer, p, q, else_say=what)
        if problem:
            return problem
        right = float(linear_cka(p, q))
        if abs(number - right) < 1e-6:
            continue
        k, m = p @ p.T, q @ q.T
        uncentred = float((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt())
        if abs(number - uncentred) < 1e-6:
            return "Not yet: the Gram matrices are not centred (the H in Eq. 3)."
        if abs(number - right**2) < 1e-6:
            return "Not yet: that is CKA squared."
        own = [float(linear_cka(x, x)) for x in (p, q)]
        if any(abs(number - x) < 1e-6 for x in own):
            return "Not yet: that compares a feature with itself."
        centred = [x - x.mean(0) for x in (p, q)]
        hsic = float((centred[0] @ centred[0].T * (centred[1] @ centred[1].T)).sum())
        if abs(number / hsic - 1) < 1e-6 or abs(number * (len(p) - 1) ** 2 / hsic - 1) < 1e-6:
            return "Not yet: that is HSIC(K, L); Eq. 2 divides it by something."
        return f"Not yet: for one pair of features it gives {number:.4f}, and CKA is {right:.4f}."
    return RIGHT


def check_transformation(answer: Function) -> str:
    """Exercise 2: `answer(p)` is (same, other): both are invertible linear maps of the features.

    CKA must not tell `same` from p (though it is no multiple of p), and must tell `other` from it.
    """
    p, _ = _features(0, batch=40)
    p = p * torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25])  # directions of unequal size, as features have
    value, problem = _try(answer, p)
    if problem:
        return problem
    if not isinstance(value, tuple | list) or len(value) != 2:
        return "Give two features: (same, other)."
    if any(x is None or x is Ellipsis for x in value):
        return NOT_DONE
    for name, feature in zip(("same", "other"), value, strict=True):
        if not isinstance(feature, Tensor) or feature.shape != p.shape:
            return f"{name} must be a tensor of the shape of p, {tuple(p.shape)}."
        found = torch.linalg.lstsq(p, feature.double()).solution
        fits = torch.allclose(p @ found, feature.double(), rtol=1e-6, atol=1e-6)
        if not fits or torch.linalg.matrix_rank(found) < p.shape[1]:
            return f"{name} must be p @ A with an invertible matrix A."
    same, other = (x.double() for x in value)
    ratio = (same * p).sum() / (p * p).sum()
    if torch.allclose(same, ratio * p):
        return "same is a multiple of p: find a transformation that changes more than the scale."
    if (cka := float(linear_cka(p, same))) < 1 - 1e-6:
        return f"CKA(p, same) is {cka:.4f}: it tells them apart."
    if (cka := float(linear_cka(p, other))) > 0.9:
        return f"CKA(p, other) is {cka:.4f}: bring it below 0.9."
    return RIGHT


def check_bias(answer: Function) -> str:
    """Exercise 3: `answer(batch, width)` is what biased linear CKA gives independent features.

    Judged by simulation: within 10 % of the mean over 30 draws, for four batches and widths.
    """
    for batch, width in ((64, 16), (64, 256), (16, 64), (256, 16)):
        what = "Give one number for a batch and a width."
        number, problem = _try_number(answer, batch, width, else_say=what)
        if problem:
            return problem
        generator = torch.Generator().manual_seed(batch * width)
        draws = torch.randn(2, 30, batch, width, generator=generator, dtype=torch.float64)
        mean = float(linear_cka(*draws).mean())
        if not abs(number / mean - 1) <= 0.1:  # asked this way round, NaN is no answer either
            return (
                f"Not yet: independent features of width {width} in batches of {batch} have a CKA "
                f"of {mean:.3f} on average; your formula says {number:.3f}."
            )
    return RIGHT


def check_uncertainty(answer: Function) -> str:
    """Exercise 4: `answer(f)` is Eq. (5) for reconstructions [N, B, 1, H, W]: [B, 1, H, W]."""
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 5):
        f = torch.randn(n, 4, 1, 3, 3, generator=generator, dtype=torch.float64)
        value, problem = _try(answer, f)
        if problem:
            return problem
        right = output_map(f)
        if _close(value, right):
            continue
        if _close(value, right * ((n - 1) / n) ** 0.5):
            return "Not yet: divide by N - 1 (Bessel), not by N."
        if _close(value, right.square()):
            return "Not yet: that is the variance; D is the standard deviation."
        return "Not yet: for some reconstructions it is not their deviation over the learners."
    return RIGHT


def check_dual(answer: Function) -> str:
    """Exercise 5: `answer(learners, x)` is Eq. (6) with L the L1 error; [B, 1, H, W].

    Args:
        answer: takes a list of functions from [B, 1, H, W] to [B, 1, H, W] and images x; L_i is
            each image's mean absolute error.
    """
    generator = torch.Generator().manual_seed(0)
    mixers = torch.randn(3, 16, 16, generator=generator, dtype=torch.float64) / 4
    shape = (2, 1, 4, 4)

    def learner(a: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.tanh(x.flatten(1) @ a).view(x.shape)

    learners = [learner(a) for a in mixers]
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    value, problem = _try(answer, learners, x.clone())
    if problem:
        return problem
    products, gradients = [], []
    for a, f in zip(mixers, learners, strict=True):
        # By hand: d|f - x|/dx = Jᵀ sign(f - x) - sign(f - x), with f = tanh(x A).
        out = f(x)
        sign = (out - x).sign().flatten(1)
        slope = 1 - out.flatten(1).square()
        gradient = ((sign * slope) @ a.T - sign).view(shape) / 16
        gradients.append(gradient)
        products.append(gradient * (out - x).abs())
    right = torch.stack(products).std(0)
    if _close(value, right):
        return RIGHT
    if _close(value, right / len(x)):
        return "Not yet: your gradient is of the mean over the batch; each image has its own L."
    if _close(value, right * 16):
        return "Not yet: L is the mean over an image's pixels, not their sum."
    if _close(value, torch.stack(gradients).std(0)):
        return "Not yet: the error |f(x) - x| is missing: that is the input space alone."
    absolute = torch.stack([p.abs() for p in products]).std(0)
    if _close(value, absolute):
        return "Not yet: the gradient keeps its sign."
    return "Not yet: for three small learners the map is another one."


def check_l1_gradient(answer: Function) -> str:
    """Exercise 6: `answer(w, x)` is grad_x of mean |w x - x| for one linear learner; [d]."""
    generator = torch.Generator().manual_seed(0)
    for d in (3, 8):
        w = torch.randn(d, d, generator=generator, dtype=torch.float64)
        x = torch.randn(d, generator=generator, dtype=torch.float64)
        value, problem = _try(answer, w, x.clone())
        if problem:
            return problem
        point = x.clone().requires_grad_()
        (right,) = torch.autograd.grad((w @ point - point).abs().mean(), point)
        if _close(value, right):
            continue
        sign = (w @ x - x).sign()
        if _close(value, w.T @ sign / d):
            return "Not yet: x stands in the error twice, in f(x) and by itself."
        if _close(value, right * d):
            return "Not yet: the error is a mean over d pixels."
        if _close(value, (w @ sign - sign) / d):
            return "Not yet: the Jacobian has to be transposed."
        return "Not yet: autograd finds another gradient."
    return RIGHT


def check_auc(answer: Function) -> str:
    """Exercise 7: `answer(labels, scores)` is the AUC by counting pairs, ties as one half."""
    rng = np.random.default_rng(0)
    for ties in (False, True):
        labels = np.array([0, 1] * 10)
        scores = rng.integers(0, 4, 20).astype(float) if ties else rng.normal(size=20) + labels
        what = "An AUC is one number."
        number, problem = _try_number(answer, labels, scores, else_say=what)
        if problem:
            return problem
        below = scores[labels == 0][None, :] < scores[labels == 1][:, None]
        equal = scores[labels == 0][None, :] == scores[labels == 1][:, None]
        right = float(below.mean() + equal.mean() / 2)
        if abs(number - right) < 1e-9:
            continue
        if abs(number - (1 - right)) < 1e-9:
            return "Not yet: abnormal images (label 1) should score higher, not lower."
        if ties:
            return f"Not yet: with tied scores it is {right:.4f}; how does a tie count?"
        return f"Not yet: it gives {number:.4f} where {right:.4f} of the pairs are in order."
    return RIGHT


def check_seeds(answer: Function) -> str:
    """Exercise 8: `answer(a, b)` says of two methods' AUCs over the same seeds which is better.

    "a", "b" or "cannot tell": a method is better if the 95 % interval of the mean paired
    difference (Student's t) leaves out 0.
    """
    cases: Sequence[tuple[list[float], list[float], str, str]] = (
        ([80.0, 81.0, 82.0], [70.0, 71.5, 71.5], "a", "the difference is large in every seed"),
        (
            [60.0, 70.0, 80.0],
            [59.0, 69.1, 78.9],
            "a",
            "compare seed by seed: what both methods share cancels in the difference",
        ),
        (
            [70.0, 75.0, 80.0],
            [69.0, 77.0, 74.0],
            "cannot tell",
            "the mean difference is small next to its spread over seeds",
        ),
        ([75.0, 75.5, 75.2], [76.0, 76.6, 76.1], "b", "the second can be better too"),
        (
            [75.0, 80.0],
            [70.0, 77.0],
            "cannot tell",
            "with two seeds t(1) is 12.7 standard errors wide",
        ),
    )
    for a, b, right, why in cases:
        value, problem = _try(answer, list(a), list(b))
        if problem:
            return problem
        if value != right:
            return f"Not yet: for a = {a} and b = {b} it says {value!r}, but {why}."
    return RIGHT


def check_cost(answer: Function) -> str:
    """Exercise 9: `answer(n, epochs)` is how often an image passes forward through a senior.

    Returns a pair for one image and an ensemble of n learners: when every senior runs at every
    step, and when a senior's features are computed once and kept.
    """
    for n, epochs in ((1, 250), (3, 250), (8, 10)):
        value, problem = _try(answer, n, epochs)
        if problem:
            return problem
        try:
            first, second = (int(x) for x in value)
        except (TypeError, ValueError):
            return "Give two whole numbers: (every step, computed once)."
        every = sum(1 for learner in range(n) for _ in range(learner) for _ in range(epochs))
        once = max(0, n - 1)  # the last learner is nobody's senior
        if first != every:
            return (
                f"Not yet: with {n} learners and {epochs} epochs the seniors run {every} times "
                f"where none are kept; you have {first}."
            )
        if second != once:
            return (
                f"Not yet: with {n} learners, {once} of them become seniors, each run once over "
                f"the image; you have {second}."
            )
    return RIGHT


def check_functional(answer: Function) -> str:
    """Exercise 10: `answer(learners, x)` is Eq. (6) of learners of `d2ue.plain`, by `torch.func`.

    Called under `torch.no_grad`, where `autograd.grad` has no graph and `torch.func.grad` works.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        learners = [plain.Autoencoder("ae").double().eval() for _ in range(3)]
        x = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    right = plain.dual_map(learners, x)
    with torch.no_grad():
        value, problem = _try(answer, learners, x.clone())
    if problem:
        hint = " It is called under no_grad: use torch.func.grad." * ("grad" in problem)
        return problem + hint
    if _close(value, right):
        return RIGHT
    if _close(value, right / len(x)):
        return "Not yet: your gradient is of the mean over the batch; each image has its own L."
    if _close(value, right * 64 * 64):
        return "Not yet: L is the mean over an image's pixels, not their sum."
    return "Not yet: for three learners of plain.py the map is another one."


def check_broken(answer: Function) -> str:
    """Exercise 11: `answer(p, q)` is a CKA that rotation does not move and shrinking does."""
    for seed in range(3):
        p, q = _features(seed)
        what = "A similarity is one number; your function gives something else."
        generator = torch.Generator().manual_seed(seed)
        rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
        numbers = []
        for feature in (q, q @ rotation, q / 2):
            number, problem = _try_number(answer, p, feature, else_say=what)
            if problem:
                return problem
            numbers.append(number)
        whole, rotated, halved = numbers
        if not abs(rotated - whole) <= 1e-6 * abs(whole):
            return f"Not yet: rotating q moves it from {whole:.4f} to {rotated:.4f}."
        if not abs(halved) <= 0.6 * abs(whole):
            return f"Not yet: half of q gives {halved:.4f}, where q gives {whole:.4f}."
    return RIGHT


#: The exercises' checks, in the notebook's order.
CHECKS: dict[str, Callable[[Function], str]] = {
    "cka": check_cka,
    "transformation": check_transformation,
    "bias": check_bias,
    "uncertainty": check_uncertainty,
    "dual": check_dual,
    "l1_gradient": check_l1_gradient,
    "auc": check_auc,
    "seeds": check_seeds,
    "cost": check_cost,
    "functional": check_functional,
    "broken": check_broken,
}


def report(answers: dict[str, str]) -> str:
    """How many of the exercises are right, as a sentence.

    Args:
        answers: what the checks said, by name.
    """
    right = sum(text == RIGHT for text in answers.values())
    return f"{right} of {len(answers)} exercises are right."
