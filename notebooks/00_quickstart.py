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
# # Quickstart: an anomaly is where learners disagree
#
# Several autoencoders learn to reconstruct the same normal images. On a new normal image they should agree; on an image with something they never saw, each improvises in its own way. D2UE (Gu, Lin, Cheng, Chen, MICCAI 2024) does two things with that:
#
# - **Redundancy-aware repulsion (RAR)** makes them more different: each learner is pushed away from its seniors *in feature space*, so that they improvise differently.
# - **Dual-space uncertainty (DSU)** is meant to read the disagreement better: not of the outputs alone, but of *input gradient times reconstruction error*.
#
# On this page both are trained and measured, in a minute, on small drawn radiographs (16 x 16 pixels). You will see the images, what the learners make of them, the three score maps beside the truth, and the table that decides. One seed is trained before your eyes; the table is of ten, which were trained the same way and kept ([seeds.csv](../figures/quickstart/seeds.csv)), because one seed decides nothing.
#
# How the settings were chosen: sizes and epochs are the cheapest of a handful with which learners converge (error on held-out normal images at most a quarter of the mean image's), found on seeds 100 and 101, which the page does not use. Which score wins played no part. These are not the paper's numbers: those need its images and 250 epochs, and stand in [figures](../figures/README.md).

# %% tags=["parameters"]
data: str = "phantom-chest"  # phantom-chest, phantom, or a folder with images/ and data.json
out: str = "results/quickstart"  # folder for the tables and pictures of this page
image_size: int = 16  # pixels a side (the paper: 64)
n_train: int = 512  # normal images to train on; 0 for all
n_test: int = 400  # test images to score; 0 for all
seeds: int = 1  # seeds 0, 1, ...: ensembles trained from scratch
epochs: int = 22  # passes over the training images (the paper: 250)
batch_size: int = 32  # images a step (the paper: 64; smaller gives more steps for the time)
learning_rate: float = 0.002  # Adam's (the paper: 0.0005 for ae; there are fewer steps here)
backbone: str = "ae"  # ae, memae or aeu
learners: int = 3  # learners in an ensemble
repulsion_weight: float = 1.0  # lambda of Eq. (4), compared with 0
device: str = "auto"  # auto, cpu, cuda, mps
progress: bool = False  # progress bars; they clutter a page that is kept

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %% [markdown]
# ## The images
#
# Training sees normal images only. The test set holds normal and abnormal ones; their labels are used for judging, never for training.
#
# **Look for** how much normal images differ among themselves: a score that only measures "unusual" will stumble over that. Green outlines mark the lesions where the data set comes with masks (a folder does not).

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from d2ue import TrainConfig, image_scores, plotting, score_maps, train_ensembles
from d2ue import experiments as ex
from d2ue.lessons.diversity import small_dataset

dataset = small_dataset(data, image_size, n_train, n_test)
train, test = dataset.train, dataset.labelled

# %%
# NBVAL_CHECK_OUTPUT
normals, abnormals = test.select(test.labels == 0), test.select(test.labels == 1)
print(f"{dataset.name}: {len(train)} normal images to train on")
print(
    f"test: {len(normals)} normal and {len(abnormals)} abnormal, {test.image_size} x {test.image_size}"
)

# %%
rows = {"normal": normals.images[:8], "abnormal": abnormals.images[:8]}
masks = None if test.masks is None else {"abnormal": abnormals.masks[:8]}
images_figure = plotting.image_rows(rows, masks)
plt.show()

# %% [markdown]
# ## Training: agree on normal images, in different ways
#
# Learner $n$ minimises its reconstruction loss plus its mean similarity to the $n-1$ learners before it ([`training.py`](../d2ue/training.py), Eq. 1 and 4):
#
# $$\mathcal{L}_{total} = \mathcal{L}_{orig} + \lambda\,\mathcal{L}_{sim}, \qquad \mathcal{L}_{sim} = \frac{1}{n-1}\sum_{j=1}^{n-1} \mathrm{CKA}(P_j, Q_n)$$
#
# where $P_j$ and $Q_n$ are the learners' features of the batch. Centred kernel alignment ([`similarity.py`](../d2ue/similarity.py), Eq. 2 and 3) compares which images a learner finds alike, and so cannot be fooled by scaling or rotating the features:
#
# $$\mathrm{CKA}(P, Q) = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}, \quad K = PP^\top,\; L = QQ^\top$$
#
# Ensembles with $\lambda = 0$ and with repulsion are trained for every seed, in one call a seed: both start from the same first learner, which is trained once.

# %%
settings = dict(backbone=backbone, n_learners=learners, epochs=epochs, batch_size=batch_size)
settings["learning_rate"] = learning_rate
weights = {0.0: "none"} | {repulsion_weight: "repulsion"}
ensembles = []
for seed in range(seeds):
    both = [
        TrainConfig(seed=seed, repulsion_weight=weight, image_size=test.image_size, **settings)
        for weight in weights
    ]
    ensembles += train_ensembles(both, train, device=device, progress=progress)
plain, repelled = ensembles[0], ensembles[len(weights) - 1]  # of seed 0, for the pictures

# %% [markdown]
# **Look for** the right panel: with repulsion the similarity of later learners to their seniors falls towards 0 within a few epochs. The left panel shows what that costs: how far the dashed reconstruction losses lie above the solid ones (the first learner has no seniors, so its two lines are one).

# %%
curves_figure = plotting.training_curves({"no repulsion": plain, "repulsion": repelled})
plt.show()

