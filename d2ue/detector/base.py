"""What every detector of one's own images does the same: reading, threshold, signs."""

from __future__ import annotations

import dataclasses
import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

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
from d2ue.detector import saved
from d2ue.detector.threshold import Threshold, check_contamination, check_scores, hold_out
from d2ue.ensemble import resolve_device
from d2ue.errors import InputError


class Detector(OutlierMixin, BaseEstimator):
    """Reads images, holds some out, sets a threshold and calls images abnormal by it.

    A detector adds how it is trained, how it scores, and how it is kept.
    """

    # Parameters that every detector has; scikit-learn wants them assigned in its own __init__.
    random_state: Any
    device: str
    contamination: float
    method: str
    image_shape: tuple[int, int] | None
    pixel_range: tuple[float, float] | None
    slices: str
    axis: str
    window: str
    validation_fraction: float
    progress: bool

    #: The attribute that holds what was trained.
    _trained: str
    _seed: int

    @abstractmethod
    def _begin(self) -> tuple[int, int, int]:
        """Settings checked; pixels a side, images of a batch, and the seed of held-out images."""

    @abstractmethod
    def _train(self, images: np.ndarray) -> Any:
        """What is trained on uint8 (n, 1, size, size)."""

    @abstractmethod
    def _scores(self, model: Any, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """The images' scores by every method, each float64 (n,)."""

    @abstractmethod
    def _check_score(self, method: str) -> None:
        """Refuse a score method that there is not."""

    @abstractmethod
    def _score(self, images: np.ndarray) -> np.ndarray:
        """The images' scores by the detector's method."""

    @abstractmethod
    def _maps(self, images: np.ndarray) -> np.ndarray:
        """Their maps, (n, 1, size, size)."""

    @abstractmethod
    def _files(self) -> dict[str, bytes]:
        """The files of a run folder with what was trained."""

    @property
    @abstractmethod
    def _image_size(self) -> int:
        """Pixels a side of the images that were trained on."""

    def fit(self, X: Any, y: object = None, *, validation: Any = None) -> Self:
        """Train on normal images and set the threshold by held-out ones.

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
        drawn = self.random_state is None or isinstance(self.random_state, np.random.RandomState)
        state = check_random_state(self.random_state) if drawn else None
        self._seed = (
            self.random_state if state is None else int(state.randint(np.iinfo(np.int32).max))
        )
        size, least, seed = self._begin()
        check_contamination(self.contamination)
        resolve_device(self.device)
        self.scan_ = ScanConfig(self.slices, self.axis, self.window)
        images, how = self._first_look(X, size)
        if validation is None:
            index = hold_out(len(images), self.validation_fraction, seed, least)
            held_out, images = images[index], np.delete(images, index, 0)
        else:
            index = np.empty(0, np.int64)
            held_out = self._read(validation, how, size)
            refuse_shared(images, held_out)
        model = self._train(images)
        threshold = Threshold(self._scores(model, held_out), self.contamination)
        self._take(model, how, index)
        return self._set(threshold, self.method)

    def anomaly_score(self, X: Any) -> np.ndarray:
        """float64 (n,), >= 0, **higher = more abnormal**; of `D2UE` the mean of each image's map.

        A folder in the published layout gives its test images.

        Raises:
            InputError: if an image is not usable.
            NotFittedError: before `fit`.
        """
        images = self._images(X)
        return check_scores(self._score(images))

    def anomaly_map(self, X: Any) -> np.ndarray:
        """float32 (n, 1, h, w), >= 0, h and w those that images are resized to; higher = worse.

        Its scale is that of the score: compare maps with maps, not with a fixed value. Raises as
        `anomaly_score`, as do all methods below.
        """
        images = self._images(X)
        return check_scores(self._maps(images))

    def score_samples(self, X: Any) -> np.ndarray:
        """-`anomaly_score`, as scikit-learn has it: float64 (n,), **higher = more normal**."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """score_samples - offset_, float64 (n,): negative = abnormal, higher = more normal."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """int64 (n,): +1 = normal (inlier), -1 = abnormal (outlier): score above `threshold_`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def recalibrate(self, contamination: float | None = None, method: str | None = None) -> Self:
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
        self._check_score(method)
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
        record = saved.Record(
            self.method_, self.validation_, self.reading_, self.validation_fraction, self.scan_
        )
        saved.save(folder, self._files(), record)

    @staticmethod
    def _kept(record: saved.Record) -> dict[str, Any]:
        """The parameters that a saved detector's record holds, by name."""
        how, scan = record.reading, record.scan or ScanConfig()
        return {
            "contamination": record.threshold.contamination,
            "method": record.method,
            "image_shape": how.image_shape,
            "pixel_range": (how.low, how.high) if how.given else None,
            **dataclasses.asdict(scan),
            "validation_fraction": record.validation_fraction,
        }

    def _restore(self, model: Any, record: saved.Record) -> Self:
        """Be as the detector that was saved."""
        self.scan_ = record.scan or ScanConfig()
        self._take(model, record.reading)
        return self._set(record.threshold, record.method, warn=False)

    def _set(self, threshold: Threshold, method: str, *, warn: bool = True) -> Self:
        self.threshold_ = threshold.value(method)
        self.validation_, self.method_ = threshold, method
        self.offset_ = -self.threshold_
        if warn and threshold.shortfall:
            # From here by way of `fit` or `recalibrate` to whoever called it.
            warnings.warn(threshold.shortfall, UserWarning, stacklevel=3)
        return self

    def _first_look(self, X: Any, size: int) -> tuple[np.ndarray, Reading]:
        """The images of `fit`, and how all later ones will be read."""
        how = Reading.stated(self.pixel_range, self.image_shape)
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)
        if (paths := as_paths(X)) is not None:
            if isinstance(paths, str | os.PathLike) and not os.path.isfile(paths):
                data = load_folder(paths, size, progress=self.progress, scan=self.scan_)
                return data.train.images, how
            return self._load(paths, size), how
        values = self._numbers(X, how, reset=True)
        names = getattr(self, "feature_names_in_", None)
        how = replace(
            how.learn(values),
            n_features=getattr(self, "n_features_in_", None),
            feature_names=None if names is None else tuple(names.tolist()),
        )
        return how.to_images(values, size), how

    def _images(self, X: Any) -> np.ndarray:
        """Images to score, uint8 (n, 1, size, size), read as was fixed at `fit`."""
        check_is_fitted(self)
        return self._read(X, self.reading_, self._image_size)

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

    def _take(self, model: Any, how: Reading, index: np.ndarray | None = None) -> None:
        """Hold what was trained, or kept (then without positions of held-out images)."""
        setattr(self, self._trained, model)
        self.reading_ = how
        self.validation_index_ = np.empty(0, np.int64) if index is None else index
        if how.n_features is not None:
            self.n_features_in_ = how.n_features
        if how.feature_names is not None:
            self.feature_names_in_ = np.array(how.feature_names, dtype=object)


class _TypeInputError(InputError, TypeError):
    """A table of things that are not numbers: scikit-learn's tools expect a TypeError."""
