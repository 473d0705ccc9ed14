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
# # Your own images: from a folder to a report
#
# You have a folder of normal scans, and new ones of which you want to know which are not normal. This page does it in ten cells, by an estimator in scikit-learn's habits, [`d2ue.D2UE`](../d2ue/detector/estimator.py): fit, threshold, score, heat maps, report, save.
#
# Out of the box it draws its own folders of phantoms, so that it runs anywhere, with learners that are barely trained: what you read below shows how things are done, not how well the method does. For your images set `normal_scans` and `new_scans`, and the paper's `epochs = 250` and `batch_size = 64`.
#
# **What your folder needs**: normal images only (PNG, JPEG, TIFF of 8 bits, DICOM or NIfTI; sub-folders are read), of one kind of scan, prepared alike; a few hundred at least.
#
# - Of DICOM and NIfTI the middle slice is taken; others by `load_folder(folder, scan=ScanConfig(...)).train.images`, which `fit` takes as well.
# - `new_scans` may be any folder, or one in the layout `images/` + `data.json` with labels, if you know them; then the page also says how well it did.
# - More images of one patient belong into the same folder: if a patient's slices are both trained on and held out, the threshold comes out too low (use `fit(..., validation=...)` then).

# %% tags=["parameters"]
normal_scans: str = ""  # folder of normal images; empty: phantoms are drawn into `out`
new_scans: str = ""  # folder of images to score; empty: phantoms again
out: str = "results/own_data"  # folder for what this page makes
epochs: int = 4  # passes over the normal images (the paper: 250)
batch_size: int = 16  # images a step (the paper: 64)
image_size: int = 64  # pixels a side; 128 or 256 show smaller findings and take longer
contamination: float = 0.1  # share of normal images that may be called abnormal
n_phantoms: int = 200  # normal phantoms to draw, where there is no folder
device: str = "auto"  # auto, cpu, cuda, mps

# %%
from d2ue.lessons import pages

pages.check_parameters(globals())

# %% [markdown]
# ## 1. Two folders

# %%
import timeit
from pathlib import Path

import matplotlib.pyplot as plt

from d2ue import D2UE, load_folder, load_images, phantom, plotting
from d2ue.detector import report
from d2ue.lessons.own_data import compare, write_folder

if not normal_scans or not new_scans:
    counts = dict(n_train=n_phantoms, n_test_normal=60, n_test_abnormal=60)
    drawn = phantom(**counts, image_size=image_size, progress=False)
    normal_scans = normal_scans or write_folder(drawn.train, Path(out) / "normal")
    new_scans = new_scans or write_folder(drawn.test, Path(out) / "new")

# %% [markdown]
# **Look for** images that do not belong: another organ, a blank, a scan with text burnt in. Whatever is among the normal ones is learnt as normal.

