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
# # Redundancy: learners that look different and compute the same
#
# *Fig. 3 of the paper. Under a minute on a laptop's CPU; nothing is downloaded.*
#
# Redundancy-aware repulsion pushes learners apart in feature space, so that they disagree where it matters. But a network can change its features and leave its function exactly as it is. A similarity that takes such a change for a difference is *fooled*: the training loss falls, and the learners still agree everywhere. This page makes such copies and tries every similarity of Table 3 on them.
#
# **You will learn**
#
# - how to change a learner's features without changing one output, and where a network allows it ([`equivalent.py`](../d2ue/lessons/equivalent.py));
# - which similarities are fooled by which change: the reason why the paper takes CKA ([`similarity.py`](../d2ue/similarity.py), Eq. 2 and 3);
# - what fools CKA too, which the paper's figure leaves out: single neurons made louder;
# - how far CKA is biased upwards, and when that matters;
# - how hard each similarity pushes at the first step, and how much of that is a matter of reading the paper.
#
# The learners are those of the [quickstart](00_quickstart.ipynb), small and converged on phantoms. The page shows mechanisms, not which similarity wins ([Table 3](13_table3.ipynb) measures that).

# %% tags=["parameters"]
image_size: int = 16  # pixels a side: 16, 32, 64, ...; every network has its z of 16 values
n_train: int = 512  # phantoms to train on and to measure with; at least 128
epochs: int = 22  # passes over them
batch_size: int = 32  # images a training step
cka_batch: int = 64  # B: images that a similarity is computed from (the paper's batch size)
draws: int = 6  # random copies behind every number; twice as many batches
out: str = "results/redundancy"  # folder for the tables and pictures of this page

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
import matplotlib.pyplot as plt
import numpy as np

from d2ue import image_scores
from d2ue.experiments import save_results
from d2ue.lessons import equivalent, redundancy
from d2ue.lessons import redundancy_pictures as pictures

specimens = redundancy.specimens(image_size, n_train, epochs, batch_size)
learner, pair = specimens.learner, specimens.pair
x, exact = specimens.x, specimens.x[:cka_batch].double()
print("L_orig of the two AE after the first epoch and at the end:")
print(*(f"{history[0]['loss']:.3f} -> {history[-1]['loss']:.4f}" for history in pair.history))

# %% [markdown]
# ## One function, five features
#
# The bottleneck *z* (16 values an image) is the feature that the paper repels. Each copy below is the same learner with *z* changed, P → P M, and the change undone in the weights that read *z*:
#
# - `scaled`: all of *z* times one factor; `permuted`: its neurons in another order. These two are the paper's Fig. 3.
# - `neuron-rescaled`: every neuron times a factor of its own. `rotated`: *z* turned by a random orthogonal matrix.
#
# The last column is no copy of *z*: there the rotation was done in the first layer, before a ReLU, and undone after it.
#
# **Look for** the upper row, in which no two features are equal, and for the number below each output: its largest difference to the learner's own.

# %%
copies, figures = redundancy.copies(learner), {}
figures["copies"], differences = pictures.copies(copies, exact[:8])
plt.show()
assert [name for name, d in differences.items() if d > 1e-10] == ["rotated before ReLU"]

# %% [markdown]
# **Seen:** four copies give the learner's output to the last digits of double precision (the cell asserts 1e-10), the fifth does not. So what would an ensemble of the learner and a copy be worth? Here are the mean uncertainties over the images, of a pair that is one function and of two learners that were trained apart:

# %%
redundant = redundancy.pair_of(learner, copies["rotated"], pair.config)
for name, two in {"learner and rotated copy": redundant, "two learners": pair}.items():
    unc, dsu = (image_scores(two, specimens.images[:64], m).mean() for m in ("output", "dual"))
    print(f"{name:25} Unc {unc:.1e}   DSU {dsu:.1e}")
    assert (unc < 1e-5) == (two is redundant)

# %% [markdown]
# Both uncertainties of the redundant pair are rounding (single precision): such an ensemble of two is one learner at twice the cost. A similarity must not take it for a diverse one.
#
# ## Where a network allows it
#
# A positive factor passes through a ReLU, neuron by neuron, and so does an order. A rotation mixes neurons, and a ReLU of a mixture is not the mixture of ReLUs. At layers that give maps, a neuron is a channel.
#
# **Look for** the right column of each panel: the two layers at which a rotation is free. (Where BatchNorm precedes the ReLU, the factor has to go into BatchNorm's own weights: what is put in before it is divided out again.)

