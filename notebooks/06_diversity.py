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
# # Diversity and performance: do more diverse learners find more anomalies?
#
# The paper makes learners diverse and reports that AUC rises; how diversity and performance go together it leaves to future work. This page measures both, over seeds, the weight λ of the repulsion, its layer and the number of learners.
#
# **You will learn** how to put an interval on a correlation whose points are not independent; what the runs on Brain MRI that are kept here say; and what one more learner costs and brings.
#
# **Runs** in under a minute. The first half draws our runs of 250 epochs on Brain MRI from their kept scores, without an image. The second half draws a grid of small, converged learners on phantoms, ten seeds of it kept, and trains one corner of it again to compare. What exists and what was not run is printed.
#
# The functions: CKA, Eq. (2) and (3), is in [`similarity.py`](../d2ue/similarity.py), output-space uncertainty (Unc, Eq. 5) and dual-space uncertainty (DSU, Eq. 6) in [`uncertainty.py`](../d2ue/uncertainty.py); `rank_correlation` and the tables of this page are in [`diversity.py`](../d2ue/lessons/diversity.py).

# %% tags=["parameters"]
dataset: str = "brain-mri"  # a name, see the command d2ue datasets
data: str = ""  # folder of its images, to train what is missing; empty to draw what is kept
results: str = "kept"  # store to train into, or export to read; kept: the project's own scores
seeds: str = "3"  # how many, or which, separated by commas
epochs: int = 250  # passes over the training images, of the runs that are read
batch_size: int = 64  # images a step, likewise
grid: str = "kept"  # phantoms: table of the small grid; kept: the project's own; "": train it here
grid_seeds: int = 1  # phantoms: seeds 0, 1, ... that are trained here
grid_epochs: int = 20  # phantoms: passes over the training images
grid_train: int = 256  # phantoms: normal images to train on
grid_test: int = 400  # phantoms: test images, half of them abnormal
image_size: int = 16  # phantoms: pixels a side
weights: str = "0, 0.1, 1, 10"  # phantoms: lambda
layers: str = "en1, z, de1"  # phantoms: the layer that is repelled
learners: str = "2, 3, 4, 6, 8"  # phantoms: N
device: str = "auto"  # auto, cpu, cuda, mps
jobs: int = 0  # processes side by side on a CPU; 0 for one a core
out: str = "results/diversity"  # folder for the tables and pictures of this page

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from d2ue import TrainConfig
from d2ue import experiments as ex
from d2ue.lessons import diversity as dv
from d2ue.lessons import diversity_pictures as pictures

base = TrainConfig(backbone="ae", epochs=epochs, batch_size=batch_size)
settings = ex.Settings(
    dataset, data, pages.kept(results, f"scores/{dataset}.zip"), seeds, base=base
)
axes = ["table2", "table3", "lambda", "layer", "learners"]
cells, report = ex.obtain(axes, settings, jobs=jobs, device=device, progress=False)
records = {r.name: r for own in cells.values() for cell in own for r in cell.records.values()}
table = dv.record_table(r for r in records.values() if r.config.layer == "z")

# %% [markdown]
# ## What was run
#
# Every point is one trained ensemble. **Look for** how thinly the axes are occupied: correlations can only be of what is there. Ensembles that were repelled at another layer are left out of them: their CKA is that of another feature.

# %%
# NBVAL_CHECK_OUTPUT
print(f"{len(table)} of {len(records)} ensembles, {sum(table.repulsion_weight > 0)} with repulsion")
print(*dv.coverage_lines(cells), sep="\n")

# %% [markdown]
# ## Diversity against AUC
#
# Diversity is measured in feature space, as debiased CKA of the learners (mean over pairs; the less, the more diverse), and in output space, as the mean Unc: how far reconstructions of an image lie apart; each on normal and on abnormal test images. AUC is that of the ensemble's own Unc and DSU.
#
# **Look for** the direction of the thin lines: each joins one seed without (hollow) and with repulsion by CKA (filled; points without a line are other similarities, weights and numbers of learners). If diversity brought performance, all would run up to the left in the CKA panels, and up to the right in those of Unc. And compare the *colours*: differences between backbones are larger than what repulsion does within one.

