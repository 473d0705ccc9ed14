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
# # Ablations: how hard to repel, where, and with how many learners
#
# The paper's supplement varies the weight λ of the repulsion and the layer whose feature is repelled; its text only says that λ = 1 and the bottleneck z were taken. This page runs both on AE, and the number of learners from 2 to 8 with and without repulsion, which the paper leaves open.
#
# Beware of the layers: linear CKA is biased upwards where a feature is wider than the batch is long. Unrelated Gaussian features give about 0.20 at 16 values (z) and 0.94 at 1024, for a batch of 64; so a wide layer's repulsion is mostly about its bias. Debiased CKA, beside it, is not.
#
# As committed, the page draws our own run on Brain MRI from the scores kept in `figures/scores`. `d2ue reproduce ablations --dataset brain-mri --data FOLDER --seeds 5` trains it anew, and is the longest of the batch.

# %% tags=["parameters"]
datasets: str = "brain-mri"  # names, separated by commas, see the command d2ue datasets
data: str = ""  # folder of the images, to train what is missing; empty to draw the results
results: str = "kept"  # store to train into, or export to read; kept: the project's own scores
seeds: str = "5"  # how many, or which, separated by commas
epochs: int = 250  # passes over the training images
batch_size: int = 64  # images a step
precision: str = "float32"  # of products: float32, tf32 (CUDA) or bf16; results name it
n_train: int = 0  # training images, drawn once; 0 for all
n_test: int = 0  # test images likewise
clusters: str = "kept"  # file of near duplicates; kept: the project's own; empty if not known
device: str = "auto"  # auto, cpu, cuda, mps
jobs: int = 0  # processes side by side on a CPU; 0 for one a core, -1 to train nothing
out: str = "results/ablations"  # folder for the tables and pictures of this page
progress: bool = False  # progress bars; they clutter a page that is kept

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from d2ue import TrainConfig, plotting
from d2ue import experiments as ex

settings = ex.Settings(
    datasets,
    data,
    pages.kept(results, f"scores/{datasets}.zip"),
    seeds,
    base=TrainConfig(epochs=epochs, batch_size=batch_size, precision=precision),
    n_train=n_train,
    n_test=n_test,
    clusters=pages.kept(clusters, f"{datasets}/audit/clusters.csv", needed=False),
)
cells, report = ex.obtain(
    ["lambda", "layer", "learners"], settings, jobs=jobs, device=device, progress=progress
)
kept = settings.results.endswith("figures/scores/brain-mri.zip")
committed = kept and (seeds, epochs) == ("5", 250)

# %% [markdown]
# ## The weight of the repulsion
#
# How to read a cell: our mean ± standard deviation (Bessel-corrected) over *n* seeds; the published value, from one seed that the paper does not name; the difference. **Bold** is the best of a column, *italic* the second best, among the rows of this page. "not run" means just that.
#
# An ensemble's AUC is that of *its own score*: the learners' disagreement (or the error of their mean) ranks the test images once, and that ranking has one AUC. It is not a mean over learners. Chance is 50.

# %%
# NBVAL_CHECK_OUTPUT
tables = {name: ex.long_table(of) for name, of in cells.items()}
display(Markdown(ex.markdown(ex.layout(tables["lambda"]))))
for line in ex.about(cells["lambda"]):
    print(line)

# %% [markdown]
# ## The layer

# %%
# NBVAL_CHECK_OUTPUT
display(Markdown(ex.markdown(ex.layout(tables["layer"]))))

# %% [markdown]
# ## The number of learners

# %%
# NBVAL_CHECK_OUTPUT
display(Markdown(ex.markdown(ex.layout(tables["learners"]))))

# %% [markdown]
# Beside it stands a **series** of the same settings: seed 1 trained anew, without and with repulsion, learner after learner up to eight, so that every row is the one before with a learner more. It comes from another processor, whose products round otherwise, and that leads to other learners ([12_table2](12_table2.ipynb)): its rows are to be compared with each other, not with those above.

# %%
# NBVAL_CHECK_OUTPUT
if committed:
    other = settings.results.replace("scores/brain-mri", "brain-mri/other_processor")
    anew = replace(settings, results=other, seeds="1")
    series = ex.obtain(["learners"], anew, jobs=-1)[0]["learners"]
    grown, steps = ex.long_table(series), ex.verdicts("learners", series)
    both = ex.layout(grown), ex.show_verdicts(steps)
    display(Markdown("\n\n".join(map(ex.markdown, both))))
    shown = {"series": plotting.table_dots(grown, f"series: {anew}")}
    found = {"series": grown, "series_verdicts": steps}
    ex.save_tables(f"{out}/series", "14_ablations", anew, report, found, shown)
    plt.show()

# %%
figures = {
    name: plotting.table_dots(table, f"{name}: {settings.head(report.data)}")
    for name, table in tables.items()
    if table["n_seeds"].any()
}
plt.show()

# %% [markdown]
# ## The paper's choices, tested
#
# How to read a verdict:
#
# - **Interval**: where the mean AUC would fall with other test images of the same kind. Near duplicates count as one piece of evidence (DeLong's variance over clusters of them, after Obuchowski, of placement values averaged over seeds).
# - **Seeds**: from five on, their spread is in the interval too. Under five it is of images only, and says so; a verdict then also asks that every seed points the same way, and other seeds may still turn it round.
# - **Verdict**: a paired comparison by seed and by image, corrected for the number of claims made of one table on one data set (Holm).
# - **No effect** is shown, not assumed: what is decided neither way is tested for keeping within 2 points of AUC (two one-sided tests; the margin is ours). Where that fails too, the verdict says about how many seeds would decide, if value and spread stayed as they are; *more images* where no number of seeds would.
#
# Which images are of one patient is not known beyond near duplicates, so the intervals are still narrower than they ought to be.