# %%
survival = redundancy.survival(specimens.networks, exact[:2])
figures["survival"] = pictures.survival(survival)
plt.show()
assert (survival[survival["expected"]]["difference"] < 1e-10).all()
assert (survival[~survival["expected"]]["difference"] > 1e-7).all()
free = survival[(survival["transformation"] == "rotated") & survival["expected"]]
print("a rotation is free at:", ", ".join(free["layer"].unique()))

# %% [markdown]
# **Seen:** scaling, order and single-neuron factors are free everywhere, in all three backbones. A rotation is free only where a linear map ends without a ReLU: *z* (in MemAE the memory's items are rotated with it) and the decoder's first layer. What counts is the gap to rounding.
#
# The paper asks of a similarity that it ignore *every* orthogonal transformation. At most layers only the permutations among them leave the function alone; ignoring the others there is a choice, not a need.
#
# ## Which similarity is fooled?
#
# Each similarity between *z* of the learner and *z* of its copies: 1 means "the same", and the function *is* the same. Anything lower is a reward for nothing. `none`, Table 3's first row, is 0 throughout and left out. **Our reading:** the paper defines CKA only; the four others are taken image by image over the values of *z*, then averaged over the batch.
#
# **Look for** cells that are not 1 (mean over draws, below it the smallest and largest).

# %%
table = redundancy.similarity_to_copies(pair.network.replica(0), x[:cka_batch], "z", draws)
figures["fooled"] = pictures.fooled(table)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for name, kinds in redundancy.fooled_by(table).items():
    print(f"{name:12} is fooled by {', '.join(kinds)}")

# %% [markdown]
# **Seen:** the two distances are fooled by everything. Cosine and Pearson see through one common factor and nothing else. CKA, biased or not, sees through scaling, order and rotation: Table 3's ticks. And every one of them is fooled by single neurons rescaled.
#
# ## What the paper's figure hides
#
# So CKA is not blind to all redundancy. How far can it be talked down while the function stays the same? Make *one* neuron louder by a factor *a*, and whoever reads it deafer by as much. **Look for** how low the lowest lines end, and where: a is on a logarithmic axis.

# %%
factors = np.geomspace(1, 1000, 25)
curves = {k: redundancy.rescaled_neurons(learner, exact, k, factors) for k in ("z", "en2")}
figures["neurons"] = pictures.rescaled_neurons(curves, factors)
plt.show()

# %%
loudest = np.where(np.arange(16) == curves["z"][:, -1].argmin(), factors[-1], 1.0)
loud = equivalent.neuron_rescaled(learner, "z", loudest)
assert equivalent.output_difference(learner, loud, exact) < 1e-9
for layer, values in curves.items():
    low, middle = values[:, -1].min(), np.median(values[:, -1])
    print(f"{layer}: CKA falls to {low:.2f} by the worst neuron, {middle:.2f} by the median")
    assert low < 0.9 and (layer != "z" or low < 0.5)

# %% [markdown]
# **Seen:** one loud neuron of *z* takes most of the similarity away, with the outputs unchanged (asserted to 1e-9 at a = 1000). A feature that one neuron dominates is compared by that neuron alone. Nothing in Eq. 4 forbids a learner to go this way instead of learning to see differently; whether training does is a question for trained ensembles, and CKA alone cannot answer it. Measures of the *outputs'* disagreement can.
#
# ## Biased and debiased CKA
#
# CKA of features that have *nothing* in common should be 0. The paper's estimator (Eq. 3) is biased: with B images and d values an image, two clouds of Gaussian noise have a CKA of about d / (B + d), because d directions are enough to fit much of B points by chance. The debiased estimator (Song et al. 2012) is `debiased-cka`.
#
# **Look for** B = 64, the paper's batch: at d = 16 (its *z*), and at the right end. A dot is the mean of 2 × `draws` pairs of features, its bar one standard deviation; so in the next picture, over batches.

# %%
bias = redundancy.bias((16, 64, 256), (4, 16, 64, 256, 1024), 2 * draws)
figures["bias"] = pictures.bias(bias)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
means = bias.groupby(["batch", "width"])[["cka", "expected", "debiased-cka"]].mean()
for width in (16, 1024):
    biased, expected, debiased = means.loc[64, width]
    print(f"B = 64, d = {width}: biased CKA {biased:.2f}, d / (B + d) = {expected:.2f}")
    assert abs(debiased) < 0.02
assert (means["cka"] - means["expected"]).abs().max() < 0.03

