"""D2UE: anomaly detection by the disagreement of diverse autoencoders.

The companion of Gu, Lin, Cheng, Chen: Revisiting Deep Ensemble Uncertainty for Enhanced Medical
Anomaly Detection, MICCAI 2024 (arXiv 2409.17485). The way of the data:

    dataset = load("phantom")                                    # or a folder
    ensemble = train_ensemble(TrainConfig(backbone="aeu"), dataset.train)
    scores = image_scores(ensemble, dataset.test.images, "dual")  # higher = more abnormal
    auc(dataset.test.labels, scores)

or, with a threshold and in scikit-learn's habits:

    detector = D2UE(backbone="aeu").fit("normal_scans")
    detector.predict("new_scans")                                 # -1 = abnormal
"""

import importlib
import os
from typing import TYPE_CHECKING

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    # Threads that spin while they wait crawl beside any other busy process. OpenMP reads this once,
    # when torch is loaded, so it stands before every import of it.
    os.environ["OMP_WAIT_POLICY"] = "passive"

if TYPE_CHECKING:
    from d2ue.config import ScoreConfig, TrainConfig
    from d2ue.datasets import Dataset, ImageSet, ScanConfig, load, load_folder, load_images, phantom
    from d2ue.detector import D2UE, Baseline
    from d2ue.ensemble import Ensemble, train_ensemble, train_ensembles
    from d2ue.errors import D2UEError, DivergedError, InputError
    from d2ue.evaluation import auc, average_precision
    from d2ue.similarity import SIMILARITIES, linear_cka
    from d2ue.store.runs import fit_run, load_run, save_run
    from d2ue.uncertainty import dual_map, image_scores, output_map, score_maps

__version__ = "0.1.0"

# Where each name lives. It is looked up when it is first asked for, so that `d2ue --help`, and
# Ctrl-C while torch is being loaded, need not wait for torch.
_HOMES = {
    "config": ("ScoreConfig", "TrainConfig"),
    "datasets": (
        "Dataset",
        "ImageSet",
        "ScanConfig",
        "load",
        "load_folder",
        "load_images",
        "phantom",
    ),
    "detector": ("D2UE", "Baseline"),
    "ensemble": ("Ensemble", "train_ensemble", "train_ensembles"),
    "errors": ("D2UEError", "DivergedError", "InputError"),
    "evaluation": ("auc", "average_precision"),
    "similarity": ("SIMILARITIES", "linear_cka"),
    "store.runs": ("fit_run", "load_run", "save_run"),
    "uncertainty": ("dual_map", "image_scores", "output_map", "score_maps"),
}


def __getattr__(name: str) -> object:
    """A public name, from the module in which it lives."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"d2ue.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "D2UE",
    "SIMILARITIES",
    "Baseline",
    "D2UEError",
    "Dataset",
    "DivergedError",
    "Ensemble",
    "ImageSet",
    "InputError",
    "ScanConfig",
    "ScoreConfig",
    "TrainConfig",
    "auc",
    "average_precision",
    "dual_map",
    "fit_run",
    "image_scores",
    "linear_cka",
    "load",
    "load_folder",
    "load_images",
    "load_run",
    "output_map",
    "phantom",
    "save_run",
    "score_maps",
    "train_ensemble",
    "train_ensembles",
]
