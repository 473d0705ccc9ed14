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
# # Dual-space uncertainty: learners that agree by chance
#
# Learners may give the same output for a point that none of them has understood. Output-space uncertainty (Unc, Eq. 5) is then zero and the anomaly passes. The paper's Fig. 1c answers: at such a point the learners' *derivatives* still differ, and dual-space uncertainty (DSU, Eq. 6) looks at those.
#
# **You will learn** what DSU computes, on a regression small enough to see all of it; how often the effect of Fig. 1c is really there, in eleven seeds; which part of DSU does the work, the slopes or the error; what becomes of it on images; and how to ask fairly whether one score helps where another fails. It runs for less than a minute.
#
# The functions: [`toy.py`](../d2ue/lessons/toy.py) is the regression; [`uncertainty.py`](../d2ue/uncertainty.py) has Eq. 5 (`output_map`), Eq. 6 (`dual_map`) and what it consists of (`dual_terms`); [`evaluation.py`](../d2ue/evaluation.py) has `auc_among_lowest`.

# %% tags=["parameters"]
seed: int = 0  # of the pictures' learners; stated before anything was looked at
n_seeds: int = 11  # seeds 0, 1, ... that the effect is counted over
noise: float = 0.1  # standard deviation of normal points about the curve
height: float = 1.0  # of the abnormal points above the curve, whose own height is 1
n_train: int = 320  # phantoms to train on
epochs: int = 5  # passes over the phantoms (the paper: 250)
results: str = "kept"  # export with scores of real images; kept: the project's own
out: str = "results/dual_space"  # folder for the tables and pictures of this page

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %% [markdown]
# ## Two learners
#
# Normal points (blue) lie around $\sin 2x$, over two bands of $x$. Two small networks are trained on the same 64 points and differ in their initial weights alone. A point $(x, y)$ is abnormal if it is off the curve or off the bands. The paper gives no equations for its figure; this is our reading, Eq. 5 and 6 with one pixel:
#
# $$\mathcal{L}_i = |f_i(x) - y|, \qquad \mathrm{Unc} = \operatorname{std}_i f_i(x), \qquad \mathrm{DSU} = \operatorname{std}_i\Big(\mathcal{L}_i\,\frac{\partial \mathcal{L}_i}{\partial x}\Big)$$
#
# Scores of different units are compared in multiples of their **alarm level**, below which 95 % of held-out normal points stay. Abnormal points stand at `height` above the curve. The one looked at (the star) is not picked by hand: it stands at the place off the bands where the two outputs differ least.
#
# **Look for** the star's column in both panels: the two curves cross below it, at different slopes (the thick strokes). Then for the grey places: there Unc stays below its level although no normal point is near.

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from d2ue import TrainConfig, phantom, plotting, train_ensemble
from d2ue import experiments as ex
from d2ue import uncertainty as un
from d2ue.experiments.records import score_record
from d2ue.lessons import localisation, toy
from d2ue.lessons import toy_pictures as pictures
from d2ue.statistics.agreement import NAMES, among_lowest, among_lowest_by_run, mirrored
from d2ue.store.exchange import read_records
from d2ue.store.results import DataKey

crossing = toy.view(toy.train(2, noise, seed), height=height)
figures = {"two_learners": pictures.toy_view(crossing)}
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print(*toy.reading(crossing), sep="\n")

# %% [markdown]
# **Seen** at the committed seed: the outputs are equal to a hundredth, so Unc is far below its level; the slopes differ, and DSU is just above its own. But the slopes alone raise no alarm here, and the error alone raises a louder one. The last line is worth keeping: where $y$ *is* the shared output, $\mathcal{L}_i = 0$ and DSU is as blind as Unc, however the slopes differ. DSU needs an error to multiply.
#
# ## Eleven seeds
#
# One picture can show anything. So the effect was written down as a statement that can be false, before any seed was looked at ([`toy.effect`](../d2ue/lessons/toy.py)):
#
# > A place off the bands is **blind** if Unc raises no alarm there. The effect *holds* in a seed if DSU raises one at more than half of the blind places.
#
# **Look for** stars whose tangents nearly coincide: there the learners agree in both spaces.

# %%
ensembles = toy.train_many(range(n_seeds), 3, noise)
pairs = [ensemble.first(2) for ensemble in ensembles]
views = {f"seed {own.seed}": toy.view(own, height=height) for own in pairs}
figures["eleven_seeds"] = pictures.toy_views(views, columns=4)
plt.show()

# %% [markdown]
# **Look for**, below, the orange dots under the line: seeds in which DSU, too, is silent at most blind places. On the right the same places, but with the points *on* the continued curve: nothing is wrong with their $y$, only their $x$ was never seen.

# %%
effects = toy.effects([*pairs, *ensembles], (height, 0.0))
figures["effects"] = pictures.toy_effects(effects[effects["learners"] == 2])
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print(toy.counts(effects).T.to_string())

