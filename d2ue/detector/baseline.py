"""The other methods of Table 1 for one's own images, as scikit-learn's habits have it.

detector = Baseline("rdad").fit("normal_scans")
detector.predict("new_scans")                      # +1 = normal, -1 = abnormal
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from d2ue.baselines import find_method
from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.detector import saved
from d2ue.detector.base import Detector
from d2ue.detector.trained import Trained, train
from d2ue.ensemble import resolve_device
from d2ue.errors import InputError


class Baseline(Detector):
    """Anomaly detection by one of the methods that D2UE is compared with.

    Images, threshold and methods are those of `d2ue.D2UE`; what a method is, its module in
    `d2ue.baselines` says. Images are as large as its preset has them.

    Args:
        name: of `d2ue.baselines.METHODS`: "f-anogan", "ganomaly", "igd", "multi-st", "rdad",
            "destseg", or the control "neighbours".
        preset: "small", for a laptop, or "published", as the released code has it.
        method: which of the method's scores; "score" is its own.
        epochs: passes over the training images; None = the preset's.
        random_state, device, contamination, image_shape, pixel_range, slices, axis, window,
        validation_fraction, progress: as for `d2ue.D2UE`.

    Attributes:
        trained_: `d2ue.detector.trained.Trained`.
        method_, threshold_, offset_, validation_, validation_index_, reading_, scan_,
        n_features_in_, feature_names_in_: as of `d2ue.D2UE`.
    """

    _trained = "trained_"

    def __init__(
        self,
        name: str = "rdad",
        preset: str = "small",
        *,
        method: str = "score",
        epochs: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
        contamination: float = 0.05,
        image_shape: tuple[int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
        slices: str = "middle",
        axis: str = "axial",
        window: str = "auto",
        validation_fraction: float = 0.1,
        progress: bool = False,
    ) -> None:
        self.name = name
        self.preset = preset
        self.method = method
        self.epochs = epochs
        self.random_state = random_state
        self.device = device
        self.contamination = contamination
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.slices = slices
        self.axis = axis
        self.window = window
        self.validation_fraction = validation_fraction
        self.progress = progress

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "auto") -> Baseline:
        """Read a detector; as `d2ue.D2UE.load`.

        Raises:
            InputError: if there is none of such a method, or a file is not what was written.
        """
        model, record = saved.load(folder, device)
        if not isinstance(model, Trained):
            raise InputError(f"{folder} holds an ensemble: load it with d2ue.D2UE.load.")
        presets = model.method.presets.items()
        own = [n for n, p in presets if replace(p, epochs=model.preset.epochs) == model.preset]
        detector = cls(
            model.name,
            own[0] if own else "small",
            epochs=model.preset.epochs,
            random_state=model.seed,
            device=device,
            **cls._kept(record),
        )
        return detector._restore(model, record)

    def _settings(self) -> Any:
        presets = find_method(self.name).presets
        if self.preset not in presets:
            raise InputError(f"preset is one of {', '.join(presets)}, not {self.preset!r:.40}.")
        preset = presets[self.preset]
        if self.epochs is None:
            return preset
        return replace(preset, epochs=TrainConfig(epochs=self.epochs).epochs)

    def _begin(self) -> tuple[int, int, int]:
        preset = self._settings()
        self._check_score(self.method)
        self._seed = TrainConfig(seed=self._seed).seed  # refuses what is no seed
        return preset.image_size, getattr(preset, "batch_size", 1), self._seed

    def _train(self, images: np.ndarray) -> Trained:
        normal = ImageSet(images, tuple(map(str, range(len(images)))))
        return train(
            self.name,
            self._settings(),
            normal,
            seed=self._seed,
            device=self.device,
            progress=self.progress,
            scan=self.scan_,
        )

    def _scores(self, model: Trained, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return model.scores(images)

    def _score(self, images: np.ndarray) -> np.ndarray:
        self.trained_.network.to(resolve_device(self.device))
        return self.trained_.scores(images)[self.method_]

    def _maps(self, images: np.ndarray) -> np.ndarray:
        self.trained_.network.to(resolve_device(self.device))
        return self.trained_.maps(images)

    def _files(self) -> dict[str, bytes]:
        return self.trained_.files()

    @property
    def _image_size(self) -> int:
        return self.trained_.image_size

    def _check_score(self, method: str) -> None:
        names = find_method(self.name).scores
        if method not in names:
            raise InputError(f"{self.name} scores by {', '.join(names)}, not by {method!r:.40}.")

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and joblib: the network travels on the CPU."""
        state = dict(super().__getstate__())
        if (trained := state.get("trained_")) is not None:
            network = copy.deepcopy(trained.network).to("cpu")
            state["trained_"] = replace(trained, network=network)
        return state
