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
# # Heat maps: where does the score light up? (Fig. 4)
#
# The paper's Fig. 4 shows a few radiographs, each with a red box around the finding, and maps on which D2UE "can significantly emphasize abnormal regions". A few pictures can show anything. On this page you will learn
#
# - to read such maps without being fooled: the same colours for all images, images that nobody picked, and the worst ones too;
# - six ways to put "it lights up at the right place" into a number, for outlines and for boxes;
# - why each of them has to be held against maps that know nothing at all. A lesion is often bright and seldom at the edge, so *the middle of the image* and *the image itself* are maps as well.
#
# At the committed defaults the images are built-in phantoms, whose lesions are known to the pixel, and the page runs about half a minute on two cores: the learners are barely trained. On your own images with boxes (a `boxes.json` beside `data.json`, `{"NAME": [[x0, y0, x1, y1], ...]}` in fractions of width and height) it is the same page; what it gave on Brain MRI stands in [`figures/brain-mri/heat_maps`](../figures/brain-mri/heat_maps).

# %% tags=["parameters"]
data: str = "phantom"  # phantom, phantom-chest, or a folder with images/, data.json and boxes.json
out: str = "results/heat_maps"  # folder for the tables and pictures of this page
store: str = ""  # folder where learners are kept and found again (absolute); empty keeps none
n_train: int = 512  # normal images to train on; 0 for all
n_test: int = 200  # test images; 0 for all
seed: int = 0  # of weights and shuffles
epochs: int = 4  # passes over the training images (the paper: 250)
batch_size: int = 16  # images a step (the paper: 64; smaller gives more steps for the time)
backbone: str = "ae"  # ae, memae or aeu
learners: int = 3  # learners in the ensemble
repulsion_weight: float = 1.0  # lambda of Eq. (4); 0 for none
draw: int = 0  # seed of the images drawn at random
resamples: int = 400  # bootstrap samples behind the intervals
device: str = "auto"  # auto, cpu, cuda, mps
progress: bool = False  # progress bars; they clutter a page that is kept

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %% [markdown]
# ## Images, and what is known of them
#
# Training sees normal images only. Of the abnormal test images a **mask** (phantoms) or **boxes** say where the abnormal is. A box is a rough truth: its corners are normal tissue. And an image without a box is not a normal image, only one that nobody annotated; it is left out of the numbers below.

# %%
# NBVAL_CHECK_OUTPUT
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from d2ue import TrainConfig, load, plotting, score_maps, train_ensemble
from d2ue import experiments as ex
from d2ue.lessons import localisation
from d2ue.store.learners import Store

dataset = load(data, progress=progress)
train, test = dataset.train.sample(n_train), dataset.labelled.sample(n_test)
cover, exact = localisation.truth_cover(test)  # share of each pixel inside the mask or a box
abnormal, known = test.labels == 1, cover.any((1, 2, 3))
area = 100 * cover[known].mean((1, 2, 3))
print(f"{dataset.name}: {len(train)} normal images to train on")
print(f"to test on: {(~abnormal).sum()} normal, {abnormal.sum()} abnormal")
print(f"{known.sum()} with a {'mask' if exact else 'box'}; median area {np.median(area):.1f} %")

# %% [markdown]
# Learners that repel each other, trained one after another as in every lesson ([`training.py`](../d2ue/training.py), Eq. 1 and 4). If a `store` holds them already, nothing is trained.

# %%
settings = dict(backbone=backbone, n_learners=learners, epochs=epochs, batch_size=batch_size)
settings |= {"repulsion_weight": repulsion_weight, "seed": seed, "image_size": test.image_size}
config = TrainConfig(**settings)
kept = Store(store) if store else None
ensemble = train_ensemble(config, train, device=device, progress=progress, store=kept)

