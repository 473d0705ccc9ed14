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
# # Exercises: build the method yourself
#
# Eleven small tasks, each a function of a few lines, with a check that says whether it is right and, if it is a common mistake, which one. You will write the similarity that repels learners, both uncertainties, the gradient that makes the second one special, and the statistics that decide whether anything was gained.
#
# You need: the equations (each task states its own; [01_overview](01_overview.ipynb) has them all), and PyTorch as far as `@`, `.mean`, `autograd.grad`. About an hour; the page itself runs a second or two. Replace each `...` and run the cell. [Solutions](08_solutions.ipynb) stand apart.

# %% tags=["parameters"]
stop_when_wrong: bool = False  # whether a wrong answer stops the page; for teachers who run many

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
import numpy as np
import torch
from scipy.stats import t

from d2ue.lessons import exercises
from d2ue.plain import hsic, linear_cka

answers = {}

# %% [markdown]
# ## 1 · CKA in four lines
#
# Eq. 2 and 3: with $K = PP^\top$, $L = QQ^\top$ and the centring matrix $H = I - \frac{1}{B}\mathbf{1}\mathbf{1}^\top$,
#
# $$\mathrm{HSIC}(K, L) \propto \mathrm{tr}(KHLH), \qquad \mathrm{CKA} = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}$$
#
# `p` and `q` are features `[B, d]`; give one number. ([`similarity.py`](../d2ue/similarity.py) has it, for after you tried.)


# %%
# NBVAL_CHECK_OUTPUT
def cka(p, q): ...


answers["cka"] = exercises.check_cka(cka)
print(answers["cka"])

# %% [markdown]
# ## 2 · What CKA cannot see, and what it can
#
# Two learners with features $P$ and $PA$ ($A$ invertible) know the same things. Give a pair `(same, other)`, both of that form: one that CKA takes for $P$ itself though it is no multiple of it, and one that it does not (CKA below 0.9). What does that mean for a learner that wants to escape its seniors' repulsion without learning anything new?


# %%
# NBVAL_CHECK_OUTPUT
def transform(p): ...


answers["transformation"] = exercises.check_transformation(transform)
print(answers["transformation"])

# %% [markdown]
# ## 3 · How much of a CKA is bias?
#
# Features that have nothing to do with each other (independent Gaussian numbers) still have a CKA above 0 when the batch is small or the feature wide. Find a formula in the batch size and the width for what it is on average; it may be off by 10 %. Try some with `linear_cka(torch.randn(batch, width), torch.randn(batch, width))`. What is it for the paper's $z$ (16 values, batches of 64), and for a layer of 1024?


# %%
# NBVAL_CHECK_OUTPUT
def expected_cka(batch, width): ...


answers["bias"] = exercises.check_bias(expected_cka)
print(answers["bias"])

# %% [markdown]
# ## 4 · Output-space uncertainty
#
# Eq. 5: $Y = D(f_i(X))$, $D$ the standard deviation over the learners with Bessel's correction. `f` is `[N, B, 1, H, W]`; give the maps, `[B, 1, H, W]`.


# %%
# NBVAL_CHECK_OUTPUT
def output_uncertainty(f): ...


answers["uncertainty"] = exercises.check_uncertainty(output_uncertainty)
print(answers["uncertainty"])

# %% [markdown]
# ## 5 · Dual-space uncertainty
#
# Eq. 6: $Y = D\big(\nabla_X \mathcal{L}_i \odot |f_i(X) - X|\big)$. `learners` is a list of functions that reconstruct images `x`, `[B, 1, H, W]`. $\mathcal{L}_i$ is the mean absolute error *of each image*: an image's map must not depend on what else is in its batch.


# %%
# NBVAL_CHECK_OUTPUT
def dual_uncertainty(learners, x): ...


answers["dual"] = exercises.check_dual(dual_uncertainty)
print(answers["dual"])

# %% [markdown]
# ## 6 · What the gradient holds
#
# A learner that is one matrix: $f(x) = Wx$. Work out $\nabla_x$ of $\mathcal{L} = \frac{1}{d}\sum_j |(Wx - x)_j|$ with pencil and paper, and give it without autograd. `w` is `[d, d]`, `x` is `[d]`.


# %%
# NBVAL_CHECK_OUTPUT
def l1_gradient(w, x): ...


answers["l1_gradient"] = exercises.check_l1_gradient(l1_gradient)
print(answers["l1_gradient"])

# %% [markdown]
# ## 7 · AUC by counting
#
# The AUC is the chance that an abnormal image (label 1) scores higher than a normal one (label 0). Count pairs with numpy; a tie counts half.


# %%
# NBVAL_CHECK_OUTPUT
def count_auc(labels, scores): ...


answers["auc"] = exercises.check_auc(count_auc)
print(answers["auc"])

# %% [markdown]
# ## 8 · Is it better?
#
# Two methods, the same seeds: `a` and `b` are lists of AUCs, one a seed. Say `"a"`, `"b"` or `"cannot tell"`: a method is better if the 95 % interval of the mean *paired* difference leaves out 0 (Student's t: `scipy.stats.t.ppf(0.975, n - 1)`).


# %%
# NBVAL_CHECK_OUTPUT
def which_is_better(a, b): ...


answers["seeds"] = exercises.check_seeds(which_is_better)
print(answers["seeds"])

# %% [markdown]
# ## 9 · What a learner more costs
#
# Training learner $k$ needs the features of its $k-1$ seniors. How often does one training image pass forward through a senior while an ensemble of `n` learners is trained for `epochs` epochs each: if every senior runs at every step, and if each senior's features of the training images are computed once and kept? Give the pair.


# %%
# NBVAL_CHECK_OUTPUT
def senior_passes(n, epochs): ...


answers["cost"] = exercises.check_cost(senior_passes)
print(answers["cost"])

# %% [markdown]
# ## 10 · The same gradient, another way
#
# [`plain.py`](../d2ue/plain.py) is the whole paper in one file. Its `dual_map` runs autograd once a learner. Write it for AE with `torch.func`: a function of *one* image whose gradient `torch.func.grad` takes and `torch.func.vmap` maps over the batch. `learners` are networks of `plain.py`; `learner(x).mean` reconstructs `[B, 1, 64, 64]`. It is called without autograd's graph (`torch.no_grad`).


# %%
# NBVAL_CHECK_OUTPUT
def functional_dual(learners, x): ...


answers["functional"] = exercises.check_functional(functional_dual)
print(answers["functional"])

# %% [markdown]
# ## 11 · Break it
#
# Learners cannot escape CKA by scaling their features, nor by rotating them. Copy `linear_cka` of `plain.py` (it and `hsic` are imported) and change one line, so that rotation still does not move it but half as large features look less alike. What would a learner do that is trained with it?


# %%
# NBVAL_CHECK_OUTPUT
def broken_cka(p, q): ...


answers["broken"] = exercises.check_broken(broken_cka)
print(answers["broken"])

# %% [markdown]
# ## How far are you?

# %%
# NBVAL_CHECK_OUTPUT
print(exercises.report(answers))
wrong = [name for name, said in answers.items() if said != exercises.RIGHT]
assert not (stop_when_wrong and wrong), f"not right yet: {wrong}"

# %% [markdown]
# ## Next
#
# - Take your `dual_uncertainty` to a trained ensemble: [00_quickstart](00_quickstart.ipynb) trains one in a minute.
# - Which of the paper's sentences hold, by your `which_is_better`? [12_table2](12_table2.ipynb) has the AUCs of every seed.
# - For teachers: `papermill 07_exercises.ipynb OUT.ipynb -p stop_when_wrong True` stops at the end of a page that is not all right.
