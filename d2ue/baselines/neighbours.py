"""Controls of the methods with a teacher: distances of its frozen features, nothing trained.

A distillation that does not beat them has learned nothing. Features are averaged over places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2ue.baselines import teachers
from d2ue.baselines.blocks import Job


@dataclass(frozen=True)
class Preset:
    """Whose features."""

    image_size: int
    teacher: str
    neighbours: int = 5
    epochs: int = 1


PRESETS = {"published": Preset(256, "wide-resnet50"), "small": Preset(64, "lite0")}


class Known(nn.Module):
    """A teacher, and the training images' mean features of its last level: float64 [n, C]."""

    def __init__(self, preset: Preset, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.teacher = teacher or teachers.build(preset.teacher)
        self.neighbours = preset.neighbours
        self.features: Tensor
        self.register_buffer("features", torch.empty(0, 0, dtype=torch.float64))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As any module's, for any number of training images."""
        self.features = torch.empty_like(state_dict["features"])
        return super().load_state_dict(state_dict, *args, **kwargs)


def _pooled(teacher: nn.Module, images: Tensor) -> Tensor:
    # Batch by batch: whole maps of large images would take gigabytes.
    parts = [teachers.features(teacher, x, 4)[-1].mean((2, 3)) for x in images.split(64)]
    return torch.cat(parts).double()


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = Known
#: Names of its scores; the first is the method's own.
SCORES = ("score", "mahalanobis")


def train(images: Tensor, preset: Preset, job: Job) -> Known:
    """Look at the normal images; nothing is drawn, so the seed does not act.

    Other arguments and errors as of `d2ue.baselines.rdad.train`.
    """
    teacher = teachers.load(preset.teacher).to(job.device)
    known = Known(preset, teacher)
    known.features = _pooled(teacher, images)
    job.report(1)
    return known


def score(model: Known, images: Tensor) -> tuple[dict[str, Tensor], None]:
    """Scores of images, higher = more abnormal; there are no maps.

    Returns:
        By name float32 [n]: "score", the mean distance to the nearest training images in features
        scaled to unit variance, and "mahalanobis", the distance to their mean under their
        covariance (shrunk, Ledoit and Wolf 2004).
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    x, known = _pooled(model.teacher, images).numpy(), model.features.cpu().numpy()
    scaler = StandardScaler().fit(known)
    k = min(model.neighbours, len(known))
    finder = NearestNeighbors(n_neighbors=k).fit(scaler.transform(known))
    near = finder.kneighbors(scaler.transform(x))[0].mean(1)
    far = np.sqrt(LedoitWolf().fit(known).mahalanobis(x))
    return {
        name: torch.from_numpy(v).float() for name, v in (("score", near), ("mahalanobis", far))
    }, None