# %% [markdown]
# How to read the table: a column is a number of learners and a height of the points; "DSU", "slopes alone" and "error alone" count the seeds in which that score raises an alarm at more than half of the blind places; the percentages are medians over the seeds, of places off the bands.
#
# **Seen**: with two learners every seed has blind places.
#
# - DSU sees most of them in 10 seeds of 11 if the points stand off the curve, in 5 of 11 if they do not. (In seed 4 it misses that by little, because its learners nearly coincide over half of the places, slopes and all.)
# - The effect hangs on the error: the *slopes alone* suffice in 3 seeds of 11, the *error alone* in all 11 as soon as the points stand off the curve. In this toy DSU repairs Unc mostly by letting the error back in.
# - A third learner repairs it too: the median share of blind places falls from 7 % to 1 %. Three seeds have none left, so that nothing can "hold" there; three curves rarely cross in one point.
#
# The two parts along $x$, for the learners of the first picture. **Look for** the dotted line: it stays above 1 almost everywhere, also over the bands, where DSU dips below 1 whenever the learners' slopes cross.

# %%
figures["parts"] = pictures.toy_parts(crossing)
plt.show()

# %% [markdown]
# ## Move it yourself
#
# Four sliders: the abnormal point's place, its height above the curve, the noise of the normal points, and the number of learners. First some positions of them as a picture, so that the page reads without a kernel; each row moves one slider. **Look for** the third row: what more learners do to Unc at the same point.

# %%
figures["sliders"] = pictures.toy_views(toy.slider_positions(noise, seed, height))
plt.show()

# %% [markdown]
# The sliders need a running kernel (JupyterLab, or Binder). Click one, then use the arrow keys; a new noise trains anew, which takes a second.

# %%
from ipywidgets import FloatSlider, HBox, IntSlider, Layout, VBox, interactive_output


def redraw(place: float, height: float, noise: float, learners: int) -> None:
    pictures.toy_view(toy.view(toy.train(8, round(noise, 2), seed).first(learners), place, height))
    plt.show()


# %%
quiet = {"continuous_update": False}  # draw when the slider is let go, not all along its way
sliders = {
    "place": FloatSlider(crossing.point[0], min=-5, max=5, step=0.25, description="place", **quiet),
    "height": FloatSlider(height, min=-2, max=2, step=0.25, description="height", **quiet),
    "noise": FloatSlider(noise, min=0.05, max=0.4, step=0.05, description="noise", **quiet),
    "learners": IntSlider(2, min=2, max=8, description="learners", **quiet),
}
rows = HBox(list(sliders.values()), layout=Layout(flex_flow="row wrap"))
bundle = VBox([rows, interactive_output(redraw, sliders)])._repr_mimebundle_()
display(bundle | {"text/plain": "(four sliders and their picture: run this cell)"}, raw=True)

# %% [markdown]
# ## The same on images
#
# On an image $X$ the learners are autoencoders and $\mathcal{L}_i$ is the mean error over $HW$ pixels. With the L1 error of the released code (AE, MemAE) and $e_i = f_i(X) - X$, the product inside Eq. 6 is exactly a sum of two terms ([`dual_terms`](../d2ue/uncertainty.py)), $J_i$ being the learner's Jacobian:
#
# $$|e_i| \odot \nabla_X \mathcal{L}_i \;=\; \frac{|e_i| \odot J_i^\top \operatorname{sign}(e_i)}{HW} \;-\; \frac{e_i}{HW}$$
#
# The deviation of the second term over the learners is Unc divided by $HW$. So DSU *contains* output space, and adds a Jacobian term. Three learners are trained with repulsion on small phantoms (32 × 32, a few epochs: barely) and the identity is checked on them.

# %%
test_sizes = dict.fromkeys(("n_test_normal", "n_test_abnormal"), 150)
data = phantom(n_train=n_train, **test_sizes, image_size=32, progress=False)
config = TrainConfig(backbone="ae", image_size=32, epochs=epochs, batch_size=16, seed=seed)
ensemble = train_ensemble(config, data.train, device="cpu", progress=False)

# %%
record = score_record(ensemble, data.test, DataKey.of(data))
shown = data.test.select(ex.examples(data.test, record.scores["dual"]))
x = next(ensemble.batches(shown.images, 4))
gradients, f, _ = un.input_gradients(ensemble.network, x, "l1")
jacobian, output = un.dual_terms(ensemble.network, x)
gap = ((f - x).abs() * gradients - (jacobian + output)).abs().max() / output.abs().max()
print(f"largest difference of the two sides / largest e / HW: {gap:.0e}")
assert gap < 1e-5 and un.deviation(output).allclose(un.output_map(f) / x[0].numel(), rtol=1e-4)

# %% [markdown]
# Maps of two normal and two abnormal phantoms, at the median and the top tenth of DSU in their class. **Look for** the column that the DSU map resembles (the line below has each column's correlation with it), and for what lights up at the lesion (green) and elsewhere.

