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
# # Overview: the method in one picture and in one file
#
# *Fig. 2 of the paper. Under half a minute on a laptop's CPU; nothing is downloaded.*
#
# **You will learn** which way an image goes through training and through scoring, and in which function each equation of the paper lives. Three views of the same thing:
#
# - a picture, with the names of this package;
# - the whole paper in one file of plain PyTorch, [`plain.py`](../d2ue/plain.py), and a check that the fast code computes the same;
# - a walk through the fast code, one cell a station.
#
# Phantoms are few and learners are hardly trained, so only shapes and directions mean anything here. What the method achieves is for [the tables](11_table1.ipynb).

# %% tags=["parameters"]
image_size: int = 32  # pixels a side: 16, 32, 64, ...
n_train: int = 128  # normal phantoms to train on
learners: int = 3  # N, at least 2
epochs: int = 2  # passes over the training images; the paper: 250
batch_size: int = 16  # B: images a step
out: str = "results/overview"  # folder for the pictures and tables of this page

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import SVG, Code, Markdown, display

import d2ue
from d2ue import losses, plain, plotting, similarity, training, uncertainty
from d2ue.backbones import features_of, forward, stack, to_unit_range
from d2ue.experiments import save_results
from d2ue.lessons import oracle

# %% [markdown]
# ## The diagram
#
# **Look for** the two dashed ways. In training, the gradient reaches the learner in training only, and a finished learner is frozen and joins the seniors. In inference, a second, backward pass gives what output uncertainty does not have: the gradient with respect to the *image*.

# %%
display(SVG(pages.kept("kept", "overview.svg")))

# %% [markdown]
# ## The whole paper in one file
#
# `d2ue/plain.py`: autoencoders, losses, training, scores, each formula above the line that computes it. It imports nothing of this package, so it can be copied and changed. **Look for** Eq. 1 and Eq. 6: they are one line each.

# %%
head, *sections = Path(plain.__file__).read_text().split("# ---------- ")
for section in sections:
    title, _, code = section.partition(" ----------\n")
    display(Markdown(f"### {title[0].upper()}{title[1:]}"), Code(code.strip(), language="python"))

# %% [markdown]
# **The same in the rest of this package.** Three learners that repel each other, trained by both in float64 from the same weights and in the same order of images: weights and scores must agree to 1e-8.

# %%
phantoms = d2ue.phantom(n_train=32, n_test_normal=2, n_test_abnormal=2, progress=False)
same = d2ue.TrainConfig(backbone="ae", epochs=2, batch_size=16)
largest = oracle.differences(same, phantoms.train.images)
print("largest difference:", {name: f"{value:.0e}" for name, value in largest.items()})
assert max(largest.values()) < 1e-8

# %% [markdown]
# ## Training
#
# **Images.** Stored as bytes, shown to networks in [-1, 1].

# %%
# NBVAL_CHECK_OUTPUT
counts = {"n_train": n_train, "n_test_normal": 2, "n_test_abnormal": 2}
dataset = d2ue.phantom(**counts, image_size=image_size, progress=False)
x = to_unit_range(torch.from_numpy(dataset.train.images[:batch_size]))
print("pixels", dataset.train.images.dtype, dataset.train.images.shape)
print("X     ", tuple(x.shape), f"from {x.min():.2f} to {x.max():.2f}")

# %% [markdown]
# **Learners.** Take the moment at which the last learner starts: it has fresh weights and is in training mode, its seniors are frozen. (Here the seniors are untrained too: this is about shapes.) One network holds several learners along its first axis, R. **Look for** the feature: *z*, 16 values an image.

# %%
# NBVAL_CHECK_OUTPUT
shape = {"backbone": "ae", "image_size": image_size, "n_learners": learners}
config = d2ue.TrainConfig(**shape, epochs=epochs, batch_size=batch_size)
fresh = [training.initial_network(training.LearnerTask(config, n + 1)) for n in range(learners)]
seniors, learner = stack(fresh[:-1]).eval().requires_grad_(False), fresh[-1].train()
p = features_of(seniors, iter([x]), config.layer)
output = learner(x[None], config.layer)
q = output.feature[0]
print(f"seniors' features P_j at {config.layer}: [n-1, B, d] =", tuple(p.shape))
print("its own feature Q_n:             [B, d] =", tuple(q.shape))
print("its reconstruction f_n(X): [R, B, 1, H, W] =", tuple(output.mean.shape))

# %% [markdown]
# **Similarity (Eq. 2 and 3) and repulsion (Eq. 1).** `linear_cka` compares two features, `repulsion_loss` takes the mean over the seniors. Both are written out once more here, letter by letter, and must agree.

