"""A trained ensemble: N learners stacked as the replicas of one network, ready to score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, Reconstruction, stack
from d2ue.config import TrainConfig
from d2ue.errors import InputError
from d2ue.fast.steps import precision


@dataclass(frozen=True)
class Ensemble:
    """N trained learners of one architecture.

    Attributes:
        config: the settings they were trained with.
        network: the learners as N replicas, in evaluation mode, weights frozen.
        fingerprint: SHA-256 of the training images.
        history: for each learner, one dict an epoch with "loss" (L_orig) and "similarity" (L_sim).
    """

    config: TrainConfig
    network: Autoencoder
    fingerprint: str = ""
    history: tuple[list[dict[str, float]], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    def __len__(self) -> int:
        return self.network.replicas

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where scoring runs."""
        return self.network.output.weight.device

    def to(self, device: str | torch.device) -> Ensemble:
        """The same ensemble on another device; "auto" as in `resolve_device`."""
        self.network.to(resolve_device(device))
        return self

    def first(self, n: int) -> Ensemble:
        """The ensemble of the first n learners: exactly what training n learners gives.

        Raises:
            InputError: unless 1 <= n <= N.
        """
        if not 1 <= n <= len(self):
            raise InputError(
                f"This ensemble has {len(self)} learners; {n} cannot be taken from it."
            )
        network = stack([self.network.replica(i) for i in range(n)])
        config = self.config.replace(n_learners=n)
        return Ensemble(config, network, self.fingerprint, self.history[:n])

    def reconstruct(self, images: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
        """f_i(X) of every learner: float32 [N, n, 1, H, W] on the CPU, in the range [-1, 1].

        Args:
            images: uint8 [n, 1, H, W].
            batch_size: images a pass; the result does not depend on it.
        """
        outputs = [forward(self.network, x).mean.cpu() for x in self.batches(images, batch_size)]
        return torch.cat(outputs, 1)[:, : len(images)]

    def features(
        self, images: np.ndarray | Tensor, layer: str | None = None, batch_size: int = 256
    ) -> Tensor:
        """Each learner's feature of each image: float32 [N, n, d] on the CPU.

        Args:
            images: uint8 [n, 1, H, W].
            layer: a name of `network.layers`; None = the layer that was repelled.
            batch_size: images a pass; the result does not depend on it.
        """
        layer = layer or self.config.layer
        features = features_of(self.network, self.batches(images, batch_size), layer)
        return features[:, : len(images)]

    def batches(self, images: np.ndarray | Tensor, batch_size: int) -> Iterator[Tensor]:
        """The images as networks take them, in order: [n_batch, 1, H, W] in [-1, 1].

        Raises:
            InputError: if they are not uint8, or not of the size the ensemble was trained on.
        """
        size = self.config.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (1, size, size):
            raise InputError(
                f"This ensemble was trained on images of {size} x {size}; it was given an array of "
                f"shape {tuple(images.shape)}: load the images at image_size={size}."
            )
        if images.dtype not in (np.uint8, torch.uint8):
            raise InputError(f"Images are uint8, 0 to 255; these are {images.dtype}.")
        dtype = self.network.output.weight.dtype
        if not len(images):  # one blank image, so that callers learn the shapes of nothing
            yield torch.zeros(1, 1, size, size, dtype=dtype, device=self.device)
        for start in range(0, len(images), batch_size):
            chunk = as_tensor(images[start : start + batch_size]).to(self.device)
            yield to_unit_range(chunk, dtype)


def as_tensor(images: np.ndarray | Tensor) -> Tensor:
    """Pixels as a tensor; shares memory where the array may be written to, else copies."""
    return images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, None, "W"))


def forward(network: Autoencoder, x: Tensor, feature: str | None = None) -> Reconstruction:
    """Every replica's output for the same images [B, 1, H, W], without gradients."""
    with torch.no_grad(), precision("float32", x.device):
        return network(x.expand(network.replicas, *x.shape), feature)


def features_of(network: Autoencoder, batches: Iterator[Tensor], layer: str) -> Tensor:
    """Every replica's feature of every image, [R, n, d] on the CPU."""
    parts: list[Tensor] = []
    for x in batches:
        feature = forward(network, x, layer).feature
        assert feature is not None
        parts.append(feature.cpu())
    return torch.cat(parts, 1)


def to_unit_range(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0 ... 255 to [-1, 1], the published scaling."""
    return pixels.to(dtype).div_(127.5).sub_(1)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """A device by name; "auto" takes CUDA where there is one, else the CPU.

    Raises:
        InputError: if the name is unknown or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"Device {str(device)!r} cannot be used here: take auto, cpu, or a GPU that this "
            "machine has."
        ) from error
    return resolved


def join(
    config: TrainConfig,
    learners: Sequence[Autoencoder],
    fingerprint: str,
    history: Sequence[list[dict[str, float]]],
) -> Ensemble:
    """Learners trained apart as one ensemble."""
    return Ensemble(config, stack(learners), fingerprint, tuple(history))