# %%
maps = {"output": un.output_map(f), "input": un.input_map(gradients)}
maps |= {"Jacobian term alone": un.deviation(jacobian), "dual": un.dual_map(x, f, gradients)}
maps = {name: values.numpy() for name, values in maps.items()}
titles = ["abnormal" if label else "normal" for label in shown.labels]
figures["maps"] = plotting.score_maps(shown.images, maps, titles, shown.masks)
plt.show()

# %%
print(", ".join(maps), np.corrcoef([v.ravel() for v in maps.values()])[-1].round(2), sep=": ")
localisation.per_image(shown, np.arange(4), maps["dual"].mean((1, 2, 3)), {"DSU": maps["dual"]})

# %% [markdown]
# **Seen**: the identity holds to rounding, and the sum is lopsided.
#
# - The DSU map is nearly the map of its Jacobian term; the contained Unc term is small beside it.
# - In the run that is kept here each lesion holds more of its DSU map's sum than of the image's area (the table), and normal images have spots as bright.
#
# A map that lights up at a lesion is no detector yet, as the numbers below show: five epochs on 320 small images make learners that disagree about everything.
#
# ## Does DSU help where Unc fails?
#
# That is where the paper says it should. So take the quarter of the anomalies that Unc finds least abnormal, set all normal images against them, and ask for DSU's AUC ([`auc_among_lowest`](../d2ue/evaluation.py)).
#
# **Beware.** Selecting by one score and judging by another favours the other: the images are those on which the first does *worst*, whatever it is, and any second score with a noise of its own looks like a rescue. A value means something only beside the **mirror image** (select by DSU, judge Unc) and a **third score** on the same images (Ens, the error of the mean; the input gradient alone). **Look for** the diagonal: every score is at its worst, often under 50, on its own selection.

# %%
quarter = among_lowest(data.test.labels, {m: record.scores[m] for m in NAMES})
print(quarter.round(0).astype(int).to_string())

# %% [markdown]
# **Seen**: every score is at its worst on its own selection, far under 50, and that is the selection, not the score. On the anomalies that Unc misses DSU does no better than Unc does on those that DSU misses, and Ens does better than either: on these phantoms DSU rescues nothing. One seed of barely trained learners decides nothing, though.
#
# The same from the scores kept of real images: Brain MRI, 600 normal and 150 of 600 abnormal test images, the paper's settings, three backbones, three seeds and five of AE. **Look for**, left, whether DSU (orange circle) lies further right than Ens (grey) on the anomalies that Unc misses; and whether it needs its error at all, that is whether it lies further right than the input gradient alone (blue).

# %%
runs = among_lowest_by_run(read_records(pages.kept(results, "scores/brain-mri.zip")).values())
figures["mirror"] = plotting.mirror_dots(runs, ("lowest by Unc", "lowest by DSU"))
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
display(Markdown(ex.markdown(mirrored(runs))))

# %% [markdown]
# How to read a cell: mean over three seeds, five of AE (lowest to highest seed), percent. 600 normal images and, in a quarter, 150 abnormal ones; the images are the same in all seeds, so the range says nothing of other images.
#
# **Seen**: here the paper's claim stands. On the anomalies that Unc misses, DSU does better than Unc on those that DSU misses in all 22 runs, and better than the third score Ens in 19 of 22 (in one, AE with repulsion, it is at chance). For AE and MemAE the mirror is a weak rival, since their Unc is near chance on all images anyway; with AEU, where both are good, DSU's lead is smaller and still there.
#
# And one thing that the paper does not say: the **input gradient alone** does at least as well as DSU on these images in 20 of 22 runs, by 7 to 13 points on average with AE and MemAE. On images it is the slopes that see what Unc misses, and multiplying them by the error costs something; in the toy it was the other way round. Two settings, two reasons: the crossing curves of Fig. 1c illustrate that DSU can help, not why it does.
#
# ## What this page does not show
#
# The toy has one input and one output, so its error is all there is to see; an autoencoder's output has the image's size and its error includes every fine detail it cannot draw. Eleven seeds are eleven draws of one curve, one network and one noise. The effect counts places, not probabilities: nobody says how often an anomaly falls on a blind place. And Brain MRI is one data set.
#
# ## Next
#
# - Set `height` to 0.3 or `noise` to 0.3 and run again: when is the error no longer enough, and does DSU then still see what it saw?
# - Draw the blind places for five learners (`toy.train_many(range(11), 5)`, then `toy.effects`). Why do they vanish, and what does that say about an ensemble of two?
# - Where does DSU lose on real images? [12_table2](12_table2.ipynb) has every claim of Table 2 with its interval; [`agreement.py`](../d2ue/statistics/agreement.py) takes any export of scores.
# - Use another share than a quarter: `among_lowest_by_run(..., share=0.1)`.

# %%
parameters = {"seed": seed, "n_seeds": n_seeds, "noise": noise, "height": height}
parameters |= {"n_train": n_train, "epochs": epochs, "results": results}
tables = {"effects": effects, "phantoms": quarter, "brain_mri": runs}
_ = ex.save_results(out, parameters, tables, figures)