# %% [markdown]
# **Seen:** 0.20 at *z* and 0.94 at a width of 1024, for noise. Dots follow the formula to 0.03; the debiased estimate stays within 0.02 of 0 at B = 64 and has a wider spread in small batches.
#
# Does a layer ablation with biased CKA then measure bias? That holds for features whose values are independent of each other. Those of a network are not. Take two learners trained apart, and compare the feature of one on some images with that of the other on *other* images: what is left is the bias of real features. **Look for** the triangles, against the black bars of the formula.

# %%
by_layer = redundancy.bias_by_layer(pair.network, x, cka_batch, 2 * draws)
figures["bias_by_layer"] = pictures.bias_by_layer(by_layer)
plt.show()
real = by_layer[by_layer["images"] == "unrelated"].groupby("layer").mean(numeric_only=True)
print(real.agg(["min", "max"])[["cka", "expected", "debiased-cka"]].round(2).to_string())
assert (real["cka"] < real["expected"] / 2).all() and real["debiased-cka"].abs().max() < 0.03

# %% [markdown]
# **Seen:** the bias is there, but below half of the formula at every layer (asserted; the table gives smallest and largest). A map of a thousand values varies along a few directions only, and it is those that count. So between these learners biased and debiased CKA say nearly the same of the same images. One caution: the learners were not repelled, and repulsion may spread a feature over more directions. Run this cell on your own ensembles before you trust either number.
#
# ## How hard does each one push?
#
# A similarity can only repel if it has a gradient. Here the second learner is about to take its first step: fresh weights, the trained first learner as its senior. Shown is the norm of the similarity's gradient over that of L_orig, both of the weights up to the layer that is repelled, at λ = 1. "A distance" can be read in several ways, and neither paper nor code decides:
#
# - *image by image* (ours), *neuron by neuron*: exp(-distance) of each, then the mean;
# - *whole batch*: exp(-distance) of two long vectors; *mean difference*: the same, the mean over their entries in place of the sum (of Euclidean the root of the mean square).
#
# **Look for** crosses (the gradient is exactly 0, or below 1e-24) and for how far the two distances travel from one reading to the next.

# %%
first = pair.network.replica(0)
gradients = {k: redundancy.start_gradients(first, x, pair.config, k) for k in ("z", "en1")}
figures["gradients"] = pictures.start_gradients(gradients)
plt.show()

# %%
by = ["similarity", "reading"]
ratio, wide = (gradients[layer].groupby(by)["ratio"].mean() for layer in ("z", "en1"))
print(ratio[["cka", "manhattan"]].map("{:.0e}".format).to_string())
assert ratio["manhattan", "whole batch"] == 0 == wide["manhattan", "image by image"]
assert ratio[["cka", "cosine", "pearson"]].min() > 3
assert 0.01 < ratio["manhattan", "mean difference"] < 0.3
assert ratio["manhattan", "image by image"] < 1e-6

# %% [markdown]
# **Seen** (all asserted), at *z*:
#
# - CKA, cosine and Pearson push more than three times as hard as L_orig, whatever the reading.
# - For the distances the reading decides. Manhattan as a mean difference pushes 0.01 to 0.3 times as hard as L_orig, image by image less than a millionth, and over the whole batch it underflows: it *is* `none`.
# - At a wide layer (en1) Manhattan's image-by-image reading is exactly 0 too.
#
# Where Table 3 ranks the distances next to `none`, the reading may be all that is ranked.
#
# Gradients were drawn for a handful of initial networks (a dot each). Adam rescales a gradient's size, so that what counts is its size next to that of L_orig, as drawn, and only at the start: later both change.

# %%
parameters = {"image_size": image_size, "n_train": n_train, "epochs": epochs}
parameters |= {"batch_size": batch_size, "draws": draws, "B": cka_batch}
tables = {"survival": survival, "copies": table, "bias": bias, "bias_by_layer": by_layer}
tables |= {f"gradients_{layer}": frame for layer, frame in gradients.items()}
_ = save_results(out, parameters, tables, figures)

# %% [markdown]
# ## Try next
#
# - `image_size = 64`: the paper's network; are the loud neurons of *z* as effective there?
# - Repel the pair (`repulsion_weight=1.0` in `redundancy.specimens`) and look at the triangles again: does repulsion spread *z* over more directions?
# - Write a similarity that no positive factor on a neuron can fool (hint: standardise each neuron over the batch) and add it to the heat map. What does it ignore that it should not?
# - [Table 3](13_table3.ipynb): what the choice does to the AUC. [Table of ablations](14_ablations.ipynb): what the layer does.