# %%
xs = {"cka_normal": "CKA on normals", "cka_abnormal": "CKA on anomalies"}
xs |= {"unc_normal": "Unc on normals", "unc_abnormal": "Unc on anomalies"}
ys = {"AUC_output": "AUC of Unc, %", "AUC_dual": "AUC of DSU, %"}
scatter = pictures.diversity_scatter(table, xs, ys, dv.as_in_the_paper(table))
plt.show()

# %% [markdown]
# ## The correlation, and its interval
#
# Spearman's rank correlation. The usual interval takes every point for independent. Ours are not: ensembles of one seed share learners (with and without repulsion the first one is the same), so the units are the seeds. The interval "by seeds" leaves out one seed at a time and looks how far the correlation moves (a jackknife, on the scale of Fisher's z, with Student's t of one degree of freedom less than there are seeds). It speaks of other seeds, not of other test images, which all points share.
#
# **Look for** what happens between the two tables: the first pools the backbones, the second takes each backbone's mean out first. A correlation that is only in the first is one of backbones, not of diversity.

# %%
# NBVAL_CHECK_OUTPUT
ratio = {"unc_ratio": "Unc, abnormal / normal"}
pooled = dv.correlations(table, xs | ratio, ys)
within = dv.correlations(table, xs | ratio, ys, within="backbone")
for title, found in {"Pooled": pooled, "Within backbones": within}.items():
    display(Markdown(f"**{title}**\n\n" + ex.markdown(found)))

# %% [markdown]
# **Seen in the kept runs** (37 ensembles of 3 seeds, 250 epochs; the last two rows of each table aside): four of sixteen correlations are clear of 0, and none is in both tables. Of sixteen intervals of 95 % one misses about every other time.
#
# - Pooled, learners that are less alike on anomalies go with *lower* AUC of DSU, against the idea. Within backbones the sign is the same and the interval holds 0.
# - Within backbones the AUC of Unc goes, weakly, with learners less alike on normals and, more, with disagreement on anomalies.
# - Within backbones the AUC of DSU is lower where learners disagree on normals, as the idea has it.
# - None of the four lasts: with eleven more ensembles of AE, which one seed gave on another processor ([14_ablations](14_ablations.ipynb)), none stays clear, and three others are.
#
# The last rows are a warning, not a result: the ratio of Unc on abnormal to normal images *is* the separation that its AUC ranks, so the two correlate whatever the learners do. And three seeds are few: with t of two degrees of freedom an interval is short where three numbers happen to agree, and as good as endless where they do not. "Not clear" here means not known.
#
# What repulsion does to diversity is, by contrast, beyond doubt:

# %%
# NBVAL_CHECK_OUTPUT
for backbone, own in table[dv.as_in_the_paper(table)].groupby("backbone", sort=False):
    measures = {"cka_normal": "CKA on normals", "unc_normal": "Unc on normals"} | ratio
    print(backbone, *dv.effect_lines(dv.effects(own, measures)), sep="\n  ")

# %% [markdown]
# ## The other axes, small
#
# Above, λ other than 0 and 1, N other than 3 and layers other than z stand on one seed, if that. So that all four axes can be seen, here is a grid of small learners: phantoms of 16 x 16 pixels, 20 passes over 256 images, after which an AE's error on held-out normals is about 0.2 of the mean image's, as in [Repulsion](03_repulsion.ipynb). It shows how such a study is made and **says nothing about 250 epochs on real images**.
#
# λ and layer are moved with two learners; AUC's chance level is 50. z-CKA is debiased CKA at the bottleneck on normal images, whatever layer is repelled. Ten seeds are kept; the corner with two learners, λ = 0 and 1, is trained here again.
#
# **Look for** the spread of the dots in a column (seeds) next to the steps between columns (settings).

# %%
phantoms = dv.small_dataset("phantom-chest", image_size, grid_train, grid_test)
small = dict(batch_size=32, image_size=image_size, learning_rate=0.002, epochs=grid_epochs)
base = TrainConfig(backbone="ae", n_learners=2, **small)
axes = dict(layers=layers.replace(" ", "").split(","))
axes["weights"] = [float(weight) for weight in weights.split(",")]
axes["learners"] = [int(n) for n in learners.split(",")]
file = pages.kept(grid, "diversity/grid.csv")
corner = axes if not file else dict(layers=["z"], weights=[0.0, 1.0], learners=[2])
trained = dv.grid_table(base, phantoms, device=device, seeds=range(grid_seeds), **corner)
rows = pd.read_csv(file) if file else trained
types = {"weight": float, "layer": str, "learners": int}
by_axis = {axis: rows[rows["axis"] == axis].astype({"setting": types[axis]}) for axis in types}

