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
# # Repulsion: what pushing learners apart does, and what a picture of it can show
#
# Figure 1 of the paper draws the idea of redundancy-aware repulsion (RAR): (a) disagreement on anomalies grows in feature space while reconstructions of normal images stay alike; (b) a t-SNE of three learners' features of anomalies lies in three heaps, "pushed away by RAR during training".
#
# **You will learn** how the similarity of learners moves while they are trained, with and without repulsion; what that does to reconstruction and to disagreement; and why three heaps in a t-SNE or UMAP prove nothing: three rotated copies of *one* learner lie in three heaps too.
#
# **Runs** in under a minute on a CPU, a third of it for UMAP, which is compiled at its first use (`neighbours = 0` leaves it out). To be that quick, one seed is trained here, on phantoms of 16 x 16 pixels; ten seeds trained in the same way are kept and stand beside it. What is said of numbers below is printed by the page, so that it stays true when you change them.
#
# The functions: Eq. (1) and (4) are `repulsion_loss` and `total_loss` in [`training.py`](../d2ue/training.py); Eq. (2) and (3) are `linear_cka`, `hsic` and `debiased_cka` in [`similarity.py`](../d2ue/similarity.py); the measures of this page are in [`features.py`](../d2ue/lessons/features.py) and [`diversity.py`](../d2ue/lessons/diversity.py).

# %% tags=["parameters"]
data: str = "phantom-chest"  # phantom, phantom-chest, or a folder with images/ and data.json
out: str = "results/repulsion"  # folder for the tables and pictures of this page
image_size: int = 16  # pixels a side (the paper: 64)
n_train: int = 256  # normal images to train on; 0 for all
n_test: int = 400  # test images to compare learners on; 0 for all
n_shown: int = 40  # test images in the embeddings
seeds: int = 1  # seeds 0, 1, ...: ensembles trained from scratch
kept: str = "kept"  # table of more seeds to stand beside them; kept: the project's own; "" for none
epochs: int = 20  # passes over the training images (the paper: 250)
batch_size: int = 32  # images a step (the paper: 64)
learning_rate: float = 0.002  # of Adam (the paper: 0.0005); higher, because there are few steps
learners: int = 3  # learners in an ensemble
repulsion_weight: float = 1.0  # lambda of Eq. (4), compared with 0
perplexity: int = 30  # of t-SNE; a quarter of it is shown too
neighbours: int = 15  # of UMAP; 0 leaves UMAP out
device: str = "auto"  # auto, cpu, cuda, mps

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from d2ue import TrainConfig, plotting
from d2ue import experiments as ex
from d2ue.lessons import diversity as dv
from d2ue.lessons import diversity_pictures as pictures
from d2ue.lessons import features as ft

dataset = dv.small_dataset(data, image_size, n_train, n_test)
train, test = dataset.train, dataset.labelled

# %%
# NBVAL_CHECK_OUTPUT
kinds = ["normal", "abnormal"]
images = {kind: test.images[test.labels == label] for label, kind in enumerate(kinds)}
print(f"{dataset.name}: {len(train)} normal images to train on, {image_size} x {image_size} pixels")
print(f"compared on {len(images['normal'])} normal and {len(images['abnormal'])} abnormal others")

# %% [markdown]
# ## While they are trained
#
# Learners are trained one after another. Learner n minimises
#
# $$\mathcal{L}_{orig} + \lambda\,\frac{1}{n-1}\sum_j \mathrm{CKA}(P_j, Q_n),$$
#
# where its seniors j are finished and frozen. So "during training" means: one learner moves, its seniors stand still. After every epoch the learner is asked for its feature z of images that nobody is trained on, and compared with each senior's.
#
# **Look for** the two families of lines, and for the right panel: nothing is repelled *on abnormal images*, which are not there in training. If their lines fall too, that is generalisation. Dotted lines are the CKA of Eq. (2), which is biased upwards; solid and dashed ones the debiased form, about 0 for unrelated features.