# %%
ratios = [ex.reconstruction_ratio(ensemble, train, normals) for ensemble in ensembles]
print("error on held-out normals / error of the mean training image:")
print(f"{np.mean(ratios):.2f} on average, {max(ratios):.2f} at worst ({len(ratios)} ensembles)")
as_committed = (data, image_size, n_train, epochs, batch_size, learning_rate) == (
    "phantom-chest", 16, 512, 22, 32, 0.002,
)  # fmt: skip
assert not as_committed or max(ratios) <= 0.3, "at the defaults learners converge"

# %% [markdown]
# A ratio of 1 would mean that the learners know no more than the average image; the closer to 0, the more of each image they have understood.
#
# ## What the learners make of an image
#
# Two normal and two abnormal test images, taken at the same ranks of the DSU score in their class (the median and the top tenth), not picked by hand. **Look for** the lesion: the learners paint over it with something they know, and the error of their mean (last column) shows where, together with every fine detail they cannot draw either.

# %%
scores = {m: image_scores(repelled, test.images, m) for m in ("ensemble", "output", "dual")}
shown = test.select(ex.examples(test, scores["dual"]))
titles = ["abnormal" if label else "normal" for label in shown.labels]
outputs = repelled.reconstruct(shown.images).numpy()
reconstructions_figure = plotting.reconstructions(shown.images, outputs, titles, shown.masks)
plt.show()

# %% [markdown]
# ## Three scores
#
# All are maps over the pixels ([`uncertainty.py`](../d2ue/uncertainty.py)); an image's score is the mean of its map, and higher means more abnormal. With $D$ the standard deviation over the learners $f_i$:
#
# - **Ens**, the error of the mean reconstruction: $(X - \overline{f(X)})^2$
# - **Unc**, output-space uncertainty (Eq. 5): $D(f_i(X))$
# - **DSU**, dual-space uncertainty (Eq. 6): $D\big(\nabla_X \mathcal{L}_i \odot |f_i(X) - X|\big)$
#
# **Look for** what lights up inside the outline and what lights up elsewhere. Each column has one colour scale for its four images, so rows can be compared within a column, not across; the brightest 0.5 % of its pixels share the last colour.

# %%
maps = {method: score_maps(repelled, shown.images, method) for method in scores}
maps_figure = plotting.score_maps(shown.images, maps, titles, shown.masks)
plt.show()

# %% [markdown]
# One image proves nothing; what counts is how far the two classes' scores lie apart over the whole test set. **Look for** the overlap: the less of it, the higher the AUC.

# %%
histograms_figure = plotting.score_histograms(scores, test.labels)
plt.show()

# %% [markdown]
# ## Which score finds the anomalies?
#
# AUC is the chance that an abnormal image scores higher than a normal one (50 = guessing). AP is the average precision, whose chance level is the share of abnormal images. Both are of the ensemble's score, in percent. First the seed trained above, then ten seeds, mean ± standard deviation: **look for** how far one seed can be from the mean.

# %%
table = ex.score_table(ensembles, test)
print(f"chance: AUC 50, AP {100 * test.labels.mean():.0f}")
ex.paper_layout(table)

# %%
# NBVAL_CHECK_OUTPUT
ten = pd.read_csv(pages.kept("kept", "quickstart/seeds.csv")) if as_committed else table
print(f"{ten['seed'].nunique()} seeds; error ratio {ten['ratio'].mean():.2f} on average, "
      f"{ten['ratio'].max():.2f} at worst" if as_committed else "your own seeds")  # fmt: skip
ex.paper_layout(ten)

# %%
seeds_figure = plotting.auc_by_seed(ten, weights)
plt.show()

# %% [markdown]
# The paper's claims, read off this table (a claim that holds in every seed of a few is a hint, not a proof):

# %%
# NBVAL_CHECK_OUTPUT
print(*ex.readings(ten), sep="\n")

# %%
parameters = {"data": dataset.name, "train_sha256": train.fingerprint, "seeds": seeds, **settings}
parameters |= {"repulsion_weight": repulsion_weight, "n_train": len(train), "n_test": len(test)}
tables = {"scores": table.set_index("seed"), "summary": ex.summarise(table)}
figures = {"images": images_figure, "training": curves_figure, "maps": maps_figure}
figures |= {"reconstructions": reconstructions_figure, "histograms": histograms_figure}
_ = ex.save_results(out, parameters, tables, figures | {"auc_by_seed": seeds_figure})

# %% [markdown]
# ## What this page does not show
#
# **Seen in ten seeds**: learners converge (error ratio 0.13 to 0.18 without repulsion, 0.19 to 0.37 with it).
#
# - DSU raises Unc in each of ten seeds, by 13.5 points on average.
# - Repulsion does not raise Unc: in 3 of 10 seeds, by -0.6 on average. It costs reconstruction, and DSU with it is 6.9 points lower.
# - The plain reconstruction error beats all of it, by 20 points over both together: on these drawings a lesion is what cannot be reconstructed.
#
# On real images the picture is another one for each set and backbone: [what holds](../figures/claims.md).
#
# The phantoms were drawn to look like radiographs and were not tuned to any score; which score wins on them says nothing about a clinic. And a few hundred steps on 16 x 16 pixels are not 250 epochs on 64 x 64.
#
# ## Next
#
# - Change a parameter above and run again: `backbone = "aeu"`, which also predicts how sure it is of each pixel, changes the picture most.
# - The same page on your images: `d2ue reproduce quickstart --data FOLDER -p image_size=64 -p epochs=250 -p batch_size=64 -p learning_rate=0.0005 -p n_train=0 -p n_test=0`.
# - Train and score without a notebook: `d2ue fit FOLDER --out RUN`, then `d2ue score RUN FOLDER --method dual --out scores.csv`.