# %%
verdicts = {name: ex.verdicts(name, of) for name, of in cells.items()}
for name, judged in verdicts.items():
    display(Markdown(f"**{name}**\n\n" + ex.markdown(ex.show_verdicts(judged))))

# %% [markdown]
# **Seen in the committed run** (Brain MRI). The paper's setting (λ = 1 at z, three learners) and λ = 0 have five seeds, debiased CKA at z and en2 three, two learners two or three. All else has one, and one seed decides nothing.
#
# - Seed 1 at λ = 1 is the ensemble whose second learner ended badly ([12_table2](12_table2.ipynb), the outlier): it loses to every other λ by 6 points or more. The other four seeds of λ = 1 do not look like it.
# - By DSU no λ has a higher mean than none at all, and no layer by CKA one that is higher by a point.
# - In that one seed the layers fall into two halves: repelled in the decoder (de4 to de1) DSU is 82 or more, in the encoder (en1 to en4) 77 or less, and at en4 both scores are under 50.
#
# By debiased CKA (z apart, on the processor of the series) it is the other way round:
#
# - DSU is 79.5 to 89.7 in the encoder (89.7 at en3, one seed) and 60.8 to 69.4 in the decoder, where Unc falls to 19.1 to 27.6, far below chance.
# - In the decoder the learners took what the estimate pays. In the last epoch it stood at -0.06 to -0.17 over batches, below the 0 of unrelated features, and the reconstruction loss at 0.039 to 0.063, where the first learner has 0.016 ([debiased_histories.csv](../figures/brain-mri/ablations/debiased_histories.csv)). An estimate without bias can still be played.
# - At en2 it was not: losses of 0.017 and 0.018, an estimate of 0.05 (seed 1, as all of these). Unc is highest of all layers there, so two more seeds were run: 77.1 ± 4.2, in every seed 18 points or more above no repulsion on the same processor (55.1 ± 1.7), and DSU 85.3 ± 3.3, where that has 87.8 ± 0.1. Seed 1 is the one that en2 was chosen by; the other two have 78.4 and 72.3.
#
# So repulsion can raise Unc by much, at another layer and by another measure than the paper's, and the whole method is no better for it.
#
# In the series of two to eight learners no further learner brings DSU anything: it stays within 1.2 points, 87.5 to 88.6 without repulsion and 89.6 to 90.8 with; Unc with repulsion falls from 64.9 to 58.9. Its ensemble of three repelled learners has a DSU of 90.3 where the same seed had 71.3 before.

# %% [markdown]
# **On chest radiographs**, a set that is not the paper's, [the same tables](../figures/kermany-cxr/ablations/learners.md) stand mostly on one seed.
#
# - In seed 1 more learners bring something: from two to eight DSU goes from 68.0 to 72.7 without repulsion and from 55.7 to 70.6 with, Unc from 68.2 to 72.8 and from 68.4 to 71.6, most of it by the sixth.
# - Two and three learners have three seeds: that three beat two is undecided for every score.
# - The weights are in no order: 67.6, 67.4, 76.7, 73.7 and 70.4 by Unc for λ of 0 to 10 (seed 1).
#
# The layers do not fall into the halves of Brain MRI (seed 1, so undecided):
#
# - At en1 DSU is far below chance, 33.7 by CKA and 33.2 by debiased CKA.
# - Apart from that layer, DSU by CKA is 61.3 to 71.4 in the encoder and 60.1 to 69.2 in the decoder. en3 is the highest of all layers by both scores: 75.8 and 71.4, where no repulsion has 67.6 and 69.2.
# - By debiased CKA the decoder is not below the encoder: DSU is 57.9 to 68.5 there, and 55.4 to 58.7 at en2 to en4.
# - The learners repelled in the decoder took what the estimate pays here too: it stood at -0.02 to -0.18 in the last epoch, and the reconstruction loss at 0.022 to 0.046, where the first learner has 0.012 ([debiased_histories.csv](../figures/kermany-cxr/ablations/debiased_histories.csv)). By DSU that costs no more on this set than being repelled in the encoder.
# - No layer repelled by debiased CKA reaches no repulsion.

# %%
mean = {name: table.set_index(["group", "row"])["AUC"] for name, table in tables.items()}
if committed and (tables["lambda"]["n_seeds"] > 0).all():
    weights, layers = mean["lambda"]["DSU"], mean["layer"]["DSU, cka"]
    assert weights.idxmax() == "λ = 0" and layers.max() < weights["λ = 0"] + 1
    assert layers[["de4", "de3", "de2", "de1"]].min() > 82
    assert layers[["en1", "en2", "en3", "en4"]].max() < 77
    assert layers["en4"] < 50 and mean["layer"]["Unc, cka"]["en4"] < 50
    first = [float(line.split()[0]) for line in verdicts["lambda"]["per_seed"]]
    assert max(first) < -6

# %%
tested = {f"{name}_verdicts": judged for name, judged in verdicts.items()}
ex.save_tables(out, "14_ablations", settings, report, {**tables, **tested}, figures)

# %% [markdown]
# **Next:** the numbers behind every cell are in `figures/scores`: one score an image, by every method, of every ensemble.
