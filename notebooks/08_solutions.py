# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to the exercises
#
# One solution to each exercise of [07_exercises](07_exercises.ipynb), and why it is one. Try them there first: the checks say what is off without giving the answer away.
#
# Runs a second or two.

# %% tags=["parameters"]
stop_when_wrong: bool = True  # whether a wrong answer stops the page; for teachers who run many

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
import numpy as np
import torch
from scipy.stats import t

from d2ue.lessons import exercises
from d2ue.plain import hsic

answers = {}

# %% [markdown]
# ## 1 · CKA in four lines


# %%
# NBVAL_CHECK_OUTPUT
def cka(p, q):
    p, q = p - p.mean(0), q - q.mean(0)
    k, m = p @ p.T, q @ q.T
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()


answers["cka"] = exercises.check_cka(cka)
print(answers["cka"])

# %% [markdown]
# Centring the features centres the Gram matrix: $HKH = (HP)(HP)^\top$. And $\mathrm{tr}(AB)$ of symmetric matrices is the sum of their elementwise product, which costs $B^2$ and not $B^3$.

# %% [markdown]
# ## 2 · What CKA cannot see, and what it can


# %%
# NBVAL_CHECK_OUTPUT
def transform(p):
    rotation = torch.linalg.qr(torch.randn(p.shape[1], p.shape[1], dtype=p.dtype)).Q
    scale = torch.ones(p.shape[1], dtype=p.dtype)
    scale[-1] = 1000
    return p @ rotation, p * scale


answers["transformation"] = exercises.check_transformation(transform)
print(answers["transformation"])

# %% [markdown]
# A rotation leaves every distance between images as it is, so CKA stays 1. Stretching one direction until it drowns the others changes which images look alike, although the next linear layer could undo it. So CKA *can* be escaped without learning anything new: by rescaling single directions ([02_redundancy](02_redundancy.ipynb) does it to a trained network).

# %% [markdown]
# ## 3 · How much of a CKA is bias?


# %%
# NBVAL_CHECK_OUTPUT
def expected_cka(batch, width):
    return width / (width + batch - 1)


answers["bias"] = exercises.check_bias(expected_cka)
print(answers["bias"])

# %% [markdown]
# The Gram matrix of random features is near a multiple of the identity, and the more so the wider the feature: two identities are alike. With $d$ values and $B$ images $\mathrm{tr}(KHLH) \approx d^2 (B-1)$ and $\mathrm{tr}(KHKH) \approx d^2(B-1) + d(B-1)^2$, so CKA is near $d/(d + B - 1)$: 0.20 for $z$, 0.94 for 1024. Debiased CKA has 0 there.

# %% [markdown]
# ## 4 · Output-space uncertainty


# %%
# NBVAL_CHECK_OUTPUT
def output_uncertainty(f):
    return f.std(0)


answers["uncertainty"] = exercises.check_uncertainty(output_uncertainty)
print(answers["uncertainty"])

# %% [markdown]
# Torch's `std` corrects by default; numpy's does not. With three learners that is a factor of 1.22, the same for every image, so no AUC would notice.

# %% [markdown]
# ## 5 · Dual-space uncertainty


# %%
# NBVAL_CHECK_OUTPUT
def dual_uncertainty(learners, x):
    x = x.requires_grad_()
    products = []
    for f in learners:
        error = (f(x) - x).abs()
        (gradient,) = torch.autograd.grad(error.mean((1, 2, 3)).sum(), x)
        products.append(gradient * error.detach())
    return torch.stack(products).std(0)


answers["dual"] = exercises.check_dual(dual_uncertainty)
print(answers["dual"])

# %% [markdown]
# The sum over images of each image's mean: then an image's gradient is its own. With the mean over the batch every map shrinks by the batch size, and the score of an image changes with its neighbours' number. [`uncertainty.py`](../d2ue/uncertainty.py) does all learners in one pass.

# %% [markdown]
# ## 6 · What the gradient holds


# %%
# NBVAL_CHECK_OUTPUT
def l1_gradient(w, x):
    sign = (w @ x - x).sign()
    return (w.T @ sign - sign) / len(x)


answers["l1_gradient"] = exercises.check_l1_gradient(l1_gradient)
print(answers["l1_gradient"])