# %% [markdown]
# ## The maps
#
# With $f_i$ the learners and $D$ the standard deviation over them ([`uncertainty.py`](../d2ue/uncertainty.py) has a function for each):
#
# - **Ens** [`ensemble_map`](../d2ue/uncertainty.py): the error of the mean reconstruction, $(X - \overline{f(X)})^2$
# - **Unc** [`output_map`](../d2ue/uncertainty.py), output-space uncertainty (Eq. 5): $D(f_i(X))$
# - **DSU** [`dual_map`](../d2ue/uncertainty.py), dual-space uncertainty (Eq. 6), the paper's D2UE: $D\big(\nabla_X \mathcal{L}_i \odot |f_i(X) - X|\big)$
#
# An image's score is the mean of its map. **One colour scale a method**, from 0 to the value that 0.5 % of *all* test pixels exceed (those share the last colour), the same in the three figures below: so a dark map is a low map, and columns must not be compared by colour, since their units differ.

# %%
methods, names = ("ensemble", "output", "dual"), ex.ROW_NAMES
maps = {method: score_maps(ensemble, test.images, method) for method in methods}
tops = {method: float(np.quantile(values, 0.995)) for method, values in maps.items()}
means = ensemble.reconstruct(test.images).numpy().mean(0)
scores = maps["dual"].mean((1, 2, 3), dtype=np.float64)


def show(which):
    shown, short = test.select(which), {names[m]: maps[m] for m in methods}
    table = localisation.per_image(test, which, scores, short)
    titles = [f"{row.label}\n{row.rank}" for row in table.itertuples()]
    own = [shown.images, means[which], {m: values[which] for m, values in maps.items()}]
    return plotting.heat_maps(*own, titles, tops, shown.masks, shown.boxes), table


# %% [markdown]
# ### Chosen by rank
#
# Two normal and two abnormal images, at the median and at the top tenth of the DSU scores of their class. The text at the left says the class and the rank among all test images, 1 being the highest score. Truth: outline or red box, repeated in thin green on the maps. **Look for** how much of each map is at the skull and at fine detail, in normal images as well, before you look at the lesion.

# %%
ranked_figure, ranked = show(ex.examples(test, scores))
plt.show()

# %% [markdown]
# **Seen:** the eye forgives much, so here is what is inside, in percent of the image's area and of each map's sum. A map that shines at random has as much of its sum inside as the truth has area.

# %%
ranked

# %% [markdown]
# ### Drawn at random
#
# Four abnormal images out of a hat. **Look for** whether they look like the ones above, and how often the brightest spot is somewhere else.

# %%
drawn_figure, drawn = show(ex.drawn_examples(test, seed=draw))
plt.show()

# %%
drawn

# %% [markdown]
# ### The worst
#
# The two normal images with the highest scores, then the two abnormal ones with the lowest: what a threshold on the score gets wrong first. **Look for** a reason. Is the normal image unusual, noisy or just bright? Is the missed lesion small, faint, or does it look like something that belongs there?

# %%
worst_figure, worst = show(ex.worst_cases(test, scores))
plt.show()

# %%
worst

# %% [markdown]
# A score that adds up a map also adds up contrast and noise. The numbers below say how much of these ranks is just that: the correlation of the score with how bright and how rich in contrast an image is, within each class.

# %%
for name, part in (("normal", ~abnormal), ("abnormal", abnormal)):
    grey, contrast = test.images[part].mean((1, 2, 3)), test.images[part].std((1, 2, 3))
    found = [spearmanr(scores[part], values).statistic for values in (grey, contrast)]
    print(f"{name}: rank correlation with grey {found[0]:+.2f}, with contrast {found[1]:+.2f}")