# %%
columns = ["repulsion_weight", "z_normal", "AUC_output", "AUC_dual"]
for name, some in {"trained here": trained, "in the grid": by_axis["weight"]}.items():
    of = some.query("axis == 'weight' and seed == 0 and repulsion_weight in (0, 1)")
    print(f"seed 0, {name}:", of[columns].round(2).to_string(index=False), sep="\n")

# %%
repelled = by_axis["learners"][by_axis["learners"]["repulsion_weight"] > 0]
panels = {"weight λ (N = 2)": by_axis["weight"], "repelled layer (N = 2)": by_axis["layer"]}
panels["learners N (λ = 1)"] = repelled
shown = {"z_normal": "z-CKA, normals", "AUC_output": "AUC, Unc", "AUC_dual": "AUC, DSU"}
axes_figure = pictures.diversity_axes(panels, shown)
plt.show()

# %%
zs = {"z_normal": "z-CKA, normals", "unc_normal": "Unc, normals"}
found = dv.correlations(dv.distinct(rows), zs, {"AUC_output": "Unc", "AUC_dual": "DSU"})
display(Markdown(ex.markdown(found)))
z = by_axis["weight"].pivot(index="seed", columns="setting", values="z_normal")
lower = (z.iloc[:, -1] < z.iloc[:, 0]).sum()
print(f"z-CKA lower at the highest λ than at the lowest: {lower}", end="")
print(f" of {len(z)} seeds; means {z.iloc[:, 0].mean():.2f} and {z.iloc[:, -1].mean():.2f}")

# %% [markdown]
# **Seen in the kept grid** (ten seeds, means): λ = 0.1 takes z-CKA from 0.96 to 0.05 already. Every λ above 0 lowers the AUC of DSU, from 66.1 to 60.2, 59.7 and 56.4 (λ = 0.1, 1, 10). Unc stays near chance, 52.0 to 53.0.
#
# ## What one more learner costs and brings
#
# An ensemble of N learners is the first N of a larger one, so each point costs one more training. The cost grows with N and only with N, because a senior's features of the training images are computed once. Scoring grows likewise.
#
# **Look for** where the thick lines flatten, and whether thin ones (seeds) agree on it. The table below has AUC points gained by the next learners: mean (lowest to highest seed).

# %%
titles = {"AUC_ensemble": "Ens", "AUC_output": "Unc", "AUC_dual": "DSU"}
cost_figure = pictures.learners_cost(by_axis["learners"], titles)
plt.show()

# %%
display(Markdown(ex.markdown(gains := dv.gains(by_axis["learners"], titles))))

# %% [markdown]
# **How to read it**: a gain whose range over seeds holds both signs is not one. The cost of the next learner is certain, 50 % more from two to three and 14 % from seven to eight; what it brings has to show above the seeds' spread.
#
# **Seen in the kept grid** (ten seeds, means, two learners and eight): without repulsion Ens goes from 79.0 to 82.6 and DSU from 66.1 to 68.8; with repulsion Ens goes from 73.6 to 77.0, and DSU *falls*, from 59.7 to 54.3. Unc gains nothing. On Brain MRI one seed was trained up to eight learners ([14_ablations](14_ablations.ipynb)): there those after the second brought DSU nothing, with repulsion or without.

# %%
parameters = {"dataset": dataset, "epochs": epochs, "seeds": seeds, "grid_epochs": grid_epochs}
tables = {"ensembles": table, "pooled": pooled, "within": within, "grid": rows, "gains": gains}
figures = {"scatter": scatter, "axes": axes_figure, "learners": cost_figure}
_ = ex.save_results(out, parameters, tables, figures)

# %% [markdown]
# ## Next
#
# - Fill the axes: with `data` set to the folder of the images and `results` to a folder for a store, this page trains every ensemble that is listed as not run (days on a CPU; it goes on where it was stopped), or `d2ue reproduce ablations` does.
# - `grid = ""`, `grid_epochs = 40`: does the order of the settings stay?
# - [Repulsion](03_repulsion.ipynb) shows how CKA falls while learners are trained; [Ablations](14_ablations.ipynb) has the same axes as tables with verdicts.
