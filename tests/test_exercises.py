"""Every check takes right answers, written in another way than the solutions, and no wrong one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from d2ue.lessons import exercises
from d2ue.lessons.exercises import CHECKS, NOT_DONE, RIGHT

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def literal_hsic(k, m):
    h = torch.eye(len(k), dtype=k.dtype) - 1 / len(k)
    return torch.trace(k @ h @ m @ h)


def literal_cka(p, q):
    k, m = p @ p.T, q @ q.T
    return literal_hsic(k, m) / torch.sqrt(literal_hsic(k, k) * literal_hsic(m, m))


def reflect(p):
    """A Householder reflection, and a stretch along one direction that is no axis."""
    v = torch.ones(p.shape[1], 1, dtype=p.dtype)
    mirror = torch.eye(p.shape[1], dtype=p.dtype) - 2 * v @ v.T / (v.T @ v)
    u = torch.linspace(-1, 1, p.shape[1], dtype=p.dtype).unsqueeze(1)
    return p @ mirror, p + 500 * p @ u @ u.T


def slow_dual(learners, x, by_batch=1, by_pixels=1.0, error=True, absolute=False):
    """Image by image, so that nothing mixes."""
    rows = []
    for f in learners:
        maps = []
        for image in x:
            point = image.unsqueeze(0).clone().requires_grad_()
            loss = (f(point) - point).abs().sum() / point.numel() * by_pixels / by_batch
            loss.backward()
            weight = (f(point) - point).abs().detach() if error else 1.0
            product = point.grad * weight
            maps.append(product.abs() if absolute else product)
        rows.append(torch.cat(maps))
    return torch.stack(rows).std(0)


def by_scipy(a, b):
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    if interval.low <= 0 <= interval.high:
        return "cannot tell"
    return "a" if interval.low > 0 else "b"


def slow_passes(n, epochs):
    return sum(epochs * seniors for seniors in range(n)), max(n - 1, 0)


def plain_by_jacrev(learners, x):
    """The other differentiation of torch.func, image by image."""
    products = []
    for learner in learners:
        f = learner(x).mean
        gradients = [
            torch.func.jacrev(lambda v, net=learner: (net(v).mean - v).abs().mean())(image[None])
            for image in x
        ]
        products.append(torch.cat(gradients) * (f - x).abs())
    return torch.stack(products).std(0)


ANSWERS = {
    "cka": [literal_cka, lambda p, q: literal_cka(p, q).numpy()],
    "transformation": [reflect],
    "bias": [lambda b, d: d / (d + b)],
    "uncertainty": [lambda f: f.numpy().std(0, ddof=1), lambda f: torch.var(f, 0).sqrt()],
    "dual": [slow_dual],
    "l1_gradient": [
        lambda w, x: torch.func.jacrev(lambda v: w @ v - v)(x).T @ torch.sign(w @ x - x) / len(x)
    ],
    "auc": [roc_auc_score],
    "seeds": [by_scipy],
    "cost": [slow_passes],
    "functional": [plain_by_jacrev],
    "broken": [lambda p, q: torch.trace(q.T @ p @ p.T @ q), lambda p, q: (q - q.mean(0)).norm()],
}


@pytest.mark.parametrize(
    ("name", "answer"), [(name, answer) for name, some in ANSWERS.items() for answer in some]
)
def test_a_right_answer_is_right(name, answer):
    assert CHECKS[name](answer) == RIGHT


def test_every_exercise_is_checked_here_and_in_both_notebooks():
    assert list(ANSWERS) == list(CHECKS)
    for page in ("07_exercises", "08_solutions"):
        text = (NOTEBOOKS / f"{page}.py").read_text(encoding="utf-8")
        used = [
            line.split("exercises.check_")[1].split("(")[0]
            for line in text.splitlines()
            if "exercises.check_" in line
        ]
        assert used == list(CHECKS)


def uncentred(p, q):
    k, m = p @ p.T, q @ q.T
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()


def turned(w, x):
    sign = (w @ x - x).sign()
    return (w @ sign - sign) / len(x)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("cka", uncentred, "not centred"),
        ("cka", lambda p, q: literal_cka(p, q) ** 2, "squared"),
        ("cka", lambda p, q: literal_cka(p, p), "with itself"),
        ("cka", lambda p, q: literal_hsic(p @ p.T, q @ q.T), "HSIC(K, L)"),
        ("cka", lambda p, q: 0.5, "gives 0.5000"),
        ("cka", lambda p, q: p @ q.T, "one number"),
        ("transformation", lambda p: (2 * p, reflect(p)[1]), "multiple of p"),
        ("transformation", lambda p: (reflect(p)[1], p), "tells them apart"),
        ("transformation", lambda p: (reflect(p)[0], reflect(p)[0]), "below 0.9"),
        ("transformation", lambda p: (0 * p, p), "invertible"),
        ("transformation", lambda p: p, "two features"),
        ("bias", lambda b, d: d / b, "on average"),
        ("bias", lambda b, d: math.nan, "on average"),
        ("cka", lambda p, q: math.nan, "it gives nan"),
        ("uncertainty", lambda f: f.std(0, correction=0), "Bessel"),
        ("uncertainty", lambda f: f.var(0), "variance"),
        ("uncertainty", lambda f: f.std((0, 2)), "not their deviation"),
        ("dual", lambda f, x: slow_dual(f, x, by_batch=2), "mean over the batch"),
        ("dual", lambda f, x: slow_dual(f, x, by_pixels=16), "not their sum"),
        ("dual", lambda f, x: slow_dual(f, x, error=False), "input space alone"),
        ("dual", lambda f, x: slow_dual(f, x, absolute=True), "keeps its sign"),
        ("l1_gradient", lambda w, x: w.T @ (w @ x - x).sign() / len(x), "twice"),
        ("l1_gradient", turned, "transposed"),
        ("l1_gradient", lambda w, x: len(x) * ANSWERS["l1_gradient"][0](w, x), "mean over d"),
        ("auc", lambda y, s: roc_auc_score(y, -s), "not lower"),
        ("auc", lambda y, s: (s[y == 1][:, None] > s[y == 0]).mean(), "tied"),
        ("seeds", lambda a, b: "a" if np.mean(a) > np.mean(b) else "b", "spread over seeds"),
        ("seeds", lambda a, b: "a" if min(a) > max(b) else "cannot tell", "seed by seed"),
        (
            "seeds",
            lambda a, b: "a" if (d := np.subtract(a, b)).mean() > 2 * d.std(ddof=1) / len(d) ** 0.5
            else "b" if d.mean() < -2 * d.std(ddof=1) / len(d) ** 0.5 else "cannot tell",
            "12.7",
        ),
        ("cost", lambda n, e: (e * n * n, n - 1), "where none are kept"),
        ("cost", lambda n, e: (e * n * (n - 1) // 2, n), "become seniors"),
        ("cost", lambda n, e: 7, "two whole numbers"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_what_is_off(name, answer, words):
    said = CHECKS[name](answer)
    assert said != RIGHT and words in said and "\n" not in said


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_no_answer_and_an_error_is_no_end(name):
    assert CHECKS[name](lambda *_: None) == NOT_DONE
    assert CHECKS[name](lambda *_: ...) == NOT_DONE
    said = CHECKS[name](lambda: 1 / 0)
    assert said.startswith("Your function stops with TypeError")


def test_the_report_counts():
    assert exercises.report({"a": RIGHT, "b": NOT_DONE}) == "1 of 2 exercises are right."
