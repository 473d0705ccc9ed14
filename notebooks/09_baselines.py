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
# # The other rows of Table 1: six ideas of what is abnormal
#
# The paper compares itself with six methods that are not autoencoder ensembles. On this page you will learn
#
# - what each of them compares with what, in one picture;
# - where each of them sees an anomaly, on the same images;
# - what each costs beside what it reaches, and why a method with a pretrained network has to be held against that network's plain nearest neighbours.
#
# All six are in [`d2ue/baselines`](../d2ue/baselines), a file each, with two presets: **published** (networks, sizes and steps of the released code) and **small**, ours, for a laptop: 64 x 64 pixels, a small pretrained network, fewer steps. Everything here is *small*, and none of it may be set beside the paper's numbers.

# %% tags=["parameters"]
results: str = "kept"  # store or export with the scores; kept: the file in figures/scores
dataset: str = "brain-mri"  # whose scores are shown
clusters: str = "kept"  # near duplicates of its test images; kept: those of figures
seeds: str = "5"  # how many, or which: 1,2,7
out: str = "results/baselines"  # folder for the tables and pictures of this page
n_train: int = 64  # phantoms to train on for a moment; a batch at least
n_test: int = 24  # phantoms to look at
share: float = 1.0  # of the few epochs that this page trains; more takes longer
seed: int = 0  # of weights and shuffles

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %% [markdown]
# ## What is compared with what
#
# Black arrows are computed, orange ones compared; grey boxes are frozen when the score is learnt. The distance along the orange arrows is the score (of DeSTSeg it is the last box).

# %%
import matplotlib.pyplot as plt
import pandas as pd

from d2ue import experiments as ex
from d2ue import phantom, plotting
from d2ue.lessons import families

diagram = families.diagrams()
plt.show()

# %% [markdown]
# | method | normal is what ... | paper and released code |
# |---|---|---|
# | [f-AnoGAN](../d2ue/baselines/fanogan.py) | a generator of normal images can draw | Schlegl et al., Medical Image Analysis 2019; tSchlegl/f-AnoGAN |
# | [Ganomaly](../d2ue/baselines/ganomaly.py) | keeps its code when it is drawn and encoded again | Akcay et al., ACCV 2018; samet-akcay/ganomaly |
# | [IGD](../d2ue/baselines/igd.py) | has a code near the centre and can be drawn from it | Chen et al., AAAI 2022; tianyu0207/IGD |
# | [Multi-ST](../d2ue/baselines/multi_st.py) | a small network can answer like a large one (read as MKD: our inference) | Salehi et al., CVPR 2021; rohban-lab/Knowledge_Distillation_AD |
# | [RDAD](../d2ue/baselines/rdad.py) | can be regenerated from a narrow code, feature by feature | Deng and Li, CVPR 2022; hq-deng/RD4AD |
# | [DeSTSeg](../d2ue/baselines/destseg.py) | a network that knows pasted damage finds nothing in | Zhang et al., CVPR 2023; apple/ml-destseg |
#
# Four of the six look through a network that has seen a million photographs. So they have a control: [5 nearest neighbours and the Mahalanobis distance](../d2ue/baselines/neighbours.py) of the same frozen features. **A distillation that does not beat them has learnt nothing.**
#
# ## The same images
#
# Each method is trained for a few seconds on phantoms, less than a hundredth of its training: enough to see what kind of map it makes, not how good it is. Maps have no common unit: each column has its own colours, from 0 to the value that one in 200 of its pixels exceeds.

# %%
data = phantom(
    n_train=n_train, n_test_normal=n_test // 2, n_test_abnormal=n_test // 2, progress=False
)
found = families.glance(data.train, seed, share)
shown = data.test.select([0, n_test // 2, n_test // 2 + 1])
with_maps = {k: v.trained for k, v in found.items() if not v.trained.method.is_control}
maps = {title: trained.maps(shown.images) for title, trained in with_maps.items()}
titles = ["abnormal" if label else "normal" for label in shown.labels]
maps_figure = plotting.score_maps(shown.images, maps, titles, shown.masks)
plt.show()

# %% [markdown]
# **Look for** the grain of the maps. The three that draw an image differ by pixels, those with a teacher by regions: the finest features of the small teacher are 4 pixels wide, and the maps are smoothed.
#
# **Seen:** after seconds RDAD is brightest in the lesions. f-AnoGAN, Ganomaly and IGD cannot draw yet, so their maps are little more than the image turned light for dark. Multi-ST and DeSTSeg know nothing yet: DeSTSeg finds the image's corners.
#
# AUC on these phantoms, after seconds (n in the cell above; one seed, so no ranking):

# %%
glimpse = families.auc_table(found, data.test)
glimpse

# %% [markdown]
# ## What it costs and what it reaches
#
# Left to right: CPU minutes of one whole training on 1000 images, by what the seconds above took on this machine; an ensemble counts as so many learners (what repulsion adds to that is [measured apart](../figures/README.md#speed)). Upwards: the AUC of whole trainings, from the scores that Table 1 is made of (small presets; in brackets the number of seeds). What has not been trained has no point.

# %%
settings = ex.Settings(
    dataset, "", pages.kept(results, f"scores/{dataset}.zip"), seeds,
    clusters=pages.kept(clusters, f"{dataset}/audit/clusters.csv", needed=False),
)  # fmt: skip
cells, report = ex.obtain(["table1", "baselines"], settings, jobs=-1, progress=False)
table = pd.concat([ex.long_table(cells[name]) for name in ("table1", "baselines")])
minutes = {title: glanced.minutes for title, glanced in found.items()}
minutes["Mahalanobis distance"] = minutes["5 nearest neighbours"]
cost = families.cost_table(table, minutes, data.train)
cost.round(1)

# %%
cost_figure = families.auc_against_cost(cost)
plt.show()

# %% [markdown]
# **Seen on Brain MRI** ([Table 1](11_table1.ipynb) has intervals and verdicts):
#
# - RDAD, at our small preset, is above the paper's method and above its control, and costs less than the ensemble of three. "Ours > RDAD (small)" does not hold.
# - The control is nearly as good, and costs nothing: most of what makes RDAD good on this set is in the pretrained network, and part of it in near copies of test images among the training images ([audit](20_audit.ipynb)).
# - Multi-ST, as far as we read it, is below its control by nine points: what it reaches is less than its teacher brings. Its direction alone is better than the method's sum (91 against 87, three seeds).
# - Ganomaly needs no pretrained network and lies just below a single AEU.
# - With one seed each, IGD is level with Ganomaly (91) and f-AnoGAN near chance (57); why is open.
#
# ## Try one on your own images
#
# They are scikit-learn detectors like ours, with the same threshold, maps and files ([21_own_data](21_own_data.ipynb)):
#
# ```python
# from d2ue import Baseline
# detector = Baseline("rdad").fit("normal_scans")
# detector.predict("new_scans")
# ```
#
# or `d2ue fit normal_scans --method rdad --out run --contamination 0.05`.

# %%
if settings.results.endswith("figures/scores/brain-mri.zip"):
    mean = cost["mean"]
    assert mean["RDAD"] > mean["Ours (AEU)"] and mean["RDAD"] > mean["5 nearest neighbours"]
    assert mean["RDAD"] - mean["5 nearest neighbours"] < 2
    assert mean["Multi-ST"] < mean["5 nearest neighbours"] - 8 and mean["Ganomaly"] < mean["AEU"]
pictures = {"diagrams": diagram, "maps": maps_figure, "cost": cost_figure}
ex.save_tables(out, "09_baselines", settings, report, {"cost": cost}, pictures)