# %%
settings = dict(n_learners=learners, epochs=epochs, batch_size=batch_size, image_size=image_size)
base = TrainConfig(backbone="ae", learning_rate=learning_rate, **settings)
configs = [
    base.replace(seed=seed, repulsion_weight=weight)
    for seed in range(seeds)
    for weight in (0.0, repulsion_weight)
]
ensembles, history = ft.watch_training(configs, train, images, device=device)
curves_figure = pictures.similarity_by_epoch(history)
plt.show()

# %%
final = history[history["epoch"] == history["epoch"].max()]
last = final.groupby(["images", "seed", "repulsion_weight"])["debiased"].mean().unstack()
for kind in kinds:
    lower = (last.loc[kind].diff(axis=1).iloc[:, -1] < 0).sum()
    print(f"{kind} images: debiased CKA lower with repulsion in {lower} of {seeds} seeds")
    assert epochs < 4 or kind == "abnormal" or lower == seeds, "repulsion should lower similarity"
ratios = [ex.reconstruction_ratio(e, train, test.select(test.labels == 0)) for e in ensembles[:2]]
print("error on held-out normals / error of the mean training image, seed 0:", end=" ")
print("{:.2f} without, {:.2f} with repulsion".format(*ratios))
last.groupby("images").agg(["mean", "min", "max", "count"]).round(2)

# %% [markdown]
# **Seen**: without repulsion learners that never heard of each other end alike, CKA close to 1, because the same images teach them the same; that is the redundancy which the paper is about. With repulsion the similarity falls within a few epochs, on normal images, where it is trained, and on abnormal ones, where it is not.
#
# ## Every pair, at the end
#
# Seed 0. **Look for** the difference between the two CKAs of a pair: here they are close to each other; of unrelated features as wide as 1024 values, 64 images would give 0.94 and 0.00.

# %%
rows = {"no repulsion": ensembles[0], "repulsion": ensembles[1]}
features = {name: ensemble.features(test.images, "z") for name, ensemble in rows.items()}
matrices_figure = pictures.similarity_matrices(ft.class_matrices(features, test.labels), "CKA")
plt.show()

# %% [markdown]
# ## What a picture of the features shows
#
# Now the paper's Figure 1b, with what it leaves out. All learners' features z go into one heap, and t-SNE or UMAP lays them out in the plane. The **third row is a control**: learner 1 of the unrepelled ensemble, three times, the second and third time *rotated* in feature space (`rotated_copies`). A rotation changes coordinates and nothing else: what the copies say of the images is the same, their CKA is 1, and an ensemble of them would be one learner.
#
# **Look for** heaps by colour (learners), in each of the three rows, and whether you could tell the rows apart without their names.

