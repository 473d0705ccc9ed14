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
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from d2ue.config import ScoreConfig, TrainConfig
from d2ue.datasets.arrays import (
    Reading,
    as_array,
    as_paths,
    as_pictures,
    as_stack,
    check_finite,
    refuse_shared,
)
from d2ue.datasets.folder import load_folder, load_images
from d2ue.datasets.medical import ScanConfig
from d2ue.datasets.types import ImageSet
from d2ue.detector import saved
from d2ue.detector.saved import Record
from d2ue.detector.threshold import (
    Threshold,
    check_contamination,
    check_scores,
    hold_out,
    measure,
    methods_of,
)
from d2ue.ensemble import resolve_device, train_ensemble
from d2ue.errors import InputError
from d2ue.learners import check_images
from d2ue.store.learners import Store
from d2ue.uncertainty import image_scores, score_maps

#: Parameters of the estimator that are settings of training under the same name.
_OF_TRAINING = (
    "backbone", "n_learners", "similarity", "repulsion_weight", "epochs", "image_size", "layer",
    "batch_size", "learning_rate",
)  # fmt: skip


class D2UE(OutlierMixin, BaseEstimator):
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

    def fit(self, X: Any, y: object = None, *, validation: Any = None) -> D2UE:
        """Train the ensemble on normal images and set the threshold by held-out ones.

        Args:
            X: normal images; a folder holds normal images only, or is in the published layout
                (its train/0 is taken).
            y: ignored; scikit-learn's tools pass it.
            validation: normal images to set the threshold by, for example of other patients; then
                all of X is trained on. None holds out `validation_fraction` of X at random.

        Raises:
            InputError: if a setting or an image is not usable, or there are too few images.
            DivergedError: if the loss stops being finite.
        """
        config = self._config()
        self._check_method(self.method, config.n_learners)
        check_contamination(self.contamination)
        resolve_device(self.device)
        self.scan_ = ScanConfig(self.slices, self.axis, self.window)
        images, how = self._first_look(X)
        if validation is None:
            index = hold_out(len(images), self.validation_fraction, config.seed, config.batch_size)
            held_out, images = images[index], np.delete(images, index, 0)
        else:
            index = np.empty(0, np.int64)
            held_out = self._read(validation, how, config.image_size)
            refuse_shared(images, held_out)
        train = _image_set(images)
        check_images(config, train)
        store = None if self.store is None else Store(self.store)
        ensemble = train_ensemble(
            config, train, device=self.device, progress=self.progress, store=store
        )
        threshold = measure(ensemble, _image_set(held_out), self.contamination)
        self.ensemble_, self.reading_, self.validation_index_ = ensemble, how, index
        return self._set(threshold, self.method)

    def anomaly_score(self, X: Any) -> np.ndarray:
        """float64 (n,), >= 0, **higher = more abnormal**: the mean of each image's map.

        A folder in the published layout gives its test images.

        Raises:
            InputError: if an image is not usable.
            NotFittedError: before `fit`.
        """
        images = self._images(X)
        scores = image_scores(self.ensemble_, images, self.method_, progress=self.progress)
        return check_scores(scores)

    def anomaly_map(self, X: Any) -> np.ndarray:
        """float32 (n, 1, image_size, image_size), >= 0, higher = more abnormal.

        Its scale is that of the score: compare maps with maps, not with a fixed value. Raises as
        `anomaly_score`, as do all methods below.
        """
        images = self._images(X)
        maps = score_maps(self.ensemble_, images, self.method_, progress=self.progress)
        return check_scores(maps)

    def score_samples(self, X: Any) -> np.ndarray:
        """-`anomaly_score`, as scikit-learn has it: float64 (n,), **higher = more normal**."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """score_samples - offset_, float64 (n,): negative = abnormal, higher = more normal."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """int64 (n,): +1 = normal (inlier), -1 = abnormal (outlier): score above `threshold_`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def recalibrate(self, contamination: float | None = None, method: str | None = None) -> D2UE:
        """Set another threshold or score from the same held-out images; nothing is trained.

        Args:
            contamination: as for the class; None = as it is.
            method: as for the class; None = as it is.

        Raises:
            InputError: if a value is not usable; the detector is as before then.
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        contamination = self.validation_.contamination if contamination is None else contamination
        method = self.method_ if method is None else method
        self._check_method(method, len(self.ensemble_))
        threshold = Threshold(self.validation_.scores, contamination)
        self.contamination, self.method = contamination, method
        return self._set(threshold, method)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the detector into a folder: weights as safetensors, all else as JSON.

        Stopped at any moment, the folder holds the old detector or the new one, whole.

        Args:
            folder: new, empty, or holding a saved detector, which is replaced.

        Raises:
            InputError: if the folder holds anything else or cannot be written to.
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        record = Record(
            self.method_, self.validation_, self.reading_, self.validation_fraction, self.scan_
        )
        saved.save(folder, self.ensemble_, record)

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
        c, how, scan = ensemble.config, record.reading, record.scan or ScanConfig()
        detector = cls(
            **{name: getattr(c, name) for name in _OF_TRAINING},
            random_state=c.seed,
            device=device,
            contamination=record.threshold.contamination,
            method=record.method,
            image_shape=how.image_shape,
            pixel_range=(how.low, how.high) if how.given else None,
            slices=scan.slices,
            axis=scan.axis,
            window=scan.window,
            validation_fraction=record.validation_fraction,
        )
        detector.ensemble_, detector.reading_, detector.scan_ = ensemble, how, scan
        detector.validation_index_ = np.empty(0, np.int64)
        if how.n_features is not None:
            detector.n_features_in_ = how.n_features
        if how.feature_names is not None:
            detector.feature_names_in_ = np.array(how.feature_names, dtype=object)
        return detector._set(record.threshold, record.method, warn=False)

    def _config(self) -> TrainConfig:
        seed = self.random_state
        if seed is None or isinstance(seed, np.random.RandomState):
            seed = int(check_random_state(seed).randint(np.iinfo(np.int32).max))
        values = {"seed": seed} | {name: getattr(self, name) for name in _OF_TRAINING}
        # numpy's scalars come from a grid search over an array
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        return TrainConfig(**plain)

    @staticmethod
    def _check_method(method: str, n_learners: int) -> None:
        ScoreConfig(method)
        if method not in methods_of(n_learners):
            raise InputError(
                f"The score {method!r} is a disagreement and needs at least two learners: train "
                "more, or take method='ensemble'."
            )

    def _set(self, threshold: Threshold, method: str, *, warn: bool = True) -> D2UE:
        self.validation_, self.method_ = threshold, method
        self.threshold_ = threshold.value(method)
        self.offset_ = -self.threshold_
        if warn and threshold.shortfall:
            warnings.warn(threshold.shortfall, UserWarning, stacklevel=3)
        return self

    def _first_look(self, X: Any) -> tuple[np.ndarray, Reading]:
        """The images of `fit`, and how all later ones will be read."""
        how = Reading.stated(self.pixel_range, self.image_shape)
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)
        if (paths := as_paths(X)) is not None:
            if isinstance(paths, str | os.PathLike) and not os.path.isfile(paths):
                data = load_folder(paths, self.image_size, progress=self.progress, scan=self.scan_)
                return data.train.images, how
            return self._load(paths, self.image_size), how
        values = self._numbers(X, how, reset=True)
        names = getattr(self, "feature_names_in_", None)
        how = replace(
            how.learn(values),
            n_features=getattr(self, "n_features_in_", None),
            feature_names=None if names is None else tuple(names.tolist()),
        )
        return how.to_images(values, self.image_size), how

    def _images(self, X: Any) -> np.ndarray:
        """Images to score, uint8 (n, 1, size, size), read as was fixed at `fit`."""
        check_is_fitted(self)
        self.ensemble_.to(self.device)
        return self._read(X, self.reading_, self.ensemble_.config.image_size)

    def _read(self, X: Any, how: Reading, image_size: int) -> np.ndarray:
        if (paths := as_paths(X)) is not None:
            how.check_kind(True, "image files")
            return self._load(paths, image_size)
        values = self._numbers(X, how, reset=False)
        how.check_kind(values.dtype == np.uint8, f"an array of {values.dtype}")
        return how.to_images(values, image_size)

    def _load(self, paths: Any, image_size: int) -> np.ndarray:
        return load_images(paths, image_size, progress=self.progress, scan=self.scan_).images

    def _numbers(self, X: Any, how: Reading, *, reset: bool) -> np.ndarray:
        """An array or a table as finite numbers, (n, h, w) or, in colour, (n, h, w, 3)."""
        X = as_array(X)
        if X.ndim > 2:
            return as_stack(np.asarray(X))
        if X.ndim == 2 and not reset and how.n_features is None and how.image_shape is None:
            raise InputError(
                f"The detector was fitted on images and is given a table of shape {X.shape}: give "
                "a single image as image[None], or fit with image_shape=(height, width)."
            )
        try:
            values = validate_data(self, X, reset=reset, ensure_all_finite=False)
        except (TypeError, ValueError) as error:  # scikit-learn's sentences, on one line
            kind = _TypeInputError if isinstance(error, TypeError) else InputError
            raise kind(" ".join(str(error).split())) from error
        check_finite(values)
        black = how.low
        if reset and not how.given and values.dtype != np.uint8:
            black = float(values.min())  # as `Reading.learn` will find
        return as_pictures(values, how.image_shape, black)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and joblib: the learners travel on the CPU, so that any machine can read."""
        state = dict(super().__getstate__())
        ensemble = state.get("ensemble_")
        if ensemble is not None and ensemble.device.type != "cpu":
            state["ensemble_"] = copy.deepcopy(ensemble).to("cpu")
        return state


class _TypeInputError(InputError, TypeError):
    """A table of things that are not numbers: scikit-learn's tools expect a TypeError."""


def _image_set(images: np.ndarray) -> ImageSet:
    return ImageSet(images, tuple(map(str, range(len(images)))))
