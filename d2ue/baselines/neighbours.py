"""Controls of the methods with a teacher: distances of its frozen features, nothing trained.

A distillation that does not beat them has learned nothing. Features are averaged over places.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass
class Known:
    """The training images' mean features: float64 [n, C], of the teacher's last level."""

    teacher: nn.Module
    features: np.ndarray
    neighbours: int


def _pooled(teacher: nn.Module, images: Tensor) -> np.ndarray:
    # Batch by batch: whole maps of large images would take gigabytes.
    parts = [teachers.features(teacher, x, 4)[-1].mean((2, 3)) for x in images.split(64)]
    return torch.cat(parts).double().numpy()


def train(images: Tensor, preset: Preset, job: Job) -> Known:
    """Look at the normal images; nothing is drawn, so the seed does not act.

    Other arguments and errors as of `d2ue.baselines.rdad.train`.
    """
    teacher = teachers.load(preset.teacher).to(job.device)
    known = Known(teacher, _pooled(teacher, images), preset.neighbours)
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

    x = _pooled(model.teacher, images)
    scaler = StandardScaler().fit(model.features)
    k = min(model.neighbours, len(model.features))
    finder = NearestNeighbors(n_neighbors=k).fit(scaler.transform(model.features))
    near = finder.kneighbors(scaler.transform(x))[0].mean(1)
    far = np.sqrt(LedoitWolf().fit(model.features).mahalanobis(x))
    return {
        name: torch.from_numpy(v).float() for name, v in (("score", near), ("mahalanobis", far))
    }, None