# %%
features["rotated copies"] = ft.rotated_copies(features["no repulsion"][0], learners)
shown = np.concatenate([np.flatnonzero(test.labels == i)[: n_shown // 2] for i in (0, 1)])
columns = {f"t-SNE {perplexity}, seed {seed}": ("tsne", seed, perplexity) for seed in (0, 1)}
columns[f"t-SNE {perplexity // 4}, seed 0"] = ("tsne", 0, perplexity // 4)
columns |= {f"UMAP {neighbours}, seed 0": ("umap", 0, neighbours)} if neighbours else {}
seen = {row: every[:, shown] for row, every in features.items()}
panels = {(row, name): ft.embed(seen[row], *how) for row in seen for name, how in columns.items()}
embeddings_figure = pictures.embeddings(panels, test.labels[shown])
plt.show()

# %% [markdown]
# ## What does not depend on a picture
#
# Means over pairs of learners. **CKA** (1 = the same, up to rotation and scale); its **debiased** form; the **distance** of two learners' features of one image, relative to the distance of two images (it sees coordinates, as embeddings do); **Procrustes**, what is left of it after the best rotation and scale (0 = the same, 1 = nothing in common). Below them, how far apart the learners lie in feature space and in every picture (silhouette: 0 = heaps over one another, 1 = tight and far apart).

# %%
numbers = ft.feature_table(features, test.labels)
numbers.round(2)

# %%
ft.separation_table(seen, panels).round(2)

# %%
# NBVAL_CHECK_OUTPUT
copies = numbers.loc["rotated copies"]
assert copies["CKA"].min() > 0.999 and copies["Procrustes"].max() < 0.001
assert numbers["distance"].min() > 1, "the text says that learners lie further apart than images"
in_heaps = {row: ft.separation(every) > 0.05 for row, every in seen.items()}
print("learners lie apart in feature space:", in_heaps)
assert epochs < 10 or (in_heaps["no repulsion"] and in_heaps["rotated copies"])

# %% [markdown]
# **Seen**: heaps do not come from repulsion.
#
# - Learners that were *not* repelled lie in heaps, and so do rotated copies of one learner, whose CKA is 1 and whose Procrustes distance is 0. The repelled ones lie in looser heaps than both.
# - Features that start from different random weights have coordinates that have nothing to do with each other, so an embedding of raw features keeps them apart. The distances say the same: in all three rows two learners' features of one image are further apart than two images' (above 1).
# - What tells the rows apart is what ignores coordinates: CKA and Procrustes.
#
# So Figure 1b may be true, and it shows nothing of repulsion; the curves above do.
#
# ## What happens to reconstruction, and to disagreement
#
# The idea of Figure 1a: normal images should still be reconstructed as well, and alike; on anomalies disagreement should grow. Measured on images nobody was trained on, here over the ten kept seeds. The error is the mean square over pixels of -1 to 1. **Unc** is output-space uncertainty, the standard deviation of the reconstructions over learners (Eq. 5), averaged over pixels and images.
#
# **Look for** the sign of each line and whether the seeds agree on it; above all in the two panels of ratios, on the right: repulsion helps to find anomalies only if disagreement grows *more* on abnormal images than on normal ones.

# %%
table = dv.ensemble_table(ensembles, dataset)
file = pages.kept(kept, "repulsion/seeds.csv")
many = pd.read_csv(file) if file else table
paired_figure = plotting.paired_by_seed(many, dv.QUANTITIES)
plt.show()

# %%
for name, rows in ({"trained here": table} | ({"kept": many} if file else {})).items():
    changes = dv.effects(rows, dv.QUANTITIES)
    print(f"{name}: means over n = {rows.seed.nunique()}; factor with lowest to highest seed")
    print(*dv.effect_lines(changes), sep="\n")

# %% [markdown]
# **Seen in the ten kept seeds**: more disagreement, and no better one.
#
# - Repulsion is not free: the error on normal images is 1.7 times as high, and higher in every seed. Learners that must also differ reconstruct worse.
# - Learners disagree more on *all* images: Unc grows by 37 % on normal and on abnormal ones. Its ratio stays where it was (factor 1.00, higher in 5 of 10 seeds).
# - The ratio of DSU falls, in nine of ten seeds.
#
# Whether this is so after 250 epochs on real images is measured in [Table 2](12_table2.ipynb), whose last section tests the paper's sentence: there repulsion cost reconstruction with two of three backbones, and disagreement grew on normal images about as much as on abnormal ones.

# %%
parameters = {"data": dataset.name, "train_sha256": train.fingerprint, "seeds": seeds, **settings}
parameters |= {"learning_rate": learning_rate, "repulsion_weight": repulsion_weight}
tables = {"history": history, "features": numbers, "ensembles": table, "changes": changes}
figures = {"curves": curves_figure, "matrices": matrices_figure, "embeddings": embeddings_figure}
_ = ex.save_results(out, parameters, tables, figures | {"paired": paired_figure})

# %% [markdown]
# ## Next
#
# - `epochs = 30`, or `image_size = 64` with `batch_size = 64` and `learning_rate = 0.0005`, the paper's: do the lines of the first picture move together again?
# - `repulsion_weight = 10`: does the last row of pictures change its sign?
# - Real images: set `data` above to their folder, and the size, batch and rate of the first point; the folder needs a `data.json` that lists test images.
# - [Diversity and performance](06_diversity.ipynb) asks the question behind it: do more diverse learners find more anomalies?