# %%
h = torch.eye(batch_size) - 1 / batch_size
k, l = p[0] @ p[0].T, q @ q.T  # noqa: E741 - the paper's names
hkl, hkk, hll = ((a @ h @ b @ h).trace() for a, b in ((k, l), (k, k), (l, l)))
cka, l_sim = similarity.linear_cka(p, q), losses.repulsion_loss(p, q, similarity.linear_cka)
print(f"CKA(P_1, Q_n) = {cka[0]:.3f}   L_sim = {l_sim:.3f}, over {len(p)} seniors")
torch.testing.assert_close(cka[0], hkl / (hkk * hll).sqrt(), rtol=1e-3, atol=1e-4)
torch.testing.assert_close(l_sim, sum(cka) / len(p))

# %% [markdown]
# **Loss (Eq. 4), and whom it moves.** **Look for** zeros: no weight of a senior has a gradient.

# %%
l_orig = losses.reconstruction_loss(config.backbone, output, x[None])[0]
l_total = losses.total_loss(l_orig, l_sim, config.repulsion_weight)
l_total.backward()
print(f"L_orig {l_orig:.3f} + {config.repulsion_weight:g} x L_sim {l_sim:.3f} = {l_total:.3f}")
moved = [sum(w.grad is not None for w in net.parameters()) for net in (learner, seniors)]
print("weights with a gradient: of the learner {}, of its seniors {}".format(*moved))
assert moved == [len([*learner.parameters()]), 0]

# %% [markdown]
# **One after another.** `train_ensemble` repeats this for every learner. **Look for** the similarity of the first learner: it has no seniors, and L_sim is 0.

# %%
ensemble = d2ue.train_ensemble(config, dataset.train, device="cpu", progress=False)
for n, history in enumerate(ensemble.history, 1):
    print(f"learner {n}: L_orig {history[-1]['loss']:.3f}, L_sim {history[-1]['similarity']:.3f}")
assert ensemble.history[0][-1]["similarity"] == 0
assert not any(w.requires_grad for w in ensemble.network.parameters())

# %% [markdown]
# ## Inference
#
# Two normal and two abnormal test images. **Output space (Eq. 5):** all learners reconstruct, and D is the standard deviation over them.

# %%
# NBVAL_CHECK_OUTPUT
test = dataset.test
x = to_unit_range(torch.from_numpy(test.images))
f = forward(ensemble.network, x).mean
unc = uncertainty.output_map(f)
torch.testing.assert_close(unc, f.std(0))
print("f_i(X)        [N, B, 1, H, W] =", tuple(f.shape))
print("Unc = D(f_i(X))  [B, 1, H, W] =", tuple(unc.shape))

# %% [markdown]
# **Dual space (Eq. 6):** one backward pass gives each learner's error's gradient with respect to the image; its product with the error's size goes through the same D.

# %%
# NBVAL_CHECK_OUTPUT
gradients, f, _ = uncertainty.input_gradients(ensemble.network, x, "l1")
dsu = uncertainty.dual_map(x, f, gradients)
torch.testing.assert_close(dsu, (gradients * (f - x).abs()).std(0))
scores = uncertainty.image_score(dsu)
for name, value in {"grad_X L_i": gradients, "DSU": dsu, "image scores": scores}.items():
    print(f"{name:13}", tuple(value.shape))

# %% [markdown]
# `score_maps` and `image_scores` are these steps in one call. **Look for** the lesion (outlined in green): learners trained for so short a time disagree everywhere, on normal images too, and do not find it by their disagreement yet.

# %%
maps = {m: d2ue.score_maps(ensemble, test.images, m) for m in ("ensemble", "output", "dual")}
assert abs(d2ue.image_scores(ensemble, test.images, "dual") / scores.numpy() - 1).max() < 1e-4
titles = ["abnormal" if label else "normal" for label in test.labels]
maps_figure = plotting.score_maps(test.images, maps, titles, test.masks)
plt.show()

# %%
inside = test.masks[test.labels == 1]
for method, values in maps.items():
    ratio = values[test.labels == 1][inside].mean() / values[test.labels == 1][~inside].mean()
    print(f"{method:9} mean inside the lesions / outside: {ratio:.1f}")

# %% [markdown]
# **Seen:** three maps of one shape, each 0 or more, and an image's score is the mean of its map. The lines above say how much brighter each map is inside the two lesions than elsewhere in the same images: with two images and seconds of training an illustration, not a result.

# %%
parameters = {**config.as_dict(), "n_train": n_train, "train_sha256": dataset.train.fingerprint}
_ = save_results(out, parameters, {}, {"maps": maps_figure})

# %% [markdown]
# ## Try next
#
# - Set `learners = 5` and read `L_sim` of the later ones: more seniors, one mean.
# - `config.layer` names the station Q_n; take `layer="en1"` in `TrainConfig` and follow the shapes.
# - Why CKA and no other similarity: [redundancy](02_redundancy.ipynb).
# - The method at work, measured: [quickstart](00_quickstart.ipynb), then [Table 2](12_table2.ipynb).
