"""D2UE: anomaly detection by the disagreement of diverse autoencoders.

The companion of Gu, Lin, Cheng, Chen: Revisiting Deep Ensemble Uncertainty for Enhanced Medical
Anomaly Detection, MICCAI 2024 (arXiv 2409.17485). The way of the data:

    dataset = load("phantom")                                    # or a folder
    ensemble = train_ensemble(TrainConfig(backbone="aeu"), dataset.train)
    scores = image_scores(ensemble, dataset.test.images, "dual")  # higher = more abnormal
    auc(dataset.test.labels, scores)
"""

from d2ue.config import ScoreConfig, TrainConfig
from d2ue.datasets import Dataset, ImageSet, load, load_folder, load_images, phantom
from d2ue.ensemble import Ensemble
from d2ue.errors import D2UEError, DivergedError, InputError
from d2ue.evaluation import auc, average_precision, bootstrap_interval
from d2ue.runs import fit_run, load_run, save_run
from d2ue.training import train_ensemble, train_ensembles
from d2ue.uncertainty import image_scores, score_maps

__version__ = "0.1.0"

__all__ = [
    "D2UEError",
    "Dataset",
    "DivergedError",
    "Ensemble",
    "ImageSet",
    "InputError",
    "ScoreConfig",
    "TrainConfig",
    "auc",
    "average_precision",
    "bootstrap_interval",
    "fit_run",
    "image_scores",
    "load",
    "load_folder",
    "load_images",
    "load_run",
    "phantom",
    "save_run",
    "score_maps",
    "train_ensemble",
    "train_ensembles",
]
