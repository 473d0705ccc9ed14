"""The method for one's own images, in scikit-learn's habits: fit, score_samples, predict.

    detector = D2UE().fit("normal_scans")              # a folder, a list of files, or an array
    detector.anomaly_score("new_scans")                # (n,), higher = more abnormal
    detector.predict("new_scans")                      # +1 = normal, -1 = abnormal
    detector.anomaly_map("new_scans")                  # (n, 1, H, W): where
    detector.save("detector"); D2UE.load("detector")

All of it is `train_ensemble`, `score_maps` and `image_scores`; this module reads the images and
gives the results the names and signs that scikit-learn's tools expect.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from d2ue.config import ScoreConfig, TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.detector import saved
from d2ue.detector.base import Detector
from d2ue.detector.threshold import measure, methods_of
from d2ue.ensemble import Ensemble, resolve_device, train_ensemble
from d2ue.errors import InputError
from d2ue.learners import check_images
from d2ue.store.learners import Store
from d2ue.store.runs import run_files
from d2ue.uncertainty import image_scores, score_maps

#: Parameters of the estimator that are settings of training under the same name.
_OF_TRAINING = (
    "backbone", "n_learners", "similarity", "repulsion_weight", "epochs", "image_size", "layer",
    "batch_size", "learning_rate",
)  # fmt: skip


class D2UE(Detector):
    """Anomaly detection by the disagreement of diverse autoencoders (Gu et al., MICCAI 2024).

    **Images** may be, for `fit` as for every other method:

    - a folder, or a list of image files (read as `d2ue.load_folder` and `d2ue.load_images` do);
    - an array (n, h, w) or (n, 1, h, w), grey, or (n, h, w, 3), colour, turned grey by luma;
    - a table (n, d), one flat image a row: of shape `image_shape`; where that is None the d values
      fill the smallest square that holds them, row by row, and the rest of it is black.

    They are resized to `image_size` by Pillow's bilinear filter, as in the paper's code, and have
    256 grey levels. uint8 arrays and files are on the scale 0 to 255. Of any other array
    `pixel_range[0]` becomes black and `pixel_range[1]` white; None takes the smallest and largest
    value given to `fit`. The scale is fixed at `fit`. A detector fitted on 8-bit images refuses
    others and the other way round, unless `pixel_range` says how their values are meant: 0.7 may
    be almost white or black.

    **Scores** have no unit. `fit` holds out k normal images (or takes `validation`) and sets the
    threshold so that, on average, at most `contamination` of new normal images are called abnormal
    (see `detector.threshold`). Fewer than 1 / contamination - 1 held-out images are too few, and a
    warning says so. scikit-learn's own detectors mean by contamination the share of outliers in
    the training set; here all training images are taken for normal.

    Args:
        backbone: "ae", "memae" or "aeu" (which predicts how sure it is of each pixel).
        n_learners: learners in the ensemble; a single one can only be scored by "ensemble".
        similarity: what repels features; a name of `d2ue.similarity.SIMILARITIES`.
        repulsion_weight: lambda of Eq. (4), 0 = no repulsion.
        epochs: passes over the training images.
        image_size: pixels a side: 16, 32, 64 (the paper), 128, 256 or 512.
        random_state: int, the seed of weights, shuffles and held-out images; None or a
            RandomState draw one.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        contamination: share of normal images that may be called abnormal, above 0, at most 0.5.
        method: the score: "dual" (Eq. 6), "output" (Eq. 5), "ensemble" (reconstruction error) or
            "input" (an ablation).
        layer: whose feature is repelled: en1 ... z ... de1.
        batch_size: images a step; `fit` needs at least as many besides the held-out ones.
        learning_rate: Adam's; None = the paper's for the backbone.
        image_shape: (height, width) of flat images.
        pixel_range: (low, high), the values of arrays that are black and white.
        slices, axis, window: how DICOM and NIfTI files become images, as for `d2ue.ScanConfig`.
        validation_fraction: share of the images given to `fit` that is not trained on and sets the
            threshold.
        store: folder in which learners are kept by their content and found again, also after a
            stopped training; None keeps none.
        progress: whether to show a bar.

    Attributes:
        ensemble_: the trained `d2ue.Ensemble`.
        method_: the score method that the threshold belongs to.
        threshold_: an anomaly score above it is called abnormal.
        offset_: -threshold_, so that decision_function = score_samples - offset_.
        validation_: `d2ue.detector.threshold.Threshold`: the held-out images' scores by method.
        validation_index_: positions of the held-out images among those given to `fit`, int (k,);
            empty where `validation` was given. Not kept by `save`.
        reading_, scan_: how arrays and scans become images, as fixed at `fit`.
        n_features_in_, feature_names_in_: columns of the table given to `fit`.

    Source: arXiv 2409.17485; the defaults are its settings for AEU.
    """

    _trained = "ensemble_"

    def __init__(
        self,
        backbone: str = "aeu",
        n_learners: int = 3,
        similarity: str = "cka",
        repulsion_weight: float = 1.0,
        epochs: int = 250,
        image_size: int = 64,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
        *,
        contamination: float = 0.05,
        method: str = "dual",
        layer: str = "z",
        batch_size: int = 64,
        learning_rate: float | None = None,
        image_shape: tuple[int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
        slices: str = "middle",
        axis: str = "axial",
        window: str = "auto",
        validation_fraction: float = 0.1,
        store: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        self.backbone = backbone
        self.n_learners = n_learners
        self.similarity = similarity
        self.repulsion_weight = repulsion_weight
        self.epochs = epochs
        self.image_size = image_size
        self.random_state = random_state
        self.device = device
        self.contamination = contamination
        self.method = method
        self.layer = layer
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.slices = slices
        self.axis = axis
        self.window = window
        self.validation_fraction = validation_fraction
        self.store = store
        self.progress = progress

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "auto") -> D2UE:
        """Read a detector; nothing is unpickled and every file is checked against its hash.

        Args:
            folder: written by `save`, or by `d2ue fit` with `--contamination`.
            device: as for the class.

        Raises:
            InputError: if there is no detector, or a file does not hold what was written.
        """
        ensemble, record = saved.load(folder, str(resolve_device(device)))
        if not isinstance(ensemble, Ensemble):
            raise InputError(f"{folder} holds {ensemble.name}: load it with d2ue.Baseline.load.")
        c = ensemble.config
        own = {name: getattr(c, name) for name in _OF_TRAINING}
        detector = cls(**own, random_state=c.seed, device=device, **cls._kept(record))
        return detector._restore(ensemble, record)

    def _begin(self) -> tuple[int, int, int]:
        c = self._config()
        self._check_method(self.method, c.n_learners)
        return c.image_size, c.batch_size, c.seed

    def _config(self) -> TrainConfig:
        values = {"seed": self._seed} | {name: getattr(self, name) for name in _OF_TRAINING}
        # numpy's scalars come from a grid search over an array
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        return TrainConfig(**plain)

    def _train(self, images: np.ndarray) -> Ensemble:
        check_images(config := self._config(), train := _image_set(images))
        store = None if self.store is None else Store(self.store)
        return train_ensemble(
            config, train, device=self.device, progress=self.progress, store=store
        )

    def _scores(self, model: Ensemble, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return measure(model, _image_set(images), self.contamination).scores

    def _score(self, images: np.ndarray) -> np.ndarray:
        self.ensemble_.to(self.device)
        return image_scores(self.ensemble_, images, self.method_, progress=self.progress)

    def _maps(self, images: np.ndarray) -> np.ndarray:
        self.ensemble_.to(self.device)
        return score_maps(self.ensemble_, images, self.method_, progress=self.progress)

    def _files(self) -> dict[str, bytes]:
        return run_files(self.ensemble_, scan=self.scan_)

    @property
    def _image_size(self) -> int:
        return self.ensemble_.config.image_size

    def _check_score(self, method: str) -> None:
        self._check_method(method, len(self.ensemble_))

    @staticmethod
    def _check_method(method: str, n_learners: int) -> None:
        ScoreConfig(method)
        if method not in methods_of(n_learners):
            raise InputError(
                f"The score {method!r} is a disagreement and needs at least two learners: train "
                "more, or take method='ensemble'."
            )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and joblib: the learners travel on the CPU, so that any machine can read."""
        state = dict(super().__getstate__())
        ensemble = state.get("ensemble_")
        if ensemble is not None and ensemble.device.type != "cpu":
            state["ensemble_"] = copy.deepcopy(ensemble).to("cpu")
        return state


def _image_set(images: np.ndarray) -> ImageSet:
    return ImageSet(images, tuple(map(str, range(len(images)))))