# %%
# NBVAL_CHECK_OUTPUT
normal, new = load_folder(normal_scans, image_size).train, load_images(new_scans, image_size)
print(f"{len(normal)} normal images, {len(new)} new ones, {image_size} x {image_size}")
rows = {"normal": normal.images[:7], "new": new.images[:: max(1, len(new) // 7)][:7]}
images_figure = plotting.image_rows(rows)
plt.show()

# %% [markdown]
# ## 2. Fit, and a threshold
#
# `fit` trains three autoencoders, each pushed away from those before it. A score has no unit: what is *high* is told by normal images that were **not** trained on. A tenth is held out for that, and the threshold is set so that of new normal images at most the share `contamination` is called abnormal.
#
# **Look for** the interval: how far that share can be off is decided by how few images were held out. With k of them the threshold moves in steps of 1 / (k + 1), and with fewer than 1 / `contamination` - 1 it is simply their highest score, and a warning says so.

# %%
detector = D2UE(
    epochs=epochs,
    batch_size=batch_size,
    image_size=image_size,
    contamination=contamination,
    device=device,
)
detector.fit(normal_scans)
print(detector.validation_.describe())

# %% [markdown]
# ## 3. Score
#
# `anomaly_score` is higher for more abnormal images; `score_samples` and `decision_function` are higher for normal ones, as everywhere in scikit-learn, and `predict` gives -1 for abnormal. A folder, a list of files or an array will do.
#
# **Look for** two shares in the last lines, where the truth is known: how many abnormal images were found, and how many normal ones were called abnormal, which should lie in the interval above. The AUC (50 = guessing) does not depend on the threshold.

# %%
scores = detector.anomaly_score(new_scans)
scored = report.Scored(new, scores, detector.method_, detector.validation_)
print(*scored.summary, sep="\n")
own = 100 * (detector.anomaly_score(normal.images) > detector.threshold_).mean()
print(f"Above it are {own:.0f} % of the folder's own normal images, most of which were trained on.")

# %% [markdown]
# **Seen** in the run that is kept here: more of the new normal images were called abnormal than the interval allows. Either they differ from the old ones (here one program drew them all) or the held-out images were an unlucky draw. The last line decides: a threshold that a tenth should pass is passed by far more of the folder's own images too. Twenty images are too few to trust a threshold; hold out more. And the interval of the AUC holds 50: four epochs teach little.
#
# Another threshold, or another score of the same learners, needs no training: the held-out images keep their scores.

# %%
for share in (0.05, 0.1, 0.2):
    called = scores > detector.recalibrate(contamination=share).threshold_
    print(f"contamination {share:.2f}: {called.sum()} of {len(new)} images called abnormal")
_ = detector.recalibrate(contamination=contamination)

# %% [markdown]
# ## 4. Where
#
# The maps of the four highest scores; the score is the mean of its map. **Look for** bright spots where something is wrong, and for those where nothing is: learners also disagree at edges of normal anatomy, so a map is a hint where to look, not a segmentation.

# %%
highest = scored.ranking[:4]
titles = [f"{rank}. {Path(new.names[i]).stem}" for rank, i in enumerate(highest, 1)]
maps = {detector.method_: detector.anomaly_map(new.images[highest])}
maps_figure = plotting.score_maps(new.images[highest], maps, titles)
maps_figure.savefig(Path(out) / "highest.png")
plt.show()

# %% [markdown]
# **Seen** in the run that is kept here: bright spots in some lesions, and as bright ones at the rim of the skull and all over a normal head, which has the highest score of all.
#
# ## 5. What leaves this page
#
# A table of scores, a float array and an overlay for each image, and one HTML file to send around: the most abnormal images with their maps, and some from the lower half to compare with.

# %%
page = report.write_report(
    Path(out) / "report.html", scored, detector.anomaly_map, about={"epochs": epochs}, top=12
)
(Path(out) / "scores.csv").write_text(scored.csv())
report.write_maps(Path(out) / "maps", new, detector.anomaly_map)
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB; maps of {len(new)} images")

# %% [markdown]
# ## 6. Save it, and use it tomorrow
#
# A saved detector is safetensors and JSON, checked file by file when it is loaded; nothing is unpickled. (`joblib.dump` works as for any estimator, but a pickle from a stranger can run anything.)

# %%
detector.save(Path(out) / "detector")
loaded = D2UE.load(Path(out) / "detector", device="cpu")
times = timeit.repeat(lambda: loaded.predict(new.images[:1]), number=1, repeat=20)
assert (loaded.predict(new.images) == detector.predict(new.images)).mean() > 0.99
print(f"one image: median {1000 * sorted(times)[10]:.0f} ms on the CPU (n = 20)")

# %% [markdown]
# ## 7. Is it worth it?
#
# The same images, as flat rows of pixels, given to detectors of scikit-learn and PyOD by the same two calls, `fit` and `decision_function`. All with their default settings, none tuned. PyOD is optional (`pip install pyod`). **Look for** the intervals before the order: with 120 images, ten points of AUC are within chance.

# %%
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

detectors = {"D2UE (this page)": detector.set_params(image_shape=(image_size, image_size))}
detectors |= {"isolation forest": IsolationForest(random_state=0), "one-class SVM": OneClassSVM()}
detectors["local outlier factor"] = LocalOutlierFactor(novelty=True)
try:
    from pyod.models.knn import KNN
    from pyod.models.pca import PCA

    detectors |= {"PyOD kNN": KNN(), "PyOD PCA": PCA(random_state=0)}
except ImportError:
    print("PyOD is not installed, so its detectors are not compared.")
flat = [x.images.reshape(len(x), -1) for x in (normal, new)]
table = "The new images have no labels, so nothing can be compared."
if new.labels is not None:
    table = compare(detectors, *flat, new.labels).round(1)
table

# %% [markdown]
# **Seen** in the run that is kept here: nobody wins. The intervals overlap and all hold 50, so the order is chance; what is not is that D2UE takes seconds to train where the others take less than one. Four epochs are no test of the method, and phantoms none of your scans: run it on yours, with the epochs of the paper.