# %% [markdown]
# $\nabla_x \mathcal{L} = \frac{1}{d}(J^\top \mathrm{sign}(e) - \mathrm{sign}(e))$ with the Jacobian $J = W$. Times $|e|$ the second term is $-e/d$, and the deviation of $e$ over learners *is* that of their outputs: DSU holds output-space uncertainty and adds what the Jacobian knows ([04_dual_space](04_dual_space.ipynb)).

# %% [markdown]
# ## 7 · AUC by counting


# %%
# NBVAL_CHECK_OUTPUT
def count_auc(labels, scores):
    normal, abnormal = scores[labels == 0], scores[labels == 1]
    difference = abnormal[:, None] - normal[None, :]
    return (difference > 0).mean() + (difference == 0).mean() / 2


answers["auc"] = exercises.check_auc(count_auc)
print(answers["auc"])

# %% [markdown]
# That is the Mann-Whitney statistic. It looks at the ranking alone: no threshold, no scale, and no share of abnormal images, which average precision does depend on.

# %% [markdown]
# ## 8 · Is it better?


# %%
# NBVAL_CHECK_OUTPUT
def which_is_better(a, b):
    difference = np.subtract(a, b)
    n = len(difference)
    half = t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5
    if abs(difference.mean()) <= half:
        return "cannot tell"
    return "a" if difference.mean() > 0 else "b"


answers["seeds"] = exercises.check_seeds(which_is_better)
print(answers["seeds"])

# %% [markdown]
# The paper has one seed a cell, and one seed has no spread: nothing could be told. The tables of this project also count the test images as a source of chance ([12_table2](12_table2.ipynb)); this interval takes them as given.

# %% [markdown]
# ## 9 · What a learner more costs


# %%
# NBVAL_CHECK_OUTPUT
def senior_passes(n, epochs):
    return epochs * n * (n - 1) // 2, n - 1


answers["cost"] = exercises.check_cost(senior_passes)
print(answers["cost"])

# %% [markdown]
# Quadratic against linear. Keeping them is exact because a senior is frozen, in evaluation mode, and no image is augmented: its feature of an image never changes ([`training.py`](../d2ue/training.py)).

# %% [markdown]
# ## 10 · The same gradient, another way
#
# [`plain.py`](../d2ue/plain.py) is the whole paper in one file. Its `dual_map` runs autograd once a learner. Write it for AE with `torch.func`: a function of *one* image whose gradient `torch.func.grad` takes and `torch.func.vmap` maps over the batch. `learners` are networks of `plain.py`; `learner(x).mean` reconstructs `[B, 1, 64, 64]`. It is called without autograd's graph (`torch.no_grad`).


# %%
# NBVAL_CHECK_OUTPUT
def functional_dual(learners, x):
    def product(f):
        gradient = torch.func.grad(lambda image: (f(image[None]).mean[0] - image).abs().mean())
        return torch.func.vmap(gradient)(x) * (f(x).mean - x).abs()

    return torch.stack([product(f) for f in learners]).std(0)


answers["functional"] = exercises.check_functional(functional_dual)
print(answers["functional"])

# %% [markdown]
# `grad` turns a function of one image into the function of its gradient, and `vmap` maps that over the batch, so no image can see another: the `.sum()` trick of `dual_map` is not needed. Learners are in evaluation mode, where batch normalisation treats images one by one too.

# %% [markdown]
# ## 11 · Break it
#
# Learners cannot escape CKA by scaling their features, nor by rotating them. Copy `linear_cka` of `plain.py` (it and `hsic` are imported) and change one line, so that rotation still does not move it but half as large features look less alike. What would a learner do that is trained with it?


# %%
# NBVAL_CHECK_OUTPUT
def broken_cka(p, q):
    return hsic(p @ p.T, q @ q.T) / hsic(p @ p.T, p @ p.T)


answers["broken"] = exercises.check_broken(broken_cka)
print(answers["broken"])

# %% [markdown]
# Without $\sqrt{\mathrm{HSIC}(L, L)}$ below the line the value falls with the square of the feature's size. A learner trained with it shrinks its features until nothing repels it, and the next layer scales them up again: it computes what its seniors compute. [02_redundancy](02_redundancy.ipynb) measures how the similarities of Table 3 can be fooled like this.

# %% [markdown]
# ## How far are you?

# %%
# NBVAL_CHECK_OUTPUT
print(exercises.report(answers))
wrong = [name for name, said in answers.items() if said != exercises.RIGHT]
assert not (stop_when_wrong and wrong), f"not right yet: {wrong}"

# %% [markdown]
# **Next:** the lessons ([reading order](README.md)) show what these functions find on images.