# %% [markdown]
# ## In numbers, against maps that know nothing
#
# [`localisation.py`](../d2ue/lessons/localisation.py) has six measures. On **masks**, with the pixels of all test images together, normal images included:
#
# - **pixel AUC**, **pixel AP**: as for images, but each pixel is a case. Most pixels are easy (background), so a high AUC comes cheap; AP does not forgive that.
# - **best Dice**: overlap at the best threshold. That threshold was chosen on these very images, so it is an upper bound, not what a user would get.
# - **AUPRO**: mean overlap with each lesion, large or small alike, at up to 30 % false positive pixels.
#
# On **masks or boxes**, image by image:
#
# - **pointing game**: is the brightest pixel inside?
# - **energy inside**: what share of the map's sum is inside?
#
# And three **controls** (grey squares) that saw no learner: a blob in the middle, the same for every image; the image's own brightness; its distance to the mean normal image. *A map that does not beat them has not shown that it finds anomalies.* Lines are 95 % intervals (bootstrap over images; not over training seeds). **Look for** blue dots to the right of all grey squares, not just of the dotted chance level.

# %%
everything = maps | localisation.controls(train, test)
table = localisation.compare(everything, cover, exact, resamples=resamples)
localisation_figure = plotting.localisation(table, names, localisation.CONTROLS)
plt.show()

# %%
localisation.layout(table, names)

# %% [markdown]
# **Seen:** what the intervals of the paired differences allow to say of DSU, measure by measure ("at chance" and "not to be told from" mean that the interval holds it):

# %%
print(*localisation.readings(table, "dual", names), sep="\n")

# %% [markdown]
# And on Brain MRI, from the run kept in [`figures/brain-mri/heat_maps`](../figures/brain-mri/heat_maps) (learners of 250 epochs, one seed, 547 tumours with a box):

# %%
# NBVAL_CHECK_OUTPUT
for path in sorted(Path(pages.kept("kept", "brain-mri/heat_maps")).glob("*/localisation.csv")):
    seen = localisation.readings(pd.read_csv(path), "dual", names)
    print(path.parent.name.upper(), *seen, sep="\n  ")

# %% [markdown]
# There the honest controls decide. For both backbones a blob in the middle, which is the same for every image, points at more tumours than DSU does, and holds more of its sum inside; plain brightness does too. Brightest pixels are inside more often with AEU's DSU than with brightness, not with AE's. In the pictures of that folder much of the light is at the skull. A good AUC over *images* is thus no sign that the map shows *where*.
#
# The controls need no training, so their numbers for this page's images are the same on every machine:

# %%
# NBVAL_CHECK_OUTPUT
localisation.layout(table[table["map"].isin(localisation.CONTROLS)], names)

# %%
parameters = {"data": dataset.name, "train_sha256": train.fingerprint, "n_test": len(test)}
parameters |= {"test_sha256": test.fingerprint, "known": int(known.sum()), "draw": draw}
parameters |= {"resamples": resamples, "colour_scale_top": tops, "config": config.as_dict()}
tables = {"localisation": table.set_index("measure"), "ranked": ranked, "drawn": drawn}
figures = {"ranked": ranked_figure, "drawn": drawn_figure, "worst": worst_figure}
figures["localisation"] = localisation_figure
_ = ex.save_results(out, parameters, tables | {"worst": worst}, figures)

# %% [markdown]
# ## What this page does not show
#
# One ensemble of one seed, and intervals over images only. The phantoms' lesions were placed by a program. A box holds normal tissue too, so "inside" is generous there.
#
# ## What to try next
#
# - `draw = 1`, `2`, ...: other images out of the hat. How many draws until the figure would look good in a paper?
# - `backbone = "aeu"`: its maps are divided by a predicted variance. What happens to the skull?
# - `data = "phantom-chest"`, or `repulsion_weight = 0.0`: does repulsion help to find the place?
# - Smooth the maps before they are measured (`scipy.ndimage.gaussian_filter(values, (0, 0, 1, 1))` in the dictionary `maps`): which measures rise, and is it the method that got better?
# - Your images: `d2ue reproduce heat_maps --data FOLDER -p epochs=250 -p batch_size=64 -p n_train=0 -p n_test=0`.
