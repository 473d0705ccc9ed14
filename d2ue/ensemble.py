"""Learner after learner: train ensembles, and hold N learners as replicas of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, as_tensor, features_of, forward, stack, to_unit_range
from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.errors import InputError
from d2ue.learners import Learners, LearnerStore
from d2ue.progress import bar as progress_bar


# What is made under a caller's `torch.inference_mode()` can never be differentiated, and input
# gradients are what the score is made of: all of this runs outside of it.
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

    @torch.inference_mode(False)
    def to(self, device: str | torch.device) -> Ensemble:
        """The same ensemble on another device; "auto" as in `resolve_device`."""
        self.network.to(resolve_device(device))
        return self

    @torch.inference_mode(False)
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

    @torch.inference_mode(False)
    def reconstruct(self, images: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
        """f_i(X) of every learner: float32 [N, n, 1, H, W] on the CPU, in the range [-1, 1].

        Args:
            images: uint8 [n, 1, H, W].
            batch_size: images a pass; the result does not depend on it.
        """
        outputs = [forward(self.network, x).mean.cpu() for x in self.batches(images, batch_size)]
        return torch.cat(outputs, 1)[:, : len(images)]

    @torch.inference_mode(False)
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
            InputError: if they are not uint8, not of the size the ensemble was trained on, or
                batch_size is below 1.
        """
        size = self.config.image_size
        if batch_size < 1:
            raise InputError(f"batch_size is at least 1, not {batch_size}.")
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


@torch.inference_mode(False)
def join(
    config: TrainConfig,
    learners: Sequence[Autoencoder],
    fingerprint: str,
    history: Sequence[list[dict[str, float]]],
) -> Ensemble:
    """Learners trained apart as one ensemble."""
    return Ensemble(config, stack(learners), fingerprint, tuple(history))


def train_ensemble(
    config: TrainConfig,
    train: ImageSet,
    *,
    device: str | torch.device = "auto",
    progress: bool = True,
    store: LearnerStore | None = None,
) -> Ensemble:
    """Train one ensemble (Eq. 1 and 4), learner after learner.

    Args:
        config: the settings; defaults are the paper's.
        train: normal images; labels are not looked at.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        progress: whether to show a bar with loss and time left.
        store: where finished learners and states on the way are kept, so that a stopped training
            goes on; None keeps nothing.

    Returns:
        The ensemble, in evaluation mode.

    Raises:
        InputError: if the images do not fit the settings.
        DivergedError: if the loss stops being finite.
    """
    return train_ensembles([config], train, device=device, progress=progress, store=store)[0]


@torch.inference_mode(False)
@torch.enable_grad()
def train_ensembles(
    configs: Sequence[TrainConfig],
    train: ImageSet,
    *,
    device: str | torch.device = "auto",
    replicas: int | None = None,
    progress: bool = True,
    store: LearnerStore | None = None,
    report: Callable[[int], None] | None = None,
) -> list[Ensemble]:
    """Train several ensembles on one set of images; what they share is trained once.

    First learners do not depend on lambda, metric or layer, and an ensemble without repulsion is
    part of every larger one: learners are named by what acts on them (`learner_settings`), and each
    name is trained once. Learners that can train side by side do, up to `replicas` of them.

    Args:
        configs: the ensembles' settings; they may differ in anything.
        train: normal images; labels are not looked at.
        device: as for `train_ensemble`.
        replicas: learners trained side by side at most; None = what a GPU's memory holds
            (`learners.fitting_replicas`), 1 on a CPU, where replicas share the same cores and
            save nothing. Where a GPU's memory turns out too small, groups are halved.
        progress: whether to show a bar with loss and time left.
        store: where finished learners and states on the way are kept; None keeps nothing.
        report: called with the number of epochs of single learners just trained.

    Returns:
        One ensemble a config, in order.

    Raises:
        InputError: if the images do not fit the settings.
        DivergedError: if the loss of an ensemble stops being finite; the others' learners are
            trained first, and kept in the store.
        D2UEError: if not even one learner fits a GPU's memory.
    """
    if not configs:
        return []
    learners = Learners(configs, train, resolve_device(device), store, report)
    learners.train_all(replicas, progress)
    return [_joined(learners, config) for config in configs]


@torch.inference_mode(False)
@torch.enable_grad()
def train_side_by_side(
    wanted: Sequence[tuple[TrainConfig, int]],
    train: ImageSet,
    *,
    device: str | torch.device = "auto",
    store: LearnerStore,
    report: Callable[[int], None] | None = None,
) -> None:
    """Train some learners as replicas of one network; the store has their seniors, and keeps them.

    Args:
        wanted: an ensemble's settings and the learner's number, from 1, for each; those that are
            repelled have the same number and layer.
        train: normal images.
        device: as for `train_ensemble`.
        store: where seniors are taken from; a learner that is there too is not trained.
        report: called with the number of epochs of single learners just trained.

    Raises:
        InputError: if the images do not fit the settings, or a senior is missing.
        DivergedError: if a loss stops being finite; the others' learners are in the store.
    """
    # Two learners at least, so that "repels" is about the learner that is wanted.
    wanted = [(c.replace(n_learners=max(2, number)), number) for c, number in wanted]
    learners = Learners([c for c, _ in wanted], train, resolve_device(device), store, report)
    tasks = {}
    for config, number in wanted:
        names = learners.names(config)
        for senior in names[: number - 1] if config.repels else ():
            learner = learners.learners.get(senior) or store.get(senior)
            if learner is None:
                raise InputError(f"Learner {number} cannot be trained before its senior {senior}.")
            learners.learners[senior] = learner
        tasks[names[number - 1]] = learners.task(config, number)
    learners.train(tasks, progress_bar(disable=True))
    learners.complain()


def _joined(learners: Learners, config: TrainConfig) -> Ensemble:
    """The ensemble of trained learners, on the device that they were trained on."""
    chosen = [learners.learners[name] for name in learners.names(config)]
    networks, histories = [x.network for x in chosen], [x.history for x in chosen]
    # Stacking copies, so that ensembles that share a learner share no weights.
    return join(config, networks, learners.fingerprint, histories).to(learners.device)
