"""Controls: scores that know nothing of the method, to read the method's AUC against.

A benchmark whose abnormal images come from another place can be told apart without looking for
anomalies. Each control is one way of doing so; a method that is no better than they are has shown
nothing on that benchmark. All are computed on the images that the networks see, uint8
[n, 1, H, W], and are float64 [n].

| control | needs | direction |
|---|---|---|
| mean intensity, sharpness | the image | not known beforehand: reported as it is |
| distance to the mean image, nearest neighbour, PCA | training images | higher = more abnormal |
| untrained ensemble | initial weights | higher = more abnormal |
| gradient of a single learner | its weights | higher = more abnormal |

Where no direction is known the AUC of the score itself is reported, and its distance from 50 is
what counts: an AUC of 20 tells the classes apart as well as one of 80.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from d2ue.config import GRADIENT_ERRORS, TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import Ensemble, join
from d2ue.errors import InputError
from d2ue.training import LearnerTask, initial_network
from d2ue.uncertainty import image_score, input_gradients

#: As many components as the latent code z has values; fixed before any test image was looked at.
PCA_COMPONENTS = 16


class Control(NamedTuple):
    """What tables call a control, and whether higher was known to mean more abnormal."""

    title: str
    directed: bool


#: The controls of `image_controls`, by the name of their scores.
IMAGE_CONTROLS = {
    "intensity": Control("mean intensity", False),
    "sharpness": Control("sharpness", False),
    "mean-image": Control("distance to the mean image", True),
    "neighbour": Control("nearest neighbour in train", True),
    "pca": Control(f"PCA, {PCA_COMPONENTS} components", True),
}


def mean_intensity(images: np.ndarray) -> np.ndarray:
    """Mean grey level of each image, 0 to 255; neither bright nor dark is known to be abnormal."""
    return _checked(images).mean((1, 2))


def sharpness(images: np.ndarray) -> np.ndarray:
    """Mean absolute Laplacian of each image: 4 x less its four neighbours, inner pixels only.

    Returns:
        float64 [n], 0 to 1020 grey levels; 0 for flat images and ramps. No direction is known:
        what it finds are other scanners, resizings and compressions.
    """
    x = _checked(images)
    if min(x.shape[1:]) < 3:
        raise InputError("Sharpness takes images of at least 3 x 3 pixels.")
    neighbours = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return np.abs(4 * x[:, 1:-1, 1:-1] - neighbours).mean((1, 2))


def distance_to_mean(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Distance of each image to the mean training image: root mean square, in grey levels."""
    x, normal = _pair(images, train)
    return np.sqrt(np.square(x - normal.mean(0)).mean((1, 2)))


def nearest_neighbour(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Distance of each image to the nearest training image: root mean square, in grey levels.

    Exact: sums of squared integers this small have no rounding in float64, so that a copy of a
    training image is at distance 0.
    """
    from sklearn.neighbors import NearestNeighbors  # here: importing it takes as long as all else

    x, normal = _pair(images, train)
    pixels = x[0].size
    finder = NearestNeighbors(n_neighbors=1, algorithm="brute")
    distances, _ = finder.fit(normal.reshape(-1, pixels)).kneighbors(x.reshape(-1, pixels))
    return distances[:, 0] / np.sqrt(pixels)


def pca_error(
    images: np.ndarray, train: np.ndarray, components: int = PCA_COMPONENTS
) -> np.ndarray:
    """Error of each image's reconstruction from the first principal components of train.

    The linear autoencoder with as many latent values as the networks have: root mean square, in
    grey levels. Components are fewer where there are not so many training images or pixels.
    """
    from sklearn.decomposition import PCA

    x, normal = _pair(images, train)
    flat, known = x.reshape(len(x), -1), normal.reshape(len(normal), -1)
    if (known == known[0]).all():  # no component: the reconstruction is the one image itself
        return np.sqrt(np.square(flat - known[0]).mean(1))
    kept = min(components, *known.shape)
    # Both are exact; the first finds no more than it is asked for. Its random start is fixed.
    solver = "arpack" if kept < min(known.shape) else "full"
    pca = PCA(kept, svd_solver=solver, random_state=0).fit(known)
    rebuilt = pca.inverse_transform(pca.transform(flat))
    return np.sqrt(np.square(flat - rebuilt).mean(1))


def gradient_score(ensemble: Ensemble, images: np.ndarray) -> np.ndarray:
    """AE-Grad: mean |grad_X L| of the first learner alone, L as Eq. (6) takes it.

    What remains of dual-space uncertainty without an ensemble and without its error.
    """
    single = ensemble.first(1)
    error = GRADIENT_ERRORS[ensemble.config.backbone][0]
    parts = []
    for x in single.batches(images, 64):
        gradients, _, _ = input_gradients(single.network, x, error)
        parts.append(image_score(gradients[0].abs().cpu().double()))
    return torch.cat(parts).numpy()[: len(images)]


def untrained_ensemble(config: TrainConfig) -> Ensemble:
    """The learners as training would start with them: initial weights, BatchNorm's defaults.

    What its scores reach is the doing of the images and of the architecture.
    """
    numbers = range(1, config.n_learners + 1)
    learners = [initial_network(LearnerTask(config, number)).eval() for number in numbers]
    return join(config, learners, "", [[] for _ in numbers])


def image_controls(test: ImageSet, train: ImageSet) -> dict[str, np.ndarray]:
    """Every control that needs images alone: float32 [n] by the names of `IMAGE_CONTROLS`."""
    scores = {
        "intensity": mean_intensity(test.images),
        "sharpness": sharpness(test.images),
        "mean-image": distance_to_mean(test.images, train.images),
        "neighbour": nearest_neighbour(test.images, train.images),
        "pca": pca_error(test.images, train.images),
    }
    return {name: values.astype(np.float32) for name, values in scores.items()}


def _checked(images: np.ndarray) -> np.ndarray:
    """Grey levels as float64 [n, H, W]."""
    if images.ndim != 4 or images.shape[1] != 1 or images.dtype != np.uint8:
        raise InputError(
            f"Images are uint8 of shape (n, 1, H, W), not {images.dtype} of shape {images.shape}."
        )
    return images[:, 0].astype(np.float64)


def _pair(images: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, normal = _checked(images), _checked(train)
    if x.shape[1:] != normal.shape[1:]:
        raise InputError(
            f"Images of {x.shape[1]} x {x.shape[2]} pixels cannot be compared with training images "
            f"of {normal.shape[1]} x {normal.shape[2]}."
        )
    if not len(normal):
        raise InputError("There is no training image to compare with.")
    return x, normal
